"""Greedy, sampled and beam decoding over a key / value cache.

All three share one signature and know nothing of models:
`tokens_to_logits(ids [rows], cache) -> (logits [rows, vocab], cache)`.
Decoding starts from id 0, as T5 does; ids after the one that ends a sequence
are 0. Results are sorted by ascending score: the best decode of a row is its
last.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

TokensToLogits = Callable[[jax.Array, Any], tuple[jax.Array, Any]]
_NEGATIVE = -1e7


class _State(NamedTuple):
  """Loop state of greedy and sampled decoding; `rows` decodes at once."""

  step: jax.Array  # []
  ids: jax.Array  # [rows]
  done: jax.Array  # [rows] bool
  sequences: jax.Array  # [rows, length]
  scores: jax.Array  # [rows]
  cache: Any


def sample(
  tokens_to_logits: TokensToLogits,
  cache: Any,
  *,
  batch_size: int,
  max_decode_length: int,
  end_ids: Sequence[int],
  num_decodes: int = 1,
  rng: jax.Array | None = None,
  batch_axis: int = 0,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Draws every token; temperature 0 takes the likeliest (greedy).

  Args:
    tokens_to_logits: see the module.
    cache: whose batch axis has `batch_size * num_decodes` rows.
    batch_size: number of queries.
    max_decode_length: number of tokens, EOS included.
    end_ids: ids of which any ends a sequence.
    num_decodes: independent draws a query.
    rng: needed where the temperature is not 0.
    batch_axis: of the cache's leaves; only beam search reads it.
    temperature: divides the logits.
    top_k: if not 0, only the k likeliest tokens may be drawn.
    top_p: only the likeliest tokens up to this mass may be drawn.

  Returns:
    Sequences int32 `[batch, num_decodes, length]` and their log-probabilities
    under the undivided, unfiltered logits, float32 `[batch, num_decodes]`.

  Raises:
    ValueError: `rng` is missing.
  """
  del batch_axis
  if temperature and rng is None:
    raise ValueError('Sampling needs `rng`; or set temperature = 0.')
  rows = batch_size * num_decodes

  def body(state: _State) -> _State:
    logits, cache = tokens_to_logits(state.ids, state.cache)
    logits = logits.astype(jnp.float32)
    if temperature and rng is not None:
      filtered = _filter(logits / temperature, top_k, top_p)
      ids = jax.random.categorical(
        jax.random.fold_in(rng, state.step), filtered
      )
    else:
      ids = jnp.argmax(logits, axis=-1)
    ids = jnp.where(state.done, 0, ids.astype(jnp.int32))
    log_probs = jnp.take_along_axis(
      jax.nn.log_softmax(logits), ids[:, None], axis=-1
    )[:, 0]
    return _State(
      state.step + 1,
      ids,
      state.done | _ends(ids, end_ids),
      state.sequences.at[:, state.step].set(ids),
      state.scores + jnp.where(state.done, 0.0, log_probs),
      cache,
    )

  final = jax.lax.while_loop(
    lambda s: (s.step < max_decode_length) & ~jnp.all(s.done),
    body,
    _State(
      jnp.zeros((), jnp.int32),
      jnp.zeros(rows, jnp.int32),
      jnp.zeros(rows, bool),
      jnp.zeros((rows, max_decode_length), jnp.int32),
      jnp.zeros(rows),
      cache,
    ),
  )
  return _sorted(
    final.sequences.reshape(batch_size, num_decodes, -1),
    final.scores.reshape(batch_size, num_decodes),
  )


def greedy(
  tokens_to_logits: TokensToLogits, cache: Any, **kwargs: Any
) -> tuple[jax.Array, jax.Array]:
  """The likeliest token at every step; arguments and results as `sample`."""
  return sample(tokens_to_logits, cache, **kwargs, temperature=0.0)


class _Beams(NamedTuple):
  """Loop state of beam search."""

  step: jax.Array
  ids: jax.Array  # [batch * beams]
  sequences: jax.Array  # [batch, beams, length] alive
  scores: jax.Array  # [batch, beams] summed log-probabilities
  ended: jax.Array  # [batch, beams, length]
  ended_scores: jax.Array  # [batch, beams] length-normalised
  cache: Any


