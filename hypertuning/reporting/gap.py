"""Shows the share of the gap between two models that a generated phi closes."""

from collections.abc import Mapping, Sequence

import numpy as np

from hypertuning.reporting import measures, plots, sections, statistics
from hypertuning.reporting.measures import Source
from hypertuning.reporting.sections import Figure, Section, Table, Text
from hypertuning.reporting.statistics import Estimate
from hypertuning.reporting.sweep_results import Sweep


def gap_closed(
  sweep: Sweep,
  *,
  methods: Mapping[str, Source],
  floor: Source,
  ceiling: Source,
  metric: str = 'accuracy',
  name: str = 'gap_closed',
  title: str = 'Share of the gap that phi closes',
  text: str = 'Percent of the way from the frozen model alone (0) to few-shot '
  'multi-task fine-tuning of the model itself (100).',
) -> Section:
  """Shows `(method - floor) / (ceiling - floor)` of each method, in percent.

  Args:
    sweep: sweep whose evaluations are compared.
    methods: maps the name of each method to its evaluation, as (stage, phi
      mode, task).
    floor: evaluation that counts as 0, as (stage, phi mode, task).
    ceiling: evaluation that counts as 100, as (stage, phi mode, task).
    metric: name of a field in `results.jsonl`.
    name: name of the section and of its files.
    title: heading of the section.
    text: sentence below the heading, which explains the section.

  Raises:
    UserError: no finished run has the stage, phi mode, task or metric.
  """
  low = measures.result(sweep, floor, metric)
  high = measures.result(sweep, ceiling, metric)
  rows, records, bars, labels = [], [], {}, []
  stages = {m.stage.name: m.stage for m in (low, high)}
  for method, source in methods.items():
    measure = measures.result(sweep, source, metric)
    stages[measure.stage.name] = measure.stage
    planned_runs = max(m.planned_runs for m in (measure, low, high))
    values, floors, ceilings = measures.paired(measure, low, high)
    problem = measure.problem or low.problem or high.problem
    estimate, share = None, Text(problem or 'no common seed', 'absent')
    if values:
      differences = (100 * np.subtract(values, floors)).tolist()
      gaps = np.subtract(ceilings, floors).tolist()
      estimate = statistics.ratio(differences, gaps)
      share = sections.interval(estimate, planned_runs, 1)
    bars[method] = estimate
    number = share.text.partition(' [' if estimate else ':')[0]
    labels.append(f'{number} {share.small}'.rstrip())
    rows.append([Text(method), sections.number(metric, measure), share])
    record = sections.estimate_record(estimate, planned_runs, problem)
    record['questions'] = measure.questions
    records.append({'method': method, **record})
  table = Table(
    name,
    ['method', metric, 'share of the gap, percent'],
    rows,
    records,
    f'{sections.INTERVALS} Shares are ratios of mean differences, paired by '
    f'seed, with Fieller’s interval. 0 is {" · ".join(floor)}, 100 is '
    f'{" · ".join(ceiling)}.',
    list(stages.values()),
  )
  figure = Figure(_bars(bars, labels, name), '', list(stages.values()))
  return Section(name, title, text, [figure], [table])


def _bars(
  estimates: Mapping[str, Estimate | None], labels: Sequence[str], name: str
) -> str:
  figure, (axis,) = plots.panels(1, 6.4, 0.8 + 0.32 * len(estimates))
  plots.bars(axis, estimates, labels, [plots.COLOURS[0]] * len(estimates))
  axis.axvline(100, color='#39424e', linewidth=0.8, linestyle='--')
  axis.set_xlabel('share of the gap, percent')
  axis.invert_yaxis()
  return plots.svg(figure, name)
