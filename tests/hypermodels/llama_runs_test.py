"""What the T5 side has, composed for the Llama family by gin files alone."""

import copy

import gin
import jax
import numpy as np
import pytest
import runner
import tiny

from hypertuning import gin_utils, trees
from hypertuning.adapters import io
from hypertuning.engine import checkpoints
from hypertuning.networks import llama
from hypertuning.networks.llama_config import LlamaConfig
from hypertuning.sweeping import expansion

FOLDER = 'gin/experiments/hyper_llama'
LLAMA, PREFIX, LORA = (
  f'gin/models/{name}.gin'
  for name in ('llama', 'hyper_llama', 'hyper_llama_lora')
)
LEARNED = 'gin/models/learned.gin'
DISTILLATION = 'gin/models/distillation.gin'
SIZES = {
  'NUM_LAYERS': 2,
  'EMB_DIM': 16,
  'NUM_HEADS': 2,
  'NUM_KV_HEADS': 1,
  'HEAD_DIM': 8,
  'MLP_DIM': 16,
  'BATCH_SIZE': 8,
}
STEPS = {
  'TRAIN_STEPS': 2,
  'WARMUP_STEPS': 1,
  'CHECKPOINT_PERIOD': 2,
  'LEARNING_RATE': 0.1,
}
LENGTHS = {'hyper_inputs': 48, 'inputs': (2, 8), 'targets': (2, 6)}
IN_CONTEXT = {
  'FORM': '_in_context',
  'TASK_FEATURE_LENGTHS': {**LENGTHS, 'inputs': (2, 64)},
}
TAUGHT = {
  'FORM': '_taught',
  'TASK_FEATURE_LENGTHS': {**LENGTHS, 'teacher_inputs': (2, 64)},
}
pytestmark = pytest.mark.slow


@pytest.fixture
def call(monkeypatch, capfd):
  """Runs a command with tiny sizes in this process."""

  def run(name, files, **bindings):
    sizes = dict(SIZES)
    if not any('llama' in file for file in files):
      del sizes['NUM_KV_HEADS']
    if LORA in files:
      sizes |= {'LORA_RANK': 2}
      if LEARNED not in files:  # a shared LoRA has no head
        sizes |= {'HEAD_BOTTLENECK': 8, 'NUM_GISTS': None}
    bindings = {**sizes, 'TASK_FEATURE_LENGTHS': LENGTHS, **bindings}
    gin.clear_config()
    code, err = runner.main(name, files, bindings, monkeypatch, capfd)
    assert code == 0, err

  return run


@pytest.fixture
def train(call):
  def run(folder, *files, **bindings):
    call(
      'train',
      [
        *files,
        'gin/optimizers/adamw.gin',
        'gin/local/train.gin',
        f'{FOLDER}/shots.gin',
      ],
      MODEL_DIR=str(folder),
      **{**STEPS, **bindings},
    )
    return str(folder)

  return run


def _variables(folder):
  return trees.flatten_paths(checkpoints.restore_variables(folder))


def test_lora_of_gists_leaves_as_a_file(train, call, tmp_path):
  """Training moves the source alone; a file's LoRA merges into the kernels."""
  base = train(tmp_path / 'llama', LLAMA)
  sites = {
    'LORA_SITES': ('self', 'mlp'),
    'LORA_PROJECTIONS': ('query', 'value', 'out', 'gate', 'down'),
  }
  run = train(
    tmp_path / 'lora',
    LORA,
    INITIAL_CHECKPOINT_PATH=base,
    TRAIN_STEPS=4,
    **sites,
  )
  frozen, after = _variables(base), _variables(run)
  downstream = {k: v for k, v in after.items() if k.startswith('downstream/')}
  for name, value in downstream.items():
    np.testing.assert_array_equal(value, frozen[name])
  # Two layers at two sites, with one gist for each.
  assert after['hypermodel/gists'].shape == (4, 16)
  call(
    'infer',
    [LORA, 'gin/local/infer.gin', f'{FOLDER}/shots.gin'],
    CHECKPOINT_PATH=run,
    INFER_OUTPUT_DIR=str(tmp_path / 'out'),
    SAVE_ADAPTERS=True,
    INFER_STEPS=1,
    **sites,
  )
  phi = io.load(tmp_path / 'out/adapters.safetensors')
  assert set(phi.sites['mlp']) == {'gate', 'down'}
  names = {
    ('self', 'query'): 'attention/query',
    ('self', 'value'): 'attention/value',
    ('self', 'out'): 'attention/out',
    ('mlp', 'gate'): 'mlp/gate',
    ('mlp', 'down'): 'mlp/down',
  }
  merged = {
    k.removeprefix('downstream/'): np.array(v) for k, v in downstream.items()
  }
  for (site, module), name in names.items():
    factors = phi.sites[site][module]
    for layer in range(2):
      a, b = (np.asarray(x)[1, layer] for x in (factors.a, factors.b))
      path = f'decoder/layers_{layer}/{name}/kernel'
      assert np.abs(a @ b).max() > 0
      merged[path] = merged[path] + phi.scale * a @ b
  network = llama.Llama(
    LlamaConfig(
      vocab_size=384,
      emb_dim=16,
      num_layers=2,
      num_heads=2,
      num_kv_heads=1,
      head_dim=8,
      mlp_dim=16,
    )
  )
  text = (np.arange(100, 106)[None], np.array([[107, 108, 1]]))
  own = jax.tree.map(lambda x: x[1:2], phi)
  plain = trees.unflatten_paths(
    {k.removeprefix('downstream/'): v for k, v in downstream.items()}
  )
  adapted = tiny.logits(network, plain, *text, own)
  alone = tiny.logits(network, trees.unflatten_paths(merged), *text)
  np.testing.assert_allclose(adapted, alone, rtol=1e-4, atol=1e-5)
  assert np.abs(adapted - tiny.logits(network, plain, *text)).max() > 1e-3


