"""What `hypertuning.benchmarks.query_cost` computes and prints of its costs."""

from typing import Any

Row = dict[str, Any]

MAKING_PHI = 'making phi'
WITH_PHI = 'query with phi'
IN_CONTEXT = 'query in context'
MAKING_CACHE = 'making the cache'
WITH_CACHE = 'query in context, cached'
BREAK_EVEN = 'break even'
NO_BREAK_EVEN = 'never'
# The ways whose cost is that of an episode, and not of a query.
PER_EPISODE = (MAKING_PHI, MAKING_CACHE)
HEADER = (
  '| way | MFLOPs | / query with phi | ms | fastest to slowest round '
  '| / query with phi |\n|' + ' --- |' * 6
)


def break_even(
  phi_cost: float,
  with_phi: float,
  other_query: float,
  other_start: float = 0.0,
) -> float | str:
  """The number of queries after which making phi has paid for itself.

  Args:
    phi_cost: cost of making an episode's phi.
    with_phi: cost of a query with this phi.
    other_query: cost of a query in the way that phi is compared with.
    other_start: cost per episode of that way, such as that of a cache.

  Returns:
    The number, not rounded, and 0 if phi is the cheaper one from the start;
    'never' if a query with phi is not cheaper.
  """
  saving = other_query - with_phi
  if saving <= 0:
    return NO_BREAK_EVEN
  return max(phi_cost - other_start, 0.0) / saving


def break_even_row(rows: list[Row]) -> Row:
  """When phi has paid for itself, beside the examples in context and a cache.

  Args:
    rows: rows of the ways, with `flops` and `seconds`.

  Returns:
    The last row. A number is None where nothing was measured, or the network
    has no cache.
  """
  by_way = {row['way']: row for row in rows}

  def queries(field: str, other: str, start: str | None = None) -> Any:
    names = [MAKING_PHI, WITH_PHI, other, *([start] if start else [])]
    costs: Any = [by_way.get(name, {}).get(field) for name in names]
    return None if None in costs else break_even(*costs)

  return {
    'way': BREAK_EVEN,
    'queries_by_flops': queries('flops', IN_CONTEXT),
    'queries_by_seconds': queries('seconds', IN_CONTEXT),
    'queries_by_flops_cached': queries('flops', WITH_CACHE, MAKING_CACHE),
    'queries_by_seconds_cached': queries('seconds', WITH_CACHE, MAKING_CACHE),
  }


def table(rows: list[Row]) -> str:
  """A Markdown table of the costs, and sentences about what follows."""
  *ways, even = rows
  by_way = {row['way']: row for row in ways}
  unit = by_way[WITH_PHI]
  lines = [HEADER, *(_line(row, unit) for row in ways)]
  lines.append('')
  for than, ending in (('examples in context', ''), ('the cache', '_cached')):
    for unit_name in ('FLOPs', 'seconds'):
      queries = even[f'queries_by_{unit_name.lower()}{ending}']
      if queries is not None:
        lines.append(
          f'Making phi has paid for itself beside {than}, by {unit_name}: '
          f'{_queries(queries)}.'
        )
  lines.append(_bytes('Phi', unit))
  if MAKING_CACHE in by_way:
    cache = by_way[WITH_CACHE]
    times = _digits(cache['phi_bytes'] / unit['phi_bytes'])
    lines.append(f'{_bytes("The cache", cache)} This is {times} times phi.')
  return '\n'.join(lines)


def _line(row: Row, unit: Row) -> str:
  if row.get('reason'):
    return f'| {row["way"]}: cannot, as {row["reason"]} |' + ' - |' * 5
  each = 'an episode' if row['way'] in PER_EPISODE else 'each'
  cells = [f'{row["way"]}, {each}', f'{row["flops"] / 1e6:,.3f}']
  cells.append(_digits(row['flops'] / unit['flops']))
  if row['seconds'] is None:
    cells += ['-'] * 3
  else:
    low, middle, high = (
      _digits(1e3 * row[name])
      for name in ('seconds_low', 'seconds', 'seconds_high')
    )
    ratio = _digits(row['seconds'] / unit['seconds'])
    cells += [middle, f'{low} to {high}', ratio]
  return f'| {" | ".join(cells)} |'


def _bytes(name: str, row: Row) -> str:
  return (
    f'{name} of an episode: {row["phi_bytes"]:,} bytes in float32, '
    f'{row["phi_bytes_bfloat16"]:,} in bfloat16.'
  )


def _digits(value: float) -> str:
  """A number with three significant digits, if possible without exponent."""
  return f'{float(f"{value:.3g}"):,g}'


def _queries(value: float | str) -> str:
  return value if isinstance(value, str) else f'after {value:,.2f} queries'
