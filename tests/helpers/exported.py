"""A model in both libraries, for tests of what phi gives in `transformers`."""

import dataclasses
import pathlib

import pytest

torch = pytest.importorskip('torch', reason='needs the extra `hf`')
transformers = pytest.importorskip('transformers', reason='needs `hf`')

import converted  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import public_models  # noqa: E402
import tiny  # noqa: E402

from hypertuning import convert  # noqa: E402
from hypertuning.engine import checkpoints  # noqa: E402
from hypertuning.networks import decoding  # noqa: E402

CLOSE = 1e-4
LENGTH = 8  # of generated texts
_GIN_FILES = {'llama': 'gin/models/llama.gin', 't5': 'gin/models/t5.gin'}
_END = {'llama': 2, 't5': 1}


@dataclasses.dataclass
class Base:
  """A frozen model.

  Attributes:
    kind: 'llama' or 't5'.
    folder: folder that `convert` made.
    public: the same as a folder of Hugging Face's, made from it.
    network: our network.
    params: its parameters, float32.
  """

  kind: str
  folder: pathlib.Path
  public: pathlib.Path
  network: object
  params: dict

  @property
  def config(self):
    """The network's config."""
    return self.network.config

  def load(self, folder=None):
    """The model of `transformers`, by default the base itself."""
    kinds = {
      'llama': transformers.AutoModelForCausalLM,
      't5': transformers.AutoModelForSeq2SeqLM,
    }
    return (
      kinds[self.kind]
      .from_pretrained(folder or self.public, dtype=torch.float32)
      .eval()
    )

  def logits(self, inputs, targets, phi=None) -> np.ndarray:
    """Our logits `[rows, targets, vocab]`."""
    with jax.default_matmul_precision('highest'):
      return np.asarray(
        jax.jit(lambda *args: tiny.logits(self.network, *args))(
          self.params, inputs, targets, phi
        )
      )

  def greedy(self, inputs, phi=None) -> np.ndarray:
    """Our texts, int32 `[rows, LENGTH]`, with 0 behind their ends."""

    def run(params, inputs, phi):
      variables = {'params': params}
      memory = self.network.apply(
        variables, inputs, phi, LENGTH, method='start'
      )
      texts, _ = decoding.greedy(
        lambda ids, memory: self.network.apply(
          variables, ids, memory, method='step'
        ),
        memory,
        end_ids=(_END[self.kind],),
      )
      return texts[:, 0]

    with jax.default_matmul_precision('highest'):
      return np.asarray(jax.jit(run)(self.params, inputs, phi))

  def check_logits(self, model, text, phi) -> None:
    """Compares logits in one batch of texts of different lengths."""
    inputs, targets = text
    ours = self.logits(inputs, targets, phi)
    theirs = logits(model, self.kind, inputs, targets)
    real = targets > 0
    np.testing.assert_allclose(ours[real], theirs[real], CLOSE, CLOSE)
    assert np.abs(ours - self.logits(inputs, targets))[real].max() > 0.1

  def check_texts(self, theirs, inputs, phi) -> None:
    """Compares texts, up to a token that is as likely as another one."""
    ours = self.greedy(inputs, phi)
    assert (ours != self.greedy(inputs)).any(), 'phi changes nothing'
    theirs = np.pad(theirs, [(0, 0), (0, LENGTH - theirs.shape[1])])
    scores = np.sort(self.logits(inputs, ours, phi), axis=-1)
    for row, differs in enumerate(ours != theirs):
      if differs.any():
        first = differs.argmax()
        best, second = scores[row, first, [-1, -2]]
        assert best - second < CLOSE, (row, ours[row], theirs[row])


def base(kind: str, folder: pathlib.Path, **overrides) -> Base:
  """A random model, which goes through our converter both ways."""
  model = getattr(public_models, kind)(**overrides)
  source = public_models.save(model, folder / 'source')
  own, public = folder / 'own', folder / 'public'
  convert.convert(source, own)
  convert.to_hugging_face(own, public)
  network = converted.network(own, _GIN_FILES[kind])
  params = checkpoints.restore_variables(str(own))
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
  return Base(kind, own, public, network, params)


def text(rows: int = 4, seed: int = 0):
  """Inputs and targets of different lengths, padded on the right."""
  rng = np.random.default_rng(seed)
  return _ragged(rng, rows, 9), _ragged(rng, rows, 7)


def _ragged(rng, rows: int, length: int) -> np.ndarray:
  ids = rng.integers(3, 250, (rows, length), dtype=np.int32)
  lengths = np.r_[length, 2, rng.integers(2, length, rows - 2)]
  return np.where(np.arange(length) < lengths[:, None], ids, 0)


def joined(inputs, targets) -> np.ndarray:
  """Prompts and targets in one row each, int `[rows, inputs + targets]`."""
  rows = [
    np.concatenate([x[x > 0], y[y > 0]])
    for x, y in zip(inputs, targets, strict=True)
  ]
  length = inputs.shape[1] + targets.shape[1]
  return np.stack([np.pad(row, (0, length - len(row))) for row in rows])


def of_targets(logits, inputs, targets) -> np.ndarray:
  """The logits of the targets among those of `joined` rows."""
  places = (inputs > 0).sum(1)[:, None] - 1 + np.arange(targets.shape[1])
  return np.take_along_axis(logits, places[..., None], axis=1)


def left_padded(inputs) -> np.ndarray:
  """The same rows, padded on the left."""
  rows = [np.roll(x, (x == 0).sum()) for x in inputs]
  return np.stack(rows)


def logits(model, kind: str, inputs, targets) -> np.ndarray:
  """Logits `[rows, targets, vocab]` of a model of `transformers` or PEFT."""
  with torch.no_grad():
    if kind == 't5':
      decoder_inputs = np.pad(targets[:, :-1], [(0, 0), (1, 0)])
      return model(
        input_ids=torch.tensor(inputs).long(),
        attention_mask=torch.tensor(inputs > 0).long(),
        decoder_input_ids=torch.tensor(decoder_inputs).long(),
      ).logits.numpy()
    ids = torch.tensor(joined(inputs, targets)).long()
    whole = model(input_ids=ids, attention_mask=(ids > 0).long()).logits
  return of_targets(whole.numpy(), inputs, targets)


def generate(model, kind: str, inputs, **arguments) -> np.ndarray:
  """Greedy texts of a model of `transformers` or PEFT, without the prompts.

  Args:
    model: the model.
    kind: 'llama' or 't5'.
    inputs: prompts, padded on the right.
    **arguments: further arguments of `generate`, which may replace the mask.
  """
  ids = torch.tensor(inputs if kind == 't5' else left_padded(inputs)).long()
  fields = {
    'attention_mask': (ids > 0).long(),
    'max_new_tokens': LENGTH,
    'do_sample': False,
    'pad_token_id': 0,
  }
  out = model.generate(input_ids=ids, **{**fields, **arguments}).numpy()
  return out[:, 1:] if kind == 't5' else out[:, ids.shape[1] :]
