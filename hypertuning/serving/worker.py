"""One thread that owns the model, and answers what waits in batches."""

import collections
import concurrent.futures
import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from hypertuning.api import questions
from hypertuning.api.model import Model
from hypertuning.api.questions import Question
from hypertuning.api.stepping import Progress
from hypertuning.errors import UserError
from hypertuning.serving import compiling
from hypertuning.serving.failures import Failure
from hypertuning.serving.limits import Limits

T = TypeVar('T')
# Numbers of rows that batches are filled up to: few, since each is a program.
SIZES = (1, 4, 16, 32)
_log = logging.getLogger(__name__)


class Row:
  """A question that waits for its answer.

  Attributes:
    question: the question.
    max_tokens: number of tokens of its answer.
    compiling: seconds of compilation while it was answered.
    lengths: numbers of tokens that its input and its answer have room for, once
      they are known.
  """

  def __init__(
    self,
    question: Question,
    max_tokens: int,
    emit: Callable[[Progress | UserError], object],
  ) -> None:
    """Makes a row.

    Args:
      question: the question.
      max_tokens: number of tokens of its answer.
      emit: is called by the worker's thread with the answer so far after each
        token, or with an error, which is the last call.
    """
    self.question, self.max_tokens = question, max_tokens
    self.compiling = 0.0
    self.lengths: tuple[int, ...] = ()
    self._emit = emit
    self._is_over = False

  @property
  def is_over(self) -> bool:
    """Whether the answer is complete, has failed, or is no longer wanted."""
    return self._is_over

  def drop(self) -> None:
    """Says that nobody waits for the answer any more; for any thread."""
    self._is_over = True

  def update(self, answer: Progress) -> None:
    """Takes the answer so far."""
    if answer.written >= self.max_tokens:
      answer = dataclasses.replace(answer, is_done=True)
    self._tell(answer, answer.is_done)

  def fail(self, error: UserError) -> None:
    """Takes the reason why there is no answer."""
    self._tell(error, True)

  def _tell(self, message: Progress | UserError, is_last: bool) -> None:
    if self._is_over:
      return
    self._is_over = is_last
    try:
      self._emit(message)
    except RuntimeError:  # the loop that waited for it has ended
      self._is_over = True


@dataclasses.dataclass(frozen=True)
class _Call:
  """A function that waits to be called by the thread."""

  function: Callable[[], Any]
  future: concurrent.futures.Future


