"""The families of models that are converted."""

from typing import Any

from hypertuning.conversion.family import Family
from hypertuning.conversion.fields import Fields
from hypertuning.conversion.llama.family import LLAMA
from hypertuning.conversion.t5.family import T5
from hypertuning.errors import UserError

ALL = (LLAMA, T5)


def find(fields: Fields) -> Family:
  """The family of a model.

  Args:
    fields: fields of the model's `config.json`.

  Raises:
    UserError: no family has this `model_type`.
  """
  for family in ALL:
    if fields.get('model_type') in family.model_types:
      return family
  known = ', '.join(x for family in ALL for x in family.model_types)
  if fields.get('model_type') is None:
    raise fields.missing('model_type')
  raise fields.refuse(
    'model_type', f'this architecture is not read, {known} are'
  )


def find_by_config(config: Any) -> Family:
  """The family of a network.

  Args:
    config: config of the network.

  Raises:
    UserError: no family has such a config.
  """
  for family in ALL:
    if isinstance(config, family.config_class):
      return family
  known = ', '.join(family.architecture for family in ALL)
  raise UserError(
    f'{type(config).__name__}: transformers has no such architecture; there '
    f'are {known}.'
  )
