"""What a server accepts, so that no request can exhaust it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
  """Bounds on requests, and on what the server keeps.

  Attributes:
    body_bytes: bytes of a JSON body.
    adapter_bytes: bytes of an adapter file that a client sends.
    body_seconds: seconds in which a body must have come.
    examples: examples per request.
    characters: characters of one text.
    draws: orders of the examples whose mean phi is taken.
    queries: queries per request.
    max_tokens: tokens of an answer.
    question_tokens: tokens of a query with the examples before it, and of the
      answer.
    pass_tokens: tokens that are read at once: the examples of all draws, or the
      rows of a batch with their padding.
    rows: questions in a batch.
    kept: phi in memory; the one that was used longest ago is dropped.
    requests: requests with a body at once; more are told to come again.
    seconds: seconds that a request may take.
  """

  body_bytes: int = 1 << 20
  adapter_bytes: int = 64 << 20
  body_seconds: float = 30.0
  examples: int = 1000
  characters: int = 20_000
  draws: int = 16
  queries: int = 64
  max_tokens: int = 256
  question_tokens: int = 4096
  pass_tokens: int = 16_384
  rows: int = 32
  kept: int = 256
  requests: int = 64
  seconds: float = 120.0
