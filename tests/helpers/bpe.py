"""Trains a small byte-level BPE, and writes its `tokenizer.json`."""

import functools
import itertools
from pydoc_data import topics

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from hypertuning.data import text_format

SPECIAL = ('<|endoftext|>', '<|im_start|>', '<|im_end|>')
RESERVED = ('<|begin_of_text|>', '<|end_of_text|>', '<|reserved_token_0|>')
SIZE = 400


@functools.cache
def _trained(special) -> str:
  tokenizer = tokenizers.Tokenizer(models.BPE())
  # SmolLM2's: digits one by one, then bytes.
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  tokenizer.decoder = decoders.ByteLevel()
  texts = itertools.islice(topics.topics.values(), 20)
  tokenizer.train_from_iterator(
    [*texts, '\n\n' * 100],
    trainers.BpeTrainer(
      vocab_size=SIZE,
      special_tokens=list(special),
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  return tokenizer.to_str()


def write(path, special=SPECIAL, reserved=()) -> str:
  """Writes a `tokenizer.json`.

  Args:
    path: path of the file.
    special: special tokens that are the first ids.
    reserved: special tokens behind all others.
  """
  tokenizer = tokenizers.Tokenizer.from_str(_trained(special))
  tokenizer.add_special_tokens(list(reserved))
  # A file may hold these, from the training of a model.
  tokenizer.enable_truncation(max_length=4)
  tokenizer.enable_padding(length=9)
  tokenizer.save(str(path))
  return str(path)


def line_format(vocabulary) -> text_format.TextFormat:
  """`Input: x`, `Output: y` on lines, as in gin/models/formats/lines.gin."""
  newline, two = (vocabulary.encode(text) for text in ('\n', '\n\n'))
  return text_format.custom_format(
    vocabulary,
    start=(1,),
    inputs='Input:',
    targets='\nOutput:',
    between=newline * 2,
    target_end=newline,
    end_ids=(*newline, *two[:1], vocabulary.eos_id),
    blank=' ',
    names=((1, '<|im_start|>'),),
  )
