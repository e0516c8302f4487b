"""Folders of runs: what a path means, and whether it can be written."""

import pathlib
import subprocess

import disks
import pytest

from hypertuning import files
from hypertuning.errors import UserError


def test_a_folder_is_where_the_user_means(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  for path, place in {
    'run': tmp_path / 'run',
    'a/../run': tmp_path / 'run',
    '~/run': tmp_path / 'home/run',
    './~/run': tmp_path / '~/run',
    'run 1 #%{}?*ü': tmp_path / 'run 1 #%{}?*ü',
    str(tmp_path / 'run'): tmp_path / 'run',
  }.items():
    assert str(files.folder(path)) == str(place)
    assert not files.is_remote(path)
  assert str(files.folder('gs://bucket/a/run')) == 'gs://bucket/a/run'
  assert files.is_remote('gs://bucket/a/run')


@pytest.mark.parametrize('path', ['', 'gs:/bucket/run', 'http://a/b', 'gd://b'])
def test_a_place_of_no_known_kind_is_refused(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=f"^MODEL_DIR = '{path}': "):
    files.check_writable(path, 'MODEL_DIR')
  assert not list(tmp_path.iterdir())


def test_a_probe_leaves_nothing(tmp_path):
  for path in (tmp_path, tmp_path / 'a', tmp_path / 'a/b/c'):
    assert str(files.check_writable(path, 'MODEL_DIR')) == str(path)
  assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').touch()
  (tmp_path / 'lost').symlink_to(tmp_path / 'nowhere')
  for path, reason in {
    tmp_path / 'file': 'file is not a folder',
    tmp_path / 'file/x/y': 'Not a directory',
    tmp_path / 'lost': 'lost is not a folder',
    tmp_path / ('x' * 300) / 'y': 'File name too long',
    tmp_path / 'nul\0': 'embedded null byte',
    '/proc/run': 'No such file or directory',
  }.items():
    with pytest.raises(UserError, match=rf'^ADAPT = .*{reason}\)\.$') as error:
      files.check_writable(path, 'ADAPT')
    assert '\n' not in str(error.value)


def test_a_folder_is_no_file(tmp_path):
  with pytest.raises(UserError, match=r"^--json = '.*': is a folder, not a"):
    files.check_file(tmp_path, '--json')
  assert files.check_file(tmp_path / 'new/x.json', '--json').name == 'x.json'


@pytest.fixture
def small_disk(tmp_path):
  with disks.small_disk(tmp_path / 'disk', '64k') as disk:
    yield disk


def test_a_full_or_read_only_disk_is_found(small_disk):
  with pytest.raises(UserError, match='has 0.1 MB left, but .* 1.0 MB'):
    files.check_writable(small_disk / 'run', 'MODEL_DIR', 10**6)
  (small_disk / 'rest').write_bytes(b'0' * 2**16)
  with pytest.raises(UserError, match='No space left on device'):
    files.check_writable(small_disk / 'run', 'MODEL_DIR')
  assert [x.name for x in small_disk.iterdir()] == ['rest']
  with pytest.raises(UserError, match='a.txt: cannot be written .No space'):
    files.write_text(small_disk, 'a.txt', 'x' * 5000)
  assert [x.name for x in small_disk.iterdir()] == ['rest']
  subprocess.run(['mount', '-o', 'remount,ro', str(small_disk)], check=True)
  with pytest.raises(UserError, match='Read-only file system'):
    files.check_writable(small_disk / 'run', 'MODEL_DIR')


def test_a_file_is_whole_or_not_there(tmp_path):
  file = tmp_path / 'a/b.txt'
  with pytest.raises(ZeroDivisionError), files.atomic_file(file) as temporary:
    temporary.write_text('half')
    raise ZeroDivisionError
  assert not list(file.parent.iterdir())
  files.write_text(file.parent, 'b.txt', 'whole')
  with pytest.raises(ZeroDivisionError), files.atomic_file(file) as temporary:
    temporary.write_text('half')
    raise ZeroDivisionError
  assert [x.name for x in file.parent.iterdir()] == ['b.txt']
  assert file.read_text() == 'whole'
  files.remove(file.parent, 'b.txt')
  files.remove(file.parent, 'b.txt')
  assert not file.exists()


def test_growing_files_of_a_folder_on_a_disk_are_in_it(tmp_path):
  mirror = files.Mirror(tmp_path / 'run')
  assert mirror.path == pathlib.Path(tmp_path / 'run')
  (mirror.path / 'log.txt').write_text('x')
  mirror.upload()
  assert [x.name for x in (tmp_path / 'run').iterdir()] == ['log.txt']
