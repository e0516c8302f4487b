"""Writes GGUF files of tiny models, as llama.cpp's converter lays them out."""

import json

import numpy as np
import public_models
import pytest

gguf = pytest.importorskip('gguf', reason='needs the extra `gguf`')

# Bytes per block, the places of the block's scales, which are float16, and the
# greatest scale.
_K_BLOCKS = {'Q4_K': (144, (0, 2), 4e-4), 'Q6_K': (210, (208,), 4e-5)}
_TOKENIZER = 'tokenizer.ggml.'


def write(
  path,
  model,
  kind: str,
  tokenizer_json=None,
  pieces=None,
  cutter='smollm',
  **fields,
) -> str:
  """Writes a model of `public_models`.

  Args:
    path: path of the file.
    model: the model. Matrices in 'Q4_K' and 'Q6_K' are random blocks in place
      of its own values, as the library cannot round to these types.
    kind: name of the type of matrices, such as 'Q8_0'.
    tokenizer_json: path of a byte-level BPE, which becomes the vocabulary.
    pieces: path of a SentencePiece model, which becomes the vocabulary.
    cutter: how a byte-level BPE cuts words.
    **fields: further fields, by their names with `__` for dots.
  """
  config = model.config
  is_t5 = config.model_type == 't5'
  architecture = gguf.MODEL_ARCH.T5 if is_t5 else gguf.MODEL_ARCH.LLAMA
  writer = gguf.GGUFWriter(path, config.model_type)
  (_t5_fields if is_t5 else _llama_fields)(writer, config)
  for name, value in fields.items():
    if value is not None:
      writer.add_key_value(
        name.replace('__', '.'), value, gguf.GGUFValueType.get_type(value)
      )
  if tokenizer_json is not None:
    _add_tokenizer(writer, tokenizer_json, cutter)
  if pieces is not None:
    _add_pieces(writer, pieces, 't5' if is_t5 else 'llama')
  names = gguf.get_tensor_name_map(architecture, 8)
  for name, array in public_models.arrays(model).items():
    own = names.get_name(name.removesuffix('.weight'))
    for part, heads in (
      ('q_proj', lambda: config.num_attention_heads),
      ('k_proj', lambda: config.num_key_value_heads),
    ):
      if part in name:
        halves = array.reshape(heads(), 2, -1, array.shape[-1])
        array = halves.swapaxes(1, 2).reshape(array.shape)
    _add(writer, f'{own}.weight', np.ascontiguousarray(array), kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return str(path)


def _add(writer, name, array, kind) -> None:
  kinds = gguf.GGMLQuantizationType
  if array.ndim < 2 or array.shape[-1] % 32:
    kind = 'F32'
  if kind in _K_BLOCKS and array.shape[-1] % 256:
    kind = 'Q8_0'  # as llama.cpp does where the blocks do not fit
  if kind in _K_BLOCKS:
    size, places, greatest = _K_BLOCKS[kind]
    rng = np.random.default_rng(len(name))
    shape = (array.shape[0], array.shape[1] // 256, size)
    blocks = rng.integers(0, 256, shape, dtype=np.uint8)
    for place in places:
      scale = rng.uniform(greatest / 4, greatest, (*shape[:2], 1))
      scale = scale.astype(np.float16)
      blocks[..., place : place + 2] = scale.view(np.uint8)
    data = blocks.reshape(array.shape[0], -1)
  else:
    data = gguf.quants.quantize(array, kinds[kind])
  if kind in ('F32', 'F16'):
    writer.add_tensor(name, data)
  else:
    writer.add_tensor(name, data, raw_dtype=kinds[kind])


def _llama_fields(writer, config) -> None:
  writer.add_context_length(config.max_position_embeddings)
  writer.add_embedding_length(config.hidden_size)
  writer.add_block_count(config.num_hidden_layers)
  writer.add_feed_forward_length(config.intermediate_size)
  writer.add_head_count(config.num_attention_heads)
  writer.add_head_count_kv(config.num_key_value_heads)
  writer.add_layer_norm_rms_eps(config.rms_norm_eps)
  writer.add_rope_freq_base(config.rope_parameters['rope_theta'])
  writer.add_rope_dimension_count(config.head_dim)
  writer.add_vocab_size(config.vocab_size)


def _t5_fields(writer, config) -> None:
  writer.add_context_length(512)
  writer.add_embedding_length(config.d_model)
  writer.add_block_count(config.num_layers)
  writer.add_feed_forward_length(config.d_ff)
  writer.add_head_count(config.num_heads)
  writer.add_key_length(config.d_kv)
  writer.add_layer_norm_eps(config.layer_norm_epsilon)
  writer.add_relative_attn_buckets_count(config.relative_attention_num_buckets)
  writer.add_decoder_start_token_id(0)
  writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer, path, cutter) -> None:
  """A byte-level BPE of a `tokenizer.json`."""
  with open(path) as file:
    contents = json.load(file)
  ids = contents['model']['vocab']
  special = {
    token['content']: token['id'] for token in contents['added_tokens']
  }
  tokens = sorted({**ids, **special}, key={**ids, **special}.get)
  writer.add_tokenizer_model('gpt2')
  writer.add_tokenizer_pre(cutter)
  writer.add_token_list(tokens)
  writer.add_token_types([3 if t in special else 1 for t in tokens])
  writer.add_token_merges([' '.join(m) for m in contents['model']['merges']])
  writer.add_bos_token_id(1)
  writer.add_eos_token_id(2)


def _add_pieces(writer, path, kind) -> None:
  """A SentencePiece model."""
  from sentencepiece import sentencepiece_model_pb2 as proto

  model = proto.ModelProto.FromString(open(path, 'rb').read())
  writer.add_tokenizer_model(kind)
  writer.add_token_list([x.piece for x in model.pieces])
  writer.add_token_scores([x.score for x in model.pieces])
  writer.add_token_types([x.type for x in model.pieces])
  writer.add_add_space_prefix(True)
  writer.add_eos_token_id(model.trainer_spec.eos_id)
  writer.add_unk_token_id(model.trainer_spec.unk_id)
  if kind == 't5':
    writer.add_pad_token_id(0)
    writer.add_precompiled_charsmap(model.normalizer_spec.precompiled_charsmap)
  else:
    writer.add_bos_token_id(model.trainer_spec.bos_id)
