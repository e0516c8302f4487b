"""Phi as files that a client downloads."""

import io
import pathlib
import tempfile
import zipfile
from collections.abc import Callable

from hypertuning.api.phi import Phi
from hypertuning.errors import UserError


def safetensors(phi: Phi) -> bytes:
  """The file that `Phi.save` writes."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'phi.safetensors')
    phi.save(path)
    return path.read_bytes()


def peft(phi: Phi, name: str) -> bytes:
  """A zip file of the folder that PEFT reads.

  Args:
    phi: the phi.
    name: name of the folder in the zip file.

  Raises:
    UserError: PEFT cannot hold this phi; says why.
  """
  packed = io.BytesIO()
  with tempfile.TemporaryDirectory() as root:
    folder = pathlib.Path(root, name)
    phi.to_peft(folder)
    with zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as file:
      for path in sorted(folder.rglob('*')):
        file.write(path, path.relative_to(root))
  return packed.getvalue()


def read(data: bytes, name: str, load: Callable[[pathlib.Path], Phi]) -> Phi:
  """Reads a safetensors file that a client sent.

  Args:
    data: contents of the file.
    name: name of the file, for error messages.
    load: `Model.load_phi`.

  Raises:
    UserError: it is no file of a phi of the model.
  """
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'phi.safetensors')
    path.write_bytes(data)
    try:
      return load(path)
    except UserError as error:
      raise UserError(str(error).replace(str(path), name)) from error
