"""Eight CPU devices for every test, set before anything imports jax."""

import atexit
import importlib.metadata
import os
import shutil
import tempfile

if os.environ.get('JAX_PLATFORMS') != 'cuda':  # tests marked `gpu` need one
  os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Most of the time goes into compiling. Programs that run for a moment need not
# be good ones (the emitters of fusions alone take half of it), and none is
# compiled twice. Set the folder to one that survives, and the next run saves it
# too.
_XLA_FLAGS = [
  '--xla_force_host_platform_device_count=8',
  '--xla_cpu_opt_preset=FAST_COMPILE',
]
if importlib.metadata.version('jax').startswith('0.10.'):
  # Later versions have no other way, and end on a flag that they do not know.
  _XLA_FLAGS.append('--xla_cpu_use_fusion_emitters=false')
for _flag in _XLA_FLAGS:
  if _flag not in os.environ.get('XLA_FLAGS', ''):
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_flag}'
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _cache = tempfile.mkdtemp(prefix='hypertuning_test_')
  atexit.register(shutil.rmtree, _cache, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _cache
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')

import pytest  # noqa: E402

pytest.register_assert_rewrite('runner', 'tiny')
