"""Matplotlib figures as SVG elements of one page."""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib

from hypertuning.reporting.statistics import Estimate

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402 the backend comes first

COLOURS = (
  '#2f6fb3',
  '#d9822b',
  '#3a8f5c',
  '#a2478c',
  '#6b7785',
  '#b8432f',
  '#12808f',
  '#8a6d1f',
)
_STYLE: dict[Any, Any] = {
  'svg.fonttype': 'none',  # text stays text
  'svg.hashsalt': 'hypertuning',  # the same numbers give the same file
  'text.parse_math': False,  # a name with dollar signs is no formula
  'font.family': ['sans-serif'],
  'font.size': 9.0,
  'axes.titlesize': 9.5,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.edgecolor': '#8993a0',
  'axes.labelcolor': '#39424e',
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': '#e6e9ee',
  'xtick.color': '#39424e',
  'ytick.color': '#39424e',
  'legend.frameon': False,
}
matplotlib.rcParams.update(_STYLE)


def panels(
  count: int, width: float, height: float, **kwargs: Any
) -> tuple[Any, list[Any]]:
  """Makes a figure with panels side by side.

  Args:
    count: number of panels.
    width: width of the figure in inches.
    height: height of the figure in inches.
    **kwargs: further arguments of `pyplot.subplots`.

  Returns:
    The figure, and the axes of its panels.
  """
  figure, axes = pyplot.subplots(
    1,
    count,
    figsize=(width, height),
    squeeze=False,
    layout='constrained',
    **kwargs,
  )
  return figure, list(axes[0])


def band(
  axis: Any,
  points: Sequence[tuple[float, Estimate]],
  label: str,
  colour: str,
  marker: str = '',
) -> None:
  """Draws a line of means, and a band of their intervals.

  Args:
    axis: axes of a panel.
    points: pairs of a place on the horizontal axis and the estimate there.
    label: label of the line in the legend.
    colour: colour of the line and the band.
    marker: matplotlib marker of the points; '' draws none.
  """
  steps = [step for step, _ in points]
  axis.plot(
    steps,
    [estimate.mean for _, estimate in points],
    color=colour,
    label=label,
    marker=marker,
    markersize=4,
    linewidth=1.6,
  )
  # With a single run, the bounds are nan, which matplotlib does not draw.
  axis.fill_between(
    steps,
    [estimate.low for _, estimate in points],
    [estimate.high for _, estimate in points],
    color=colour,
    alpha=0.16,
    linewidth=0,
  )


def dot(
  axis: Any, place: float, height: Estimate, label: str, colour: str
) -> None:
  """Draws a mean with its interval at a place on the horizontal axis."""
  half = height.high - height.mean
  axis.errorbar(
    [place],
    [height.mean],
    yerr=[half],
    fmt='o',
    color=colour,
    capsize=2.5,
    label=label,
  )


def legend(figure: Any, axis: Any) -> None:
  """Draws one legend for all panels, below them."""
  handles, labels = axis.get_legend_handles_labels()
  figure.legend(
    handles, labels, loc='outside lower center', ncols=min(len(labels), 4)
  )


def bars(
  axis: Any,
  estimates: Mapping[str, Estimate | None],
  labels: Sequence[str],
  colours: Sequence[str],
) -> None:
  """Draws horizontal bars with their intervals.

  Args:
    axis: axes of a panel.
    estimates: maps the name of each bar to its estimate; for None, only the
      label is drawn.
    labels: labels at the ends of the bars.
    colours: colours of the bars.
  """
  means = [e.mean if e else 0.0 for e in estimates.values()]
  # Unbounded and unknown intervals are not drawn. Rounding may put a bound on
  # the wrong side of the mean, which matplotlib refuses.
  errors = [
    [max(e.mean - e.low, 0.0), max(e.high - e.mean, 0.0)]
    if e and math.isfinite(e.low)
    else [math.nan, math.nan]
    for e in estimates.values()
  ]
  bar_container = axis.barh(
    list(estimates),
    means,
    xerr=list(zip(*errors, strict=True)),
    height=0.66,
    color=list(colours),
    error_kw={'capsize': 2.5, 'elinewidth': 1, 'ecolor': '#39424e'},
  )
  axis.bar_label(bar_container, labels, padding=4, fontsize=8)
  axis.margins(x=0.2, y=0.02)
  if not any(value < 0 for value in means):
    axis.set_xlim(left=0)
  axis.grid(visible=False, axis='y')


def colours(names: Sequence[str]) -> Iterator[tuple[str, str]]:
  """Pairs each name with a colour; after eight, colours repeat."""
  for index, name in enumerate(names):
    yield name, COLOURS[index % len(COLOURS)]


def svg(figure: Any, name: str) -> str:
  """Closes a figure and returns it as an `<svg>` element.

  Args:
    figure: figure that `panels` made.
    name: name that no other figure of the page has. All ids in the element
      start with it, because ids must be unique on a page.
  """
  file = io.StringIO()
  nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
  figure.savefig(file, format='svg', metadata=nothing)
  pyplot.close(figure)
  text = file.getvalue()
  text = text[text.index('<svg') :]
  text = re.sub(r'\bid="', f'id="{name}-', text)
  text = re.sub(r'url\(#', f'url(#{name}-', text)
  return re.sub(r'href="#', f'href="#{name}-', text).strip()
