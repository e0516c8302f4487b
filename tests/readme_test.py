"""What README.md and docs/ show works: blocks are run, parsed or dry-run."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
import runner
import seqio

from hypertuning import gin_utils
from hypertuning.data import request_files, row_files, tuning_files
from hypertuning.sweeping import expansion

ROOT = runner.ROOT
PAGES = [
  *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md')),
  *sorted((ROOT / 'docs').glob('*.md')),
]
_TRAIN_FILES = (
  'gin/models/hyper_t5_prefix.gin',
  'gin/models/sizes/tiny.gin',
  'gin/optimizers/adamw.gin',
  'gin/local/train.gin',
)
# What stands before a gin block of the pages, by a text that is in the block.
GIN_CONTEXT = {
  'own.task_file': _TRAIN_FILES,
  'STAGES =': ('gin/sweeps/sweep.gin',),
  'GIN_FILES =': ('gin/sweeps/eval.gin',),
  'report.report': (),
}
# Sizes at which a step compiles in seconds.
_SMALL = tuple(
  f'{name}={value}'
  for name, value in runner.SMALL.items()
  if isinstance(value, int)
)
# Commands that are run as they stand but for these flags, which make them short
# or give them the checkpoint that the first of them has written.
RUN_WITH = {
  'hypertuning.train': (
    *_SMALL,
    *('TRAIN_STEPS=2', 'WARMUP_STEPS=1', 'EVAL_PERIOD=0'),
  ),
  'hypertuning.record': ('RECORD_STEPS=2',),
  'hypertuning.benchmarks.input_pipeline': (
    *_SMALL,
    *('ROUNDS=1', 'BATCHES_A_ROUND=2', 'STEPS_A_ROUND=1'),
  ),
  'hypertuning.benchmarks.query_cost': (
    *_SMALL,
    *("CHECKPOINT_PATH='runs/mine'", 'ROUNDS=1', 'CALLS_A_ROUND=1'),
  ),
}
# Commands whose gin files and bindings are parsed, and no more.
PARSED = {
  'hypertuning.sweep': 'its cells are trainings; those of the page are planned',
  'hypertuning.report': 'reads a sweep of 110 minutes',
  'hypertuning.plan': 'compiles for minutes, with libtpu',
  'hypertuning.benchmarks.decode': 'needs transformers; takes minutes',
}
# Programs of which only the words are looked at.
LOOKED_AT = {
  't5x.train': 't5x is on no package index; tests/t5x run it where it is',
  'pip': 'needs the network',
  'unzip': 'opens what pip would have fetched',
  'hypertuning.convert': 'needs a public model; tests/conversion run it',
  'launch/quickstart.sh': 'trains for minutes',
  'launch/claims.sh': 'trains for 110 minutes',
  'launch/smollm.sh': 'evaluates for 15 minutes',
  'launch/eval_sweep.sh': 'evaluates checkpoints of other runs',
  'launch/test.sh': 'runs these tests',
}
# Python blocks that other tests run, by a text that is in the block.
RUN_ELSEWHERE = {'transformers.DynamicCache': 'tests/exporting/prefix_test.py'}


@dataclasses.dataclass(frozen=True)
class Block:
  """A fenced or indented block of a page."""

  page: pathlib.Path
  language: str
  text: str

  @property
  def kind(self) -> str:
    """What the block is written in."""
    if self.language in ('python', 'json', 'gin', 'text'):
      return self.language
    if self.text.startswith('{'):
      return 'json'
    is_gin = '__gin__' in self.text or re.match(r'[A-Z_]+ = ', self.text)
    return 'gin' if is_gin else 'shell'


@dataclasses.dataclass(frozen=True)
class Command:
  """One command line: environment, program and its arguments."""

  environment: tuple[str, ...]
  words: tuple[str, ...]

  @property
  def program(self) -> str:
    """The module of `python -m`, or the first word."""
    is_module = self.words[:2] == ('python', '-m')
    return self.words[2] if is_module else self.words[0]

  @property
  def arguments(self) -> list[str]:
    """The words behind the program."""
    return list(self.words[self.words.index(self.program) + 1 :])

  def __str__(self) -> str:
    return shlex.join(self.words)


def _blocks(page: pathlib.Path) -> Iterator[Block]:
  text = page.read_text('utf-8')
  fence = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
  for language, body in fence.findall(text):
    yield Block(page, language, body)
  rest = fence.sub('', text)
  for body in re.findall(r'(?<=\n\n)((?:    .*\n)+)', rest):
    yield Block(page, '', re.sub(r'^    ', '', body, flags=re.MULTILINE))
  # Commands within a sentence, over the end of a line or not.
  spans = re.findall(r'`((?:[A-Z]+=\S+ )?(?:python|launch/)[^`]+)`', rest)
  for span in spans:
    if re.match(r'([A-Z]+=\S+ )?(python -m hypertuning|launch/\w+\.\w+)', span):
      yield Block(page, 'shell', ' '.join(span.split()))


def _commands(text: str) -> Iterator[Command]:
  exported: list[str] = []
  for line in text.replace('\\\n', ' ').splitlines():
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), '&&']:
      if word != '&&':
        words.append(word)
        continue
      if words[:1] == ['export']:
        exported += words[1:]
      elif words:
        start = next(i for i, w in enumerate(words) if not _is_setting(w))
        environment = (*exported, *words[:start])
        yield Command(environment, tuple(words[start:]))
      words = []


def _is_setting(word: str) -> bool:
  return bool(re.match(r'[A-Z_]+=', word))


BLOCKS = [block for page in PAGES for block in _blocks(page)]
COMMANDS = list(
  dict.fromkeys(
    command
    for block in BLOCKS
    if block.kind == 'shell'
    for command in _commands(block.text)
  )
)


def _of_kind(kind: str) -> list[Block]:
  return [block for block in BLOCKS if block.kind == kind]


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Iterator[pathlib.Path]:
  """A working directory with the files that the pages speak of."""
  path = tmp_path_factory.mktemp('reader')
  for name, first in (('mine', 0), ('others', 10)):
    rows = [
      {
        'inputs': f'Is {n} even?',
        'targets': ('yes', 'no')[n % 2],
        'options': ['yes', 'no'],
      }
      for n in range(first, first + 10)
    ]
    text = '\n'.join(json.dumps(values) for values in rows)
    (path / f'{name}.jsonl').write_text(text)
  stages = [b.text for b in _of_kind('gin') if 'STAGES =' in b.text]
  (path / 'mine.gin').write_text(stages[0])
  before = os.getcwd()
  os.chdir(path)
  yield path
  os.chdir(before)


@pytest.fixture
def registered() -> Iterator[None]:
  """Takes what a test registers with seqio out of it again."""
  registries = (seqio.TaskRegistry, seqio.MixtureRegistry)
  names = [set(registry.names()) for registry in registries]
  yield
  for registry, known in zip(registries, names, strict=True):
    for name in set(registry.names()) - known:
      registry.remove(name)


def test_every_program_of_the_pages_is_known():
  known = {*RUN_WITH, *PARSED, *LOOKED_AT, 'hypertuning.tasks'}
  known |= {'launch/tpu.py'}
  programs = {c.program for c in COMMANDS if c.arguments}
  programs |= {c.program for c in COMMANDS if c.program.startswith('launch/')}
  assert programs <= known
  # What no page shows any more needs no entry.
  assert known <= programs


@pytest.mark.parametrize('block', _of_kind('python'), ids=lambda b: b.page.name)
def test_python_blocks_run(block, folder, registered):
  for text, path in RUN_ELSEWHERE.items():
    if text in block.text:
      assert text in (ROOT / path).read_text('utf-8')
      return
  known = set(seqio.TaskRegistry.names())
  exec(compile(block.text, str(block.page), 'exec'), {'__name__': 'block'})
  names = set(seqio.TaskRegistry.names()) - known
  for name in names:
    task = seqio.get_mixture_or_task(name)
    dataset = task.get_dataset(None, split='validation', shuffle=False)
    episode = next(dataset.as_numpy_iterator())
    assert {'hyper_inputs', 'inputs', 'targets'} <= set(episode)


@pytest.mark.parametrize('block', _of_kind('json'), ids=lambda b: b.page.name)
def test_json_blocks_are_rows_or_requests(block, folder):
  lines = block.text.replace(', ...', '').splitlines()
  for line in lines:
    fields = json.loads(line)
    path = folder / 'block.jsonl'
    path.write_text(line)
    reader = row_files
    if 'queries' in fields:
      reader = request_files
    elif 'test' in fields:
      reader = tuning_files
    assert reader.read(str(path))


@pytest.mark.parametrize('block', _of_kind('gin'), ids=lambda b: b.text[:24])
def test_gin_blocks_parse(block, folder):
  contexts = [
    files for text, files in GIN_CONTEXT.items() if text in block.text
  ]
  assert contexts, 'say in GIN_CONTEXT what stands before this block'
  path = folder / 'block.gin'
  path.write_text(block.text)
  needed = ["SWEEP_DIR = 'sweep'"]
  if contexts[0] is _TRAIN_FILES:
    lengths = f'TASK_FEATURE_LENGTHS = {runner.LENGTHS}'
    needed = ["MODEL_DIR = 'run'", 'TRAIN_STEPS = 100', lengths]
  gin_utils.parse([*contexts[0], str(path)], needed)
  if 'sweeps' in ''.join(contexts[0]):
    _check_sweep(folder)


def _check_sweep(folder: pathlib.Path) -> None:
  """The sweep that gin holds has cells."""
  from hypertuning import sweep

  bound = gin_utils.arguments(sweep.sweep)
  stages, axes = bound['stages'], bound.get('axes') or {}
  assert expansion.expand(str(folder / 'planned'), stages, axes)


def _selected(*programs: str) -> pytest.MarkDecorator:
  chosen = [c for c in COMMANDS if c.program in programs]
  return pytest.mark.parametrize('command', chosen, ids=lambda c: str(c)[:60])


def _main(command: Command, further: list[str], monkeypatch, capfd) -> str:
  """Runs an entry point in this process; gives what it prints."""
  source = (ROOT / command.program.replace('.', '/')).with_suffix('.py')
  function = re.search(
    r"gin_utils\.run\(\s*'[^']+', '(\w+)'", source.read_text()
  )
  assert function, source
  argv = [command.program, *command.arguments, *further]
  monkeypatch.setattr(sys, 'argv', argv)
  capfd.readouterr()
  with pytest.raises(SystemExit) as stop:
    gin_utils.run(command.program, function[1])
  captured = capfd.readouterr()
  assert not stop.value.code, captured.err
  return captured.out


@pytest.mark.slow
def test_commands_run(folder, monkeypatch, capfd):
  """In the order of the page: training first, which another starts from."""
  for command in COMMANDS:
    if command.program in RUN_WITH and command.arguments:
      bindings = RUN_WITH[command.program]
      further = [f'--gin.{binding}' for binding in bindings]
      assert _main(command, further, monkeypatch, capfd)
  assert (folder / 'runs/mine/checkpoint_2').exists()


@_selected('hypertuning.tasks')
def test_task_commands_run(command, folder, capfd):
  from hypertuning.tasks import __main__ as tasks_main

  assert tasks_main.main(command.arguments) == 0
  assert capfd.readouterr().out


@_selected(*PARSED)
def test_other_commands_parse(command, folder):
  assert importlib.util.find_spec(command.program)
  files, bindings = [], []
  for argument in command.arguments:
    name, _, value = argument.partition('=')
    if name == '--gin_file':
      files.append(value)
    elif name.startswith('--gin.'):
      bindings.append(argument.removeprefix('--gin.'))
  if files:
    gin_utils.parse(files, bindings)
  if files and command.program == 'hypertuning.sweep':
    _check_sweep(folder)


@_selected('launch/tpu.py')
def test_launcher_commands_run_dry(command, folder):
  verb, *rest = command.arguments
  done = subprocess.run(
    [sys.executable, ROOT / 'launch/tpu.py', verb, '--dry_run', *rest],
    env={**os.environ, **dict(x.split('=', 1) for x in command.environment)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert 'gcloud compute tpus tpu-vm' in done.stdout


@_selected(*LOOKED_AT)
def test_files_of_other_commands_exist(command):
  if command.program.startswith('launch/'):
    script = ROOT / command.program
    assert os.access(script, os.X_OK)
    subprocess.run(['bash', '-n', script], check=True)
  for argument in command.arguments:
    name = argument.removeprefix('--gin_file=')
    if name.startswith(('gin/', 'tests/', 'launch/')):
      assert (ROOT / name).exists(), name
    extras = re.fullmatch(r'\.\[([\w,]+)\]', argument)
    for extra in extras[1].split(',') if extras else ():
      assert f"'{extra}': [" in (ROOT / 'setup.py').read_text(), extra
