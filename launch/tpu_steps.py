"""The commands that launch/tpu.py runs, and the steps made of them.

It imports the standard library alone, as it runs on laptops.
"""

import argparse
import pathlib
import re
import shlex
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORKER = 'hypertuning/launch/tpu_worker.sh'
# Accelerator family to its runtime version, for where --version is not set.
VERSIONS = {
  'v2': 'tpu-ubuntu2204-base',
  'v3': 'tpu-ubuntu2204-base',
  'v4': 'tpu-ubuntu2204-base',
  'v5p': 'v2-alpha-tpuv5',
  'v5litepod': 'v2-alpha-tpuv5-lite',
  'v6e': 'v2-alpha-tpuv6e',
}
_ANSWER = re.compile(r'@hypertuning (\S+) (.*)')
_NOT_THERE = re.compile(r'NOT_FOUND|was not found')
Options = argparse.Namespace


class LaunchError(Exception):
  """A fault that the user can mend; the text is one line."""


class NotSetUpError(LaunchError):
  """The workers do not have the code of this checkout yet."""


class CommandError(LaunchError):
  """A command failed.

  Attributes:
    stderr: all that the command wrote to standard error.
  """

  def __init__(self, doing: str, code: int, stderr: str) -> None:
    lines = [line for line in stderr.splitlines() if re.search(r'\w', line)]
    # gcloud writes advice behind its error, so that the last line is not the
    # reason. An error that ends in `{` is JSON, whose lines follow it.
    errors = [x for x in lines if x.startswith('ERROR:') and x[-1] != '{']
    last = [f'exit code {code}', *lines, *errors][-1]
    super().__init__(f'{doing}: {last.strip()}')
    self.stderr = stderr


# Commands, as lists of arguments.


def tpu_vm(options: Options, verb: str, *arguments: str) -> list[str]:
  """`gcloud compute tpus tpu-vm VERB ...` for the TPU's zone and project."""
  project = [f'--project={options.project}'] if options.project else []
  return [
    *('gcloud', 'compute', 'tpus', 'tpu-vm', verb, *arguments),
    *(f'--zone={options.zone}', *project),
  ]


def create_command(options: Options) -> list[str]:
  """The command that creates the TPU VM, with its family's runtime."""
  family = options.accelerator_type.split('-')[0]
  kinds = [f'--{k}' for k in ('spot', 'preemptible') if getattr(options, k)]
  return tpu_vm(
    options,
    'create',
    options.name,
    f'--accelerator-type={options.accelerator_type}',
    f'--version={options.version or VERSIONS[family]}',
    *kinds,
  )


def delete_command(options: Options) -> list[str]:
  """The command that deletes the TPU VM without asking back."""
  return tpu_vm(options, 'delete', options.name, '--quiet')


def describe_command(options: Options) -> list[str]:
  """The command that prints the state of the TPU VM."""
  return tpu_vm(options, 'describe', options.name, '--format=value(state)')


def copy_command(options: Options) -> list[str]:
  """The command that copies the archive into every worker's home folder."""
  target = f'{options.name}:hypertuning.tar'
  return tpu_vm(
    options, 'scp', str(archive(options)), target, '--worker=all', '--quiet'
  )


def ssh_command(
  options: Options, remote: str, worker: str = 'all'
) -> list[str]:
  """The command that runs a line of shell on workers.

  Args:
    options: options of the subcommand.
    remote: the line of shell.
    worker: number of the worker, or `all`.
  """
  return tpu_vm(
    options,
    'ssh',
    options.name,
    f'--worker={worker}',
    f'--command={remote}',
    '--quiet',  # a first use makes a key: gcloud must not wait for an answer
  )


def on_worker(*words: str) -> str:
  """The line of shell that calls launch/tpu_worker.sh on a worker."""
  return shlex.join(['bash', WORKER, *words])


def bucket_command(options: Options, bucket: str) -> list[str]:
  """The command that lists the top of a bucket."""
  project = [f'--project={options.project}'] if options.project else []
  return ['gcloud', 'storage', 'ls', bucket, *project]


def archive(options: Options) -> pathlib.Path:
  """Path of the packed code for a TPU, in a folder that git ignores."""
  return ROOT / 'build' / f'{options.name}.tar'


def model_bucket(command: list[str]) -> str | None:
  """The bucket that MODEL_DIR of a command lies in; None if in no bucket."""
  for argument in command:
    found = re.search(r'MODEL_DIR.*?(gs://[^/\'"\s]+)', argument)
    if found:
      return found[1]
  return None


# Steps. Each runs commands, or prints them in a dry run.


def say(options: Options, text: str) -> None:
  """Prints a line; a dry run prints commands alone."""
  if not options.dry_run:
    print(text, flush=True)


