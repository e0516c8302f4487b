"""Reads gin files and `--gin.NAME=value` flags; reports errors in one line."""

import contextlib
import difflib
import importlib.util  # gin 0.5.0 uses `util` without importing it
import logging
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin
from absl import app, flags
from gin import config as gin_config

from hypertuning import bindings as bindings_lib
from hypertuning import (
  garbage,
  gin_effect,
  gin_files,
  interrupts,
  old_names,
  paths,
  quiet,
  text_files,
)
from hypertuning.errors import UserError, mendable, one_line

_FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # so that --help shows them with the command's own
# Before gin's own reader, which takes a mark for a token and knows no UTF-16.
gin_config._FILE_READERS.insert(0, (text_files.open_text, os.path.isfile))


def define_flags() -> None:
  """Defines the flags of every command; their names are those of t5x."""
  if 'gin_file' in _FLAGS:  # this process has run another command before
    for name in ('gin_file', 'gin_bindings', 'gin_search_paths'):
      _FLAGS[name].unparse()
    return
  flags.DEFINE_multi_string(
    'gin_file', [], 'Gin file; may be repeated, later files win.'
  )
  flags.DEFINE_multi_string(
    'gin_bindings', [], 'Binding NAME=value; --gin.NAME=value is the same.'
  )
  flags.DEFINE_list(
    'gin_search_paths',
    [],
    'Folders, comma separated, where gin files are looked for after the '
    'working directory and before those that come with hypertuning.',
  )
  flags.DEFINE_string(
    'tfds_data_dir', None, 'Folder of data sets that TFDS has prepared.'
  )
  flags.DEFINE_list(
    'seqio_additional_cache_dirs', [], 'Folders of cached seqio tasks.'
  )


def run(module: str, function: str, configured: bool = True) -> None:
  """Runs a command; a user's error is one line, with exit code 2.

  Commands call this before their own imports, for three reasons. `--help` is
  answered at once. What libraries print when they are imported is hidden. And
  gin configures the module `module`: the module that Python runs is
  a copy of it, called `__main__`.

  Args:
    module: name of the command's module, such as `hypertuning.train`.
    function: name of the function of that module that is called with the
      arguments that gin binds to it.
    configured: whether gin binds the function's arguments. If not, it is called
      without any; it may read what gin binds to another function, see
      `arguments`.
  """
  garbage.collect_rarely()
  quiet.hush_logs()
  define_flags()

  def main(rest: Sequence[str]) -> None:
    try:
      if len(rest) > 1:
        raise UserError(
          f'{rest[1]!r} is not a flag; gin files are given as --gin_file=..., '
          'bindings as --gin.NAME=value.'
        )
      imported = importlib.import_module(module)
      interrupts.allow()
      parse(_FLAGS.gin_file, _FLAGS.gin_bindings, _FLAGS.gin_search_paths)
      _set_data_folders()
      target = getattr(imported, function)
      if not configured:
        return target()
      gin_effect.check_reached(target, _FLAGS.gin_bindings, _own_files())
      call(target)
    except KeyboardInterrupt:
      quiet.end_process(130)  # the exit code of a shell after SIGINT
    except Exception as error:
      if interrupts.is_interrupt(error):
        quiet.end_process(130)
      line = mendable(error)
      if line is None:
        raise
      print(f'error: {line}', file=sys.stderr)
      quiet.end_process(2)

  with quiet.closed_pipes():
    app.run(
      main,
      argv=[_rewrite(argument) for argument in sys.argv],
      flags_parser=_parse_flags,
    )


def _parse_flags(arguments: Sequence[str]) -> list[str]:
  """Reads the flags; the error of a wrong one is one line, exit code 2."""
  try:
    return _FLAGS(arguments)
  except flags.Error as error:
    message = one_line(error).rstrip('.')
    print(f'error: {message}. --help lists the flags.', file=sys.stderr)
    sys.exit(2)
  except SystemExit:  # absl's --help, which is no failure
    sys.exit(0)


