"""Shows what a query costs, and how well it is answered."""

import dataclasses
from collections.abc import Mapping, Sequence

from hypertuning.reporting import measures, plots, sections
from hypertuning.reporting.measures import Measure, Source
from hypertuning.reporting.sections import Figure, Section, Table, Text
from hypertuning.reporting.sweep_results import Stage, Sweep

# Values of the field `way` in results of `hypertuning.benchmarks.query_cost`.
_MAKING_PHI, _WITH_PHI, _IN_CONTEXT, _MAKING_CACHE, _WITH_CACHE = (
  'making phi',
  'query with phi',
  'query in context',
  'making the cache',
  'query in context, cached',
)
# Maps a field of the results to the factor and the unit of a table's numbers.
_COSTS = {'flops': (1e-6, 'MFLOPs'), 'seconds': (1e3, 'ms')}


def cost(
  sweep: Sweep,
  *,
  methods: Mapping[str, tuple[str, str, Source]],
  models: Mapping[str, str],
  metric: str = 'accuracy',
  name: str = 'cost',
  title: str = 'Accuracy against cost per query',
  text: str = 'Examples in context are read again with every query, or '
  'cached once per task by a decoder-only network; phi is made once per task.',
) -> Section:
  """Shows accuracy against FLOPs and time, and when phi has paid for itself.

  Args:
    sweep: sweep with runs of `hypertuning.benchmarks.query_cost`.
    methods: maps the name of each method to three things: the stage that
      measures its cost; its `way` of answering in these results, `query with
      phi` or `query in context`; and its evaluation, as (stage, phi mode,
      task).
    models: maps the name of each hypermodel to the stage that measures its
      cost.
    metric: name of the metric in the evaluations.
    name: name of the section and of its files.
    title: heading of the section.
    text: sentence below the heading, which explains the section.

  Raises:
    UserError: no finished run has the stage, way, phi mode, task or metric.
  """
  quality = {
    method: measures.result(sweep, source, metric)
    for method, (_, _, source) in methods.items()
  }
  costs = {
    method: {field: _number(sweep, stage, way, field) for field in _COSTS}
    for method, (stage, way, _) in methods.items()
  }
  stages = {
    m.stage.name: m.stage
    for m in (*quality.values(), *(c['flops'] for c in costs.values()))
  }
  runs = list(stages.values())
  return Section(
    name,
    title,
    text,
    [Figure(_scatter(quality, costs, metric, name), '', runs)],
    [
      Table(
        name,
        [
          'method',
          metric,
          *(f'{head} per query' for _, head in _COSTS.values()),
        ],
        [
          [
            Text(method),
            sections.number(metric, quality[method]),
            *(_cost_text(costs[method][field], field) for field in _COSTS),
          ]
          for method in methods
        ],
        [
          {'method': method, 'number': field, **sections.record(measure)}
          for method in methods
          for field, measure in {
            metric: quality[method],
            **costs[method],
          }.items()
        ],
        f'{sections.INTERVALS} Time: the median of rounds.',
        runs,
      ),
      _break_even(
        sweep,
        models,
        f'{name}_break_even',
        'examples in context',
        (_MAKING_PHI, _WITH_PHI, _IN_CONTEXT),
      ),
      _break_even(
        sweep,
        models,
        f'{name}_break_even_cached',
        'examples in context whose keys and values are cached once per task',
        (_MAKING_PHI, _WITH_PHI, _WITH_CACHE, _MAKING_CACHE),
      ),
    ],
  )


def phi_size(
  sweep: Sweep,
  *,
  models: Mapping[str, str],
  name: str = 'phi_bytes',
  title: str = 'Bytes of phi',
  text: str = 'What one keeps of a task in place of its examples.',
) -> Section:
  """Shows the number of bytes in the phi of one task.

  Args:
    sweep: sweep with runs of `hypertuning.benchmarks.query_cost`.
    models: maps the name of each hypermodel to the stage that measures its
      cost.
    name: name of the section and of its files.
    title: heading of the section.
    text: sentence below the heading, which explains the section.

  Raises:
    UserError: the sweep lacks a stage, or its finished runs lack the numbers.
  """
  fields = {'float32': 'phi_bytes', 'bfloat16': 'phi_bytes_bfloat16'}
  by_model = {
    model: {t: _number(sweep, stage, _WITH_PHI, f) for t, f in fields.items()}
    for model, stage in models.items()
  }
  stages = [m['float32'].stage for m in by_model.values()]
  table = Table(
    name,
    ['hypermodel', *fields],
    [
      [Text(model), *(_bytes_text(m) for m in row.values())]
      for model, row in by_model.items()
    ],
    [
      {'hypermodel': model, 'type': kind, **sections.record(measure)}
      for model, row in by_model.items()
      for kind, measure in row.items()
    ],
    '',
    stages,
  )
  return Section(name, title, text, [], [table])


