"""A Llama's prefix in `transformers` and PEFT gives what it gives here."""

import inspect
import re
import textwrap
import types

import bpe
import exported
import numpy as np
import pytest
import runner
import safetensors
import safetensors.torch
import tiny

from hypertuning.adapters import io
from hypertuning.exporting import peft_prefix, rotated_cache

torch = exported.torch
transformers = exported.transformers
peft = pytest.importorskip('peft', reason='needs the extra `hf`')

P = 5
LLAMA3 = {
  'rope_type': 'llama3',
  'rope_theta': 500.0,
  'factor': 4.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 16,
}
BASES = {
  'grouped heads, tied': {'num_key_value_heads': 2},
  'one key head, own head': {
    'num_key_value_heads': 1,
    'tie_word_embeddings': False,
  },
  'equal heads, scaled': {
    'num_key_value_heads': 4,
    'head_dim': 32,
    'rope_parameters': LLAMA3,
  },
}


@pytest.fixture(scope='module', params=BASES)
def base(request, tmp_path_factory):
  """A Llama in both libraries."""
  folder = tmp_path_factory.mktemp('base')
  return exported.base('llama', folder, **BASES[request.param])


@pytest.fixture(scope='module')
def phi(base):
  return tiny.prefix(base.config, 1, P, ('self',))


def _cached(base, phi, rows: int):
  return rotated_cache.to_transformers(phi, base.config, rows)


def _mask(ids):
  """The mask of the prefix and the text."""
  return torch.nn.functional.pad((ids > 0).long(), (P, 0), value=1)


@pytest.mark.parametrize('side', ['right', 'left'])
def test_a_cache_gives_our_logits(base, phi, side):
  """Rows that are padded on the left need positions."""
  inputs, targets = exported.text()
  ids = exported.joined(inputs, targets)
  places = {}
  if side == 'left':
    ids = exported.left_padded(ids)
  ids = torch.tensor(ids).long()
  mask = _mask(ids)
  if side == 'left':
    places = {'position_ids': (mask.cumsum(1) - 1)[:, P:]}
  with torch.no_grad():
    whole = base.load()(
      ids,
      attention_mask=mask,
      cache=_cached(base, phi, len(ids)),
      **places,
    ).logits.numpy()
  if side == 'left':
    pads = (ids.numpy() == 0).sum(1)
    whole = np.stack(
      [np.roll(x, -n, 0) for x, n in zip(whole, pads, strict=True)]
    )
  theirs = exported.of_targets(whole, inputs, targets)
  ours = base.logits(inputs, targets, phi)
  real = targets > 0
  np.testing.assert_allclose(
    ours[real], theirs[real], exported.CLOSE, exported.CLOSE
  )
  assert np.abs(ours - base.logits(inputs, targets))[real].max() > 0.1


def test_a_cache_generates_our_texts(base, phi):
  inputs, _ = exported.text()
  ids = torch.tensor(exported.left_padded(inputs))
  theirs = exported.generate(
    base.load(),
    'llama',
    inputs,
    attention_mask=_mask(ids),
    cache=_cached(base, phi, len(inputs)),
  )
  base.check_texts(theirs, inputs, phi)


def _example() -> str:
  """The ten lines around `transformers.DynamicCache` of the documentation."""
  page = (runner.ROOT / 'docs/adapters.md').read_text('utf-8')
  block = re.search(r'```python\n(.*?)```', page, re.DOTALL)
  example = re.search(
    r'\n\n((?:    .+\n)+)', inspect.getdoc(rotated_cache) or ''
  )
  assert block and example
  assert textwrap.dedent(example[1]) == block[1]
  return block[1]


def test_the_example_runs(base, phi, tmp_path, monkeypatch):
  """It reads a file without this library."""
  source = _example()
  assert len(source.splitlines()) <= 10
  bpe.write(tmp_path / 'tokenizer.json')
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(tmp_path / 'tokenizer.json'),
    padding_side='left',
    pad_token='<|endoftext|>',
  )
  texts = ['Input: hot\nOutput:', 'Input: 12 and 7\nOutput:', 'a']
  rotated_cache.save(phi, base.config, tmp_path / 'phi_cache.safetensors')
  monkeypatch.chdir(tmp_path)
  model = base.load()
  model.generation_config.pad_token_id = 0
  names = {
    **{'torch': torch, 'transformers': transformers, 'model': model},
    **{'safetensors': safetensors, 'tokenizer': tokenizer, 'texts': texts},
  }
  exec(source, names)
  inputs = exported.left_padded(names['batch'].input_ids.numpy()[:, ::-1])
  inputs = inputs[:, ::-1].astype(np.int32)  # padded on the right
  length = names['batch'].input_ids.shape[1]
  assert (inputs == 0).any() and inputs[:, 0].all()
  base.check_texts(names['ids'][:, length:].numpy(), inputs, phi)


