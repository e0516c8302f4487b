"""Converts the features of episodes into those that the model reads."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from hypertuning.data import vocabularies
from hypertuning.data.text_format import TextFormat, check
from hypertuning.errors import UserError
from hypertuning.padding import is_real

Lengths = Mapping[str, Any]
_Spec = seqio.FeatureConverter.FeatureSpec
_EXAMPLE = "{'hyper_inputs': 1024, 'inputs': (4, 384), 'targets': (4, 128)}"


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
  vocabulary = vocabularies.to_seqio(check(text_format).vocabulary)
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
    check_lengths(task_feature_lengths, self.TASK_FEATURES)
    return super().__call__(ds, task_feature_lengths)

  def get_model_feature_lengths(self, task_feature_lengths: Lengths) -> Lengths:
    """Lengths of the model features; checks what the user gave.

    Raises:
      UserError: see `check_lengths`.
    """
    check_lengths(task_feature_lengths, self.TASK_FEATURES)
    return {
      'hyper_tokens': task_feature_lengths['hyper_inputs'],
      'input_tokens': task_feature_lengths['inputs'],
      'target_tokens': task_feature_lengths['targets'],
      'target_weights': task_feature_lengths['targets'],
    }

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

  TASK_FEATURES = {
    **EpisodeFeatureConverter.TASK_FEATURES,
    'teacher_inputs': _Spec(dtype=tf.int32, rank=2),
  }
  MODEL_FEATURES = {
    **EpisodeFeatureConverter.MODEL_FEATURES,
    'teacher_tokens': _Spec(dtype=tf.int32, rank=2),
  }

  def get_model_feature_lengths(self, task_feature_lengths: Lengths) -> Lengths:
    """Lengths of the model features; checks what the user gave.

    Raises:
      UserError: see `check_lengths`.
    """
    lengths = super().get_model_feature_lengths(task_feature_lengths)
    teacher = task_feature_lengths['teacher_inputs']
    return {**lengths, 'teacher_tokens': teacher}

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


def check_lengths(
  lengths: Lengths,
  specs: Mapping[str, Any] = EpisodeFeatureConverter.TASK_FEATURES,
  binding: str = 'TASK_FEATURE_LENGTHS',
) -> None:
  """Refuses lengths that miss a feature, or leave nothing of it.

  Args:
    lengths: value of the gin binding, such as that of TASK_FEATURE_LENGTHS.
    specs: maps the name of each feature that is required to its rank.
    binding: name of the gin binding, for the error message.

  Raises:
    UserError: the lengths are wrong; the message names the binding and the
      field at fault.
  """
  if not isinstance(lengths, Mapping):
    raise UserError(
      f'{binding} = {lengths!r}: must be a dict, for example {_EXAMPLE}.'
    )
  for name, spec in specs.items():
    length = lengths.get(name)
    parts = length if isinstance(length, (tuple, list)) else (length,)
    if len(parts) != spec.rank or not all(isinstance(n, int) for n in parts):
      want = '(queries, length)'
      if name == 'hyper_inputs':
        want = 'one number, or (chunks, length)'
      raise UserError(
        f'{binding}[{name!r}] is {length!r}, but must be {want}: '
        f'for example {_EXAMPLE}.'
      )
    # A target must keep at least one token before its EOS.
    least = 2 if name == 'targets' else 1
    if parts[0] < 1 or parts[-1] < least:
      raise UserError(
        f'{binding}[{name!r}] = {length!r} cuts everything away: '
        f'give at least {least if len(parts) == 1 else (1, least)}.'
      )
  unknown = set(lengths) - set(specs)
  if unknown:
    raise UserError(
      f'{binding} has no feature {min(unknown, key=repr)!r}; episodes have '
      f'{", ".join(specs)}.'
    )
  if lengths['inputs'][0] != lengths['targets'][0]:
    raise UserError(
      f"{binding} gives 'inputs' {lengths['inputs'][0]} queries and "
      f"'targets' {lengths['targets'][0]}: the two must agree."
    )
  teacher = lengths.get('teacher_inputs', lengths['inputs'])
  if teacher[0] != lengths['inputs'][0] or teacher[1] < lengths['inputs'][1]:
    raise UserError(
      f"{binding}['teacher_inputs'] = {teacher!r}: a teacher reads "
      f'the same queries, with examples before them; give '
      f'({lengths["inputs"][0]}, {lengths["inputs"][1]} or more).'
    )


def length_of(lengths: Lengths | None, name: str) -> int | None:
  """The number of tokens that a feature has room for.

  Args:
    lengths: value of TASK_FEATURE_LENGTHS.
    name: name of the feature.

  Returns:
    The size of the feature's last axis; None if `lengths` does not have it.
  """
  length = (lengths or {}).get(name)
  return length[-1] if isinstance(length, (tuple, list)) else length
