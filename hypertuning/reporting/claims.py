"""Claims about the runs, each with a verdict that the runs give."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from hypertuning.reporting import measures, sections, statistics
from hypertuning.reporting.measures import Source
from hypertuning.reporting.sections import Section, Table, Text
from hypertuning.reporting.statistics import Estimate
from hypertuning.reporting.sweep_results import Stage, Sweep

# The text of a claim; the source that is claimed to be better; the one that is
# claimed to be worse; and the metric that decides.
Claim = tuple[str, Source, Source, str]
HOLDS, FAILS, OPEN = 'holds', 'does not hold', 'undecided'
_KINDS = {HOLDS: 'holds', FAILS: 'fails', OPEN: 'open'}
# Metrics that are better if they are lower; all others are better if higher.
_COSTS = ('loss', 'steps_to_target', 'seconds_to_target')


def claims(
  sweep: Sweep,
  *,
  claims: Sequence[Claim] = (),
  ratios: Sequence[Claim] = (),
  name: str = 'claims',
  title: str = 'Claims',
) -> Section:
  """Shows claims in a table, with the numbers of both sides and a verdict.

  Args:
    sweep: sweep whose evaluations are compared.
    claims: claims that are decided by the difference of two numbers. Each is a
      tuple of a text, the source that is claimed to be better, the source that
      is claimed to be worse, and the metric. A source is (stage, phi mode,
      task).
    ratios: claims of the same form that are decided by the ratio of two means.
    name: name of the section and of its files.
    title: heading of the section.

  Raises:
    UserError: no finished run has the stage, phi mode, task or metric.
  """
  verdicts = [_judge(sweep, claim, False) for claim in claims]
  verdicts += [_judge(sweep, claim, True) for claim in ratios]
  stages = {s.name: s for verdict in verdicts for s in verdict.stages}
  table = Table(
    name,
    ['claim', 'metric', 'better', 'worse', 'compared', 'verdict'],
    [verdict.row for verdict in verdicts],
    [verdict.record for verdict in verdicts],
    f'{sections.INTERVALS} Differences (better − worse) and ratios (better / '
    'worse) are paired by seed, ratios with Fieller’s interval. A claim holds '
    'if the whole interval is on its side of 0, or of 1, does not hold if it '
    'is on the other, and is undecided else. Less is better of '
    f'{", ".join(_COSTS)}; more is of all others.',
    list(stages.values()),
  )
  text = 'What was claimed before the runs, and what they say.'
  return Section(name, title, text, [], [table])


def verdict(estimate: Estimate | None, border: float, less: bool) -> str:
  """Whether the whole interval of a number is on one side of a border.

  Args:
    estimate: number and its interval; None if there are no runs.
    border: number that the interval is compared with: 0 for a difference, 1 for
      a ratio.
    less: whether the claim holds below the border; if not, it holds above.

  Returns:
    `HOLDS` or `FAILS`; or `OPEN`, if the interval contains the border or is not
    known.
  """
  if estimate is None or not estimate.has_interval:
    return OPEN
  is_below, is_above = estimate.high < border, estimate.low > border
  if less:
    is_below, is_above = is_above, is_below
  return HOLDS if is_above else FAILS if is_below else OPEN


@dataclasses.dataclass(frozen=True)
class _Verdict:
  row: Sequence[Text]
  record: dict[str, Any]
  stages: Sequence[Stage]


def _judge(sweep: Sweep, claim: Claim, as_ratio: bool) -> _Verdict:
  text, *sources, metric = claim
  better, worse = (measures.result(sweep, s, metric) for s in sources)
  planned_runs = max(better.planned_runs, worse.planned_runs)
  first, second = measures.paired(better, worse)
  compare = statistics.ratio if as_ratio else statistics.difference
  estimate = compare(first, second) if first else None
  kind = 'ratio' if as_ratio else 'difference'
  decision = verdict(estimate, 1.0 if as_ratio else 0.0, metric in _COSTS)
  problem = better.problem or worse.problem
  comparison = Text(problem or 'no common seed', 'absent')
  if estimate is not None:
    digits = 2 if as_ratio else sections.digits(metric)
    comparison = sections.interval(estimate, planned_runs, digits)
  return _Verdict(
    [
      Text(text),
      Text(metric),
      *(
        _with_small(sections.number(metric, measure), *source)
        for measure, source in zip((better, worse), sources, strict=True)
      ),
      _with_small(comparison, kind),
      Text(decision, _KINDS[decision]),
    ],
    {
      'claim': text,
      'metric': metric,
      'better': ' '.join(sources[0]),
      'worse': ' '.join(sources[1]),
      'compared by': kind,
      **sections.estimate_record(estimate, planned_runs, problem),
      'questions': ', '.join(
        dict.fromkeys(filter(None, (better.questions, worse.questions)))
      ),
      'verdict': decision,
    },
    [better.stage, worse.stage],
  )


def _with_small(text: Text, *more: str) -> Text:
  small = ' · '.join(filter(None, (*more, text.small)))
  return dataclasses.replace(text, small=small)