def test_a_cache_has_the_device_and_dtype_of_the_model(base, phi):
  model = base.load().to(torch.bfloat16)
  cache = rotated_cache.to_transformers(phi, base.config, 2, model)
  ids = torch.tensor(exported.text(2)[0]).long()
  logits = model(ids, attention_mask=_mask(ids), cache=cache).logits
  assert logits.dtype == torch.bfloat16 and logits.isfinite().all()


def test_a_file_holds_the_cache(base, phi, tmp_path):
  path = tmp_path / 'cache.safetensors'
  rotated_cache.save(phi, base.config, path)
  with safetensors.safe_open(path, 'pt') as file:
    assert file.metadata()['format'] == rotated_cache.FORMAT
    assert file.metadata()['text_position'] == str(P)
  stored = safetensors.torch.load_file(path)
  site = base.config.sites['self']
  shape = (site.layers, site.kv_heads, P, site.head_dim)
  cache = _cached(base, phi, 2)
  for name, attribute in (('key', 'keys'), ('value', 'values')):
    assert stored[name].shape == shape
    assert stored[name].dtype == torch.float32
    for layer, value in zip(cache.layers, stored[name], strict=True):
      assert (getattr(layer, attribute) == value).all()
  # The token at position 0 is not turned, the others are.
  own = np.asarray(phi.sites['self'].key)[0].transpose(1, 2, 0, 3)
  turned = stored['key'].numpy()
  np.testing.assert_array_equal(turned[:, :, 0], own[:, :, 0])
  assert np.abs(turned - own)[:, :, 1:].max() > 0.1


def test_a_saved_prefix_leaves_as_well(base, phi, tmp_path):
  """phi is stored without positions."""
  io.save(phi, tmp_path / 'phi.safetensors', model='tiny', config={})
  loaded = io.load(tmp_path / 'phi.safetensors')
  first, second = (rotated_cache.turned(x, base.config) for x in (phi, loaded))
  np.testing.assert_array_equal(first.key, second.key)


@pytest.fixture(scope='module')
def peft_model(base, phi, tmp_path_factory):
  folder = tmp_path_factory.mktemp('peft') / 'phi'
  peft_prefix.write(phi, base.config, str(folder), str(base.public))
  fields = peft.PeftConfig.from_pretrained(folder)
  assert fields.base_model_name_or_path == str(base.public)
  return peft.PeftModel.from_pretrained(base.load(), folder).eval()


def test_peft_gives_our_logits(base, phi, peft_model):
  base.check_logits(peft_model, exported.text(), phi)


def test_generate_of_peft_is_right_or_known_to_be_wrong(base, phi, peft_model):
  """A release in which it is right needs another docstring and docs page."""
  inputs, _ = exported.text()
  theirs = exported.generate(peft_model, 'llama', inputs)
  without = exported.generate(base.load(), 'llama', inputs)
  # The first row has no padding, on which the mask of this `generate` is wrong.
  if (theirs[0] == without[0]).all():
    text = ' '.join((peft_prefix.__doc__ or '').split())
    assert 'it leaves the prefix out in silence' in text
  else:
    base.check_texts(theirs, inputs, phi)
  # What the docstring offers instead.
  ids = torch.tensor(exported.left_padded(inputs))
  base.check_texts(
    exported.generate(
      peft_model.get_base_model(),
      'llama',
      inputs,
      attention_mask=_mask(ids),
      cache=peft_model.get_prompt(len(inputs)),
    ),
    inputs,
    phi,
  )


def test_missing_libraries_are_named(base, phi, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'transformers', None)
  with pytest.raises(ValueError, match=r"pip install '\.\[hf\]'"):
    _cached(base, phi, 1)
  assert isinstance(transformers, types.ModuleType)
