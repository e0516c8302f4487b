"""Real data beside the checkout, which some tests read where it is."""

import os
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DATA = pathlib.Path(
  os.environ.get('HYPERTUNING_DATA', _ROOT.parent / 'shared' / 'data')
)
needed = pytest.mark.skipif(
  not DATA.is_dir(),
  reason='no real data in ../shared/data, nor in HYPERTUNING_DATA',
)
