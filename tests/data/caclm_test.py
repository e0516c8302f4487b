"""CACLM segments (docs/pitfalls.md, pitfalls 12 and 18)."""

import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import example as case
from hypothesis import given, settings
from hypothesis import strategies as st

from hypertuning.data import caclm, features, text_format, vocabularies
from hypertuning.data.caclm import SegmentLengths
from hypertuning.errors import UserError

FEATURES = features.output_features(vocabularies.byte_format())
JOINER, EOS, FIRST = 259, 1, 1000


def segments(
  texts,
  lengths,
  seed=0,
  fn=caclm.caclm,
  room=None,
  form_features=FEATURES,
  **kw,
):
  """Examples of texts whose token ids are their positions, from FIRST on."""
  ds = tf.data.Dataset.from_generator(
    lambda: ({'text': np.arange(FIRST, FIRST + n)} for n in texts),
    output_signature={'text': tf.TensorSpec([None], tf.int32)},
  )
  with seqio.utils.map_seed_manager(seed):
    ds = fn(ds, room, form_features, lengths, **kw)
  return list(ds.as_numpy_iterator())


def parts(example):
  """A, B, C, D of an example."""
  hyper = example['hyper_inputs'].tolist()
  assert hyper[-1] == EOS and hyper.count(JOINER) == 1
  cut = hyper.index(JOINER)
  (b,), (c,) = example['inputs'].tolist(), example['targets'].tolist()
  assert c[-1] == EOS
  return hyper[:cut], b, c[:-1], hyper[cut + 1 : -1]


@st.composite
def laws(draw):
  b = sorted(draw(st.tuples(st.integers(1, 12), st.integers(1, 12))))
  c = sorted(draw(st.tuples(st.integers(1, 12), st.integers(1, 12))))
  window = draw(st.integers(b[0] + c[0] + 1, 60))
  return SegmentLengths(window=window, b=tuple(b), c=tuple(c))


