"""What README.md and docs/ show works: blocks are run, parsed or dry-run."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pages
import pytest
import runner
import seqio
import tiny_runs

from hypertuning import command_line, gin_utils
from hypertuning.api import public_models
from hypertuning.data import request_files, row_files, tuning_files
from hypertuning.sweeping import expansion

ROOT = runner.ROOT
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
  'hypertuning.eval': _SMALL,
  'hypertuning.infer': _SMALL,
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
# Commands without gin files, which are run with a tiny model.
PLAIN = ('hypertuning.adapt', 'hypertuning.infer', 'hypertuning.export')
# Blocks of Python that are only compiled, by a text that is in the block.
COMPILED = {
  'transformers.DynamicCache': 'needs PyTorch; tests/exporting run it',
}
# Commands whose gin files and bindings are parsed, and no more.
PARSED = {
  'hypertuning.sweep': 'its cells are trainings; those of the page are planned',
  'hypertuning.report': 'reads a sweep of 110 minutes',
  'hypertuning.plan': 'compiles for minutes, with libtpu',
}
# Programs of which only the words are looked at.
LOOKED_AT = {
  't5x.train': 't5x is on no package index; tests/t5x run it where it is',
  'pip': 'needs the network',
  'hypertuning.serve': 'serves until a signal comes; tests/serving start it',
  'curl': 'asks a server; tests/serving/serving_page_test.py sends the same',
  'unzip': 'opens what pip would have fetched',
  'hypertuning.convert': 'needs a public model; tests/conversion run it',
  'hypertuning.benchmarks': 'takes minutes; tests/benchmarks run it',
  'hypertuning.benchmarks.adapt': 'needs a run; tests/benchmarks run it',
  'launch/quickstart.sh': 'trains for minutes',
  'launch/claims.sh': 'trains for 110 minutes',
  'launch/smollm.sh': 'evaluates for 15 minutes',
  'launch/smollm_train.sh': 'trains on a GPU; its cells are parsed',
  'launch/eval_sweep.sh': 'evaluates checkpoints of other runs',
  'launch/test.sh': 'runs these tests',
  'launch/gpu_benchmarks.sh': 'needs a GPU; its lines run in tests/launch',
}


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
  stages = [b.text for b in pages.blocks('gin') if 'STAGES =' in b.text]
  (path / 'mine.gin').write_text(stages[0])
  shots = [{'inputs': '1', 'targets': 'a'}, {'inputs': '2', 'targets': 'b'}]
  task = {'examples': shots, 'queries': ['3']}
  (path / 'tasks.jsonl').write_text(json.dumps(task))
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
  known = {*RUN_WITH, *PLAIN, *PARSED, *LOOKED_AT, 'hypertuning.tasks'}
  known |= {'launch/tpu.py'}
  programs = {c.program for c in pages.COMMANDS if c.arguments}
  programs |= {
    c.program for c in pages.COMMANDS if c.program.startswith('launch/')
  }
  assert programs <= known
  # What no page shows any more needs no entry.
  assert known <= programs


@pytest.fixture(scope='module')
def tiny_run(tmp_path_factory) -> str:
  """A run whose phi is LoRA, in place of a public model."""
  folder = tmp_path_factory.mktemp('tiny') / 'run'
  lengths = {**runner.LENGTHS, 'hyper_inputs': 128}
  return tiny_runs.make(folder, 'lora', TASK_FEATURE_LENGTHS=lengths)


def _run_python(page: pathlib.Path, model: str) -> None:
  """Runs the blocks of a page as one program.

  Args:
    page: the page.
    model: what is loaded in place of a public model.
  """
  namespace = {'__name__': 'block'}
  for block in pages.blocks('python'):
    if block.page == page:
      text = block.text
      for name in public_models.MODELS:
        text = text.replace(repr(name), repr(model))
      code = compile(text, str(page), 'exec')
      if not any(part in text for part in COMPILED):
        exec(code, namespace)


def _pages_with_python(text: str = '') -> pytest.MarkDecorator:
  """Pages with blocks of Python that hold a text."""
  found = [b.page for b in pages.blocks('python') if text in b.text]
  unique = list(dict.fromkeys(found))
  return pytest.mark.parametrize('page', unique, ids=lambda page: page.name)


@_pages_with_python()
def test_python_blocks_run(page, tiny_run, tmp_path, monkeypatch, registered):
  monkeypatch.chdir(tmp_path)
  known = set(seqio.TaskRegistry.names())
  _run_python(page, tiny_run)
  names = set(seqio.TaskRegistry.names()) - known
  for name in names:
    task = seqio.get_mixture_or_task(name)
    dataset = task.get_dataset(None, split='validation', shuffle=False)
    episode = next(dataset.as_numpy_iterator())
    assert {'hyper_inputs', 'inputs', 'targets'} <= set(episode)


@pytest.mark.slow
@_pages_with_python('hypertuning.load(')
def test_python_blocks_run_with_the_public_model(page, tmp_path, monkeypatch):
  name, model = next(iter(public_models.MODELS.items()))
  if not importlib.util.find_spec(model.module):
    pytest.skip(f'{model.package} is not installed')
  if not public_models.hypermodel(model).is_file():
    pytest.skip(f'{model.hypermodel} is not trained yet')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv(public_models.CACHE, str(tmp_path / 'cache'))
  _run_python(page, name)


@pytest.mark.parametrize(
  'block', pages.blocks('json'), ids=lambda b: b.page.name
)
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


@pytest.mark.parametrize(
  'block', pages.blocks('gin'), ids=lambda b: b.text[:24]
)
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
  chosen = [c for c in pages.COMMANDS if c.program in programs]
  return pytest.mark.parametrize('command', chosen, ids=lambda c: str(c)[:60])


def _main(
  command: pages.Command, further: list[str], monkeypatch, capfd
) -> str:
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
  for command in pages.COMMANDS:
    if command.program in RUN_WITH and command.has_gin:
      bindings = RUN_WITH[command.program]
      further = [f'--gin.{binding}' for binding in bindings]
      assert _main(command, further, monkeypatch, capfd)
  assert (folder / 'runs/mine/checkpoint_2').exists()


def _plain(page: pathlib.Path) -> list[pages.Command]:
  return [
    command
    for command in pages.commands(page)
    if command.program in PLAIN and command.arguments and not command.has_gin
  ]


@pytest.mark.parametrize(
  'page', list(filter(_plain, pages.PAGES)), ids=lambda page: page.name
)
def test_commands_without_gin_files_run(page, folder, tiny_run, capfd):
  """Those of a page in their order: one reads what another has written."""
  written = []
  for command in _plain(page):
    module = importlib.import_module(command.program)
    if command.program != 'hypertuning.export':
      short = command.program.rpartition('.')[2]
      module = importlib.import_module(f'hypertuning.shell.{short}')
    arguments = [*command.arguments, f'--model={tiny_run}']
    code = command_line.run(module.main, arguments)
    captured = capfd.readouterr()
    assert not code, captured.err
    assert captured.out
    written += re.findall(r'--output=(\S+)', str(command))
  # Another page may write files of the same names.
  for name in written:
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()


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
