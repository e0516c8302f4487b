"""How the library is built: who imports whom, how long files are, names.

Each list of exceptions is there to be emptied: an entry that is no longer
needed fails a test.
"""

import ast
import collections
import functools
import graphlib
import pathlib
import subprocess
import sys

import pytest
import runner

ROOT = runner.ROOT
PACKAGE = ROOT / 'hypertuning'

COMMANDS = (
  *('train', 'eval', 'infer', 'adapt', 'record'),
  *('sweep', 'report', 'plan', 'convert', 'export', 'serve'),
)
# What each module or package of the library may import of the library. Leaves
# come first; nothing imports a command, `t5x_engine`, `benchmarks` or `tasks`.
LAYERS = {
  'errors': set(),
  'paths': set(),
  'padding': set(),
  'ranges': set(),
  'hints': set(),
  'bindings': {'errors', 'hints', 'ranges'},
  'text_files': {'errors'},
  'files': {'errors'},
  'gin_effect': {'errors', 'text_files'},
  'locks': {'errors', 'files'},
  'folders': {'errors', 'files'},
  'spread': set(),
  'tables': set(),
  'quiet': {'errors', 'background'},
  'garbage': set(),
  'interrupts': set(),
  'background': set(),
  'trees': set(),
  'quantization': {'errors', 'trees'},
  'old_names': {'errors'},
  'gin_files': {'errors', 'text_files', 'old_names'},
  'gin_utils': {
    *('errors', 'files', 'text_files', 'gin_effect', 'paths', 'old_names'),
    *('gin_files', 'bindings', 'quiet', 'garbage', 'interrupts'),
  },
  'saved_config': {'files', 'gin_effect'},
  'adapters': {'ranges', 'errors', 'files', 'text_files', 'trees'},
  'networks': {'ranges', 'errors', 'padding', 'adapters', 'quantization'},
  'hypermodels': {'ranges', 'errors', 'padding', 'adapters', 'networks'},
  'blocks': set(),
  'predictions': {'trees', 'adapters', 'networks', 'padding'},
  'objectives': {'errors', 'blocks', 'predictions'},
  'data': {'ranges', 'errors', 'padding', 'text_files', 'old_names', 'files'},
  # Of data, the text's format, which needs neither TensorFlow nor seqio.
  'models': {
    'ranges',
    *('errors', 'trees', 'old_names', 'adapters', 'networks', 'objectives'),
    *('data', 'quantization', 'predictions'),
  },
  'evaluation': {
    *('errors', 'padding', 'spread', 'tables', 'adapters', 'data', 'models'),
    'networks',
  },
  'engine': {
    'ranges',
    'background',
    'tables',
    'quiet',
    'errors',
    'files',
    'saved_config',
    'quantization',
    'text_files',
    'trees',
    'adapters',
    'data',
    'models',
    'evaluation',
  },
  # Of data, a vocabulary that needs neither TensorFlow nor seqio; of engine,
  # the format of checkpoints.
  'conversion': {
    *('errors', 'files', 'text_files', 'padding', 'trees', 'networks', 'data'),
    *('engine', 'folders', 'saved_config'),
  },
  # Of engine, where checkpoints are.
  'exporting': {
    *('errors', 'files', 'folders', 'adapters', 'networks', 'conversion'),
    *('engine', 'quantization', 'saved_config'),
  },
  # Of networks, no more than `models` does: any family is loaded in one way.
  'api': {
    *('errors', 'files', 'text_files', 'trees', 'gin_utils', 'saved_config'),
    *('adapters', 'data', 'models', 'engine', 'conversion', 'exporting'),
    'folders',
  },
  'command_line': {'errors', 'quiet', 'garbage', 'interrupts'},
  # Commands without gin files.
  'shell': {
    *('errors', 'files', 'text_files', 'command_line', 'adapters', 'data'),
    'api',
  },
  'serving': {'errors', 'api'},
  'planning': {'errors', 'files', 'text_files', 'models', 'engine'},
  'sweeping': {
    *('errors', 'files', 'text_files', 'paths', 'quiet', 'gin_utils'),
    *('hints', 'ranges', 'engine', 'background'),
  },
  'reporting': {
    *('errors', 'files', 'text_files', 'spread', 'tables', 'engine'),
    'sweeping',
  },
  'benchmarks': {
    'ranges',
    *('errors', 'gin_utils', 'networks', 'data', 'models', 'engine'),
    *('planning', 'files', 'saved_config', 'padding', 'trees'),
    *('quantization', 'folders', 'tables', 'command_line', 'shell', 'api'),
    *('conversion', 'adapters', 'exporting', 'paths', 'text_files'),
  },
  'tasks': {
    'ranges',
    'quiet',
    'errors',
    'paths',
    'text_files',
    'old_names',
    'data',
  },
  't5x_engine': {
    'bindings',
    *('errors', 'trees', 'old_names', 'gin_utils', 'adapters', 'data'),
    *('models', 'engine', 'quantization'),
  },
}
_PARTS = {*LAYERS} - {'benchmarks', 'tasks', 't5x_engine'}
LAYERS |= {name: _PARTS for name in COMMANDS}

IMPORT_EXCEPTIONS = {
  ('plan', 'train'): 'it plans the very arguments of the command train',
}
# Pure JAX: a process that only makes a network need not wait for TensorFlow.
PURE = (
  *('adapters', 'networks', 'hypermodels', 'blocks', 'predictions'),
  *('objectives', 'models', 'evaluation'),
)
PURE_EXCEPTIONS: dict[str, str] = {}
_HEAVY = ('tensorflow', 'seqio', 'tensorflow_datasets')

