"""HyperLlama and the toy family under the real t5x and the embedded runner.

No run file of gin/runs knows a family, and no line of the library the toy's.
Both runners start from one checkpoint, as in engine_test.py.
"""

import pathlib
import shutil

import jax
import numpy as np
import pytest
import runner
import t5x_runner

from hypertuning import trees
from hypertuning.adapters import io
from hypertuning.engine import checkpoints

pytest.importorskip(
  't5x.train', reason='needs t5x, airio and jestimator, see setup.py'
)

pytestmark = [pytest.mark.t5x, pytest.mark.slow]

HELPERS = pathlib.Path(runner.__file__).parent
STEPS = 8
# The file of each model, with the module and the name of its task, and the
# learning rate: at 0.1, rounding moves the losses of a Llama by 3e-4.
MODELS = {
  'toy_family.gin': ('hypertuning.tasks.toy', runner.TASK, 0.1),
  'toy_reader.gin': ('hypertuning.tasks.toy', runner.TASK, 0.1),
  'tiny_hyper_llama.gin': ('decoder_tasks', 'toy_symbols_of_decoder', 0.03),
  'tiny_hyper_llama_nf4.gin': (
    *('decoder_tasks', 'toy_symbols_of_decoder'),
    0.03,
  ),
}
DATA = {
  'TASK_FEATURE_LENGTHS': runner.LENGTHS,
  'BATCH_SIZE': 8,
}
TRAIN = {
  **DATA,
  'TRAIN_STEPS': STEPS,
  'WARMUP_STEPS': 1,
  'EVAL_PERIOD': 0,
  'CHECKPOINT_PERIOD': STEPS // 2,
}


@pytest.fixture(scope='module', params=MODELS)
def model(request):
  """Gin files of learned LoRA, a generated prefix, and gists."""
  return (request.param,)


@pytest.fixture(scope='module')
def data(model):
  """Bindings of the data."""
  module, task, _ = MODELS[model[0]]
  return {
    **DATA,
    'MIXTURE_OR_TASK_MODULE': module,
    'MIXTURE_OR_TASK_NAME': task,
  }


@pytest.fixture(scope='module')
def folder(model, data, tmp_path_factory):
  """A folder of the same run under both runners, `embedded` and `t5x`."""
  parent = tmp_path_factory.mktemp('families')
  train = {**TRAIN, **data, 'LEARNING_RATE': MODELS[model[0]][-1]}
  start = {**train, 'TRAIN_STEPS': 1, 'WARMUP_STEPS': 0}
  path = {'MODEL_DIR': str(parent / 'start')}
  t5x_runner.run(
    'train', 'gin/local/train.gin', {**start, **path}, model, HELPERS
  )
  bindings = {**train, 'INITIAL_CHECKPOINT_PATH': str(parent / 'start')}
  path = {'MODEL_DIR': str(parent / 'embedded')}
  t5x_runner.run(
    'train', 'gin/local/train.gin', {**bindings, **path}, model, HELPERS
  )
  path = {'MODEL_DIR': str(parent / 't5x'), 'STATS_PERIOD': 1}
  more = {'EVAL_PERIOD': STEPS, 'EVAL_STEPS': 1}
  bindings |= {**path, **more}
  run_file = 'gin/runs/multitask.gin'
  t5x_runner.run('train', run_file, bindings, model, HELPERS, devices=2)
  # Started again without its last checkpoint, it does the second half again.
  whole = t5x_runner.losses(parent / 't5x')
  shutil.rmtree(parent / 't5x' / f'checkpoint_{STEPS}')
  t5x_runner.run('train', run_file, bindings, model, HELPERS, devices=2)
  assert t5x_runner.losses(parent / 't5x') == pytest.approx(whole, abs=1e-5)
  return parent


def test_both_runners_train_alike(folder):
  ours, theirs = (
    runner.losses(folder / 'embedded'),
    t5x_runner.losses(folder / 't5x'),
  )
  assert set(ours) == set(theirs) == set(range(1, STEPS + 1))
  for step, loss in theirs.items():
    assert loss == pytest.approx(ours[step], abs=1e-4), step
  assert ours[STEPS] < ours[1] - 0.5
  start, embedded, t5x = (
    trees.flatten_paths(checkpoints.restore_variables(str(folder / name)))
    for name in ('start', 'embedded', 't5x')
  )
  assert set(start) == set(embedded) == set(t5x)
  for name, value in t5x.items():
    frozen = name.startswith('downstream/')
    assert (value == start[name]).all() == frozen, name
    np.testing.assert_allclose(value, embedded[name], atol=1e-3)


def test_both_runners_answer_alike(folder, model, data):
  """Text and phi of every episode, from the checkpoint that t5x wrote."""
  path = str(folder / 't5x' / f'checkpoint_{STEPS}')
  bindings = {**data, 'CHECKPOINT_PATH': path}
  where = {
    'INFER_OUTPUT_DIR': str(folder / 'infer'),
    'ADAPTERS_DIR': str(folder / 'adapters'),
  }
  t5x_runner.run(
    'infer',
    'gin/runs/infer_adapters.gin',
    {**bindings, **where},
    model,
    HELPERS,
    devices=2,
  )
  where = {'INFER_OUTPUT_DIR': str(folder / 'ours'), 'SAVE_ADAPTERS': True}
  t5x_runner.run(
    'infer', 'gin/local/infer.gin', {**bindings, **where}, model, HELPERS
  )
  [answers] = (folder / 'infer').glob('*-*-00001')
  theirs = runner.read_lines(answers)
  ours = runner.read_lines(folder / 'ours/predictions.jsonl')
  texts = [text for row in theirs for text in row['prediction']]
  assert texts == [row['prediction'] for row in ours]
  scores = np.concatenate([row['aux']['scores'] for row in theirs])
  np.testing.assert_allclose(scores, [row['score'] for row in ours], atol=1e-4)
  [file] = (folder / 'adapters').iterdir()
  one, other = io.load(file), io.load(folder / 'ours/adapters.safetensors')
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert len(a) == len(theirs)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_both_runners_evaluate_alike(folder, model, data):
  """From the checkpoint that t5x wrote."""
  path = str(folder / 't5x' / f'checkpoint_{STEPS}')
  # Room for all queries of an episode, which t5x asks for.
  lengths = {**runner.LENGTHS, 'inputs': (4, 6), 'targets': (4, 4)}
  bindings = {
    **data,
    'CHECKPOINT_PATH': path,
    'TASK_FEATURE_LENGTHS': lengths,
  }
  for run_file, out in (('gin/runs', 'eval'), ('gin/local', 'our_eval')):
    where = {'EVAL_OUTPUT_DIR': str(folder / out)}
    t5x_runner.run(
      'eval', f'{run_file}/eval.gin', {**bindings, **where}, model, HELPERS
    )
  [metrics] = (folder / 'eval/inference_eval').glob('*-metrics.jsonl')
  [theirs] = runner.read_lines(metrics)
  ours, *_ = runner.read_lines(folder / 'our_eval/results.jsonl')
  assert ours['phi'] == 'generated'
  assert theirs['accuracy'] == pytest.approx(ours['accuracy'])
