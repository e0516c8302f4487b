"""Hugging Face's names of the variables of a Llama."""

from hypertuning.conversion.family import Names

_EMBEDDING, _HEAD = 'model.embed_tokens.weight', 'lm_head.weight'
_WHOLE = {
  'token_embedder/embedding': _EMBEDDING,
  'decoder/norm/scale': 'model.norm.weight',
  'logits_dense/kernel': _HEAD,
}
_PARTS = {
  'attention/query': 'self_attn.q_proj',
  'attention/key': 'self_attn.k_proj',
  'attention/value': 'self_attn.v_proj',
  'attention/out': 'self_attn.o_proj',
  'mlp/gate': 'mlp.gate_proj',
  'mlp/up': 'mlp.up_proj',
  'mlp/down': 'mlp.down_proj',
  'pre_attention_norm': 'input_layernorm',
  'pre_mlp_norm': 'post_attention_layernorm',
}


def _find(path: str) -> str:
  """Hugging Face's name of one of our variables.

  Args:
    path: our name, such as `decoder/layers_3/attention/query/kernel`.
  """
  if path in _WHOLE:
    return _WHOLE[path]
  _, layer, *part, _ = path.split('/')
  number = layer.removeprefix('layers_')
  return f'model.layers.{number}.{_PARTS["/".join(part)]}.weight'


NAMES = Names(
  _find,
  embedding=_EMBEDDING,
  head=_HEAD,
  # Tables of angles, which older files hold and which follow from the
  # configuration.
  computed=r'model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq',
  # Copies of the embedding that a file may hold, or hold in its place.
  copies=(_HEAD,),
)