class Worker:
  """Calls functions, and decodes questions that have come together."""

  def __init__(self, model: Model, limits: Limits) -> None:
    """Starts the thread.

    Args:
      model: the model, which nobody else may use from now on.
      limits: bounds of a batch.
    """
    self._model, self._limits = model, limits
    self._waiting: collections.deque[Row | _Call] = collections.deque()
    self._changed = threading.Condition()
    self._is_closed = False
    self._clock = compiling.clock()
    # As a daemon, it keeps no process from ending while it compiles.
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  def call(self, function: Callable[[], T]) -> 'concurrent.futures.Future[T]':
    """Lets the thread call a function, in its turn.

    Args:
      function: a function that may use the model.

    Returns:
      What the function returns or raises; cancelled, it is not called.
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    self._put([_Call(function, future)])
    return future

  def ask(self, rows: list[Row]) -> None:
    """Lets the thread answer questions, in their turn."""
    self._put(rows)

  def close(self, seconds: float) -> bool:
    """Ends the thread; what waits, fails.

    Args:
      seconds: how long the thread is waited for.

    Returns:
      Whether it has ended.
    """
    with self._changed:
      self._is_closed = True
      waiting, self._waiting = self._waiting, collections.deque()
      self._changed.notify()
    for one in waiting:
      self._refuse(one)
    self._thread.join(seconds)
    return not self._thread.is_alive()

  def _put(self, added: 'list[Row] | list[_Call]') -> None:
    with self._changed:
      if not self._is_closed:
        self._waiting.extend(added)
        self._changed.notify()
        return
    for one in added:
      self._refuse(one)

  def _refuse(self, one: Row | _Call) -> None:
    error = Failure(503, 'The server is stopping.')
    if isinstance(one, Row):
      one.fail(error)
    elif one.future.set_running_or_notify_cancel():
      one.future.set_exception(error)

  def _run(self) -> None:
    while True:
      with self._changed:
        while not self._waiting and not self._is_closed:
          self._changed.wait()
        if self._is_closed:
          return
        first = self._waiting.popleft()
      if isinstance(first, _Call):
        self._answer_call(first)
      else:
        self._decode(self._gather(first))

  def _answer_call(self, call: _Call) -> None:
    if not call.future.set_running_or_notify_cancel():
      return
    try:
      call.future.set_result(call.function())
    except Exception as error:
      call.future.set_exception(error)

  def _gather(self, first: Row) -> list[Row]:
    """The first row, and those that can be decoded with it."""
    if not self._is_ready(first):
      return []
    signature = questions.signature(first.question)
    rows = [first]
    with self._changed:
      others = [one for one in self._waiting if isinstance(one, Row)]
    for row in others:
      if len(rows) == self._limits.rows:
        break
      # A short text would take as long as the longest one of its batch.
      if (
        questions.signature(row.question) == signature
        and self._is_ready(row)
        and row.lengths == first.lengths
      ):
        rows.append(row)
    most = self._limits.pass_tokens // sum(first.lengths)
    rows = rows[: _taken(len(rows), min(most, self._limits.rows))]
    taken = set(rows)
    with self._changed:
      self._waiting = collections.deque(
        one
        for one in self._waiting
        if one not in taken and not (isinstance(one, Row) and one.is_over)
      )
    return rows

  def _is_ready(self, row: Row) -> bool:
    """Whether a row can be decoded; finds its number of tokens."""
    if row.is_over or row.lengths:
      return not row.is_over
    try:
      features, _ = self._model.batch([row.question], row.max_tokens)
      row.lengths = tuple(
        features[name].shape[-1] for name in ('input_tokens', 'target_tokens')
      )
      if sum(row.lengths) > self._limits.question_tokens:
        raise UserError(
          'queries: with what stands before it, one needs '
          f'{sum(row.lengths):,} tokens, and at most '
          f'{self._limits.question_tokens:,} are read; give '
          'fewer examples, or adapt.'
        )
    except Exception as error:
      row.fail(_reason(error))
    return not row.is_over

  def _decode(self, rows: list[Row]) -> None:
    """Answers rows whose phi have one signature, and tells them each token."""
    if not rows:
      return
    wanted = batch_of([row.question for row in rows], _size(len(rows)))
    limit = max(row.max_tokens for row in rows)
    before = self._clock.seconds
    try:
      for answers in self._model.progress(wanted, limit):
        for row, answer in zip(rows, answers, strict=False):
          row.compiling = self._clock.seconds - before
          row.update(answer)
        if self._is_closed:
          for row in rows:
            self._refuse(row)
        if all(row.is_over for row in rows):
          return
    except Exception as error:
      if len(rows) == 1:
        rows[0].fail(_reason(error))
        return
      # One of them may be at fault, or their padding.
      for row in rows:
        if not row.is_over:
          self._decode([row])


def batch_of(wanted: list[Question], size: int) -> list[Question]:
  """Questions, filled up to a number of rows by the first.

  Each row gets an object of its own for its phi: one program then serves rows
  of one phi and of several.

  Args:
    wanted: one or more questions whose phi have one signature.
    size: number of rows.
  """
  padded = wanted + [wanted[0]] * (size - len(wanted))
  return [
    dataclasses.replace(
      question, adapters=jax.tree.map(lambda leaf: leaf, question.adapters)
    )
    for question in padded
  ]


def _taken(count: int, most: int) -> int:
  """How many of some rows a batch takes, so that it is more than half full."""
  fitting = [size for size in SIZES if size <= most and count > size // 2]
  return min(count, fitting[-1])


def _size(count: int) -> int:
  """The number of rows that a batch is filled up to."""
  return next(size for size in SIZES if size >= count)


def _reason(error: Exception) -> UserError:
  """What a client is told; what is no user's error goes to the log."""
  if isinstance(error, UserError):
    return error
  _log.error('a question failed', exc_info=error)
  return Failure(500, 'The model failed; the log of the server says why.')
