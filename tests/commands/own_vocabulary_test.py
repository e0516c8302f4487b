"""A HyperLlama on a user's own files, in the vocabulary of a tokenizer.json."""

import json

import bpe
import pytest
import runner
import tiny
import tiny_llama

from hypertuning.adapters import PrefixSpec
from hypertuning.data.tokenizer_json import TokenizerJson
from hypertuning.engine import batching
from hypertuning.errors import UserError
from hypertuning.hypermodels.gist import Gist
from hypertuning.hypermodels.learned import Learned
from hypertuning.networks.llama import Llama

LENGTHS = {'hyper_inputs': 60, 'inputs': (2, 24), 'targets': (2, 8)}
FILES = (
  'gin/models/hyper_llama.gin',
  'gin/models/sizes/tiny.gin',
  'gin/optimizers/adamw.gin',
  'gin/local/train.gin',
)
MINE = """
from __gin__ import dynamic_registration
import optax
from hypertuning.data import text_format
from hypertuning.tasks import own

include 'gin/models/formats/lines.gin'

END_TOKEN = '<|im_end|>'
VOCABULARY_FILE = '{folder}/tokenizer.json'
text_format.custom_format.start = (1,)
text_format.custom_format.between = {newline} * 2
text_format.custom_format.target_end = {newline}
MIXTURE_OR_TASK_NAME = @own.task_file()
own.task_file.name = 'mine'
own.task_file.train = '{folder}/rows.jsonl'
own.task_file.validation = '{folder}/rows.jsonl'
own.task_file.shots = 2
own.task_file.queries = 2
own.task_file.text_format = %TEXT_FORMAT
optax.warmup_cosine_decay_schedule.decay_steps = 9
"""


@pytest.fixture
def folder(tmp_path):
  path = bpe.write(tmp_path / 'tokenizer.json')
  newline = tuple(TokenizerJson(path, '<|im_end|>').encode('\n'))
  rows = [
    {'inputs': f'Is {i} even? <|im_end|>', 'targets': ('yes', 'no')[i % 2]}
    for i in range(12)
  ]
  lines = '\n'.join(map(json.dumps, rows))
  (tmp_path / 'rows.jsonl').write_text(lines)
  mine = MINE.replace('{newline} * 2', str(newline * 2))
  mine = mine.replace('{newline}', str(newline))
  (tmp_path / 'mine.gin').write_text(mine.replace('{folder}', str(tmp_path)))
  return tmp_path


@pytest.mark.slow
def test_a_run_that_stopped_equals_one_that_did_not(folder, monkeypatch, capfd):
  def train(name, **bindings):
    return runner.main(
      'train',
      [*FILES, str(folder / 'mine.gin')],
      {
        'TASK_FEATURE_LENGTHS': LENGTHS,
        **{'VOCAB_SIZE': 512, 'NUM_LAYERS': 1, 'NUM_GISTS': 2},
        **{'TRAIN_STEPS': 4, 'BATCH_SIZE': 8, 'EVAL_PERIOD': 0},
        **{'CHECKPOINT_PERIOD': 2, 'WARMUP_STEPS': 1},
        'MODEL_DIR': str(folder / name),
        **bindings,
      },
      monkeypatch,
      capfd,
    )

  for bindings, words in (
    ({'VOCAB_SIZE': 384}, 'set VOCAB_SIZE to at least 400'),
    ({'MAX_LENGTH': 61}, '60 hyper inputs and 2 gists take 62 positions'),
    ({'VOCABULARY_FILE': 'none.json'}, 'none.json: no such file'),
    ({'NUM_KV_HEADS': 3}, 'NUM_KV_HEADS = 3 does not divide'),
  ):
    code, error = train('refused', **bindings)
    assert code and words in error and error.count('\n') == 1, error
  assert not (folder / 'refused').exists()
  assert train('whole')[0] == 0
  assert train('parts', TRAIN_STEPS=2)[0] == 0
  assert train('parts')[0] == 0
  whole, parts = (_losses(folder / name) for name in ('whole', 'parts'))
  assert whole == parts and whole


def _losses(path):
  """Losses of the last step, exactly."""
  lines = (path / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [
    (row['step'], name, value)
    for row in rows
    for name, value in row.items()
    if name.endswith('/loss') and row['step'] == 4
  ]


def _model(source, **config):
  cfg = tiny_llama.config(max_length=50, **config)
  return tiny.model(downstream=Llama(cfg), hypermodel=source(cfg))


@pytest.mark.parametrize(
  ('source', 'lengths', 'words'),
  [
    (lambda cfg: None, (99, 43, 8), ''),
    (lambda cfg: None, (99, 44, 8), '44 inputs and 8 targets take 51'),
    (lambda cfg: Gist(cfg, 6), (44, 37, 8), ''),
    (lambda cfg: Gist(cfg, 6), (45, 37, 8), '45 hyper inputs and 6 gists'),
    (lambda cfg: Gist(cfg, 6), (44, 38, 8), 'a prefix of 6, 38 inputs and 8'),
    (lambda cfg: Gist(cfg, 6), ((2, 38), 37, 8), ''),
    (lambda cfg: Gist(cfg, 6), ((2, 39), 37, 8), '39 hyper inputs and 12 gis'),
    (
      lambda cfg: Gist(cfg, 6, chunks='concatenated'),
      ((2, 44), 38, 8),
      'a prefix of 12, 38 inputs',
    ),
    (
      lambda cfg: Gist(cfg, 6, tower=Llama(cfg.replace(max_length=49))),
      (44, 37, 8),
      'MAX_LENGTH = 49, but 44 hyper inputs and 6 gists take 50 positions',
    ),
    (
      lambda cfg: Learned(cfg, PrefixSpec(7, ('self',))),
      (99, 37, 8),
      'a prefix of 7, 37 inputs and 8 targets take 51 positions',
    ),
  ],
)
def test_text_beyond_the_positions_of_a_model_is_refused(
  source, lengths, words
):
  hyper, inputs, targets = lengths
  given = {
    'hyper_inputs': hyper,
    'inputs': (2, inputs),
    'targets': (2, targets),
  }
  model = _model(source)
  if not words:
    batching.check_positions(model, given)
    return
  with pytest.raises(UserError) as error:
    batching.check_positions(model, given)
  assert words in str(error.value) and '\n' not in str(error.value)


def test_t5_has_no_end_of_positions():
  batching.check_positions(runner.model(), {'inputs': 'no lengths'})
