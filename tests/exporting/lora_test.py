"""LoRA in PEFT, and merged into weights, gives what it gives here."""

import json

import exported
import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny

from hypertuning import convert, trees
from hypertuning.api import frozen_source
from hypertuning.engine import checkpoints
from hypertuning.exporting import merged, peft_lora

peft = pytest.importorskip('peft', reason='needs the extra `hf`')

_T5_SITES = (
  *('encoder_self', 'decoder_self', 'decoder_cross'),
  *('encoder_mlp', 'decoder_mlp'),
)
_T5_MODULES = ('query', 'key', 'value', 'out', 'wi_0', 'wi_1', 'wo')
_LLAMA_MODULES = ('query', 'key', 'value', 'out', 'gate', 'up', 'down')
# Names of sites, projections, rank, scale.
CASES = {
  't5': {
    'all': (_T5_SITES, _T5_MODULES, 3, 0.5),
    'cross': (('decoder_cross',), ('key', 'value'), 1, 2.0),
    'encoder': (('encoder_self', 'encoder_mlp'), ('query', 'wo'), 4, 0.3),
  },
  'llama': {
    'all': (('self', 'mlp'), _LLAMA_MODULES, 3, 0.5),
    'own head': (('self', 'mlp'), ('value', 'down'), 2, 1 / 3),
  },
}
IDS = [(kind, name) for kind, cases in CASES.items() for name in cases]


@pytest.fixture(scope='module')
def bases(tmp_path_factory):
  """A model of each kind; the two Llamas differ in their heads."""
  make = exported.base
  llama = {'num_key_value_heads': 2, 'tie_word_embeddings': True}
  own_head = {'num_key_value_heads': 4, 'tie_word_embeddings': False}
  # Not the other way round: `generate` makes a cache for `num_layers` layers.
  depths = {'num_layers': 3, 'num_decoder_layers': 2}
  t5 = make('t5', tmp_path_factory.mktemp('t5'), **depths)
  return {
    **{('t5', name): t5 for name in CASES['t5']},
    ('llama', 'all'): make('llama', tmp_path_factory.mktemp('llama'), **llama),
    ('llama', 'own head'): make(
      'llama', tmp_path_factory.mktemp('own_head'), **own_head
    ),
  }


def _phi(base, case):
  sites, modules, rank, scale = CASES[case[0]][case[1]]
  # An update of a part of the weights' size, at a width of 256.
  phi = tiny.lora(base.config, 1, rank, sites, modules, scale)
  return jax.tree.map(lambda x: x * 0.4, phi)


@pytest.mark.parametrize('case', IDS, ids='-'.join)
def test_peft_gives_our_logits_and_texts(bases, tmp_path, case):
  base = bases[case]
  phi = _phi(base, case)
  folder = tmp_path / 'phi'
  peft_lora.write(phi, base.config, str(folder), str(base.public))
  model = peft.PeftModel.from_pretrained(base.load(), folder).eval()
  stored = safetensors.numpy.load_file(folder / 'adapter_model.safetensors')
  made = {
    name.replace('.default', '')
    for name, _ in model.named_parameters()
    if 'lora_' in name
  }
  assert made == set(stored)  # none is missing, and PEFT makes no other
  assert all(np.any(value) for value in stored.values())
  text = exported.text()
  base.check_logits(model, text, phi)
  theirs = exported.generate(model, base.kind, text[0])
  base.check_texts(theirs, text[0], phi)


