"""Claims about the runs, each with what the runs say about it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from hypertuning.reporting import measures, sections, statistics
from hypertuning.reporting.measures import Source
from hypertuning.reporting.sections import Section, Table, Text
from hypertuning.reporting.statistics import Estimate
from hypertuning.reporting.sweep_results import Stage, Sweep

Claim = tuple[str, Source, Source, str]  # text, better, worse, metric
HOLDS, FAILS, OPEN = 'holds', 'does not hold', 'undecided'
_KINDS = {HOLDS: 'holds', FAILS: 'fails', OPEN: 'open'}
# Metrics of which less is better; of all others, more is.
_COSTS = ('loss', 'steps_to_target', 'seconds_to_target')


def claims(
  sweep: Sweep,
  *,
  claims: Sequence[Claim] = (),
  ratios: Sequence[Claim] = (),
  name: str = 'claims',
  title: str = 'Claims',
) -> Section:
  """A table of claims with the numbers on both sides and a verdict.

  Args:
    sweep: the sweep whose evaluations are compared.
    claims: claims that the difference of two numbers decides. Each is a text,
      the source said to be better and the one said to be worse, both as (stage,
      phi mode, task), and the metric.
    ratios: claims of the same form that the ratio of the two means decides.
    name: name of the section, which its files get too.
    title: heading of the section.

  Raises:
    UserError: no finished run has the stage, phi mode, task or metric.
  """
  judged = [_judge(sweep, claim, False) for claim in claims]
  judged += [_judge(sweep, claim, True) for claim in ratios]
  stages = {s.name: s for verdict in judged for s in verdict.stages}
  table = Table(
    name,
    ['claim', 'metric', 'better', 'worse', 'compared', 'verdict'],
    [verdict.row for verdict in judged],
    [verdict.record for verdict in judged],
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
    estimate: the number and its interval; None if there are no runs.
    border: 0 for a difference, 1 for a ratio.
    less: whether the claim holds below the border, and not above it.

  Returns:
    `HOLDS`, `FAILS`, or `OPEN` where the interval holds the border or is not
    known.
  """
  if estimate is None or not estimate.has_interval:
    return OPEN
  below, above = estimate.high < border, estimate.low > border
  if less:
    below, above = above, below
  return HOLDS if above else FAILS if below else OPEN


@dataclasses.dataclass(frozen=True)
class _Judged:
  row: Sequence[Text]
  record: dict[str, Any]
  stages: Sequence[Stage]


def _judge(sweep: Sweep, claim: Claim, as_ratio: bool) -> _Judged:
  text, *sources, metric = claim
  better, worse = (measures.result(sweep, s, metric) for s in sources)
  planned = max(better.planned, worse.planned)
  first, second = measures.paired(better, worse)
  compare = statistics.ratio if as_ratio else statistics.difference
  estimate = compare(first, second) if first else None
  kind = 'ratio' if as_ratio else 'difference'
  decision = verdict(estimate, 1.0 if as_ratio else 0.0, metric in _COSTS)
  problem = better.problem or worse.problem
  compared = Text(problem or 'no common seed', 'absent')
  if estimate is not None:
    digits = 2 if as_ratio else sections.digits(metric)
    compared = sections.interval(estimate, planned, digits)
  return _Judged(
    [
      Text(text),
      Text(metric),
      *(
        _with_small(sections.number(metric, measure), *source)
        for measure, source in zip((better, worse), sources, strict=True)
      ),
      _with_small(compared, kind),
      Text(decision, _KINDS[decision]),
    ],
    {
      'claim': text,
      'metric': metric,
      'better': ' '.join(sources[0]),
      'worse': ' '.join(sources[1]),
      'compared by': kind,
      **sections.estimate_record(estimate, planned, problem),
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
