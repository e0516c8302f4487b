"""README.md, CONTRIBUTING.md and docs/ as blocks and command lines."""

import dataclasses
import pathlib
import re
import shlex
from collections.abc import Iterator

import runner

PAGES = [
  *(runner.ROOT / name for name in ('README.md', 'CONTRIBUTING.md')),
  *sorted((runner.ROOT / 'docs').glob('*.md')),
]
_LANGUAGES = ('python', 'json', 'gin', 'text', 'bibtex')


@dataclasses.dataclass(frozen=True)
class Block:
  """A fenced or indented block of a page."""

  page: pathlib.Path
  language: str
  text: str

  @property
  def kind(self) -> str:
    """What the block is written in."""
    if self.language in _LANGUAGES:
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

  @property
  def has_gin(self) -> bool:
    """Whether gin files configure it."""
    return any(word.startswith('--gin') for word in self.words)

  def __str__(self) -> str:
    return shlex.join(self.words)


def _read(page: pathlib.Path) -> Iterator[Block]:
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


def _parse(text: str) -> Iterator[Command]:
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


BLOCKS = [block for page in PAGES for block in _read(page)]


def blocks(kind: str) -> list[Block]:
  """The blocks of one kind, in the order of the pages."""
  return [block for block in BLOCKS if block.kind == kind]


def commands(page: pathlib.Path | None = None) -> list[Command]:
  """The command lines of a page, or of all, each of them once."""
  found = [
    command
    for block in blocks('shell')
    if page in (None, block.page)
    for command in _parse(block.text)
  ]
  return list(dict.fromkeys(found))


COMMANDS = commands()
