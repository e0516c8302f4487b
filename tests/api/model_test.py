"""The Python interface, for every family of models.

Numbers of pitfalls are those of docs/pitfalls.md.
"""

import json
import sys

import gin
import jax
import numpy as np
import pytest
import runner
import tiny_runs

import hypertuning
from hypertuning import gin_utils
from hypertuning import infer as infer_lib
from hypertuning.adapters import LoRA
from hypertuning.api.questions import Question
from hypertuning.benchmarks import own_step

# Their runs are trained first, for half a minute and more.
pytestmark = pytest.mark.slow

EXAMPLES = [('a', 'xy'), ('bb', 'z'), ('cde', 'x'), ('d', 'yy')]
OTHERS = [('a', 'q'), ('b', 'rr')]
QUERIES = ['a', 'bb', 'e', 'fgh', 'i']


@pytest.fixture(scope='module', params=tiny_runs.FAMILIES)
def run(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp('api') / request.param
  return tiny_runs.make(folder, request.param)


@pytest.fixture(scope='module')
def model(run):
  return hypertuning.load(run)


@pytest.fixture(scope='module')
def phi(model):
  return model.adapt(EXAMPLES)


def test_answers_are_those_of_the_command_infer(run, model, phi, tmp_path):
  """Which makes episodes of several queries, through gin and a file."""
  path = tmp_path / 'tasks.jsonl'
  shots = [{'inputs': x, 'targets': y} for x, y in EXAMPLES]
  path.write_text(json.dumps({'examples': shots, 'queries': QUERIES}))
  bindings = {
    'CHECKPOINT_PATH': run,
    'INFER_INPUT': str(path),
    'INFER_OUTPUT_DIR': str(tmp_path / 'answers'),
    'TASK_FEATURE_LENGTHS': runner.LENGTHS,
    'BATCH_SIZE': 8,
  }
  gin_utils.parse(
    [f'{run}/model.gin', 'gin/local/infer.gin'],
    [f'{name} = {value!r}' for name, value in bindings.items()],
  )
  rows = gin_utils.call(infer_lib.infer)
  assert model.answer(QUERIES, phi) == [row['prediction'] for row in rows]


def test_scores_sum_to_one_over_an_exhaustive_set(model, phi):
  """The ids of one-token targets, with the end first: P(end) + P(not end)."""
  form = model.text_format
  ids = range(3, 3 + 256)
  texts = [form.vocabulary.decode([i]) for i in ids]
  one = [t for t in dict.fromkeys(texts) if len(form.encode(t, 'targets')) == 1]
  scores = model.score('a', one[:40], phi)
  assert all(score < 0 for score in scores)
  assert np.exp(scores).sum() < 1
  # A score does not depend on the other targets of the call.
  alone = [model.score('a', [text], phi)[0] for text in one[:3]]
  np.testing.assert_allclose(alone, scores[:3], rtol=1e-5)


def test_phi_of_several_tasks_mix_in_one_batch(model, phi):
  other = model.adapt(OTHERS)
  mixed = model.answer(['a', 'a', 'bb'], [phi, other, phi], max_tokens=6)
  assert mixed == [
    *model.answer(['a'], phi, max_tokens=6),
    *model.answer(['a'], other, max_tokens=6),
    *model.answer(['bb'], phi, max_tokens=6),
  ]
  plain = model.score('a', ['xy', 'q'], phi)
  assert plain != model.score('a', ['xy', 'q'], other)
  assert plain != model.score('a', ['xy', 'q'])


def test_examples_in_context_are_read(model):
  with_examples = model.score('a', ['xy', 'q'], examples=EXAMPLES)
  assert with_examples != model.score('a', ['xy', 'q'], examples=OTHERS)
  assert with_examples != model.score('a', ['xy', 'q'])
  long = EXAMPLES * 20  # more than the hypermodel was trained with: none is cut
  assert model.score('a', ['xy'], examples=long) != model.score(
    'a', ['xy'], examples=long[1:]
  )


def test_other_rows_and_lengths_in_a_bucket_compile_nothing(model, phi):
  """Pitfall 26: nor do the answers change."""
  other = model.adapt(OTHERS)
  model.adapt(EXAMPLES, draws=4)
  whole = model.answer(QUERIES[:4], phi, max_tokens=9)
  mixed = model.answer(['a', 'bb', 'e', 'a'], [phi, other, phi, phi])
  scores = model.score('a', ['x', 'y', 'xyz', 'z'], phi)
  with own_step.compilations() as count:
    model.adapt([*EXAMPLES[:3], ('d', 'q')], draws=3)
    assert model.answer(QUERIES[:3], phi, max_tokens=9) == whole[:3]
    assert (
      model.answer([QUERIES[1] + 'a', *QUERIES[1:3]], phi, max_tokens=5)[1:]
      == model.answer(QUERIES[:4], phi, max_tokens=5)[1:3]
    )
    assert model.answer(['a', 'bb', 'e'], [phi, other, phi]) == mixed[:3]
    np.testing.assert_allclose(
      model.score('a', ['x', 'y', 'xyz'], phi), scores[:3], rtol=1e-6
    )
    assert count() == 0
  # Room for more changes nothing.
  alone = [model.answer([x], phi, max_tokens=9)[0] for x in QUERIES[:4]]
  assert alone == whole


def test_a_stream_ends_with_the_answer(model, phi):
  steps = list(
    model.stream([Question(q, adapters=phi.adapters) for q in QUERIES], 5)
  )
  assert steps[-1] == model.answer(QUERIES, phi, max_tokens=5)
  assert 1 <= len(steps) <= 5


def test_a_file_gives_the_same_phi_back(model, phi, tmp_path):
  path = tmp_path / 'new' / 'phi.safetensors'
  phi.save(path)
  again = model.load_phi(path)
  assert jax.tree.all(
    jax.tree.map(np.array_equal, again.adapters, phi.adapters)
  )
  assert again.made == dict(phi.made)
  with pytest.raises(hypertuning.UserError, match='is there already'):
    phi.save(path)
  with pytest.raises(hypertuning.UserError, match='no number 1'):
    model.load_phi(path, 1)


def test_more_examples_than_fit_are_read_in_chunks(model, phi):
  many = model.adapt(EXAMPLES * 6)
  assert many.made['chunks'] > 1 and phi.made['chunks'] == 1
  # The last example counts as well.
  changed = model.adapt([*EXAMPLES * 5, *EXAMPLES[:-1], ('d', 'qq')])
  assert not jax.tree.all(
    jax.tree.map(np.array_equal, many.adapters, changed.adapters)
  )


def test_draws_are_the_mean_over_orders(model):
  three = model.adapt(EXAMPLES, draws=3, seed=1)
  random = np.random.default_rng(1)
  orders = [EXAMPLES] + [
    [EXAMPLES[i] for i in random.permutation(len(EXAMPLES))] for _ in range(2)
  ]
  singles = [model.adapt(order).adapters for order in orders]
  jax.tree.map(
    lambda mean, *each: np.testing.assert_allclose(
      mean, np.mean(each, axis=0), atol=1e-5
    ),
    three.adapters,
    *singles,
  )


def test_tuning_goes_on_from_phi(model, phi):
  before = sum(model.score(x, [y], phi)[0] for x, y in EXAMPLES)
  tuned = model.tune(EXAMPLES, phi, steps=20, learning_rate=0.05)
  after = sum(model.score(x, [y], tuned)[0] for x, y in EXAMPLES)
  assert after > before
  form = model.text_format
  tokens = sum(
    len(form.encode(y, 'targets')) + len(form.target_end) for _, y in EXAMPLES
  )
  assert tuned.made['loss'] == pytest.approx(-after / tokens, abs=2e-4)
  assert tuned.made['steps'] == 20 and tuned.made['tuning_seconds'] > 0
  assert model.tune(EXAMPLES, tuned, steps=5).made['steps'] == 25


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda m, p: m.adapt([]), 'examples: there are none'),
    (lambda m, p: m.adapt('abc'), 'give a list of pairs'),
    (lambda m, p: m.adapt([('a', 'b'), 'cd']), "number 2 is 'cd'"),
    (lambda m, p: m.adapt([('a', 'b', 'c')]), 'number 1'),
    (lambda m, p: m.adapt([('a', '')]), 'number 1 has no target'),
    (lambda m, p: m.adapt([('a' * 99, 'b')]), 'number 1 has 1.. tokens'),
    (lambda m, p: m.adapt(EXAMPLES * 999), '3996 of them need'),
    (lambda m, p: m.adapt(EXAMPLES, draws=0), 'draws = 0'),
    (lambda m, p: m.answer('abc', p), 'give a list of texts'),
    (lambda m, p: m.answer([], p), 'queries: there are none'),
    (lambda m, p: m.answer([1], p), 'number 1 is 1'),
    (lambda m, p: m.answer(['a'], [p, p]), '2 of them, for 1'),
    (lambda m, p: m.answer(['a'], p, examples=EXAMPLES), 'not both'),
    (lambda m, p: m.answer(['a'], p, max_tokens=0), 'max_tokens = 0'),
    (lambda m, p: m.tune(EXAMPLES, p, steps=0), 'steps = 0'),
    (lambda m, p: m.tune(EXAMPLES, p, steps=1.5), 'steps = 1.5: give 1 or'),
    (lambda m, p: m.adapt(EXAMPLES, draws='2'), "draws = '2': give 1 or"),
    (lambda m, p: m.adapt(EXAMPLES, definition=3), 'definition = 3: give a te'),
    (lambda m, p: m.answer(['a'], definition=3), 'definition = 3: give a te'),
    (lambda m, p: m.answer(['a'], 'phi'), "phi = 'p': give what adapt"),
  ],
)
def test_bad_arguments_are_one_line(model, phi, call, message):
  with pytest.raises(hypertuning.UserError, match=message) as caught:
    call(model, phi)
  assert '\n' not in str(caught.value)


def test_phi_of_another_model_is_refused(run, model, phi, tmp_path):
  family = 'prefix' if isinstance(phi.adapters, LoRA) else 'lora'
  other = hypertuning.load(
    tiny_runs.make(tmp_path / 'other', family, RANDOM_SEED=7)
  )
  with pytest.raises(hypertuning.UserError, match='was made for'):
    other.answer(['a'], phi)
  phi.save(tmp_path / 'phi.safetensors')
  with pytest.raises(hypertuning.UserError, match='was made for'):
    other.load_phi(tmp_path / 'phi.safetensors')


def test_loading_leaves_a_gin_configuration_alone(run):
  gin_utils.parse([f'{run}/model.gin'])
  before = gin.config_str()
  hypertuning.load(run)
  assert gin.config_str() == before and gin.config_is_locked()


def test_the_package_itself_imports_nothing():
  code = (
    'import sys, hypertuning\n'
    'assert "jax" not in sys.modules and hypertuning.load\n'
    'assert "jax" in sys.modules and "tensorflow" not in sys.modules\n'
  )
  import subprocess

  subprocess.run(
    [sys.executable, '-c', code], env=runner.environment(), check=True
  )
