"""A command looks for unused cycles of objects rarely, but does look."""

import subprocess
import sys

_COMMAND = """
import gc, weakref
from hypertuning import command_line

class Node:
  pass

def main(arguments):
  before = gc.get_stats()[2]['collections']
  import jax
  print(gc.get_stats()[2]['collections'] - before)
  alive = weakref.WeakSet()
  for _ in range(250_000):
    node = Node()
    node.itself = node
    alive.add(node)
  print(len(alive))

command_line.run_process(main)
"""


def test_unused_cycles_are_found_but_imports_are_not_searched():
  done = subprocess.run(
    [sys.executable, '-c', _COMMAND], capture_output=True, text=True, check=True
  )
  searches, alive = map(int, done.stdout.split())
  # Importing jax makes Python look at all objects, by default.
  assert searches == 0
  assert alive < 150_000
