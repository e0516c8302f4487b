"""The benchmark of a training step: the same work on both sides."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import runner

from hypertuning import command_line
from hypertuning.benchmarks import __main__ as listing
from hypertuning.benchmarks import (
  built,
  machine,
  methods,
  own_step,
  stepping,
  train_step,
)

SHAPE = methods.Shape(2, 2, 6, 5, 3)
SMALL = (
  *('NUM_LAYERS = 1', 'EMB_DIM = 16', 'MLP_DIM = 24', 'VOCAB_SIZE = 40'),
  *('NUM_HEADS = 2', 'HEAD_DIM = 8'),
)
_FLAGS = (
  *('--episodes=2', '--inputs=5', '--targets=3', '--rounds=1'),
  *(f'--gin.{binding.replace(" ", "")}' for binding in SMALL),
)


@pytest.mark.parametrize('network', list(methods.METHODS))
@pytest.mark.parametrize('method', ['full', 'lora', 'prefix'])
def test_peers_train_as_many_parameters(network, method):
  torch_peers = pytest.importorskip(
    'hypertuning.benchmarks.torch_peers', reason='needs the extra `hf`'
  )
  model = built.build(network, method, 'tiny', bindings=SMALL)
  features = built.batch(model, SHAPE)
  chosen = methods.METHODS[network][method]
  peer = torch_peers.TorchStep(model, features, chosen.peer, 'adamw', False)
  variables = jax.eval_shape(
    lambda: model.get_initial_variables(
      jax.random.key(0), built.shapes(features)
    )
  )
  ours = sum(x.size for x in jax.tree.leaves(variables['params']))
  assert peer.trained == ours
  # Random weights say nothing: the loss of each is about log(vocab).
  assert 0 < peer() < 4 * np.log(40)


@pytest.mark.slow
def test_rows_of_both_sides(capsys):
  pytest.importorskip('torch', reason='needs the extra `hf`')
  rows = stepping.measure(
    't5', 'full', 'tiny', SHAPE, 2, 'adamw', SMALL, stepping.PEERS[:1]
  )
  ours, peer = rows
  assert ours['way'] == stepping.OURS and ours['ratio'] == 1
  # 2 x 2 rows of 5 + 3 tokens; the example of an episode is not read.
  assert ours['tokens_per_second'] == pytest.approx(32 / ours['seconds'])
  assert peer['ratio'] == pytest.approx(peer['seconds'] / ours['seconds'])
  assert ours['flops'] == ours['useful_flops']
  assert ours['trained'] == peer['trained']
  # Donated: the new state takes the memory of the old one, but for scalars.
  made = ours['peak_bytes'] - ours['argument_bytes'] - ours['temporary_bytes']
  assert 0 <= made < ours['argument_bytes'] / 10
  lines = train_step.table(rows).split('\n\n')[0].splitlines()
  assert len({line.count('|') for line in lines}) == 1


def test_tokens_count_what_is_read():
  assert SHAPE.tokens(False) == 2 * 2 * 8
  assert SHAPE.tokens(True) == 2 * (6 + 2 * 8)


def test_rematerialisation_is_no_useful_work():
  model = built.build('t5', 'full', 'tiny', bindings=SMALL)
  features = built.batch(model, SHAPE)
  plain = own_step.useful_flops(model, features)
  full = built.build(
    't5', 'full', 'tiny', bindings=[*SMALL, "REMAT_POLICY = 'full'"]
  )
  assert own_step.useful_flops(full, features) > plain


# What hides torch, and what tells that TensorFlow is imported after all.
_WITHOUT = """
import runpy, sys
sys.modules.update(dict.fromkeys(sys.argv[1].split(',')))
sys.argv = sys.argv[2:]
try:
  runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
finally:
  assert not {'tensorflow', 'seqio', 'tensorflow_datasets'} & {
    name for name, module in sys.modules.items() if module
  }
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  'arguments',
  [
    ('train_step', '--method=hyper_lora', '--optimizer=adafactor'),
    ('train_step', '--model=llama', '--method=gist', '--hyper_inputs=6'),
    ('train_step',),
  ],
  ids=str,
)
def test_runs_without_tensorflow_and_torch(arguments, tmp_path):
  """A machine with a GPU needs neither TensorFlow nor seqio."""
  hidden = 'tensorflow,seqio,tensorflow_datasets,torch'
  done = subprocess.run(
    [
      *(sys.executable, '-c', _WITHOUT, hidden, 'hypertuning.benchmarks'),
      *(*arguments, *_FLAGS, f'--output={tmp_path}/found.json'),
    ],
    env=runner.environment(),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'found.json').read_text())
  assert [row['way'] for row in found['rows']] == ['hypertuning']
  assert found['rows'][0]['share_of_peak'] is None
  if len(arguments) == 1:
    # One line per way of the peer, which says what to do.
    lines = [x for x in done.stderr.splitlines() if 'left out' in x]
    assert len(lines) == 2
    assert all("pip install '.[hf]'" in line for line in lines)


def test_what_a_step_costs_is_in_its_row():
  model = built.build('llama', 'lora', 'tiny', bindings=SMALL)
  step = own_step.OwnStep(model, built.batch(model, SHAPE))
  first, second = step(), step()
  assert second < first  # it trains
  row = step.row()
  assert row['rows'] == 4 and row['compilations'] >= 1
  assert row['peak_bytes'] >= row['temporary_bytes'] + row['argument_bytes']


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (('--size=huge',), '--size=huge: give one of'),
    (('--rounds=0',), '--rounds = 0'),
    (('--method=gist', '--model=t6'), 'invalid choice'),
    (('--method=hyper_prefix', '--model=llama'), 'a llama has full, lora'),
    (('--output=.',), 'is a folder, not a file'),
    (('--gin.NUM_LAYRES=2',), 'NUM_LAYERS'),
  ],
)
def test_bad_input_of_a_step_is_one_line(flags, message, capfd):
  assert command_line.run(train_step.main, flags) == 2
  err = capfd.readouterr().err
  assert message in err and err.count('\n') == 1


def test_a_peak_is_known_by_the_name_of_the_device(monkeypatch):
  class Device:
    device_kind = 'NVIDIA H100 80GB HBM3'

  monkeypatch.setattr(jax, 'devices', lambda: [Device()])
  assert machine.peak_flops() == 989e12
  Device.device_kind = 'cpu'
  assert machine.peak_flops() is None


def test_subjects_are_listed(capsys):
  listing.main([])
  out = capsys.readouterr().out
  folder = os.path.dirname(listing.__file__)
  for name in listing.SUBJECTS:
    assert f'  {name} ' in out
    assert os.path.isfile(f'{folder}/{name}.py')
  assert command_line.run(listing.main, ['nosuch']) == 2
  assert 'no such subject' in capsys.readouterr().err
