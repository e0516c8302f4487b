"""Greedy, sampled and beam decoding: over a toy by hand, and over a T5.

Numbers of pitfalls are those of docs/pitfalls.md.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from hypertuning.networks import decoding, t5
from hypertuning.networks.memory import Memory

# Decode functions over a toy whose next token depends on all tokens so far.

TOY_VOCAB, TOY_LENGTH, EOS = 4, 4, 1
# Wide logits: paths differ by more than rounding.
TABLE = np.random.default_rng(0).normal(0, 2, (3, 101, TOY_VOCAB))
WEIGHTS = np.array([1, 7, 31, 57])


def toy_memory() -> Memory:
  return Memory(
    first=jnp.zeros(3, jnp.int32),
    position=jnp.zeros((), jnp.int32),
    layers=(),
    rows={
      'query': jnp.arange(3),
      'history': jnp.zeros((3, TOY_LENGTH), jnp.int32),
    },
    shared=(),
    length=TOY_LENGTH,
  )


def toy_step(ids, memory):
  rows = memory.rows
  history = rows['history'].at[:, memory.position].set(ids)
  state = (history * WEIGHTS).sum(axis=1) % 101
  logits = jnp.asarray(TABLE, jnp.float32)[rows['query'], state]
  return logits, dataclasses.replace(
    memory,
    position=memory.position + 1,
    rows={**rows, 'history': history},
  )


def toy_log_probs(query: int, tokens) -> np.ndarray:
  """float64 log-probabilities of the token after `tokens`."""
  history = np.array([0, *tokens])
  logits = TABLE[query, (history * WEIGHTS[: len(history)]).sum() % 101]
  return logits - np.log(np.exp(logits).sum())


def toy_score(query: int, sequence) -> float:
  """Summed log-probability up to EOS."""
  total, sequence = 0.0, list(sequence)
  for i, token in enumerate(sequence):
    total += toy_log_probs(query, sequence[:i])[token]
    if token == EOS:
      break
  return total


def padded(tokens) -> tuple[int, ...]:
  return (*tokens, *[0] * (TOY_LENGTH - len(tokens)))


def penalty(length: int, alpha: float) -> float:
  return ((5 + length) / 6) ** alpha


def run_toy(decode, num_decodes=1, **kwargs):
  sequences, scores = jax.jit(
    lambda: decode(
      toy_step,
      toy_memory(),
      end_ids=(EOS,),
      num_decodes=num_decodes,
      **kwargs,
    )
  )()
  assert sequences.shape == (3, num_decodes, TOY_LENGTH)
  assert scores.shape == (3, num_decodes)
  assert (np.diff(scores, axis=1) >= 0).all()  # best last
  return np.asarray(sequences), np.asarray(scores)


def test_greedy_takes_the_likeliest_token():
  sequences, scores = run_toy(decoding.greedy)
  lengths = set()
  for query in range(3):
    tokens: list[int] = []
    while len(tokens) < TOY_LENGTH and EOS not in tokens:
      tokens.append(int(toy_log_probs(query, tokens).argmax()))
    lengths.add(len(tokens))
    assert tuple(sequences[query, 0]) == padded(tokens)  # 0 after EOS
    np.testing.assert_allclose(
      scores[query, 0], toy_score(query, tokens), rtol=1e-5
    )
  assert len(lengths) > 1  # rows that end early and rows that do not


@pytest.mark.parametrize('alpha', [0.0, 0.6, 1.0])
def test_beam_search_equals_enumeration(alpha):
  """81 beams hold every path: the order of all must be the exact one."""
  sequences, scores = run_toy(decoding.beam_search, 81, alpha=alpha)
  others = [i for i in range(TOY_VOCAB) if i != EOS]
  for query in range(3):
    every = {}
    for n in range(TOY_LENGTH + 1):
      for path in itertools.product(others, repeat=n):
        tokens = path if n == TOY_LENGTH else (*path, EOS)
        score = toy_score(query, tokens) / penalty(len(tokens), alpha)
        every[padded(tokens)] = score
    best = sorted(every, key=every.get)[-81:]
    assert [tuple(x) for x in sequences[query]] == best
    np.testing.assert_allclose(
      scores[query], [every[x] for x in best], rtol=1e-5
    )


@pytest.mark.parametrize('beams', [1, 3])
def test_narrow_beam_search_equals_a_plain_loop(beams):
  alpha = 0.6
  sequences, scores = run_toy(decoding.beam_search, beams, alpha=alpha)
  for query in range(3):
    alive, ended = [((), 0.0)], []
    for _ in range(TOY_LENGTH):
      grown = [
        ((*tokens, i), total + toy_log_probs(query, tokens)[i])
        for tokens, total in alive
        for i in range(TOY_VOCAB)
      ]
      grown.sort(key=lambda x: -x[1])
      grown = grown[: 2 * beams]
      ended += [x for x in grown if x[0][-1] == EOS]
      alive = [x for x in grown if x[0][-1] != EOS][:beams]
    final = sorted(
      (total / penalty(len(tokens), alpha), padded(tokens))
      for tokens, total in ended + alive
    )[-beams:]
    assert [tuple(x) for x in sequences[query]] == [x for _, x in final]
    np.testing.assert_allclose(
      scores[query], [score for score, _ in final], rtol=1e-5
    )


def test_sampling_without_temperature_or_choice_is_greedy():
  greedy = run_toy(decoding.greedy)
  for kwargs in ({'temperature': 0.0}, {'temperature': 1e-4}, {'top_k': 1}):
    sampled = run_toy(decoding.sample, rng=jax.random.key(0), **kwargs)
    np.testing.assert_array_equal(sampled[0], greedy[0])
    np.testing.assert_allclose(sampled[1], greedy[1], rtol=1e-5)


def first_tokens(**kwargs) -> np.ndarray:
  """Frequencies `[queries, vocab]` of 4,000 first tokens."""
  sequences, scores = run_toy(
    decoding.sample, 4000, rng=jax.random.key(3), **kwargs
  )
  for query, i in itertools.product(range(3), (0, 1999, 3999)):
    # Scores are those of the model, not of the filtered distribution.
    want = toy_score(query, sequences[query, i])
    np.testing.assert_allclose(scores[query, i], want, rtol=1e-4)
  ended = np.cumsum(sequences == EOS, axis=-1) - (sequences == EOS) > 0
  assert ended.any() and not sequences[ended].any()
  return (
    np.stack([np.bincount(s, minlength=4) for s in sequences[..., 0]]) / 4e3
  )


def test_sampling_follows_temperature_top_k_and_top_p():
  probs = np.exp([toy_log_probs(query, []) for query in range(3)])
  ranked = np.sort(probs, axis=1)[:, ::-1]

  def renormalised(p):
    return p / p.sum(axis=1, keepdims=True)

  cases = {
    'plain': ({}, probs),
    'hot': ({'temperature': 3.0}, renormalised(probs ** (1 / 3))),
    'top_k': ({'top_k': 2}, renormalised(probs * (probs >= ranked[:, 1:2]))),
  }
  # The nucleus: the likeliest tokens until their mass reaches top_p.
  top_p = 0.8
  count = (np.cumsum(ranked, axis=1) < top_p).sum(axis=1, keepdims=True)
  least = np.take_along_axis(ranked, count, axis=1)
  assert len(set(count.flat)) > 1
  cases['top_p'] = ({'top_p': top_p}, renormalised(probs * (probs >= least)))
  for name, (kwargs, want) in cases.items():
    got = first_tokens(**kwargs)
    # Four standard errors of a frequency out of 4,000 draws.
    np.testing.assert_allclose(got, want, atol=0.032, err_msg=name)
    assert (got[want == 0] == 0).all()


def test_sampling_needs_a_key_and_repeats_with_it():
  with pytest.raises(ValueError, match='rng'):
    run_toy(decoding.sample)
  one, two, other = (
    run_toy(decoding.sample, 8, rng=jax.random.key(seed), temperature=2.0)[0]
    for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(one, two)
  assert (one != other).any()


@pytest.mark.parametrize('decode', [decoding.greedy, decoding.beam_search])
def test_decoding_stops_when_every_row_has_ended(decode):
  calls = []

  def step(ids, memory):
    jax.debug.callback(lambda: calls.append(1))
    # Row 0 ends at its second token, row 1 at its third, by ids of their own.
    ends = memory.position + 1 >= memory.rows
    end = jnp.where(memory.rows[:, None] == 2, jnp.eye(5)[1], jnp.eye(5)[4])
    logits = jnp.where(ends[:, None], end, jnp.eye(5)[3]) * 50
    return logits, dataclasses.replace(memory, position=memory.position + 1)

  memory = Memory(
    first=jnp.zeros(2, jnp.int32),
    position=jnp.zeros((), jnp.int32),
    layers=(),
    rows=jnp.array([2, 3]),
    shared=(),
    length=40,
  )

  sequences, _ = jax.jit(
    lambda: decode(step, memory, end_ids=(1, 4), num_decodes=1)
  )()
  jax.effects_barrier()
  assert len(calls) == 3
  assert sequences[0, 0, :4].tolist() == [3, 1, 0, 0]
  assert sequences[1, 0, :4].tolist() == [3, 3, 4, 0]
  assert not sequences[:, :, 4:].any()


@pytest.mark.parametrize('decode', [decoding.greedy, decoding.beam_search])
def test_a_limit_is_the_room_of_a_shorter_memory(decode):
  """Which beam search would use otherwise, not only cut."""

  @jax.jit
  def run(memory, limit):
    return decode(
      *(toy_step, memory), end_ids=(EOS,), num_decodes=2, limit=limit
    )

  for limit in (1, 2, 3):
    long, scores = run(toy_memory(), limit)
    assert not np.asarray(long)[..., limit:].any()
    short = dataclasses.replace(toy_memory(), length=limit)
    want, want_scores = run(short, None)
    np.testing.assert_array_equal(long[..., :limit], want)
    np.testing.assert_allclose(scores, want_scores, rtol=1e-6)


@pytest.mark.parametrize(
  'decode',
  [
    decoding.greedy,
    decoding.beam_search,
    functools.partial(decoding.sample, rng=jax.random.key(0)),
  ],
)
def test_nothing_waits_for_padding(decode):
  """Row 0 ends at once, the others never do; the last one has nothing else."""
  calls = []

  def step(ids, memory):
    jax.debug.callback(lambda: calls.append(1))
    ends = (memory.rows == 0)[:, None]
    logits = jnp.where(ends, jnp.eye(5)[EOS], jnp.eye(5)[3]) * 50
    return logits, dataclasses.replace(memory, position=memory.position + 1)

  memory = Memory(
    jnp.zeros(3, jnp.int32), jnp.zeros((), jnp.int32), (), jnp.arange(3), (), 9
  )
  run = jax.jit(
    lambda is_asked: decode(
      *(step, memory), end_ids=(EOS,), num_decodes=1, is_asked=is_asked
    )
  )
  sequences, scores = run(np.array([True, False, False]))
  jax.effects_barrier()
  assert len(calls) == 1
  assert sequences[0, 0].tolist() == [EOS, *[0] * 8]
  assert (
    not np.asarray(sequences)[1:].any() and not np.asarray(scores)[1:].any()
  )
  calls.clear()
  sequences, _ = run(np.array([True, False, True]))
  jax.effects_barrier()
  assert len(calls) == 9
  assert sequences[2, 0].tolist() == [3] * 9
  assert not np.asarray(sequences)[1].any()


# Decode functions over the network, through the model object. One layer each:
# cache_test.py has two.

SMALL = tiny.shallow()


@pytest.fixture(scope='module')
def params():
  return tiny.t5_params(SMALL)


@functools.cache
def teacher_forced(cfg):
  return jax.jit(
    lambda params, text, phi: tiny.logits(t5.T5(cfg), params, *text, phi)
  )


@pytest.fixture(scope='module')
def batch():
  return tiny.episodes(count=2, queries=3, targets=8)


PHI_EPISODES = {
  'prefix': tiny.prefix(SMALL, 2),
  'lora': tiny.lora(SMALL, 2),
}


@functools.cache
def predictor(cfg, decode, num_decodes=1):
  model = tiny.model(cfg, decode_fn=decode)
  return jax.jit(
    lambda params, batch, phi: model.predict_batch_with_aux(
      {'downstream': params},
      batch,
      jax.random.key(0),
      return_all_decodes=True,
      num_decodes=num_decodes,
      adapters=phi,
    )
  )


def scores_of(params, batch, phi, sequences):
  """Teacher-forced log-probabilities of `[E, Q, N, T]` sequences, EOS too."""
  episodes, queries, decodes, length = sequences.shape
  ended = np.cumsum(sequences == EOS, -1) - (sequences == EOS) > 0
  rows = sequences.reshape(-1, length)
  inputs = np.repeat(
    batch['input_tokens'].reshape(episodes * queries, -1), decodes, 0
  )
  log_probs = jax.nn.log_softmax(
    teacher_forced(SMALL)(params, (inputs, rows), phi)
  )
  picked = np.take_along_axis(np.asarray(log_probs), rows[..., None], -1)
  picked = picked.reshape(sequences.shape) * ~ended
  return picked.sum(-1), (~ended).sum(-1)


@pytest.mark.parametrize('kind', PHI_EPISODES)
def test_greedy_equals_an_argmax_loop_without_cache(params, batch, kind):
  phi = PHI_EPISODES[kind]
  sequences, aux = predictor(SMALL, decoding.greedy)(params, batch, phi)
  inputs = batch['input_tokens'].reshape(6, -1)
  rows = np.zeros((6, 8), np.int32)
  done = np.zeros(6, bool)
  for i in range(8):
    logits = teacher_forced(SMALL)(params, (inputs, rows), phi)[:, i]
    rows[:, i] = np.where(done, 0, np.argmax(logits, axis=-1))
    done |= rows[:, i] == EOS
  np.testing.assert_array_equal(sequences.reshape(6, 8), rows)
  scores, _ = scores_of(params, batch, phi, np.asarray(sequences))
  np.testing.assert_allclose(aux['scores'], scores, atol=1e-4)


@pytest.mark.parametrize(('kind', 'scan'), [('prefix', False), ('lora', True)])
def test_beam_rows_keep_their_own_phi_inputs_and_cache(
  params, batch, kind, scan
):
  """Pitfall 4: a beam's score is that of its sequence under its query's phi."""
  cfg = SMALL.replace(scan_layers=scan)
  tree = tiny.stack_layers(params) if scan else params
  phi = PHI_EPISODES[kind]
  sequences, aux = predictor(cfg, decoding.beam_search, 4)(tree, batch, phi)
  sequences = np.asarray(sequences)
  scores, lengths = scores_of(params, batch, phi, sequences)
  np.testing.assert_allclose(
    aux['scores'], scores / penalty(lengths, 0.6), atol=1e-4
  )
  for beams in sequences.reshape(-1, 4, 8):
    assert len({tuple(beam) for beam in beams}) == 4


def test_decodes_of_a_query_are_neighbours(params, batch):
  """Greedy draws of one query agree with one another and with one alone."""
  phi = PHI_EPISODES['prefix']
  one, _ = predictor(SMALL, decoding.greedy)(params, batch, phi)
  many, _ = predictor(SMALL, decoding.greedy, 3)(params, batch, phi)
  np.testing.assert_array_equal(many, np.repeat(one, 3, axis=2))
  assert len({tuple(x) for x in np.asarray(one).reshape(6, 8)}) > 1


def test_greedy_equals_transformers_generate(batch):
  hf_reference = pytest.importorskip('hf_reference')
  hf_model = hf_reference.model(SMALL, seed=2)
  inputs = hf_reference.torch.tensor(
    batch['input_tokens'].reshape(6, -1), dtype=hf_reference.torch.long
  )
  theirs = hf_model.generate(
    inputs,
    attention_mask=inputs > 0,
    num_beams=1,
    do_sample=False,
    max_new_tokens=8,
  ).numpy()[:, 1:]  # without the start token
  ours, _ = predictor(SMALL, decoding.greedy)(
    hf_reference.params(hf_model), batch, None
  )
  ours = np.asarray(ours).reshape(6, 8)
  np.testing.assert_array_equal(ours[:, : theirs.shape[1]], theirs)
  assert not ours[:, theirs.shape[1] :].any()
