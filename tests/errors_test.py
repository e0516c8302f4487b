"""Errors that commands turn into one line."""

import jax.numpy as jnp
import pytest

from hypertuning import command_line
from hypertuning.errors import UserError


def test_full_memory_is_one_line(capsys):
  def fill(arguments):
    jnp.zeros(2**50).block_until_ready()

  assert command_line.run(fill, []) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: The memory of the device is full: ')
  assert error.count('\n') == 1 and 'BATCH_SIZE' in error


def test_gin_adds_nothing_to_a_line(capsys):
  def refuse(arguments):
    raise UserError("A = 1: too\nsmall.\n  In call to configurable 'a'")

  assert command_line.run(refuse, []) == 2
  assert capsys.readouterr().err == 'error: A = 1: too small.\n'


def test_an_error_of_ours_is_not_hidden():
  def fail(arguments):
    raise ValueError('RESOURCE_EXHAUSTED')

  with pytest.raises(ValueError, match='RESOURCE_EXHAUSTED'):
    command_line.run(fail, [])
