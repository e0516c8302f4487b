"""Splits trees of variables by name, and joins them again."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from flax import traverse_util

Tree = Mapping[str, Any]


def flatten_paths(
  tree: Tree, is_leaf: Callable[[Any], bool] = lambda _: False
) -> dict[str, Any]:
  """Flattens a nested mapping to `{'hypermodel/encoder/...': leaf}`.

  Args:
    tree: nested mapping.
    is_leaf: whether a mapping in it is kept as one leaf.
  """
  return traverse_util.flatten_dict(
    _plain(tree), sep='/', is_leaf=lambda _, node: is_leaf(node)
  )


def unflatten_paths(flat: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flatten_paths`."""
  return traverse_util.unflatten_dict(dict(flat), sep='/')


def split_by_regex(tree: Tree, regex: str) -> tuple[dict, dict]:
  """Splits a tree into the leaves whose paths match a regex, and the others.

  Args:
    tree: nested mapping of arrays, or of any other leaves.
    regex: regex that must match a whole path, such as
      `hypermodel/encoder/encoder_norm/scale`.

  Returns:
    Two nested dicts, the matching leaves and the others. `join` reverses this.
  """
  pattern = re.compile(regex)
  parts: tuple[dict, dict] = ({}, {})
  for path, leaf in flatten_paths(tree).items():
    parts[0 if pattern.fullmatch(path) else 1][path] = leaf
  return unflatten_paths(parts[0]), unflatten_paths(parts[1])


def split_variables(variables: Tree, regex: str) -> dict[str, Any]:
  """Splits a network's variables into trained and frozen ones.

  Args:
    variables: collections `params` and `params_axes`, from a network's `init`.
    regex: regex that must match the whole paths of the trained variables.

  Returns:
    The collections `params` and `params_axes` and, if a variable is frozen,
    `frozen` and `frozen_axes`. There, `kernel_axes` names the axes of `kernel`.
  """
  params, frozen = split_by_regex(variables['params'], regex)
  axes = flatten_paths(variables['params_axes'])

  def axes_of(tree: Tree) -> dict:
    return unflatten_paths(
      {f'{path}_axes': axes[f'{path}_axes'] for path in flatten_paths(tree)}
    )

  parts = {'params': params, 'params_axes': axes_of(params)}
  if frozen:
    parts |= {'frozen': frozen, 'frozen_axes': axes_of(frozen)}
  return parts


def join(first: Tree, second: Tree) -> dict[str, Any]:
  """Joins two parts of a tree that have no leaf in common."""
  return unflatten_paths({**flatten_paths(first), **flatten_paths(second)})


def _plain(tree: Any) -> Any:
  """Converts nested mappings, such as FrozenDicts, to dicts."""
  if isinstance(tree, Mapping):
    return {key: _plain(value) for key, value in tree.items()}
  return tree
