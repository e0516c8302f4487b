"""Text formats, and the one implementation that lays out few-shot text."""

import subprocess
import sys

import merging
import pytest
import runner
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from hypertuning import gin_utils
from hypertuning.data import (
  fewshot,
  lookup,
  registry,
  request_files,
  seqio_vocabularies,
  text_format,
  vocabularies,
)
from hypertuning.data.request_files import Request
from hypertuning.data.seqio_vocabularies import to_seqio
from hypertuning.errors import UserError
from hypertuning.tasks import own

BYTES = vocabularies.byte_vocabulary()
LINES = merging.line_format()
FORMATS = {
  't5': vocabularies.byte_format(),
  # As Llama 2's: one line break behind a definition, two between examples.
  'definition end': text_format.custom_format(
    BYTES,
    start=(7,),
    inputs='I:',
    targets='O:',
    between=(13, 13),
    definition_end=(14,),
    blank=' ',
  ),
  'markers': text_format.markers_format(BYTES),
  'lines': LINES,
}
FEATURES = ('hyper_inputs', 'inputs', 'targets', 'left_out')


def unpadded(features):
  """Features as lists without the padding of queries."""
  return {
    name: [row[row > 0].tolist() for row in value]
    if value.ndim == 2
    else value.tolist()
    for name, value in features.items()
    if name in FEATURES
  }


def examples_before(request, form, room, behind):
  """Definition and whole examples, in plain Python, and how many are missing.

  Args:
    request: definition and examples.
    form: the format.
    room: number of tokens.
    behind: whether something follows, so that `between` does as well.
  """
  between, last = list(form.between), []
  text = []
  if request.definition:
    text = [*form.definition, *form.encode(request.definition, 'definition')]
    end = list(form.definition_separator)
    text = text[: max(room - len(end) * behind, 0)]
    last = end if text else []
    text += last
  room += 0 if behind else len(between)
  left_out, is_full, space = 0, False, room - len(text)
  for x, y in request.examples:
    shot = [*form.inputs, *form.encode(x, 'inputs')]
    shot += [*form.targets, *form.encode(y, 'targets'), *between]
    is_full |= len(shot) <= space and len(text) + len(shot) > room
    if len(shot) > space or is_full:
      left_out += 1
    else:
      text += shot
      last = between
  return text if behind else text[: len(text) - len(last)], left_out


def layout(request, answers, lengths, form, in_context):
  """What `fewshot.episode_features` must give, in plain Python."""
  hyper, left_out = examples_before(
    request,
    form,
    lengths['hyper_inputs'] - len(form.start) - len(form.end),
    behind=False,
  )
  around = len(form.inputs) + len(form.targets) + len(form.start)
  room = lengths['inputs'][1]
  queries = [
    [
      *form.inputs,
      *form.encode(query, 'inputs')[-(room - around) :],
      *form.targets,
    ]
    for query in request.queries
  ]
  context = []
  if in_context:
    rest = room - len(form.start) - max(map(len, queries))
    context, left_out = examples_before(request, form, rest, behind=True)
  end = list(form.target_end)
  return {
    'hyper_inputs': [*form.start, *hyper, *form.end],
    'inputs': [[*form.start, *context, *query] for query in queries],
    'targets': [
      form.encode(answer, 'targets')[: lengths['targets'][1] - len(end)] + end
      for answer in answers
    ],
    'left_out': left_out,
  }


TEXTS = st.text('ab \né', max_size=8)


