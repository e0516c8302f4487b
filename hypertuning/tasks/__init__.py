"""The top-level folder `tasks/`, importable as `hypertuning.tasks`."""

from hypertuning import paths

__path__.append(str(paths.data_root() / 'tasks'))
