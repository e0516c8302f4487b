"""Splitting a variables tree by name: one regex says which part trains."""

import re
from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util

Tree = Mapping[str, Any]


def flatten_paths(tree: Tree) -> dict[str, Any]:
  """A nested mapping as `{'hypermodel/encoder/...': leaf}`."""
  return traverse_util.flatten_dict(_plain(tree), sep='/')


def unflatten_paths(flat: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flatten_paths`."""
  return traverse_util.unflatten_dict(dict(flat), sep='/')


def split_by_regex(tree: Tree, regex: str) -> tuple[dict, dict]:
  """Splits a tree in the leaves whose whole path matches and the rest.

  Args:
    tree: nested mapping of arrays (or of anything else).
    regex: matched against full slash paths such as
      `hypermodel/encoder/encoder_norm/scale`.

  Returns:
    `(matching, rest)`, two nested dicts; `join` puts them together again.
  """
  pattern = re.compile(regex)
  parts: tuple[dict, dict] = ({}, {})
  for path, leaf in flatten_paths(tree).items():
    parts[0 if pattern.fullmatch(path) else 1][path] = leaf
  return unflatten_paths(parts[0]), unflatten_paths(parts[1])


def split_variables(
  variables: Tree, regex: str, frozen_dtype: Any = None
) -> dict[str, Any]:
  """A network's variables as collections of what trains and what does not.

  Args:
    variables: `params` and `params_axes`, as a network's `init` gives them.
    regex: matched against full slash paths; what matches trains.
    frozen_dtype: storage type of what does not train; as it is if None.

  Returns:
    `params` and `params_axes`, and `frozen` and `frozen_axes` where anything is
    frozen. The axes of `kernel` are called `kernel_axes`.
  """
  params, frozen = split_by_regex(variables['params'], regex)
  axes = flatten_paths(variables['params_axes'])

  def axes_of(tree: Tree) -> dict:
    return unflatten_paths(
      {f'{path}_axes': axes[f'{path}_axes'] for path in flatten_paths(tree)}
    )

  parts = {'params': params, 'params_axes': axes_of(params)}
  if frozen:
    if frozen_dtype is not None:
      frozen = jax.tree.map(lambda x: x.astype(frozen_dtype), frozen)
    parts |= {'frozen': frozen, 'frozen_axes': axes_of(frozen)}
  return parts


def join(first: Tree, second: Tree) -> dict[str, Any]:
  """Puts two disjoint parts of one tree together again."""
  return unflatten_paths({**flatten_paths(first), **flatten_paths(second)})


def _plain(tree: Any) -> Any:
  """FrozenDicts and dicts alike as plain dicts."""
  if isinstance(tree, Mapping):
    return {key: _plain(value) for key, value in tree.items()}
  return tree
