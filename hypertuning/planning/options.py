"""The flags of `python -m hypertuning.plan`, without slow imports."""

from absl import flags

_FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # --help shows the flags as the entry point's own


def define_flags() -> None:
  """Defines the flags; if the process has them, only resets their values."""
  names = ('topology', 'json', 'compile', 'search', 'choices', 'cache_dir')
  if 'topology' in _FLAGS:
    for name in names:
      _FLAGS[name].unparse()
    return
  flags.DEFINE_string(
    'topology',
    None,
    'TPU slice by its cloud name or shape, or GPUs: v4-64, v4:2x4x4, h100-8.',
  )
  flags.DEFINE_string('json', None, 'File for all numbers.')
  flags.DEFINE_bool(
    'compile', True, 'If false, only weights and FLOPs are counted, in seconds.'
  )
  flags.DEFINE_bool(
    'search', False, 'Compile many configurations and rank those that fit.'
  )
  flags.DEFINE_multi_string(
    'choices',
    [],
    'NAME=[...], values that --search tries in place of its own: BATCH_SIZE, '
    'QUERIES (an episode), REMAT_POLICY, MESH (bindings each) or any macro.',
  )
  flags.DEFINE_string(
    'cache_dir',
    '~/.cache/hypertuning/plans',
    'Folder of what was compiled before, so that it need not be again.',
  )
