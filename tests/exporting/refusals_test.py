"""What cannot leave: one line with the reason, and nothing half-written."""

import types

import converted
import disks
import jax
import numpy as np
import pytest
import tiny
import tiny_llama

from hypertuning import files, folders, quantization
from hypertuning.adapters import KeyValue, LoRA, Prefix
from hypertuning.api import frozen_source
from hypertuning.engine import checkpoints
from hypertuning.errors import UserError
from hypertuning.exporting import (
  merged,
  peft_lora,
  peft_prefix,
  rotated_cache,
)

LLAMA, T5 = tiny_llama.config(), tiny.config()
PREFIX = tiny.prefix(LLAMA, 1, where=('self',))
LORA = tiny.lora(LLAMA, 1, where=('self',))


def _prefix_writers(phi, config, folder):
  """All ways out of a prefix, as functions without arguments."""
  return (
    lambda: peft_prefix.write(phi, config, str(folder / 'peft'), 'base'),
    lambda: rotated_cache.save(phi, config, folder / 'cache.safetensors'),
    lambda: rotated_cache.to_transformers(phi, config, 1),
  )


def _lora_writers(phi, config, folder):
  """All ways out of LoRA, as functions without arguments."""
  return (
    lambda: peft_lora.write(phi, config, str(folder / 'peft'), 'base'),
    # The base is not looked at.
    lambda: merged.write(phi, config, None, folder / 'merged'),
  )


def _check(writers, folder, *words) -> None:
  before = set(folder.iterdir())
  for write in writers:
    with pytest.raises(UserError) as caught:
      write()
    message = str(caught.value)
    assert '\n' not in message
    for word in words:
      assert word in message
  assert set(folder.iterdir()) == before, 'half-written'


def test_a_prefix_of_t5_stays(tmp_path):
  phi = tiny.prefix(T5, 1)
  writers = _prefix_writers(phi, T5, tmp_path)
  _check(writers, tmp_path, 'relative bias', 'no cache', 'hyper_t5_lora.gin')


def test_the_positions_of_the_author_stay(tmp_path):
  config = LLAMA.replace(prefix_gap=4)
  writers = _prefix_writers(PREFIX, config, tmp_path)
  _check(writers, tmp_path, 'PREFIX_GAP = 4', 'or LoRA')


def test_lora_does_not_ask_for_the_gap(tmp_path):
  config = LLAMA.replace(prefix_gap=4)
  peft_lora.write(LORA, config, str(tmp_path / 'peft'), 'base')


def test_a_prefix_with_a_mask_stays(tmp_path):
  phi = PREFIX.replace(mask=np.ones((1, 3), bool))
  writers = _prefix_writers(phi, LLAMA, tmp_path)
  _check(writers, tmp_path, 'with a mask', 'into the prompt')


def test_several_episodes_stay(tmp_path):
  phi = tiny.prefix(LLAMA, 2, where=('self',))
  words = ('2 episodes', 'one at a time')
  _check(_prefix_writers(phi, LLAMA, tmp_path), tmp_path, *words)
  phi = tiny.lora(LLAMA, 3, where=('self',))
  words = ('3 episodes', 'one at a time')
  _check(_lora_writers(phi, LLAMA, tmp_path), tmp_path, *words)


def test_the_other_kind_is_named(tmp_path):
  _check(_prefix_writers(LORA, LLAMA, tmp_path), tmp_path, 'phi is LoRA')
  _check(_lora_writers(PREFIX, LLAMA, tmp_path), tmp_path, 'phi is a prefix')


def test_phi_of_another_model(tmp_path):
  deeper = LLAMA.replace(num_layers=3)
  _check(_prefix_writers(PREFIX, deeper, tmp_path), tmp_path, 'its keys are (1')
  words = ('self/query are (1, 2', 'they are (1, 3')
  _check(_lora_writers(LORA, deeper, tmp_path), tmp_path, *words)
  words = ('self/query is no projection',)
  _check(_lora_writers(LORA, T5, tmp_path), tmp_path, *words)
  own = PREFIX.sites['self']
  phi = Prefix({'self': own, 'other': own})
  _check(_prefix_writers(phi, LLAMA, tmp_path), tmp_path, 'self, other')
  phi = Prefix({'self': KeyValue(own.key, own.value[..., :2])})
  _check(_prefix_writers(phi, LLAMA, tmp_path), tmp_path, 'its values are (1')


def test_ranks_that_differ(tmp_path):
  wide = tiny.lora(LLAMA, 1, 3, ('mlp',), ('up',))
  phi = LoRA({**LORA.sites, **wide.sites}, LORA.scale)
  writers = _lora_writers(phi, LLAMA, tmp_path)[:1]
  _check(writers, tmp_path, 'one rank', '[2, 3]')


def test_a_network_that_transformers_lacks(tmp_path):
  config = types.SimpleNamespace(sites=LLAMA.sites)
  for writers in (
    _prefix_writers(PREFIX, config, tmp_path),
    _lora_writers(LORA, config, tmp_path)[:1],
  ):
    _check(writers, tmp_path, 'no such architecture', 'LlamaForCausalLM')


