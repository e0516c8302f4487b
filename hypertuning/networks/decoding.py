"""Greedy, sampled and beam decoding from a network's memory.

All three have the same signature, and depend on no network. Their argument
`step` is a function `(ids [rows], memory) -> (logits [rows, vocab], memory)`,
and the memory has the ids that come first. Ids after the end of a sequence are
0. Results are sorted by ascending score: the best decode of a text comes last.

Shapes may have more room than a caller needs, so that one program serves many
of them: rows that nobody asked have ended from the start, and no row goes on
behind the limit.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hypertuning.networks.memory import Memory
from hypertuning.padding import PAD_ID
from hypertuning.ranges import Count, Mass, Natural, NotNegative

Step = Callable[[jax.Array, Memory], tuple[jax.Array, Memory]]
_NEGATIVE = -1e7


class _State(NamedTuple):
  """Loop state of greedy and sampled decoding; each row is one decode."""

  step: jax.Array  # []
  ids: jax.Array  # [rows]
  is_done: jax.Array  # [rows] bool
  sequences: jax.Array  # [rows, length]
  scores: jax.Array  # [rows]
  memory: Memory


def sample(
  step: Step,
  memory: Memory,
  *,
  end_ids: Sequence[int],
  num_decodes: Count = 1,
  rng: jax.Array | None = None,
  is_asked: jax.Array | None = None,
  limit: jax.Array | int | None = None,
  temperature: NotNegative = 1.0,
  top_k: Natural = 0,
  top_p: Mass = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Draws every token; with the temperature 0, takes the likeliest one.

  Args:
    step: function that reads one token per row, see the module.
    memory: memory of `batch` texts, one row per text, with room for `length`
      tokens including the end.
    end_ids: ids that end a sequence.
    num_decodes: number of independent draws per text.
    rng: one random key, or one per text `[batch]`; only needed if the
      temperature is not 0. With one key per text, the draws for a text depend
      neither on its batch nor on its place in the batch.
    is_asked: bool `[batch]`, False on texts that are padding: their sequences
      are empty, their scores 0, and nothing waits for them; None for no
      padding.
    limit: number of tokens that a sequence has at most, int32 `[]`; None for as
      many as the memory has room for.
    temperature: number that the logits are divided by.
    top_k: number of likeliest tokens that may be drawn; 0 sets no limit.
    top_p: probability mass of the likeliest tokens that may be drawn; 1 sets no
      limit.

  Returns:
    Sequences, int32 `[batch, num_decodes, length]`, and their
    log-probabilities, float32 `[batch, num_decodes]`. Temperature and limits
    change the draws, but not these log-probabilities.

  Raises:
    ValueError: `rng` is missing.
  """
  if temperature and rng is None:
    raise ValueError('Sampling needs `rng`; or set temperature = 0.')
  batch, length = memory.first.shape[0], memory.length
  last = _last_step(length, limit)
  if num_decodes > 1:
    memory = memory.repeat(num_decodes)
  rows = batch * num_decodes
  keys = None
  if temperature and rng is not None:
    keys = divided_keys(row_keys(rng, batch), num_decodes).reshape(rows)

  def body(state: _State) -> _State:
    logits, memory = step(state.ids, state.memory)
    logits = logits.astype(jnp.float32)
    if keys is not None:
      allowed_logits = _filter(logits / temperature, top_k, top_p)
      step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, state.step)
      ids = jax.vmap(jax.random.categorical)(step_keys, allowed_logits)
    else:
      ids = jnp.argmax(logits, axis=-1)
    ids = jnp.where(state.is_done, PAD_ID, ids.astype(jnp.int32))
    log_probs = jnp.take_along_axis(
      jax.nn.log_softmax(logits), ids[:, None], axis=-1
    )[:, 0]
    return _State(
      state.step + 1,
      ids,
      state.is_done | is_end(ids, end_ids),
      state.sequences.at[:, state.step].set(ids),
      state.scores + jnp.where(state.is_done, 0.0, log_probs),
      memory,
    )

  final = jax.lax.while_loop(
    lambda s: (s.step < last) & ~jnp.all(s.is_done),
    body,
    _State(
      jnp.zeros((), jnp.int32),
      memory.first,
      jnp.repeat(_is_padding(batch, is_asked), num_decodes),
      jnp.zeros((rows, length), jnp.int32),
      jnp.zeros(rows),
      memory,
    ),
  )
  return _sort_by_score(
    final.sequences.reshape(batch, num_decodes, -1),
    final.scores.reshape(batch, num_decodes),
  )


