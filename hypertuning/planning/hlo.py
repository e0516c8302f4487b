"""Counts the bytes that a compiled program moves, from its HLO text.

XLA's own cost analysis counts the body of a loop once. Here, the program is
followed from its entry, and a body counts as often as its loop runs.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

_COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'collective-permute',
  'all-to-all',
  'ragged-all-to-all',
)
# Instructions that move no bytes: they name values that lie elsewhere, or only
# call other computations.
_FREE = (
  'parameter',
  'constant',
  'tuple',
  'get-tuple-element',
  'bitcast',
  'while',
  'conditional',
  'call',
  'after-all',
  'partition-id',
  'opt-barrier',
)
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*)$')
_ARRAY = re.compile(r'\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](\{[^}]*\})?')
_CALLEES = re.compile(
  r'(?:calls|body|to_apply|branch_computations)=\{?([^,}]+)'
)


@dataclasses.dataclass(frozen=True)
class _Instruction:
  name: str
  type: str
  opcode: str
  operands: tuple[str, ...]
  rest: str  # all after the opcode
  is_root: bool

  def sizes(self) -> list[int]:
    """Bytes of every array of the result."""
    return [_bytes(dtype, shape) for dtype, shape, _ in self._arrays()]

  def in_memory(self) -> list[int]:
    """Bytes of every array of the result; 0 for arrays outside main memory."""
    return [
      0 if 'S(' in layout else _bytes(dtype, shape)
      for dtype, shape, layout in self._arrays()
    ]

  def _arrays(self) -> list[tuple[str, str, str]]:
    return _ARRAY.findall(self.type)

  def attribute(self, name: str) -> str | None:
    """The value of an attribute, such as the `body` of a `while`."""
    match = re.search(rf'\b{name}=%?([\w.\-]+)', self.rest)
    return match[1] if match else None


_Computations = Mapping[str, Sequence[_Instruction]]


def collective_bytes(text: str, waited: bool = False) -> dict[str, int]:
  """The bytes that each device receives from others, by kind of collective.

  Rings of devices are assumed. A device then receives every byte of an array
  that is gathered, permuted or scattered, and each byte of an array that an
  all-reduce sums twice.

  Args:
    text: text of one device's program, from `compiled.as_text()`.
    waited: whether only collectives count beside which nothing is computed:
      those that are neither started ahead nor part of a fusion.

  Returns:
    A dict from the kind of collective, such as `all-gather`, to the number of
    bytes per device and step.
  """
  computations, entry = _parse(text)
  bytes_by_kind: collections.Counter[str] = collections.Counter()
  counted_channels = set()
  for instruction, times, computation in _follow(
    computations, entry, fused=not waited
  ):
    kind = instruction.opcode
    if not waited:
      kind = kind.removesuffix('-start')
    if kind not in _COLLECTIVES:
      continue
    # v5e's compiler repeats a gather in several computations that share it.
    channel = instruction.attribute('channel_id')
    if channel is not None:
      if (channel, kind) in counted_channels:
        continue
      counted_channels.add((channel, kind))
    size = _transferred(instruction, computations[computation])
    bytes_by_kind[kind] += times * size * (2 if kind == 'all-reduce' else 1)
  return dict(bytes_by_kind)


def _transferred(
  instruction: _Instruction, computation: Sequence[_Instruction]
) -> int:
  """The bytes of a collective's operands or its results, whichever are more."""
  sizes = instruction.sizes()
  if instruction.opcode.endswith('-start') and len(sizes) > 1:
    # The result of a `-start` is (operands, results, flags).
    return max(sizes) if len(sizes) <= 4 else sum(sizes) // 2
  results = sum(sizes)
  names = set(instruction.operands)
  operands = sum(sum(i.sizes()) for i in computation if i.name in names)
  return max(results, operands)


def memory_bytes(text: str) -> int:
  """The bytes that one device's kernels read from and write to its memory.

  Each kernel is assumed to read every operand once, and to write every result
  once. Arrays that the compiler keeps on the chip do not count. Of an array
  that is sliced or updated, only the slice counts. This is an estimate: the
  text does not show whether a kernel reads an operand twice, or not at all.

  Args:
    text: text of one device's program, from `compiled.as_text()`.
  """
  computations, entry = _parse(text)
  indexed = {
    name: {i.name: i for i in body} for name, body in computations.items()
  }
  total = 0
  for instruction, times, computation in _follow(
    computations, entry, fused=False
  ):
    opcode = instruction.opcode
    if opcode in ('copy-start', 'slice-start'):
      # A copy between memory and the chip moves as many bytes as the smaller
      # of its operand and its result has. The larger one is the array that a
      # part is cut from or put into.
      total += times * min(instruction.sizes()[:2])
    elif opcode not in _FREE and not opcode.endswith('-done'):
      for name in dict.fromkeys(instruction.operands):
        operand = indexed[computation].get(name)
        size = sum(operand.in_memory()) if operand else 0
        if size:
          total += times * min(
            size, _read_bytes(name, size, [instruction], indexed)
          )
      total += times * _written_bytes(
        instruction, indexed[computation], indexed
      )
  return total


def _read_bytes(
  name: str,
  size: int,
  users: Iterable[_Instruction],
  indexed: Mapping[str, Mapping[str, _Instruction]],
) -> int:
  """The bytes of one operand that kernels read.

  Args:
    name: name of the operand.
    size: size of the operand in bytes, which the result does not exceed.
    users: instructions that may use the operand; others are skipped.
    indexed: maps the name of each computation to its instructions by name.
  """
  total = 0
  for user in users:
    if name not in user.operands or total >= size:
      continue
    fused = indexed.get(user.attribute('calls') or '')
    if fused:
      number = user.operands.index(name)
      for inner in fused.values():
        if inner.rest.startswith(f'parameter({number})'):
          total += _read_bytes(inner.name, size, fused.values(), indexed)
    elif user.opcode == 'bitcast':
      siblings = next((b for b in indexed.values() if user.name in b), {})
      total += _read_bytes(user.name, size, siblings.values(), indexed)
    elif user.opcode in ('dynamic-slice', 'gather', 'slice'):
      total += sum(user.sizes())
    elif user.opcode != 'dynamic-update-slice' or user.operands[0] != name:
      total += size
  return min(total, size)


