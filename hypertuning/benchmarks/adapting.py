"""What phi costs at once, and a query with it, measured on loaded models."""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from hypertuning.api import examples_text
from hypertuning.api.model import Model
from hypertuning.api.questions import Question
from hypertuning.benchmarks import cached_context
from hypertuning.data.tuning_files import TuningTask
from hypertuning.planning import flops

Row = dict[str, Any]
_Calls = dict[str, Callable[[], Any]]
AT_ONCE, FROZEN = 'phi at once', 'frozen model'
IN_CONTEXT, CACHED = 'examples in context', 'examples in a cached context'
WITH_PHI = 'phi'


def at_once(
  model: Model, tasks: Sequence[TuningTask], rounds: int
) -> list[Row]:
  """Makes the phi of each task, and answers its test rows in three ways.

  Args:
    model: a model with a hypermodel.
    tasks: the tasks.
    rounds: number of measured calls; one more comes first, which compiles.

  Returns:
    A row per task and way: 'task', 'way', 'accuracy' (percent of test rows
    whose text is the target); for phi also 'seconds' (median), 'flops', 'low'
    and 'high' seconds, and 'bytes'.

  Raises:
    UserError: the model has no hypermodel, or a text does not fit.
  """
  rows: list[Row] = []
  for task in tasks:
    adapt = functools.partial(
      model.adapt, task.examples, definition=task.definition
    )
    phi = adapt()
    times = _times({AT_ONCE: adapt}, rounds)[AT_ONCE]
    work = {'flops': _adapting_flops(model, task), 'bytes': phi.num_bytes}
    for way, context, cost in (
      (FROZEN, {}, {}),
      (
        IN_CONTEXT,
        {'examples': task.examples, 'definition': task.definition},
        {},
      ),
      (AT_ONCE, {'phi': phi}, {**_spread(times), **work}),
    ):
      accuracy = _accuracy(model, task, context)
      rows.append({'task': task.name, 'way': way, 'accuracy': accuracy, **cost})
  return rows


def query_costs(
  model: Model, tasks: Sequence[TuningTask], rounds: int
) -> list[Row]:
  """Measures one query of each task in three ways, which take turns.

  A query is one pass over its input and its target, a work of fixed size.

  Args:
    model: a model with a hypermodel.
    tasks: the tasks; the first test row of each is the query.
    rounds: number of measured calls of each way, after one that compiles.

  Returns:
    A row per way: 'way', 'bytes' that are kept per task, 'make' and 'query'
    seconds, each with 'seconds' (median over tasks and rounds), 'low' and
    'high'. A way that the network does not have has a 'reason' instead.
  """
  reason = cached_context.reason_against(model.network)
  measured = _Queries(model)
  times: dict[str, dict[str, list[float]]] = {'make': {}, 'query': {}}
  sizes: dict[str, int] = {}
  for task in tasks:
    making, asking, kept = measured.ways(task)
    sizes |= kept
    for name, functions in (('make', making), ('query', asking)):
      for way, seconds in _times(functions, rounds).items():
        times[name].setdefault(way, []).extend(seconds)
  rows = [
    {
      'way': way,
      'bytes': sizes[way],
      'make': _spread(times['make'][way]) if way in times['make'] else None,
      'query': _spread(times['query'][way]),
    }
    for way in times['query']
  ]
  return rows + ([{'way': CACHED, 'reason': reason}] if reason else [])


class _Queries:
  """One query of a task in all ways, as functions to measure."""

  def __init__(self, model: Model) -> None:
    self._model = model
    self._score = jax.jit(self._make_score)
    self._cache = jax.jit(self._make_cache)
    self._variables = model.params, model.frozen

  def ways(self, task: TuningTask) -> tuple[_Calls, _Calls, dict[str, int]]:
    """What makes the state of a task, what asks it, and the state's bytes."""
    model, (text, target) = self._model, task.test[0]
    adapt = functools.partial(
      model.adapt, task.examples, definition=task.definition
    )
    phi = adapt()
    batch, _ = model.batch([Question(text, target)], 1)
    in_context = Question(text, target, None, task.examples, task.definition)
    whole, _ = model.batch([in_context], 1)
    making: _Calls = {WITH_PHI: adapt}
    asking: _Calls = {
      WITH_PHI: functools.partial(
        self._score, *self._variables, batch, phi.adapters
      ),
      IN_CONTEXT: functools.partial(self._score, *self._variables, whole, None),
    }
    sizes = {WITH_PHI: phi.num_bytes, IN_CONTEXT: 0}
    if not cached_context.reason_against(model.network):
      tokens = {**batch, 'hyper_tokens': _hyper_tokens(model, task)}
      parts = cached_context.divide(model.text_format, tokens)
      make = functools.partial(
        self._cache, *self._variables, parts['hyper_tokens']
      )
      cache = make()
      making[CACHED] = make
      asking[CACHED] = functools.partial(
        self._score, *self._variables, parts, cache
      )
      sizes[CACHED] = sum(x.nbytes for x in jax.tree.leaves(cache))
    return making, asking, sizes

  def _make_score(
    self, params: Any, frozen: Any, batch: Any, phi: Any
  ) -> jax.Array:
    return self._model.network.score_batch(
      params, batch, flax_mutables={'frozen': frozen}, adapters=phi
    )

  def _make_cache(self, params: Any, frozen: Any, tokens: Any) -> Any:
    return cached_context.make(self._model.network, params, frozen, tokens)


def _times(
  functions: dict[str, Callable[[], Any]], rounds: int
) -> dict[str, list[float]]:
  """Seconds of each call; functions take turns, and are called once before."""
  for function in functions.values():
    jax.block_until_ready(_arrays(function()))
  times: dict[str, list[float]] = {name: [] for name in functions}
  for _ in range(rounds):
    for name, function in functions.items():
      begin = time.perf_counter()
      jax.block_until_ready(_arrays(function()))
      times[name].append(time.perf_counter() - begin)
  return times


def _arrays(result: Any) -> Any:
  return getattr(result, 'adapters', result)


def _spread(times: Sequence[float]) -> dict[str, float]:
  return {
    'seconds': statistics.median(times),
    'low': min(times),
    'high': max(times),
  }


def _accuracy(model: Model, task: TuningTask, context: dict[str, Any]) -> float:
  """Percent of the test rows whose answer is the target."""
  answers = model.answer([text for text, _ in task.test], **context)
  pairs = zip(answers, task.test, strict=True)
  hits = [answer == target for answer, (_, target) in pairs]
  return 100 * sum(hits) / len(hits)


def _hyper_tokens(model: Model, task: TuningTask) -> Any:
  tokens, _ = examples_text.hyper_tokens(
    *(task.examples, task.definition, 1, 0),
    *(model.lengths['hyper_inputs'], model.text_format),
  )
  return tokens


def _adapting_flops(model: Model, task: TuningTask) -> int:
  """FLOPs of the matmuls that make a task's phi."""
  jaxpr = jax.make_jaxpr(
    lambda params, frozen, tokens: model.network.generate_adapters(
      params, {'hyper_tokens': tokens}, {'frozen': frozen}
    )
  )(model.params, model.frozen, _hyper_tokens(model, task))
  return flops.matmul_flops(jaxpr)
