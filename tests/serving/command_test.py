"""The command: its flags, its ends, and a restart."""

import concurrent.futures
import http.client
import signal
import socket
import subprocess
import sys
import urllib.error

import pytest
import runner
import served

from hypertuning import command_line, serve

_WITHOUT = (
  'import sys, runpy\n'
  'sys.modules["fastapi"] = None\n'
  'runpy.run_module("hypertuning.serve", run_name="__main__")\n'
)


def main(capfd, *flags):
  capfd.readouterr()
  code = command_line.run(serve.main, flags)
  out, err = capfd.readouterr()
  return code, out, err


@pytest.mark.parametrize(
  'flag, text',
  [
    ('--prt=1', '--prt=1'),
    ('--port=x', "invalid int value: 'x'"),
    ('--port=70000', '--port = 70000: give 0 to 65,535'),
    ('--keep=0', '--keep = 0: give 1'),
    ('--rows=33', '--rows = 33: give 1 to 32'),
    ('--host=no such host', '--host'),
    ('--host=192.0.2.1', 'is no address of this machine'),
    ('--model=nowhere', "'nowhere': there is no such folder"),
  ],
)
def test_wrong_flags(capfd, flag, text):
  code, _, err = main(capfd, '--port=0', flag)
  assert code == 2
  assert err.startswith('error: ') and text in err and err.count('\n') == 1


def test_help(capfd):
  with pytest.raises(SystemExit) as end:
    main(capfd, '--help')
  assert end.value.code == 0
  assert '--port' in capfd.readouterr().out


def test_a_port_in_use(capfd):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    code, _, err = main(capfd, f'--port={port}', '--model=nowhere')
  assert code == 2
  assert f'--port = {port}: is in use' in err and err.count('\n') == 1


def test_a_missing_extra():
  done = subprocess.run(
    [sys.executable, '-c', _WITHOUT],
    env=runner.environment(),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert done.stderr == (
    "error: The server needs fastapi: pip install '.[serve]'\n"
  )


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_restart_in_the_middle(run, number):
  """Each request gets its answer, one line, or a closed connection."""
  failures = (
    *(urllib.error.URLError, http.client.HTTPException, ConnectionError),
  )
  with served.running(run) as server:
    name = server.adapt()['name']
    body = {'queries': ['a'] * 64, 'max_tokens': 256, 'phi': name}

    def ask(_):
      try:
        return server.request('answer', body)
      except failures:
        return None

    with concurrent.futures.ThreadPoolExecutor(8) as clients:
      asked = [clients.submit(ask, n) for n in range(8)]
      server.open_stream(phi=name, max_tokens=256).readline()
      code, log = server.stop(number)
    assert (code, log) == (0, 'stopped\n')
    for reply in filter(None, (one.result() for one in asked)):
      assert reply.status in (200, 503)
      assert set(reply.json) & {'answers', 'error'}
    port = server.port
  with served.running(run, f'--port={port}') as again:
    assert again.port == port
    assert again.request('answer', body).status == 404
    assert again.answer()['answers']
