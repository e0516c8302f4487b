"""Token ids that stand beside texts, packed into strings.

A tokenizer that is Python code must not run in a pipeline whose place t5x
saves. So the texts of rows are encoded when the rows are made. The ids of a
text are a string as well, of four bytes per id: every step that moves texts
moves their ids in the same way.
"""

import functools
from collections.abc import Callable
from typing import TypeGuard

import numpy as np
import tensorflow as tf

from hypertuning.data import seqio_vocabularies
from hypertuning.data.text_format import TextFormat

_BYTES = 4


def beside(feature: str) -> str:
  """The name of the feature that has the ids of another feature's texts."""
  return f'{feature}_ids'


def are_needed(form: TextFormat | None) -> TypeGuard[TextFormat]:
  """Whether there is a format whose vocabulary encodes in Python only."""
  return form is not None and seqio_vocabularies.runs_python(form.vocabulary)


def packer(form: TextFormat, part: str) -> Callable[[str], bytes]:
  """A function that encodes a text and packs its ids; each text only once.

  Args:
    form: the format.
    part: the part of the format that the texts are, see `TextFormat.encode`.
  """
  encode = functools.partial(form.encode, part=part)
  return functools.cache(lambda text: np.array(encode(text), '<i4').tobytes())


def unpack(packed: tf.Tensor) -> tf.RaggedTensor:
  """Token ids, int32 `[n, (tokens)]`, of packed ids, strings `[n]`."""
  flat = tf.io.decode_raw(tf.strings.reduce_join(packed), tf.int32)
  sizes = tf.cast(tf.strings.length(packed) // _BYTES, tf.int64)
  return tf.RaggedTensor.from_row_lengths(flat, sizes, validate=False)
