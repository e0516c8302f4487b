"""The sizes of a T5 1.1, and the sites where adapters act in it."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import flax
import flax.linen as nn
import jax.numpy as jnp
from annotated_types import MinLen

from hypertuning.adapters.sites import Matrix, Site
from hypertuning.networks import layers
from hypertuning.networks.attention import Way
from hypertuning.ranges import Count, Dtype, RematPolicy, ShareBelowOne

ENCODER_SELF, ENCODER_MLP = 'encoder_self', 'encoder_mlp'
DECODER_SELF, DECODER_CROSS = 'decoder_self', 'decoder_cross'
DECODER_MLP = 'decoder_mlp'
Activation = Literal['gelu', 'linear', 'relu', 'silu', 'swish', 'tanh']


@flax.struct.dataclass
class T5Config:
  """Sizes and numerics of a T5 1.1.

  Attributes:
    vocab_size: number of embeddings, and of logits.
    dtype: dtype of the computation; parameters are float32.
    emb_dim: width of the residual stream.
    num_heads: number of attention heads.
    num_encoder_layers: number of layers in the encoder.
    num_decoder_layers: number of layers in the decoder.
    head_dim: size of one head.
    mlp_dim: hidden size of the feed-forward blocks.
    mlp_activations: activations of the feed-forward blocks, see `layers.MLP`.
      T5 1.1 has a gated GELU.
    dropout_rate: dropout rate of calls that enable dropout.
    logits_via_embedding: whether the output head is the embedding table, as in
      T5 1.0; T5 1.1 has a separate one.
    attention: way to compute attention: `plain`, a kernel (`cudnn` on NVIDIA
      GPUs, `pallas` on TPUs), or `auto`, the platform's kernel or `plain` where
      there is none.
    float32_attention_logits: whether queries and keys are multiplied in
      float32.
    scan_layers: whether the layers of a stack are one scanned layer, which
      compiles faster than an unrolled stack.
    remat_policy: name of the policy that decides which values the forward pass
      saves for the gradient: `none` saves all, `minimal` those of matmuls with
      weights, `projections` what goes into attention and into the activation of
      the feed-forward block, what comes out of attention, and the stream behind
      it, and `full` no values within a layer.
    relpos_num_buckets: number of buckets in the tables of relative biases.
    relpos_max_distance: distance from which on all keys share a bucket.
    relpos_init: initializer of the tables of relative biases.
  """

  vocab_size: Count
  dtype: Dtype = jnp.float32
  emb_dim: Count = 512
  num_heads: Count = 8
  num_encoder_layers: Count = 6
  num_decoder_layers: Count = 6
  head_dim: Count = 64
  mlp_dim: Count = 2048
  mlp_activations: Annotated[Sequence[Activation], MinLen(1)] = (
    'gelu',
    'linear',
  )
  dropout_rate: ShareBelowOne = 0.0
  logits_via_embedding: bool = False
  attention: Way = 'auto'
  float32_attention_logits: bool = False
  scan_layers: bool = False
  remat_policy: RematPolicy = 'none'
  relpos_num_buckets: Count = 32
  relpos_max_distance: Count = 128
  relpos_init: layers.Initializer = nn.initializers.variance_scaling(
    1.0, 'fan_avg', 'uniform'
  )

  @property
  def max_length(self) -> None:
    """There is no last position: relative biases take any distance."""
    return None

  @property
  def sites(self) -> Mapping[str, Site]:
    """The sites of adapters, by the names that gin files bind."""
    encoder, decoder = self.num_encoder_layers, self.num_decoder_layers
    return {
      ENCODER_SELF: self._attention('encoder/layers/attention', encoder),
      DECODER_SELF: self._attention('decoder/layers/self_attention', decoder),
      DECODER_CROSS: self._attention(
        'decoder/layers/encoder_decoder_attention', decoder
      ),
      ENCODER_MLP: self._mlp('encoder/layers/mlp', encoder),
      DECODER_MLP: self._mlp('decoder/layers/mlp', decoder),
    }

  def _attention(self, path: str, num_layers: int) -> Site:
    width = self.num_heads * self.head_dim
    modules = {
      name: Matrix(
        f'{path}/{name}', self.emb_dim, width, ('embed', 'joined_kv')
      )
      for name in ('query', 'key', 'value')
    }
    output = Matrix(f'{path}/out', width, self.emb_dim, ('joined_kv', 'embed'))
    return Site(
      num_layers,
      {**modules, 'out': output},
      self.num_heads,
      self.head_dim,
      # T5 does not divide logits by sqrt(head_dim). A key that is much larger
      # than a real one saturates the softmax; a much smaller one is never
      # attended to.
      key_scale=1.0,
    )

  def _mlp(self, path: str, num_layers: int) -> Site:
    modules = {
      name: Matrix(
        f'{path}/{name}', self.emb_dim, self.mlp_dim, ('embed', 'mlp')
      )
      for name in layers.mlp_inputs(self.mlp_activations)
    }
    wo = Matrix(f'{path}/wo', self.mlp_dim, self.emb_dim, ('mlp', 'embed'))
    return Site(num_layers, {**modules, 'wo': wo})
