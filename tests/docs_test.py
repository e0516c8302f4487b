"""docs/: what its pages name exists, and tests name only what they have."""

import ast
import re

import pytest
import runner

ROOT = runner.ROOT
PITFALLS = (ROOT / 'docs/pitfalls.md').read_text('utf-8')
TESTS = sorted((ROOT / 'tests').rglob('*_test.py'))
_REFERENCE = re.compile(r'\bpitfalls? ((?:\d+)(?:(?:, | and )\d+)*)', re.I)


def _numbers(text: str) -> set[int]:
  """Numbers of pitfalls that a text names."""
  text = re.sub(r'\s+', ' ', text)
  found = _REFERENCE.findall(text)
  return {int(number) for part in found for number in re.findall(r'\d+', part)}


def _listed() -> dict[int, str]:
  """Each pitfall of the page, by its number."""
  parts = re.split(r'^(\d+)\. ', PITFALLS, flags=re.MULTILINE)[1:]
  numbers, texts = map(int, parts[::2]), parts[1::2]
  return dict(zip(numbers, texts, strict=True))


def _functions(source: str) -> set[str]:
  nodes = ast.walk(ast.parse(source))
  return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_pitfalls_are_numbered_and_each_has_tests_or_says_that_it_has_none():
  listed = _listed()
  assert list(listed) == list(range(1, len(listed) + 1))
  for number, text in listed.items():
    assert ('_test.py::test_' in text) != ('- no test yet' in text), number


def test_tests_that_the_list_of_pitfalls_names_exist():
  named = re.findall(r'`(tests/[\w/]+\.py)::(\w+)`', PITFALLS)
  assert named
  for path, name in named:
    assert name in _functions((ROOT / path).read_text('utf-8')), (path, name)


@pytest.mark.parametrize(
  'path', [p for p in TESTS if p.name != 'docs_test.py'], ids=lambda p: p.name
)
def test_pitfalls_that_a_test_names_are_listed(path):
  source = path.read_text('utf-8')
  numbers = _numbers(source)
  assert numbers <= set(_listed())
  if numbers:
    assert 'docs/pitfalls.md' in source, 'say where the numbers are from'


def test_pitfalls_of_a_test_list_it():
  """A function that names a number stands under that number in the page."""
  listed = _listed()
  for path in TESTS:
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
      if isinstance(node, ast.FunctionDef) and node.name.startswith('test_'):
        for number in _numbers(ast.get_docstring(node) or ''):
          where = f'{path.relative_to(ROOT).as_posix()}::{node.name}'
          assert f'`{where}`' in listed[number], (number, where)


@pytest.mark.parametrize(
  'page', sorted((ROOT / 'docs').glob('*.md')), ids=lambda p: p.name
)
def test_files_that_a_page_names_exist(page):
  text = page.read_text('utf-8')
  for name in re.findall(r'`((?:hypertuning|tasks|gin|docs)/[\w/.]+)`', text):
    assert (ROOT / name).exists(), name


def test_names_that_the_vocabulary_places_exist():
  """`file.py` (`Name`, ...): each name is defined in that file."""
  text = (ROOT / 'docs/vocabulary.md').read_text('utf-8')
  named = re.findall(r'`([\w/]+\.py)`\s+\(([^)]*)\)', text)
  assert named
  for path, names in named:
    source = (ROOT / path).read_text('utf-8')
    for name in re.findall(r'`(\w+)', names):
      assert re.search(rf'\b{name}\b', source), (path, name)
