"""Many clients at once: nothing is lost, and batches change no answer."""

import concurrent.futures
import itertools

import served

CLIENTS, REQUESTS = 16, 200


def test_requests_of_many_clients_are_those_one_by_one(server):
  tasks = [
    [{'inputs': x, 'targets': letter} for x in ('a', 'bb', 'c')]
    for letter in 'xyz'
  ]
  fields = [
    *({'phi': server.adapt(examples=task)['name']} for task in tasks),
    {},
    {'examples': tasks[0]},
  ]
  kinds = [
    {'queries': [query, query * 2][: 1 + n % 2], **field}
    for n, (query, field) in enumerate(itertools.product('abcde', fields))
  ]
  alone = [server.answer(**kind)['answers'] for kind in kinds]
  assert len({str(answers) for answers in alone}) > 2

  def ask(number):
    return server.answer(**kinds[number % len(kinds)])['answers']

  with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
    found = list(clients.map(ask, range(REQUESTS)))
  assert found == [alone[n % len(kinds)] for n in range(REQUESTS)]


def test_more_requests_than_wait_are_told_to_come_again(server):
  body = {'queries': ['a'] * 32, 'max_tokens': 16}

  def ask(_):
    return server.request('answer', body)

  with concurrent.futures.ThreadPoolExecutor(96) as clients:
    replies = list(clients.map(ask, range(96)))
  statuses = {reply.status for reply in replies}
  assert statuses == {200, 503}
  for reply in replies:
    if reply.status == 503:
      assert reply.headers['retry-after'] == '1'
      assert 'come again' in reply.json['error']
  assert server.answer(served.QUERIES)['answers']
