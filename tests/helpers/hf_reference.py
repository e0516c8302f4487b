"""transformers' T5 1.1 with random weights, and the same weights as our tree.

Imported inside of the tests that need it: torch and transformers take seconds.
"""

import pytest

torch = pytest.importorskip('torch', reason='needs the extra `hf`')
transformers = pytest.importorskip('transformers', reason='needs `hf`')

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from hypertuning import trees  # noqa: E402

_PROJECTIONS = {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'out'}
_MLP = ('wi_0', 'wi_1', 'wo')


def model(cfg, seed: int = 0):
  """A `T5ForConditionalGeneration` of our config's sizes, float32, eval."""
  hf_config = transformers.T5Config(
    vocab_size=cfg.vocab_size,
    d_model=cfg.emb_dim,
    d_kv=cfg.head_dim,
    d_ff=cfg.mlp_dim,
    num_layers=cfg.num_encoder_layers,
    num_decoder_layers=cfg.num_decoder_layers,
    num_heads=cfg.num_heads,
    relative_attention_num_buckets=cfg.relpos_num_buckets,
    relative_attention_max_distance=cfg.relpos_max_distance,
    feed_forward_proj='gated-gelu',
    tie_word_embeddings=False,
    dropout_rate=0.0,
    pad_token_id=0,
    eos_token_id=1,
    decoder_start_token_id=0,
  )
  hf_model = transformers.T5ForConditionalGeneration(hf_config).eval()
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, weight in hf_model.named_parameters():
      weight.copy_(torch.randn(weight.shape, generator=generator))
      if 'layer_norm' in name:
        weight.mul_(0.2).add_(1.0)
      elif 'shared' not in name and 'relative_attention_bias' not in name:
        weight.div_(weight.shape[1] ** 0.5)  # [out, in]
  return hf_model


def params(hf_model):
  """The model's weights under our names."""
  source = {k: v.detach().numpy() for k, v in hf_model.state_dict().items()}
  flat = {
    'token_embedder/embedding': source['shared.weight'],
    'decoder/logits_dense/kernel': source['lm_head.weight'].T,
  }
  blocks = {
    'encoder': [('SelfAttention', 'attention', 'pre_attention_layer_norm')],
    'decoder': [
      ('SelfAttention', 'self_attention', 'pre_self_attention_layer_norm'),
      (
        'EncDecAttention',
        'encoder_decoder_attention',
        'pre_cross_attention_layer_norm',
      ),
    ],
  }
  depth = {
    'encoder': hf_model.config.num_layers,
    'decoder': hf_model.config.num_decoder_layers,
  }
  for stack, attentions in blocks.items():
    relative = f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias'
    flat[f'{stack}/relpos_bias/rel_embedding'] = source[f'{relative}.weight'].T
    norm = source[f'{stack}.final_layer_norm.weight']
    flat[f'{stack}/{stack}_norm/scale'] = norm
    for i in range(depth[stack]):
      ours = f'{stack}/layers_{i}'
      for j, (theirs, name, norm) in enumerate(attentions):
        layer = f'{stack}.block.{i}.layer.{j}'
        flat[f'{ours}/{norm}/scale'] = source[f'{layer}.layer_norm.weight']
        for short, long in _PROJECTIONS.items():
          kernel = source[f'{layer}.{theirs}.{short}.weight'].T
          flat[f'{ours}/{name}/{long}/kernel'] = kernel
      layer = f'{stack}.block.{i}.layer.{len(attentions)}'
      norm = source[f'{layer}.layer_norm.weight']
      flat[f'{ours}/pre_mlp_layer_norm/scale'] = norm
      for name in _MLP:
        kernel = source[f'{layer}.DenseReluDense.{name}.weight'].T
        flat[f'{ours}/mlp/{name}/kernel'] = kernel
  # A copy: the tests must not share memory with torch.
  return trees.unflatten_paths({k: jnp.array(v) for k, v in flat.items()})


def logits(hf_model, inputs, targets) -> np.ndarray:
  """Teacher-forced logits; id 0 is padding in inputs and targets."""
  decoder_inputs = np.pad(targets[:, :-1], [(0, 0), (1, 0)])
  with torch.no_grad():
    out = hf_model(
      input_ids=torch.tensor(inputs, dtype=torch.long),
      attention_mask=torch.tensor(inputs > 0),
      decoder_input_ids=torch.tensor(decoder_inputs, dtype=torch.long),
      decoder_attention_mask=torch.tensor(targets > 0),
      use_cache=False,
    )
  return out.logits.numpy()