def row_keys(rng: jax.Array, rows: int) -> jax.Array:
  """One random key per row.

  Args:
    rng: one key `[]`, made by `jax.random.key` or `PRNGKey`, which gives each
      row another key; or one key per row `[rows]`, which are returned as they
      are.
    rows: number of rows.

  Returns:
    Keys `[rows]`.
  """
  if not jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
    rng = jax.random.wrap_key_data(rng)
  return rng if rng.ndim else divided_keys(rng[None], rows)[0]


def query_keys(
  rng: jax.Array | None, episodes: int, queries: int
) -> jax.Array | None:
  """One random key per query.

  Args:
    rng: one key, one key per episode `[episodes]`, or None.
    episodes: number of episodes.
    queries: number of queries per episode.

  Returns:
    Keys `[episodes * queries]`, or None if `rng` is None.
  """
  if rng is None:
    return None
  return divided_keys(row_keys(rng, episodes), queries).reshape(-1)


def divided_keys(keys: jax.Array, count: int) -> jax.Array:
  """Derives several random keys from each key.

  Args:
    keys: keys `[rows]`.
    count: number of keys that are derived from each key.

  Returns:
    Keys `[rows, count]`. The key in each column does not depend on `count`.
  """
  numbers = jnp.arange(count)
  fold = jax.vmap(jax.random.fold_in, (None, 0))
  return jax.vmap(fold, (0, None))(keys, numbers)


def is_end(ids: jax.Array, end_ids: Sequence[int]) -> jax.Array:
  """Whether each id ends a sequence."""
  return jnp.isin(ids, jnp.array(tuple(end_ids), ids.dtype))