@pytest.mark.parametrize(
  'name',
  [
    't5',
    pytest.param('markers', marks=pytest.mark.slow),
    'definition end',
    'lines',
  ],
)
@settings(max_examples=4, deadline=None)
@given(
  st.lists(st.tuples(TEXTS, TEXTS), max_size=4),
  st.lists(TEXTS, min_size=2, max_size=2),
  TEXTS,
  st.booleans(),
  st.integers(0, 40),
  st.integers(0, 60),
  st.integers(0, 6),
)
def test_training_and_a_file_give_the_same_layout(
  name, examples, queries, definition, in_context, hyper, inputs, targets
):
  form = FORMATS[name]
  around = len(form.start + form.inputs + form.targets)
  lengths = {
    'hyper_inputs': len(form.start + form.end) + hyper,
    'inputs': (2, around + 1 + inputs),
    'targets': (2, len(form.target_end) + 1 + targets),
  }
  answers = ['b a', '']
  drawn = tf.data.Dataset.from_tensors(
    {
      'definition': definition,
      'shot_inputs': tf.constant([x for x, _ in examples], tf.string),
      'shot_targets': tf.constant([y for _, y in examples], tf.string),
      'query_inputs': queries,
      'query_targets': answers,
    }
  )
  trained = fewshot.episode_features(drawn, lengths, form, in_context)
  (features,) = trained.as_numpy_iterator()
  request = Request(1, examples, queries, definition)
  want = layout(request, answers, lengths, form, in_context)
  assert unpadded(features) == want
  # A file's queries are not cut but refused.
  if any(len(form.query(query)) > lengths['inputs'][1] for query in queries):
    with pytest.raises(UserError, match='Line 1: .* has room for'):
      request_files.episodes([request], lengths, form, in_context)
    return
  (features,) = request_files.episodes([request], lengths, form, in_context)
  want['targets'] = [form.encode('', 'targets') + list(form.target_end)] * 2
  assert unpadded(features) == want


def test_lines_are_laid_out_as_a_decoder_only_model_reads_them():
  request = Request(1, [('a', 'b'), ('c', 'd')], ['e'], 'Say it.')
  (features,) = request_files.episodes(
    [request],
    {'hyper_inputs': 99, 'inputs': (1, 99), 'targets': (1, 9)},
    LINES,
    in_context=True,
  )
  tokens = features['inputs'][0].tolist()
  text = 'Say it.\n\nInput: a\nOutput: b\n\nInput: c\nOutput: d\n\nInput: e'
  assert LINES.vocabulary.decode(tokens) == text + '\nOutput:'
  # The whole text has the same characters and other ids.
  assert merging.TWO_NEWLINES in LINES.vocabulary.encode(text)
  assert merging.TWO_NEWLINES not in tokens
  assert tokens.count(merging.BOS) == 1 and tokens[0] == merging.BOS
  # The blank before an answer is the answer's.
  answer = [*LINES.vocabulary.encode(' y'), merging.NEWLINE]
  assert LINES.encode('y', 'targets') == answer[:1]
  assert LINES.target_end == (merging.NEWLINE,)
  assert LINES.end_ids == (merging.EOS, merging.NEWLINE, merging.TWO_NEWLINES)
  assert LINES.answer([*answer, 5, 0]) == 'y'
  assert LINES.readable([merging.BOS, *answer[:1], 0]) == '<s>  y'


def test_loss_is_on_a_target_and_its_end():
  name = registry.add_episodes(
    'lines',
    {'train': lambda: {'t': [(f'{i}', 'yes') for i in range(9)]}},
    shots=2,
    text_format=LINES,
  )
  (episode,) = lookup.episodes(name, None, 'train').take(1).as_numpy_iterator()
  assert episode['targets'].tolist() == [[*LINES.encode('yes', 'targets'), 198]]
  feature = seqio.TaskRegistry.get(name).output_features['targets']
  assert feature.vocabulary.decode(LINES.encode('yes', 'targets')) == ' yes'
  assert lookup.format_of(seqio.TaskRegistry.get(name)) == LINES
  lookup.check_text(name, LINES)


def test_formats_are_compared_and_not_only_vocabularies():
  rows = {'train': lambda: {'t': [(f'{i}', 'y') for i in range(9)]}}
  marked = text_format.markers_format(BYTES)
  registry.add_episodes('marked_rows', rows, shots=2, text_format=marked)
  lookup.check_text('marked_rows', text_format.markers_format(BYTES))
  with pytest.raises(UserError) as error:
    lookup.check_text('marked_rows', FORMATS['t5'])
  message = str(error.value)
  assert message.startswith('marked_rows: its text is in a ByteVocabulary')
  assert "inputs ' Input: '" in message and "inputs '<input>'" in message


