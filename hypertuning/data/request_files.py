"""Tasks that a user wrote down: a JSONL file, a task of few examples a line.

{"examples": [{"inputs": "7c", "targets": "cB"}, ...], "queries": ["3c"]}
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio

from hypertuning.data import vocabularies
from hypertuning.errors import UserError

Example = tuple[str, str]
_FORM = (
  '{"examples": [{"inputs": "...", "targets": "..."}], "queries": ["..."]}'
)


@dataclasses.dataclass(frozen=True)
class Episode:
  """A task of the file, or a part of it that fits into one row of a batch.

  Attributes:
    line: number of its line, from 1.
    examples: (input, target) pairs.
    queries: inputs to answer.
  """

  line: int
  examples: Sequence[Example]
  queries: Sequence[str]


def read(path: str) -> list[Episode]:
  """The tasks of a file.

  Raises:
    UserError: no such file, not UTF-8, nothing in it, or a line of another
      form; names the file and the line.
  """
  try:
    text = pathlib.Path(path).expanduser().read_text(encoding='utf-8')
  except (FileNotFoundError, IsADirectoryError) as error:
    raise UserError(
      f'{path}: no such file; give a JSONL file of {_FORM}.'
    ) from error
  except UnicodeDecodeError as error:
    raise UserError(
      f'{path}: not UTF-8 at byte {error.start}; convert the file.'
    ) from error
  lines = list(enumerate(text.split('\n'), start=1))
  episodes = [
    _parse(path, number, line) for number, line in lines if line.strip()
  ]
  if not episodes:
    raise UserError(f'{path}: no tasks in it; write one line each: {_FORM}.')
  return episodes


def rows(episodes: Sequence[Episode], queries: int) -> Iterator[Episode]:
  """Divides tasks in rows of at most `queries` queries."""
  for episode in episodes:
    for start in range(0, len(episode.queries), queries):
      yield dataclasses.replace(
        episode, queries=episode.queries[start : start + queries]
      )


def encode(
  row: Episode, lengths: Mapping[str, Any], vocabulary: seqio.Vocabulary
) -> tuple[dict[str, np.ndarray], int]:
  """A row as model features, in the form of `fewshot.episode_features`.

  Args:
    row: at most as many queries as `lengths` has room for.
    lengths: TASK_FEATURE_LENGTHS.
    vocabulary: of inputs and targets.

  Returns:
    Model features without targets, and the number of examples left out because
    they do not fit.

  Raises:
    UserError: a query does not fit.
  """
  sep_input, sep_target = vocabularies.separators(vocabulary)
  hyper: list[int] = []
  room, kept = lengths['hyper_inputs'] - 1, 0
  for x, y in row.examples:
    shot = [sep_input, *vocabulary.encode(x), sep_target, *vocabulary.encode(y)]
    if len(shot) > room:
      continue
    if len(hyper) + len(shot) > room:
      break
    hyper += shot
    kept += 1
  count, size = lengths['inputs']
  inputs = np.zeros((count, size), np.int32)
  for i, query in enumerate(row.queries):
    tokens = [sep_input, *vocabulary.encode(query), sep_target]
    if len(tokens) > size:
      raise UserError(
        f'Line {row.line}: the query {query[:40]!r} has {len(tokens)} tokens, '
        f"but TASK_FEATURE_LENGTHS['inputs'] = {lengths['inputs']!r} has room "
        f'for {size}.'
      )
    inputs[i, : len(tokens)] = tokens
  hyper_inputs = np.zeros(lengths['hyper_inputs'], np.int32)
  hyper_inputs[: len(hyper) + 1] = [*hyper, vocabulary.eos_id]
  targets = np.zeros(lengths['targets'], np.int32)
  return {
    'hyper_tokens': hyper_inputs,
    'input_tokens': inputs,
    'target_tokens': targets,
    'target_weights': targets,
  }, len(row.examples) - kept


def _parse(path: str, number: int, line: str) -> Episode:
  try:
    task = json.loads(line)
  except json.JSONDecodeError as error:
    raise UserError(
      f'{path}:{number}: not JSON ({error.msg} at column {error.colno}); write '
      f'{_FORM}.'
    ) from error
  task = task if isinstance(task, dict) else {}
  examples, queries = task.get('examples', []), task.get('queries')
  if not isinstance(queries, list) or not all(
    isinstance(query, str) for query in queries
  ):
    raise UserError(
      f'{path}:{number}: "queries" must be a list of strings; write {_FORM}.'
    )
  if not isinstance(examples, list) or not all(
    isinstance(example, dict)
    and isinstance(example.get('inputs'), str)
    and isinstance(example.get('targets'), str)
    for example in examples
  ):
    raise UserError(
      f'{path}:{number}: "examples" must be a list of objects with the strings '
      f'"inputs" and "targets"; write {_FORM}.'
    )
  pairs = [(example['inputs'], example['targets']) for example in examples]
  return Episode(number, pairs, queries)
