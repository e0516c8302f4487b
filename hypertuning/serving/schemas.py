"""The JSON that clients send and get."""

from typing import Annotated, Any

import pydantic
from pydantic import ConfigDict, Field, StringConstraints

from hypertuning.serving.limits import Limits

_LIMITS = Limits()
Text = Annotated[str, StringConstraints(max_length=_LIMITS.characters)]
NAME = r'^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'
Name = Annotated[str, StringConstraints(pattern=NAME)]


class _Request(pydantic.BaseModel):
  model_config = ConfigDict(extra='forbid', strict=True)


class Example(_Request):
  """An input of a task, and its target."""

  inputs: Text
  targets: Annotated[Text, Field(min_length=1)]


Examples = Annotated[list[Example], Field(max_length=_LIMITS.examples)]


class Adapt(_Request):
  """Examples that a phi is made from."""

  model_config = ConfigDict(
    json_schema_extra={
      'examples': [
        {
          'examples': [
            {'inputs': 'hot', 'targets': 'cold'},
            {'inputs': 'big', 'targets': 'small'},
          ],
          'definition': 'Say the opposite.',
          'name': 'opposites',
        }
      ]
    }
  )
  examples: Annotated[Examples, Field(min_length=1)]
  definition: Text = ''
  name: Name | None = Field(
    None, description='A phi of this name is replaced; null makes a name.'
  )
  draws: int = Field(
    1,
    ge=1,
    le=_LIMITS.draws,
    description='Number of orders of the examples whose mean phi is taken.',
  )


class Adapted(pydantic.BaseModel):
  """A phi that the server keeps."""

  name: str
  kind: str = Field(description='prefix or lora')
  bytes: int
  milliseconds: float | None = Field(
    None, description='Time to make it, without that of compilation.'
  )
  compiling: float = Field(
    0.0, description='Milliseconds of compilation, once per size.'
  )
  chunks: int | None = Field(
    None, description='Number of texts that the examples were read in.'
  )


class Ask(_Request):
  """Queries, with a phi, with examples in context, or with neither."""

  model_config = ConfigDict(
    json_schema_extra={
      'examples': [{'queries': ['fast', 'early'], 'phi': 'opposites'}]
    }
  )
  queries: Annotated[
    list[Text], Field(min_length=1, max_length=_LIMITS.queries)
  ]
  phi: Annotated[str, StringConstraints(max_length=64)] | None = None
  examples: Examples = []
  definition: Text = ''
  max_tokens: int | None = Field(
    None,
    ge=1,
    le=_LIMITS.max_tokens,
    description='Null takes as many as the hypermodel was trained with.',
  )
  stream: bool = Field(
    False,
    description='Lines of JSON instead: {"query": 0, "text": "answer so far"} '
    'as tokens are decoded, then the whole answer, or an error.',
  )


class Part(pydantic.BaseModel):
  """The answer of a query so far, by the number of the query."""

  query: int
  text: str


class Tokens(pydantic.BaseModel):
  """Numbers of tokens, over all queries."""

  read: int
  written: int


class Answer(pydantic.BaseModel):
  """Answers, and what they took."""

  answers: list[str]
  milliseconds: float = Field(
    description='Time from the request on, without that of compilation.'
  )
  compiling: float = Field(
    description='Milliseconds of compilation, once per size.'
  )
  tokens: Tokens


class Described(pydantic.BaseModel):
  """The model, and what the server accepts."""

  name: str
  hugging_face: str
  has_hypermodel: bool
  missing: str = Field(description='Why there is no hypermodel.')
  reads: int = Field(
    description='Number of tokens that the hypermodel reads in one text.'
  )
  max_tokens: int = Field(description='Number of tokens of an answer.')
  phi: int = Field(description='Number of phi in memory.')
  limits: dict[str, Any]


class Error(pydantic.BaseModel):
  """What went wrong."""

  error: str = Field(description='One line that says what to do.')
