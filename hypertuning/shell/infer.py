"""Answers queries with a file of phi, or with the examples of each task.

    python -m hypertuning.infer --phi=phi.safetensors --query=fast --query=early
    python -m hypertuning.infer --phi=phi.safetensors --queries=queries.txt \\
      --output=answers.jsonl
    python -m hypertuning.infer --tasks=tasks.jsonl --output=answers.jsonl

A file of queries has one per line. A file of tasks has one task per line,
{"examples": [{"inputs": "...", "targets": "..."}], "queries": ["..."]}; a model
without a hypermodel reads the examples in its own input. Without --output,
answers are printed.

With gin files instead of these flags, the command also answers seqio tasks;
their flags follow.
"""

import json
import sys
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import tqdm

from hypertuning import files, text_files
from hypertuning.command_line import Parser
from hypertuning.data import request_files
from hypertuning.errors import UserError
from hypertuning.shell import flags

if typing.TYPE_CHECKING:
  from hypertuning.api.model import Model

Answer = dict[str, Any]


def main(arguments: Sequence[str]) -> None:
  """Runs the command.

  Args:
    arguments: arguments of the command line.

  Raises:
    UserError: a flag or a file is at fault.
  """
  options = parser().parse_args(arguments)
  output = options.output and flags.new_file(options.output, '--output')
  if bool(options.phi) == bool(options.tasks):
    raise UserError('Give --phi and queries, or --tasks.')
  if options.tasks:
    if options.query or options.queries:
      raise UserError('--tasks: its lines have the queries; give no others.')
    requests = request_files.read(options.tasks)
    model = flags.load_model(options.model or flags.DEFAULT_MODEL, options.base)
    answers = list(_to_tasks(model, requests, options.max_tokens))
  else:
    queries = [*options.query, *_queries(options.queries)]
    if not queries:
      raise UserError('--phi: give --query=TEXT or --queries=FILE as well.')
    from hypertuning.adapters import io  # imports jax

    header = io.read_header(options.phi)
    model = flags.load_model(options.model or header.model, options.base)
    phi = model.load_phi(options.phi, options.row)
    texts = model.answer(queries, phi, max_tokens=options.max_tokens)
    answers = [
      {'query': query, 'prediction': text}
      for query, text in zip(queries, texts, strict=True)
    ]
  _write(output, answers)


def parser() -> Parser:
  """The flags of the command."""
  made = Parser('hypertuning.infer', __doc__)
  made.add_argument('--phi', metavar='FILE', help='a file of adapters')
  made.add_argument(
    '--row', type=int, default=0, help='number of the phi in its file (0)'
  )
  made.add_argument('--query', action='append', default=[], metavar='TEXT')
  made.add_argument('--queries', metavar='FILE', help='one query per line')
  made.add_argument('--tasks', metavar='FILE', help='one task per line, JSONL')
  made.add_argument('--output', metavar='FILE', help='a new JSONL file')
  made.add_argument(
    '--max_tokens', type=int, help='tokens per answer (those of the training)'
  )
  flags.add_model(made, None)
  return made


def _queries(path: str | None) -> list[str]:
  """The lines of a text file; empty lines are left out."""
  if path is None:
    return []
  found = [line for _, line in text_files.lines(path, 'no such file.')]
  if not found:
    raise UserError(f'{path}: has no queries; write one per line.')
  return found


def _to_tasks(
  model: 'Model',
  requests: Sequence[request_files.Request],
  max_tokens: int | None,
) -> Iterator[Answer]:
  """The answers to each task, with phi if the model makes it."""
  bar = tqdm.tqdm(
    requests, 'answering', dynamic_ncols=True, disable=not sys.stderr.isatty()
  )
  for request in bar:
    context: dict[str, Any] = {'examples': request.examples}
    if request.examples and model.has_hypermodel:
      phi = model.adapt(request.examples, definition=request.definition)
      context = {'phi': phi}
    else:
      context['definition'] = request.definition
    texts = model.answer(request.queries, max_tokens=max_tokens, **context)
    for query, text in zip(request.queries, texts, strict=True):
      yield {'line': request.line, 'query': query, 'prediction': text}


def _write(output: str | None, answers: Sequence[Answer]) -> None:
  if output is None:
    for answer in answers:
      print(answer['prediction'])
    return
  with files.atomic_file(files.folder(output)) as temporary:
    temporary.write_text(
      ''.join(f'{json.dumps(x, ensure_ascii=False)}\n' for x in answers),
      encoding='utf-8',
    )
  print(f'{len(answers)} answers in {output}')
