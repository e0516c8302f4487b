"""Decoding costs what it must, and its benchmark runs beside its peer."""

import json
import sys

import pytest
import tiny
import tiny_llama

from hypertuning import command_line
from hypertuning.benchmarks import decode, decoding
from hypertuning.networks import llama, t5


def by_hand(cfg, rows, inputs, length):
  """Matmul FLOPs of reading the inputs once and of decoding every token."""
  joined = cfg.num_heads * cfg.head_dim
  square, mlp = cfg.emb_dim * joined, 3 * cfg.emb_dim * cfg.mlp_dim
  text = rows * inputs
  encoder = 2 * text * (4 * square + mlp) + 4 * text * inputs * joined
  # Keys and values of cross-attention: once per text, not once per token.
  cross = 2 * text * 2 * square
  token = 2 * (6 * square + mlp) + 4 * (inputs + length) * joined
  logits = 2 * cfg.emb_dim * cfg.vocab_size
  start = cfg.num_encoder_layers * encoder + cfg.num_decoder_layers * cross
  steps = rows * length * (cfg.num_decoder_layers * token + logits)
  return start + steps


@pytest.mark.parametrize('scan', [False, True])
def test_flops_of_decoding_are_those_by_hand(scan):
  """At T5-small's size, traced alone: 8 inputs of 384 tokens, 64 tokens."""
  cfg = t5.T5Config(
    vocab_size=32128,
    emb_dim=512,
    num_heads=6,
    head_dim=64,
    mlp_dim=1024,
    num_encoder_layers=8,
    num_decoder_layers=8,
    scan_layers=scan,
  )
  ours = decoding.decode_flops(tiny.model(cfg), (8, 384), 64)
  # Projecting cross-attention's keys per token would be 9 times as much.
  assert 0.99 <= ours / by_hand(cfg, 8, 384, 64) <= 1.05


@pytest.mark.parametrize('family', ['t5', 'llama'])
def test_benchmark_measures_both_in_turn(family):
  pytest.importorskip('hf_reference')
  cfg = tiny.shallow() if family == 't5' else tiny_llama.config()
  model = tiny.model(cfg)
  if family == 'llama':
    model = tiny.model(downstream=llama.Llama(cfg))
  found = decoding.measure(model, (2, 6), 3, 2)
  ours, peer = found['rows']
  assert (ours['way'], peer['way']) == (decoding.OURS, decoding.PEER)
  assert len(ours['rounds']) == len(peer['rounds']) == 2
  assert ours['ratio'] == 1
  assert peer['ratio'] == peer['seconds'] / ours['seconds']
  if family == 't5':
    assert found['flops'] == by_hand(cfg, 2, 6, 3)
  assert decode.table(found).count('| transformers |') == 1


def test_without_the_peer_ours_is_measured(monkeypatch, tmp_path, capfd):
  monkeypatch.setitem(sys.modules, 'torch', None)
  name = 'hypertuning.benchmarks.torch_peers'
  monkeypatch.delitem(sys.modules, name, raising=False)
  flags = ('--rows=2', '--inputs=4', '--targets=2', '--rounds=1')
  output = tmp_path / 'found.json'
  small = ('--gin.NUM_LAYERS=1', f'--output={output}')
  assert command_line.run(decode.main, [*flags, *small]) == 0
  captured = capfd.readouterr()
  assert "pip install '.[hf]'" in captured.err
  found = json.loads(output.read_text())
  assert [row['way'] for row in found['rows']] == ['hypertuning']
  assert found['machine']['cores'] and found['versions']['jaxlib']
