"""Counts what the compiled steps of tiny models cost; nothing is timed."""

from collections.abc import Sequence

import jax

from hypertuning.benchmarks import built, decoding, own_step
from hypertuning.benchmarks.methods import Shape
from hypertuning.engine import summaries

SIZE = 'tiny'
_LAYERS = ('NUM_LAYERS = 2',)  # so that layers follow one another, and no more
SHAPE = Shape(episodes=4, queries=2, hyper_inputs=24, inputs=16, targets=8)
TRAINING = (
  ('t5', 'full'),
  ('t5', 'lora'),
  ('t5', 'prefix'),
  ('t5', 'hyper_lora'),
  ('llama', 'full'),
  ('llama', 'lora'),
  ('llama', 'gist'),
)
DECODING = ('t5', 'llama')
_STEPS = 3


def count() -> dict[str, dict[str, int]]:
  """Counts of every case, by the case and the kind of count."""
  progress = summaries.Progress(len(TRAINING) + len(DECODING), label='cases')
  counts = {}
  for network, method in TRAINING:
    counts[f'{network} {method}'] = training(network, method)
    progress.update()
  for network in DECODING:
    counts[f'{network} decoding'] = decoding_step(network)
    progress.update()
  progress.close()
  return counts


def training(
  network: str, method: str, bindings: Sequence[str] = ()
) -> dict[str, int]:
  """Counts of a training step.

  Args:
    network: `t5` or `llama`.
    method: what is trained, a key of `METHODS[network]`.
    bindings: gin bindings of the model.

  Returns:
    The fields of `own_step.Costs`, and the number of `compilations` from the
    weights to the end of three steps.
  """
  model = built.build(network, method, SIZE, bindings=[*_LAYERS, *bindings])
  with own_step.compilations() as counted:
    step = own_step.OwnStep(model, built.batch(model, SHAPE))
    for _ in range(_STEPS):
      step()
  return {**step.costs._asdict(), 'compilations': counted()}


def decoding_step(network: str) -> dict[str, int]:
  """Counts of one step of decoding: the fields of `own_step.Costs`.

  Args:
    network: `t5` or `llama`.
  """
  model = built.build(network, 'full', SIZE, bindings=_LAYERS)
  rows = SHAPE.episodes * SHAPE.queries
  _, (step, *arguments) = decoding.parts(
    model, (rows, SHAPE.inputs), SHAPE.targets
  )
  # The memory is donated, as a loop takes the place of the one before.
  traced = jax.jit(step, donate_argnums=2).trace(*arguments)
  compiled = traced.lower().compile()
  return own_step.costs(traced.jaxpr, compiled)._asdict()
