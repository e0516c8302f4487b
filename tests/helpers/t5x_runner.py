"""Commands of the real t5x beside those of the embedded runner."""

import glob
import subprocess
import sys

import runner
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util


def command(script: str, run_file: str, bindings, model) -> list[str]:
  """A command line of t5x or of the embedded runner, as the run file says."""
  files = [*model]
  if script == 'train':
    files.append('gin/optimizers/adamw.gin')
  files.append(run_file)
  if run_file.startswith('gin/local'):
    return runner.command(script, files, bindings)
  return [
    *(sys.executable, '-m', f't5x.{script}'),
    f'--gin_search_paths={runner.ROOT}',
    # On simulated devices t5x's own partitioner makes one model of all.
    '--gin.PARTITIONER=@t5x_engine.HostPartitioner()',
    *runner.flags(files, bindings),
  ]


def run(
  script: str, run_file: str, bindings, model, folder, devices=1, code=0
) -> str:
  """Runs a command in a folder, whose modules it can import; its stderr."""
  done = subprocess.run(
    command(script, run_file, bindings, model),
    env=runner.environment(devices),
    cwd=folder,
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == code, done.stderr[-4000:]
  return done.stderr


def losses(model_dir) -> dict[int, float]:
  """t5x's training losses by step, of all starts; a later start wins."""
  found: dict[int, float] = {}
  for path in sorted(glob.glob(f'{model_dir}/train/events*')):
    events = event_accumulator.EventAccumulator(path, {'tensors': 0})
    events.Reload()
    for event in events.Tensors('loss'):
      found[event.step] = float(tensor_util.make_ndarray(event.tensor_proto))
  return found
