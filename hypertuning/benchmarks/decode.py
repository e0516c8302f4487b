"""How long does greedy decoding take, compared with transformers in PyTorch?

    python -m hypertuning.benchmarks decode --model=t5 --size=small
    python -m hypertuning.benchmarks decode --model=llama --size=smollm2_135m

Both decode the same random inputs, with random weights of the same sizes, on a
CPU in float32 and elsewhere in bfloat16, and no text ends early. They take
turns, so that a drift in the machine's speed affects both. Prints the seconds
per call, their ratio, and the FLOPs of a call of hypertuning: those of reading
the inputs, plus those of one step times the number of tokens.
"""

from collections.abc import Sequence
from typing import Any

from hypertuning import command_line, tables
from hypertuning.benchmarks import options as flags

_COUNTS = {
  'rows': (8, 'inputs that are decoded at once'),
  'inputs': (384, 'tokens per input'),
  'targets': (64, 'tokens that are decoded per input'),
  'rounds': (5, 'measured calls of each'),
}


def main(arguments: Sequence[str]) -> None:
  """Runs the command.

  Args:
    arguments: arguments of the command line.

  Raises:
    UserError: a flag or a binding is at fault.
  """
  options, bindings = flags.parse(_parser(), arguments, _COUNTS)
  # jax takes a second to import: wrong flags are refused before.
  from hypertuning.benchmarks import built, decoding, machine

  model = built.build(options.model, 'full', options.size, bindings=bindings)
  found = decoding.measure(
    model,
    (options.rows, options.inputs),
    options.targets,
    options.rounds,
  )
  print(table(found), end='')
  flags.write(
    options.output,
    {
      'subject': 'decode',
      'arguments': {**vars(options), 'bindings': bindings},
      **found,
      **machine.describe(),
    },
  )


def table(found: dict[str, Any]) -> str:
  """The result of `decoding.measure` in Markdown."""
  lines = [
    ('way', 'seconds', 'least to most', 'ms per token', 'ratio'),
    *(
      (
        row['way'],
        f'{row["seconds"]:.3f}',
        f'{row["low"]:.3f} to {row["high"]:.3f}',
        f'{1e3 * row["seconds"] / found["length"]:.1f}',
        f'{row["ratio"]:.2f}',
      )
      for row in found['rows']
    ),
  ]
  return (
    f'{tables.markdown(lines)}\n{found["flops"] / 1e9:,.1f} GFLOPs a call.\n'
  )


def _parser() -> command_line.Parser:
  """The flags of the command."""
  made = command_line.Parser('hypertuning.benchmarks decode', __doc__)
  flags.add_model(made)
  flags.add_counts(made, _COUNTS)
  flags.add_output(made)
  return made


if __name__ == '__main__':
  command_line.run_process(main)
