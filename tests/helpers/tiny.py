"""Tiny networks, random weights, adapters and batches for the tests.

Weights are drawn by numpy: initialising by jax costs more compilation than the
tests themselves. Sizes are all different, so that a swapped axis cannot pass.
"""

import jax
import jax.numpy as jnp
import numpy as np

from hypertuning import models, trees
from hypertuning.adapters import (
  LoRA,
  LoRASpec,
  Prefix,
  PrefixSpec,
)
from hypertuning.data.text_format import TextFormat
from hypertuning.networks import t5

VOCAB = 37
ATTENTIONS = ('encoder_self', 'decoder_self', 'decoder_cross')
# Ids alone: nothing here is decoded to text.
TEXT_FORMAT = TextFormat(vocabulary=None, end_ids=(1,))


def config(**overrides) -> t5.T5Config:
  """Width 20 (not heads x head_dim = 24), 2 + 2 layers."""
  fields = {
    'vocab_size': VOCAB,
    'emb_dim': 20,
    'num_heads': 3,
    'head_dim': 8,
    'mlp_dim': 28,
    'num_encoder_layers': 2,
    'num_decoder_layers': 2,
    # Few buckets and a short range: short texts already reach the last one.
    'relpos_num_buckets': 8,
    'relpos_max_distance': 12,
  }
  return t5.T5Config(**{**fields, **overrides})


def shallow(**overrides) -> t5.T5Config:
  """`config` with 1 + 1 layers, where depth does not matter."""
  layers = {'num_encoder_layers': 1, 'num_decoder_layers': 1}
  return config(**{**layers, **overrides})


def random_params(shapes, seed: int = 0):
  """Weights of T5's scale for a tree of `jax.eval_shape`."""
  rng = np.random.default_rng(seed)

  def draw(path: str, leaf) -> jax.Array:
    x = rng.standard_normal(leaf.shape).astype(np.float32)
    if path.endswith('kernel'):
      x /= np.sqrt(leaf.shape[-2])
    elif path.endswith('scale'):
      x = 1 + 0.2 * x
    return jnp.asarray(x)

  flat = trees.flatten_paths(shapes)
  return trees.unflatten_paths({k: draw(k, v) for k, v in flat.items()})


def t5_params(cfg: t5.T5Config, seed: int = 0):
  """Random parameters of a `T5`."""
  tokens = jnp.ones((1, 2), jnp.int32)
  shapes = jax.eval_shape(
    lambda: t5.T5(cfg).init(jax.random.key(0), tokens, tokens)
  )
  return random_params(shapes['params'], seed)


def logits(network, params, inputs, targets, phi=None, dropout_rng=None):
  """Teacher-forced logits `[rows, targets, vocab]` of any network."""
  return network.apply(
    {'params': params},
    inputs,
    targets,
    phi,
    dropout_rng is not None,
    method=lambda self, *args: self.logits(self(*args)),
    rngs=None if dropout_rng is None else {'dropout': dropout_rng},
  )


def all_logits(predicted):
  """Logits of `predictions.Predictions`, all at once."""
  return predicted.logits(predicted.hidden)


def stack_layers(params):
  """An unrolled T5's parameters as those of `scan_layers=True`."""
  flat, groups = {}, {}
  for path, leaf in trees.flatten_paths(params).items():
    stack, *rest = path.split('/')
    if rest and rest[0].startswith('layers_'):
      name = '/'.join([stack, 'layers', *rest[1:]])
      groups.setdefault(name, []).append((int(rest[0][7:]), leaf))
    else:
      flat[path] = leaf
  for name, leaves in groups.items():
    ordered = [x for _, x in sorted(leaves, key=lambda pair: pair[0])]
    flat[name] = jnp.stack(ordered)
  return trees.unflatten_paths(flat)


def filled(shapes, episodes: int, draw=None):
  """Phi of a spec's shapes, with as many episodes, normal unless drawn."""
  rng = np.random.default_rng(6)
  draw = draw or (lambda _, shape: rng.standard_normal(shape))

  def leaf(path, x) -> jax.Array:
    name = str(getattr(path[-1], 'name', path[-1]))
    return jnp.asarray(draw(name, (episodes, *x.shape[1:])), jnp.float32)

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def prefix(
  cfg, episodes: int, length: int = 3, where=ATTENTIONS, seed=1
) -> Prefix:
  """Random keys and values of the size of real ones."""
  rng = np.random.default_rng(seed)
  shapes = PrefixSpec(length, where).shapes(cfg)
  return filled(shapes, episodes, lambda _, shape: rng.standard_normal(shape))


def lora(
  cfg,
  episodes: int,
  rank: int = 2,
  where=ATTENTIONS,
  modules=('query', 'value'),
  scale=0.5,
  seed=1,
) -> LoRA:
  """Random factors whose update is about as large as the weights."""
  rng = np.random.default_rng(seed)

  def draw(name: str, shape) -> np.ndarray:
    x = rng.standard_normal(shape)
    return x / shape[-2] ** 0.5 if name == 'a' else x

  spec = LoRASpec(rank, scale * rank, where, modules)
  return filled(spec.shapes(cfg), episodes, draw)


def ragged(rng, shape, least: int = 1, eos: bool = False) -> np.ndarray:
  """Random token ids, rows of different lengths padded with 0 on the right."""
  tokens = rng.integers(2, VOCAB, shape)
  lengths = rng.integers(least, shape[-1] + 1, shape[:-1])
  lengths.flat[0] = shape[-1]  # one row is full
  lengths.flat[-1] = least  # and one is as short as can be
  places = np.arange(shape[-1])
  tokens = np.where(places < lengths[..., None], tokens, 0)
  if eos:
    tokens = np.where(places == lengths[..., None] - 1, 1, tokens)
  return tokens.astype(np.int32)


def text(batch: int = 4, inputs: int = 9, targets: int = 7, seed: int = 3):
  """`(inputs, targets)` of a network."""
  rng = np.random.default_rng(seed)
  targets = ragged(rng, (batch, targets), least=2, eos=True)
  return ragged(rng, (batch, inputs), 2), targets


def episodes(
  count: int = 2, queries: int = 3, hyper: int = 10, inputs=6, targets=5, seed=5
) -> dict[str, np.ndarray]:
  """A batch as `EpisodeFeatureConverter` gives it."""
  rng = np.random.default_rng(seed)
  target = ragged(rng, (count, queries, targets), least=2, eos=True)
  return {
    'hyper_tokens': ragged(rng, (count, hyper), 3),
    'input_tokens': ragged(rng, (count, queries, inputs), 2),
    'target_tokens': target,
    'target_weights': (target > 0).astype(np.int32),
  }


def model(cfg: t5.T5Config | None = None, hypermodel=None, **overrides):
  """A `HyperTuningModel`."""
  fields = {
    'downstream': t5.T5(cfg) if cfg else None,
    'hypermodel': hypermodel,
    'text_format': TEXT_FORMAT,
    'optimizer_def': None,
  }
  return models.HyperTuningModel(**{**fields, **overrides})
