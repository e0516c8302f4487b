"""What an evaluation asks of one task, wherever its episodes come from."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hypertuning.data.questions import Questions
from hypertuning.data.text_format import TextFormat

MetricFns = Sequence[Callable[..., Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The evaluation of one task.

  Attributes:
    name: name of the seqio task.
    open_batches: function that starts to read the batches of the model's
      features, in order, each episode once. They have the feature `is_real`,
      int32 `[batch_size]`: 0 on the rows that fill up the last batch.
    questions: the questions of the episodes that are evaluated, which may be
      the first of the batches.
    text_format: format that the model's answers are read in.
    postprocess: seqio's postprocessor, a function from the texts of an
      episode's answers to what the metrics read; None leaves them.
    predict_metric_fns: functions from targets and texts to named numbers.
    score_metric_fns: functions from targets and scores to named numbers.
  """

  name: str
  open_batches: Callable[[], Iterable[Mapping[str, Any]]]
  questions: Questions
  text_format: TextFormat
  postprocess: Callable[..., Any] | None
  predict_metric_fns: MetricFns
  score_metric_fns: MetricFns