@pytest.mark.parametrize('case', IDS, ids='-'.join)
def test_fields_are_those_of_the_adapter(bases, tmp_path, case):
  base = bases[case]
  _, _, rank, scale = CASES[case[0]][case[1]]
  folder = tmp_path / 'phi'
  peft_lora.write(_phi(base, case), base.config, str(folder), 'some/base')
  fields = json.loads((folder / 'adapter_config.json').read_text())
  assert fields['base_model_name_or_path'] == 'some/base'
  assert fields['r'] == rank and fields['lora_alpha'] / rank == scale
  wanted = {
    ('t5', 'cross'): ['EncDecAttention.k', 'EncDecAttention.v'],
    # The decoder has the same short names, but one layer less.
    ('t5', 'encoder'): [
      '1.DenseReluDense.wo',
      '2.layer.0.SelfAttention.q',
      'encoder.block.0.layer.0.SelfAttention.q',
      'encoder.block.1.layer.0.SelfAttention.q',
    ],
    ('llama', 'own head'): ['down_proj', 'v_proj'],
  }
  if case in wanted:
    assert fields['target_modules'] == wanted[case]
  assert peft.PeftConfig.from_pretrained(folder).r == rank


@pytest.mark.parametrize('case', IDS, ids='-'.join)
def test_merged_weights_need_no_adapter(bases, tmp_path, case):
  base = bases[case]
  phi = _phi(base, case)
  frozen = frozen_source.read(base.folder, 'checkpoint')
  merged.write(phi, base.config, frozen, tmp_path / 'merged')
  assert {x.name for x in (tmp_path / 'merged').iterdir()} == {
    x.name for x in base.folder.iterdir()
  }
  gin_file = (tmp_path / 'merged/model.gin').read_text()
  assert str(base.folder) not in gin_file
  convert.to_hugging_face(tmp_path / 'merged', tmp_path / 'public')
  model = base.load(tmp_path / 'public')
  text = exported.text()
  base.check_logits(model, text, phi)
  theirs = exported.generate(model, base.kind, text[0])
  base.check_texts(theirs, text[0], phi)


@pytest.mark.parametrize('scan', [False, True])
def test_a_run_is_merged_too(bases, tmp_path, scan):
  """Its downstream model, whose layers may be stacked."""
  base = bases['llama', 'all']
  phi = _phi(base, ('llama', 'all'))
  params = checkpoints.restore_variables(str(base.folder))
  if scan:
    params = tiny.stack_layers(params)
  run = checkpoints.Checkpointer(str(tmp_path / 'run'))
  state = {'target': {'downstream': params}, 'flax_mutables': {}}
  run.save(3, state, {'episode': np.asarray(0)})
  run.close()
  config = base.config.replace(scan_layers=scan)
  for source, like in ((base.folder, None), (tmp_path / 'run', base.folder)):
    output = tmp_path / f'from_{source.name}'
    frozen = frozen_source.read(source, 'checkpoint', like)
    merged.write(phi, config, frozen, output)
  first, second = (
    trees.flatten_paths(checkpoints.restore_variables(str(tmp_path / name)))
    for name in ('from_own', 'from_run')
  )
  assert first.keys() == second.keys()
  for name, value in first.items():
    np.testing.assert_array_equal(value, second[name], name)


def test_weights_keep_their_dtype(tmp_path):
  """A sum is rounded once."""
  import public_models

  source = public_models.save(
    public_models.llama().to(exported.torch.bfloat16), tmp_path / 'source'
  )
  convert.convert(source, tmp_path / 'own')
  params = checkpoints.restore_variables(str(tmp_path / 'own'))
  from hypertuning.conversion import families, sources

  config = families.LLAMA.config(sources.read_config(tmp_path / 'own'))
  phi = tiny.lora(config, 1, 2, ('mlp',), ('up',))
  base = frozen_source.read(tmp_path / 'own', 'checkpoint')
  merged.write(phi, config, base, tmp_path / 'merged')
  found = checkpoints.restore_variables(str(tmp_path / 'merged'))
  kernel = params['decoder']['layers_1']['mlp']['up']['kernel']
  factors = phi.sites['mlp']['up']
  update = phi.scale * np.asarray(factors.a[0, 1] @ factors.b[0, 1])
  own = found['decoder']['layers_1']['mlp']['up']['kernel']
  assert own.dtype == kernel.dtype
  wanted = (kernel.astype(np.float32) + update).astype(kernel.dtype)
  close = np.isclose(own.astype(np.float32), wanted.astype(np.float32), 1e-2)
  assert close.all() and (own == wanted).mean() > 0.99
