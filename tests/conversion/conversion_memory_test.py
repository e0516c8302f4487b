"""A conversion holds one array at a time, whatever the size of the model."""

import json
import struct
import subprocess
import sys

import bpe
import numpy as np
import pytest
import runner

from hypertuning.conversion import families
from hypertuning.conversion.fields import Fields
from hypertuning.engine import t5x_format

WIDTH, INNER, LAYERS = 1024, 25_600, 4
_COMMAND = r"""
import pathlib, re, sys
from hypertuning import command_line, convert
code = command_line.run(convert.main, sys.argv[1:])
# getrusage's number begins with the peak of the process that started this one.
status = pathlib.Path('/proc/self/status').read_text()
used = 1024 * int(re.search(r'VmHWM:\s*(\d+) kB', status)[1])
heavy = [m for m in ('tensorflow', 'seqio', 'torch') if m in sys.modules]
print(code, used, *heavy)
"""


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """A Llama of 1.3 GB whose largest array has 105 MB, in safetensors."""
  folder = tmp_path_factory.mktemp('large')
  config = {
    'model_type': 'llama',
    'vocab_size': bpe.SIZE,
    'hidden_size': WIDTH,
    'intermediate_size': INNER,
    'num_hidden_layers': LAYERS,
    'num_attention_heads': 16,
    'max_position_embeddings': 64,
    'bos_token_id': 1,
    'eos_token_id': 2,
    'tie_word_embeddings': True,
  }
  (folder / 'config.json').write_text(json.dumps(config))
  bpe.write(folder / 'tokenizer.json')
  fields = Fields(config, 'config')
  family = families.find(fields)
  header, place = {}, 0
  for variable in family.variables(family.config(fields)):
    size = 4 * int(np.prod(variable.shape))
    header[variable.name] = {
      'dtype': 'F32',
      'shape': variable.their_shape,
      'data_offsets': [place, place + size],
    }
    place += size
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)
  noise = np.random.default_rng(0).standard_normal(2**20, np.float32)
  with (folder / 'model.safetensors').open('wb') as file:
    file.write(struct.pack('<Q', len(text)) + text)
    left = place
    while left:
      left -= file.write(noise.data.cast('B')[: min(left, noise.nbytes)])
  yield folder
  (folder / 'model.safetensors').unlink()


def _convert(*flags) -> int:
  done = subprocess.run(
    [sys.executable, '-c', _COMMAND, *map(str, flags)],
    env=runner.environment(),
    capture_output=True,
    text=True,
    check=True,
  )
  code, used, *heavy = done.stdout.split()
  assert code == '0' and not heavy, done
  return int(used)


@pytest.mark.slow
def test_memory_is_bounded_by_the_largest_array(source, tmp_path):
  largest = 4 * WIDTH * INNER
  out = tmp_path / 'out'
  bound = 2.2 * largest + 600e6
  assert _convert(f'--source={source}', f'--output={out}') < bound
  arrays = t5x_format.open_target(out / 'checkpoint_0')
  assert np.asarray(arrays['decoder/layers_3/mlp/down/kernel'][:, :2]).any()
  flags = ['--to_hugging_face', f'--output={tmp_path / "back"}']
  assert _convert(f'--source={out}', *flags) < bound
  one, other = (x / 'model.safetensors' for x in (source, tmp_path / 'back'))
  assert one.stat().st_size == pytest.approx(other.stat().st_size, rel=1e-3)
