"""Renders raw rows with P3's prompts, which are promptsource's templates.

promptsource itself needs libraries of 2022. This module follows the few rules
in its `templates.py`, and gives exactly the rows of P3, byte for byte.
"""

import dataclasses
import functools
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import yaml

from hypertuning import text_files
from hypertuning.data import texts
from hypertuning.data.rows import Row
from hypertuning.errors import UserError, one_line

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
    path: path of the file that has the prompt, for error messages.
  """

  task: str
  name: str
  jinja: str
  answer_choices: str | None = None
  original_task: bool = True
  path: str = 'templates.yaml'

  def __str__(self) -> str:
    return f'{self.path}: prompt {self.name!r}'

  def check(self) -> None:
    """Refuses a prompt that cannot be parsed.

    Raises:
      UserError: names the file and the prompt.
    """
    try:
      if self.answer_choices:
        _compiled(self.answer_choices)
      _compiled(self._main)
    except jinja2.TemplateError as error:
      raise UserError(f'{self}: {error} (task {self.task}).') from error

  @property
  def _main(self) -> str:
    return self.jinja.replace('}}', f' | string | truncate({_LONGEST}) }}}}')

  def render(self, example: Mapping[str, Any], seed: int = 0) -> Row | None:
    """Renders one raw row.

    Args:
      example: fields of the raw row.
      seed: number of the row, counted from 0. It is the seed for prompts that
        choose among wordings at random.

    Returns:
      The row, or None if the prompt renders no input or no target for it.

    Raises:
      UserError: the prompt cannot be parsed, or it fails on this row, which may
        lack a field; names the file, the prompt and the row.
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
      parts = _compiled(self._main).render(values).split(_PIPES)
    except Exception as error:  # a template is a program: it may raise anything
      reason = f'{error}' if str(error) else type(error).__name__
      raise UserError(
        f'{self}: {reason} in row {seed + 1} (task {self.task}); the row has '
        f'{", ".join(example)}.'
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
  text = text_files.read_text(path, 'no such file of templates.')
  try:
    contents = yaml.load(text, Loader=_Loader)
    templates = contents['templates'].values()
    return [
      Template(
        task=task_name(task_prefix, _string(template, 'name')),
        name=_string(template, 'name'),
        jinja=_string(template, 'jinja'),
        answer_choices=None
        if template.get('answer_choices') is None
        else _string(template, 'answer_choices'),
        original_task=bool(
          (template.get('metadata') or {}).get('original_task')
        ),
        path=path,
      )
      for template in templates
    ]
  except RecursionError as error:
    raise UserError(f'{path}: nested too deeply.') from error
  except (
    yaml.YAMLError,
    KeyError,
    TypeError,
    AttributeError,
    ValueError,  # an impossible number or date
  ) as error:
    raise UserError(
      f'{path}: not a templates.yaml of promptsource ({one_line(error)}).'
    ) from error


def _string(template: Mapping[str, Any], field: str) -> str:
  value = template[field]
  if not isinstance(value, str):
    raise TypeError(f'{field!r} must be a string, not {value!r:.40}')
  try:
    return texts.text(value)
  except text_files.MalformedError as error:
    raise TypeError(f'{field!r} {error}') from error


def task_name(prefix: str, name: str) -> str:
  """P3's name of the task that a prompt makes of a data set."""
  return re.sub(r'[^\w\d\._]+', '_', f'{prefix}_{name}')


class _Loader(yaml.SafeLoader):
  """Reads `!Template` and `!TemplateMetadata` as mappings."""

  def construct_mapping(
    self, node: yaml.MappingNode, deep: bool = False
  ) -> dict[Any, Any]:
    """Refuses a key with two values, of which YAML would take the last."""
    keys = Counter(key.value for key, _ in getattr(node, 'value', ()))
    for key, count in keys.items():
      if count > 1:
        raise yaml.constructor.ConstructorError(
          None, None, f'two values for the key {key!r}', node.start_mark
        )
    return super().construct_mapping(node, deep)


def _mapping(loader: Any, unused_suffix: str, node: Any) -> dict[str, Any]:
  return loader.construct_mapping(node, deep=True)


_Loader.add_multi_constructor('!Template', _mapping)


@functools.cache
def _environment() -> jinja2.Environment:
  # A missing field must be an error, and not become an empty target.
  environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
  environment.globals['zip'] = zip
  environment.filters['most_frequent'] = _most_frequent
  environment.filters['choice'] = random.Random(
    0
  ).choice  # `render` replaces it
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