MOST_LINES = 400

# Prepositions, adverbs and participles: a reader asks "which what?".
BANNED_NAMES = {
  *('of', 'there', 'said', 'told', 'asked', 'together', 'given', 'shown'),
}


def _part(path: pathlib.Path) -> str:
  """The module or package at the library's top that a file belongs to."""
  names = path.relative_to(ROOT).with_suffix('').parts
  return names[0] if names[0] == 'tasks' else names[1]


def _files() -> list[pathlib.Path]:
  return sorted([*PACKAGE.rglob('*.py'), *(ROOT / 'tasks').glob('*.py')])


def _imports(path: pathlib.Path) -> set[str]:
  """Full names of what a module imports, wherever in the file."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text('utf-8'))):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def _parts_imported(path: pathlib.Path) -> set[str]:
  parts = [name.split('.') for name in _imports(path)]
  ours = {names[1] for names in parts if names[0] == 'hypertuning'}
  return ours - {_part(path)}


@functools.cache
def _graph() -> dict[str, dict[str, str]]:
  """Part to the parts that it imports, each with one file that does so."""
  graph: dict[str, dict[str, str]] = collections.defaultdict(dict)
  for path in _files():
    if path == PACKAGE / '__init__.py':
      continue
    for name in _parts_imported(path):
      graph[_part(path)][name] = path.relative_to(ROOT).as_posix()
  return graph


def test_every_part_has_its_place_in_the_table():
  parts = {_part(p) for p in _files() if p != PACKAGE / '__init__.py'}
  assert parts == set(LAYERS)


@pytest.mark.parametrize('part', LAYERS)
def test_a_part_imports_only_what_it_may(part):
  for name, path in _graph()[part].items():
    allowed = LAYERS[part] | {b for a, b in IMPORT_EXCEPTIONS if a == part}
    assert name in allowed, f'{path} imports {name}'


def test_the_table_has_no_circle():
  list(graphlib.TopologicalSorter(LAYERS).static_order())


def test_exceptions_of_imports_are_needed():
  graph = _graph()
  for (part, name), reason in IMPORT_EXCEPTIONS.items():
    assert reason
    assert name in graph[part], f'take ({part}, {name}) out of the exceptions'


def test_one_module_parses_json():
  """So that every reader knows what other tools write, and names the place."""
  # The second reads lines of its own making.
  own = {'hypertuning/text_files.py', 'hypertuning/engine/summaries.py'}
  parsers = {
    path.relative_to(ROOT).as_posix()
    for path in _files()
    for node in ast.walk(ast.parse(path.read_text('utf-8')))
    if isinstance(node, ast.Attribute) and node.attr in ('loads', 'JSONDecoder')
  }
  assert parsers == own


def test_only_the_engine_of_t5x_imports_t5x():
  for path in _files():
    tops = {name.split('.')[0] for name in _imports(path)}
    if path != PACKAGE / 't5x_engine.py':
      assert 't5x' not in tops, path


def test_networks_and_tables_do_without_gin():
  """gin configures classes from outside; reports need no jax either."""
  for path in _files():
    tops = {name.split('.')[0] for name in _imports(path)}
    if _part(path) in PURE:
      assert 'gin' not in tops, path
    if _part(path) == 'reporting':
      assert not tops & {'gin', 'jax', 'flax', *_HEAVY}, path


@pytest.fixture(scope='module')
def loaded_with() -> dict[str, list[str]]:
  """Part to the heavy packages loaded once it and those before it are."""
  code = 'import sys, importlib\n'
  for part in PURE:
    modules = [
      '.'.join(path.relative_to(ROOT).with_suffix('').parts)
      for path in _files()
      if _part(path) == part
    ]
    code += (
      f'for m in {modules}: importlib.import_module(m)\n'
      f'print({part!r}, *(m for m in {_HEAVY} if m in sys.modules))\n'
    )
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=runner.environment(),
    capture_output=True,
    text=True,
    check=True,
  )
  lines = [line.split() for line in done.stdout.splitlines()]
  return {part: heavy for part, *heavy in lines}


@pytest.mark.parametrize('part', PURE)
def test_networks_load_without_tensorflow(part, loaded_with):
  """In a process of its own: what other packages import counts too."""
  assert bool(loaded_with[part]) == (part in PURE_EXCEPTIONS), loaded_with


def test_no_file_is_long():
  lines = {
    path.relative_to(ROOT).as_posix(): len(path.read_text('utf-8').splitlines())
    for path in _files()
  }
  long = {name for name, count in lines.items() if count > MOST_LINES}
  assert not long


def test_files_of_tests_have_names_of_their_own():
  """Folders of tests are no packages: pytest takes the second for the first."""
  files = [path.name for path in (ROOT / 'tests').rglob('*.py')]
  names = collections.Counter(name for name in files if name != 'conftest.py')
  assert not [name for name, count in names.items() if count > 1]


def _names(tree: ast.AST) -> set[str]:
  """Names of variables, arguments, fields and functions of a module."""
  names = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      names.add(node.id)
    elif isinstance(node, ast.arg):
      names.add(node.arg)
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
      names.add(node.name)
  return names


def test_names_are_nouns_and_verbs():
  paths = [*_files(), *sorted((ROOT / 'launch').glob('*.py'))]
  unclean = {}
  for path in paths:
    banned = _names(ast.parse(path.read_text('utf-8'))) & BANNED_NAMES
    if banned:
      unclean[path.relative_to(ROOT).as_posix()] = banned
  assert not unclean
