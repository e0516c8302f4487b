"""What a family of models says of itself, so that its files are read."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hypertuning import trees
from hypertuning.conversion.fields import Fields
from hypertuning.conversion.vocabulary import Vocabulary
from hypertuning.errors import UserError

Bindings = Sequence[tuple[str, str]]  # names and values, as gin writes them
# Ours have inputs before outputs.
_TRANSPOSED = ('kernel', 'rel_embedding')
# Tables have rows for no token, as multiples of this are fast.
_MOST_SPARE_ROWS = 512


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


class Names(NamedTuple):
  """Hugging Face's names of a model's variables.

  Attributes:
    find: function that turns our name into Hugging Face's.
    embedding: name of the table of embeddings.
    head: name of the head, which has a row per token.
    computed: regex of names that a file may hold and that are not read.
    copies: names of copies of the embedding that a file may hold, the head
      among them.
  """

  find: Callable[[str], str]
  embedding: str
  head: str
  computed: str
  copies: Sequence[str]


class GinSize(NamedTuple):
  """The size of a model, as its gin file binds it.

  Attributes:
    macros: macros of the size.
    bindings: further bindings.
    imports: import statements that `bindings` need.
  """

  macros: Bindings
  bindings: Bindings = ()
  imports: Sequence[str] = ()


class Gin(NamedTuple):
  """The gin files of a family.

  Attributes:
    network: gin file of the network alone.
    hypermodels: names of the gin files that give it a hypermodel.
    full_size: gin file of what models of every full size have in common.
    size: function that makes the size from the network's config.
  """

  network: str
  hypermodels: str
  full_size: str
  size: Callable[[Any], GinSize]


def _no_pairs(unused_name: str, unused_fields: Fields) -> None:
  """No array has rows in pairs, see `Gguf`."""


class Gguf(NamedTuple):
  """What GGUF files of a family hold.

  Attributes:
    architecture: value of `general.architecture`, with which the names of the
      family's fields begin.
    fields: function that makes the family's own fields of a `config.json` from
      the file's fields, and from its arrays as the library `gguf` gives them.
    read: names of the arrays that become fields.
    paired_heads: function that gives the number of heads of an array whose rows
      stand in pairs `(2i, 2i + 1)`, and None for other arrays; from Hugging
      Face's name of the array, and the fields of the `config.json`.
  """

  architecture: str
  fields: Callable[[Fields, Mapping[str, Any]], dict[str, Any]]
  read: Sequence[str] = ()
  paired_heads: Callable[[str, Fields], int | None] = _no_pairs


@dataclasses.dataclass(frozen=True, kw_only=True)
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
    names: Hugging Face's names of the variables.
    vocabulary: function that reads the vocabulary, with the arguments of
      `read_vocabulary`.
    pieces: Hugging Face's name of the file of a SentencePiece model.
    gguf: what GGUF files hold.
    gin: the family's gin files.
    no_prefix: why a prefix cannot leave as a cache; '' if it can.
  """

  network: Callable[..., Any]
  config_class: type
  model_types: Sequence[str]
  architecture: str
  task: str
  config: Callable[[Fields], Any]
  fields: Callable[[Any], dict[str, Any]]
  names: Names
  vocabulary: Callable[
    [Mapping[str, bytes], pathlib.Path, Fields, str], Vocabulary
  ]
  pieces: str
  gguf: Gguf
  gin: Gin
  no_prefix: str = ''

  @property
  def is_causal(self) -> bool:
    """Whether the network is a decoder alone."""
    return self.task == 'CAUSAL_LM'

  def read_vocabulary(
    self,
    files: Mapping[str, bytes],
    folder: pathlib.Path,
    fields: Fields,
    place: str,
  ) -> Vocabulary:
    """Reads the vocabulary that belongs to a model's weights.

    Args:
      files: content of the vocabulary's files, by name.
      folder: folder that holds them.
      fields: the model's `config.json`.
      place: path that error messages begin with.

    Raises:
      UserError: there is no vocabulary, it is damaged, or it belongs to another
        model.
    """
    try:
      vocabulary = self.vocabulary(files, folder, fields, place)
    except UserError as error:
      # The folder is a temporary one, which the user has never seen.
      raise UserError(str(error).replace(f'{folder}/', f'{place}: ')) from error
    rows = fields.count('vocab_size')
    if not rows - _MOST_SPARE_ROWS <= vocabulary.size <= rows:
      raise UserError(
        f'{place}: the vocabulary {vocabulary.file} has {vocabulary.size} ids, '
        f'but the weights have {rows} embeddings: it belongs to another model.'
      )
    return vocabulary

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
    name = self.names.find(path)
    return Variable(
      path,
      shape,
      name,
      path.endswith(_TRANSPOSED),
      name in (self.names.embedding, self.names.head),
    )
