"""Llama (Touvron et al., 2023), a decoder-only network that takes adapters.

The prompt and the targets are one sequence, see `llama_layout`.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning
from jax.ad_checkpoint import checkpoint_name

from hypertuning.adapters import (
  Adapters,
  KeyValue,
  LoRA,
  Prefix,
  SiteAdapter,
)
from hypertuning.networks import attention, layers, stack
from hypertuning.networks import llama_config as llama
from hypertuning.networks.gist_sequence import append_gists, gist_mask
from hypertuning.networks.llama_config import LlamaConfig
from hypertuning.networks.llama_layout import Prompt, Query, causal
from hypertuning.networks.memory import Memory
from hypertuning.padding import is_real

_ACTIVATIONS = ('batch', 'length', 'embed')
_SITES = (llama.SELF, llama.MLP)


class LlamaLayer(nn.Module):
  """Self-attention and a gated feed-forward block.

  Attributes:
    config: sizes.
    remembers: whether placed keys and values are returned, for the next token.
    gists: number of last columns whose keys and values are returned without
      positions; 0 for none.
  """

  config: LlamaConfig
  remembers: bool = False
  gists: int = 0

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    adapters: stack.SiteAdapters,
    memory: KeyValue | None,
    view: attention.Prepared,
    positions: jax.Array,
    place: Any,
  ) -> tuple[jax.Array, KeyValue | None]:
    """One layer over a block of text.

    Args:
      x: `[rows, length, embed]`.
      adapters: this layer's parts, see `stack.site_adapters`.
      memory: keys and values of what was read before the block, with room for
        it, `[rows, kv_heads, prefix + text, head_dim]`; None at first.
      view: the tokens of the text that each token of the block may see.
      positions: int32 `[rows or 1, length]`.
      place: with a memory, int32 column of the block in the text.

    Returns:
      The next `x`, and what `remembers` or `gists` asks for.
    """
    cfg = self.config
    adapter = adapters[llama.SELF] or SiteAdapter()
    out_init = layers.residual_init(2 * cfg.num_layers)
    attend = attention.Attention(
      features=cfg.emb_dim,
      num_heads=cfg.num_heads,
      head_dim=cfg.head_dim,
      num_kv_heads=cfg.num_kv_heads,
      scale=cfg.head_dim**-0.5,
      rotary=cfg.rotary,
      out_init=out_init,
      dtype=cfg.dtype,
      name='attention',
    )
    y = self._norm('pre_attention_norm', x)
    bare = attend.keys_values(y, adapter)
    text = attend.place(bare, positions)
    if memory is None:
      text = attend.prepend(adapter, text)
    else:
      before = memory.key.shape[2] - view.text  # the prefix
      text = attention.write(memory, text, before + place)
    y = attend(y, text, view, adapter, True, positions)
    x = checkpoint_name(self._residual(x, y), 'residual')
    mlp_adapter = adapters[llama.MLP] or SiteAdapter()
    y = layers.MLP(
      cfg.mlp_dim,
      ('silu', 'linear'),
      dtype=cfg.dtype,
      names=llama.MLP_NAMES,
      out_init=out_init,
      name='mlp',
    )(self._norm('pre_mlp_norm', x), True, mlp_adapter.lora)
    x = self._residual(x, y)
    if self.gists:
      return x, attention.last_columns(bare, self.gists)
    return x, text if self.remembers else None

  def _norm(self, name: str, x: jax.Array) -> jax.Array:
    cfg = self.config
    return layers.RMSNorm(cfg.dtype, cfg.norm_epsilon, name=name)(x)

  def _residual(self, x: jax.Array, y: jax.Array) -> jax.Array:
    return partitioning.with_sharding_constraint(x + y, _ACTIVATIONS)


class Block(NamedTuple):
  """What a block of text is, and what of all text it may see.

  Attributes:
    view: the tokens of the text that each of its tokens may see.
    positions: int32 `[rows or 1, length]`; a prefix stands before them.
    place: int32 column of the block in the text; None without a memory.
  """

  view: attention.View
  positions: jax.Array
  place: Any = None


class Decoder(nn.Module):
  """The stack of layers and the norm behind it."""

  config: LlamaConfig

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    adapters: stack.SiteAdapters,
    block: Block,
    memory: Any = None,
    remembers: bool = False,
    gists: int = 0,
  ) -> tuple[jax.Array, Any]:
    """Hidden states of a block, and what every layer returns beside them.

    Args:
      x: embeddings, `[rows, length, embed]`.
      adapters: parts of the sites, see `stack.site_adapters`.
      block: the view and the positions of the block.
      memory: see `LlamaLayer`, for all layers.
      remembers: see `LlamaLayer`.
      gists: see `LlamaLayer`.
    """
    cfg = self.config
    if memory is None:
      seen = attention.prepare(cfg, block.view, adapters[llama.SELF])
    else:
      seen = attention.Plain(block.view.bias())
    x, kept = stack.run_layers(
      LlamaLayer,
      cfg.num_layers,
      cfg,
      {'remembers': remembers, 'gists': gists},
      x.astype(cfg.dtype),
      adapters,
      memory,
      seen,
      block.positions,
      block.place,
    )
    return layers.RMSNorm(cfg.dtype, cfg.norm_epsilon, name='norm')(x), kept


class Llama(nn.Module):
  """The network; see `networks.Network`. It has no dropout."""

  config: LlamaConfig

  def setup(self) -> None:
    cfg = self.config
    self.token_embedder = layers.Embed(
      cfg.vocab_size, cfg.emb_dim, cfg.dtype, stddev=cfg.emb_dim**-0.5
    )
    self.decoder = Decoder(cfg)
    if not cfg.tied_embedding:
      self.logits_dense = layers.DenseGeneral(
        cfg.vocab_size, ('embed', 'vocab'), dtype=cfg.dtype, is_head=True
      )

  def __call__(
    self,
    inputs: jax.Array,
    targets: jax.Array,
    adapters: Adapters | None = None,
    enable_dropout: bool = False,
  ) -> jax.Array:
    """Hidden states that predict the targets, see `networks.Network`."""
    del enable_dropout
    parts = stack.site_adapters(adapters, _SITES)
    query = Query.read(inputs, targets, self._start(parts))
    hidden, _ = self.decoder(
      self.token_embedder(query.ids),
      parts,
      Block(causal(query.mask), query.positions),
    )
    hidden = hidden[:, inputs.shape[1] :]
    if self.is_initializing():
      self.logits(hidden)  # makes the head's parameters
    return hidden

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Float32 `[..., vocab]` from hidden states `[..., embed]`."""
    if self.config.tied_embedding:
      return self.token_embedder.attend(hidden)
    return self.logits_dense(hidden)

  def start(
    self, inputs: jax.Array, adapters: Adapters | None, length: int
  ) -> Memory:
    """Reads the prompts in one pass, but for their last tokens."""
    parts = stack.site_adapters(adapters, _SITES)
    prompt = Prompt.read(inputs, self._start(parts))
    _, kept = self.decoder(
      self.token_embedder(inputs),
      parts,
      Block(causal(prompt.mask), prompt.positions),
      remembers=True,
    )
    axis = int(self.config.scan_layers)
    room = [(0, 0)] * (2 + axis) + [(0, length), (0, 0)]
    return Memory(
      first=prompt.last,
      position=jnp.zeros((), jnp.int32),
      layers=jax.tree.map(lambda x: jnp.pad(x, room), kept),
      rows={'mask': prompt.mask, 'first': prompt.first},
      # The prefix is among the keys and values already.
      shared=stack.without_prefix(parts),
      length=length,
      axis=axis,
    )

  def compress(
    self,
    tokens: jax.Array,
    gists: jax.Array,
    adapters: Adapters | None = None,
    before: Prefix | None = None,
    enable_dropout: bool = False,
  ) -> tuple[jax.Array, Prefix]:
    """Reads texts and the gists behind them, see `networks.Compressor`."""
    del enable_dropout
    parts = stack.site_adapters(adapters, _SITES, before)
    count = gists.shape[0]
    embedded, real, positions = append_gists(
      self.token_embedder(tokens), is_real(tokens), gists
    )
    hidden, kept = self.decoder(
      embedded,
      parts,
      Block(causal(real), self._start(parts) + positions),
      gists=count,
    )
    return hidden[:, -count:], stack.as_prefix(kept, llama.SELF)

  def cache(self, tokens: jax.Array) -> Prefix:
    """Reads texts that others go on from, see `networks.Cacher`.

    The padding goes to the left, so that every text ends where the next one
    begins, at the end of the prefix.
    """
    length = tokens.shape[1]
    shift = length - is_real(tokens).sum(axis=1, keepdims=True)
    tokens = jnp.take_along_axis(
      tokens, (jnp.arange(length) - shift) % length, axis=1
    )
    real = is_real(tokens)
    _, kept = self.decoder(
      self.token_embedder(tokens),
      stack.site_adapters(None, _SITES),
      Block(causal(real), jnp.arange(length)[None]),
      gists=length,
    )
    prefix = stack.as_prefix(kept, llama.SELF)
    return dataclasses.replace(prefix, mask=real)

  def compress_and_predict(
    self,
    tokens: jax.Array,
    gists: jax.Array,
    inputs: jax.Array,
    targets: jax.Array,
    adapters: LoRA | None = None,
    enable_dropout: bool = False,
  ) -> jax.Array:
    """All in one sequence, see `networks.Compressor`.

    Gists have the positions right behind the text of their row, and every query
    those behind the gists and the gap. Positions may go beyond what the model
    was trained for: no two tokens that see one another are further apart than
    in two passes.
    """
    del enable_dropout
    rows, episodes = inputs.shape[0], tokens.shape[0]
    head, real, positions = append_gists(
      self.token_embedder(tokens), is_real(tokens), gists
    )
    first = positions[:, -1:] + 1 + self.config.prefix_gap
    query = Query.read(
      inputs, targets, jnp.repeat(first, rows // episodes, axis=0)
    )
    length = query.ids.shape[1]
    mask = gist_mask(tokens.shape[1], gists.shape[0], rows // episodes, length)
    real, positions = (
      jnp.concatenate([x, y.reshape(episodes, -1)], axis=1)
      for x, y in ((real, query.mask), (positions, query.positions))
    )
    tail = self.token_embedder(query.ids.reshape(episodes, -1))
    hidden, _ = self.decoder(
      jnp.concatenate([head, tail], axis=1),
      stack.site_adapters(
        stack.on_first_columns(adapters, head.shape[1]), _SITES
      ),
      Block(causal(real, mask.visible[None]), positions),
    )
    hidden = hidden[:, head.shape[1] :].reshape(rows, length, -1)
    return hidden[:, inputs.shape[1] :]

  def _start(self, parts: stack.SiteAdapters) -> int:
    """The first position of a text, which may stand behind a prefix."""
    prefix = stack.prefix_length(parts, llama.SELF)
    own = parts[llama.SELF]
    # Text goes on right behind a cache, which has a mask.
    if not prefix or (own and own.prefix_mask is not None):
      return prefix
    return prefix + self.config.prefix_gap

  def step(self, ids: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
    """Logits `[rows, vocab]` of the token behind int32 `[rows]` ids."""
    mask, position = memory.rows['mask'], memory.position
    written = jnp.arange(memory.length) <= position
    written = jnp.broadcast_to(written, (mask.shape[0], memory.length))
    keys = jnp.concatenate([mask, written], axis=1)
    hidden, kept = self.decoder(
      self.token_embedder(ids)[:, None],
      memory.shared,
      Block(
        attention.View(keys.shape[1], keys=keys),
        (memory.rows['first'] + position)[:, None],
        mask.shape[1] + position,
      ),
      memory.layers,
      remembers=True,
    )
    memory = dataclasses.replace(memory, position=position + 1, layers=kept)
    return self.logits(hidden)[:, 0], memory
