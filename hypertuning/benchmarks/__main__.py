"""Measures speed and cost, mostly beside peers in the same run.

    python -m hypertuning.benchmarks SUBJECT flags
    python -m hypertuning.benchmarks SUBJECT --help

Subjects:
"""

import runpy
import sys
from collections.abc import Sequence

from hypertuning import command_line
from hypertuning.errors import UserError

SUBJECTS = {
  'train_step': 'a training step, beside transformers and PEFT in PyTorch',
  'decode': 'greedy decoding, beside transformers in PyTorch',
  'adapt': "making phi at once, beside PEFT's gradient tuning",
  'query_cost': 'a query with phi, beside one with examples in context',
  'input_pipeline': 'the input pipeline, beside the training step',
  'startup': 'a training run of 2 steps, beside the imports alone',
  'scaling': 'steps of large models on slices of TPUs, on paper',
  'bands': 'FLOPs, bytes and compilations, beside those on record',
}


def main(arguments: Sequence[str]) -> None:
  """Runs a subject, with the flags behind its name.

  Args:
    arguments: arguments of the command line.

  Raises:
    UserError: there is no such subject.
  """
  name, *rest = [*arguments, '--help'][: max(1, len(arguments))]
  if name in ('--help', '-h'):
    width = max(map(len, SUBJECTS))
    lines = (f'  {x:{width}}  {text}' for x, text in SUBJECTS.items())
    print(f'{__doc__}\n' + '\n'.join(lines))
    return
  if name not in SUBJECTS:
    raise UserError(f'{name!r}: no such subject; give {", ".join(SUBJECTS)}.')
  module = f'hypertuning.benchmarks.{name}'
  sys.argv = [module, *rest]
  runpy.run_module(module, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  command_line.run_process(main)
