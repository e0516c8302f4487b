"""Scores: questions that cannot be ranked or are not asked are reported."""

import family_files
import numpy as np
import pytest
import runner

from hypertuning.data import (
  aggregation,
  lookup,
  registry,
  task_questions,
  text_format,
)
from hypertuning.data.questions import number_of
from hypertuning.data.rows import Row, RowTask
from hypertuning.errors import UserError
from hypertuning.evaluation import scoring
from hypertuning.tasks import __main__ as tasks_main
from hypertuning.tasks import own

EVAL_FILES = (*runner.MODEL_FILES, 'gin/local/eval.gin')
LENGTHS = {'hyper_inputs': 80, 'inputs': (2, 5), 'targets': (2, 6)}
LONG = {**LENGTHS, 'targets': (2, 20)}


def _rows(count, targets=('yes', 'no'), options=('yes', 'no')):
  return [
    {
      'inputs': f'{n}a',
      'targets': targets[n % len(targets)],
      'options': list(options),
    }
    for n in range(count)
  ]


def _register(folder, asked, train=None, name='mine', **more):
  family_files.write_lines(folder / 'train.jsonl', train or _rows(8))
  family_files.write_lines(folder / 'asked.jsonl', asked)
  paths = [str(folder / f'{part}.jsonl') for part in ('train', 'asked')]
  return own.task_file(name, *paths, shots=4, **more)


def _questions(name, lengths=LONG, room=2):
  (task,) = lookup.members(name)
  episodes = lookup.episodes(name, lengths, 'validation')
  return task_questions.questions_of(task, episodes, room)


def test_options_that_are_cut_to_the_same_tokens(tmp_path, monkeypatch, capfd):
  """Both options are cut to 'posit'."""
  options = ('positive sentiment', 'positive surprise')
  _register(tmp_path, _rows(8, options[:1], options))
  code, err = runner.main(
    'eval',
    EVAL_FILES,
    {
      **runner.SMALL,
      'MIXTURE_OR_TASK_NAME': 'mine_score_eval',
      'TASK_FEATURE_LENGTHS': LENGTHS,
      'CHECKPOINT_PATH': str(tmp_path),
      'EVAL_OUTPUT_DIR': str(tmp_path / 'out'),
    },
    monkeypatch,
    capfd,
  )
  (line,) = err.splitlines()
  assert code == 2 and not (tmp_path / 'out').exists()
  for part in (
    "error: mine_score_eval: asked, '0a': the options",
    "'positive sentiment' and 'positive surprise' are the same",
    "TASK_FEATURE_LENGTHS['targets'] cuts them: give it room for 19 tokens",
  ):
    assert part in line
  asked = _questions('mine_score_eval')
  assert number_of(asked.targets) == 8 == len(asked.counts)


class _Letters:
  """A vocabulary that knows letters and digits, and no other character."""

  size, extra_ids, eos_id, pad_id = 300, 100, 1, 0

  def encode(self, text):
    return [ord(x) if x.isalnum() else 2 for x in text]

  def decode(self, ids):
    return ''.join(map(chr, ids))


def test_rows_without_options_beside_rows_with_them(tmp_path, capsys):
  """The message names the first row; so does the command that checks files."""
  asked = _rows(8)
  for n in (2, 3, 6):
    del asked[n]['options']
  where = "asked.jsonl:3: no 'options', which other rows of task"
  with pytest.raises(UserError, match=where):
    _register(tmp_path, asked)
  path = str(tmp_path / 'asked.jsonl')
  assert tasks_main.main(['validate', path, '--shots', '4']) == 1
  assert where in capsys.readouterr().out.splitlines()[0]


def test_a_task_without_options_is_not_scored(tmp_path):
  """It is asked as text; of several tasks, the one without is named."""
  plain = [{'inputs': f'{n}a', 'targets': 'x', 'task': 'b'} for n in range(8)]
  mixed = [{**row, 'task': 'a'} for row in _rows(8)] + plain
  _register(tmp_path, mixed, mixed, 'two_tasks')
  assert sum(_questions('two_tasks').counts) == 16
  with pytest.raises(UserError, match=r"Task 'b', row 1 \('0a'\): no options"):
    _questions('two_tasks_score_eval')