def parse(
  files: Sequence[str],
  bindings: Sequence[str] = (),
  search_paths: Sequence[str] = (),
) -> None:
  """Reads gin files and bindings, and locks the configuration.

  Of several values for one name, the last wins. A file, also one that another
  file includes, is looked for in the working directory, then in `search_paths`,
  and then among the files that come with hypertuning.

  Args:
    files: paths of gin files.
    bindings: strings `NAME = value`, which are read after the files.
    search_paths: folders where gin files are looked for.

  Raises:
    UserError: names the file, line or binding at fault.
  """
  gin.clear_config()
  roots = [*map(os.path.expanduser, search_paths), str(paths.data_root())]
  for root in roots:
    gin.add_config_file_search_path(root)
  if not files:
    raise UserError(
      'No gin file: give --gin_file=...; --help has an example, and lists the '
      'flags.'
    )
  with _without_path_errors():
    for file in files:
      path = str(gin_files.find(file, roots))
      gin_files.check_includes(str(pathlib.Path(path).resolve()), roots)
      try:
        gin.parse_config_file(path)
      except Exception as error:  # gin passes on errors of any kind
        raise UserError(_explain(error, path)) from error
  for binding in bindings:
    _parse_binding(binding)
  bindings_lib.check()
  _check_macros(files, bindings)
  gin.finalize()


def lines(file: str) -> Iterator[str]:
  """The lines of a gin file and of the files it includes, without comments.

  Args:
    file: path of the file, as `parse` takes it. A file that is not found has no
      lines.
  """
  for _, line in gin_files.numbered_lines(file, _roots()):
    yield line


def _roots() -> list[str]:
  """Folders where gin files are looked for, after the working directory."""
  search = _FLAGS.gin_search_paths if _FLAGS.is_parsed() else ()
  return [*search, str(paths.data_root())]


def call(function: Callable[..., Any], **kwargs: Any) -> Any:
  """Calls a function with the arguments that gin binds to it.

  Args:
    function: function that a gin file configures.
    **kwargs: arguments that win over those that gin binds.

  Raises:
    UserError: no gin file configures the function, an argument has no binding,
      or an object that gin builds for an argument refuses its own arguments.
  """
  with _one_line_errors(function):
    return _configurable(function)(**kwargs)


def arguments(function: Callable[..., Any]) -> dict[str, Any]:
  """The arguments that gin binds to a function, which is not called.

  Raises:
    UserError: see `call`.
  """
  with _one_line_errors(function):
    return gin.get_bindings(_configurable(function))


def _configurable(function: Callable[..., Any]) -> Callable[..., Any]:
  try:
    return gin.get_configurable(function)
  except ValueError as error:
    name = f'{function.__module__}.{function.__name__}'
    raise UserError(
      f'No gin file configures {name}: include the one of gin/local/ that is '
      'for this command.'
    ) from error


@contextlib.contextmanager
def _one_line_errors(function: Callable[..., Any]) -> Iterator[None]:
  """Turns gin's errors about a configuration into `UserError`s."""
  try:
    yield
  except UserError:
    raise
  except (TypeError, ValueError) as error:
    callee = re.search(r"In call to configurable '(\S+?)'", str(error))
    missing_arguments = re.search(
      r'missing \d+ required .*?arguments?: (.*)', str(error)
    )
    if missing_arguments and callee:
      raise UserError(
        f'{callee[1]} has no value for {missing_arguments[1]}: bind it in a '
        'gin file.'
      ) from error
    # An error in `function` itself is not one of the configuration.
    if callee and callee[1] != function.__name__:
      raise UserError(
        f'{callee[1]}: {one_line(error)} Its arguments come from the gin '
        'configuration.'
      ) from error
    raise


def _own_files() -> list[str]:
  """The gin files of the command line that do not come with hypertuning."""
  roots = [*_FLAGS.gin_search_paths, str(paths.data_root())]
  gin_paths = [
    gin_files.find(file, roots).resolve() for file in _FLAGS.gin_file
  ]
  shipped = paths.data_root().resolve() / 'gin'
  return [str(path) for path in gin_paths if shipped not in path.parents]


def _rewrite(argument: str) -> str:
  """Turns `--gin.NAME=value` into a flag that absl can read."""
  return re.sub(r'^--?gin\.', '--gin_bindings=', argument)


def _parse_binding(binding: str) -> None:
  name, separator, value = (part.strip() for part in binding.partition('='))
  if not separator:
    raise UserError(f'--gin.{name}: a binding is --gin.NAME=value.')
  try:
    gin.parse_config(binding)
  except Exception as error:
    message = one_line(error)
    if 'malformed node' in message or 'Unable to parse' in message:
      raise UserError(
        f'--gin.{name}={value}: this value cannot be read; a string needs '
        f'quotes that the shell leaves alone: --gin.{name}="\'...\'".'
      ) from error
    message = message.split(' In bindings string')[0]
    message = old_names.hint(message) or message
    raise UserError(f'--gin.{name}={value}: {message}') from error


