"""Shows the texts of a task as a model reads them, and how long they are."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio

from hypertuning.data import fewshot, lookup
from hypertuning.data import lengths as lengths_lib
from hypertuning.data.row_files import FIELDS, check
from hypertuning.data.rows import RowTask
from hypertuning.data.text_format import TextFormat, Vocabulary
from hypertuning.errors import UserError

Lengths = Mapping[str, Any]
_BINS, _BAR = 8, 40


def describe(
  name: str,
  split: str,
  count: int,
  lengths: Lengths | None = None,
  sample: int = 200,
) -> Iterator[str]:
  """Yields lines that show a task's episodes and the lengths of its features.

  Args:
    name: name of a registered task or mixture.
    split: name of a split of the task.
    count: number of episodes that are shown in full.
    lengths: value of TASK_FEATURE_LENGTHS; None cuts nothing.
    sample: number of episodes for the statistics.

  Raises:
    UserError: there is no such task or split, or the lengths leave nothing of
      its texts.
  """
  if lengths is not None:
    lengths_lib.check(lengths, binding='--lengths')
  task = lookup.get_task(name)
  text_format = lookup.format_of(task)
  episodes = lookup.episodes(name, lengths, split).take(count)
  for number, episode in enumerate(episodes.as_numpy_iterator()):
    title = _string(episode.get('task', b''))
    yield f'--- episode {number}' + (f' of {title}' if title else '')
    yield from _episode(episode, text_format)
  # Statistics are about whole texts, before anything is cut.
  whole = lookup.episodes(name, None, split).take(sample)
  sizes = _sizes(whole.as_numpy_iterator())
  yield ''
  yield from _statistics(sizes, lengths)


def describe_file(
  path: str,
  fields: Mapping[str, str],
  shots: int,
  queries: int,
  vocabulary: Vocabulary,
) -> tuple[list[str], bool]:
  """Describes a file of rows, and says whether it can be used.

  Args:
    path: path of the file.
    fields: names that fields have in the file, see `row_files.read`.
    shots: number of shots per episode that the rows must suffice for.
    queries: number of queries per episode that the rows must suffice for.
    vocabulary: vocabulary that counts the tokens.

  Returns:
    Lines of text, and whether the file can be used.

  Raises:
    UserError: the file cannot be read at all.
  """
  tasks, problems = check(path, fields, need_options=True)
  lines = [str(problem) for problem in problems]
  for name, task in tasks.items():
    different = len({row.inputs for row in task.rows})
    if different < shots + queries:
      lines.append(
        f'{path}: task {name!r} has {different} different inputs, but '
        f'{shots} shots + {queries} queries need {shots + queries}: add rows '
        'or give fewer shots.'
      )
  usable = not lines
  for name, task in tasks.items():
    lines += ['', f'task {name}: {len(task.rows)} rows']
    lines += [f'  definition: {task.definition}'] if task.definition else []
    lines += _labels(task)
    sizes = {
      field: _token_counts(
        [getattr(row, field) for row in task.rows], vocabulary
      )
      for field in ('inputs', 'targets')
    }
    lines += [f'  {line}' for line in _statistics(sizes, None)]
  return lines, usable


def parse_fields(pairs: Sequence[str]) -> dict[str, str]:
  """Parses pairs FIELD=NAME, which name the fields in a file.

  Args:
    pairs: texts of the form FIELD=NAME.

  Returns:
    A dict from fields to names.

  Raises:
    UserError: a text has another form.
  """
  fields = {}
  for pair in pairs:
    field, equals, name = pair.partition('=')
    if not equals or not name:
      raise UserError(
        f'--field {pair}: write FIELD=NAME; fields are {", ".join(FIELDS)}.'
      )
    fields[field] = name
  return fields


def _episode(
  episode: Mapping[str, Any], text_format: TextFormat
) -> Iterator[str]:
  hyper = episode['hyper_inputs']
  yield f'hypermodel reads ({_size(hyper)} tokens):'
  yield f'  {text_format.readable(hyper)}'
  pairs = zip(episode['inputs'], episode['targets'], strict=True)
  for i, (inputs, targets) in enumerate(pairs):
    yield f'query {i}: downstream reads ({_size(inputs)} tokens):'
    yield f'  {text_format.readable(inputs)}'
    mark = ''
    if 'is_correct' in episode:
      mark = ', right' if episode['is_correct'][i] else ', wrong'
    yield f'  and says ({_size(targets)} tokens{mark}):'
    yield f'  {text_format.readable(targets)}'


def _sizes(episodes: Iterator[Mapping[str, Any]]) -> dict[str, np.ndarray]:
  sizes: dict[str, list[int]] = {
    'hyper_inputs': [],
    'inputs': [],
    'targets': [],
  }
  for episode in episodes:
    sizes['hyper_inputs'].append(_size(episode['hyper_inputs']))
    for name in ('inputs', 'targets'):
      sizes[name] += [_size(row) for row in episode[name]]
  return {name: np.array(values) for name, values in sizes.items()}


def _token_counts(texts: Sequence[str], vocabulary: Vocabulary) -> np.ndarray:
  return np.array([len(vocabulary.encode(text)) for text in texts])


def _statistics(
  sizes: Mapping[str, np.ndarray], lengths: Lengths | None
) -> Iterator[str]:
  """Yields percentiles, the share that is cut, and a histogram per feature."""
  for name, values in sizes.items():
    if not len(values):
      continue
    middle, most, last = np.percentile(values, (50, 90, 99)).astype(int)
    line = (
      f'{name}: {len(values)} of {values.mean():.1f} tokens on average, '
      f'p50 {middle}, p90 {most}, p99 {last}, longest {values.max()}'
    )
    room = lengths_lib.length_of(lengths, name)
    if room is not None:
      share = 100 * np.mean(values > room)
      line += f'; {share:.1f}% are cut to {room}'
    yield line
    low, high = values.min(), values.max() + 1
    edges = np.unique(np.linspace(low, high, _BINS + 1).astype(int))
    counts, _ = np.histogram(values, bins=edges)
    for count, start, end in zip(counts, edges, edges[1:], strict=False):
      bar = '#' * int(np.ceil(_BAR * count / counts.max()))
      yield f'  {start:6} to {end - 1:<6} {bar} {count}'


def _labels(task: RowTask) -> list[str]:
  """A histogram of the targets, if they are labels."""
  targets = [row.targets for row in task.rows]
  kinds = sorted(set(targets))
  if len(kinds) > max(10, len(targets) // 10):
    return []
  counts = ', '.join(f'{kind!r} {targets.count(kind)}' for kind in kinds[:20])
  return [f'  targets: {counts}']


def _size(tokens: Any) -> int:
  return int((np.asarray(tokens) > 0).sum())


def _string(value: Any) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)


def registered() -> list[str]:
  """One line per registered task or mixture, with its splits."""
  lines = []
  for name in sorted(seqio.TaskRegistry.names()):
    task = seqio.TaskRegistry.get(name)
    kind = 'scores options' if name.endswith(fewshot.SCORE_EVAL) else 'task'
    lines.append(f'{name:40} {kind:16} {", ".join(task.splits)}')
  for name in sorted(seqio.MixtureRegistry.names()):
    mixture = seqio.MixtureRegistry.get(name)
    members = f'mixture of {len(mixture.tasks)}'
    lines.append(f'{name:40} {members:16} {", ".join(mixture.splits)}')
  return lines
