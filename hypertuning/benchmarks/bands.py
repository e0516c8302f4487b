"""Do small steps cost more FLOPs, bytes, memory or compilations than before?

    python -m hypertuning.benchmarks bands --folder=tests/benchmarks/bands
    python -m hypertuning.benchmarks bands --folder=... --rewrite

Compiles the training steps and the step of decoding of tiny models, and counts.
FOLDER has a file of counts per version of jaxlib, whose compiler they depend
on. A count that is more than 5% above its record is an error; where this
version has no file, the counts are printed, and all is well. `--rewrite`
records what is counted now. Nothing is timed.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence

from hypertuning import command_line, files, text_files
from hypertuning.benchmarks import options as flags
from hypertuning.errors import UserError

_MOST_RISE = 0.05
# The same on every machine: one device, and no flags of the caller's.
_ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'XLA_FLAGS': '',
  'JAX_DISABLE_MOST_OPTIMIZATIONS': '0',
}

Counts = Mapping[str, Mapping[str, int]]


def main(arguments: Sequence[str]) -> None:
  """Runs the command.

  Args:
    arguments: arguments of the command line.

  Raises:
    UserError: a flag is at fault, or a count has risen too far.
  """
  options, _ = flags.parse(_parser(), arguments, {})
  os.environ.update(_ENVIRONMENT)  # before jax is imported
  import jaxlib

  from hypertuning.benchmarks import counting, machine

  counts = counting.count()
  flags.write(
    options.output,
    {'subject': 'bands', 'counts': counts, **machine.describe()},
  )
  for case, values in counts.items():
    print(f'{case}: ' + ', '.join(f'{k} {v:,}' for k, v in values.items()))
  name = f'jaxlib-{jaxlib.__version__}.json'
  path = pathlib.Path(options.folder, name)
  if options.rewrite:
    text = json.dumps(counts, indent=2)
    files.write_text(options.folder, name, f'{text}\n')
    print(f'{path}: written.')
  elif not path.is_file():
    print(f'{path}: there is none, so nothing is compared; see --rewrite.')
  else:
    problems = risen(counts, text_files.read_json(path))
    if problems:
      raise UserError(
        f'{path}: {"; ".join(problems)}. Where this is meant, --rewrite '
        'records it.'
      )
    print(f'{path}: no count is more than {_MOST_RISE:.0%} above.')


def risen(counts: Counts, record: Counts) -> list[str]:
  """What has risen too far, or is not on record.

  Args:
    counts: counts by case and kind.
    record: counts on record, in the same form.
  """
  problems = []
  for case, values in counts.items():
    for kind, value in values.items():
      before = record.get(case, {}).get(kind)
      if before is None:
        problems.append(f'{case}: {kind} is not on record')
      elif value > before * (1 + _MOST_RISE):
        share = f'{value / before - 1:+.0%}' if before else 'from 0'
        problems.append(f'{case}: {kind} {before:,} to {value:,} ({share})')
  return problems


def _parser() -> command_line.Parser:
  """The flags of the command."""
  made = command_line.Parser('hypertuning.benchmarks bands', __doc__)
  made.add_argument(
    '--folder', required=True, help='folder of jaxlib-VERSION.json'
  )
  made.add_argument(
    '--rewrite', action='store_true', help='write the file of this version'
  )
  flags.add_output(made)
  return made


if __name__ == '__main__':
  command_line.run_process(main)