def _explain(error: Exception, file: str) -> str:
  """Turns any error of gin's parser into `file:line: what is wrong`."""
  text = str(error)
  if isinstance(error, UserError):  # the file is not text
    return one_line(text.split('\n  In file')[0])
  if isinstance(error, SyntaxError):
    file, line, text = error.filename or file, error.lineno, error.msg
    token = re.search(r"Failed to parse token '(.*?)'", text)
    if token:
      text = f'cannot read the value {token[1]}; a string needs quotes.'
    return f'{file}:{line}: {one_line(text)}'
  place = re.search(r'\n\s+In file "(.*?)", line (\d+)', text)
  text = one_line(text[: place.start()] if place else text)
  if isinstance(error, OSError):
    text = text.split('. Searched')[0] + ' for an include.'
  text = old_names.hint(text) or text
  return f'{place[1]}:{place[2]}: {text}' if place else f'{file}: {text}'


def _check_macros(files: Sequence[str], bindings: Sequence[str]) -> None:
  """Refuses macros that have no value, and mistyped ones that nothing reads.

  Gin itself accepts `TRAIN_STPES = 9`, and trains with the default. A file may
  bind a macro that only other configurations read. But an unread macro is a
  mistake if it was given as a flag, or is spelled almost like one that is read.
  """
  config = gin_config._CONFIG  # gin has no public way to list its macros
  macro = gin.get_configurable(gin_config.macro)
  values = {
    scope: binding['value']
    for (scope, name), binding in config.items()
    if name == 'gin.macro'
  }
  used_names = {
    reference.scoped_selector.rpartition('/')[0]
    for reference in gin_config.iterate_references(config, to=macro)
  }
  as_flags = {binding.partition('=')[0].strip() for binding in bindings}
  for name in sorted(values.keys() - used_names):
    if name in old_names.MACROS:
      place = (
        f'--gin.{name}'
        if name in as_flags
        else gin_files.place(name, files, _roots())
      )
      raise UserError(
        f'{place}: {name} is called {old_names.MACROS[name]} now.'
      )
    close = difflib.get_close_matches(name, used_names, n=1, cutoff=0.8)
    if close or name in as_flags:
      hint = f'did you mean {close[0]}?' if close else 'remove it.'
      raise UserError(f'{name} is not used by this configuration; {hint}')
  unset = {k for k, value in values.items() if repr(value) == '%gin.REQUIRED'}
  unset |= used_names - values.keys()
  if unset:
    names = ', '.join(sorted(unset))
    raise UserError(
      f'{names}: required, but not set. Bind it in a gin file or as a flag: '
      f'--gin.{min(unset)}=value, strings as "\'value\'".'
    )


@contextlib.contextmanager
def _without_path_errors() -> Iterator[None]:
  """Hides the 'Path not found' that gin logs for each folder without a file."""

  def keep(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith('Path not found')

  logging.root.addFilter(keep)
  try:
    yield
  finally:
    logging.root.removeFilter(keep)


def data_flags(*search_paths: str) -> list[str]:
  """The flags of this command that name folders, to pass to another command.

  Args:
    *search_paths: further folders where the other command looks for gin files,
      such as hypertuning's own, which t5x does not know.
  """
  values = {'gin_search_paths': ','.join(search_paths)}
  if 'tfds_data_dir' in _FLAGS and _FLAGS.is_parsed():
    values = {
      'gin_search_paths': ','.join([*_FLAGS.gin_search_paths, *search_paths]),
      'tfds_data_dir': _FLAGS.tfds_data_dir,
      'seqio_additional_cache_dirs': ','.join(
        _FLAGS.seqio_additional_cache_dirs
      ),
    }
  return [f'--{name}={value}' for name, value in values.items() if value]


def _set_data_folders() -> None:
  if not (_FLAGS.tfds_data_dir or _FLAGS.seqio_additional_cache_dirs):
    return
  import seqio  # slow to import, and only seqio tasks have such folders

  if _FLAGS.tfds_data_dir:
    seqio.set_tfds_data_dir_override(_FLAGS.tfds_data_dir)
  seqio.add_global_cache_dirs(_FLAGS.seqio_additional_cache_dirs)
