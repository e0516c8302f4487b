"""Evaluation and answering: real commands on a real, tiny checkpoint."""

import json

import numpy as np
import pytest
import runner
import seqio

from hypertuning import infer as infer_lib
from hypertuning.adapters import io
from hypertuning.data import (
  lookup,
  metrics,
  request_files,
  text_format,
  vocabularies,
)
from hypertuning.engine import task_data
from hypertuning.engine.partitioning import Partitioner
from hypertuning.errors import UserError
from hypertuning.evaluation import scoring

MODES = ('generated', 'other', 'none')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
  """Of a model that has moved away from its initial weights."""
  folder = tmp_path_factory.mktemp('run')
  runner.train(folder, total_steps=3)
  return str(folder)


def _evaluate(checkpoint, output_dir, **overrides):
  arguments = {
    'model': runner.model(),
    'mixture_or_task_name': runner.TASK,
    'mixture_or_task_module': 'hypertuning.tasks.toy',
    'task_feature_lengths': runner.LENGTHS,
    'batch_size': 8,
    'checkpoint_path': checkpoint,
    'output_dir': str(output_dir),
    'num_batches': 2,
  }
  return runner.evaluate(**{**arguments, **overrides})


@pytest.fixture(scope='module')
def results(checkpoint, tmp_path_factory):
  folder = tmp_path_factory.mktemp('eval')
  return _evaluate(checkpoint, folder, mixture_or_task_name='toy'), folder


def test_every_task_of_a_mixture_and_their_mean(results):
  rows, folder = results
  assert rows == runner.read_lines(folder / 'results.jsonl')
  tasks = ['toy_strings', 'toy_symbols', 'average']
  assert [(r['task'], r['phi']) for r in rows] == [
    (task, mode) for task in tasks for mode in MODES
  ]
  by_name = {(row['task'], row['phi']): row for row in rows}
  for mode in MODES:
    parts = [by_name[task, mode] for task in tasks[:2]]
    mean = by_name['average', mode]
    # Two batches of eight episodes of two queries.
    assert [x['questions'] for x in (*parts, mean)] == [32, 32, 64]
    for metric in ('loss', 'accuracy'):
      assert mean[metric] == pytest.approx(np.mean([p[metric] for p in parts]))
      # The mean of two independent numbers.
      assert mean[f'{metric}_stderr'] == pytest.approx(
        np.hypot(*[p[f'{metric}_stderr'] for p in parts]) / 2
      )
  gap = by_name['toy_symbols', 'none']
  assert gap['gap_low'] < gap['gap'] < gap['gap_high']
  assert gap['gap'] == pytest.approx(
    gap['loss'] - by_name['toy_symbols', 'generated']['loss']
  )


def test_predictions_agree_with_the_results(results):
  rows, folder = results
  said = runner.read_lines(folder / 'predictions.jsonl')
  # Two batches of eight episodes of two queries, for two tasks and three modes.
  assert len(said) == 2 * 8 * 2 * 2 * 3
  assert not list(folder.glob('.*.tmp'))
  for row in rows[:6]:
    own = [
      x for x in said if (x['task'], x['phi']) == (row['task'], row['phi'])
    ]
    right = [x['prediction'] == x['target'] for x in own]
    assert row['accuracy'] == pytest.approx(100 * np.mean(right))
    vocabulary = vocabularies.byte_vocabulary()
    # With EOS, and as many as there is room for.
    lengths = [min(len(vocabulary.encode(x['target'])) + 1, 4) for x in own]
    total = -sum(x['log_likelihood'] for x in own)
    assert row['loss'] == pytest.approx(total / sum(lengths), rel=1e-5)


def test_spread_over_draws_of_shots():
  targets, draws = [[['a']], [['b']]] * 3, [0, 0, 1, 1, 2, 2]
  said = [['a'], ['b'], ['a'], ['x'], ['x'], ['x']]
  found = scoring.measure([metrics.exact_match], targets, said, draws)
  assert found['accuracy'] == pytest.approx(50.0)
  # 100, 50 and 0 percent.
  assert found['accuracy_std'] == pytest.approx(50.0)
  assert found['accuracy_stderr'] == pytest.approx(100 * (0.3 / 6) ** 0.5)
  once = scoring.measure([metrics.exact_match], targets, said, [0] * 6)
  assert 'accuracy_std' not in once


