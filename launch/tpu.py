#!/usr/bin/env python3
"""Trains on a TPU VM, from a laptop with gcloud: no other package is needed.

launch/tpu.py create --name=mine --zone=us-central2-b --accelerator_type=v4-64
launch/tpu.py setup --name=mine --zone=us-central2-b
launch/tpu.py start --name=mine --zone=us-central2-b --run=first -- COMMAND...

or all of it at once, again after every preemption, until COMMAND has ended:

launch/tpu.py watch --name=mine --zone=us-central2-b --accelerator_type=v4-64 \\
  --spot --run=first -- COMMAND...

COMMAND runs on every worker, in a copy of this checkout, with its Python.
--dry_run prints the commands in place of running them.
"""

import argparse
import inspect
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from typing import NoReturn

import tpu_steps as steps

_STOCKOUT = re.compile(r'capacity|stockout|RESOURCE_EXHAUSTED|"code": 8\b')
_HOPELESS = re.compile(r'PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT')
_TRIES = 5  # failures of gcloud in a row that end a watch


def create(options: steps.Options) -> None:
  """Creates a TPU VM.

  launch/tpu.py create --name=mine --zone=us-central2-b \\
    --accelerator_type=v4-64 --spot
  """
  steps.create(options)


def setup(options: steps.Options) -> None:
  """Installs HEAD of this checkout, with t5x, on every worker.

  launch/tpu.py setup --name=mine --zone=us-central2-b

  Run again, it brings the workers to the HEAD of then.
  """
  steps.pack(options)
  steps.install(options)


def start(options: steps.Options) -> None:
  """Starts a command on every worker, in the background.

  launch/tpu.py start --name=mine --zone=us-central2-b --run=first -- \\
    python -m t5x.train --gin_search_paths=. --gin_file=... \\
    --gin.MODEL_DIR="'gs://bucket/first'"

  The log and the exit code are in ~/hypertuning_runs/RUN of each worker.
  """
  steps.check_bucket(options)
  steps.start(options)


def status(options: steps.Options) -> None:
  """Says the state of the TPU VM and of the runs on its workers.

  launch/tpu.py status --name=mine --zone=us-central2-b
  """
  state = steps.state(options)
  steps.say(options, f'{options.name}: {state or "not there"}')
  if state == 'READY':
    runs = [options.run] if options.run else []
    remote = steps.on_worker('status', *runs)
    answers = steps.ask(options, remote, f'asking {options.name}')
    for host, words in sorted(answers.items()):
      for line in words:
        steps.say(options, f'{host}: {line}')


def log(options: steps.Options) -> None:
  """Prints the log of a worker, and follows it until Ctrl-C.

  launch/tpu.py log --name=mine --zone=us-central2-b --run=first --worker=3
  """
  follow = [] if options.no_follow else ['-F']
  remote = steps.on_worker('log', options.run, *follow)
  command = steps.ssh_command(options, remote, str(options.worker))
  steps.run(options, command, f'reading the log of {options.run}', stream=True)


def stop(options: steps.Options) -> None:
  """Ends a run on every worker: SIGTERM, and SIGKILL after --grace seconds.

  launch/tpu.py stop --name=mine --zone=us-central2-b --run=first
  """
  state = steps.stop(options)
  if state == 'missing' and not options.dry_run:
    raise steps.LaunchError(
      f'no run {options.run} on {options.name}: launch/tpu.py status lists them'
    )
  steps.say(options, f'{options.run}: {state}')


def delete(options: steps.Options) -> None:
  """Deletes the TPU VM, and with it all that is not in a bucket.

  launch/tpu.py delete --name=mine --zone=us-central2-b
  """
  steps.delete(options)


