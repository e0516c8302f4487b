"""Finds the folder of the gin files and the task modules.

`python -m hypertuning.paths` prints the folder, for `--gin_search_paths`.
"""

import pathlib


def data_root() -> pathlib.Path:
  """The folder that holds `gin/` and `tasks/`.

  In a wheel, they are in `hypertuning/_data`. In a checkout or an editable
  install, they are beside the package.
  """
  package = pathlib.Path(__file__).resolve().parent
  installed_data = package / '_data'
  return installed_data if installed_data.is_dir() else package.parent


if __name__ == '__main__':
  print(data_root())
