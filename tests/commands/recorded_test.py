"""`config.gin` records what a command did: its bindings and random numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner

from hypertuning import gin_effect, gin_utils, infer, locks, train
from hypertuning.engine import batching, partitioning, restarts
from hypertuning.errors import UserError
from hypertuning.evaluation import eval_step, phi_modes

GOLDEN = runner.ROOT / 'tests/golden'
ONE_DEVICE = partitioning.Partitioner(devices=tuple(jax.devices()[:1]))
QUESTION = {
  'examples': [{'inputs': '7c', 'targets': 'cB'}],
  'queries': ['3c', '3c', '3c', '3c', '3c', '3c'],
}
SAMPLE = (
  'from hypertuning import models\n'
  'from hypertuning.networks import decoding\n'
  'models.HyperTuningModel.decode_fn = @decoding.sample\n'
  'decoding.sample.temperature = 3.0\n'
)
BEAM = (
  'from hypertuning import models\n'
  'from hypertuning.networks import decoding\n'
  'models.HyperTuningModel.decode_fn = @decoding.beam_search\n'
)


@pytest.fixture
def answers(tmp_path):
  """Runs `infer` on one question, asked six times."""
  record = json.loads((GOLDEN / 'cli_infer.json').read_text())
  (tmp_path / 'in.jsonl').write_text(json.dumps(QUESTION) + '\n')

  def run(own: str, **changed):
    (tmp_path / 'own.gin').write_text(
      f'from __gin__ import dynamic_registration\n{own}'
    )
    files = [
      file.replace('gin/models/sizes/tiny.gin', 'gin/experiments/toy.gin')
      for file in record['gin_files']
    ]
    bindings = {
      'CHECKPOINT_PATH': str(GOLDEN / 'checkpoint'),
      'INFER_INPUT': str(tmp_path / 'in.jsonl'),
      'INFER_OUTPUT_DIR': str(tmp_path / 'out'),
      # One query per episode: six rows of a batch, or six batches.
      'TASK_FEATURE_LENGTHS': {
        'hyper_inputs': 40,
        'inputs': (1, 5),
        'targets': (1, 5),
      },
      **changed,
    }
    flags = [
      binding.removeprefix('--gin.')
      for binding in record['bindings']
      if binding.removeprefix('--gin.').partition('=')[0] not in bindings
    ]
    gin_utils.parse(
      [*files, str(tmp_path / 'own.gin')],
      [*flags, *(f'{name} = {value!r}' for name, value in bindings.items())],
    )
    rows = gin_utils.call(infer.infer, partitioner=ONE_DEVICE)
    return [(row['prediction'], row['score']) for row in rows]

  return run


def test_samples_do_not_depend_on_batches(answers):
  """Samples of one question differ, and are the same in batches of any size."""
  batch_answers = answers(SAMPLE, BATCH_SIZE=6)
  assert len(set(batch_answers)) == 6
  single_answers = answers(SAMPLE, BATCH_SIZE=1)
  assert [text for text, _ in single_answers] == [
    text for text, _ in batch_answers
  ]
  np.testing.assert_allclose(
    [score for _, score in single_answers],
    [score for _, score in batch_answers],
    rtol=1e-4,
  )
  seed_answers = answers(SAMPLE, BATCH_SIZE=6, RANDOM_SEED=1)
  assert not set(seed_answers) & set(batch_answers)


def test_nothing_is_written_with_a_binding_without_effect(answers, tmp_path):
  with pytest.raises(UserError, match='sample.end_ids = .* no effect'):
    answers(f'{SAMPLE}decoding.sample.end_ids = (5,)\n', BATCH_SIZE=6)
  assert not (tmp_path / 'out').exists()


def test_number_of_beams_has_an_effect(tmp_path):
  """As a binding of the function, of the model's method, and by default."""
  function = 'decoding.beam_search.num_decodes = 3\n'
  method = 'models.HyperTuningModel.predict_batch_with_aux.num_decodes = '
  for own, beams in (
    ('', 4),
    (function, 3),
    (f'{method}2\n', 2),
    (f'{function}{method}2\n', None),
    ('decoding.beam_search.end_ids = (5,)\n', None),
  ):
    path = tmp_path / 'own.gin'
    path.write_text(f'from __gin__ import dynamic_registration\n{BEAM}{own}')
    bindings = {**runner.TRAIN, 'MODEL_DIR': 'run'}
    gin_utils.parse(
      [*runner.TRAIN_FILES, str(path)],
      [f'{name} = {value!r}' for name, value in bindings.items()],
    )
    num_decodes = _decodes(gin_utils.arguments(train.train)['model'])
    if beams is None:
      with pytest.raises(UserError, match='beam_search.* = .*: has no effect'):
        gin_effect.check_overridden()
      continue
    gin_effect.check_overridden()
    assert num_decodes == beams


