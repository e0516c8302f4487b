"""A tiny Llama with random weights, also as `transformers` has it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from hypertuning import trees
from hypertuning.networks import llama
from hypertuning.networks.llama_config import LlamaConfig
from hypertuning.networks.rotary import RotaryScaling

SCALING = RotaryScaling(
  factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=16
)
# Hugging Face's name of every part of a layer.
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


def config(**overrides) -> LlamaConfig:
  """Width 20, four query heads of 6 over two key and value heads."""
  fields = {
    'vocab_size': tiny.VOCAB,
    'emb_dim': 20,
    'num_layers': 2,
    'num_heads': 4,
    'num_kv_heads': 2,
    'head_dim': 6,
    'mlp_dim': 28,
    'max_length': 64,
  }
  return LlamaConfig(**{**fields, **overrides})


@functools.cache
def params(cfg: LlamaConfig, seed: int = 0):
  """Random parameters of a `Llama`; stacked where the layers are scanned."""
  tokens = jnp.ones((1, 2), jnp.int32)
  plain = cfg.replace(scan_layers=False)
  shapes = jax.eval_shape(
    lambda: llama.Llama(plain).init(jax.random.key(0), tokens, tokens)
  )
  weights = tiny.random_params(shapes['params'], seed)
  return tiny.stack_layers(weights) if cfg.scan_layers else weights


def as_hugging_face(cfg: LlamaConfig, weights):
  """A `LlamaForCausalLM` with the same weights, in float32, eager."""
  import torch
  import transformers

  scaling = cfg.rotary.scaling
  rope = {'rope_type': 'default', 'rope_theta': cfg.rotary.theta}
  if scaling is not None:
    rope |= {
      'rope_type': 'llama3',
      'factor': scaling.factor,
      'low_freq_factor': scaling.low_freq_factor,
      'high_freq_factor': scaling.high_freq_factor,
      'original_max_position_embeddings': scaling.original_length,
    }
  theirs = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=cfg.vocab_size,
      hidden_size=cfg.emb_dim,
      intermediate_size=cfg.mlp_dim,
      num_hidden_layers=cfg.num_layers,
      num_attention_heads=cfg.num_heads,
      num_key_value_heads=cfg.num_kv_heads,
      head_dim=cfg.head_dim,
      max_position_embeddings=cfg.max_length,
      rms_norm_eps=cfg.norm_epsilon,
      rope_parameters=rope,
      tie_word_embeddings=cfg.tied_embedding,
      attn_implementation='eager',
      pad_token_id=0,
    )
  ).eval()
  state = {}
  for name, leaf in trees.flatten_paths(weights).items():
    value = np.array(leaf)
    is_kernel = name.endswith('kernel')
    state[_name(name)] = torch.tensor(value.T.copy() if is_kernel else value)
  if cfg.tied_embedding:
    state['lm_head.weight'] = state['model.embed_tokens.weight']
  theirs.load_state_dict(state)
  return theirs


def _name(path: str) -> str:
  whole = {
    'token_embedder/embedding': 'model.embed_tokens.weight',
    'decoder/norm/scale': 'model.norm.weight',
    'logits_dense/kernel': 'lm_head.weight',
  }
  if path in whole:
    return whole[path]
  _, layer, *part, _ = path.split('/')
  number = layer.removeprefix('layers_')
  return f'model.layers.{number}.{_PARTS["/".join(part)]}.weight'
