"""Distillation: the divergence by hand, and what the teacher reads and is."""

import jax
import numpy as np
import pytest
import runner
import tiny
from scipy import special

from hypertuning import predictions, trees
from hypertuning.adapters import PrefixSpec
from hypertuning.data import lookup
from hypertuning.engine import batching, checkpoints
from hypertuning.errors import UserError
from hypertuning.hypermodels import heads, hyper_t5
from hypertuning.networks import t5

CONFIG = tiny.shallow()
LENGTHS = {
  'hyper_inputs': 48,
  'inputs': (2, 6),
  'teacher_inputs': (2, 40),
  'targets': (2, 4),
}


def make(weight, teacher=False):
  head = heads.PrefixHead(CONFIG, PrefixSpec(2), 8)
  return tiny.model(
    CONFIG,
    hyper_t5.HyperT5(CONFIG, head),
    distillation_weight=weight,
    teacher=t5.T5(CONFIG) if teacher else None,
  )


@pytest.fixture(scope='module')
def batch():
  teacher = tiny.episodes(inputs=11, seed=8)['input_tokens']
  return {**tiny.episodes(), 'teacher_tokens': teacher}


@pytest.fixture(scope='module')
def variables(batch):
  """Of a model with a teacher of its own; those of others are parts of it."""
  shapes = {k: v.shape for k, v in batch.items()}
  abstract = jax.eval_shape(
    lambda: make(1.0, True).get_initial_variables(jax.random.key(0), shapes)
  )
  assert {p.split('/')[0] for p in trees.flatten_paths(abstract['frozen'])} == {
    'downstream',
    'teacher',
  }
  return (
    tiny.random_params(abstract['params'], 1),
    {'frozen': tiny.random_params(abstract['frozen'], 2)},
  )


def expected(variables, batch, network):
  """Summed likelihood and divergence of the target tokens, in float64."""
  params, mutables = variables
  everything = {'params': trees.join(params, mutables['frozen'])}

  def fold(x):
    return x.reshape(-1, x.shape[-1])

  teacher = jax.jit(tiny.logits, static_argnums=0)(
    t5.T5(CONFIG),
    everything['params'][network],
    fold(batch['teacher_tokens']),
    fold(batch['target_tokens']),
  )
  student = jax.jit(
    lambda *args: tiny.all_logits(
      predictions.for_training(make(1.0, True).module, *args, None)
    )
  )(everything, batch)
  teacher = special.log_softmax(np.asarray(teacher, np.float64), -1)
  student = special.log_softmax(np.asarray(student, np.float64), -1)
  teacher = teacher.reshape(student.shape)
  weights = batch['target_weights']
  divergence = (np.exp(teacher) * (teacher - student)).sum(-1)
  said = np.take_along_axis(student, batch['target_tokens'][..., None], -1)[
    ..., 0
  ]
  return -(said * weights).sum(), (divergence * weights).sum()


@pytest.mark.parametrize('weight', [0.25, 1.0])
@pytest.mark.parametrize('teacher', [False, True])
def test_loss_is_the_weighted_sum(variables, batch, weight, teacher):
  likelihood, divergence = expected(
    variables, batch, 'teacher' if teacher else 'downstream'
  )
  model = make(weight, teacher)
  loss, (metrics, _) = jax.jit(
    lambda params, mutables: model.loss_fn(params, batch, None, mutables)
  )(*variables)
  want = (1 - weight) * likelihood + weight * divergence
  # float32 against float64, over some 20 tokens.
  assert float(loss) == pytest.approx(want, rel=1e-5)
  assert float(metrics['loss'].total) == pytest.approx(likelihood, rel=1e-5)
  total = float(metrics['divergence'].total)
  assert total == pytest.approx(divergence, rel=1e-5)


