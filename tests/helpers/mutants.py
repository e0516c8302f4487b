"""Makes files of rows as other tools, crashes and typing errors leave them.

A file starts as good rows. Some of its values are replaced by values that are
no text or a strange one, and then some of its bytes. The random generator that
the caller seeds decides everything.
"""

import codecs
import gzip
import json
import random

_HUGE, _DEEP, BOTTOMLESS = '@huge@', '@deep@', '@bottomless@'
# Values that `json.dumps` cannot write.
_LITERALS = {
  f'"{_HUGE}"': '9' * 5000,
  f'"{_DEEP}"': '[' * 400 + ']' * 400,
  f'"{BOTTOMLESS}"': '{"a":' * 3000 + '1' + '}' * 3000,
}
STRINGS = (
  *('', ' ', 'nan', '[', '{"a"', '"', '""', '\\', "'", '[1]', '["a", 2]'),
  *('\ufeff', '\ud83d', 'a\udc00', '\ud83d\ude00', '\u2028', '\x85', 'é' * 50),
  *('a\0', 'a\rb', 'a\r', 'a\nb', 'a\tb', '9' * 5000, 'x' * 140_000, '%s{{x}}'),
)
VALUES = (
  *(*STRINGS, _HUGE, _DEEP, BOTTOMLESS),
  *(None, True, 0, -0.0, 1.5, 10**300, 1e400, -1e400, float('nan')),
  *([], [None], [['a']], ['a', 'a'], ['a', 3], ['\ud83d', 'b'], {}, {'a': [1]}),
)
_PIECES = (
  *(b'\0', b'\0' * 40, b'\r', b'\n', b'\r\n', b'\t', b'"', b'\\', b'{', b'}'),
  *(
    b'[',
    b']',
    b':',
    b',',
    b'\xff',
    b'\xed\xa0\xbd',
    b'\xc3',
    b'NaN',
    b'1e999',
  ),
  *(
    codecs.BOM_UTF8,
    codecs.BOM_UTF16_LE,
    b'\\ud83d',
    b'\\u0000',
    b'\x1a',
    b'#',
  ),
  *(b"'", b'@', b'%', b'!', b'&a', b'*a', b'|', b'---\n', b'(', b')', b'='),
)


def value(rng: random.Random, kinds=VALUES):
  """A value that is not text, or a strange text."""
  return rng.choice(kinds)


def row(rng: random.Random, good: dict, odd: float = 0.3, kinds=VALUES) -> dict:
  """A good row; with the probability `odd`, one of its fields is replaced."""
  fields = dict(good)
  if rng.random() < odd:
    name = rng.choice(list(fields))
    if rng.random() < 0.2:
      del fields[name]
    elif isinstance(fields[name], list) and rng.random() < 0.5:
      fields[name] = [*fields[name], value(rng, kinds)]
    else:
      fields[name] = value(rng, kinds)
  return fields


def dumps(item) -> str:
  """JSON with the values that `json.dumps` cannot write."""
  text = json.dumps(item)
  for name, literal in _LITERALS.items():
    text = text.replace(name, literal)
  return text


def damaged(rng: random.Random, data: bytes, chance: float = 0.5) -> bytes:
  """The bytes of a file with faults of encoding, writing and copying."""
  while rng.random() < chance:
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((0, 1, 2, 30)))
    if rng.random() < 0.1:
      data = _recoded(rng, data)
    elif rng.random() < 0.1:
      data = data[:start]
    elif rng.random() < 0.1:
      data = data[:end] + data[start:]
    else:
      data = data[:start] + rng.choice(_PIECES) + data[end:]
  return data


def _recoded(rng: random.Random, data: bytes) -> bytes:
  text = data.decode('utf-8', 'replace')
  return rng.choice(
    (
      text.encode('utf-8-sig'),
      text.encode('utf-16'),
      codecs.BOM_UTF16_BE + text.encode('utf-16-be'),
      text.encode('utf-32'),
      text.encode('utf-16-le'),
      text.encode('latin-1', 'replace'),
      text.replace('\n', '\r\n').encode(),
      text.replace('\n', '\r').encode(),
      gzip.compress(data),
      gzip.compress(data)[:-9],
      data + b'\0' * 100,
    )
  )


def gzipped(rng: random.Random, data: bytes) -> bytes:
  """A gzip file that may be cut off, or hold damaged bytes."""
  return damaged(rng, gzip.compress(data, 1), 0.4)
