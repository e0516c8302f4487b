"""Hugging Face's names of the variables of a T5."""

from hypertuning.conversion.family import Names

_EMBEDDING, _HEAD = 'shared.weight', 'lm_head.weight'
_PROJECTIONS = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}
# Our name of each block of a layer, with its number and name there.
_BLOCKS = {
  'encoder': {
    'attention': (0, 'SelfAttention'),
    'mlp': (1, 'DenseReluDense'),
  },
  'decoder': {
    'self_attention': (0, 'SelfAttention'),
    'encoder_decoder_attention': (1, 'EncDecAttention'),
    'mlp': (2, 'DenseReluDense'),
  },
}
# Our name of each norm, with the block that it stands before.
_NORMS = {
  'pre_attention_layer_norm': 'attention',
  'pre_self_attention_layer_norm': 'self_attention',
  'pre_cross_attention_layer_norm': 'encoder_decoder_attention',
  'pre_mlp_layer_norm': 'mlp',
}


def _find(path: str) -> str:
  """Hugging Face's name of one of our variables.

  Args:
    path: our name, such as `encoder/layers_3/attention/query/kernel`.
  """
  if path == 'token_embedder/embedding':
    return _EMBEDDING
  if path == 'decoder/logits_dense/kernel':
    return _HEAD
  stack, layer, *part = path.split('/')
  if layer == 'relpos_bias':
    return (
      f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
    )
  if layer == f'{stack}_norm':
    return f'{stack}.final_layer_norm.weight'
  place = f'{stack}.block.{layer.removeprefix("layers_")}.layer'
  if part[0] in _NORMS:
    number, _ = _BLOCKS[stack][_NORMS[part[0]]]
    return f'{place}.{number}.layer_norm.weight'
  number, block = _BLOCKS[stack][part[0]]
  name = _PROJECTIONS.get(part[1], part[1])
  return f'{place}.{number}.{block}.{name}.weight'


NAMES = Names(
  _find,
  embedding=_EMBEDDING,
  head=_HEAD,
  # A table that some old files hold, and that no model reads.
  computed=(
    r'decoder\.block\.0\.layer\.1\.EncDecAttention\.'
    r'relative_attention_bias\.weight'
  ),
  # Copies of the embedding that a file may hold, or hold in its place.
  copies=(
    'encoder.embed_tokens.weight',
    'decoder.embed_tokens.weight',
    _HEAD,
  ),
)
