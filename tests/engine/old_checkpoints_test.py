"""A run of commit 53afd87 goes on and answers, see golden/README.md."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import runner

from hypertuning import gin_utils, infer, train
from hypertuning.engine import (
  checkpoint_folders,
  partitioning,
)

# Its batch of 4 does not divide the tests' 8 devices.
ONE_DEVICE = partitioning.Partitioner(devices=tuple(jax.devices()[:1]))
GOLDEN = pathlib.Path(__file__).parent.parent / 'golden'


def _parse(record, **paths):
  """The command of the record, whose size file is in two parts now."""
  files = [
    file.replace('gin/models/sizes/tiny.gin', 'gin/experiments/toy.gin')
    for file in record['gin_files']
  ]
  bindings = [
    binding.removeprefix('--gin.')
    for binding in record['bindings']
    if binding.partition('=')[0].removeprefix('--gin.') not in paths
  ]
  bindings += [f'{name}={str(path)!r}' for name, path in paths.items()]
  gin_utils.parse(files, bindings)


@pytest.fixture
def run(tmp_path):
  return shutil.copytree(GOLDEN / 'checkpoint', tmp_path / 'run')


def test_weights_optimizer_step_and_place_in_the_data_go_on(run):
  record = json.loads((GOLDEN / 'checkpoint_losses.json').read_text())
  _parse(record, MODEL_DIR=run)
  gin_utils.call(train.train, partitioner=ONE_DEVICE)
  losses = runner.losses(run)
  want = [record[str(step)] for step in (7, 8, 9, 10)]
  # Adam's moments, warm-up's count and the next batch are those of before:
  # a batch further, the losses differ in their second digit.
  np.testing.assert_allclose(
    [losses[i] for i in (7, 8, 9, 10)], want, rtol=1e-4
  )
  assert checkpoint_folders.latest_step(str(run)) == 10


def test_answers_to_a_file_are_those_of_before(run, tmp_path):
  record = json.loads((GOLDEN / 'cli_infer.json').read_text())
  file = tmp_path / 'tasks.jsonl'
  file.write_text(record['input_jsonl'])
  _parse(
    record,
    CHECKPOINT_PATH=run / 'checkpoint_6',
    INFER_INPUT=file,
    INFER_OUTPUT_DIR=tmp_path / 'answers',
  )
  rows = gin_utils.call(infer.infer, partitioner=ONE_DEVICE)
  assert [row['query'] for row in rows] == [r['query'] for r in record['rows']]
  assert [r['prediction'] for r in rows] == [
    r['prediction'] for r in record['rows']
  ]
  np.testing.assert_allclose(
    [row['score'] for row in rows],
    [row['score'] for row in record['rows']],
    rtol=1e-5,
  )
