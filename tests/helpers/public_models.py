"""Tiny models with random weights in the formats of public ones.

Hugging Face's own classes write them, or the library `gguf`.
"""

import json
import pathlib

import pytest

torch = pytest.importorskip('torch', reason='needs the extra `hf`')
transformers = pytest.importorskip('transformers', reason='needs `hf`')

import bpe  # noqa: E402
import numpy as np  # noqa: E402
import sentencepiece  # noqa: E402

# As GGUF's K types need: rows of 256 numbers.
WIDTH = 256
T5_TOKENS = 384  # 280 pieces, 100 sentinels and 4 rows for no token
_PIECES = 280


def llama(seed: int = 0, **overrides):
  """A `LlamaForCausalLM` in the vocabulary of `bpe`, float32."""
  fields = {
    'vocab_size': bpe.SIZE,
    'hidden_size': WIDTH,
    'intermediate_size': 2 * WIDTH,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'max_position_embeddings': 64,
    'rms_norm_eps': 1e-5,
    'tie_word_embeddings': True,
    'bos_token_id': 1,
    'eos_token_id': 2,
    'initializer_range': 0.1,
    'attn_implementation': 'eager',
  }
  torch.manual_seed(seed)
  config = transformers.LlamaConfig(**{**fields, **overrides})
  return _random_norms(transformers.LlamaForCausalLM(config).eval())


def t5(seed: int = 0, **overrides):
  """A `T5ForConditionalGeneration` of the shape of a FLAN-T5, float32."""
  fields = {
    'vocab_size': T5_TOKENS,
    'd_model': WIDTH,
    'd_kv': 64,
    'd_ff': 2 * WIDTH,
    'num_layers': 2,
    'num_decoder_layers': 3,
    'num_heads': 3,
    'relative_attention_num_buckets': 8,
    'relative_attention_max_distance': 128,
    'feed_forward_proj': 'gated-gelu',
    'tie_word_embeddings': False,
    'decoder_start_token_id': 0,
  }
  torch.manual_seed(seed)
  config = transformers.T5Config(**{**fields, **overrides})
  model = transformers.T5ForConditionalGeneration(config).eval()
  if not config.scale_decoder_outputs:
    head = torch.randn(config.vocab_size, config.d_model)
    model.lm_head.weight = torch.nn.Parameter(head / config.d_model**0.5)
  return _random_norms(model)


def _random_norms(model):
  """The model, whose norms are no longer all ones."""
  with torch.no_grad():
    for name, weight in model.named_parameters():
      if 'norm' in name:
        weight.add_(0.2 * torch.randn(weight.shape))
  return model


def arrays(model) -> dict[str, np.ndarray]:
  """A model's own arrays, without what is tied to another."""
  return {
    name: weight.detach().numpy() for name, weight in model.named_parameters()
  }


def save(
  model, folder: pathlib.Path, kind: str = 'safetensors'
) -> pathlib.Path:
  """Writes a folder of Hugging Face's, with its vocabulary.

  Args:
    model: a model of this module.
    folder: the folder.
    kind: 'safetensors', 'sharded' (several of them), or 'torch'.
  """
  if kind == 'torch':
    model.config.save_pretrained(folder)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch.save(state, folder / 'pytorch_model.bin')
  else:
    size = '500KB' if kind == 'sharded' else '1GB'
    model.save_pretrained(folder, max_shard_size=size)
  if model.config.model_type == 't5':
    # As public models have it; transformers 5 writes that all are tied.
    path = folder / 'config.json'
    config = json.loads(path.read_text())
    config['tie_word_embeddings'] = bool(config.pop('scale_decoder_outputs'))
    path.write_text(json.dumps(config))
    pieces(folder / 'spiece.model')
  else:
    bpe.write(folder / 'tokenizer.json')
  return folder


def pieces(path: pathlib.Path, byte_fallback: bool = False) -> None:
  """Writes a SentencePiece model like T5's, or like Llama 2's with bytes."""
  words = [f'{a}{b}{c}' for a in 'bdfgk' for b in 'aeiou' for c in 'lmnrst']
  ids = {'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1}
  if byte_fallback:
    ids = {'unk_id': 0, 'bos_id': 1, 'eos_id': 2, 'pad_id': -1}
    ids |= {'model_type': 'bpe', 'byte_fallback': True, 'vocab_size': 330}
    ids |= {'normalization_rule_name': 'identity'}
    ids |= {'remove_extra_whitespaces': False}
  with path.open('wb') as file:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter([' '.join(words), 'Input: Output:'] * 50),
      model_writer=file,
      minloglevel=2,
      hard_vocab_limit=byte_fallback,
      **{'vocab_size': _PIECES, **ids},
    )


def text(rows: int = 2, length: int = 9, tokens: int = 300, seed: int = 0):
  """Inputs and targets, int32 `[rows, length]` each, without padding."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(3, tokens, (2, rows, length), dtype=np.int32)
  return ids[0], ids[1]
