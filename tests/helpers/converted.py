"""Converts files and reads what the command wrote, as the commands would."""

import gin
import jax
import jax.numpy as jnp
import numpy as np
import tiny

from hypertuning import command_line, convert, gin_utils
from hypertuning.engine import checkpoints


def main(capfd, source, output, *flags) -> tuple[int, str]:
  """Exit code and standard error of the command."""
  capfd.readouterr()
  code = command_line.run(
    convert.main,
    [f'--source={source}', f'--output={output}', *map(str, flags)],
  )
  return code, capfd.readouterr().err


def network(folder, model_file: str):
  """The network that a gin file of `gin/models` makes, in float32."""
  gin_utils.parse(
    [model_file, str(folder / 'model.gin')],
    [
      "ACTIVATION_DTYPE = 'float32'",
      "REMAT_POLICY = 'none'",
      'SCAN_LAYERS = False',
      'OPTIMIZER = None',
    ],
  )
  return gin.query_parameter('%DOWNSTREAM').scoped_configurable_fn()


def logits(folder, model_file: str, inputs, targets) -> np.ndarray:
  """Float32 logits `[rows, targets, vocab]` of the converted model."""
  params = checkpoints.restore_variables(str(folder))
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
  own = network(folder, model_file)
  with jax.default_matmul_precision('highest'):
    return np.asarray(
      jax.jit(lambda *args: tiny.logits(own, *args))(params, inputs, targets)
    )
