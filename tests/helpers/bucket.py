"""A bucket on this machine, for `gs://` paths.

Files are read and written through a backend of `epath` that keeps them in a
folder. Arrays of checkpoints are read and written by TensorStore, over HTTP:
`serve` answers as the JSON API of Google Cloud Storage does, from the same
folder. Like a bucket, neither knows folders, and nothing can be appended.
"""

import contextlib
import hashlib
import http.server
import io
import json
import os
import pathlib
import threading
import urllib.parse

from etils.epath import backend, gpath, stat_utils


class Bucket(backend.Backend):
  """The objects of all buckets; `gs://a/b` is the file `a/b` of `root`."""

  def __init__(self, root):
    self.root = pathlib.Path(root)

  def file(self, path):
    return self.root / os.fspath(path).removeprefix('gs://')

  def open(self, path, mode):
    file = self.file(path)
    if 'a' in mode or '+' in mode:
      raise NotImplementedError('an object of a bucket does not grow')
    if 'w' in mode:
      return _Upload(file, 'b' in mode)
    return file.open(mode, encoding=None if 'b' in mode else 'utf-8')

  def exists(self, path):
    return self.file(path).is_file() or self.isdir(path)

  def isdir(self, path):
    return any(x.is_file() for x in self.file(path).rglob('*'))

  def listdir(self, path):
    return [
      x.name for x in self.file(path).iterdir() if x.is_file() or self.isdir(x)
    ]

  def glob(self, path):
    place = self.file(path)
    found = place.parent.glob(place.name) if place.parent.exists() else ()
    return [f'gs://{x.relative_to(self.root)}' for x in found]

  def walk(self, top, *, top_down=True, on_error=None):
    for place, folders, names in os.walk(self.file(top), topdown=top_down):
      yield f'gs://{os.path.relpath(place, self.root)}', folders, names

  def makedirs(self, path, *, exist_ok=False, mode=None):
    pass

  def mkdir(self, path, *, exist_ok=False, mode=None):
    pass

  def rmtree(self, path):
    if not self.exists(path):
      raise FileNotFoundError(path)
    for file in sorted(self.file(path).rglob('*')):
      if file.is_file():
        file.unlink()

  def remove(self, path):
    self.file(path).unlink()

  def rename(self, path, dst):
    raise NotImplementedError('a folder of a bucket cannot be renamed')

  replace = rename

  def copy(self, path, dst, overwrite):
    raise NotImplementedError

  def stat(self, path):
    file = self.file(path)
    if not self.exists(path):
      raise FileNotFoundError(path)
    return stat_utils.StatResult(
      is_directory=file.is_dir(),
      length=file.stat().st_size,
      mtime=int(file.stat().st_mtime),
      owner=None,
      group=None,
      mode=None,
    )


class _Upload(io.BytesIO):
  """An object that exists once it is closed."""

  def __init__(self, file, binary):
    super().__init__()
    self._file, self._binary = file, binary

  def write(self, data):
    return super().write(data if self._binary else data.encode())

  def __exit__(self, kind, *unused):
    if kind is None:
      self._file.parent.mkdir(parents=True, exist_ok=True)
      self._file.write_bytes(self.getvalue())
    self.close()


def stand_in(root, monkeypatch):
  """Lets `epath` read and write `gs://` paths in a folder."""
  bucket = Bucket(root)
  monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, 'gs', bucket)
  monkeypatch.setattr(gpath, '_is_tf_installed', lambda: False)
  return bucket


