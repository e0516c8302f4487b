"""What queries may see of a text, in its parts."""

import functools
import math

import flax
import jax
import jax.numpy as jnp

# Bias of a key that is masked. It is finite, so that a query with no key to
# attend to has uniform weights, and not NaN.
MASK_BIAS = -1e10


def mask_to_bias(mask: jax.Array) -> jax.Array:
  """A bias that is added to logits, float32, of a mask that is True on keys."""
  return jnp.where(mask, 0.0, MASK_BIAS).astype(jnp.float32)


def relative_position_bucket(
  relative_position: jax.Array,
  bidirectional: bool,
  num_buckets: int = 32,
  max_distance: int = 128,
) -> jax.Array:
  """T5's bucket of the position of a key relative to a query.

  One half of the buckets have a single distance each; the others have ranges
  that grow logarithmically up to `max_distance`. If keys after the query have
  buckets of their own, they take one half of all buckets; otherwise, they have
  bucket 0.

  Args:
    relative_position: position of the key minus that of the query, int32 of any
      shape.
    bidirectional: whether keys after the query have buckets of their own.
    num_buckets: number of all buckets.
    max_distance: distance from which on all keys share the last bucket.

  Returns:
    Numbers of the buckets, int32 in the same shape.
  """
  distance = -relative_position
  offset = jnp.zeros_like(distance)
  if bidirectional:
    num_buckets //= 2
    offset = jnp.where(distance < 0, num_buckets, 0)
    distance = jnp.abs(distance)
  else:
    distance = jnp.maximum(distance, 0)
  exact = num_buckets // 2
  log_ratio = jnp.log(jnp.maximum(distance, 1) / exact) / math.log(
    max_distance / exact
  )
  large = exact + (log_ratio * (num_buckets - exact)).astype(jnp.int32)
  large = jnp.minimum(large, num_buckets - 1)
  return offset + jnp.where(distance < exact, distance, large)


@flax.struct.dataclass
class Places:
  """Where queries and keys stand, for relative biases.

  Attributes:
    queries: positions of the queries, int32 `[q]`, or `[rows, q]` where each
      row has its own.
    keys: positions of the keys, int32 `[text]` or `[rows, text]`.
    through: bool `[q, text]`, True on pairs whose bias is 0, as behind a
      prefix; None for no such pairs.
    by_column: whether positions are the numbers of columns, as kernels need.
  """

  queries: jax.Array
  keys: jax.Array
  through: jax.Array | None = None
  by_column: bool = flax.struct.field(pytree_node=False, default=False)


def column_places(length: int) -> Places:
  """The places of a text that attends to itself, from its first token on."""
  columns = jnp.arange(length)
  return Places(columns, columns, by_column=True)


@flax.struct.dataclass
class RelativeBiases:
  """T5's biases by the distance between a query and a key.

  Attributes:
    table: float32 `[heads, buckets]`.
    places: positions of queries and keys.
    bidirectional: whether keys after the query have buckets of their own.
    max_distance: distance from which on all keys share the last bucket.
  """

  table: jax.Array
  places: Places
  bidirectional: bool = flax.struct.field(pytree_node=False)
  max_distance: int = flax.struct.field(pytree_node=False)

  def at(self, distance: jax.Array) -> jax.Array:
    """Biases `[heads, ...]` at positions of keys minus those of queries."""
    buckets = relative_position_bucket(
      distance, self.bidirectional, self.table.shape[1], self.max_distance
    )
    return self.table[:, buckets]

  def array(self) -> jax.Array:
    """The biases, float32 `[rows or 1, heads, q, text]`."""
    queries, keys = self.places.queries, self.places.keys
    biases = self.at(keys[..., None, :] - queries[..., :, None])
    biases = jnp.moveaxis(biases, 0, -3)
    biases = biases if biases.ndim == 4 else biases[None]
    if self.places.through is None:
      return biases
    return jnp.where(self.places.through, 0.0, biases)


@flax.struct.dataclass
class View:
  """What the queries of a block may see of a text, without any prefix.

  Attributes:
    text: number of keys.
    keys: bool `[rows, text]`, False on keys that no query sees; None for all.
    at_end: whether the keys that no query sees stand behind all others, as
      padding does.
    causal: whether a query sees only the keys up to its own column.
    visible: bool `[rows or 1, q, text]`, False on pairs that do not see one
      another, for masks of any other form; None for all.
    relative: T5's relative biases; None for none.
  """

  text: int = flax.struct.field(pytree_node=False)
  keys: jax.Array | None = None
  at_end: bool = flax.struct.field(pytree_node=False, default=False)
  causal: bool = flax.struct.field(pytree_node=False, default=False)
  visible: jax.Array | None = None
  relative: RelativeBiases | None = None

  def mask(self) -> jax.Array | None:
    """Bool, broadcastable to `[rows, heads, q, text]`; None for all pairs."""
    masks = []
    if self.keys is not None:
      masks.append(self.keys[:, None])
    if self.visible is not None:
      masks.append(self.visible)
    if self.causal:
      masks.append(jnp.tri(self.text, dtype=bool)[None])
    if not masks:
      return None
    return functools.reduce(jnp.logical_and, masks)[:, None]

  def bias(self) -> jax.Array:
    """All of it in one float32 array, see `plain.Plain`."""
    mask = self.mask()
    biases = [] if self.relative is None else [self.relative.array()]
    if mask is not None:
      biases.append(mask_to_bias(mask))
    if not biases:
      return jnp.zeros((1, 1, 1, self.text), jnp.float32)
    return functools.reduce(jnp.add, biases)
