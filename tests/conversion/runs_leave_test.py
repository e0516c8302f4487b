"""A run of our own leaves for `transformers`, though it has no config.json."""

import json
import shutil

import exported
import jax
import numpy as np
import pytest
import tiny_runs

import hypertuning
from hypertuning import command_line, convert
from hypertuning.conversion import families, origins
from hypertuning.conversion.fields import Fields
from hypertuning.data import text_format
from hypertuning.data.tokenizer_json import TokenizerJson
from hypertuning.networks.llama_config import LlamaConfig
from hypertuning.networks.rotary import Rotary, RotaryScaling
from hypertuning.networks.t5_config import T5Config

# Their runs are trained first, for half a minute and more.
pytestmark = pytest.mark.slow

peft = pytest.importorskip('peft', reason='needs the extra `hf`')

EXAMPLES = [('1a', 'aB'), ('2c', 'cD')]
KINDS = {'lora': 't5', 'hyper_llama': 'llama', 'hyper_llama_lora': 'llama'}


def _t5(rng) -> T5Config:
  sizes = rng.integers(1, 99, 9).tolist()
  return T5Config(
    sizes[0],
    emb_dim=sizes[1],
    num_heads=sizes[2],
    num_encoder_layers=sizes[3],
    num_decoder_layers=sizes[4],
    head_dim=sizes[5],
    mlp_dim=sizes[6],
    logits_via_embedding=bool(rng.integers(2)),
    relpos_num_buckets=sizes[7],
    relpos_max_distance=sizes[8],
  )


def _llama(rng) -> LlamaConfig:
  sizes = rng.integers(1, 99, 7).tolist()
  scaling = RotaryScaling(
    float(rng.uniform(1, 9)), float(rng.uniform(0.1, 1)), 4.0, sizes[0]
  )
  return LlamaConfig(
    sizes[0],
    emb_dim=sizes[1],
    num_layers=sizes[2],
    num_heads=sizes[3] * 2,
    num_kv_heads=[2, sizes[3]][rng.integers(2)],
    head_dim=sizes[4] * 2,
    mlp_dim=sizes[5],
    max_length=sizes[6],
    rotary=Rotary(float(rng.uniform(1, 1e6)), [None, scaling][rng.integers(2)]),
    norm_epsilon=float(rng.uniform(1e-7, 1e-4)),
    tied_embedding=bool(rng.integers(2)),
  )


@pytest.mark.parametrize('seed', range(20))
@pytest.mark.parametrize(
  ('family', 'draw'), [(families.T5, _t5), (families.LLAMA, _llama)]
)
def test_fields_are_the_inverse_of_config(family, draw, seed):
  wanted = draw(np.random.default_rng(seed))
  text = json.dumps(family.fields(wanted))
  fields = Fields(json.loads(text), 'config.json')
  assert family.config(fields) == wanted
  assert families.find(fields) is families.find_by_config(wanted) is family


def test_what_transformers_does_not_have_stays():
  with pytest.raises(hypertuning.UserError, match='mlp_activations'):
    families.T5.fields(T5Config(9, mlp_activations=('relu',)))


@pytest.fixture(scope='module', params=KINDS)
def run(request, tmp_path_factory):
  """A trained run, and the folder of Hugging Face's that it leaves as."""
  root = tmp_path_factory.mktemp(request.param)
  tiny_runs.make(root / 'run', request.param)
  flags = [f'--source={root}/run', f'--output={root}/public']
  assert command_line.run(convert.main, ['--to_hugging_face', *flags]) == 0
  return KINDS[request.param], root


def _base(kind, root) -> exported.Base:
  """The run's frozen model in both libraries."""
  model = hypertuning.load(root / 'run')
  network = model.network.module.downstream
  params = {**model.params, **model.frozen}['downstream']
  return exported.Base(kind, root / 'run', root / 'public', network, params)


def test_a_run_gives_our_logits(run):
  kind, root = run
  base = _base(kind, root)
  inputs, targets = exported.text()
  ours = base.logits(inputs, targets)
  theirs = exported.logits(base.load(), kind, inputs, targets)
  real = targets > 0
  np.testing.assert_allclose(
    ours[real], theirs[real], exported.CLOSE, exported.CLOSE
  )


def test_its_phi_gives_our_logits_with_peft(run, tmp_path):
  kind, root = run
  base = _base(kind, root)
  phi = hypertuning.load(root / 'run').adapt(EXAMPLES)
  # A tiny run's update is a small one; a large one shows a wrong place.
  phi = hypertuning.Phi(
    jax.tree.map(lambda x: x * 20, phi.adapters), phi.base, phi.made
  )
  phi.to_peft(tmp_path / 'phi', str(base.public))
  model = peft.PeftModel.from_pretrained(base.load(), tmp_path / 'phi').eval()
  base.check_logits(model, exported.text(), phi.adapters)


def test_the_files_say_what_the_model_is(run, capfd):
  kind, root = run
  names = {path.name for path in (root / 'public').iterdir()}
  assert names == {'config.json', 'model.safetensors'}  # bytes have no file
  fields = json.loads((root / 'public/config.json').read_text())
  assert fields['eos_token_id'] == 1 and fields['pad_token_id'] == 0
  flags = [f'--source={root}/run', f'--output={root}/again']
  capfd.readouterr()
  assert command_line.run(convert.main, ['--to_hugging_face', *flags]) == 0
  out = capfd.readouterr().out
  assert 'without a tokenizer' in out and out.count('\n') == 1


def test_a_vocabulary_with_a_file_brings_it(tmp_path):
  """Ids that have changed places here are in their own places there."""
  import bpe

  path = tmp_path / 'mine.json'
  bpe.write(path)
  ids = TokenizerJson(str(path), bpe.SPECIAL[0])
  one, other = ids.swapped_ids
  form = text_format.custom_format(ids, start=(1,), end_ids=(2, other))
  config = LlamaConfig(ids.size)
  origin = origins.from_network(config, form, 'run', '')
  assert origin.files == {'tokenizer.json': path.read_bytes()}
  values = origin.fields.values
  assert values['eos_token_id'] == [2, one]
  assert values['bos_token_id'] == 1 and values['pad_token_id'] == other


def test_a_checkpoint_without_a_model_file_is_refused(run, tmp_path, capfd):
  _, root = run
  checkpoint = next((root / 'run').glob('checkpoint_*'))
  shutil.copytree(checkpoint, tmp_path / checkpoint.name)
  flags = [f'--source={tmp_path / checkpoint.name}', f'--output={tmp_path}/x']
  assert command_line.run(convert.main, ['--to_hugging_face', *flags]) == 2
  err = capfd.readouterr().err
  assert 'has no config.json and no model.gin' in err and '--like' in err
