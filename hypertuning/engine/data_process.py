"""Episodes that another process reads, while this one traces and compiles.

TensorFlow and seqio take longer to import, and longer to build what reads a
task, than a small model takes to compile. A run that starts from the shell does
both at once. Every batch crosses from one process to the other; the next one is
read while the devices work.
"""

import atexit
import collections
import contextlib
import multiprocessing
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import jax
import numpy as np
from jax._src import xla_bridge  # jax has no public way to ask

from hypertuning import background, quiet
from hypertuning.engine import batching
from hypertuning.engine.episode_data import EpisodeData
from hypertuning.errors import UserError
from hypertuning.evaluation.evaluations import Evaluation
from hypertuning.models import HyperTuningModel

_SECONDS = 5.0  # in which a process that is no longer needed ends by itself


def apart(
  model: HyperTuningModel, data: EpisodeData, held_out: EpisodeData | None
) -> tuple[EpisodeData, EpisodeData | None]:
  """Starts a process that reads a run's episodes, where that saves time.

  It can be forked from a process that has just started, before jax has looked
  for devices: a fork does not copy the threads that these have.

  Args:
    model: the model that is trained.
    data: the episodes that it is trained on.
    held_out: the episodes that it is evaluated on, if it is evaluated.

  Returns:
    The same episodes: as `RemoteData`, or as they are where another process
    saves nothing.
  """
  if (
    not data.imports_tensorflow
    or 'tensorflow' in sys.modules
    or sys.platform != 'linux'
    or threading.active_count() > 1
    or xla_bridge.backends_are_initialized()
  ):
    return data, held_out
  sources = [data] if held_out is None else [data, held_out]
  reader = _Reader(model, sources)
  remote = [RemoteData(reader, n, source) for n, source in enumerate(sources)]
  return remote[0], remote[1] if held_out is not None else None


class RemoteData(EpisodeData):
  """Episodes that another process reads; it has got the model already."""

  def __init__(self, reader: '_Reader', number: int, data: EpisodeData) -> None:
    """Keeps the place of the episodes.

    Args:
      reader: the other process.
      number: number of the episodes there.
      data: the same episodes in this process, which has not opened them.
    """
    self._reader, self._number, self._data = reader, number, data
    self.lengths, self.batch_size = data.lengths, data.batch_size
    self.seed = data.seed

  def held_out(self) -> EpisodeData:
    """The episodes of evaluation, in this process, see `EpisodeData`."""
    return self._data.held_out()

  def check(self, model: HyperTuningModel) -> None:
    """Refuses text that the model cannot read, see `EpisodeData`."""
    del model
    self._reader.ask('check', self._number)()

  def check_steps(self, steps: int) -> None:
    """Refuses a training that needs more episodes, see `EpisodeData`."""
    self._reader.ask('check_steps', self._number, steps)()

  def settings(self) -> dict[str, str]:
    """What must not change in a run, see `EpisodeData`."""
    return self._reader.ask('settings', self._number)()

  def batches(
    self, model: HyperTuningModel, repeat: bool = False, first: int = 0
  ) -> Iterable[batching.Batch]:
    """Batches, see `EpisodeData`; only the last iterator over them goes on."""
    del model
    return _Batches(self._reader, self._number, repeat, first)

  def evaluations(
    self, model: HyperTuningModel, num_batches: int | None = None
  ) -> list[Evaluation]:
    """The evaluation of each task, in this process, see `EpisodeData`."""
    return self._data.evaluations(model, num_batches)


class _Batches:
  """Batches of a `RemoteData`, which can be read many times."""

  def __init__(self, reader: '_Reader', *place: Any) -> None:
    self._reader, self._place = reader, place

  def __iter__(self) -> Iterator[batching.Batch]:
    """Opens the batches at once, so that their faults are reported."""
    number = self._reader.ask('open', *self._place)()
    return self._read(number)

  def _read(self, number: int) -> Iterator[batching.Batch]:
    answer = self._reader.ask('next', self._place[0], number)
    while (batch := answer()) is not None:
      answer = self._reader.ask('next', self._place[0], number)
      yield batch


