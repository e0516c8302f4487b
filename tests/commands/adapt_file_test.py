"""Tasks of a file that adapters are tuned on."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runner

from hypertuning import adapt as adapt_lib
from hypertuning.data import layout, tuning_files, vocabularies
from hypertuning.data.layout import Texts
from hypertuning.engine import (
  batching,
  file_tuning,
  partitioning,
  train_state,
)
from hypertuning.errors import UserError

LENGTHS = runner.LENGTHS  # the programs of other tests' runs, of two queries
FORM = vocabularies.byte_format()
TASKS = (
  ('long', [(str(i), f'{3 * i % 10}') for i in range(8)], 5),
  ('short', [(f'a{i}', 'b') for i in range(3)], 1),
  ('alone', [('x', 'y')], 2),
)


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  """A file of tasks with different numbers of rows."""
  lines = [
    {
      'name': name,
      'definition': 'Go.',
      'examples': [{'inputs': x, 'targets': y} for x, y in examples],
      'test': [{'inputs': f't{i}', 'targets': f'{i}'} for i in range(tests)],
    }
    for name, examples, tests in TASKS
  ]
  file = tmp_path_factory.mktemp('tasks') / 'mine.jsonl'
  file.write_text('\n'.join(map(json.dumps, lines)))
  return str(file)


def _texts(rows):
  """Texts of the rows of a batch that are not only padding, `[rows][...]`."""
  return [
    [FORM.vocabulary.decode(x[x > 0].tolist()) for x in row if x.any()]
    for row in np.asarray(rows)
  ]


def test_batches_tune_on_examples_and_test_on_the_other_rows(path):
  model = runner.model()
  family = file_tuning.family(model, path, LENGTHS, None, 2, 0)
  assert family.name == 'mine'
  names = [name for name, _, _ in TASKS]
  assert family.tasks == names
  partitioner = partitioning.Partitioner(devices=tuple(jax.devices()[:1]))
  group = family.open_group(names, partitioner)
  assert {x.shape[0] for x in group.start.values()} == {2 * 3}
  # Two draws of a task show the same examples; more than one in two orders.
  shown = np.asarray(group.start['hyper_tokens'])
  for n, (_, examples, _) in enumerate(TASKS):
    one, other = shown[2 * n], shown[2 * n + 1]
    assert sorted(one) == sorted(other) or n == 0  # the first has no room
    assert (one != other).any() == (len(examples) > 1)
  asked = [set() for _ in TASKS]
  for _ in range(20):
    batch = next(group.train)
    shots = _texts(np.asarray(batch['hyper_tokens'])[:, None])
    for n, inputs in enumerate(_texts(batch['input_tokens'])):
      pool = {x for x, _ in TASKS[n][1]}
      assert {*inputs} <= pool and len(inputs) == min(2, len(pool))
      asked[n] |= {*inputs}
      if n == 1:  # its inputs are in no other text
        assert not any(text in shots[n][0] for text in inputs)
  assert asked == [{x for x, _ in examples} for _, examples, _ in TASKS]
  # Five rows, two at a time; the other tasks have nothing to ask at last.
  assert [_texts(batch['input_tokens'])[0] for batch in group.test] == [
    ['t0', 't1'],
    ['t2', 't3'],
    ['t4'],
  ]
  assert [list(map(len, group.targets[n::3])) for n in range(3)] == [
    [2, 2, 1],
    [1, 0, 0],
    [2, 0, 0],
  ]
  for number, batch in enumerate(group.test):
    weights = np.asarray(batch['target_weights']).any(axis=2).sum(axis=1)
    assert weights.tolist() == [len(x) for x in group.targets[3 * number :][:3]]


def test_queries_depend_on_seed_and_name_alone(path):
  model = runner.model()
  partitioner = partitioning.Partitioner(devices=tuple(jax.devices()[:1]))

  def queries(seed, names, first=0):
    family = file_tuning.family(model, path, LENGTHS, None, 1, seed)
    train = family.open_group(names, partitioner).train
    train.move({'next_episode': np.asarray(first)})
    batches = [next(train)['input_tokens'] for _ in range(6)]
    return [_texts(x)[names.index('long')] for x in batches]

  whole = queries(0, ['long', 'short'])
  assert queries(0, ['alone', 'short', 'long']) == whole
  assert queries(0, ['long', 'short'], first=4)[:4] == whole[2:]
  assert queries(1, ['long', 'short']) != whole


def test_the_first_loss_is_that_of_the_hypermodel(path, tmp_path):
  runner.train(tmp_path / 'run', total_steps=3)
  model = runner.model()
  arguments = runner.as_objects(
    {'mixture_or_task_name': None, 'mixture_or_task_module': None}
  )
  results = adapt_lib.adapt(
    model=model,
    optimizer=optax.adam(0.05),
    checkpoint_path=str(tmp_path / 'run'),
    output_dir=str(tmp_path / 'out'),
    total_steps=4,
    eval_period=4,
    input_path=path,
    **arguments,
  )
  rows = runner.read_lines(tmp_path / 'out/curves.jsonl')
  at_0 = {row['task']: row['loss'] for row in rows if row['step'] == 0}
  assert [*at_0] == [name for name, _, _ in TASKS]
  assert results[1]['questions'] == 8 and results[1]['episodes'] == 5
  partitioner = arguments['partitioner']
  params, frozen = train_state.restore_variables(
    model,
    batching.input_shapes(LENGTHS, model, 1),
    partitioner,
    str(tmp_path / 'run'),
  )
  score = jax.jit(model.score_batch)
  for task in tuning_files.read(path):
    total, tokens = 0.0, 0
    for first in range(0, len(task.test), 2):
      inputs, targets = zip(*task.test[first : first + 2], strict=True)
      texts = Texts(task.examples, inputs, targets, 'Go.')
      features = layout.model_features(
        layout.task_features(texts, LENGTHS, FORM), LENGTHS
      )
      batch = {name: jnp.asarray(x)[None] for name, x in features.items()}
      scores = score(params, batch, flax_mutables={'frozen': frozen})
      total -= float(scores.sum())
      tokens += int(batch['target_weights'].sum())
    assert at_0[task.name] == pytest.approx(total / tokens, rel=1e-5)


ROW = '[{"inputs": "a", "targets": "b"}]'
OTHER_ROW = '[{"inputs": "c", "targets": "b"}]'


@pytest.mark.parametrize(
  'text, words',
  [
    ('', 'no tasks in it'),
    ('nope', ':1: not JSON'),
    ('[]', ':1: "examples" is empty'),
    (f'{{"examples": {ROW}}}', ':1: "test" is empty'),
    (f'{{"examples": {ROW}, "test": ["a"]}}', ':1: "test" must be a list'),
    (f'{{"examples": {ROW}, "test": {ROW}}}', "has the input 'a' of an exam"),
    (f'{{"name": 3, "examples": {ROW}, "test": {ROW}}}', '"name" must be a'),
    (
      '\n'.join(
        f'{{"name": "x", "examples": {ROW}, "test": {OTHER_ROW}}}'
        for _ in range(2)
      ),
      ':2: another line has the "name" \'x\' too',
    ),
  ],
)
def test_lines_of_another_form_are_named(tmp_path, text, words):
  path = tmp_path / 'in.jsonl'
  path.write_text(text)
  with pytest.raises(UserError) as error:
    tuning_files.read(str(path))
  message = str(error.value)
  assert message.startswith(str(path)) and words in message
  assert '\n' not in message


@pytest.mark.parametrize(
  'change, words',
  [
    ({'input_path': None}, 'Bind ADAPT_INPUT'),
    ({'tuning_rows': 3}, 'TUNING_ROWS = 3: tasks of ADAPT_INPUT'),
  ],
)
def test_slips_are_named(path, tmp_path, change, words):
  with pytest.raises(UserError, match=words):
    adapt_lib.adapt(
      **{
        'model': runner.model(),
        'optimizer': optax.adam(0.05),
        'checkpoint_path': 'none',
        'output_dir': str(tmp_path / 'out'),
        'total_steps': 1,
        'input_path': path,
        **runner.as_objects(
          {'mixture_or_task_name': None, 'mixture_or_task_module': None}
        ),
        **change,
      }
    )
  assert not (tmp_path / 'out').exists()