def _number(
  sweep: Sweep, stage: str, way: str, field: str, reason: str = ''
) -> Measure:
  """A number of a way of answering.

  Args:
    sweep: sweep with the costs.
    stage: name of the stage.
    way: value of the field `way`.
    field: name of the number.
    reason: why the network cannot answer in this way; shown where it has no
      number.

  Raises:
    UserError: the finished runs lack the number for no such reason. Seconds may
      be missing, as may the cache, which earlier versions did not measure.
  """
  measure = measures.of_stage(sweep.stage(stage), {'way': (way,)}, field)
  if way in (_MAKING_CACHE, _WITH_CACHE):
    if reason and not measure.values:
      return dataclasses.replace(measure, problem=reason)
    return measure
  # A run may have counted FLOPs without measuring seconds.
  return measure if field == 'seconds' else measure.require()


def _cost_text(measure: Measure, field: str) -> Text:
  if measure.estimate is None:
    return Text(measure.problem, 'absent')
  factor, _ = _COSTS[field]
  return Text(f'{factor * measure.estimate.mean:,.3g}', 'number')


def _bytes_text(measure: Measure) -> Text:
  if measure.estimate is None:
    return Text(measure.problem, 'absent')
  return Text(f'{measure.estimate.mean:,.0f}', 'number')


def _break_even(
  sweep: Sweep,
  models: Mapping[str, str],
  name: str,
  other: str,
  ways: Sequence[str],
) -> Table:
  """When phi has paid for itself, beside another way of answering.

  Args:
    sweep: sweep with the costs.
    models: maps the name of each hypermodel to the stage of its costs.
    name: name of the table.
    other: the other way, in words.
    ways: making phi, a query with phi and a query in the other way; then what
      the other way needs once per task, if anything.
  """
  rows, records, stages = [], [], []
  for model, stage in models.items():
    reason = _reason(sweep.stage(stage), ways)
    by_field = {
      field: [_number(sweep, stage, way, field, reason) for way in ways]
      for field in _COSTS
    }
    queries = {field: _queries(*by_field[field]) for field in _COSTS}
    numbers = [
      _cost_text(m, field) for field in _COSTS for m in by_field[field]
    ]
    rows.append([Text(model), *numbers, *queries.values()])
    record = {
      f'{field}, {way}': measure.estimate.mean if measure.estimate else ''
      for field in _COSTS
      for way, measure in zip(ways, by_field[field], strict=True)
    }
    record |= {f'queries by {field}': t.text for field, t in queries.items()}
    records.append({'hypermodel': model, **record})
    stages.append(sweep.stage(stage))
  return Table(
    name,
    [
      'hypermodel',
      *(f'{way}, {head}' for _, head in _COSTS.values() for way in ways),
      *(f'queries, by {field}' for field in _COSTS),
    ],
    rows,
    records,
    'The last columns: after how many queries of one task making phi has paid '
    f'for itself, against {other}.',
    stages,
  )


def _reason(stage: Stage, ways: Sequence[str]) -> str:
  """Why the network cannot answer in one of these ways; empty if it can."""
  for cell in stage.cells:
    for row in cell.tables.get('results', ()):
      if row.get('way') in ways and row.get('reason'):
        return f'cannot: {row["reason"]}'
  return ''


def _queries(
  making_phi: Measure,
  with_phi: Measure,
  other_query: Measure,
  other_start: Measure | None = None,
) -> Text:
  costs = []
  for measure in (making_phi, with_phi, other_query, other_start):
    if measure is None:
      costs.append(0.0)
    elif measure.estimate is None:
      return Text(measure.problem, 'absent')
    else:
      costs.append(measure.estimate.mean)
  phi_cost, query_cost, other_cost, start_cost = costs
  saving = other_cost - query_cost
  if saving <= 0:
    return Text('never', 'number')
  return Text(f'{max(phi_cost - start_cost, 0.0) / saving:,.1f}', 'number')


def _scatter(
  quality: Mapping[str, Measure],
  costs: Mapping[str, Mapping[str, Measure]],
  metric: str,
  name: str,
) -> str:
  figure, axes = plots.panels(len(_COSTS), 8.6, 3.4, sharey=True)
  for method, colour in plots.colours(list(quality)):
    height = quality[method].estimate
    for axis, (field, (factor, head)) in zip(axes, _COSTS.items(), strict=True):
      query_cost = costs[method][field].estimate
      axis.set_xlabel(f'{head} per query')
      if height is not None and query_cost is not None:
        plots.dot(axis, factor * query_cost.mean, height, method, colour)
  axes[0].set_ylabel(metric)
  plots.legend(figure, axes[0])
  return plots.svg(figure, name)
