"""A server in a process of its own, and a client of it."""

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import runner

EXAMPLES = [
  {'inputs': x, 'targets': y}
  for x, y in (('a', 'xy'), ('bb', 'z'), ('cde', 'x'), ('d', 'yy'))
]
QUERIES = ['a', 'bb', 'e', 'fgh', 'i']
_SECONDS = 300


@dataclasses.dataclass
class Reply:
  """What the server answered."""

  status: int
  data: bytes
  headers: dict[str, str]

  @property
  def json(self):
    return json.loads(self.data)


@dataclasses.dataclass
class Server:
  """A running server."""

  process: subprocess.Popen
  log: pathlib.Path
  url: str

  @property
  def port(self) -> int:
    return int(self.url.rsplit(':', 1)[1].strip('/'))

  def request(self, path, body=None, method=None, headers=()) -> Reply:
    """Sends a body, as JSON where it is no bytes, and returns the reply."""
    if body is not None and not isinstance(body, bytes):
      body = json.dumps(body).encode()
    request = urllib.request.Request(
      self.url + path.lstrip('/'), body, method=method
    )
    request.add_header('Content-Type', 'application/json')
    for name, value in dict(headers).items():
      request.add_header(name, value)
    try:
      with urllib.request.urlopen(request, timeout=_SECONDS) as reply:
        return Reply(reply.status, reply.read(), dict(reply.headers))
    except urllib.error.HTTPError as error:
      return Reply(error.code, error.read(), dict(error.headers))

  def adapt(self, **fields) -> dict:
    reply = self.request('adapt', {'examples': EXAMPLES, **fields})
    assert reply.status == 200, reply.data
    return reply.json

  def answer(self, queries=QUERIES, **fields) -> dict:
    reply = self.request('answer', {'queries': queries, **fields})
    assert reply.status == 200, reply.data
    return reply.json

  def open_stream(self, **fields) -> http.client.HTTPResponse:
    """The reply to a question that is streamed, before it has been read."""
    connection = http.client.HTTPConnection(
      '127.0.0.1', self.port, timeout=_SECONDS
    )
    body = json.dumps({'queries': QUERIES, 'stream': True, **fields})
    connection.request(
      'POST', '/answer', body, {'Content-Type': 'application/json'}
    )
    return connection.getresponse()

  def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
    """Exit code after a signal, and what the log had after `ready`."""
    self.process.send_signal(number)
    code = self.process.wait(60)
    return code, self.log.read_text().partition(self.url)[2].lstrip()


def environment() -> dict[str, str]:
  """That of a command, whose programs compile as fast as those of tests."""
  flags = re.sub(r'(device_count)=\d+', r'\1=1', os.environ['XLA_FLAGS'])
  return {**runner.environment(), 'XLA_FLAGS': flags}


def command(*flags) -> list[str]:
  return [sys.executable, '-m', 'hypertuning.serve', *map(str, flags)]


@contextlib.contextmanager
def running(model, *flags):
  """A server of a model on a free port, or on that of the flags."""
  with tempfile.TemporaryDirectory() as folder:
    log = pathlib.Path(folder, 'log')
    with log.open('w') as file:
      process = subprocess.Popen(
        command(f'--model={model}', '--port=0', *flags),
        env=environment(),
        cwd=folder,
        stderr=file,
      )
    try:
      yield Server(process, log, _address(process, log))
    finally:
      process.terminate()
      try:
        process.wait(60)
      except subprocess.TimeoutExpired:
        process.kill()


def _address(process, log) -> str:
  end = time.monotonic() + _SECONDS
  while time.monotonic() < end and process.poll() is None:
    found = re.search(r'^ready: (.+)$', log.read_text(), re.MULTILINE)
    if found:
      return found[1]
    time.sleep(0.1)
  raise AssertionError(log.read_text())
