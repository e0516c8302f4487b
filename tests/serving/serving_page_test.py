"""What docs/serving.md sends is answered, and its numbers are the limits."""

import json
import shlex

import runner

from hypertuning.serving.limits import Limits

PAGE = (runner.ROOT / 'docs/serving.md').read_text('utf-8')


def test_the_requests_of_the_page_are_answered(server):
  block = PAGE.split('```shell\n')[1].split('```')[0]
  sent = []
  for line in block.splitlines():
    _, url, *rest = shlex.split(line)
    path = url.removeprefix('localhost:8000/')
    body = json.loads(rest[1]) if rest[0] == '--json' else None
    reply = server.request(path, body)
    assert reply.status == 200, reply.data
    sent.append(path)
  assert sent == ['adapt', 'answer', 'phi/opposites']


def test_the_numbers_of_the_page_are_the_limits():
  limits = Limits()
  for number in (
    limits.examples,
    limits.queries,
    limits.characters,
    limits.max_tokens,
    limits.question_tokens,
    limits.requests,
    limits.kept,
    limits.rows,
  ):
    assert f' {number:,} ' in PAGE.replace('\n', ' '), number
  assert f'{limits.seconds:.0f} seconds' in PAGE
  assert f'{limits.adapter_bytes >> 20} MiB' in PAGE