def _decodes(model) -> int:
  """Number of decodes per query, without computing any."""
  shapes = batching.input_shapes(runner.LENGTHS, model, 2)
  batch = {name: jnp.ones(shape, int) for name, shape in shapes.items()}

  def predict():
    variables = model.get_initial_variables(jax.random.key(0), shapes)
    return model.predict_batch_with_aux(
      variables['params'],
      batch,
      return_all_decodes=True,
      flax_mutables={'frozen': variables['frozen']},
    )[0]

  return jax.eval_shape(predict).shape[2]


def test_bindings_that_a_command_does_not_use(tmp_path, monkeypatch, capfd):
  own = tmp_path / 'own.gin'
  own.write_text(
    'from __gin__ import dynamic_registration\n'
    'from hypertuning.networks import decoding\n'
    'decoding.sample.temperature = 0.7\n'
    'TRAIN_STEPS = 1\n',
    encoding='utf-8-sig',
  )
  files = (*runner.TRAIN_FILES, str(own))
  bindings = {**runner.TRAIN, 'MODEL_DIR': str(tmp_path / 'run')}
  bindings['MIXTURE_OR_TASK_NAME'] = 'no_such_task'
  code, err = runner.main('train', files, bindings, monkeypatch, capfd)
  assert code == 2
  assert f'{own}: this command does not use decoding.sample.temperature.' in err
  for name in ('decoding.sample.temperature', 'LORA_RANK'):
    unread = {**bindings, name: 2}
    code, err = runner.main('train', files, unread, monkeypatch, capfd)
    assert code == 2
    assert f'{name}' in err.splitlines()[-1]
    assert 'error: ' in err and 'Traceback' not in err
  assert not (tmp_path / 'run').exists()


def test_noise_belongs_to_an_episode():
  phi = {'x': jnp.ones((6, 3, 4)), 'shared': 2 * jnp.ones((6, 50))}

  def noise(first, count):
    return phi_modes.with_phi(
      {name: x[:count] for name, x in phi.items()},
      phi_modes.RANDOM,
      jnp.ones(count, int),
      rng=eval_step.episode_keys(3, 'task', first, count),
    )

  whole = noise(0, 6)
  parts = [noise(first, 2) for first in (0, 2, 4)]
  for name in phi:
    np.testing.assert_array_equal(
      whole[name], jnp.concatenate([part[name] for part in parts])
    )
    rows = {row.tobytes() for row in np.asarray(whole[name])}
    assert len(rows) == 6
  # A phi that all share is as noisy in each episode, and not the same noise.
  shared = phi_modes.with_phi(
    {'x': jnp.ones((1, 8))},
    phi_modes.RANDOM,
    jnp.ones(6, int),
    rng=eval_step.episode_keys(3, 'task', 0, 6),
  )
  assert len({row.tobytes() for row in np.asarray(shared['x'])}) == 6
  keys = [
    jax.random.key_data(eval_step.episode_keys(seed, name, 0, 1)).tolist()
    for seed, name in ((3, 'task'), (3, 'other'), (4, 'task'))
  ]
  assert len(set(map(str, keys))) == 3


def test_a_second_training_in_one_folder(tmp_path):
  model = runner.model()
  with (
    locks.folder_lock(str(tmp_path), 'MODEL_DIR'),
    pytest.raises(UserError, match='another command is writing there'),
  ):
    runner.train(tmp_path, model, total_steps=1)
  assert [path.name for path in tmp_path.iterdir()] == ['.writer.lock']


def test_results_do_not_go_into_the_folder_of_a_run(answers):
  message = 'INFER_OUTPUT_DIR = .*: has the output of hypertuning.train'
  with pytest.raises(UserError, match=message):
    answers('', INFER_OUTPUT_DIR=str(GOLDEN / 'checkpoint'))


def test_results_do_not_go_beside_those_of_another_command(answers, tmp_path):
  folder = str(tmp_path / 'out')
  answers('', INFER_OUTPUT_DIR=folder)
  answers('', INFER_OUTPUT_DIR=folder)
  for command in ('train', 'eval', 'adapt', 'benchmarks.query_cost'):
    with pytest.raises(UserError, match='OUT = .*: has the output of .*infer'):
      restarts.refuse_other_commands(folder, 'OUT', command)