@pytest.mark.parametrize('kind', [PREFIX, LORA])
def test_shared_adapters_distillation_and_tuning(kind, train, call, tmp_path):
  """Tuning starts from random adapters, from shared ones and from phi."""
  base = train(tmp_path / 'mtf', LLAMA)
  start = {'INITIAL_CHECKPOINT_PATH': base}
  shared = train(tmp_path / 'shared', kind, LEARNED, **start)
  names = set(_variables(shared))
  assert any(name.startswith('hypermodel/phi_self') for name in names)
  assert 'hypermodel/gists' not in names
  taught = train(tmp_path / 'taught', kind, DISTILLATION, **start, **TAUGHT)
  phi = 'hypermodel/phi_.*'
  for name, files, bindings in (
    ('random', [LEARNED], {'CHECKPOINT_PATH': base, 'FRESH_REGEX': phi}),
    ('shared', [LEARNED], {'CHECKPOINT_PATH': shared}),
    ('phi', [], {'CHECKPOINT_PATH': taught}),
  ):
    out = tmp_path / f'adapt_{name}'
    call(
      'adapt',
      [
        kind,
        *files,
        'gin/optimizers/adamw.gin',
        'gin/local/adapt.gin',
        f'{FOLDER}/shots.gin',
      ],
      ADAPT_OUTPUT_DIR=str(out),
      MAX_TASKS=2,
      BATCH_SIZE=2,
      TRAIN_STEPS=2,
      TEST_VISITS=1,
      WARMUP_STEPS=1,
      **bindings,
    )
    assert (out / 'results.jsonl').is_file()


def test_a_t5_compresses_by_gists(call, tmp_path):
  """The same source on an encoder, with LoRA at all of its projections."""
  files = [
    'gin/experiments/toy.gin',
    'gin/optimizers/adamw.gin',
    'gin/local/train.gin',
  ]
  task = {
    **STEPS,
    'MIXTURE_OR_TASK_NAME': runner.TASK,
    'MIXTURE_OR_TASK_MODULE': 'hypertuning.tasks.toy',
  }
  base, run = str(tmp_path / 't5'), str(tmp_path / 'gists')
  call('train', ['gin/models/t5.gin', *files], **task, MODEL_DIR=base)
  call(
    'train',
    ['gin/models/gist_t5.gin', *files],
    **task,
    MODEL_DIR=run,
    INITIAL_CHECKPOINT_PATH=base,
    NUM_GISTS=3,
    GIST_TOKENS=(100, 101, 102),
  )
  after, frozen = _variables(run), _variables(base)
  own = {name for name in after if name.startswith('hypermodel/')}
  assert {name.split('/')[1] for name in own} == {'gists', 'lora'}
  assert len(own) == 1 + 2 * 7  # one layer of stacked factors
  for name in after.keys() - own:
    np.testing.assert_array_equal(after[name], frozen[name])


def test_few_shot_mtf_teaches_gists(train, tmp_path):
  teacher = train(tmp_path / 'few_shot_mtf', LLAMA, **IN_CONTEXT)
  run = train(
    tmp_path / 'taught',
    PREFIX,
    'gin/models/distillation_teacher.gin',
    TEACHER_CHECKPOINT_PATH=teacher,
    INITIAL_CHECKPOINT_PATH=teacher,
    **TAUGHT,
  )
  assert 'hypermodel/gists' in _variables(run)


def _expand(name, *bindings):
  """The cells of a sweep in the folder of the experiments."""
  gin.clear_config()
  gin_utils.parse([f'{FOLDER}/{name}.gin'], ["SWEEP_DIR = 'out'", *bindings])
  with gin.unlock_config():
    stages, axes = (
      copy.deepcopy(gin.query_parameter(f'{macro}/macro.value'))
      for macro in ('STAGES', 'AXES')
    )
  return expansion.expand('out', stages, axes)


def test_sweeps_expand():
  assert len(_expand('chunks', "DOWNSTREAM_CHECKPOINT = 'llama'")) == 3 + 12
  assert len(_expand('parts')) == 1 + 2 + 2


def test_more_chunks_than_in_training(call, train, tmp_path):
  """Trained through two chunks, gists are evaluated with one and with four."""
  run = train(
    tmp_path / 'run',
    PREFIX,
    TASK_FEATURE_LENGTHS={**LENGTHS, 'hyper_inputs': (2, 32)},
  )
  for shots, chunks in ((3, 1), (12, 4)):
    out = tmp_path / f'eval_{shots}'
    call(
      'eval',
      [PREFIX, 'gin/local/eval.gin', f'{FOLDER}/shots.gin'],
      CHECKPOINT_PATH=run,
      EVAL_OUTPUT_DIR=str(out),
      SHOTS=shots,
      TASK_FEATURE_LENGTHS={**LENGTHS, 'hyper_inputs': (chunks, 32)},
      EVAL_STEPS=1,
    )
    assert (out / 'results.jsonl').is_file()
