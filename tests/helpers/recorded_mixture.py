"""A mixture of text and of ranked options, with two draws of shots."""

from hypertuning.data import metrics, registry
from hypertuning.data.rows import Row, RowTask


def mixture(text_format) -> str:
  """Registers the mixture, and returns its name."""

  def tasks():
    options = ('yes', 'no')
    return {
      kind: RowTask(
        [
          Row(f'{kind} {n}?', options[(n + i) % 2], options=options)
          for n in range(4)
        ],
        pool=[Row(f'{kind} {n}!', options[n % 2]) for n in range(6)],
      )
      for i, kind in enumerate(('Even', 'Odd', 'Prime'))
    }

  name = registry.add_episodes(
    'draws',
    {'validation': tasks},
    shots=2,
    queries=2,
    visits=2,
    draws=2,
    options=True,
    text_format=text_format,
    metric_fns=(metrics.exact_match, metrics.macro_f1),
  )
  return registry.add_mixture(
    'both', {name: 1.0, registry.form_of(name, False, scores_options=True): 1.0}
  )
