"""Small disks, for tests of what happens when they are full."""

import contextlib
import os
import subprocess

import pytest


@contextlib.contextmanager
def small(folder, size):
  """Mounts a disk of a size such as `64k`, which only root may do."""
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(folder)]
  if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('this user may not mount a disk')
  try:
    yield folder
  finally:
    subprocess.run(['umount', '--lazy', str(folder)], check=True)