def test_table_is_markdown_with_errors(results):
  lines = scoring.table(results[0]).splitlines()
  assert lines[0].startswith('| task | phi | episodes | questions | loss | ')
  assert set(lines[1]) == set('|- ')
  assert len(lines) == 2 + 9 and all(
    x.count('|') == lines[0].count('|') for x in lines
  )
  assert '±' in lines[2]


def test_filled_up_batches_do_not_change_results(checkpoint, tmp_path, results):
  """16 episodes in batches of 24: eight rows are no episodes at all."""
  name = 'toy_symbols_first_16'
  task = seqio.TaskRegistry.get(runner.TASK)
  if name not in seqio.TaskRegistry.names():
    seqio.TaskRegistry.add(
      name,
      source=seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: task.source.get_dataset(
          split
        ).take(16),
        splits=('validation',),
      ),
      preprocessors=task.preprocessors,
      output_features=task.output_features,
      postprocess_fn=task.postprocess_fn,
      metric_fns=task.metric_fns,
    )
  rows = _evaluate(
    checkpoint,
    tmp_path,
    mixture_or_task_name=name,
    batch_size=24,
    num_batches=None,
    phi_modes=('generated', 'none'),
  )
  expected = {r['phi']: r for r in results[0] if r['task'] == runner.TASK}
  for row in rows:
    assert row['episodes'] == 16
    # Another batch shape: float32 sums in another order.
    assert row['loss'] == pytest.approx(expected[row['phi']]['loss'], rel=1e-5)
    assert row['accuracy'] == expected[row['phi']]['accuracy']


def test_evaluation_sees_every_episode_once():
  lookup.import_tasks('hypertuning.tasks.toy')
  for batch_size in (7, 64):
    data = task_data.TaskData(runner.TASK, runner.LENGTHS, batch_size)
    dataset = data.batches(runner.model())
    real = sum(int(b['is_real'].numpy().sum()) for b in dataset)
    shapes = {b['hyper_tokens'].shape[0] for b in dataset}
    task = seqio.TaskRegistry.get(runner.TASK)
    assert real == task.source.num_input_examples('validation')
    assert shapes == {batch_size}


def _infer(checkpoint, output_dir, **overrides):
  arguments = {
    'model': runner.model(),
    'task_feature_lengths': runner.LENGTHS,
    'batch_size': 8,
    'checkpoint_path': checkpoint,
    'output_dir': str(output_dir),
  }
  arguments = runner.as_objects({**arguments, **overrides})
  return infer_lib.infer(**arguments)


def _task_file(path, *tasks):
  path.write_text(''.join(json.dumps(task) + '\n' for task in tasks))
  return str(path)


def test_a_file_of_tasks_is_answered(checkpoint, tmp_path):
  examples = [
    {'inputs': '1a', 'targets': 'B'},
    {'inputs': '2c', 'targets': 'D'},
  ]
  path = _task_file(
    tmp_path / 'in.jsonl',
    {'examples': examples, 'queries': ['3a', '4c', '5a', '6c', '7a']},
    {'examples': examples[:1], 'queries': ['üa']},
  )
  rows = _infer(
    checkpoint, tmp_path / 'out', input_path=path, save_adapters=True
  )
  assert rows == runner.read_lines(tmp_path / 'out/predictions.jsonl')
  assert [(r['episode'], r['query']) for r in rows] == [
    *((1, query) for query in ('3a', '4c', '5a', '6c', '7a')),
    (2, 'üa'),
  ]
  # One phi a task, though the first needed three rows of a batch.
  phi = io.load(tmp_path / 'out/adapters.safetensors')
  assert {len(x.key) for x in phi.sites.values()} == {2}


def test_a_file_gives_the_answers_of_the_same_seqio_task(checkpoint, tmp_path):
  rows = _infer(
    checkpoint,
    tmp_path / 'task',
    mixture_or_task_name=runner.TASK,
    mixture_or_task_module='hypertuning.tasks.toy',
    num_batches=1,
  )
  source = seqio.TaskRegistry.get(runner.TASK).source
  tasks = []
  for episode in source.get_dataset('validation').take(8).as_numpy_iterator():
    texts = {
      name: [x.decode() for x in episode[name]]
      for name in ('shot_inputs', 'shot_targets', 'query_inputs')
    }
    tasks.append(
      {
        'examples': [
          {'inputs': x, 'targets': y}
          for x, y in zip(
            texts['shot_inputs'], texts['shot_targets'], strict=True
          )
        ],
        'queries': texts['query_inputs'][:2],  # as many as LENGTHS keeps
      }
    )
  path = _task_file(tmp_path / 'in.jsonl', *tasks)
  again = _infer(checkpoint, tmp_path / 'file', input_path=path)
  assert len(rows) == len(again) == 16
  for a, b in zip(rows, again, strict=True):
    assert a['prediction'] == b['prediction'] and a['score'] == b['score']


