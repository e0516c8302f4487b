"""Takes a phi to other libraries, or into the weights of its model.

    python -m hypertuning.export --phi=phi.safetensors --to=peft \\
      --output=opposite

`--to=peft` writes a folder of Hugging Face's PEFT: LoRA of a T5 or a Llama, or
prefix tuning of a Llama. `--to=cache` writes a Llama's prefix as keys and
values for `transformers`, a safetensors file. `--to=merged` writes the model
with LoRA in its weights, a folder like those of hypertuning.convert, which its
--to_hugging_face reads. docs/adapters.md says how each is used.
"""

from collections.abc import Sequence

from hypertuning import command_line
from hypertuning.shell import flags


def main(arguments: Sequence[str]) -> None:
  """Runs the command.

  Args:
    arguments: arguments of the command line.

  Raises:
    UserError: a flag or a file is at fault, or the phi cannot leave in this
      form.
  """
  options = parser().parse_args(arguments)
  flags.check_new(options.output, '--output')
  # jax takes a second to import: wrong flags are refused before.
  from hypertuning.adapters import io
  from hypertuning.api import phi as phi_lib

  header = io.read_header(options.phi)
  base = flags.describe(options.model or header.model, options.base)
  phi = phi_lib.read(options.phi, base, options.row)
  if options.to == 'peft':
    phi.to_peft(options.output, options.peft_base)
  elif options.to == 'cache':
    phi.to_cache(options.output)
  else:
    phi.merge(options.output)
  print(f'{options.output}: the {phi.kind} of {options.phi} as {options.to}.')


def parser() -> command_line.Parser:
  """The flags of the command."""
  made = command_line.Parser('hypertuning.export', __doc__)
  made.add_argument('--phi', required=True, metavar='FILE')
  made.add_argument('--to', required=True, choices=('peft', 'cache', 'merged'))
  made.add_argument('--output', required=True, help='a new folder or file')
  made.add_argument(
    '--row', type=int, default=0, help='number of the phi in its file (0)'
  )
  made.add_argument(
    '--peft_base',
    metavar='NAME',
    help='name or path of the base for transformers, which PEFT keeps',
  )
  flags.add_model(made, None)
  return made


if __name__ == '__main__':
  command_line.run_process(main)
