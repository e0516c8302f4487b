"""One tiny run and its server, for all of these tests."""

import pytest

pytest.importorskip('fastapi', reason='the extra `serve`')

import served  # noqa: E402
import tiny_runs  # noqa: E402


@pytest.fixture(scope='session')
def run(tmp_path_factory):
  return tiny_runs.make(tmp_path_factory.mktemp('served') / 'lora', 'lora')


@pytest.fixture(scope='session')
def server(run):
  with served.running(run) as running:
    yield running
