"""Greedy, sampled and beam decoding from a network's memory.

All three share one signature and know nothing of networks: a step is
`step(ids [rows], memory) -> (logits [rows, vocab], memory)`, and the memory
says which ids come first. Ids behind an end are 0. Results are sorted by
ascending score: the best decode of a row is its last.
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
  """Loop state of greedy and sampled decoding; `rows` decodes at once."""

  step: jax.Array  # []
  ids: jax.Array  # [rows]
  done: jax.Array  # [rows] bool
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
  temperature: NotNegative = 1.0,
  top_k: Natural = 0,
  top_p: Mass = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Draws every token; temperature 0 takes the likeliest (greedy).

  Args:
    step: see the module.
    memory: of `batch` texts, one row per text; it has room for `length` tokens,
      the end included.
    end_ids: ids that end a sequence.
    num_decodes: independent draws per text.
    rng: key for the draws, needed where the temperature is not 0.
    temperature: divides the logits.
    top_k: if not 0, only the k likeliest tokens may be drawn.
    top_p: only the likeliest tokens up to this mass may be drawn.

  Returns:
    Sequences int32 `[batch, num_decodes, length]` and their log-probabilities
    under the undivided, unfiltered logits, float32 `[batch, num_decodes]`.

  Raises:
    ValueError: `rng` is missing.
  """
  if temperature and rng is None:
    raise ValueError('Sampling needs `rng`; or set temperature = 0.')
  batch, length = memory.first.shape[0], memory.length
  if num_decodes > 1:
    memory = memory.repeat(num_decodes)
  rows = batch * num_decodes

  def body(state: _State) -> _State:
    logits, memory = step(state.ids, state.memory)
    logits = logits.astype(jnp.float32)
    if temperature and rng is not None:
      filtered = _filter(logits / temperature, top_k, top_p)
      ids = jax.random.categorical(
        jax.random.fold_in(rng, state.step), filtered
      )
    else:
      ids = jnp.argmax(logits, axis=-1)
    ids = jnp.where(state.done, PAD_ID, ids.astype(jnp.int32))
    log_probs = jnp.take_along_axis(
      jax.nn.log_softmax(logits), ids[:, None], axis=-1
    )[:, 0]
    return _State(
      state.step + 1,
      ids,
      state.done | is_end(ids, end_ids),
      state.sequences.at[:, state.step].set(ids),
      state.scores + jnp.where(state.done, 0.0, log_probs),
      memory,
    )

  final = jax.lax.while_loop(
    lambda s: (s.step < length) & ~jnp.all(s.done),
    body,
    _State(
      jnp.zeros((), jnp.int32),
      memory.first,
      jnp.zeros(rows, bool),
      jnp.zeros((rows, length), jnp.int32),
      jnp.zeros(rows),
      memory,
    ),
  )
  return _sorted(
    final.sequences.reshape(batch, num_decodes, -1),
    final.scores.reshape(batch, num_decodes),
  )


def is_end(ids: jax.Array, end_ids: Sequence[int]) -> jax.Array:
  """Whether each id ends a sequence."""
  return jnp.isin(ids, jnp.array(tuple(end_ids), ids.dtype))


def greedy(
  step: Step, memory: Memory, **kwargs: Any
) -> tuple[jax.Array, jax.Array]:
  """The likeliest token at every step; arguments and results as `sample`."""
  return sample(step, memory, **kwargs, temperature=0.0)


class _Beams(NamedTuple):
  """Loop state of beam search."""

  step: jax.Array
  ids: jax.Array  # [batch * beams]
  sequences: jax.Array  # [batch, beams, length] alive
  scores: jax.Array  # [batch, beams] summed log-probabilities
  ended: jax.Array  # [batch, beams, length]
  ended_scores: jax.Array  # [batch, beams] length-normalised
  memory: Memory


def beam_search(
  step: Step,
  memory: Memory,
  *,
  end_ids: Sequence[int],
  num_decodes: Count = 4,
  rng: jax.Array | None = None,
  alpha: NotNegative = 0.6,
) -> tuple[jax.Array, jax.Array]:
  """Beam search with the length penalty of Wu et al. (2016), section 7.

  Args:
    step: see the module; rows of one text's beams are neighbours.
    memory: see `sample`.
    end_ids: ids that end a sequence.
    num_decodes: beams per text.
    rng: not used.
    alpha: a decode's score is its log-probability over
      `((5 + length) / 6) ** alpha`.

  Returns:
    Sequences int32 `[batch, beams, length]` and length-normalised scores
    `[batch, beams]`. A sequence that nothing ended in time counts as it is.
  """
  del rng
  beams = num_decodes
  batch_size, max_length = memory.first.shape[0], memory.length
  memory = memory.repeat(beams)

  first_rows = beams * jnp.arange(batch_size)[:, None]

  def penalty(length: jax.Array | int) -> jax.Array:
    return ((5.0 + length) / 6.0) ** alpha

  def body(state: _Beams) -> _Beams:
    logits, memory = step(state.ids, state.memory)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    vocab = log_probs.shape[-1]
    totals = state.scores[..., None] + log_probs.reshape(-1, beams, vocab)
    # Twice as many candidates: at most half of them can end here.
    scores, flat = jax.lax.top_k(totals.reshape(batch_size, -1), 2 * beams)
    parents, ids = flat // vocab, (flat % vocab).astype(jnp.int32)
    sequences = jnp.take_along_axis(state.sequences, parents[..., None], axis=1)
    sequences = sequences.at[:, :, state.step].set(ids)
    ends = is_end(ids, end_ids)

    alive, kept = jax.lax.top_k(jnp.where(ends, _NEGATIVE, scores), beams)
    ended_scores = jnp.where(ends, scores / penalty(state.step + 1), _NEGATIVE)
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
      # Every row goes on from the beam that it continues.
      memory.take((first_rows + parents).reshape(-1)),
    )

  def unfinished(state: _Beams) -> jax.Array:
    # The best that an alive beam can still reach: scores only fall, and the
    # longest sequence has the mildest penalty.
    reachable = state.scores[:, 0] / penalty(max_length)
    better = jnp.any(reachable > jnp.min(state.ended_scores, axis=1))
    return (state.step < max_length) & better

  empty = jnp.zeros((batch_size, beams, max_length), jnp.int32)
  # All beams start alike: only the first may be extended.
  first = jnp.where(jnp.arange(beams) == 0, 0.0, _NEGATIVE)
  final = jax.lax.while_loop(
    unfinished,
    body,
    _Beams(
      jnp.zeros((), jnp.int32),
      memory.first,
      empty,
      jnp.tile(first, (batch_size, 1)),
      empty,
      jnp.full((batch_size, beams), _NEGATIVE),
      memory,
    ),
  )
  alive_scores = jnp.where(
    final.step == max_length,
    final.scores / penalty(max_length),
    _NEGATIVE,
  )
  return _sorted(
    *_best(
      jnp.concatenate([final.ended, final.sequences], axis=1),
      jnp.concatenate([final.ended_scores, alive_scores], axis=1),
      beams,
    )
  )


def _filter(logits: jax.Array, top_k: int, top_p: float) -> jax.Array:
  """Logits of tokens outside the top k or the top-p nucleus go to -1e7."""
  if top_k:
    most = min(top_k, logits.shape[-1])
    kth = jax.lax.top_k(logits, most)[0][..., -1:]
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
