"""Super-NaturalInstructions: definition, two positive examples, more shots.

A folder as its repository has it: `tasks/*.json` and
`splits/<track>/{train,test}_tasks.txt`. The split `test` asks the first 100
instances of every test task, the official ones; they are never shown.
"""

import json
import pathlib
import random
from collections.abc import Sequence
from typing import Any

from hypertuning.data import metrics, registry
from hypertuning.data.rows import Row, RowTask
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format
from hypertuning.ranges import Count, Name, Natural, Path

POSITIVES = 2  # examples of the setting "definition + 2 positive"


@takes_text_format
def natural_instructions(
  folder: Path,
  name: Name = 'natural_instructions',
  track: Name = 'default',
  setting: Name = 'def_2pos',
  shots: Natural = 4,
  queries: Count = 1,
  instances: Count = 100,
  seed: Natural = 0,
  in_context: bool = False,
  text_format: TextFormat | None = None,
) -> str:
  """Registers the tasks of a track, as one task; returns the name.

  Args:
    folder: see the module.
    name: name of the task.
    track: a folder of `splits/`.
    setting: what the hypermodel reads: `def`, the definition; `def_2pos`, two
      positive examples as well; `def_shots`, in training `shots` of the
      positive examples and instances, in `test` two positive examples.
    shots: number of shots with the setting `def_shots`.
    queries: number of queries per episode.
    instances: greatest number of instances per task.
    seed: seed for the choice among several right outputs, in training.
    in_context: whether to return the form whose examples stand in the
      downstream model's own input.
    text_format: layout of the text, T5's over bytes by default.

  Raises:
    UserError: no such setting or track, a task of the list without a file, or a
      file of another form.
  """
  counts = {'def': 0, 'def_2pos': POSITIVES, 'def_shots': shots}
  if setting not in counts:
    raise UserError(
      f'natural_instructions.setting = {setting!r}: give one of '
      f'{", ".join(counts)}.'
    )
  root = pathlib.Path(folder).expanduser()

  def tasks(split: str) -> dict[str, RowTask]:
    found = {}
    for task in _listed(root / 'splits' / track / f'{split}_tasks.txt'):
      definition, positive, rows = read_task(root / 'tasks' / f'{task}.json')
      rows = rows[:instances]
      if split == 'train':
        rows = [_one_output(row, seed) for row in rows]
      pool: Sequence[Row] = positive[:POSITIVES]
      if setting == 'def_shots' and split == 'train':
        pool = [*positive, *rows]
      found[task] = RowTask(rows, pool=pool, definition=definition)
    return found

  registry.add_episodes(
    name,
    {'train': lambda: tasks('train'), 'test': lambda: tasks('test')},
    {'train': counts[setting], 'test': min(counts[setting], POSITIVES)},
    queries,
    at_most=True,  # some have one positive example
    text_format=text_format,
    metric_fns=(metrics.rouge_l,),
  )
  return registry.form_of(name, in_context)


def read_task(path: pathlib.Path) -> tuple[str, list[Row], list[Row]]:
  """Definition, positive examples and instances of a task's file.

  Raises:
    UserError: names the file and the field at fault.
  """
  try:
    task = json.loads(path.read_text('utf-8'))
    definition = task['Definition']
    if isinstance(definition, list):
      definition = definition[0]
    positive = [_row(example) for example in task['Positive Examples']]
    rows = [_row(instance) for instance in task['Instances']]
  except FileNotFoundError as error:
    raise UserError(f'{path}: no such task; the split lists it.') from error
  except (ValueError, KeyError, TypeError, IndexError) as error:
    raise UserError(
      f'{path}: no task of Super-NaturalInstructions '
      f'({type(error).__name__}: {error}).'
    ) from error
  if not rows:
    raise UserError(f'{path}: "Instances" is empty.')
  return definition, positive, rows


def _row(example: dict[str, Any]) -> Row:
  outputs = example['output']
  if isinstance(outputs, str):
    outputs = [outputs]
  return Row(example['input'], outputs[0], references=tuple(outputs[1:]))


def _one_output(row: Row, seed: int) -> Row:
  """One of the right outputs to train on; the same in every run of a seed."""
  rng = random.Random(f'{seed} {row.inputs}')
  return Row(row.inputs, rng.choice([row.targets, *row.references]))


def _listed(path: pathlib.Path) -> list[str]:
  try:
    names = path.read_text('utf-8').split()
  except OSError as error:
    raise UserError(f'{path}: no such list of tasks.') from error
  if not names:
    raise UserError(f'{path}: lists no task.')
  return names
