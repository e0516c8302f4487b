"""What the benchmarks of a step can train, and how large its batches are."""

from typing import NamedTuple


class Method(NamedTuple):
  """What is trained.

  Attributes:
    files: names of gin files in gin/models, later ones win.
    bindings: gin bindings behind them.
    peer: what Hugging Face's libraries train in the same way: `full`, `lora` or
      `prefix`; None where they have nothing like it.
    reads_examples: whether a hypermodel reads `hyper_inputs`.
  """

  files: tuple[str, ...]
  bindings: tuple[str, ...] = ()
  peer: str | None = None
  reads_examples: bool = False


# PEFT's prefix of a T5 is for its decoder alone.
_DECODER = ("PREFIX_SITES = ('decoder_self',)",)
METHODS = {
  't5': {
    'full': Method(('t5',), peer='full'),
    'lora': Method(('hyper_t5_lora', 'learned'), peer='lora'),
    'prefix': Method(('hyper_t5_prefix', 'learned'), _DECODER, 'prefix'),
    'hyper_lora': Method(('hyper_t5_lora',), reads_examples=True),
    'hyper_prefix': Method(('hyper_t5_prefix',), reads_examples=True),
    'gist': Method(('gist_t5',), reads_examples=True),
  },
  'llama': {
    'full': Method(('llama',), peer='full'),
    'lora': Method(('hyper_llama_lora', 'learned'), peer='lora'),
    'prefix': Method(('hyper_llama', 'learned'), peer='prefix'),
    'hyper_lora': Method(('hyper_llama_lora',), reads_examples=True),
    'gist': Method(('hyper_llama',), reads_examples=True),
  },
}


class Shape(NamedTuple):
  """The size of a batch without padding.

  Attributes:
    episodes: number of episodes.
    queries: number of queries per episode.
    hyper_inputs: number of tokens per episode that a hypermodel reads.
    inputs: number of tokens per input.
    targets: number of tokens per target.
  """

  episodes: int
  queries: int
  hyper_inputs: int
  inputs: int
  targets: int

  def tokens(self, reads_examples: bool) -> int:
    """The number of tokens that a step reads.

    Args:
      reads_examples: whether a hypermodel reads `hyper_inputs`.
    """
    text = self.queries * (self.inputs + self.targets)
    return self.episodes * (text + reads_examples * self.hyper_inputs)
