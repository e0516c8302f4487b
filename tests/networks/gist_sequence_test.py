"""The mask of text, gists and queries against masks of public PyTorch code.

tests/golden/README.md says how those were recorded. Numbers of pitfalls are
those of docs/pitfalls.md.
"""

import jax.numpy as jnp
import numpy as np
import pytest
import runner

from hypertuning.networks.gist_sequence import append_gists, gist_mask
from hypertuning.networks.llama_layout import causal

RECORDED = np.load(runner.ROOT / 'tests/golden/gist_masks.npz')
GISTS = int(RECORDED['num_gists'])
ROWS = range(len(RECORDED['single_sizes']))
TEXT, QUERY = RECORDED['single_sizes'].max(axis=0)


def _real(row: int) -> np.ndarray:
  """Our columns `[text | gists | query]`, False on padding."""
  text, query = RECORDED['single_sizes'][row]
  parts = [np.arange(TEXT) < text, np.ones(GISTS, bool)]
  return np.concatenate([*parts, np.arange(QUERY) < query])


@pytest.mark.parametrize('row', ROWS)
def test_mask_is_that_of_mu_et_al(row):
  """Pitfall 20: their padding stands at the end, ours behind text and query."""
  real = _real(row)
  ours = np.asarray(gist_mask(TEXT, GISTS, 1, QUERY).visible)[real][:, real]
  theirs = RECORDED['single_mask'][row]
  length = real.sum()
  np.testing.assert_array_equal(ours, theirs[:length, :length])
  assert not theirs[:, length:].any()


@pytest.mark.parametrize('row', ROWS)
def test_causal_mask_is_that_of_the_author(row):
  """Pitfall 20, for a decoder-only network."""
  real = _real(row)
  mask = gist_mask(TEXT, GISTS, 1, QUERY)
  view = causal(jnp.array(real)[None], mask.visible[None])
  ours = np.asarray(view.mask())[0, 0]
  np.testing.assert_array_equal(
    ours[real][:, real], RECORDED[f'causal_mask_{row}']
  )


def test_queries_see_gists_and_themselves():
  """Pitfall 20: each by itself, and none is seen from before it."""
  text, queries, query = 4, 3, 2
  mask = gist_mask(text, GISTS, queries, query)
  head = text + GISTS
  wanted = np.zeros((head + queries * query,) * 2, bool)
  wanted[:head, :head] = True
  wanted[head:, text:head] = True
  np.testing.assert_array_equal(mask.through[head:, text:head], True)
  assert int(mask.through.sum()) == queries * query * GISTS
  for start in range(head, len(wanted), query):
    own = slice(start, start + query)
    wanted[own, own] = True
  np.testing.assert_array_equal(mask.visible, wanted)


@pytest.mark.parametrize('pads', [0, 3])
def test_no_row_is_empty_where_an_older_mask_of_the_author_is(pads):
  """Pitfall 20: that mask hides as many columns as there are real tokens.

  Without padding, nothing may be attended to: the softmax of such a row is
  uniform over all columns, later ones too. Ours hides padding, and every token
  sees itself.
  """
  faulty = RECORDED[f'faulty_mask_{pads}']
  real = np.arange(len(faulty)) >= pads  # padding comes first there
  assert (~faulty[real].any(axis=1)).sum() == 10 - pads
  right = np.asarray(causal(jnp.array(real)[None]).mask())[0, 0]
  assert right[real].any(axis=1).all()
  np.testing.assert_array_equal(
    right[real][:, real], np.tri(real.sum(), dtype=bool)
  )


def test_gists_come_right_behind_each_text():
  real = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
  gists = jnp.full((GISTS, 2), 7.0)
  embedded, mask, positions = append_gists(
    jnp.zeros((3, 4, 2), jnp.bfloat16), jnp.array(real), gists
  )
  assert embedded.dtype == jnp.bfloat16
  np.testing.assert_array_equal(embedded[:, 4:], 7)
  assert mask[:, 4:].all()
  np.testing.assert_array_equal(
    positions[:, 4:], real.sum(1, keepdims=True) + np.arange(GISTS)
  )