def _markers():
  return text_format.markers_format(
    vocabularies.byte_vocabulary(), 'Task: ', ' In: ', ' Out: '
  )


def test_a_file_is_read_in_the_models_own_format(checkpoint, tmp_path):
  """With its markers, its definition, and examples only as wholes."""
  model = runner.model(text_format=_markers())
  examples = [{'inputs': '1a', 'targets': 'B'}, {'inputs': 'c', 'targets': 'D'}]
  line = {'definition': 'Say it.', 'examples': examples, 'queries': ['3a']}
  path = _task_file(tmp_path / 'in.jsonl', line)
  lengths = {'hyper_inputs': 64, 'inputs': (2, 16), 'targets': (2, 4)}
  (part,) = infer_lib._from_file(model, path, lengths, 8, Partitioner())
  decode = vocabularies.byte_vocabulary().decode
  # By their lengths: what the hypermodel reads, and the downstream model.
  texts = {
    x.shape[1:]: [decode(row[row > 0].tolist()) for row in np.atleast_2d(x[0])]
    for x in map(np.asarray, part.batch.values())
    if x.shape[1:] in ((64,), (2, 16))
  }
  assert texts == {
    (64,): ['Task: Say it. In: 1a Out: B In: c Out: D'],
    (2, 16): [' In: 3a Out: ', ''],
  }


def test_a_model_without_phi_reads_the_files_examples(tmp_path):
  model = runner.model(hyper=False)
  folder = tmp_path / 'run'
  runner.train(folder, model, total_steps=1)
  lengths = {**runner.LENGTHS, 'inputs': (2, 24)}
  queries = {'queries': ['3a', '4c']}
  scores = []
  for target in 'BC':
    examples = [{'inputs': '1a', 'targets': target}]
    path = _task_file(tmp_path / 'in.jsonl', {'examples': examples, **queries})
    rows = _infer(
      folder,
      tmp_path / f'out_{target}',
      model=model,
      task_feature_lengths=lengths,
      input_path=path,
    )
    scores.append([row['score'] for row in rows])
  assert (np.array(scores[0]) != scores[1]).all()


def test_examples_that_do_not_fit_are_counted_once(
  checkpoint, tmp_path, capsys
):
  examples = [{'inputs': 'x' * 60, 'targets': 'y'}]
  examples += [{'inputs': 'a', 'targets': 'b'}]
  line = {'examples': examples, 'queries': ['1', '2', '3']}  # two rows
  path = _task_file(tmp_path / 'in.jsonl', line)
  _infer(checkpoint, tmp_path / 'out', input_path=path)
  assert "1 examples do not fit into TASK_FEATURE_LENGTHS['hyper_inputs']" in (
    capsys.readouterr().err
  )


@pytest.mark.parametrize(
  'text, words',
  [
    ('', 'no tasks in it'),
    ('\n\n', 'no tasks in it'),
    ('{"queries": ["a"]}\nnope', ':2: not JSON'),
    ('[]', ':1: "queries" must be'),
    ('{"queries": "a"}', ':1: "queries" must be'),
    ('{"queries": [1]}', ':1: "queries" must be'),
    ('{"queries": ["a"], "examples": [{"inputs": "b"}]}', ':1: "examples"'),
    ('{"queries": ["a"], "examples": {}}', ':1: "examples" must be'),
    ('{"queries": ["a"], "definition": 1}', ':1: "definition" must be'),
  ],
)
def test_lines_of_another_form_are_named(tmp_path, text, words):
  path = tmp_path / 'in.jsonl'
  path.write_text(text)
  with pytest.raises(UserError) as error:
    request_files.read(str(path))
  assert str(error.value).startswith(str(path)) and words in str(error.value)


def test_query_without_room_is_named():
  request = request_files.Request(4, [], ['much too long'])
  with pytest.raises(
    UserError, match=r"Line 4: .*LENGTHS\['inputs'\] = \(2, 6"
  ):
    request_files.episodes(
      [request], runner.LENGTHS, vocabularies.byte_format()
    )
