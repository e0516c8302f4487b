"""Sizes of a Llama, and where in it adapters act."""

from collections.abc import Mapping

import flax
import jax.numpy as jnp

from hypertuning.adapters.sites import Matrix, Site
from hypertuning.errors import UserError
from hypertuning.networks.attention import Way
from hypertuning.networks.rotary import Rotary
from hypertuning.ranges import Count, Dtype, Natural, Positive, RematPolicy

SELF, MLP = 'self', 'mlp'
# Input projections of the feed-forward block, and the output projection.
MLP_NAMES = ('gate', 'up', 'down')


@flax.struct.dataclass
class LlamaConfig:
  """Sizes and numerics of a Llama (Touvron et al., 2023).

  Attributes:
    vocab_size: number of embeddings, and of logits.
    dtype: dtype of the computation; parameters are float32.
    emb_dim: width of the residual stream.
    num_layers: number of layers.
    num_heads: number of query heads.
    num_kv_heads: number of key and value heads, which divides `num_heads`.
    head_dim: size of one head.
    mlp_dim: hidden size of the feed-forward blocks.
    max_length: number of positions that the model was trained for.
    prefix_gap: number of positions that stay free between a prefix and the text
      behind it. A prefix has the positions 0 to `prefix - 1`; attention depends
      on relative positions alone, so that this is the same as any other place
      with the same gap.
    rotary: rotation of queries and keys by their positions.
    norm_epsilon: number that RMSNorm adds to the mean square.
    tied_embedding: whether the output head is the embedding table.
    attention: way to compute attention: `plain`, a kernel (`cudnn` on NVIDIA
      GPUs, `pallas` on TPUs), or `auto`, the platform's kernel or `plain` where
      there is none.
    scan_layers: whether the layers are one scanned layer, which compiles faster
      than an unrolled stack.
    remat_policy: name of the policy that decides which values the forward pass
      saves for the gradient: `none` saves all, `minimal` those of matmuls with
      weights, `projections` what goes into attention and into the activation of
      the feed-forward block, what comes out of attention, and the stream behind
      it, and `full` no values within a layer.

  Raises:
    UserError: heads cannot be grouped, or a head cannot be divided in pairs.
  """

  vocab_size: Count
  dtype: Dtype = jnp.float32
  emb_dim: Count = 576
  num_layers: Count = 30
  num_heads: Count = 9
  num_kv_heads: Count = 3
  head_dim: Count = 64
  mlp_dim: Count = 1536
  max_length: Count = 8192
  prefix_gap: Natural = 0
  rotary: Rotary = Rotary()
  norm_epsilon: Positive = 1e-5
  tied_embedding: bool = True
  attention: Way = 'auto'
  scan_layers: bool = False
  remat_policy: RematPolicy = 'none'

  def __post_init__(self) -> None:
    if self.num_heads % self.num_kv_heads:
      raise UserError(
        f'NUM_KV_HEADS = {self.num_kv_heads} does not divide NUM_HEADS = '
        f'{self.num_heads}.'
      )
    if self.head_dim % 2:
      raise UserError(
        f'HEAD_DIM = {self.head_dim}: rotary positions turn pairs; give an '
        'even number.'
      )

  def check_positions(self, count: int, text: str) -> None:
    """Refuses a text that takes more positions than there are.

    Args:
      count: number of positions.
      text: name of the text that takes them, for error messages.

    Raises:
      UserError: there are fewer.
    """
    if count > self.max_length:
      raise UserError(
        f'MAX_LENGTH = {self.max_length}, but {text} take {count} positions: '
        'give smaller TASK_FEATURE_LENGTHS.'
      )

  @property
  def sites(self) -> Mapping[str, Site]:
    """Where adapters act, by the names that `PREFIX_SITES` and others take."""
    embed, path = self.emb_dim, 'decoder/layers'
    queries = self.num_heads * self.head_dim
    keys = self.num_kv_heads * self.head_dim
    grouped = self.num_heads != self.num_kv_heads
    kv_axes = ('embed', 'joined_kv_heads' if grouped else 'joined_kv')
    return {
      SELF: Site(
        self.num_layers,
        {
          name: Matrix(f'{path}/attention/{name}', inputs, outputs, axes)
          for name, inputs, outputs, axes in (
            ('query', embed, queries, ('embed', 'joined_kv')),
            ('key', embed, keys, kv_axes),
            ('value', embed, keys, kv_axes),
            ('out', queries, embed, ('joined_kv', 'embed')),
          )
        },
        self.num_kv_heads,
        self.head_dim,
        kv_axis='kv_heads' if grouped else 'heads',
        # Logits are divided by sqrt(head_dim): a key of this size is attended
        # to as much as a real one.
        key_scale=1.0,
      ),
      MLP: Site(
        self.num_layers,
        {
          name: Matrix(f'{path}/mlp/{name}', inputs, outputs, axes)
          for name, inputs, outputs, axes in (
            ('gate', embed, self.mlp_dim, ('embed', 'mlp')),
            ('up', embed, self.mlp_dim, ('embed', 'mlp')),
            ('down', self.mlp_dim, embed, ('mlp', 'embed')),
          )
        },
      ),
    }
