"""Function vectors' tasks: files, and what is held out."""

import json

import pytest
import seqio
import shared

from hypertuning.data import text_format, vocabularies
from hypertuning.errors import UserError
from hypertuning.tasks import function_vectors

REAL = shared.DATA / 'icl' / 'function_vectors'
TASKS = {
  'abstractive/antonym': 'opposite of {}',
  'abstractive/capitalize': 'big {}',
  'extractive/choose_last_of_3': 'last {}',
  'extractive/choose_last_of_5': 'very last {}',
  'extractive/sport': 'plays {}',
}


@pytest.fixture
def folder(tmp_path):
  """As the repository has it: a list of objects a file, in two folders."""
  for name, text in TASKS.items():
    path = tmp_path / f'{name}.json'
    path.parent.mkdir(exist_ok=True)
    rows = [{'input': f'w{n}', 'output': text.format(n)} for n in range(6)]
    path.write_text(json.dumps(rows))
  (tmp_path / 'README.md').write_text('not a task')
  return tmp_path


def register(folder, held_out, **more):
  return function_vectors.function_vectors(
    str(folder), 'vectors', held_out, **{'shots': 3, **more}
  )


def episodes(name, split, count=-1):
  source = seqio.TaskRegistry.get(name).source
  return list(source.get_dataset(split).take(count).as_numpy_iterator())


def test_whole_tasks_are_held_out(folder):
  name = register(folder, ['sport', 'antonym'], most_asked=4, draws=2)
  trained = {e['task'].decode() for e in episodes(name, 'train', 60)}
  assert trained == {'capitalize', 'choose_last_of_3', 'choose_last_of_5'}
  asked = episodes(name, 'validation')
  assert {e['task'] for e in asked} == {b'sport', b'antonym'}
  assert len(asked) == 2 * 4 * 2
  for e in asked:
    shown = e['shot_inputs'].tolist()
    assert e['query_inputs'][0] in [b'w0', b'w1', b'w2', b'w3']
    assert len(set(shown)) == 3 and e['query_inputs'][0] not in shown
  assert any(b'w5' in e['shot_inputs'] for e in asked)


def test_a_number_holds_out_functions_at_equal_distances():
  names = ['a', 'b_3', 'b_5', 'c', 'd', 'e_1', 'e_2', 'f']
  assert function_vectors.choose(names, 1) == ['a']
  assert function_vectors.choose(names, 2) == ['a', 'd']
  assert function_vectors.choose(names[::-1], 3) == ['a', 'c', 'e_1', 'e_2']
  assert len(function_vectors.choose(names, 7)) == 7  # all but f
  for count in (0, 8):
    with pytest.raises(UserError, match=f'held_out = {count}: give a number'):
      function_vectors.choose(names, count)


def test_bad_input_is_one_line(folder):
  def message(held_out=1, where=folder, **more):
    with pytest.raises(UserError) as error:
      register(where, held_out, **more)
    assert '\n' not in str(error.value)
    return str(error.value)

  assert "no task 'sprot'; did you mean sport?" in message(['sprot'])
  assert "no task 'x'; the folder has none." in message('x')
  assert '0 of 5 tasks' in message([])
  names = [name.partition('/')[2] for name in TASKS]
  assert '5 of 5 tasks' in message(names)
  assert "'capitalize' has 6 examples" in message(shots=6)
  assert 'no .json, .jsonl' in message(where=folder / 'nowhere')
  copy = folder / 'extractive' / 'antonym.jsonl'
  copy.write_text('{"input": "a", "output": "b"}\n')
  assert "another file has task 'antonym'" in message()
  copy.unlink()
  path = folder / 'abstractive' / 'antonym.json'
  path.write_text('[{"input": "a"}]')  # some wrong rows would be left out
  assert f"{path}:1: no field 'output'" in message()


@shared.needed
def test_the_real_folder():
  """56 tasks, 16 of them held out, none of a function that is trained on."""
  path = shared.DATA / 'tokenizer' / 't5' / 'spiece.model'
  name = function_vectors.function_vectors(
    str(REAL),
    'vectors_real',
    text_format=text_format.t5_format(vocabularies.sentencepiece(str(path))),
  )
  names = sorted(file.stem for file in REAL.glob('*.jsonl'))
  held = function_vectors.choose(names, 16)
  assert len(names) == 56 and len(held) in (16, 17)
  functions = {function_vectors._function(n) for n in held}
  rest = set(names) - set(held)
  assert not functions & {function_vectors._function(n) for n in rest}
  rows = episodes(name, 'validation')
  assert {e['task'].decode() for e in rows} == set(held)
  assert {e['task'].decode() for e in episodes(name, 'train', 400)} <= rest
  dataset = seqio.get_mixture_or_task(name).get_dataset(
    {'hyper_inputs': 1024, 'inputs': (1, 384), 'targets': (1, 128)},
    'train',
    seed=0,
  )
  (example,) = dataset.take(1).as_numpy_iterator()
  assert len(example['hyper_inputs']) > 16
