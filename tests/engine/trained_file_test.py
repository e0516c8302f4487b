"""The trained part of a run as one file, which is read like the run itself."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import runner
import safetensors.numpy

from hypertuning import command_line, convert, trees
from hypertuning.engine import checkpoints
from hypertuning.errors import UserError


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  root = tmp_path_factory.mktemp('trained')
  runner.train(root / 'base', runner.model(hyper=False), total_steps=1)
  start = {'initial_checkpoint_path': str(root / 'base')}
  runner.train(
    root / 'run', runner.model(), total_steps=2, save_frozen=False, **start
  )
  return root


def _convert(runs, capfd, *flags, source='run', output='part.safetensors'):
  capfd.readouterr()
  code = command_line.run(
    convert.main,
    [f'--source={runs / source}', f'--output={runs / output}', *flags],
  )
  return code, capfd.readouterr().err


def test_a_file_is_a_checkpoint(runs, capfd):
  code, err = _convert(runs, capfd, '--trained', '--base=tiny')
  assert code == 0, err
  file = str(runs / 'part.safetensors')
  moved = {'tiny': str(runs / 'base')}
  found = trees.flatten_paths(checkpoints.restore_variables(file, moved=moved))
  wanted = checkpoints.restore_variables(str(runs / 'run'))
  for name, value in trees.flatten_paths(wanted).items():
    if name.startswith('hypermodel/'):  # trained, and rounded in the file
      value = np.asarray(jnp.asarray(value, jnp.bfloat16))
    np.testing.assert_array_equal(found[name], value, name, strict=True)
  rows = runner.evaluate(
    model=runner.model(),
    checkpoint_path=file,
    moved_checkpoints=moved,
    output_dir=str(runs / 'eval'),
    num_batches=1,
  )
  other = runner.evaluate(
    model=runner.model(),
    checkpoint_path=str(runs / 'run'),
    output_dir=str(runs / 'eval_run'),
    num_batches=1,
  )
  for row, own in zip(rows, other, strict=True):
    # Weights of bfloat16 have 8 bits.
    assert row['loss'] == pytest.approx(own['loss'], rel=0.02)


def test_only_the_base_it_was_trained_with_will_do(runs, capfd):
  file = str(runs / 'part2.safetensors')
  assert _convert(
    *(runs, capfd, '--trained', '--base=tiny'), output='part2.safetensors'
  ) == (0, '')
  with pytest.raises(UserError, match="in tiny, .*MOVED_CHECKPOINTS = {'tiny'"):
    checkpoints.restore_variables(file)
  runner.train(
    *(runs / 'other', runner.model(hyper=False)), total_steps=2, random_seed=1
  )
  with pytest.raises(UserError, match='has other values'):
    checkpoints.restore_variables(file, moved={'tiny': str(runs / 'other')})


def test_what_is_no_such_file_is_refused(runs, tmp_path, capfd):
  weights = {'a': np.zeros(2, np.float32)}
  path = tmp_path / 'x.safetensors'
  safetensors.numpy.save_file(weights, path)
  for contents, message in (
    (None, 'there is no such file'),
    (b'nothing', 'not a safetensors file, or a damaged one'),
    (path.read_bytes(), 'holds no trained part'),
    (
      safetensors.numpy.save(
        weights, {'format': 'hypertuning.trained.v1', 'frozen': json.dumps(1)}
      ),
      'it names no base',
    ),
  ):
    path.unlink(missing_ok=True)
    if contents is not None:
      path.write_bytes(contents)
    with pytest.raises(UserError, match=f'CHECKPOINT_PATH = .*{message}'):
      checkpoints.restore_variables(str(path))


@pytest.mark.parametrize(
  'flags, output, message',
  [
    (['--trained'], 'a.safetensors', '--base is required'),
    (['--base=x'], 'a.safetensors', '--base is required'),
    (['--trained', '--base=x'], 'a.bin', 'give a name in .safetensors'),
    (
      ['--trained', '--base=x', '--to_hugging_face'],
      *('a.safetensors', 'not both'),
    ),
  ],
)
def test_wrong_flags_are_one_line(runs, capfd, flags, output, message):
  code, err = _convert(runs, capfd, *flags, output=output)
  assert code == 2 and message in err and err.count('\n') == 1
  assert not (runs / output).exists()


def test_a_run_with_frozen_weights_is_refused(runs, capfd):
  code, err = _convert(
    *(runs, capfd, '--trained', '--base=x'),
    source='base',
    output='b.safetensors',
  )
  assert code == 2 and 'SAVE_FROZEN = False' in err
  assert not (runs / 'b.safetensors').exists()
