"""Ctrl-C while a command imports its modules, and in callbacks of libraries."""

import subprocess
import sys

import runner

from hypertuning import command_line, interrupts

_WHILE_IMPORTED = """
import signal, sys
sys.argv = ['-m']  # as Python has it while it looks for the module
import hypertuning
signal.raise_signal(signal.SIGINT)
print('goes on')
"""
_IN_A_CALLBACK = """
import gc, signal, sys, time
sys.argv = ['-m']
import hypertuning
from hypertuning import interrupts

def interrupt(phase, info):
  gc.callbacks.remove(interrupt)
  signal.raise_signal(signal.SIGINT)

interrupts.allow()
gc.callbacks.append(interrupt)
try:
  gc.collect()
  time.sleep(60)
except KeyboardInterrupt:
  print('interrupted')
"""
_IGNORED = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.argv = ['-m']
import hypertuning
from hypertuning import interrupts
interrupts.allow()
signal.raise_signal(signal.SIGINT)
print('goes on')
"""


def _run(program):
  done = subprocess.run(
    [sys.executable, '-c', program],
    env=runner.environment(),
    capture_output=True,
    text=True,
    timeout=50,
  )
  return done.returncode, done.stdout, done.stderr


def test_an_import_ends_without_a_word():
  assert _run(_WHILE_IMPORTED) == (130, '', '')


def test_an_interrupt_that_python_ignores_comes_again():
  assert _run(_IN_A_CALLBACK) == (0, 'interrupted\n', '')


def test_interrupts_that_the_shell_ignores_stay_ignored():
  assert _run(_IGNORED) == (0, 'goes on\n', '')


def test_an_interrupt_that_a_library_turns_into_its_own_error(capsys):
  def main(unused_arguments):
    try:
      raise KeyboardInterrupt
    except KeyboardInterrupt as error:
      raise ImportError('while initializing the extension') from error

  assert command_line.run(main, []) == 130
  assert capsys.readouterr() == ('', '')
  assert not interrupts.is_interrupt(ImportError('no such module'))
