"""What the server does with a request, apart from HTTP."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from hypertuning.api.model import Model
from hypertuning.api.phi import Phi
from hypertuning.api.questions import Question
from hypertuning.api.stepping import Progress
from hypertuning.errors import UserError, one_line
from hypertuning.serving import compiling, downloads, schemas
from hypertuning.serving.failures import Failure
from hypertuning.serving.limits import Limits
from hypertuning.serving.store import Store
from hypertuning.serving.worker import Row, Worker


class Service:
  """A model, the phi that clients hold, and the worker that answers.

  Attributes:
    limits: bounds on requests.
    worker: the thread that owns the model.
  """

  def __init__(self, model: Model, limits: Limits) -> None:
    """Starts the worker.

    Args:
      model: the model, which nobody else may use from now on.
      limits: bounds on requests.
    """
    self.limits = limits
    self.worker = Worker(model, limits)
    self._model, self._store = model, Store(limits.kept)
    self._answer_tokens = min(model.lengths['targets'][-1], limits.max_tokens)

  def describe(self) -> schemas.Described:
    """The model, and what the service accepts."""
    base = self._model.base
    reads = self._model.lengths['hyper_inputs']
    return schemas.Described(
      name=base.name,
      hugging_face=base.hugging_face,
      has_hypermodel=self._model.has_hypermodel,
      missing=self._model.missing,
      reads=reads[-1] if isinstance(reads, tuple | list) else reads,
      max_tokens=self._answer_tokens,
      phi=len(self._store),
      limits=dataclasses.asdict(self.limits),
    )

  async def adapt(self, request: schemas.Adapt) -> schemas.Adapted:
    """Makes a phi and keeps it.

    Raises:
      UserError: the model has no hypermodel, the examples are too long, or the
        request takes too long.
    """
    phi, seconds = await self._call(self._make, request)
    name = self._store.put(phi, request.name)
    return _described(
      *(name, phi),
      milliseconds=round(1000 * max(0.0, phi.made['seconds'] - seconds), 2),
      compiling=round(1000 * seconds, 2),
    )

  async def put(self, name: str, data: bytes) -> schemas.Adapted:
    """Keeps a phi that a client sends as a file.

    Raises:
      UserError: it is no file of a phi of the model.
    """
    phi = await self._call(downloads.read, data, name, self._model.load_phi)
    return _described(self._store.put(phi, name), phi)

  def get(self, name: str) -> Phi:
    """A phi that the service keeps.

    Raises:
      Failure: it does not.
    """
    return self._store.get(name)

  async def answer(
    self, request: schemas.Ask
  ) -> AsyncIterator[tuple[int, str] | schemas.Answer]:
    """Answers queries, and drops them where nobody waits any more.

    Yields:
      Number of a query, and its answer so far; and at the end all answers.

    Raises:
      UserError: the request cannot be answered, or takes too long.
    """
    begin = time.perf_counter()
    updates: asyncio.Queue = asyncio.Queue()
    rows = self._rows(request, updates)
    latest: list[Progress | None] = [None] * len(rows)
    missing = len(rows)
    self.worker.ask(rows)
    try:
      while missing:
        left = self.limits.seconds - (time.perf_counter() - begin)
        async with asyncio.timeout(left):
          number, update = await updates.get()
        if isinstance(update, UserError):
          raise update
        latest[number] = update
        missing -= update.is_done
        yield number, update.text
    except TimeoutError as error:
      raise self._late() from error
    finally:
      for row in rows:
        row.drop()
    answers = [answer for answer in latest if answer]
    compiled = max(row.compiling for row in rows)
    taken = time.perf_counter() - begin - compiled
    yield schemas.Answer(
      answers=[answer.text for answer in answers],
      milliseconds=round(1000 * max(0.0, taken), 2),
      compiling=round(1000 * compiled, 2),
      tokens=schemas.Tokens(
        read=sum(answer.read for answer in answers),
        written=sum(answer.written for answer in answers),
      ),
    )

  def _rows(self, request: schemas.Ask, updates: asyncio.Queue) -> list[Row]:
    """One row per query, whose answers come into a queue."""
    if request.phi is not None and request.examples:
      raise UserError('Give phi or examples, not both.')
    phi = None if request.phi is None else self._store.get(request.phi)
    adapters = phi.adapters if phi else None
    pairs = _pairs(request.examples)
    loop = asyncio.get_running_loop()

    def row(number: int, query: str) -> Row:
      return Row(
        Question(query, '', adapters, pairs, request.definition),
        request.max_tokens or self._answer_tokens,
        lambda update: loop.call_soon_threadsafe(
          updates.put_nowait, (number, update)
        ),
      )

    return [row(number, query) for number, query in enumerate(request.queries)]

  def _make(self, request: schemas.Adapt) -> tuple[Phi, float]:
    """A phi, and the seconds of compilation; for the worker's thread."""
    pairs, encode = _pairs(request.examples), self._model.text_format.encode
    tokens = len(encode(request.definition, 'definition')) + sum(
      len(encode(inputs, 'inputs')) + len(encode(targets, 'targets'))
      for inputs, targets in pairs
    )
    if tokens * request.draws > self.limits.pass_tokens:
      raise UserError(
        f'examples: {tokens:,} tokens in {request.draws} orders are more than '
        f'the {self.limits.pass_tokens:,} that are read at once; give fewer.'
      )
    clock = compiling.clock()
    before = clock.seconds
    phi = self._model.adapt(
      pairs, definition=request.definition, draws=request.draws
    )
    return phi, clock.seconds - before

  async def _call(self, function: Any, *arguments: Any) -> Any:
    """What a function returns that the worker's thread calls."""
    future = self.worker.call(lambda: function(*arguments))
    try:
      async with asyncio.timeout(self.limits.seconds):
        return await asyncio.wrap_future(future)
    except TimeoutError as error:
      raise self._late() from error

  def _late(self) -> Failure:
    return Failure(
      504,
      f'The request took more than {self.limits.seconds:.0f} seconds; send '
      'less at once.',
    )


async def lines(
  answers: AsyncIterator[tuple[int, str] | schemas.Answer],
) -> AsyncIterator[str]:
  """The answers of `Service.answer` as lines of JSON; an error is the last."""
  try:
    async for answer in answers:
      if isinstance(answer, schemas.Answer):
        yield answer.model_dump_json() + '\n'
      else:
        number, text = answer
        yield schemas.Part(query=number, text=text).model_dump_json() + '\n'
        await asyncio.sleep(0)  # a client that goes away is noticed here
  except UserError as error:
    yield schemas.Error(error=one_line(error)).model_dump_json() + '\n'


def _pairs(examples: Sequence[schemas.Example]) -> list[tuple[str, str]]:
  return [(example.inputs, example.targets) for example in examples]


def _described(name: str, phi: Phi, **values: Any) -> schemas.Adapted:
  return schemas.Adapted(
    name=name,
    kind=phi.kind,
    bytes=phi.num_bytes,
    chunks=phi.made.get('chunks'),
    **values,
  )
