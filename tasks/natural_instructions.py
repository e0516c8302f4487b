"""Super-NaturalInstructions: definitions, positive examples, and more shots.

The folder is that of its repository, with `tasks/*.json` and
`splits/<track>/{train,test}_tasks.txt`. The queries of the split `test` are the
first 100 instances of every test task, which are the official ones. They are
never shown as examples.
"""

import pathlib
import random
from collections.abc import Sequence
from typing import Any

from hypertuning import text_files
from hypertuning.data import metrics, registry, sampling, texts, vocabularies
from hypertuning.data.oddities import Oddities
from hypertuning.data.rows import Row, RowTask
from hypertuning.data.text_format import TextFormat, check
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format
from hypertuning.ranges import Count, Name, Natural, Path, Shots

POSITIVES = 2  # examples of the setting "definition + 2 positive"


@takes_text_format
def natural_instructions(
  folder: Path,
  name: Name = 'natural_instructions',
  track: Name = 'default',
  setting: Name = 'def_2pos',
  shots: Shots = 4,
  queries: Count = 1,
  instances: Count = 100,
  longest: tuple[Count, Count] | None = None,
  seed: Natural = 0,
  in_context: bool = False,
  text_format: TextFormat | None = None,
) -> str:
  """Registers the tasks in a track as one seqio task, and returns its name.

  The lists of tasks and their files are only read when a split is first used.

  Args:
    folder: folder of the files, see the module.
    name: name of the seqio task.
    track: name of a folder in `splits/`.
    setting: name of the text that the hypermodel reads: `def` is the definition
      alone, `def_2pos` adds two positive examples. `def_shots` is like
      `def_2pos` in the split `test`; in `train`, it adds `shots` examples that
      are drawn from positive examples and instances. `shots` shows other
      instances of the task in both splits, without a definition; it is no
      setting of the benchmark, and is scored by exact match.
    shots: number of shots per episode in the settings `def_shots` and `shots`,
      or the least and the greatest.
    queries: number of queries per episode.
    instances: greatest number of instances per task.
    longest: greatest numbers of tokens of an input and of a target. Longer
      instances are left out, and so are tasks that have too few others. None
      leaves out none.
    seed: seed for the choice among several right outputs in `train`.
    in_context: whether to return the form in which the downstream model itself
      reads the examples.
    text_format: format of the text; T5's over bytes by default.

  Raises:
    UserError: there is no such setting.
  """
  counts = {'def': 0, 'def_2pos': POSITIVES, 'def_shots': shots, 'shots': shots}
  if setting not in counts:
    raise UserError(
      f'natural_instructions.setting = {setting!r}: give one of '
      f'{", ".join(counts)}.'
    )
  root = pathlib.Path(folder).expanduser()
  text_format = check(text_format or vocabularies.byte_format())

  def fits(row: Row) -> bool:
    parts = ((row.inputs, 'inputs'), (row.targets, 'targets'))
    return longest is None or all(
      len(text_format.encode(text, part)) <= most
      for (text, part), most in zip(parts, longest, strict=True)
    )

  def tasks(split: str) -> dict[str, RowTask]:
    row_tasks = {}
    oddities = Oddities(f'{name}, {split}')
    for task in _read_names(root / 'splits' / track / f'{split}_tasks.txt'):
      definition, positive, rows = read_task(
        root / 'tasks' / f'{task}.json', oddities, instances
      )
      if split == 'train':
        rows = [_one_output(row, seed) for row in rows]
      found, rows = len(rows), [row for row in rows if fits(row)]
      if len(rows) < sampling.least(counts[setting]) + queries < found:
        oddities.add('left out, their instances are too long', task)
        continue
      if setting == 'shots':
        row_tasks[task] = RowTask(rows)
        continue
      pool: Sequence[Row] = positive[:POSITIVES]
      if setting == 'def_shots' and split == 'train':
        pool = [*positive, *rows]
      row_tasks[task] = RowTask(rows, pool=pool, definition=definition)
    oddities.say()
    return row_tasks

  registry.add_episodes(
    name,
    {'train': lambda: tasks('train'), 'test': lambda: tasks('test')},
    {
      'train': counts[setting],
      'test': shots
      if setting == 'shots'
      else min(sampling.most(counts[setting]), POSITIVES),
    },
    queries,
    at_most=True,  # some tasks have only one positive example
    text_format=text_format,
    metric_fns=(
      metrics.exact_match if setting == 'shots' else metrics.rouge_l,
    ),
  )
  return registry.form_of(name, in_context)


def read_task(
  path: pathlib.Path, oddities: Oddities, most: int | None = None
) -> tuple[str, list[Row], list[Row]]:
  """Reads the definition, the positive examples and the instances of a task.

  Args:
    path: path of the task's file.
    oddities: counts examples and instances that are left out because their
      input or output is missing or not text.
    most: greatest number of instances that are read, from the first one; None
      reads all. No other instances replace those that are left out, because
      only the first ones are official.

  Raises:
    UserError: the file is missing or has another form; the message names it and
      the field at fault.
  """
  task = text_files.read_json(path, 'no such task; the split lists it.')
  field = 'Definition'
  try:
    definition = task[field]
    if isinstance(definition, list):
      definition = definition[0]
    definition = texts.text(definition)
    field = 'Positive Examples'
    positive, _ = _rows(f'{path}: {field}', task[field], oddities)
    field = 'Instances'
    rows, problems = _rows(f'{path}: {field}', task[field][:most], oddities)
  except (ValueError, KeyError, TypeError, IndexError) as error:
    raise UserError(
      f'{path}: not a task of Super-NaturalInstructions ({field}: '
      f'{type(error).__name__}: {error}).'
    ) from error
  if not rows:
    raise UserError(
      f'{problems[0]}.' if problems else f'{path}: "Instances" is empty.'
    )
  return definition, positive, rows


def _rows(
  place: str, examples: Sequence[Any], oddities: Oddities
) -> tuple[list[Row], list[str]]:
  """The rows of examples, and one message per example that is left out."""
  rows, problems = [], []
  for number, example in enumerate(examples, start=1):
    try:
      rows.append(_row(example))
    except ValueError as error:
      problems.append(f'{place} {number}: {error}')
  if problems:
    oddities.add('rows left out', problems[0], len(problems))
  return rows, problems


def _row(example: Any) -> Row:
  """Makes a row of an example or instance.

  Raises:
    ValueError: a text is missing or malformed; the message names the field.
  """
  if not isinstance(example, dict):
    raise ValueError('not an object')
  values = example.get('output')
  outputs = []
  for value in values if isinstance(values, list) else [values]:
    outputs.append(_text('output', value))
  if not outputs:
    raise ValueError("'output' is empty")
  return Row(
    _text('input', example.get('input')),
    outputs[0],
    references=tuple(outputs[1:]),
  )


def _text(field: str, value: Any) -> str:
  if value is None:
    raise ValueError(f'no {field!r}')
  try:
    return texts.text(value)
  except text_files.MalformedError as error:
    raise ValueError(f'{field!r} {error}') from error


def _one_output(row: Row, seed: int) -> Row:
  """A row with one of its right outputs, which depends on the seed alone."""
  rng = random.Random(f'{seed} {row.inputs}')
  return Row(row.inputs, rng.choice([row.targets, *row.references]))


def _read_names(path: pathlib.Path) -> list[str]:
  names = text_files.read_text(path, 'no such list of tasks.').split()
  if not names:
    raise UserError(f'{path}: lists no task.')
  return names
