"""The JSON interface on a tiny model, beside the Python interface."""

import dataclasses
import io
import json
import zipfile

import pytest
import served

import hypertuning
from hypertuning.api.phi import Phi

PAIRS = [(example['inputs'], example['targets']) for example in served.EXAMPLES]


@pytest.fixture(scope='module')
def model(run):
  return hypertuning.load(run)


@pytest.fixture(scope='module')
def name(server):
  return server.adapt(name='mine', definition='Do it.')['name']


def test_a_phi_is_made_and_answers_as_in_python(server, model):
  made = server.adapt(definition='Do it.', draws=3, name='drawn')
  phi = model.adapt(PAIRS, definition='Do it.', draws=3)
  assert made['name'] == 'drawn'
  assert made['kind'] == phi.kind == 'lora'
  assert made['bytes'] == phi.num_bytes
  assert made['chunks'] == phi.made['chunks']
  assert made['milliseconds'] >= 0
  answers = server.answer(phi='drawn')['answers']
  assert answers == model.answer(served.QUERIES, phi)


def test_without_phi_the_frozen_model_answers_with_examples_or_without(
  server, model
):
  assert server.answer()['answers'] == model.answer(served.QUERIES)
  found = server.answer(examples=served.EXAMPLES, definition='Do it.')
  assert found['answers'] == model.answer(
    served.QUERIES, examples=PAIRS, definition='Do it.'
  )
  assert found['tokens']['read'] > server.answer()['tokens']['read']


def test_max_tokens_bounds_each_answer(server, model):
  for most in (1, 3):
    found = server.answer(max_tokens=most)
    assert found['answers'] == model.answer(served.QUERIES, max_tokens=most)
    assert found['tokens']['written'] <= most * len(served.QUERIES)


def test_a_stream_has_the_answers_as_they_grow(server, name):
  lines = [json.loads(x) for x in server.open_stream(phi=name, max_tokens=9)]
  *parts, last = lines
  assert last['answers'] == server.answer(phi=name, max_tokens=9)['answers']
  for query, answer in enumerate(last['answers']):
    texts = [part['text'] for part in parts if part['query'] == query]
    assert texts[-1] == answer
    assert len(texts) > 1 or last['tokens']['written'] <= len(served.QUERIES)


def test_the_same_examples_give_a_name_of_its_own_each_time(server):
  assert server.adapt()['name'] != server.adapt()['name']


def test_a_phi_comes_back_as_a_file_and_goes_in_as_one(
  server, model, name, tmp_path
):
  reply = server.request(f'phi/{name}')
  assert f'{name}.safetensors' in reply.headers['content-disposition']
  path = tmp_path / 'phi.safetensors'
  path.write_bytes(reply.data)
  phi = model.load_phi(path)
  answers = server.answer(phi=name)['answers']
  assert model.answer(served.QUERIES, phi) == answers
  put = server.request('phi/copy', reply.data, 'PUT')
  assert put.json['bytes'] == phi.num_bytes
  assert server.answer(phi='copy')['answers'] == answers


def test_a_phi_leaves_for_peft(server, name):
  reply = server.request(f'phi/{name}?form=peft')
  assert reply.status == 200, reply.data
  with zipfile.ZipFile(io.BytesIO(reply.data)) as packed:
    config = json.loads(packed.read(f'{name}/adapter_config.json'))
    assert f'{name}/adapter_model.safetensors' in packed.namelist()
  assert config['peft_type'] == 'LORA'


def test_phi_of_another_model_and_other_files_are_refused(
  server, model, tmp_path
):
  phi = model.adapt(PAIRS)
  other = dataclasses.replace(phi.base, name='other', fingerprint='0')
  Phi(phi.adapters, other).save(tmp_path / 'other.safetensors')
  reply = server.request(
    'phi/mine_too', (tmp_path / 'other.safetensors').read_bytes(), 'PUT'
  )
  assert reply.status == 400
  assert reply.json['error'].startswith('mine_too: was made for other')
  reply = server.request('phi/mine_too', b'nothing of the kind', 'PUT')
  assert reply.status == 400
  assert 'mine_too: not a safetensors file' in reply.json['error']
  assert server.request('phi/mine_too').status == 404


def test_model_says_what_is_served(server, run, model):
  found = server.request('model').json
  assert found['name'] == run
  assert found['has_hypermodel'] and found['missing'] == ''
  assert found['max_tokens'] == model.lengths['targets'][-1]
  assert found['limits']['body_bytes'] == 1 << 20


def test_the_interface_is_described_without_other_hosts(server):
  paths = server.request('openapi.json').json['paths']
  assert set(paths) == {'/model', '/adapt', '/answer', '/phi/{name}'}
  page = server.request('docs').data.decode()
  for quote in ('src="', 'href="'):
    for part in page.split(quote)[1:]:
      assert part.startswith('/'), part[:80]
      assert server.request(part.split('"')[0]).status == 200


def test_pages_may_run_their_own_scripts_alone(server):
  policy = server.request('').headers['content-security-policy']
  assert "default-src 'none'" in policy and 'unsafe' not in policy