def beam_search(
  tokens_to_logits: TokensToLogits,
  cache: Any,
  *,
  batch_size: int,
  max_decode_length: int,
  end_ids: Sequence[int],
  num_decodes: int = 4,
  rng: jax.Array | None = None,
  batch_axis: int = 0,
  alpha: float = 0.6,
) -> tuple[jax.Array, jax.Array]:
  """Beam search with the length penalty of Wu et al. (2016), section 7.

  Args:
    tokens_to_logits: see the module; rows of one query's beams are neighbours.
    cache: whose batch axis has `batch_size * num_decodes` rows.
    batch_size: number of queries.
    max_decode_length: number of tokens, EOS included.
    end_ids: ids of which any ends a sequence.
    num_decodes: beams a query.
    rng: not used.
    batch_axis: of the cache's leaves with more than `batch_axis` dimensions.
    alpha: a decode's score is its log-probability over
      `((5 + length) / 6) ** alpha`.

  Returns:
    Sequences int32 `[batch, beams, length]` and length-normalised scores
    `[batch, beams]`. A sequence that no EOS ended in time counts as it stands.
  """
  del rng
  beams = num_decodes

  def penalty(length: jax.Array | int) -> jax.Array:
    return ((5.0 + length) / 6.0) ** alpha

  def body(state: _Beams) -> _Beams:
    logits, cache = tokens_to_logits(state.ids, state.cache)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    vocab = log_probs.shape[-1]
    totals = state.scores[..., None] + log_probs.reshape(-1, beams, vocab)
    # Twice as many candidates: at most half of them can end here.
    scores, flat = jax.lax.top_k(totals.reshape(batch_size, -1), 2 * beams)
    parents, ids = flat // vocab, (flat % vocab).astype(jnp.int32)
    sequences = jnp.take_along_axis(state.sequences, parents[..., None], axis=1)
    sequences = sequences.at[:, :, state.step].set(ids)
    is_end = _ends(ids, end_ids)

    alive, kept = jax.lax.top_k(jnp.where(is_end, _NEGATIVE, scores), beams)
    ended_scores = jnp.where(
      is_end, scores / penalty(state.step + 1), _NEGATIVE
    )
    ended, ended_scores = _best(
      jnp.concatenate([state.ended, sequences], axis=1),
      jnp.concatenate([state.ended_scores, ended_scores], axis=1),
      beams,
    )
    parents = jnp.take_along_axis(parents, kept, axis=1)
    return _Beams(
      state.step + 1,
      jnp.take_along_axis(ids, kept, axis=1).reshape(-1),
      jnp.take_along_axis(sequences, kept[..., None], axis=1),
      alive,
      ended,
      ended_scores,
      _gather_rows(cache, parents, batch_axis),
    )

  def unfinished(state: _Beams) -> jax.Array:
    # The best that an alive beam can still reach: scores only fall, and the
    # longest sequence has the mildest penalty.
    reachable = state.scores[:, 0] / penalty(max_decode_length)
    better = jnp.any(reachable > jnp.min(state.ended_scores, axis=1))
    return (state.step < max_decode_length) & better

  empty = jnp.zeros((batch_size, beams, max_decode_length), jnp.int32)
  # All beams start alike: only the first may be extended.
  first = jnp.where(jnp.arange(beams) == 0, 0.0, _NEGATIVE)
  final = jax.lax.while_loop(
    unfinished,
    body,
    _Beams(
      jnp.zeros((), jnp.int32),
      jnp.zeros(batch_size * beams, jnp.int32),
      empty,
      jnp.tile(first, (batch_size, 1)),
      empty,
      jnp.full((batch_size, beams), _NEGATIVE),
      cache,
    ),
  )
  alive_scores = jnp.where(
    final.step == max_decode_length,
    final.scores / penalty(max_decode_length),
    _NEGATIVE,
  )
  return _sorted(
    *_best(
      jnp.concatenate([final.ended, final.sequences], axis=1),
      jnp.concatenate([final.ended_scores, alive_scores], axis=1),
      beams,
    )
  )


def _ends(ids: jax.Array, end_ids: Sequence[int]) -> jax.Array:
  return jnp.isin(ids, jnp.array(end_ids, jnp.int32))


def _filter(logits: jax.Array, top_k: int, top_p: float) -> jax.Array:
  """Logits of tokens outside the top k or the top-p nucleus go to -1e7."""
  if top_k:
    kth = jax.lax.top_k(logits, top_k)[0][..., -1:]
    logits = jnp.where(logits < kth, _NEGATIVE, logits)
  if top_p < 1.0:
    ordered = jnp.sort(logits, axis=-1)[..., ::-1]
    mass = jnp.cumsum(jax.nn.softmax(ordered), axis=-1)
    # The token that crosses the mass still belongs to the nucleus.
    last = jnp.sum(mass < top_p, axis=-1, keepdims=True)
    threshold = jnp.take_along_axis(ordered, last, axis=-1)
    logits = jnp.where(logits < threshold, _NEGATIVE, logits)
  return logits


def _best(
  sequences: jax.Array, scores: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
  """The `count` best of `[batch, candidates, ...]`, best first."""
  scores, order = jax.lax.top_k(scores, count)
  return jnp.take_along_axis(sequences, order[..., None], axis=1), scores


def _sorted(
  sequences: jax.Array, scores: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Best last."""
  order = jnp.argsort(scores, axis=1)
  return (
    jnp.take_along_axis(sequences, order[..., None], axis=1),
    jnp.take_along_axis(scores, order, axis=1),
  )


def _gather_rows(cache: Any, parents: jax.Array, batch_axis: int) -> Any:
  """Moves every cache row to the beam that continues it."""
  batch, beams = parents.shape
  rows = (jnp.arange(batch)[:, None] * beams + parents).reshape(-1)
  return jax.tree.map(
    lambda x: jnp.take(x, rows, axis=batch_axis) if x.ndim > batch_axis else x,
    cache,
  )