def watch(options: steps.Options) -> None:
  """Creates, sets up and starts what is missing, until the run has ended.

  launch/tpu.py watch --name=mine --zone=us-central2-b \\
    --accelerator_type=v4-64 --spot --run=first -- \\
    python -m t5x.train --gin_search_paths=. --gin_file=... \\
    --gin.MODEL_DIR="'gs://bucket/first'"

  After a preemption all of it is done again, and the command goes on from
  MODEL_DIR. A command that fails ends the watch. Ended itself and run again,
  it goes on watching. The TPU stays: delete it when it is of no more use.
  """
  if steps.model_bucket(options.argv) is None:
    raise steps.LaunchError(
      'watch needs a MODEL_DIR in a bucket, such as --gin.MODEL_DIR='
      '"\'gs://bucket/dir\'": what a TPU VM holds is lost with it'
    )
  steps.pack(options)
  steps.check_bucket(options)
  assume = 'absent'  # a dry run takes the TPU as absent, then the run as ended
  failures = troubles = stockouts = 0
  suspect = False
  while True:
    wait = options.poll
    try:
      seen = _look(options, assume)
      if seen == 'exit 0':
        steps.say(
          options, f'{options.run} has ended: {options.name} is still there'
        )
        return
      if seen == 'stopped':
        raise steps.LaunchError(
          f'{options.run} was stopped: `start` starts it again'
        )
      if seen.startswith('exit') and not suspect:
        # A preemption takes one worker first, and the others fail for it. Look
        # once more before the program is blamed.
        suspect = True
      elif seen.startswith('exit'):
        suspect = False
        _fail(options, seen, failures)
        failures += 1
      elif seen in ('absent', 'preempted', 'missing', 'lost'):
        suspect = False
        steps.say(options, f'{options.run} on {options.name}: {seen}')
        _bring_back(options, seen)
        assume, wait = 'exit 0', 0 if options.dry_run else wait
      troubles = stockouts = 0
    except steps.CommandError as error:
      if _STOCKOUT.search(error.stderr):
        wait = min(options.poll * 2**stockouts, 15 * options.poll)
        stockouts = min(stockouts + 1, 4)
      else:
        troubles += 1
        if troubles == _TRIES or _HOPELESS.search(error.stderr):
          raise
      steps.say(options, f'{error}: trying again in {wait:g} seconds')
    time.sleep(wait)


def _look(options: steps.Options, assume: str) -> str:
  """State of TPU and run: absent, preempted, waiting, or the run's verdict."""
  state = steps.state(options, '' if assume == 'absent' else 'READY')
  if not state:
    return 'absent'
  if state in ('PREEMPTED', 'TERMINATED'):
    return 'preempted'
  if state == 'STOPPED':
    raise steps.LaunchError(f'{options.name} is stopped: delete it first')
  if state != 'READY':
    return 'waiting'
  doing = f'asking for {options.run}'
  remote = steps.on_worker('status', options.run)
  try:
    answers = steps.ask(options, remote, doing)
  except steps.NotSetUpError:
    return 'missing'
  if options.dry_run:
    return assume
  if not answers:
    raise steps.CommandError(doing, 0, 'no worker has answered')
  return steps.verdict(answers)


def _bring_back(options: steps.Options, seen: str) -> None:
  """Brings the TPU and the run from the state `seen` back to running."""
  if seen == 'preempted':
    steps.delete(options)
  if seen in ('absent', 'preempted'):
    steps.create(options)
  if seen == 'lost':
    steps.stop(options)
  else:
    steps.install(options)
  steps.start(options)


def _fail(options: steps.Options, seen: str, failures: int) -> None:
  """Starts a failed command again, or gives up after `max_failures`."""
  steps.stop(options)  # other workers still wait for the one that failed
  if failures == options.max_failures:
    raise steps.LaunchError(
      f'{options.run} has failed ({seen}): read why with `launch/tpu.py log '
      f'--run={options.run} --no_follow`, and start it again with `start`'
    )
  steps.say(options, f'{options.run} has failed ({seen})')
  steps.start(options)


# The command line.


class _Parser(argparse.ArgumentParser):
  """Prints what is wrong in one line, and exits."""

  def error(self, message: str) -> NoReturn:
    print(
      f'{self.prog}: error: {message} (see {self.prog} --help)', file=sys.stderr
    )
    raise SystemExit(2)


def _matching(pattern: str, example: str) -> Callable[[str], str]:
  """A parser of arguments that refuses those that do not match a pattern."""

  def check(text: str) -> str:
    if not re.fullmatch(pattern, text):
      raise argparse.ArgumentTypeError(f'{text!r} is not like {example}')
    return text

  return check


def _group() -> _Parser:
  """An empty parser for options that several subcommands share."""
  return _Parser(add_help=False)


