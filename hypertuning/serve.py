"""Serves a model on this machine: a page, and a JSON interface.

    python -m hypertuning.serve                          # SmolLM2
    python -m hypertuning.serve --model=runs/mine
    python -m hypertuning.serve --model=hypermodel.safetensors --base=smollm2

The page makes an adapter from examples, and answers with the frozen model, the
adapted model, and the model with the examples in context, side by side.
docs/serving.md describes the JSON interface; /docs on the server tries it out.
It needs `pip install '.[serve]'`. Ctrl-C ends it.
"""

import dataclasses
import sys
from collections.abc import Sequence

from hypertuning import command_line
from hypertuning.errors import UserError
from hypertuning.shell import flags

_MODULE = 'hypertuning.serve'


def parser() -> command_line.Parser:
  """The flags."""
  made = command_line.Parser(_MODULE, __doc__)
  flags.add_model(made)
  made.add_argument(
    '--host',
    default='127.0.0.1',
    help='address; 0.0.0.0 lets other machines in (%(default)s)',
  )
  made.add_argument(
    '--port', type=int, default=8000, help='0 takes a free one (%(default)s)'
  )
  made.add_argument(
    '--keep',
    type=int,
    default=256,
    help='number of adapters that are kept in memory (%(default)s)',
  )
  made.add_argument(
    '--rows',
    type=int,
    default=32,
    help='number of questions that are answered in one batch (%(default)s)',
  )
  return made


def main(arguments: Sequence[str]) -> None:
  """Serves until a signal ends it.

  Args:
    arguments: arguments of the command line.

  Raises:
    UserError: a flag is wrong, the port is in use, a library is missing, or
      there is no such model.
  """
  options = parser().parse_args(arguments)
  for name, most in (('port', 65535), ('keep', 1_000_000), ('rows', 32)):
    least = 0 if name == 'port' else 1
    if not least <= getattr(options, name) <= most:
      raise UserError(
        f'--{name} = {getattr(options, name)}: give {least:,} to {most:,}.'
      )
  try:
    # The libraries of the extra.
    from hypertuning.serving import app, gate, server
  except ImportError as error:
    raise UserError(
      f"The server needs {error.name}: pip install '.[serve]'"
    ) from error
  listening = server.bind(options.host, options.port)
  with listening:
    from hypertuning.api import public_models
    from hypertuning.serving import compiling, limits, service, warm_up

    compiling.keep(public_models.cache_folder('compiled'))
    model = flags.load_model(options.model, options.base)
    _say(f'{options.model} is loaded; compiling its common sizes')
    warm_up.warm_up(model, options.rows)
    bounds = dataclasses.replace(
      limits.Limits(), kept=options.keep, rows=options.rows
    )
    served = service.Service(model, bounds)
    built = gate.Gate(
      app.build(served),
      bounds,
      gate.local_names(options.host),
    )
    _say(f'ready: {server.address_of(listening)}')
    server.run(built, served, listening)
    _say('stopped')


def _say(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


if __name__ == '__main__':
  command_line.run_process(main)
