"""Renders raw rows with P3's prompts, which are promptsource's templates.

promptsource itself needs libraries of 2022. This module follows the few rules
in its `templates.py`, and gives exactly the rows of P3, byte for byte.
"""

import dataclasses
import functools
import pathlib
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import yaml

from hypertuning.data.rows import Row
from hypertuning.errors import UserError

_PIPES, _PIPES_ESCAPED = '|||', '3ed2dface8203c4c9dfb1a5dc58e41e0'
_LONGEST = 2048  # a longer field of a row is truncated; number of characters


@dataclasses.dataclass(frozen=True)
class Template:
  """One prompt of a data set.

  Attributes:
    task: P3's name of the task, made of data set, subset and prompt.
    name: name of the prompt.
    jinja: template of the input and the target, with `|||` between them.
    answer_choices: template of the options, with `|||` between them; None if
      the prompt has no options.
    original_task: whether the prompt asks what the data set was made for. T0 is
      only evaluated with such prompts.
  """

  task: str
  name: str
  jinja: str
  answer_choices: str | None = None
  original_task: bool = True

  def render(self, example: Mapping[str, Any], seed: int = 0) -> Row | None:
    """Renders one raw row.

    Args:
      example: fields of the raw row.
      seed: seed for prompts that choose among wordings at random.

    Returns:
      The row, or None if the prompt renders no input or no target for it.

    Raises:
      UserError: the row lacks a field that the prompt names.
    """
    values: dict[str, Any] = dict(_escaped(example))
    # Compiled templates are cached, so that their random filter is replaced by
    # one with the seed of this row.
    _environment().filters['choice'] = random.Random(seed).choice
    try:
      options: list[str] = []
      if self.answer_choices:
        text = _compiled(self.answer_choices).render(values)
        options = [_unescaped(part.strip()) for part in text.split(_PIPES)]
        values['answer_choices'] = options
      jinja = self.jinja.replace('}}', f' | string | truncate({_LONGEST}) }}}}')
      parts = _compiled(jinja).render(values).split(_PIPES)
    except jinja2.UndefinedError as error:
      raise UserError(
        f'Prompt {self.task}: {error}; the row has {", ".join(example)}.'
      ) from error
    if len(parts) < 2:
      return None
    inputs, targets = (_unescaped(part.strip()) for part in parts[:2])
    if not inputs or not targets:
      return None
    return Row(inputs, targets, tuple(options))


def read_templates(path: str, task_prefix: str) -> list[Template]:
  """Reads the prompts in a `templates.yaml`.

  Args:
    path: path of the file.
    task_prefix: start of the tasks' names, such as `super_glue_cb`.

  Raises:
    UserError: the file does not exist, or is not a file of templates.
  """
  try:
    contents = yaml.load(pathlib.Path(path).read_text('utf-8'), Loader=_Loader)
    templates = contents['templates'].values()
    return [
      Template(
        task=task_name(task_prefix, template['name']),
        name=template['name'],
        jinja=template['jinja'],
        answer_choices=template['answer_choices'],
        original_task=bool(
          (template.get('metadata') or {}).get('original_task')
        ),
      )
      for template in templates
    ]
  except FileNotFoundError as error:
    raise UserError(f'{path}: no such file of templates.') from error
  except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
    raise UserError(
      f'{path}: not a templates.yaml of promptsource ({error}).'
    ) from error


def task_name(prefix: str, name: str) -> str:
  """P3's name of the task that a prompt makes of a data set."""
  return re.sub(r'[^\w\d\._]+', '_', f'{prefix}_{name}')


class _Loader(yaml.SafeLoader):
  """Reads `!Template` and `!TemplateMetadata` as mappings."""


def _mapping(loader: Any, unused_suffix: str, node: Any) -> dict[str, Any]:
  return loader.construct_mapping(node, deep=True)


_Loader.add_multi_constructor('!Template', _mapping)


@functools.cache
def _environment() -> jinja2.Environment:
  # A missing field must be an error, and not become an empty target.
  environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
  environment.globals['zip'] = zip
  environment.filters['most_frequent'] = _most_frequent
  return environment


@functools.cache
def _compiled(jinja: str) -> jinja2.Template:
  return _environment().from_string(jinja)


def _most_frequent(items: Sequence[Any]) -> list[Any]:
  counts = Counter(items).most_common()
  return [item for item, count in counts if count == counts[0][1]]


def _escaped(value: Any) -> Any:
  if isinstance(value, str):
    return value.replace(_PIPES, _PIPES_ESCAPED)
  if isinstance(value, Mapping):
    return {name: _escaped(item) for name, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_escaped(item) for item in value]
  return value


def _unescaped(text: str) -> str:
  return text.replace(_PIPES_ESCAPED, _PIPES)