def _parser() -> _Parser:
  raw = argparse.RawDescriptionHelpFormatter
  parser = _Parser('launch/tpu.py', description=__doc__, formatter_class=raw)
  common = _group()
  for name, what in (
    ('name', 'name of the TPU VM'),
    ('zone', 'zone of the TPU VM, such as us-central2-b'),
    ('project', 'project of the TPU VM; by default that of gcloud'),
  ):
    variable = f'TPU_{name.upper()}'
    common.add_argument(
      f'--{name}',
      default=os.environ.get(variable) or None,
      type=_matching('[a-z][-a-z0-9:.]*', 'my-tpu-1'),
      help=f'{what} (or {variable} in the environment)',
    )
  common.add_argument(
    '--dry_run', action='store_true', help='print the commands, run none'
  )
  creating = _group()
  creating.add_argument(
    '--accelerator_type',
    required=True,
    type=_matching(r'[a-z0-9]+-\d+', 'v4-64, v5p-32, v5litepod-16 or v6e-8'),
    help='v4-64, v5p-32, v5litepod-16 (that is v5e), v6e-8, ...',
  )
  creating.add_argument(
    '--version',
    help='version of the runtime; by default that of the accelerator',
  )
  price = creating.add_mutually_exclusive_group()
  price.add_argument(
    '--spot', action='store_true', help='cheaper, and can be taken away'
  )
  price.add_argument(
    '--preemptible', action='store_true', help='the same, for a day at most'
  )
  sending = _group()
  sending.add_argument(
    '--allow_dirty',
    action='store_true',
    help='send HEAD although there are uncommitted changes, without them',
  )
  name_of_run = _matching('[A-Za-z0-9][A-Za-z0-9._-]*', 'first.1')
  run = _group()
  run.add_argument(
    '--run', required=True, type=name_of_run, help='the name of the run'
  )
  ending = _group()
  ending.add_argument(
    '--grace', type=int, default=60, help='seconds before SIGKILL (60)'
  )

  commands = parser.add_subparsers(
    dest='command', required=True, metavar='SUBCOMMAND'
  )

  def add(function: Callable[..., None], *parents: _Parser) -> _Parser:
    text = inspect.getdoc(function) or ''
    added = commands.add_parser(
      function.__name__,
      parents=[common, *parents],
      description=text,
      help=text.splitlines()[0],
      formatter_class=raw,
      allow_abbrev=False,
    )
    added.set_defaults(function=function, parser=added)
    return added

  add(create, creating)
  add(setup, sending)
  add(start, run)
  add(status).add_argument('--run', type=name_of_run, help='only this run')
  following = add(log, run)
  following.add_argument('--worker', type=int, default=0, help='its number (0)')
  following.add_argument(
    '--no_follow', action='store_true', help='end where the log ends now'
  )
  watching = add(watch, creating, sending, run, ending)
  watching.add_argument(
    '--poll', type=float, default=60, help='seconds between two looks (60)'
  )
  watching.add_argument(
    '--max_failures',
    type=int,
    default=0,
    help='how often a command that fails is started again (0)',
  )
  add(stop, run, ending)
  add(delete)
  return parser


def _options(arguments: list[str]) -> steps.Options:
  """Parses the command line; what follows `--` is `argv`."""
  end = arguments.index('--') if '--' in arguments else len(arguments)
  options = _parser().parse_args(arguments[:end])
  options.argv = arguments[end + 1 :]
  fail = options.parser.error
  for name in ('name', 'zone'):
    if not getattr(options, name):
      fail(f'--{name} is missing: give it, or set TPU_{name.upper()}')
  if options.command in ('start', 'watch') and not options.argv:
    fail('the command to run is missing: give it after --')
  if options.command not in ('start', 'watch') and options.argv:
    fail(f'{options.command} takes nothing after --')
  if options.command in ('create', 'watch') and not options.version:
    family = options.accelerator_type.split('-')[0]
    if family not in steps.VERSIONS:
      fail(
        f'--accelerator_type {options.accelerator_type}: give its --version, '
        f'known are {", ".join(steps.VERSIONS)}'
      )
  return options


def main(arguments: list[str] | None = None) -> int:
  """Runs a subcommand; returns the exit code."""
  options = _options(sys.argv[1:] if arguments is None else arguments)
  try:
    if not options.dry_run and not shutil.which('gcloud'):
      raise steps.LaunchError(
        'gcloud is not on PATH: install the Google Cloud CLI, and log in with '
        '`gcloud auth login`'
      )
    options.function(options)
  except (steps.LaunchError, OSError) as error:
    print(f'launch/tpu.py: error: {error}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    return 130
  return 0


if __name__ == '__main__':
  sys.exit(main())