def run(
  options: Options,
  command: list[str],
  doing: str,
  assume: str = '',
  stream: bool = False,
) -> str:
  """Runs a command, or prints it in a dry run.

  Args:
    options: options of the subcommand.
    command: words of the command.
    doing: what it is run for, as errors name it.
    assume: what a dry run returns.
    stream: whether standard output goes to the terminal and is not returned.

  Returns:
    Standard output of the command.

  Raises:
    LaunchError: the program is missing, or a worker reports an error.
    NotSetUpError: the worker has no code.
    CommandError: the command failed.
  """
  if options.dry_run:
    print(shlex.join(command), flush=True)
    return assume
  try:
    done = subprocess.run(
      command,
      stdin=subprocess.DEVNULL,
      stdout=None if stream else subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      errors='replace',
    )
  except FileNotFoundError as error:
    raise LaunchError(f'{doing}: {command[0]} is not on PATH') from error
  if re.search(r'tpu_worker\.sh: No such file', done.stderr):
    raise NotSetUpError(
      f'{doing}: no code on {options.name}: run `launch/tpu.py setup` first'
    )
  for host, words in _ANSWER.findall(done.stderr):
    if words.startswith('error '):
      raise LaunchError(f'{doing}: {host}: {words.removeprefix("error ")}')
  if done.returncode:
    raise CommandError(doing, done.returncode, done.stderr)
  return done.stdout or ''


def ask(options: Options, remote: str, doing: str) -> dict[str, list[str]]:
  """Runs a line of shell on all workers; gives their answers by host name."""
  output = run(options, ssh_command(options, remote), doing)
  answers: dict[str, list[str]] = {}
  for host, words in _ANSWER.findall(output):
    answers.setdefault(host, []).append(words)
  return answers


def state(options: Options, assume: str = 'READY') -> str:
  """The state of the TPU VM, '' if it does not exist; `assume` if dry."""
  doing = f'looking for {options.name}'
  try:
    return run(options, describe_command(options), doing, assume).strip()
  except CommandError as error:
    if _NOT_THERE.search(error.stderr):
      return ''
    raise


def create(options: Options) -> None:
  """Creates the TPU VM."""
  say(options, f'creating {options.name} ({options.accelerator_type})')
  run(options, create_command(options), f'creating {options.name}')


def delete(options: Options) -> None:
  """Deletes the TPU VM."""
  say(options, f'deleting {options.name}')
  run(options, delete_command(options), f'deleting {options.name}')


def pack(options: Options) -> None:
  """Packs HEAD into the archive.

  A watch packs once, so that a run gets the same code after each preemption.

  Raises:
    LaunchError: files have changed since HEAD, and `allow_dirty` is not set.
  """
  doing = 'packing the code'
  git = ['git', '-C', str(ROOT)]
  if run(options, [*git, 'status', '--porcelain'], doing).strip():
    if not options.allow_dirty:
      raise LaunchError(
        'there are uncommitted changes, and HEAD is what is sent: commit '
        'them, or leave them behind with --allow_dirty'
      )
    say(options, 'uncommitted changes stay behind: HEAD is sent')
  path = archive(options)
  if not options.dry_run:
    path.parent.mkdir(exist_ok=True)
  run(
    options,
    [*git, 'archive', '--format=tar', f'--output={path}', 'HEAD'],
    doing,
  )


def install(options: Options) -> None:
  """Installs code and packages on every worker, and looks for its TPU."""
  doing = f'setting up {options.name}'
  say(options, f'{doing}: copying the code')
  run(options, copy_command(options), doing)
  say(options, f'{doing}: installing, which takes minutes')
  unpack = (
    'rm -rf hypertuning.new && mkdir hypertuning.new'
    ' && tar -xf hypertuning.tar -C hypertuning.new'
    ' && bash hypertuning.new/launch/tpu_worker.sh setup'
  )
  ask(options, unpack, doing)
  for host, words in ask(options, on_worker('check'), doing).items():
    say(options, f'{host}: {words[-1]}')


def check_bucket(options: Options) -> None:
  """Checks that the bucket of MODEL_DIR can be read.

  Raises:
    LaunchError: it cannot.
  """
  bucket = model_bucket(options.argv)
  if bucket is None:
    return
  try:
    run(options, bucket_command(options, bucket), f'reading {bucket}')
  except CommandError as error:
    raise LaunchError(
      f'bucket {bucket} cannot be read: create it with `gcloud storage buckets '
      f'create {bucket}`, or give another MODEL_DIR ({error})'
    ) from error


def start(options: Options) -> None:
  """Starts the run's command on every worker."""
  remote = on_worker('start', options.run, *options.argv)
  doing = f'starting {options.run}'
  say(options, f'{doing} on {options.name}')
  ask(options, remote, doing)


def stop(options: Options) -> str:
  """Stops the run on every worker; returns its verdict."""
  remote = on_worker('stop', options.run, str(options.grace))
  return verdict(ask(options, remote, f'stopping {options.run}'))


def verdict(answers: dict[str, list[str]]) -> str:
  """One state of the run, from the answers of all workers.

  Args:
    answers: host name to the answers of that worker.

  Returns:
    `missing`, `stopped`, `lost` or `running`, or `exit N` if the run has ended.
  """
  states = {words[-1].split(' ', 1)[1] for words in answers.values()}
  if states <= {'missing'}:
    return 'missing'
  if 'stopped' in states:
    return 'stopped'
  # A worker that went down makes the others fail: that is not the program.
  if states & {'lost', 'missing'}:
    return 'lost'
  failed = sorted(states - {'running', 'exit 0'})
  if failed:
    return failed[0]
  return 'running' if 'running' in states else 'exit 0'
