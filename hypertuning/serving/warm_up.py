"""Compiles what the first requests need, before they come."""

from collections.abc import Iterator

from hypertuning.api.model import Model
from hypertuning.api.phi import Phi
from hypertuning.api.questions import Question
from hypertuning.errors import UserError
from hypertuning.serving.worker import SIZES, batch_of

_PAIR = ('hot', 'cold')
_EXAMPLES = (1, 2, 4, 8, 16)


def warm_up(model: Model, rows: int) -> None:
  """Adapts and answers once in each of the common sizes.

  Args:
    model: the model.
    rows: number of rows of the largest batch.
  """
  phis: list[Phi | None] = [None]
  if model.has_hypermodel:
    made = [model.adapt([_PAIR] * count) for count in _EXAMPLES]
    phis.append(made[0])
  tokens = model.lengths['targets'][-1]
  for question in _questions(phis):
    for size in SIZES:
      if size <= rows and (size == 1 or not question.examples):
        try:
          for _ in model.progress(batch_of([question], size), tokens):
            pass
        except UserError:
          pass  # a model with few positions has no room for the examples


def _questions(phis: list[Phi | None]) -> Iterator[Question]:
  for phi in phis:
    yield Question('fast', adapters=phi.adapters if phi else None)
  for count in _EXAMPLES[-2:]:
    yield Question('fast', examples=[_PAIR] * count)
