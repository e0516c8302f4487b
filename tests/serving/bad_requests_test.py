"""Each bad request gets one line, and the server lives."""

import json
import socket

import pytest
import served

# Their runs are trained first, for half a minute and more.
pytestmark = pytest.mark.slow

ONE = [{'inputs': 'a', 'targets': 'b'}]
_BODIES = {
  'no JSON': (b'{"queries": ["a"', 400, 'is no JSON'),
  'nothing': (b'', 422, 'Field required'),
  'no object': (b'[1]', 422, ''),
  'deep': (b'[' * 100_000, 400, ''),
  'digits': (
    b'{"queries": ["a"], "max_tokens": ' + b'9' * 9999 + b'}',
    400,
    '',
  ),
  'no UTF-8': (b'{"queries": ["\xff"]}', 400, 'not UTF-8, at byte 15'),
  'half a surrogate': (b'{"queries": ["\\ud800"]}', 422, 'queries[0]'),
  'a number': ({'queries': [1]}, 422, 'queries[0]'),
  'no query': ({'queries': []}, 422, 'queries'),
  'a text': ({'queries': 'a'}, 422, 'queries'),
  'many queries': ({'queries': ['a'] * 65}, 422, 'at most 64'),
  'long text': ({'queries': ['a' * 20_001]}, 422, '20000'),
  'many tokens': ({'queries': ['a'], 'max_tokens': 257}, 422, 'max_tokens'),
  'no tokens': ({'queries': ['a'], 'max_tokens': 0}, 422, 'max_tokens'),
  'unknown field': ({'queries': ['a'], 'phis': 'x'}, 422, 'phis'),
  'unknown phi': ({'queries': ['a'], 'phi': 'x'}, 404, "'x' is not here"),
  'both': ({'queries': ['a'], 'phi': 'x', 'examples': ONE}, 400, 'not both'),
  'too long in context': (
    {'queries': ['a'], 'examples': [{'inputs': 'aaaa', 'targets': 'b'}] * 999},
    400,
    'give fewer examples',
  ),
}
_EXAMPLES = {
  'none': ([], 'examples'),
  'without targets': ([{'inputs': 'a'}], 'examples[0].targets'),
  'empty targets': ([*ONE, {'inputs': 'a', 'targets': ''}], 'examples[1]'),
  'pairs': ([['a', 'b']], 'examples[0]'),
  '10,000': (ONE * 10_000, 'at most 1000'),
}


def refused(server, reply, status, text):
  assert reply.status == status, reply.data
  assert list(reply.json) == ['error']
  assert text in reply.json['error'] and '\n' not in reply.json['error']
  assert server.answer(['a'])['answers']


@pytest.mark.parametrize('kind', _BODIES)
def test_bad_questions(server, kind):
  body, status, text = _BODIES[kind]
  refused(server, server.request('answer', body), status, text)


@pytest.mark.parametrize('kind', _EXAMPLES)
def test_bad_examples(server, kind):
  examples, text = _EXAMPLES[kind]
  reply = server.request('adapt', {'examples': examples})
  refused(server, reply, 422, text)


def test_examples_that_the_hypermodel_cannot_read(server):
  """Too many tokens at once; too many chunks; one that fits no chunk."""
  many = {'examples': ONE * 1000, 'draws': 16}
  refused(server, server.request('adapt', many), 400, 'give fewer')
  chunks = {'examples': ONE * 1000}
  refused(server, server.request('adapt', chunks), 400, 'Give fewer examples')
  long = {'examples': [{'inputs': 'a' * 200, 'targets': 'b'}]}
  refused(server, server.request('adapt', long), 400, 'number 1')


@pytest.mark.parametrize('name', ['', '.', 'a/b', 'a b', 'ä', 'x' * 65])
def test_bad_names(server, name):
  reply = server.request('adapt', {'examples': ONE, 'name': name})
  refused(server, reply, 422, 'name')


@pytest.mark.parametrize('path', ['phi/none', 'nothing', 'static/../app.py'])
def test_what_is_not_there(server, path):
  refused(server, server.request(path), 404, '')


def test_a_body_of_100_megabytes(server):
  reply = server.request('answer', bytes(100_000_000))
  refused(server, reply, 413, '1,048,576 bytes')


def test_a_body_without_a_length_is_bounded_as_well(server):
  with socket.create_connection(('127.0.0.1', server.port), 30) as client:
    client.sendall(
      b'POST /adapt HTTP/1.1\r\nHost: localhost\r\n'
      b'Transfer-Encoding: chunked\r\n\r\n'
    )
    chunk = b'%x\r\n' % (1 << 16) + bytes(1 << 16) + b'\r\n'
    for _ in range(20):
      client.sendall(chunk)
    client.sendall(b'0\r\n\r\n')
    assert b' 413 ' in client.recv(100)
  assert server.answer(['a'])['answers']


def test_pages_of_other_sites_are_refused(server):
  reply = server.request('model', headers={'Host': 'evil.example'})
  refused(server, reply, 421, '--host')
  body = {'queries': ['a']}
  origin = {'Origin': 'https://evil.example'}
  reply = server.request('answer', body, headers=origin)
  refused(server, reply, 403, 'another site')
  own = {'Origin': server.url.rstrip('/')}
  assert server.request('answer', body, headers=own).status == 200


def test_clients_that_go_away(server):
  """In the middle of their body, of a stream, and while they wait."""
  for _ in range(5):
    stream = server.open_stream(queries=['a'] * 64, max_tokens=256)
    stream.readline()
    stream.close()
    with socket.create_connection(('127.0.0.1', server.port), 30) as client:
      client.sendall(
        b'POST /adapt HTTP/1.1\r\nHost: localhost\r\n'
        b'Content-Length: 99\r\n\r\n{"exam'
      )
    body = json.dumps({'queries': ['a'] * 64, 'max_tokens': 256}).encode()
    with socket.create_connection(('127.0.0.1', server.port), 30) as client:
      client.sendall(
        b'POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: '
        b'application/json\r\nContent-Length: %d\r\n\r\n' % len(body)
      )
      client.sendall(body)
  assert server.answer()['answers'] == server.answer(served.QUERIES)['answers']
