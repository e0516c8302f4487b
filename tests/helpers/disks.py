"""Small disks, for tests of what happens when they are full."""

import contextlib
import os
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(folder, size):
  """A context with a small disk; skips the test unless the user is root.

  Args:
    folder: folder that is made, where the disk is mounted.
    size: size of the disk, such as `64k`.
  """
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(folder)]
  if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('this user may not mount a disk')
  try:
    yield folder
  finally:
    subprocess.run(['umount', '--lazy', str(folder)], check=True)