class _Reader:
  """The process that reads episodes, as the other process sees it."""

  def __init__(
    self, model: HyperTuningModel, sources: Sequence[EpisodeData]
  ) -> None:
    # A fork has all that has been imported, and needs no copies of its
    # arguments: a model cannot always be pickled.
    context = multiprocessing.get_context('fork')
    self._connection, connection = context.Pipe()
    self._process = context.Process(
      target=_serve, args=(connection, self._connection, model, sources)
    )
    self._process.start()
    connection.close()
    # It ends with the run; at exit, Python would wait for it, however long.
    weakref.finalize(self, _end, self._connection, self._process)
    atexit.register(_end, self._connection, self._process)
    # Answers come in the order of the questions.
    self._answers: collections.deque[dict[str, Any]] = collections.deque()

  def ask(self, name: str, *arguments: Any) -> Callable[[], Any]:
    """Asks the process for something.

    Args:
      name: name of a method of `_Server`.
      *arguments: its arguments.

    Returns:
      A function that waits for the answer, and returns it or raises its error.
    """
    answer: dict[str, Any] = {}
    try:
      self._connection.send((name, arguments))
    except OSError as error:
      raise self._lost() from error
    self._answers.append(answer)

    def wait() -> Any:
      while not answer:
        try:
          result, failure = self._connection.recv()
        except (EOFError, OSError) as error:
          raise self._lost() from error
        self._answers.popleft().update(result=result, failure=failure)
      if answer['failure'] is not None:
        raise answer['failure']
      return answer['result']

    return wait

  def _lost(self) -> UserError:
    self._process.join()
    return UserError(
      'The process that reads the episodes has ended '
      f'({_ending(self._process.exitcode)}); the machine may have too little '
      'memory. The same command goes on from the last checkpoint.'
    )


def _end(connection: Connection, process: BaseProcess) -> None:
  """Lets the process end, which is killed if it is busy for too long."""
  connection.close()
  process.join(_SECONDS)
  process.kill()


def _ending(code: int | None) -> str:
  if code is not None and code < 0:
    return signal.Signals(-code).name
  return f'exit code {code}'


def _serve(
  connection: Connection,
  other_end: Connection,
  model: HyperTuningModel,
  sources: Sequence[EpisodeData],
) -> None:
  """Answers the questions of the other process until it ends."""
  # The other process ends its step first, and needs batches until then.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
  other_end.close()  # so that this process sees when the other one closes it
  background.end_with_parent(signal.SIGKILL, _SECONDS)
  # Accelerators are for the other process alone.
  jax.config.update('jax_platforms', 'cpu')
  server = _Server(model, sources)
  with quiet.temporary_files(), contextlib.suppress(EOFError, OSError):
    while True:
      name, arguments = connection.recv()
      answer, failure = None, None
      try:
        answer = getattr(server, name)(*arguments)
      except Exception as error:
        failure = _portable(error)
      connection.send((answer, failure))


def _portable(error: Exception) -> Exception:
  """An error that another process can raise."""
  if isinstance(error, UserError):
    return error
  # Errors of libraries may not be made anew, and lose where they came from.
  return RuntimeError(traceback.format_exc())


class _Server:
  """What the other process can ask for; sources are named by their numbers."""

  def __init__(
    self, model: HyperTuningModel, sources: Sequence[EpisodeData]
  ) -> None:
    self._model, self._sources = model, sources
    self._opened = 0
    self._iterators: dict[int, tuple[int, Iterator[batching.Batch]]] = {}

  def check(self, source: int) -> None:
    self._sources[source].check(self._model)

  def check_steps(self, source: int, steps: int) -> None:
    self._sources[source].check_steps(steps)

  def settings(self, source: int) -> dict[str, str]:
    return self._sources[source].settings()

  def open(self, source: int, repeat: bool, first: int) -> int:
    batches = self._sources[source].batches(self._model, repeat, first)
    self._opened += 1
    self._iterators[source] = self._opened, iter(batches)
    return self._opened

  def next(self, source: int, number: int) -> Mapping[str, np.ndarray] | None:
    last, iterator = self._iterators[source]
    assert last == number, 'these batches were opened again'
    batch = next(iterator, None)
    return batch and {name: np.asarray(x) for name, x in batch.items()}
