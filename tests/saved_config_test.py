"""A run's model.gin builds its model alone."""

import gin
import jax
import numpy as np
import pytest
import runner

from hypertuning import gin_utils, saved_config, train
from hypertuning.engine import partitioning, train_state

_LORA = ('gin/models/hyper_t5_lora.gin', *runner.TRAIN_FILES[1:])


def _model():
  with gin.unlock_config():
    return gin.query_parameter('MODEL/macro.value').scoped_configurable_fn()


def _bindings(folder, lora=False):
  bindings = {
    **runner.TRAIN,
    'TRAIN_STEPS': 2,
    'EVAL_PERIOD': 0,
    'MODEL_DIR': str(folder),
  }
  if lora:
    del bindings['PREFIX_LENGTH']
  return [f'{k} = {v!r}' for k, v in bindings.items()]


def test_model_is_built_without_its_tasks(tmp_path):
  gin_utils.parse(runner.TRAIN_FILES, _bindings(tmp_path / 'run'))
  gin_utils.call(train.train)
  text = (tmp_path / 'run/model.gin').read_text()
  for word in ('toy', 'TASK', 'train.train', 'optim.', str(tmp_path), 'tasks'):
    assert word not in text, word
  shapes = {
    'hyper_tokens': (1, 2),
    'input_tokens': (1, 2, 2),
    'target_tokens': (1, 2, 2),
    'target_weights': (1, 2, 2),
  }
  batch = {name: np.full(shape, 3, np.int32) for name, shape in shapes.items()}
  scores = []
  whole = str(tmp_path / 'run/config.gin')
  for file in (whole, str(tmp_path / 'run/model.gin')):
    gin_utils.parse([file])
    model = _model()
    params, frozen = train_state.restore_variables(
      model, shapes, partitioning.Partitioner(), str(tmp_path / 'run')
    )
    scores.append(
      jax.jit(model.score_batch)(
        params, batch, flax_mutables={'frozen': frozen}
      )
    )
  np.testing.assert_array_equal(*map(jax.device_get, scores))


@pytest.mark.parametrize('files', [runner.TRAIN_FILES, _LORA])
def test_parses_again_before_a_command(tmp_path, files):
  gin_utils.parse(
    files,
    [*_bindings(tmp_path, files == _LORA), 'hyper/t5.T5Config.emb_dim = 32'],
  )
  saved_config.save_model(str(tmp_path))
  bindings = {
    'MIXTURE_OR_TASK_NAME': 'toy',
    'TASK_FEATURE_LENGTHS': runner.LENGTHS,
    'CHECKPOINT_PATH': 'run',
    'EVAL_OUTPUT_DIR': 'out',
  }
  gin_utils.parse(
    [str(tmp_path / 'model.gin'), 'gin/local/eval.gin'],
    [f'{k} = {v!r}' for k, v in bindings.items()],
  )
  # Of another size than the downstream model: a binding with a scope.
  assert _model().module.hypermodel.config.emb_dim == 32
  assert _model().module.downstream.config.emb_dim == 16


def test_nothing_is_written_where_gin_built_no_model(tmp_path):
  gin.clear_config()
  saved_config.save_model(str(tmp_path))
  assert not list(tmp_path.iterdir())