def test_a_task_with_bare_features_is_compared_by_its_vocabulary():
  features = {'targets': seqio.Feature(to_seqio(BYTES), rank=2)}
  source = seqio.FunctionDataSource(
    lambda split, shuffle_files, seed=None: None, splits=('train',)
  )
  registry.add_task('bare', source=source, output_features=features)
  lookup.check_text('bare', FORMATS['markers'])
  assert lookup.format_of(seqio.TaskRegistry.get('bare')) == FORMATS['t5']
  with pytest.raises(UserError, match='bare: its text is in a ByteVoc'):
    lookup.check_text('bare', LINES)


def test_any_ids_are_printed():
  form = FORMATS['t5']
  tokens = [*form.inputs, *form.encode('a b', 'inputs'), *form.targets, 1, 0, 0]
  assert form.readable(tokens) == '<input> a b <target> </s>'
  bare = text_format.guessed_format(seqio.ByteVocabulary(extra_ids=0))
  assert bare.readable([*bare.encode('a b', 'inputs'), 1]) == 'a b </s>'


@pytest.mark.parametrize(
  'parts, words',
  [
    ({'inputs': (0,)}, 'inputs: 0 is no id'),
    ({'between': (4000,)}, 'between: 4000 is no id'),
    ({'target_end': (5,), 'end_ids': (6,)}, 'target_end = .5,.: none'),
  ],
)
def test_a_format_that_cannot_work_is_refused(parts, words):
  with pytest.raises(UserError, match=words):
    text_format.custom_format(merging.MergingVocabulary(), **parts)


def test_what_is_no_vocabulary_or_format_is_refused():
  with pytest.raises(UserError, match='VOCABULARY is a str'):
    text_format.t5_format('spiece.model')
  with pytest.raises(UserError, match='text_format is a ByteVocabulary'):
    registry.add_episodes('none', {}, shots=1, text_format=BYTES)
  assert text_format.t5_format(None) is None
  assert text_format.custom_format(None, start=(1,)) is None


def test_old_arguments_name_the_new_one():
  for call in (
    lambda: own.task_file('mine', 'none.jsonl', vocabulary=BYTES),
    lambda: registry.add_episodes('mine', {}, 1, markers=None),
    lambda: runner.model(input_vocabulary=BYTES),
  ):
    with pytest.raises(UserError, match='is `text_format` now') as error:
      call()
    assert '\n' not in str(error.value)
  with pytest.raises(UserError, match='markers_format'):
    fewshot.Markers  # noqa: B018


def test_old_bindings_name_the_new_one(tmp_path):
  path = tmp_path / 'old.gin'
  path.write_text(
    'from __gin__ import dynamic_registration\n'
    'from hypertuning.tasks import own\n'
    'own.task_file.markers = None\n'
  )
  with pytest.raises(UserError) as error:
    gin_utils.parse([str(path)])
  message = str(error.value)
  assert message.startswith(f'{path}:3: ') and 'own.task_file' in message
  assert '`markers` is `text_format` now' in message
  with pytest.raises(UserError, match='`input_vocabulary` is `text_format`'):
    gin_utils.parse(
      runner.MODEL_FILES, ['models.HyperTuningModel.input_vocabulary = None']
    )


def test_formats_need_neither_tensorflow_nor_seqio():
  code = (
    'import sys, merging\n'
    'merging.line_format()\n'
    'assert not {"tensorflow", "seqio", "jax"} & set(sys.modules)\n'
  )
  environment = runner.environment()
  helpers = str(runner.ROOT / 'tests' / 'helpers')
  environment['PYTHONPATH'] += f':{helpers}'
  subprocess.run([sys.executable, '-c', code], env=environment, check=True)


def test_many_texts_are_encoded_as_single_ones_by_a_python_vocabulary():
  texts = ['a b', '', '\n\nc']
  rows = seqio_vocabularies.encode(LINES.vocabulary, tf.constant(texts))
  assert rows.to_list() == [LINES.vocabulary.encode(text) for text in texts]
