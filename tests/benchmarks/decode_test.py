"""Decoding costs what it must, and its benchmark runs beside its peer."""

import pytest
import tiny

from hypertuning.benchmarks import decode
from hypertuning.networks import t5


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
  ours = decode.decode_flops(tiny.model(cfg), (8, 384), 64)
  # Projecting cross-attention's keys per token would be 9 times as much.
  assert 0.99 <= ours / by_hand(cfg, 8, 384, 64) <= 1.05


def test_benchmark_measures_both_in_turn(capsys):
  pytest.importorskip('hf_reference')
  model = tiny.model(tiny.shallow())
  found = decode.measure(
    model=model, batch_size=2, input_length=6, target_length=3, rounds=2
  )
  assert len(found['ours']) == len(found['peer']) == 2
  cfg = model.module.downstream.config
  assert found['flops'] == by_hand(cfg, 2, 6, 3)
  out = capsys.readouterr().out
  assert '| transformers |' in out and 'hypertuning / transformers: ' in out