def _written_bytes(
  kernel: _Instruction,
  siblings: Mapping[str, _Instruction],
  indexed: Mapping[str, Mapping[str, _Instruction]],
) -> int:
  """The bytes that a kernel writes; of an update in place, only the update."""
  body = indexed.get(kernel.attribute('calls') or '')
  roots = [kernel]
  if body:
    siblings = body
    roots = [next(i for i in body.values() if i.is_root)]
    if roots[0].opcode == 'tuple':
      roots = [body[name] for name in roots[0].operands]
  total = 0
  results = kernel.in_memory()
  for number, size in enumerate(results):
    root = roots[number] if len(roots) == len(results) else kernel
    while root.opcode == 'bitcast' and root.operands[0] in siblings:
      root = siblings[root.operands[0]]
    if root.opcode == 'dynamic-update-slice':
      size = min(size, sum(siblings[root.operands[1]].sizes()))
    total += size
  return total


def _follow(
  computations: _Computations, name: str, times: int = 1, fused: bool = True
) -> Iterator[tuple[_Instruction, int, str]]:
  """Follows a program in the order in which it runs.

  Args:
    computations: all computations of the program, by name.
    name: name of the computation that is followed first.
    times: number of times that this computation runs.
    fused: whether calls of fusions and reductions are followed as well.

  Yields:
    Each instruction, how often it runs, and the name of its computation.
  """
  for instruction in computations[name]:
    yield instruction, times, name
    if instruction.opcode == 'while':
      body = instruction.attribute('body') or ''
      condition = instruction.attribute('condition') or ''
      if body in computations and condition in computations:
        trips = _trips(instruction, computations[condition], computations[body])
        yield from _follow(computations, body, times * trips, fused)
      continue
    if instruction.opcode in ('fusion', 'reduce') and not fused:
      continue
    for group in _CALLEES.findall(instruction.rest):
      for callee in group.replace('%', '').split(','):
        if callee.strip() in computations:
          yield from _follow(computations, callee.strip(), times, fused)


def _trips(
  loop: _Instruction,
  condition: Sequence[_Instruction],
  body: Sequence[_Instruction],
) -> int:
  """The number of times that a loop runs its body.

  The loop counts from 0: its condition compares a counter with a constant, and
  its body adds a step to the counter. The step is 2 if the compiler has
  unrolled the loop once.
  """
  known_count = re.search(r'known_trip_count[^\d]*(\d+)', loop.rest)
  if known_count:
    return int(known_count[1])
  bounds = [c for c in map(_constant, condition) if c is not None]
  if not bounds:
    return 1
  return math.ceil(max(bounds) / _step(condition, body))


def _step(
  condition: Sequence[_Instruction], body: Sequence[_Instruction]
) -> int:
  """The number that a loop's body adds to its counter; 1 if it is not found."""
  by_name = {i.name: i for i in body}
  roots = [i for i in body if i.is_root]
  for counter in condition:
    index = counter.attribute('index')
    if counter.opcode != 'get-tuple-element' or index is None or not roots:
      continue
    if int(index) >= len(roots[0].operands):
      continue
    following = by_name.get(roots[0].operands[int(index)])
    if following is None or following.opcode != 'add':
      continue
    steps = [
      step
      for name in following.operands
      if name in by_name and (step := _constant(by_name[name])) is not None
    ]
    if steps:
      return max(steps[0], 1)
  return 1


def _constant(instruction: _Instruction) -> int | None:
  value = re.match(r'constant\((\d+)\)', instruction.rest)
  is_counter = re.match(r'[su]32\[\]', instruction.type)
  return int(value[1]) if value and is_counter else None


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
  """The computations of a program by name, and the name of the entry."""
  computations: dict[str, list[_Instruction]] = {}
  entry, current = '', ''
  for line in text.splitlines():
    header = _HEADER.match(line)
    if header:
      current = header[2]
      computations[current] = []
      entry = current if header[1] else entry
      continue
    match = _INSTRUCTION.match(line)
    if match and current:
      computations[current].append(_instruction(match))
  return computations, entry


def _instruction(match: re.Match) -> _Instruction:
  type_, rest = _split_type(match[3])
  opcode, _, arguments = rest.partition('(')
  operands = _until_closed(arguments)
  return _Instruction(
    name=match[2],
    type=type_,
    opcode=opcode,
    operands=tuple(re.findall(r'%([\w.\-]+)', operands)),
    rest=rest,
    is_root=bool(match[1]),
  )


def _split_type(text: str) -> tuple[str, str]:
  if not text.startswith('('):
    type_, _, rest = text.partition(' ')
    return type_, rest
  inner = _until_closed(text[1:])
  return inner, text[len(inner) + 2 :].lstrip()


def _until_closed(text: str) -> str:
  """The text up to the parenthesis that closes one opened before the text."""
  depth = 1
  for place, character in enumerate(text):
    depth += (character == '(') - (character == ')')
    if not depth:
      return text[:place]
  return text


def _bytes(dtype: str, shape: str) -> int:
  width = re.search(r'\d+', dtype)
  bits = int(width[0]) if width else 8  # pred
  size = math.prod(int(side) for side in shape.split(',') if side)
  return size * bits // 8
