"""The families of models that are converted, and the variables of a model."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from hypertuning import trees
from hypertuning.conversion import llama, t5
from hypertuning.conversion.fields import Fields
from hypertuning.errors import UserError
from hypertuning.networks.llama import Llama
from hypertuning.networks.llama_config import LlamaConfig
from hypertuning.networks.t5 import T5
from hypertuning.networks.t5_config import T5Config

# Ours have inputs before outputs.
_TRANSPOSED = ('kernel', 'rel_embedding')


@dataclasses.dataclass(frozen=True)
class Variable:
  """One variable of a model, under both of its names.

  Attributes:
    path: our name, such as `decoder/layers_0/mlp/gate/kernel`.
    shape: our shape.
    name: Hugging Face's name.
    is_transposed: whether Hugging Face's array is the transpose of ours.
    per_token: whether a row of Hugging Face's array belongs to a token.
  """

  path: str
  shape: tuple[int, ...]
  name: str
  is_transposed: bool
  per_token: bool

  @property
  def their_shape(self) -> tuple[int, ...]:
    """The shape of Hugging Face's array."""
    return self.shape[::-1] if self.is_transposed else self.shape

  def with_rows(self, tokens: int) -> 'Variable':
    """The same variable, with rows for another number of tokens."""
    if not self.per_token:
      return self
    shape = (tokens, *self.their_shape[1:])
    return dataclasses.replace(
      self, shape=shape[::-1] if self.is_transposed else shape
    )


@dataclasses.dataclass(frozen=True)
class Family:
  """An architecture that is read.

  Attributes:
    network: class of our network.
    config_class: class of our network's config.
    model_types: values of `model_type` in a `config.json`.
    architecture: name of Hugging Face's class, for a `config.json` that is
      made from another file.
    task: Hugging Face's name of what the class does, such as `CAUSAL_LM`.
    config: function that makes the network's config from a `config.json`.
    fields: function that makes the fields of a `config.json` from the network's
      config.
    their_name: function that turns our name of a variable into Hugging Face's.
    embedding: Hugging Face's name of the table of embeddings.
    head: Hugging Face's name of the head, which has a row per token.
    computed: regex of names that a file may hold and that are not read.
    copies: names of copies of the embedding that a file may hold, the head
      among them.
  """

  network: Callable[..., Any]
  config_class: type
  model_types: Sequence[str]
  architecture: str
  task: str
  config: Callable[[Fields], Any]
  fields: Callable[[Any], dict[str, Any]]
  their_name: Callable[[str], str]
  embedding: str
  head: str
  computed: str
  copies: Sequence[str]

  def variables(self, config: Any) -> list[Variable]:
    """The variables of a model whose layers are not scanned.

    Args:
      config: our config of the model.
    """
    # One layer is traced, however many the model has.
    network = self.network(config.replace(scan_layers=True))
    tokens = jnp.ones((1, 2), jnp.int32)
    shapes = jax.eval_shape(
      lambda: network.init(jax.random.key(0), tokens, tokens)
    )['params']
    variables = []
    for path, leaf in trees.flatten_paths(shapes).items():
      if '/layers/' not in path:
        variables.append(self._variable(path, leaf.shape))
        continue
      for i in range(leaf.shape[0]):
        own_path = path.replace('/layers/', f'/layers_{i}/')
        variables.append(self._variable(own_path, leaf.shape[1:]))
    return variables

  def _variable(self, path: str, shape: tuple[int, ...]) -> Variable:
    name = self.their_name(path)
    return Variable(
      path,
      shape,
      name,
      path.endswith(_TRANSPOSED),
      name in (self.embedding, self.head),
    )


LLAMA = Family(
  Llama,
  LlamaConfig,
  llama.MODEL_TYPES,
  llama.ARCHITECTURE,
  llama.TASK,
  llama.config,
  llama.fields,
  llama.their_name,
  llama.EMBEDDING,
  llama.HEAD,
  llama.COMPUTED,
  llama.COPIES,
)
T5_FAMILY = Family(
  T5,
  T5Config,
  t5.MODEL_TYPES,
  t5.ARCHITECTURE,
  t5.TASK,
  t5.config,
  t5.fields,
  t5.their_name,
  t5.EMBEDDING,
  t5.HEAD,
  t5.COMPUTED,
  t5.COPIES,
)


_FAMILIES = (LLAMA, T5_FAMILY)


def find(fields: Fields) -> Family:
  """The family of a model.

  Args:
    fields: fields of the model's `config.json`.

  Raises:
    UserError: no family has this `model_type`.
  """
  for family in _FAMILIES:
    if fields.get('model_type') in family.model_types:
      return family
  known = ', '.join(x for family in _FAMILIES for x in family.model_types)
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
  for family in _FAMILIES:
    if isinstance(config, family.config_class):
      return family
  known = ', '.join(family.architecture for family in _FAMILIES)
  raise UserError(
    f'{type(config).__name__}: transformers has no such architecture; there '
    f'are {known}.'
  )
