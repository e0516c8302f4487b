"""The vocabulary in a GGUF file, as the file that Hugging Face has of it."""

from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from hypertuning.conversion.families import LLAMA, T5
from hypertuning.conversion.fields import Fields
from hypertuning.conversion.vocabulary import BYTE_LEVEL
from hypertuning.errors import UserError

_PREFIX = 'tokenizer.ggml.'
# llama.cpp calls a kind of SentencePiece model by the family that has it: the
# name of its file, and whether it is a BPE with all bytes.
_SENTENCEPIECE = {'llama': (LLAMA.pieces, True), 't5': (T5.pieces, False)}
# Types of tokens.
_CONTROL, _USER_DEFINED = 3, 4
# Tokens behind the pieces of T5's SentencePiece model.
_NO_PIECES = ('<extra_id_', '[PAD')
# How Llama 3 cuts a text before it is merged.
_LLAMA3_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)


def files(values: Mapping[str, Any], place: str) -> dict[str, bytes]:
  """The content of the files of a vocabulary, by name.

  Args:
    values: fields of the GGUF file.
    place: path of the file.

  Raises:
    UserError: the file has no vocabulary, or one that cannot be rebuilt.
  """
  own = Fields(values, place)
  kind = own.get(f'{_PREFIX}model')
  if kind == 'gpt2':
    return {BYTE_LEVEL: _byte_level(own).to_str().encode()}
  if kind in _SENTENCEPIECE:
    name, byte_fallback = _SENTENCEPIECE[kind]
    return {name: _sentencepiece(own, byte_fallback)}
  raise own.refuse(f'{_PREFIX}model', "only 'gpt2', 'llama' and 't5' are read")


def _byte_level(own: Fields) -> tokenizers.Tokenizer:
  """A byte-level BPE."""
  byte_level = pre_tokenizers.ByteLevel
  cutters = {
    'smollm': lambda: pre_tokenizers.Sequence(
      [
        pre_tokenizers.Digits(individual_digits=True),
        byte_level(add_prefix_space=False),
      ]
    ),
    'llama-bpe': lambda: pre_tokenizers.Sequence(
      [
        pre_tokenizers.Split(Regex(_LLAMA3_WORDS), 'isolated'),
        byte_level(add_prefix_space=False, use_regex=False),
      ]
    ),
  }
  name = f'{_PREFIX}pre'
  cutter = own.get(name)
  if cutter not in cutters:
    raise own.refuse(
      name, f'this way to cut words is not known, {", ".join(cutters)} are'
    )
  tokens, kinds = _tokens(own)
  merges = [tuple(x.split(' ', 1)) for x in own.get(f'{_PREFIX}merges', ())]
  if not merges or any(len(pair) != 2 for pair in merges):
    raise UserError(f'{own.place}: {_PREFIX}merges is missing or damaged.')
  try:
    tokenizer = tokenizers.Tokenizer(
      models.BPE(
        {token: i for i, token in enumerate(tokens)},
        merges,
        # Llama 3 takes a word that is a token as it is.
        ignore_merges=cutter == 'llama-bpe',
      )
    )
  except Exception as error:  # the library raises nothing more special
    raise UserError(
      f'{own.place}: {_PREFIX}merges does not fit {_PREFIX}tokens ({error}).'
    ) from error
  tokenizer.pre_tokenizer = cutters[cutter]()
  tokenizer.decoder = decoders.ByteLevel()
  for kind, add in (
    (_CONTROL, tokenizer.add_special_tokens),
    (_USER_DEFINED, tokenizer.add_tokens),
  ):
    add(
      [
        tokenizers.AddedToken(token, normalized=False)
        for token, own_kind in zip(tokens, kinds, strict=True)
        if own_kind == kind
      ]
    )
  return tokenizer


def _sentencepiece(own: Fields, byte_fallback: bool) -> bytes:
  """A SentencePiece model.

  Args:
    own: fields of the GGUF file.
    byte_fallback: whether it is a BPE with all bytes, as Llama 2's; else it is
      a unigram model, as T5's.
  """
  # Slow to import, and only needed here.
  from sentencepiece import sentencepiece_model_pb2

  proto: Any = sentencepiece_model_pb2  # made while it runs, without types

  tokens, kinds = _tokens(own)
  scores = own.get(f'{_PREFIX}scores', ())
  if len(scores) != len(tokens):
    raise UserError(
      f'{own.place}: {_PREFIX}scores has {len(scores)} numbers for '
      f'{len(tokens)} tokens.'
    )
  model = proto.ModelProto()
  for token, score, kind in zip(tokens, scores, kinds, strict=True):
    if token.startswith(_NO_PIECES):
      break
    model.pieces.add(piece=token, score=score, type=kind)
  trainer, normalizer = model.trainer_spec, model.normalizer_spec
  trainer.model_type = trainer.BPE if byte_fallback else trainer.UNIGRAM
  trainer.vocab_size = len(model.pieces)
  trainer.byte_fallback = byte_fallback
  for name in ('unknown', 'bos', 'eos', 'padding'):
    value = own.get(f'{_PREFIX}{name}_token_id', -1)
    short = {'unknown': 'unk', 'padding': 'pad'}.get(name, name)
    setattr(trainer, f'{short}_id', value if value < len(tokens) else -1)
  normalizer.name = 'identity' if byte_fallback else 'nmt_nfkc'
  normalizer.precompiled_charsmap = bytes(
    x % 256 for x in own.get(f'{_PREFIX}precompiled_charsmap', ())
  )
  normalizer.add_dummy_prefix = own.get(f'{_PREFIX}add_space_prefix', True)
  normalizer.remove_extra_whitespaces = own.get(
    f'{_PREFIX}remove_extra_whitespaces', not byte_fallback
  )
  return model.SerializeToString()


def _tokens(own: Fields) -> tuple[list[str], list[int]]:
  """The tokens of a vocabulary, and the type of each."""
  tokens = own.get(f'{_PREFIX}tokens', [])
  kinds = own.get(f'{_PREFIX}token_type', [])
  if not tokens or len(kinds) != len(tokens):
    raise UserError(
      f'{own.place}: {_PREFIX}tokens or {_PREFIX}token_type is missing.'
    )
  return tokens, kinds