@contextlib.contextmanager
def serve(root, monkeypatch):
  """A context in which TensorStore and Orbax use the bucket in place of GCS."""
  from orbax.checkpoint._src.path import gcs_utils

  root = pathlib.Path(root)
  handler = type('Handler', (_Handler,), {'root': root})
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  address = f'http://127.0.0.1:{server.server_address[1]}'
  monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', address)
  monkeypatch.setenv('GOOGLE_AUTH_TOKEN_FOR_TESTING', 'none')
  # Orbax would ask Google's own server, through a package of Google's.
  monkeypatch.setattr(
    gcs_utils, 'is_hierarchical_namespace_enabled', lambda path: False
  )
  try:
    yield
  finally:
    server.shutdown()
    thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
  """The part of the JSON API that TensorStore uses."""

  root = pathlib.Path()
  protocol_version = 'HTTP/1.1'

  def log_message(self, *arguments):
    pass

  def _request(self):
    parts = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(parts.query))
    _, _, rest = parts.path.partition('/b/')
    name, _, item = rest.partition('/o')
    item = urllib.parse.unquote(item.removeprefix('/'))
    return self.root / urllib.parse.unquote(name), item, query

  def _answer(self, code, body=b'', headers=()):
    self.send_response(code)
    for name, value in dict(headers).items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(body)

  def _describe(self, file, name):
    return {
      'name': name,
      'size': str(file.stat().st_size),
      'generation': _generation(file),
      'updated': '2026-01-01T00:00:00Z',
      'timeCreated': '2026-01-01T00:00:00Z',
    }

  def do_GET(self):
    bucket, name, query = self._request()
    if not name:
      return self._list(bucket, query)
    file = bucket / name
    if not file.is_file():
      return self._answer(404)
    generation = _generation(file)
    if query.get('ifGenerationNotMatch') == generation:
      return self._answer(304)
    if query.get('ifGenerationMatch', generation) != generation:
      return self._answer(412)
    if query.get('alt') != 'media':
      body = json.dumps(self._describe(file, name)).encode()
      return self._answer(200, body, {'Content-Type': 'application/json'})
    body = file.read_bytes()
    headers = {
      'x-goog-generation': generation,
      'x-goog-stored-content-length': str(len(body)),
      'Content-Type': 'application/octet-stream',
    }
    wanted = self.headers.get('Range')
    if wanted is None:
      return self._answer(200, body, headers)
    first, _, last = wanted.removeprefix('bytes=').partition('-')
    if first:
      start, end = int(first), min(int(last or len(body) - 1), len(body) - 1)
    else:
      start, end = len(body) - int(last), len(body) - 1
    headers['Content-Range'] = f'bytes {start}-{end}/{len(body)}'
    return self._answer(206, body[start : end + 1], headers)

  def _list(self, bucket, query):
    files = sorted(x for x in bucket.rglob('*') if x.is_file())
    names = {str(x.relative_to(bucket)): x for x in files}
    items = [
      self._describe(file, name)
      for name, file in names.items()
      if name.startswith(query.get('prefix', ''))
      and name >= query.get('startOffset', '')
      and ('endOffset' not in query or name < query['endOffset'])
    ]
    body = json.dumps({'kind': 'storage#objects', 'items': items}).encode()
    return self._answer(200, body, {'Content-Type': 'application/json'})

  def do_POST(self):
    bucket, _, query = self._request()
    body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
    name = query['name']
    file = bucket / name
    generation = _generation(file) if file.is_file() else '0'
    if query.get('ifGenerationMatch', generation) != generation:
      return self._answer(412)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f'{file.name}.{threading.get_ident()}')
    temporary.write_bytes(body)
    os.replace(temporary, file)
    answer = json.dumps(self._describe(file, name)).encode()
    return self._answer(200, answer, {'Content-Type': 'application/json'})

  def do_DELETE(self):
    bucket, name, query = self._request()
    file = bucket / name
    if not file.is_file():
      return self._answer(404)
    if query.get('ifGenerationMatch', '') not in ('', _generation(file)):
      return self._answer(412)
    file.unlink()
    return self._answer(204)


def _generation(file):
  """A number that changes with the content of an object."""
  digest = hashlib.sha256(file.read_bytes()).digest()
  return str(int.from_bytes(digest[:6], 'big') + 1)