@settings(max_examples=15, deadline=None)
@given(laws(), st.integers(0, 300), st.integers(0, 2**31 - 1))
def test_segments_reassemble_the_text(lengths, size, seed):
  examples = segments([size], lengths, seed)
  text = []
  for example in examples:
    a, b, c, d = parts(example)
    assert len(a) + len(d) >= 1
    assert lengths.b[0] <= len(b) <= lengths.b[1]
    assert lengths.c[0] <= len(c) <= lengths.c[1]
    window = [*a, *b, *c, *d]
    assert lengths.shortest <= len(window) <= lengths.window
    # Ids are positions: nothing is lost, doubled or out of order, C goes on
    # where B ends, and the hypermodel reads nothing of B or C.
    assert window == list(range(window[0], window[0] + len(window)))
    text += window
  count = -(-size // lengths.window)
  if size and size // count >= lengths.shortest:
    assert text == list(range(FIRST, FIRST + size))
    assert len(examples) == count


DECODER = text_format.decoder_format(vocabularies.byte_vocabulary())


# Windows of 13 and 14 tokens, of which only the last is long enough.
@case(SegmentLengths(window=14, b=(3, 3), c=(10, 10)), 66, 0)
@settings(max_examples=15, deadline=None)
@given(laws(), st.integers(0, 300), st.integers(0, 2**31 - 1))
def test_two_parts_reassemble_the_text(lengths, size, seed):
  """The hypermodel reads the first part alone, and the second is asked for."""
  for form, frame in ((DECODER, [JOINER]), (None, [])):
    form_features = features.output_features(form) if form else FEATURES
    examples = segments(
      [size], lengths, seed, parts=2, form_features=form_features
    )
    text = []
    for example in examples:
      hyper = example['hyper_inputs'].tolist()
      (inputs,) = example['inputs'].tolist()
      (target,) = example['targets'].tolist()
      assert hyper[: len(frame)] == frame and hyper[-1] == EOS == target[-1]
      assert inputs == (frame or [EOS])  # never empty, and nothing of the text
      first, second = hyper[len(frame) : -1], target[:-1]
      assert first and lengths.c[0] <= len(second) <= lengths.c[1]
      window = first + second
      assert window == list(range(window[0], window[0] + len(window)))
      text += window
    count = -(-size // lengths.window)
    if size and size // count >= lengths.shortest:  # no window is dropped
      assert text == list(range(FIRST, FIRST + size))


def test_a_decoder_sees_where_text_is_left_out():
  lengths = SegmentLengths(20, (3, 5), (2, 4))
  (example,) = segments(
    [20], lengths, form_features=features.output_features(DECODER)
  )
  start, *rest = example['hyper_inputs'].tolist()
  assert start == JOINER and rest[-1] == EOS
  cut = rest.index(EOS)  # what stands between two examples
  first, last = rest[:cut], rest[cut + 1 : -1]
  begin, *b = example['inputs'][0].tolist()
  c = example['targets'][0][:-1].tolist()
  assert begin == JOINER
  assert [*first, *b, *c, *last] == list(range(FIRST, FIRST + 20))


def test_short_texts_are_dropped():
  lengths = SegmentLengths(window=20, b=(3, 5), c=(2, 4))
  assert lengths.shortest == 6
  found = segments([0, 1, 5, 6, 20, 21], lengths)
  sizes = [sum(map(len, parts(example))) for example in found]
  assert sizes == [6, 20, 10, 11]


def test_same_seed_same_cuts_and_every_example_its_own():
  lengths = SegmentLengths(window=60, b=(5, 20), c=(5, 20))

  def run(seed):
    examples = segments([60] * 50, lengths, seed)
    return [tuple(map(len, parts(example))) for example in examples]

  assert run(3) == run(3)
  assert run(3) != run(4)
  assert len(set(run(3))) > 45


def test_cuts_are_uniform_and_independent():
  lengths = SegmentLengths(window=60, b=(5, 14), c=(5, 14))
  count = 4000
  sizes = np.array(
    [[len(p) for p in parts(e)] for e in segments([60] * count, lengths)]
  )
  a, b, c, d = sizes.T
  for drawn in (b, c):
    seen = np.bincount(drawn, minlength=15)[5:]
    # Five standard deviations of a binomial count over ten values.
    assert np.all(np.abs(seen - count / 10) < 5 * (count * 0.09) ** 0.5)
  fraction = a / (a + d)
  pairs = [(fraction, b), (fraction, c), (b, c)]
  # Draws of one seed from unlike ranges agree in their parity only.
  pairs += [(a % 2, b % 2), (a % 2, c % 2), (b % 2, c % 2)]
  for x, y in pairs:
    # A correlation of n independent pairs has a standard deviation of n^-0.5.
    assert abs(np.corrcoef(x, y)[0, 1]) < 4 / count**0.5
  assert abs(fraction.mean() - 0.5) < 0.02


def test_lengths_that_would_cut_a_segment_are_refused():
  lengths = SegmentLengths(window=20, b=(3, 5), c=(2, 4))
  # The longest: A + D = 15 tokens with the joiner and EOS, B = 5, C + EOS = 5.
  fits = {'hyper_inputs': 17, 'inputs': (1, 5), 'targets': (1, 5)}
  longest = {name: 0 for name in fits}
  for example in segments([20] * 300, lengths, room=fits):
    for name in fits:
      longest[name] = max(longest[name], example[name].shape[-1])
  assert longest == {'hyper_inputs': 17, 'inputs': 5, 'targets': 5}
  for name, length in (
    ('hyper_inputs', 16),
    ('inputs', (1, 4)),
    ('targets', (1, 4)),
  ):
    with pytest.raises(UserError, match=name):
      segments([20], lengths, room={**fits, name: length})


@pytest.mark.parametrize(
  'kwargs, field',
  [
    ({'b': (0, 4)}, 'SegmentLengths.b'),
    ({'c': (0, 4)}, 'SegmentLengths.c'),
    ({'c': (9, 4)}, 'SegmentLengths.c'),
    ({'window': 96}, 'SegmentLengths.window'),
  ],
)
def test_impossible_laws_are_refused(kwargs, field):
  with pytest.raises(UserError, match=field):
    SegmentLengths(**kwargs)


def test_joiner_is_configurable():
  (example,) = segments([20], SegmentLengths(20, (3, 5), (2, 4)), joiner=77)
  assert 77 in example['hyper_inputs'] and JOINER not in example['hyper_inputs']


def test_prefix_lm_goes_on_where_its_input_ends():
  lengths = SegmentLengths(window=20, b=(3, 5), c=(2, 4))
  examples = segments([20] * 41, lengths, fn=caclm.prefix_lm, queries=4)
  assert [len(e['inputs']) for e in examples] == [4] * 10 + [1]
  sizes = []
  for example in examples:
    assert example['hyper_inputs'].tolist() == [EOS]
    for row, target in zip(example['inputs'], example['targets'], strict=True):
      row, target = row[row > 0].tolist(), target[target > 0].tolist()
      assert target.pop() == EOS
      text = row + target
      assert text == list(range(text[0], text[0] + len(text)))
      sizes.append(len(row))
  # From B alone to all that stands before C.
  assert 3 <= min(sizes) <= 5 and 12 <= max(sizes) <= 18


@settings(max_examples=8, deadline=None)
@given(st.integers(8, 60), st.sampled_from([3, 6]), st.integers(0, 2**31 - 1))
def test_other_parts_lose_nothing_and_say_what_follows(size, parts, seed):
  """HINT's 3 and 6 parts, over tokens that are their own positions."""
  lengths = SegmentLengths(window=size, b=(2, 4), c=(1, 3))
  tokens = np.arange(10, 10 + size, dtype=np.int32)
  ds = tf.data.Dataset.from_tensors({'text': tokens})
  with seqio.utils.map_seed_manager(seed):
    ds = caclm.caclm(ds, None, FEATURES, lengths, joiner=5, parts=parts)
  (episode,) = ds.as_numpy_iterator()

  def cut(values):
    pieces = [[]]
    for value in values.tolist():
      pieces.append([]) if value == 5 else pieces[-1].append(value)
    return pieces

  hyper = cut(episode['hyper_inputs'][:-1])
  read = cut(episode['inputs'][0])
  said = episode['targets'][0][:-1].tolist()
  assert episode['hyper_inputs'][-1] == 1 == episode['targets'][0][-1]
  if parts == 3:
    order = [hyper[0], read[0], said]
  else:
    order = [hyper[0], read[0], hyper[1], read[1], said, hyper[2]]
  assert sum(order, []) == tokens.tolist() and said