def test_a_folder_that_is_there(tmp_path):
  for name in ('peft', 'merged'):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'mine').write_text('x')
  writers = (
    *_lora_writers(LORA, LLAMA, tmp_path),
    _prefix_writers(PREFIX, LLAMA, tmp_path)[0],
  )
  _check(writers, tmp_path, 'is there already; give a new folder')
  assert [x.name for x in (tmp_path / 'peft').iterdir()] == ['mine']
  with pytest.raises(UserError, match="^--output = '.*: is there already"):
    peft_lora.write(LORA, LLAMA, str(tmp_path / 'peft'), '', '--output')
  (tmp_path / 'peft/mine').unlink()
  peft_lora.write(LORA, LLAMA, str(tmp_path / 'peft'), '')  # empty by now
  with pytest.raises(UserError, match='in a bucket'):
    peft_lora.write(LORA, LLAMA, 'gs://bucket/peft', '')


def test_a_full_disk(tmp_path, monkeypatch):
  """Before the work, and in the middle of it."""
  phi = tiny.lora(LLAMA, 1, 512, where=('self',))
  long = tiny.prefix(LLAMA, 1, 4000, where=('self',))
  with disks.small_disk(tmp_path / 'disk', '128k') as disk:
    _check(_lora_writers(phi, LLAMA, disk)[:1], disk, 'the disk has')
    _check(_prefix_writers(long, LLAMA, disk)[:1], disk, 'the disk has')
    # Another command may fill it meanwhile.
    room = types.SimpleNamespace(free=2**40)
    monkeypatch.setattr(files.shutil, 'disk_usage', lambda _: room)
    words = ('cannot be written (No space left',)
    _check(_lora_writers(phi, LLAMA, disk)[:1], disk, *words)
    _check(_prefix_writers(long, LLAMA, disk)[:2], disk, *words)


def test_an_error_leaves_no_folder(tmp_path):
  with (
    pytest.raises(KeyboardInterrupt),
    folders.written(tmp_path / 'out', 'folder') as folder,
  ):
    (folder / 'part').write_text('x')
    raise KeyboardInterrupt
  assert not list(tmp_path.iterdir())


@pytest.fixture(scope='module')
def own(tmp_path_factory):
  """A Llama that `convert` made, and the config of its network."""
  public_models = pytest.importorskip('public_models')
  from hypertuning import convert

  folder = tmp_path_factory.mktemp('own')
  convert.convert(
    public_models.save(public_models.llama(), folder / 'source'),
    folder / 'own',
  )
  network = converted.network(folder / 'own', 'gin/models/llama.gin')
  return folder / 'own', network.config


@pytest.mark.parametrize('kind', ['int8', 'nf4'])
def test_kernels_in_few_bits_are_not_merged(own, tmp_path, kind):
  source, config = own
  params = checkpoints.restore_variables(str(source))
  kernel = params['decoder']['layers_0']['mlp']['up']['kernel']
  params['decoder']['layers_0']['mlp']['up']['kernel'] = quantization.converted(
    kernel, quantization.quantize(kernel, kind)
  )
  run = checkpoints.Checkpointer(str(tmp_path / 'run'))
  frozen = {'frozen': {'downstream': params}}
  state = {'target': {'hypermodel': {}}, 'flax_mutables': frozen}
  run.save(3, state, {'episode': np.asarray(0)})
  run.close()
  phi = tiny.lora(config, 1, where=('self',))

  def write() -> None:
    base = frozen_source.read(tmp_path / 'run', 'checkpoint', source)
    merged.write(phi, config, base, tmp_path / 'merged')

  _check([write], tmp_path, '8 or 4 bits', 'PEFT')


def test_another_checkpoint_is_not_merged(own, tmp_path):
  source, config = own
  phi = tiny.lora(LLAMA, 1, where=('self',))

  def write(checkpoint) -> None:
    base = frozen_source.read(checkpoint, 'checkpoint')
    merged.write(phi, LLAMA, base, tmp_path / 'merged')

  _check([lambda: write(source)], tmp_path, 'a model of other sizes')
  _check([lambda: write(tmp_path)], tmp_path, 'checkpoint = ', 'model.gin')
  phi = tiny.lora(config, 1, where=('self',))
  base = frozen_source.read(source, 'checkpoint')
  with pytest.raises(UserError, match=r'^output = .* \[ or \]'):
    merged.write(phi, config, base, tmp_path / 'a[b]')


def test_a_full_disk_leaves_no_merged_model(own, tmp_path, monkeypatch):
  source, config = own
  phi = tiny.lora(config, 1, where=('self',))
  assert jax.tree.leaves(phi)
  with disks.small_disk(tmp_path / 'disk', '2m') as disk:
    base = frozen_source.read(source, 'checkpoint')

    def write() -> None:
      merged.write(phi, config, base, disk / 'merged')

    _check([write], disk, 'the disk has')
    room = types.SimpleNamespace(free=2**40)
    monkeypatch.setattr(files.shutil, 'disk_usage', lambda _: room)
    _check([write], disk, 'cannot be written (No space left')
