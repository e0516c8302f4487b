"""TASK_FEATURE_LENGTHS: the room that an episode's texts have."""

from collections.abc import Mapping
from typing import Any

from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError

Lengths = Mapping[str, Any]
_TEACHER = 'teacher_inputs'
# The numbers of axes that a feature may have.
_RANKS = {
  'hyper_inputs': (1, 2),
  'inputs': (2,),
  'targets': (2,),
  _TEACHER: (2,),
}
_EXAMPLE = "{'hyper_inputs': 1024, 'inputs': (4, 384), 'targets': (4, 128)}"


def check(
  lengths: Lengths,
  taught: bool = False,
  binding: str = 'TASK_FEATURE_LENGTHS',
) -> None:
  """Refuses lengths that miss a feature, or leave nothing of it.

  Args:
    lengths: value of the gin binding, such as that of TASK_FEATURE_LENGTHS.
    taught: whether there must be a length for what a teacher reads.
    binding: name of the gin binding, for the error message.

  Raises:
    UserError: the lengths are wrong; the message names the binding and the
      field at fault.
  """
  if not isinstance(lengths, Mapping):
    raise UserError(
      f'{binding} = {lengths!r}: must be a dict, for example {_EXAMPLE}.'
    )
  ranks = {k: x for k, x in _RANKS.items() if taught or k != _TEACHER}
  for name, allowed_ranks in ranks.items():
    length = lengths.get(name)
    parts = length if isinstance(length, (tuple, list)) else (length,)
    if len(parts) not in allowed_ranks or not all(
      isinstance(n, int) for n in parts
    ):
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
  unknown = set(lengths) - set(ranks)
  if unknown:
    raise UserError(
      f'{binding} has no feature {min(unknown, key=repr)!r}; episodes have '
      f'{", ".join(ranks)}.'
    )
  if lengths['inputs'][0] != lengths['targets'][0]:
    raise UserError(
      f"{binding} gives 'inputs' {lengths['inputs'][0]} queries and "
      f"'targets' {lengths['targets'][0]}: the two must agree."
    )
  teacher = lengths.get(_TEACHER, lengths['inputs'])
  if teacher[0] != lengths['inputs'][0] or teacher[1] < lengths['inputs'][1]:
    raise UserError(
      f'{binding}[{_TEACHER!r}] = {teacher!r}: a teacher reads '
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


def of_model(lengths: Lengths, taught: bool = False) -> dict[str, Any]:
  """Lengths of the model's features; checks what the user gave.

  Args:
    lengths: value of TASK_FEATURE_LENGTHS.
    taught: whether a teacher reads as well.

  Raises:
    UserError: see `check`.
  """
  check(lengths, taught)
  model_lengths = {
    'hyper_tokens': lengths['hyper_inputs'],
    'input_tokens': lengths['inputs'],
    'target_tokens': lengths['targets'],
    'target_weights': lengths['targets'],
  }
  if taught:
    model_lengths['teacher_tokens'] = lengths[_TEACHER]
  return model_lengths


def shapes(
  lengths: Lengths, batch_size: int, taught: bool = False
) -> dict[str, tuple[int, ...]]:
  """Shapes of the model's features in one batch, see `of_model`."""
  return {
    name: (batch_size, *(size if isinstance(size, (tuple, list)) else (size,)))
    for name, size in of_model(lengths, taught).items()
  }


def rooms(
  lengths: Lengths | None, form: TextFormat
) -> tuple[int | None, int | None, int | None]:
  """The number of tokens that each part of an episode has room for.

  Args:
    lengths: value of TASK_FEATURE_LENGTHS; None for no limits.
    form: format of the text.

  Returns:
    The room for the definition and the shots, without the ids of the format
    around them; the room for a query, and that for a target, both with the ids
    of the format. Each is None if there is no limit.

  Raises:
    UserError: there is no room for the ids of the format and one token of text.
  """
  around_hyper = len(form.start) + len(form.end)
  least_needed = {
    'hyper_inputs': around_hyper,
    'inputs': len(form.start) + len(form.inputs) + len(form.targets) + 1,
    'targets': len(form.target_end) + 1,
  }
  found = []
  for name, least in least_needed.items():
    length = length_of(lengths, name)
    if lengths and length is not None and length < least:
      raise UserError(
        f'TASK_FEATURE_LENGTHS[{name!r}] = {lengths[name]!r} has no room for '
        f'an example and its separators: give a length of {least} or more.'
      )
    found.append(length)
  hyper, inputs, targets = found
  return None if hyper is None else hyper - around_hyper, inputs, targets