@pytest.mark.parametrize(
  'row, why',
  [
    (Row('q', 'maybe', ('yes', 'no')), "target 'maybe' is not one of"),
    (Row('q', 'yes', ('yes', 'yes', '')), "one option, 'yes'"),
    (Row('q', 'yes'), 'no options'),
  ],
)
def test_rows_from_python_are_ranked_only_if_they_can_be(row, why):
  rows = [Row(f'{n}', 'yes', ('yes', 'no')) for n in range(4)]
  splits = {'validation': lambda: {'t': RowTask([*rows, row])}}
  registry.add_episodes('from_python', splits, shots=1, options=True)
  with pytest.raises(UserError, match=rf"Task 't', row 5 \('q'\): {why}"):
    lookup.episodes('from_python_score_eval', LONG, 'validation')


def test_an_option_twice_counts_once():
  rows = [Row(f'{n}', 'yes', ('yes', 'no', 'yes')) for n in range(4)]
  splits = {'validation': lambda: {'t': rows}}
  registry.add_episodes('twice', splits, shots=1, options=True)
  for target in _questions('twice_score_eval').targets:
    assert target['option'].tolist() == ['yes', 'no']


def test_what_is_not_asked_or_cut_is_said(tmp_path):
  _register(tmp_path, _rows(8), queries=4, name='four')
  asked = _questions('four', {**LENGTHS, 'targets': (3, 3)}, room=3)
  assert asked.counts == [3, 3] and number_of(asked.targets) == 6
  assert asked.notes() == [
    "four: 6 of 8 queries are asked: TASK_FEATURE_LENGTHS['inputs'] and "
    "['targets'] have no room for more per episode.",
    "four: 4 of 6 targets are cut to TASK_FEATURE_LENGTHS['targets'].",
  ]


def test_likelihoods_that_are_no_number_are_named():
  scores = np.array([[-1.0, -2.0], [-1.0, np.nan]])
  with pytest.raises(UserError, match='t, phi none: .*query 1 of episode 1'):
    scoring.check_scores('t, phi none', scores, [2, 2])
  rows = scoring.check_scores('t, phi none', scores, [2, 1])  # padded
  assert [x.tolist() for x in rows] == [[-1.0, -2.0], [-1.0]]
  with pytest.raises(UserError, match='t: the loss is nan at step 3'):
    scoring.check_loss('t', 3, np.nan)
  with pytest.raises(UserError, match="The metric 'f' is nan"):
    scoring.measure([lambda *_: {'f': np.nan}], [['a']], [['a']], [0])


def test_errors_weigh_episodes_by_their_questions():
  """Two episodes of one question and one of four: 3 of 6 are right."""
  targets = [[['a']], [['a']], [['a']] * 4]
  texts = [['a'], ['b'], ['a', 'a', 'b', 'b']]

  def share(references, answers):
    pairs = [
      (x[0], y)
      for o, s in zip(references, answers, strict=True)
      for x, y in zip(o, s, strict=True)
    ]
    return {'f': sum(x == y for x, y in pairs) / len(pairs)}

  values = scoring.measure([share], targets, texts, [0, 0, 0])
  # Residuals 1 - 0.5, 0 - 0.5 and 2 - 4 * 0.5 over three episodes.
  assert values['f_stderr'] == pytest.approx((3 / 2 * 0.5) ** 0.5 / 6)


def test_means_say_of_how_many_questions_they_are():
  rows = [
    {'task': f'{name}_{seed}', 'phi': 'none', 'questions': 5, 'score': score}
    for name, seed, score in (
      ('a', 1, np.nan),
      ('a', 2, 50.0),
      ('b', 1, 20.0),
      ('b', 2, 10.0),
    )
  ]
  (mean,) = aggregation.averages(rows)
  (worst,) = aggregation.worst(rows, lambda task: task[0], 'score')
  assert mean['questions'] == worst['questions'] == 20
  assert np.isnan(mean['score']) and np.isnan(worst['score'])


def test_options_that_the_vocabulary_does_not_know(tmp_path):
  """Both are `<unk>`: a note counts such questions; all of them are refused."""
  unknown = ('{', '[')
  form = text_format.t5_format(_Letters())
  more = {'text_format': form, 'name': 'unknown'}
  asked = [*_rows(3), *_rows(2, unknown[:1], unknown)]
  asked = [{**row, 'inputs': f'{n}a'} for n, row in enumerate(asked)]
  _register(tmp_path, asked, **more)
  questions = _questions('unknown_score_eval')
  assert len(questions.targets) == 5
  assert questions.notes() == [
    'unknown_score_eval: 2 of 5 questions have a right and a wrong option of '
    "the same tokens ('{' and '['), which cannot be ranked and count as wrong."
  ]
  _register(tmp_path, _rows(5, unknown[:1], unknown), **more)
  with pytest.raises(UserError, match='5 of 5 questions have .* know them'):
    _questions('unknown_score_eval').notes()
