"""What every request passes before it is read: bounds, and who may ask."""

import asyncio
import contextlib
import json
import urllib.parse
from collections.abc import Iterable
from typing import Any

from hypertuning.serving.failures import Failure
from hypertuning.serving.limits import Limits

_STRICT = (
  "default-src 'none'; script-src 'self'; style-src 'self'; "
  "img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
  "form-action 'none'; frame-ancestors 'none'"
)
# Swagger UI starts with a script in its page, and sets styles.
_DOCS = _STRICT.replace(
  "'self'; style", "'self' 'unsafe-inline'; style"
).replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
_DRAINED_BYTES = 256 << 20
_LOCAL = ('localhost', '127.0.0.1', '::1')


class _Unread(Failure):
  """A refusal while the client may still be sending its body."""


class Gate:
  """An ASGI application in front of another one.

  It reads bodies, which are bounded, and cancels a request whose client has
  gone away.
  """

  def __init__(self, app: Any, limits: Limits, hosts: Iterable[str]) -> None:
    """Takes the application that it is in front of.

    Args:
      app: the ASGI application.
      limits: bounds on requests.
      hosts: names under which a browser may know the server, so that no other
        site can reach it by a name of its own; '*' for any.
    """
    self._app, self._limits, self._hosts = app, limits, {*hosts}
    self._count = 0

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    """Passes one request on, or refuses it."""
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return
    send = _with_headers(scope['path'], send)
    try:
      self._check_origin(scope)
      if scope['method'] not in ('POST', 'PUT'):
        await self._app(scope, receive, send)
        return
      if self._count >= self._limits.requests:
        raise _Unread(
          503,
          f'{self._count} requests are waiting already; come again soon.',
        )
      self._count += 1
      try:
        body = await self._body(scope, receive)
        await _until_gone(self._app, scope, body, receive, send)
      finally:
        self._count -= 1
    except _Unread as failure:
      await _drain(receive)
      await _refuse(failure, send)
    except Failure as failure:
      await _refuse(failure, send)
    except ConnectionError:
      return  # the client went away while it sent its body

  def _check_origin(self, scope: Any) -> None:
    """Refuses the page of another site, and names that are not the server's."""
    headers = {
      k.decode('latin-1'): v.decode('latin-1') for k, v in scope['headers']
    }
    host = headers.get('host', '')
    if '*' not in self._hosts and _hostname(f'//{host}') not in self._hosts:
      raise _Unread(
        421,
        'Host: this server is on this machine alone; open it by its address, '
        'or start it with --host.',
      )
    origin = headers.get('origin')
    if origin and urllib.parse.urlsplit(origin).netloc != host:
      raise _Unread(403, 'Origin: the page of another site may not ask here.')

  async def _body(self, scope: Any, receive: Any) -> bytes:
    """The whole body."""
    is_file = scope['method'] == 'PUT'
    most = self._limits.adapter_bytes if is_file else self._limits.body_bytes
    length = dict(scope['headers']).get(b'content-length', b'0')
    too_long = _Unread(
      413, f'The body is longer than {most:,} bytes; send less at once.'
    )
    if length.isdigit() and int(length) > most:
      raise too_long
    body = bytearray()
    try:
      async with asyncio.timeout(self._limits.body_seconds):
        while True:
          message = await receive()
          if message['type'] == 'http.disconnect':
            raise ConnectionError
          body += message.get('body', b'')
          if len(body) > most:
            raise too_long
          if not message.get('more_body'):
            break
    except TimeoutError as error:
      raise Failure(
        408,
        f'The body did not come in {self._limits.body_seconds:.0f} seconds.',
      ) from error
    if not is_file:
      try:
        body.decode('utf-8')
      except UnicodeDecodeError as error:
        raise Failure(
          400, f'The body is not UTF-8, at byte {error.start + 1}.'
        ) from error
    return bytes(body)


def local_names(host: str) -> set[str]:
  """The names of a server on a loopback address; '*' for any other address."""
  return {*_LOCAL, host} if host in _LOCAL else {'*'}


def _hostname(url: str) -> str | None:
  try:
    return urllib.parse.urlsplit(url).hostname
  except ValueError:
    return None


async def _until_gone(
  app: Any, scope: Any, body: bytes, receive: Any, send: Any
) -> None:
  """Runs an application until it ends or its client goes away."""
  gone = asyncio.ensure_future(_disconnect(receive))
  messages = [{'type': 'http.request', 'body': body, 'more_body': False}]

  async def replay() -> Any:
    if messages:
      return messages.pop()
    await asyncio.shield(gone)
    return {'type': 'http.disconnect'}

  work = asyncio.ensure_future(app(scope, replay, send))
  try:
    await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
      await work
  finally:
    for task in (gone, work):
      task.cancel()
    with contextlib.suppress(Exception, asyncio.CancelledError):
      await work


async def _disconnect(receive: Any) -> None:
  while (await receive())['type'] != 'http.disconnect':
    pass


async def _drain(receive: Any) -> None:
  """Reads what a client still sends: it reads no answer before it has sent."""
  with contextlib.suppress(TimeoutError):
    async with asyncio.timeout(10):
      read, more = 0, True
      while more and read < _DRAINED_BYTES:
        message = await receive()
        read += len(message.get('body', b''))
        more = message.get('more_body', False)


async def _refuse(failure: Failure, send: Any) -> None:
  body = json.dumps({'error': str(failure)}).encode()
  headers = [
    (b'content-type', b'application/json'),
    (b'content-length', str(len(body)).encode()),
    (b'connection', b'close'),
  ]
  if failure.status == 503:
    headers.append((b'retry-after', b'1'))
  start = {'type': 'http.response.start', 'status': failure.status}
  await send({**start, 'headers': headers})
  await send({'type': 'http.response.body', 'body': body})


def _with_headers(path: str, send: Any) -> Any:
  """`send` with the headers that keep a browser from doing more."""
  policy = _DOCS if path == '/docs' else _STRICT
  added = [
    (b'content-security-policy', policy.encode()),
    (b'x-content-type-options', b'nosniff'),
    (b'referrer-policy', b'no-referrer'),
    (b'cache-control', b'no-cache'),
  ]

  async def send_with(message: Any) -> None:
    if message['type'] == 'http.response.start':
      message = {**message, 'headers': [*message.get('headers', []), *added]}
    await send(message)

  return send_with
