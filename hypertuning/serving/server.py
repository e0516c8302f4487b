"""Binds the address, and runs the application until a signal ends it."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn

from hypertuning.errors import UserError
from hypertuning.serving.service import Service

_GRACE = 5  # seconds that requests have to end in, once a signal has come
_LAST = 1  # of these, for what has not ended to get its error


class _Server(uvicorn.Server):
  """uvicorn, which ends after a signal without raising it once more."""

  def __init__(self, config: uvicorn.Config, served: Service) -> None:
    """Takes the service whose questions fail before the time is over."""
    super().__init__(config)
    self._served = served

  async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
    """Lets requests end, and then tells the others that the server stops."""
    loop = asyncio.get_running_loop()
    loop.call_later(_GRACE - _LAST, self._served.worker.close, 0.0)
    await super().shutdown(sockets)

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    """Ends the server at SIGINT and SIGTERM."""
    before = {
      number: signal.signal(number, self.handle_exit)
      for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
      yield
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)


def bind(host: str, port: int) -> socket.socket:
  """A socket that listens: what comes before the server runs, waits.

  Args:
    host: name or address.
    port: number of the port; 0 takes a free one.

  Raises:
    UserError: there is no such address, or its port cannot be taken.
  """
  try:
    found = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
  except (OSError, UnicodeError) as error:
    raise UserError(
      f'--host = {host!r}: there is no such address; give 127.0.0.1, or '
      '0.0.0.0 for every address of this machine.'
    ) from error
  family, kind, protocol, _, address = found[0]
  made = socket.socket(family, kind, protocol)
  try:
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(address)
    made.listen(1024)
  except OSError as error:
    made.close()
    if error.errno == errno.EADDRNOTAVAIL:
      raise UserError(
        f'--host = {host!r}: is no address of this machine.'
      ) from error
    reason = (
      'is in use'
      if error.errno == errno.EADDRINUSE
      else f'cannot be taken ({os.strerror(error.errno or 0)})'
    )
    raise UserError(
      f'--port = {port}: {reason} on {host}; give another one, such as '
      f'--port={port + 1 if 1024 <= port < 65535 else 8001}, or 0 for any.'
    ) from error
  return made


def address_of(listening: socket.socket) -> str:
  """The address that a browser opens."""
  host, port = listening.getsockname()[:2]
  return f'http://[{host}]:{port}/' if ':' in host else f'http://{host}:{port}/'


def run(app: Any, served: Service, listening: socket.socket) -> None:
  """Serves until SIGINT or SIGTERM comes.

  Args:
    app: the ASGI application.
    served: its service, whose worker ends with it.
    listening: the socket.
  """
  config = uvicorn.Config(
    app,
    http='h11',
    ws='none',
    lifespan='off',
    access_log=False,
    log_level='critical',  # requests that the end cuts off are no news
    server_header=False,
    timeout_graceful_shutdown=_GRACE,
  )
  asyncio.run(_Server(config, served).serve(sockets=[listening]))
  if not served.worker.close(_GRACE):
    # It compiles, which nothing interrupts.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