def test_a_model_is_its_own_perfect_teacher(variables, batch):
  """Without phi, and reading the same, nothing is left to learn."""
  model = tiny.model(
    CONFIG, None, distillation_weight=1.0, trainable_regex='downstream/.*'
  )
  params = {'downstream': variables[1]['frozen']['downstream']}
  same = {**batch, 'teacher_tokens': batch['input_tokens']}

  @jax.jit
  @jax.value_and_grad
  def loss(params, batch):
    return model.loss_fn(params, batch, None)[0]

  value, gradient = loss(params, same)
  assert abs(float(value)) < 1e-3  # the sum of 20 differences of logarithms
  # Were the teacher not held still, its gradient would cancel the student's
  # where they differ as well.
  wide = {**batch, 'teacher_tokens': batch['teacher_tokens'][..., :6]}
  _, other = loss(params, wide)
  norms = [
    max(float(np.abs(x).max()) for x in jax.tree.leaves(g))
    for g in (gradient, other)
  ]
  assert norms[0] < 1e-3 < norms[1]


def test_teacher_reads_what_the_in_context_form_reads():
  lookup.import_tasks('hypertuning.tasks.toy')

  def first(name, lengths):
    episodes = lookup.episodes(name, lengths, 'validation').take(4)
    return list(episodes.as_numpy_iterator())

  taught = first('toy_symbols_taught', LENGTHS)
  whole = {k: v for k, v in LENGTHS.items() if k != 'teacher_inputs'}
  in_context = first(
    'toy_symbols_in_context', {**whole, 'inputs': LENGTHS['teacher_inputs']}
  )
  for one, other in zip(taught, in_context, strict=True):
    np.testing.assert_array_equal(one['teacher_inputs'], other['inputs'])
  plain = first('toy_symbols', whole)
  assert 'teacher_inputs' not in plain[0]
  for one, other in zip(taught, plain, strict=True):
    for name in ('hyper_inputs', 'inputs', 'targets'):
      np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.slow
def test_a_run_distils_another_runs_model(tmp_path):
  """The teacher's weights come from the second checkpoint, and stay."""
  student, other = tmp_path / 'student', tmp_path / 'other'
  runner.train(student, runner.model(hyper=False), total_steps=1)
  runner.train(other, runner.model(hyper=False), total_steps=1, random_seed=5)
  teacher = t5.T5(runner.model().module.downstream.config)
  distilled = runner.model(distillation_weight=0.5, teacher=teacher)
  arguments = {
    'mixture_or_task_name': 'toy_symbols_taught',
    'task_feature_lengths': LENGTHS,
    'initial_checkpoint_path': str(student),
  }
  run = tmp_path / 'run'
  runner.train(run, distilled, teacher_checkpoint_path=str(other), **arguments)
  rows = (run / 'metrics.jsonl').read_text()
  assert 'train/divergence' in rows
  saved = checkpoints.restore_variables(str(run))
  for name, path in (('downstream', student), ('teacher', other)):
    jax.tree.map(
      np.testing.assert_array_equal,
      saved[name],
      checkpoints.restore_variables(str(path))['downstream'],
    )
  with pytest.raises(UserError, match='TEACHER_CHECKPOINT_PATH = None'):
    runner.train(tmp_path / 'a', distilled, **arguments)
  with pytest.raises(UserError, match='one without cannot use it'):
    runner.train(
      tmp_path / 'b', teacher_checkpoint_path=str(other), **arguments
    )


def test_slips():
  with pytest.raises(UserError, match='DISTILLATION_WEIGHT = 2'):
    make(2)
  with pytest.raises(UserError, match='above 0 where there is a TEACHER'):
    make(0.0, True)
  model = make(0.5)
  for lengths, what in (
    ({**LENGTHS, 'teacher_inputs': (3, 40)}, r'\(3, 40\): a teacher reads'),
    ({**LENGTHS, 'teacher_inputs': (2, 5)}, r'give \(2, 6 or more\)'),
    ({k: LENGTHS[k] for k in LENGTHS if k[0] != 't'}, "'targets'.*is None"),
  ):
    with pytest.raises(UserError, match=what):
      batching.input_shapes(lengths, model, 2)
