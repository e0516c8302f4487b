"""Finds the variables of a model in a checkpoint, by their names."""

import itertools
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hypertuning import quantization, trees
from hypertuning.adapters.lora import without_heads

# Rules for two kinds of checkpoint: that of the whole model, and that of a
# public T5, which becomes the downstream model.
SAME = (('(.*)', r'\1'), ('downstream/(.*)', r'\1'))


def match(
  target: Mapping[str, Any],
  variables: Mapping[str, Any],
  rules: Sequence[tuple[str, str]],
  fresh: str,
  unused: str,
) -> tuple[dict, list[str]]:
  """Fills the variables of a model with those of a checkpoint.

  Args:
    target: the variables of the model, a tree of arrays or abstract arrays.
    variables: the variables of the checkpoint, a tree of arrays.
    rules: pairs (regex, replacement), which turn a name in `target` into a name
      in the checkpoint. The first pair wins that matches and gives a name that
      the checkpoint has.
    fresh: regex of the names in `target` that the checkpoint may lack; such
      leaves stay as they are.
    unused: regex of the names in the checkpoint that `target` may lack.

  Returns:
    A new tree like `target`, in which no two leaves share a buffer, and one
    phrase for every variable that does not fit. Kernels have the form that
    `target` stores them in, in 8 or 4 bits or as floats.
  """
  source = trees.flatten_paths(variables, quantization.is_quantized)
  targets = trees.flatten_paths(target, quantization.is_quantized)
  filled: dict[str, Any] = {}
  missing_names: list[str] = []
  other_shapes: list[str] = []
  extras = {name for name in source if not re.fullmatch(unused, name)}
  for name, leaf in targets.items():
    shape = quantization.shape(leaf)
    source_names, value = _lookup(name, source, rules)
    extras -= source_names
    if value is None and re.fullmatch(fresh, name):
      filled[name] = leaf
    elif value is None:
      missing_names.append(f'{name} {shape} is not there')
    elif not is_flat(own_shape := quantization.shape(value), shape):
      other_shapes.append(
        f'{name} is {shape}, but {min(source_names)} there is {own_shape}'
      )
    else:
      filled[name] = quantization.converted(value, leaf)
  extra = [
    f'{x} {quantization.shape(source[x])} has no place here'
    for x in sorted(extras)
  ]
  return trees.unflatten_paths(filled), other_shapes + missing_names + extra


def summary(problems: Sequence[str]) -> str:
  """The first of several phrases, and how many more there are."""
  more = f' and {len(problems) - 4} more' if len(problems) > 4 else ''
  return f'{"; ".join(problems[:4])}{more}'


def is_flat(saved_shape: Any, own_shape: Any) -> bool:
  """Whether an array was saved in the expected shape, or in an older form.

  The older form is that of learned LoRA factors, see `without_heads`.
  """
  if saved_shape == own_shape or saved_shape is None or own_shape is None:
    return saved_shape == own_shape
  return len(saved_shape) == 4 and without_heads(saved_shape) == own_shape


def _lookup(
  name: str,
  source: Mapping[str, Any],
  rules: Sequence[tuple[str, str]],
) -> tuple[set[str], Any]:
  """Finds the value of a variable.

  Args:
    name: name of the variable in the model.
    source: maps the names in the checkpoint to arrays, or to quantized kernels.
    rules: pairs (regex, replacement), see `match`.

  Returns:
    The names in the checkpoint that the value comes from, and the value; an
    empty set and None if the checkpoint does not have it.
  """
  for pattern, replacement in rules:
    match = re.fullmatch(pattern, name)
    if not match:
      continue
    source_name = match.expand(replacement)
    if source_name in source:
      return {source_name}, source[source_name]
    # A scanned stack of layers is called `layers`; layers that are not scanned
    # are called `layers_0`, `layers_1`, ...
    parts = list(
      itertools.takewhile(
        source.__contains__,
        (
          source_name.replace('/layers/', f'/layers_{i}/')
          for i in itertools.count()
        ),
      )
    )
    if '/layers/' in source_name and parts:
      layers = [source[part] for part in parts]
      return set(parts), jax.tree.map(lambda *x: np.stack(x), *layers)
    layer = re.search(r'/layers_(\d+)/', source_name)
    stack = re.sub(r'/layers_\d+/', '/layers/', source_name)
    if layer and stack in source:
      number = int(layer[1])
      if number < quantization.shape(source[stack])[0]:
        return {stack}, jax.tree.map(operator.itemgetter(number), source[stack])
  return set(), None
