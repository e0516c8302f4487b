"""What the benchmarks without gin files have in common: flags and results."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hypertuning import files
from hypertuning.benchmarks.methods import METHODS
from hypertuning.command_line import Parser
from hypertuning.errors import UserError

OUTPUT = '--output'
_BINDING = '--gin.'

# Numbers that a flag gives: its default, and what it counts.
Counts = Mapping[str, tuple[int, str]]


def add_model(parser: Parser) -> None:
  """Adds the flags that name a model with random weights."""
  parser.add_argument(
    '--model', choices=list(METHODS), default='t5', help='its network (t5)'
  )
  parser.add_argument(
    '--size',
    default='tiny',
    metavar='NAME',
    help="a file of gin/models/sizes (tiny, the quick start's)",
  )


def add_counts(parser: Parser, counts: Counts) -> None:
  """Adds flags that are numbers from 1 on."""
  for name, (default, text) in counts.items():
    parser.add_argument(
      f'--{name}', type=int, default=default, help=f'{text} ({default})'
    )


def add_output(parser: Parser) -> None:
  """Adds the flag of the file with the results."""
  parser.add_argument(
    OUTPUT, metavar='FILE', help='a JSON file; one that is there is replaced'
  )


def parse(
  parser: Parser, arguments: Sequence[str], counts: Counts
) -> tuple[Any, list[str]]:
  """Reads flags; checks the numbers, and that the output can be written.

  Args:
    parser: the flags, `--output` among them.
    arguments: arguments of the command line.
    counts: the flags that are numbers.

  Returns:
    The options, and the gin bindings `NAME=value` of `--gin.NAME=value`.

  Raises:
    UserError: a flag is at fault.
  """
  is_binding = [text.startswith(_BINDING) for text in arguments]
  pairs = list(zip(arguments, is_binding, strict=True))
  options = parser.parse_args([text for text, gin in pairs if not gin])
  for name in counts:
    if getattr(options, name) < 1:
      raise UserError(f'--{name} = {getattr(options, name)}: give 1 or more.')
  if options.output:
    files.check_file(options.output, OUTPUT)
  return options, [text.removeprefix(_BINDING) for text, gin in pairs if gin]


def write(
  path: str | None, results: Mapping[str, Any], binding: str = OUTPUT
) -> None:
  """Writes results as JSON, whole or not at all.

  Args:
    path: path of the file; None writes none.
    results: JSON values.
    binding: name of the flag or the gin binding that gives the path.

  Raises:
    UserError: the file cannot be written.
  """
  if path is None:
    return
  with files.atomic_file(files.folder(path, binding)) as temporary:
    text = json.dumps(dict(results), indent=2)
    temporary.write_text(f'{text}\n', encoding='utf-8')
  print(f'Results in {path}', file=sys.stderr)
