"""The format of a text that goes on from examples that are read once.

A decoder-only model can read the examples of an episode once, and go on from
there with every query (see `hypermodels.in_context`). The examples then end
with the ids between two examples, and a query has no ids at its start.
"""

import dataclasses

from hypertuning.data.text_format import Ids, TextFormat
from hypertuning.ranges import Object


def query_format(text_format: Object) -> TextFormat:
  """The format of the queries and of the examples that come before them.

  Args:
    text_format: the format of the whole text.
  """
  return dataclasses.replace(text_format, start=(), end=text_format.between)


def start_ids(text_format: Object) -> Ids:
  """The ids at the start of the whole text, which the examples begin with."""
  return text_format.start
