"""Makes the adapter of a task from a file of examples, in one forward pass.

    python -m hypertuning.adapt --examples=mine.jsonl --output=phi.safetensors

The file has one example per line, {"inputs": "hot", "targets": "cold"}, or is a
TSV file with these two columns; a "definition" says what the task is.
`hypertuning.infer --phi` answers with the adapter, `hypertuning.export` takes
it to other libraries. With --steps, tuning by gradient goes on from it.

With gin files instead of these flags, the command tunes and tests the adapters
of many tasks; their flags follow.
"""

from collections.abc import Sequence

from hypertuning.command_line import Parser
from hypertuning.shell import flags

_NAMES = {'lora': 'LoRA', 'prefix': 'a prefix'}


def main(arguments: Sequence[str]) -> None:
  """Runs the command.

  Args:
    arguments: arguments of the command line.

  Raises:
    UserError: a flag or a file is at fault.
  """
  options = parser().parse_args(arguments)
  pairs, definition = flags.examples(options.examples)
  output = flags.new_file(options.output, '--output')
  model = flags.load_model(options.model, options.base)
  phi = model.adapt(pairs, definition=definition, draws=options.draws)
  if options.steps:
    phi = model.tune(pairs, phi, definition=definition, steps=options.steps)
  phi.save(output)
  count = f'{len(pairs)} example{"s" * (len(pairs) > 1)}'
  print(
    f'{output}: {_NAMES[phi.kind]} of {phi.num_bytes:,} bytes from {count}, in '
    f'{phi.made["seconds"]:.2f} s.'
  )


def parser() -> Parser:
  """The flags of the command."""
  made = Parser('hypertuning.adapt', __doc__)
  made.add_argument('--examples', required=True, metavar='FILE')
  made.add_argument(
    '--output', required=True, metavar='FILE', help='a new safetensors file'
  )
  flags.add_model(made)
  made.add_argument(
    '--draws',
    type=int,
    default=1,
    help='orders of the examples whose mean adapter is taken (1)',
  )
  made.add_argument(
    '--steps', type=int, default=0, help='steps of tuning by gradient (0)'
  )
  return made
