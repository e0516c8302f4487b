"""Converts the features of episodes into those that the model reads."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from hypertuning.data import lengths as lengths_lib
from hypertuning.data import seqio_vocabularies
from hypertuning.data.text_format import TextFormat, check
from hypertuning.errors import UserError
from hypertuning.padding import is_real

Lengths = Mapping[str, Any]
_Spec = seqio.FeatureConverter.FeatureSpec


class _OneOrTwo(int):
  """A rank that equals both 1 and 2.

  seqio fixes the ranks of features when a task is registered, but only
  TASK_FEATURE_LENGTHS says whether the hypermodel's text is one row or several
  chunks.
  """

  def __eq__(self, other: object) -> bool:
    return other in (1, 2)

  def __ne__(self, other: object) -> bool:
    return not self == other

  __hash__ = int.__hash__


@dataclasses.dataclass(frozen=True)
class TextFeature(seqio.Feature):
  """A seqio feature that also has the format of its text.

  Attributes:
    text_format: the format of the task's text.
  """

  text_format: TextFormat = dataclasses.field(kw_only=True)


def output_features(
  text_format: TextFormat, taught: bool = False
) -> dict[str, TextFeature]:
  """The seqio features of a task of episodes; preprocessors add EOS themselves.

  Args:
    text_format: format of the text in all features.
    taught: whether to add the feature `teacher_inputs`, which a teacher reads.

  Raises:
    UserError: `text_format` is something else, such as a vocabulary.
  """
  vocabulary = seqio_vocabularies.to_seqio(check(text_format).vocabulary)
  names = {'hyper_inputs': _OneOrTwo(1), 'inputs': 2, 'targets': 2}
  if taught:
    names['teacher_inputs'] = 2
  return {
    name: TextFeature(
      vocabulary, add_eos=False, rank=rank, text_format=text_format
    )
    for name, rank in names.items()
  }


class EpisodeFeatureConverter(seqio.FeatureConverter):
  """Converts episodes into model features; one seqio example is one episode.

  | task feature             | model feature                             |
  | ------------------------ | ----------------------------------------- |
  | `hyper_inputs` [h]       | `hyper_tokens` [h]                        |
  | `inputs` [queries, i]    | `input_tokens` [queries, i]               |
  | `targets` [queries, t]   | `target_tokens` [queries, t],             |
  |                          | `target_weights` (0 on padding)           |

  All are int32. Lengths are given in the form
  `{'hyper_inputs': 1024, 'inputs': (4, 384), 'targets': (4, 128)}`. An episode
  with fewer queries is padded; of one with more queries, the last are cut. With
  `'hyper_inputs': (c, h)`, the examples stand in chunks of whole examples, and
  `hyper_tokens` is [c, h]. Packing would mix episodes, and is refused.
  """

  IS_TAUGHT = False
  TASK_FEATURES = {
    'hyper_inputs': _Spec(dtype=tf.int32, rank=_OneOrTwo(1)),
    'inputs': _Spec(dtype=tf.int32, rank=2),
    'targets': _Spec(dtype=tf.int32, rank=2),
  }
  MODEL_FEATURES = {
    'hyper_tokens': _Spec(dtype=tf.int32, rank=_OneOrTwo(1)),
    'input_tokens': _Spec(dtype=tf.int32, rank=2),
    'target_tokens': _Spec(dtype=tf.int32, rank=2),
    'target_weights': _Spec(dtype=tf.int32, rank=2),
  }
  PACKING_FEATURE_DTYPES: Mapping[str, Any] = {}

  def __init__(self, pack: bool = False, **kwargs: Any) -> None:
    """Takes the arguments of seqio's converters.

    Args:
      pack: part of seqio's signature; must be False.
      **kwargs: seqio's other arguments.

    Raises:
      UserError: `pack` is set.
    """
    if pack:
      raise UserError(
        'Episodes cannot be packed, packing would mix them: set pack = False.'
      )
    # seqio's check of lengths compares numbers, and fails on pairs of them.
    super().__init__(pack=False, **{**kwargs, 'apply_length_check': False})

  def __call__(
    self, ds: tf.data.Dataset, task_feature_lengths: Lengths
  ) -> tf.data.Dataset:
    """Converts a dataset of episodes.

    Args:
      ds: episodes with the task features.
      task_feature_lengths: value of TASK_FEATURE_LENGTHS.

    Raises:
      UserError: the lengths miss a feature, or cut everything away.
    """
    lengths_lib.check(task_feature_lengths, self.IS_TAUGHT)
    return super().__call__(ds, task_feature_lengths)

  def get_model_feature_lengths(self, task_feature_lengths: Lengths) -> Lengths:
    """Lengths of the model features; checks what the user gave.

    Raises:
      UserError: see `lengths.check`.
    """
    return lengths_lib.of_model(task_feature_lengths, self.IS_TAUGHT)

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Lengths
  ) -> tf.data.Dataset:
    ds = self._pack_or_pad(ds, task_feature_lengths)
    return ds.map(_convert, num_parallel_calls=tf.data.AUTOTUNE)


class DistillationFeatureConverter(EpisodeFeatureConverter):
  """Converts episodes that have inputs for a teacher as well.

  A teacher reads the examples before every query. The task feature
  `teacher_inputs`, int32 [queries, i], becomes `teacher_tokens`.
  TASK_FEATURE_LENGTHS must have its length too: `'teacher_inputs': (4, 1024)`.
  """

  IS_TAUGHT = True
  TASK_FEATURES = {
    **EpisodeFeatureConverter.TASK_FEATURES,
    'teacher_inputs': _Spec(dtype=tf.int32, rank=2),
  }
  MODEL_FEATURES = {
    **EpisodeFeatureConverter.MODEL_FEATURES,
    'teacher_tokens': _Spec(dtype=tf.int32, rank=2),
  }

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Lengths
  ) -> tf.data.Dataset:
    ds = self._pack_or_pad(ds, task_feature_lengths)
    return ds.map(
      lambda episode: {
        **_convert(episode),
        'teacher_tokens': episode['teacher_inputs'],
      },
      num_parallel_calls=tf.data.AUTOTUNE,
    )


@tf.autograph.experimental.do_not_convert
def _convert(episode: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  targets = episode['targets']
  return {
    'hyper_tokens': episode['hyper_inputs'],
    'input_tokens': episode['inputs'],
    'target_tokens': targets,
    'target_weights': tf.cast(is_real(targets), tf.int32),
  }
