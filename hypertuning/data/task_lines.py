"""A task as a user writes it: one line of a JSONL file, with examples."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hypertuning import text_files
from hypertuning.data import texts
from hypertuning.errors import UserError
from hypertuning.text_files import MalformedError

Example = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class TaskLine:
  """One line of a file; its errors name the file, the line and the field.

  Attributes:
    place: `file:line`, as error messages begin.
    form: what a line looks like, for error messages.
    fields: the fields of the line's object; none if it holds no object.
  """

  place: str
  form: str
  fields: Mapping[str, Any]

  def pairs(self, name: str) -> list[Example]:
    """A field with examples, as pairs of input and target; it may be missing.

    Raises:
      UserError: the field is no list of examples.
    """
    rows = self.fields.get(name, [])
    if not isinstance(rows, list) or not all(
      isinstance(row, dict)
      and isinstance(row.get('inputs'), str)
      and isinstance(row.get('targets'), str)
      for row in rows
    ):
      raise UserError(
        f'{self.place}: "{name}" must be a list of objects with the strings '
        f'"inputs" and "targets"; write {self.form}.'
      )
    inputs = self.texts(name, [row['inputs'] for row in rows])
    targets = self.texts(name, [row['targets'] for row in rows])
    return list(zip(inputs, targets, strict=True))

  def definition(self) -> str:
    """The field `definition`; '' if it is missing.

    Raises:
      UserError: the field is no string.
    """
    definition = self.fields.get('definition', '')
    if not isinstance(definition, str):
      raise UserError(
        f'{self.place}: "definition" must be a string that says what the task '
        f'is; write {{"definition": "...", {self.form[1:]}.'
      )
    return self.texts('definition', [definition])[0]

  def texts(self, name: str, values: Sequence[str]) -> list[str]:
    """Strings of a field, without halves of characters.

    Raises:
      UserError: a string has half a character.
    """
    try:
      return [texts.text(value) for value in values]
    except MalformedError as error:
      raise UserError(f'{self.place}: "{name}" {error}.') from error


def parse(path: str, number: int, line: str, form: str) -> TaskLine:
  """Parses a line.

  Args:
    path: path of the file.
    number: number of the line, counted from 1.
    line: the text of the line.
    form: what a line looks like, for error messages.

  Raises:
    UserError: the line is not JSON.
  """
  try:
    fields = text_files.parse_json(line)
  except MalformedError as error:
    raise UserError(f'{path}:{number}: {error}; write {form}.') from error
  fields = fields if isinstance(fields, dict) else {}
  return TaskLine(f'{path}:{number}', form, fields)
