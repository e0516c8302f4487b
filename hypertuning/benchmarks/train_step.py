"""How long does a training step take, compared with transformers and PEFT?

    python -m hypertuning.benchmarks train_step --model=t5 --size=small
    python -m hypertuning.benchmarks train_step --model=llama --method=lora \\
      --size=smollm2_135m --episodes=4 --output=step.json

Both train random weights of the same sizes on the same batch without padding:
loss, gradient, clipping and optimizer; on a CPU in float32, elsewhere in
bfloat16. PyTorch runs as it is, and with torch.compile. On a CPU they take
turns; on a GPU each has the memory to itself, and a peer that does not fit
takes half of the rows, a quarter and so on. A ratio is our tokens per second by
those of the way. `--gin.NAME=value` binds what the gin files of the model have,
such as REMAT_POLICY.
"""

import os
from collections.abc import Sequence
from typing import Any

from hypertuning import command_line, tables
from hypertuning.benchmarks import options as flags
from hypertuning.benchmarks.methods import METHODS, Shape
from hypertuning.errors import UserError

_COUNTS = {
  'episodes': (8, 'episodes per batch'),
  'queries': (1, 'queries per episode'),
  'hyper_inputs': (1, 'tokens per episode that a hypermodel reads'),
  'inputs': (64, 'tokens per input'),
  'targets': (16, 'tokens per target'),
  'rounds': (5, 'measured steps of each'),
}
_METHODS = sorted({name for names in METHODS.values() for name in names})
_OPTIMIZERS = ('adamw', 'adafactor')


def main(arguments: Sequence[str]) -> None:
  """Runs the command.

  Args:
    arguments: arguments of the command line.

  Raises:
    UserError: a flag or a binding is at fault.
  """
  options, bindings = flags.parse(_parser(), arguments, _COUNTS)
  if options.method not in METHODS[options.model]:
    raise UserError(
      f'--method={options.method}: a {options.model} has '
      f'{", ".join(METHODS[options.model])}.'
    )
  # Otherwise jax takes most of a GPU's memory at once, also from the peers.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  # jax takes a second to import: wrong flags are refused before.
  from hypertuning.benchmarks import machine, stepping

  rows = stepping.measure(
    options.model,
    options.method,
    options.size,
    Shape(*(getattr(options, name) for name in Shape._fields)),
    options.rounds,
    options.optimizer,
    bindings,
    stepping.PEERS if options.compiled_peer else stepping.PEERS[:1],
  )
  print(table(rows), end='')
  flags.write(
    options.output,
    {
      'subject': 'train_step',
      'arguments': {**vars(options), 'bindings': bindings},
      'rows': rows,
      **machine.describe(),
    },
  )


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Rows of `stepping.measure` in Markdown, and lines about ours.

  Args:
    rows: the rows, ours first.
  """
  lines = [
    (
      *('way', 'rows', 'ms per step', 'least to most', 'tokens/s'),
      *('peak MB', 'trained', 'ratio'),
    ),
    *(
      (
        row['way'],
        f'{row["rows"]}',
        f'{1e3 * row["seconds"]:,.1f}',
        f'{1e3 * row["low"]:,.1f} to {1e3 * row["high"]:,.1f}',
        f'{row["tokens_per_second"]:,.0f}',
        f'{row["peak_bytes"] / 1e6:,.0f}' if row['peak_bytes'] else '-',
        f'{row["trained"]:,}',
        f'{row["ratio"]:.2f}',
      )
      for row in rows
    ),
  ]
  ours = rows[0]
  work = f'{ours["useful_flops"] / 1e9:,.1f} GFLOPs a step'
  if ours['flops'] > ours['useful_flops']:
    work += f' ({ours["flops"] / 1e9:,.1f} with rematerialisation)'
  rate = f'{ours["flops_per_second"] / 1e9:,.1f} GFLOP/s'
  text = f'{tables.markdown(lines)}\n{work}, {rate}'
  if ours['share_of_peak']:
    text += f', {ours["share_of_peak"]:.3f} of the peak'
  return (
    f'{text}; compiled in {ours["compile_seconds"]:.1f} s, '
    f'{ours["compilations"]} programs with that of the weights.\n'
  )


def _parser() -> command_line.Parser:
  """The flags of the command."""
  made = command_line.Parser('hypertuning.benchmarks train_step', __doc__)
  flags.add_model(made)
  made.add_argument(
    '--method', choices=_METHODS, default='full', help='what is trained (full)'
  )
  made.add_argument(
    '--optimizer',
    choices=_OPTIMIZERS,
    default='adamw',
    help='its optimizer (adamw)',
  )
  flags.add_counts(made, _COUNTS)
  made.add_argument(
    '--no_compiled_peer',
    dest='compiled_peer',
    action='store_false',
    help='without torch.compile, which needs a C++ compiler on a CPU',
  )
  flags.add_output(made)
  return made


if __name__ == '__main__':
  command_line.run_process(main)