def greedy(
  step: Step,
  memory: Memory,
  *,
  end_ids: Sequence[int],
  num_decodes: int = 1,
  rng: jax.Array | None = None,
  is_asked: jax.Array | None = None,
  limit: jax.Array | int | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Takes the likeliest token at every step.

  Arguments and results are those of `sample`.
  """
  del rng
  return sample(
    *(step, memory),
    end_ids=end_ids,
    num_decodes=num_decodes,
    is_asked=is_asked,
    limit=limit,
    temperature=0.0,
  )


class _Beams(NamedTuple):
  """Loop state of beam search.

  Beams that are alive can still be extended; complete ones have ended.
  """

  step: jax.Array
  ids: jax.Array  # [batch * beams]
  sequences: jax.Array  # [batch, beams, length] alive
  scores: jax.Array  # [batch, beams] summed log-probabilities
  complete: jax.Array  # [batch, beams, length]
  complete_scores: jax.Array  # [batch, beams] length-normalised
  memory: Memory


def beam_search(
  step: Step,
  memory: Memory,
  *,
  end_ids: Sequence[int],
  num_decodes: Count = 4,
  rng: jax.Array | None = None,
  is_asked: jax.Array | None = None,
  limit: jax.Array | int | None = None,
  alpha: NotNegative = 0.6,
) -> tuple[jax.Array, jax.Array]:
  """Beam search with the length penalty of Wu et al. (2016), section 7.

  Args:
    step: function that reads one token per row, see the module. The beams of a
      text are consecutive rows.
    memory: memory of `batch` texts, see `sample`.
    end_ids: ids that end a sequence.
    num_decodes: number of beams per text.
    rng: key for draws, which is ignored, as nothing is drawn.
    is_asked: see `sample`.
    limit: see `sample`; scores are those of a memory with as much room.
    alpha: exponent of the length penalty: the score of a sequence is its
      log-probability divided by `((5 + length) / 6) ** alpha`.

  Returns:
    Sequences, int32 `[batch, beams, length]`, and their scores, float32
    `[batch, beams]`. A sequence that has not ended within the length counts
    without an end.
  """
  del rng
  beams = num_decodes
  batch_size, max_length = memory.first.shape[0], memory.length
  last = _last_step(max_length, limit)
  memory = memory.repeat(beams)

  first_rows = beams * jnp.arange(batch_size)[:, None]

  def penalty(length: jax.Array | int) -> jax.Array:
    return ((5.0 + length) / 6.0) ** alpha

  def body(state: _Beams) -> _Beams:
    logits, memory = step(state.ids, state.memory)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    vocab = log_probs.shape[-1]
    totals = state.scores[..., None] + log_probs.reshape(-1, beams, vocab)
    # There are twice as many candidates as beams, so that enough of them are
    # still alive if some end with this token.
    scores, flat = jax.lax.top_k(totals.reshape(batch_size, -1), 2 * beams)
    parents, ids = flat // vocab, (flat % vocab).astype(jnp.int32)
    sequences = jnp.take_along_axis(state.sequences, parents[..., None], axis=1)
    sequences = sequences.at[:, :, state.step].set(ids)
    ends = is_end(ids, end_ids)

    best_alive_scores, alive_beams = jax.lax.top_k(
      jnp.where(ends, _NEGATIVE, scores), beams
    )
    complete_scores = jnp.where(
      ends, scores / penalty(state.step + 1), _NEGATIVE
    )
    complete, complete_scores = _best(
      jnp.concatenate([state.complete, sequences], axis=1),
      jnp.concatenate([state.complete_scores, complete_scores], axis=1),
      beams,
    )
    parents = jnp.take_along_axis(parents, alive_beams, axis=1)
    return _Beams(
      state.step + 1,
      jnp.take_along_axis(ids, alive_beams, axis=1).reshape(-1),
      jnp.take_along_axis(sequences, alive_beams[..., None], axis=1),
      best_alive_scores,
      complete,
      complete_scores,
      # Every row takes over the memory of the beam that it extends.
      memory.take((first_rows + parents).reshape(-1)),
    )

  def unfinished(state: _Beams) -> jax.Array:
    # This bounds the score that a beam can still reach: its log-probability
    # only falls, and the longest sequence has the mildest penalty.
    reachable = state.scores[:, 0] / penalty(last)
    better = jnp.any(reachable > jnp.min(state.complete_scores, axis=1))
    return (state.step < last) & better

  empty = jnp.zeros((batch_size, beams, max_length), jnp.int32)
  # All beams start with the same text; without this, they would stay equal.
  first = jnp.where(jnp.arange(beams) == 0, 0.0, _NEGATIVE)
  # Padding has complete beams already, and none is better.
  is_padding = _is_padding(batch_size, is_asked)[:, None]
  final = jax.lax.while_loop(
    unfinished,
    body,
    _Beams(
      jnp.zeros((), jnp.int32),
      memory.first,
      empty,
      jnp.tile(first, (batch_size, 1)),
      empty,
      jnp.tile(jnp.where(is_padding, 0.0, _NEGATIVE), (1, beams)),
      memory,
    ),
  )
  alive_scores = jnp.where(
    final.step == last,
    final.scores / penalty(last),
    _NEGATIVE,
  )
  return _sort_by_score(
    *_best(
      jnp.concatenate([final.complete, final.sequences], axis=1),
      jnp.concatenate([final.complete_scores, alive_scores], axis=1),
      beams,
    )
  )


def _last_step(length: int, limit: jax.Array | int | None) -> Any:
  """The number of steps that no decode exceeds."""
  return length if limit is None else jnp.minimum(limit, length)


def _is_padding(batch: int, is_asked: jax.Array | None) -> jax.Array:
  """Which texts nobody asked, bool `[batch]`."""
  return jnp.zeros(batch, bool) if is_asked is None else ~is_asked


def _filter(logits: jax.Array, top_k: int, top_p: float) -> jax.Array:
  """Sets the logits of tokens that must not be drawn to -1e7, see `sample`."""
  if top_k:
    count = min(top_k, logits.shape[-1])
    kth = jax.lax.top_k(logits, count)[0][..., -1:]
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
  """The `count` best sequences of `[batch, candidates, ...]`, best first."""
  scores, order = jax.lax.top_k(scores, count)
  return jnp.take_along_axis(sequences, order[..., None], axis=1), scores


def _sort_by_score(
  sequences: jax.Array, scores: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Sorts sequences by ascending score."""
  order = jnp.argsort(scores, axis=1)
  return (
    jnp.take_along_axis(sequences, order[..., None], axis=1),
    jnp.take_along_axis(scores, order, axis=1),
  )
