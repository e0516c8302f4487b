"""How long does gradient tuning take to do what phi does at once?

    python -m hypertuning.benchmarks.adapt --model=run --tasks=held_out.jsonl \\
      --output=cost_of_adapting

Each task of the file is adapted to in three ways, on one machine, from the same
frozen weights and the same examples: by the hypermodel in one forward pass, and
by LoRA and prefix tuning of Hugging Face's PEFT, in PyTorch, until they answer
as many test rows as the hypermodel's phi does. The frozen model without and
with examples in context stands beside them. A second table has what phi,
examples in context and a cache of them cost per query. docs/adapting_costs.md
says what is counted.

A line of the file is a task:
`{"examples": [{"inputs": "...", "targets": "..."}, ...], "test": [...]}`.
By default, the tasks are held-out ones of knowledge. OUTPUT gets `results.json`
and `table.md`.
"""

import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import tqdm

from hypertuning import command_line, files, folders
from hypertuning.data import tuning_files
from hypertuning.data.tuning_files import TuningTask
from hypertuning.errors import UserError
from hypertuning.shell import flags

_OUTPUT = '--output'
_SHOTS, _QUERIES = 16, 32


def main(arguments: Sequence[str]) -> None:
  """Runs the command.

  Args:
    arguments: arguments of the command line.

  Raises:
    UserError: a flag, a file or the model is at fault.
  """
  options = _parser().parse_args(arguments)
  for name in ('num_tasks', 'steps', 'eval_period', 'rounds'):
    if getattr(options, name) < 1:
      raise UserError(f'--{name} = {getattr(options, name)}: give 1 or more.')
  output = folders.new_folder(options.output, _OUTPUT)
  tasks = _tasks(options.tasks, options.num_tasks)
  # jax takes a second to import: wrong flags and files are refused before.
  from hypertuning.benchmarks import adapt_table, adapting, machine

  model = flags.load_model(options.model, options.base)
  results = adapting.at_once(model, tasks, options.rounds)
  results += _tuned(model, tasks, results, options)
  costs = adapting.query_costs(model, tasks, options.rounds)
  ways = adapt_table.summary(results)
  text = adapt_table.text(ways, costs)
  with folders.written(output, _OUTPUT) as folder:
    fields = {
      'model': model.base.name,
      'steps': options.steps,
      'ways': ways,
      'costs': costs,
      'tasks': results,
      **machine.describe(),
    }
    files.write_text(
      folder, 'results.json', f'{json.dumps(fields, indent=2)}\n'
    )
    files.write_text(folder, 'table.md', text)
  print(text, end='')


def _tuned(
  model: Any,
  tasks: Sequence[TuningTask],
  at_once: Sequence[dict[str, Any]],
  options: Any,
) -> list[dict[str, Any]]:
  """Results of PEFT; none, and a line about it, where it is not installed."""
  try:
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401
  except ImportError as error:
    print(
      f"{error}: without rows of gradient tuning; pip install '.[hf]'.",
      file=sys.stderr,
    )
    return []
  from hypertuning.api import frozen_source
  from hypertuning.benchmarks import adapting, peft_tuning
  from hypertuning.conversion import hugging_face

  place = model.base.folder
  with tempfile.TemporaryDirectory() as folder:
    public = pathlib.Path(folder, 'base')
    source = frozen_source.read(place, '--model')
    hugging_face.write(source, public, _OUTPUT)
    tuner = peft_tuning.Tuner(
      str(public), model, source.swapped_ids, options.steps, options.eval_period
    )
    targets = {
      row['task']: row['accuracy']
      for row in at_once
      if row['way'] == adapting.AT_ONCE
    }
    work = [(m, task) for task in tasks for m in peft_tuning.METHODS]
    is_hidden = not sys.stderr.isatty()
    bar = tqdm.tqdm(work, 'tuning', dynamic_ncols=True, disable=is_hidden)
    return [tuner.tune(m, task, targets[task.name]) for m, task in bar]


def _tasks(path: str | None, count: int) -> list[TuningTask]:
  """The first tasks of a file, or of the held-out tasks of knowledge."""
  if path:
    return tuning_files.read(path)[:count]
  from hypertuning.benchmarks import held_out

  return held_out.tasks(count, _SHOTS, _QUERIES)


def _parser() -> command_line.Parser:
  """The flags of the command."""
  made = command_line.Parser('hypertuning.benchmarks.adapt', __doc__)
  flags.add_model(made)
  made.add_argument(
    '--tasks', metavar='FILE', help='a JSONL file of held-out tasks'
  )
  made.add_argument(
    '--num_tasks', type=int, default=8, help='most tasks that are read (8)'
  )
  made.add_argument(
    '--steps', type=int, default=200, help='most steps of gradient tuning (200)'
  )
  made.add_argument(
    '--eval_period', type=int, default=5, help='steps between two tests (5)'
  )
  made.add_argument(
    '--rounds', type=int, default=7, help='measured calls of each kind (7)'
  )
  made.add_argument(_OUTPUT, required=True, help='a new folder')
  return made


if __name__ == '__main__':
  command_line.run_process(main)
