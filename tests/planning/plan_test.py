"""What a step costs on TPUs: counters, names, search, and a real compile."""

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import runner
from jax.sharding import NamedSharding, PartitionSpec

from hypertuning import gin_utils, train
from hypertuning.engine.partitioning import Partitioner
from hypertuning.errors import UserError
from hypertuning.planning import (
  chips,
  flops,
  hlo,
  report,
  roofline,
  search,
  step,
  topologies,
)
from hypertuning.planning.step import Costs

BINDINGS = {
  name: value
  for name, value in runner.SMALL.items()
  if name not in ('MIXTURE_OR_TASK_NAME', 'MIXTURE_OR_TASK_MODULE')
}
COSTS = Costs(
  params_bytes=1,
  optimizer_bytes=1,
  frozen_bytes=1,
  executed_flops=2e12,
  useful_flops=1e12,
  queries=8,
  peak_bytes=1 << 30,
)


# Names of slices.


@pytest.mark.parametrize(
  'name, shape, chips',
  [
    ('v4-64', 'v4:2x4x4', 32),
    ('v4:2x4x4', 'v4:2x4x4', 32),
    ('v4-8', 'v4:2x2x1', 4),
    ('v5p-64', 'v5p:2x4x4', 32),
    ('v5e-64', 'v5e:8x8', 64),
    ('v5litepod-64', 'v5e:8x8', 64),
    ('v6e-8', 'v6e:2x4', 8),
    ('h100-8', 'h100:8', 8),
    ('h200:1', 'h200:1', 1),
  ],
)
def test_clouds_count_cores_of_some_chips(name, shape, chips):
  topology = topologies.find(name)
  assert (topology.name, topology.chips) == (shape, chips)


@pytest.mark.parametrize('name', ['v4-63', 'v4:3x3x3', 'v5e:4x4x4', 'v4', 'x'])
def test_slices_that_do_not_exist_are_refused_with_those_that_do(name):
  with pytest.raises(UserError) as error:
    topologies.find(name)
  known = 'v5litepod-64 = v5e:8x8' if name == 'v5e:4x4x4' else 'v4-64 = v4:2x4x'
  assert f'--topology={name}:' in str(error.value)
  assert known in str(error.value) and '\n' not in str(error.value)


def test_every_name_is_of_one_slice():
  names = [
    name
    for chip in chips.CHIPS
    for shape in chip.shapes
    for name in (f'{chip.name}:{shape}', f'{chip.cloud[0]}{shape}')
  ]
  assert len(names) == len(set(names))


# FLOPs of traced functions.


def test_flops_count_loops_batches_and_what_remat_repeats():
  def layer(x, w):
    return jnp.sin(x @ w), None

  def run(x, ws, body):
    return jax.lax.scan(body, x, ws)[0].sum()

  def count(function):
    shapes = (jnp.ones((3, 8)), jnp.ones((5, 8, 8)))
    return flops.matmul_flops(jax.make_jaxpr(function)(*shapes).jaxpr)

  once = 2 * 3 * 8 * 8
  assert count(lambda x, w: run(x, w, layer)) == 5 * once
  remat = jax.checkpoint(layer, prevent_cse=False)
  grads = {
    body: count(lambda x, w, b=body: jax.grad(run, (0, 1))(x, w, b))
    for body in (layer, remat)
  }
  assert grads == {layer: 15 * once, remat: 20 * once}
  batched = jax.make_jaxpr(lambda x: jnp.einsum('bij,bjk->bik', x, x))
  assert flops.matmul_flops(batched(jnp.ones((7, 4, 4))).jaxpr) == 7 * 128


def test_flops_of_a_function_per_device_count_on_every_device():
  """As a kernel's, which runs on the rows of each device."""
  partitioner = Partitioner()
  rows = PartitionSpec('data')

  def run(x, w):
    return jax.shard_map(
      jnp.matmul,
      mesh=partitioner.mesh,
      in_specs=(rows, PartitionSpec()),
      out_specs=rows,
    )(x, w)

  jaxpr = jax.make_jaxpr(run)(jnp.ones((16, 4)), jnp.ones((4, 4)))
  assert flops.matmul_flops(jaxpr.jaxpr) == 2 * 16 * 4 * 4


# Text of compiled programs.

# As the TPU compiler writes a matmul that gathers its weight meanwhile: no
# trip counts, unrolled by two.
TPU_TEXT = """\
HloModule jit_step, is_scheduled=true

%cond (p.1: (bf16[1,64], bf16[1,64], u32[])) -> pred[] {
  %constant.1 = u32[]{:T(128)} constant(16)
  %p.1 = (bf16[1,64]{1,0:T(8,128)(2,1)S(3)}, bf16[1,64]{1,0}, u32[]{:T(128)}) parameter(0)
  %get-tuple-element.1 = u32[]{:T(128)} get-tuple-element(%p.1), index=2
  ROOT %compare.1 = pred[]{:T(512)} compare(%get-tuple-element.1, %constant.1), direction=LT
}

%body (p.2: (bf16[1,64], bf16[1,64], u32[])) -> (bf16[1,64], bf16[1,64], u32[]) {
  %constant.2 = u32[]{:T(128)} constant(2)
  %p.2 = (bf16[1,64]{1,0:T(8,128)(2,1)S(3)}, bf16[1,64]{1,0}, u32[]{:T(128)}) parameter(0)
  %get-tuple-element.2 = bf16[1,64]{1,0} get-tuple-element(%p.2), index=0
  %get-tuple-element.3 = u32[]{:T(128)} get-tuple-element(%p.2), index=2
  %collective-permute-start.1 = (bf16[1,64]{1,0}, bf16[1,64]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%get-tuple-element.2), channel_id=1, source_target_pairs={{0,1},{1,0}}
  %collective-permute-done.1 = bf16[1,64]{1,0} collective-permute-done(%collective-permute-start.1)
  %add.1 = u32[]{:T(128)} add(%get-tuple-element.3, %constant.2)
  ROOT %tuple.1 = (bf16[1,64]{1,0}, bf16[1,64]{1,0}, u32[]{:T(128)}) tuple(%collective-permute-done.1, %get-tuple-element.2, %add.1)
}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %add.2 = f32[]{:T(128)} add(%a, %b)
}

%fused (x.1: f32[24,128], i.1: s32[]) -> f32[1,128] {
  %x.1 = f32[24,128]{1,0} parameter(0)
  %i.1 = s32[] parameter(1)
  ROOT %dynamic-slice.1 = f32[1,128]{1,0} dynamic-slice(%x.1, %i.1, %i.1), dynamic_slice_sizes={1,128}
}

ENTRY %main (arg.1: f32[24,128], arg.2: bf16[1,64], arg.3: s32[]) -> f32[1,128] {
  %arg.1 = f32[24,128]{1,0:T(8,128)} parameter(0)
  %arg.2 = bf16[1,64]{1,0} parameter(1)
  %arg.3 = s32[]{:T(128)S(6)} parameter(2)
  %constant.3 = u32[]{:T(128)} constant(0)
  %tuple.2 = (bf16[1,64]{1,0}, bf16[1,64]{1,0}, u32[]{:T(128)}) tuple(%arg.2, %arg.2, %constant.3)
  %while.1 = (bf16[1,64]{1,0}, bf16[1,64]{1,0}, u32[]{:T(128)}) while(%tuple.2), condition=%cond, body=%body
  %fusion.1 = f32[1,128]{1,0:T(8,128)} fusion(%arg.1, %arg.3), kind=kLoop, calls=%fused
  %all-gather.1 = bf16[32,64]{1,0} all-gather(%arg.2), channel_id=2, dimensions={0}
  %all-gather.2 = bf16[32,64]{1,0} all-gather(%arg.2), channel_id=2, dimensions={0}
  ROOT %all-reduce.1 = f32[1,128]{1,0} all-reduce(%fusion.1), channel_id=3, to_apply=%sum
}
"""  # noqa: E501


def test_collectives_of_tpu_text_count_as_often_as_loops_run():
  assert hlo.collective_bytes(TPU_TEXT) == {
    'collective-permute': 8 * 128,  # 16 by 2
    'all-gather': 32 * 128,  # once a channel
    'all-reduce': 2 * 512,  # there and back
  }
  # Permutes are started ahead, and no fusion holds the others.
  assert hlo.collective_bytes(TPU_TEXT, waited=True) == {
    'all-gather': 32 * 128,
    'all-reduce': 2 * 512,
  }
  fused = TPU_TEXT.replace(
    '  ROOT %dynamic-slice.1',
    '  %all-gather.3 = f32[9] all-gather(%x.1)\n  ROOT %dynamic-slice.1',
  )
  received = [hlo.collective_bytes(fused, waited=w) for w in (False, True)]
  assert received[0]['all-gather'] > received[1]['all-gather'] == 32 * 128


def test_memory_traffic_of_a_slice_is_the_slice():
  text = TPU_TEXT[: TPU_TEXT.index('  %all-gather.1')] + '}\n'
  permutes = 8 * 3 * 128 + 8 * 3 * 4  # of each, operand and both results
  assert hlo.memory_bytes(text) - permutes == pytest.approx(2 * 512, abs=64)


def test_collectives_of_a_compiled_scan():
  """Eight CPU devices gather a weight in each of five layers."""
  partitioner = Partitioner()
  sharded = NamedSharding(partitioner.mesh, PartitionSpec(None, 'data'))
  layers = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=sharded)
  x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=partitioner.batch)

  def step(x, ws):
    def layer(x, w):
      w = jax.lax.with_sharding_constraint(w, partitioner.replicated)
      return jnp.sin(x @ w), None

    return jax.lax.scan(layer, x, ws)[0]

  compiled = jax.jit(step, out_shardings=partitioner.batch).lower(x, layers)
  received = hlo.collective_bytes(compiled.compile().as_text())
  assert received == {'all-gather': 5 * 64 * 64 * 4}


# Roofline and search.


def test_what_is_slowest_sets_the_time():
  topology = topologies.find('v4-64')
  slow = {'collective-permute': int(95e9)}
  costs = COSTS.__class__(**{**vars(COSTS), 'collective_bytes': slow})
  times = roofline.estimate(costs, topology)
  assert times.matmul_seconds == pytest.approx(2e12 / 275e12 / 0.7)
  assert times.network_seconds == times.best_seconds == pytest.approx(1.0)
  assert times.worst_seconds == pytest.approx(1.0 + times.matmul_seconds)
  assert times.best_utilisation == pytest.approx(1 / 275)
  assert times.queries_per_chip_second == pytest.approx(
    8 / 32 / times.worst_seconds
  )


def test_candidates_vary_what_they_should():
  lengths = {'hyper_inputs': 16, 'inputs': (1, 8), 'targets': (1, 4)}
  tried = list(search.candidates(64, lengths, {'REMAT_POLICY': ['full']}))
  assert {b['BATCH_SIZE'] for b in tried} == {32, 64, 128}
  assert {b['TASK_FEATURE_LENGTHS']['targets'] for b in tried} == {
    (1, 4),
    (4, 4),
  }
  assert {b['REMAT_POLICY'] for b in tried} == {'full'}
  assert {b['NUM_PARTITIONS'] for b in tried} == {1, 2, 4}
  assert any(
    b['FROZEN_PARTITIONING_DIMS'] == 1 and b['FROZEN_DTYPE'] == 'bfloat16'
    for b in tried
  )
  assert search.larger(tried[1], tried[0])
  assert not search.larger(tried[0], tried[1])
  other = {**tried[1], 'REMAT_POLICY': 'none'}
  assert not search.larger(other, tried[0])


# The command.


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
  """Runs the command on eight CPUs that pass for a slice of TPUs."""
  from hypertuning import gin_utils
  from hypertuning.planning import options

  monkeypatch.setattr(
    topologies, 'devices', lambda topology: tuple(jax.devices())
  )

  def main(*flags, files=runner.PLAN_FILES, **bindings):
    options.define_flags()
    cache = f'--cache_dir={tmp_path / "cache"}'
    rest = runner.flags(files, {**BINDINGS, **bindings})
    monkeypatch.setattr(sys, 'argv', ['plan', cache, *flags, *rest])
    capfd.readouterr()
    code = 0
    try:
      gin_utils.run('hypertuning.plan', 'plan', configured=False)
    except SystemExit as stop:
      code = stop.code or 0
    out, err = capfd.readouterr()
    return code, out, err

  return main


@pytest.fixture
def fails(run):
  def main(*flags, **bindings) -> str:
    code, out, err = run(*flags, **bindings)
    assert code == 2 and not out, (out, err)
    (line,) = err.splitlines()
    assert line.startswith('error: ')
    return line

  return main


def test_plan_of_the_run_file_of_training(run, tmp_path):
  """The files that train, unchanged; compiled once, then remembered."""
  path = tmp_path / 'plan.json'
  files = (*runner.PLAN_FILES[:3], 'gin/local/train.gin')
  flags = ('--topology=v4-16', f'--json={path}')
  bindings = {
    'MIXTURE_OR_TASK_NAME': 'any',
    'MODEL_DIR': 'none',
    'TRAIN_STEPS': 3,
    'NUM_PARTITIONS': 2,
    'PARAMETER_PARTITIONING_DIMS': 2,
    'FROZEN_PARTITIONING_DIMS': 1,
    'FROZEN_DTYPE': 'bfloat16',
  }
  code, out, err = run(*flags, files=files, **bindings)
  assert (code, err) == (0, '')
  assert out.startswith('v4:2x2x2, 8 chips') and 'fits' in out
  values = json.loads(path.read_text())
  costs = Costs(**values['costs'])
  assert values['fits'] and costs.queries == 8 * 2
  assert costs.executed_flops == costs.useful_flops > 0
  assert costs.frozen_bytes > costs.params_bytes / 8 > 0
  assert costs.peak_bytes > costs.params_bytes
  assert sum(costs.collective_bytes.values()) > costs.params_bytes
  assert run(*flags, files=files, **bindings) == (0, out, '')
  # What was only traced knows less, and is not remembered in its place.
  flags = (f'--cache_dir={tmp_path / "other"}', *flags, '--nocompile')
  code, traced, _ = run(*flags, files=files, **bindings)
  assert code == 0 and 'FLOPs useful' in traced and 'received' not in traced
  values = json.loads(path.read_text())['costs']
  assert values['useful_flops'] == costs.useful_flops
  assert not values['compiled'] and not values['peak_bytes']
  flags = (*flags[:-1], '--compile')
  assert 'peak' in run(*flags, files=files, **bindings)[1]


def test_search_ranks_what_fits_and_goes_on_where_it_was(
  run, tmp_path, monkeypatch
):
  from hypertuning import plan

  batches = []

  def compile_step(topology, devices, settings, compiled):
    assert compiled
    batch = settings['data'].batch_size
    batches.append(batch)
    error = 'too large' if batch == 64 else None
    return Costs(**{**vars(COSTS), 'queries': batch, 'error': error})

  monkeypatch.setattr(plan, 'compile_step', compile_step)
  path = tmp_path / 'plan.json'
  flags = (
    *('--topology=v4-16', '--search', f'--json={path}'),
    '--choices=BATCH_SIZE=[16, 32, 64, 128]',
    *('--choices=MESH=[{}]', "--choices=REMAT_POLICY=['none', 'full']"),
    '--choices=QUERIES=[2]',
  )
  code, out, err = run(*flags)
  assert code == 0
  assert batches == 2 * [16, 32, 64]  # more than 64 cannot fit either
  head, _, *rows, first = out.splitlines()
  assert head.startswith('| REMAT_POLICY | BATCH_SIZE | queries / chip-second')
  assert [row.split(' | ')[1] for row in rows] == ['32', '32', '16', '16']
  assert first.startswith('The first: --gin.REMAT_POLICY="\'none\'" ')
  assert '--gin.BATCH_SIZE=32 ' in first
  assert err.count('too large') == 2 and 'of 8' in err
  values = json.loads(path.read_text())
  assert [v['fits'] for v in values] == 2 * [True, True, False]
  assert run(*flags)[:2] == (0, out) and len(batches) == 6
  assert run(*flags, LEARNING_RATE=0.1)[0] == 0 and len(batches) == 12


def test_bad_input_is_one_line(fails, monkeypatch):
  assert '--topology is required' in fails()
  assert 'v4-64 = v4:2x4x4' in fails('--topology=v4-63')
  assert 'NUM_PARTITIONS = 3' in fails('--topology=v4-16', NUM_PARTITIONS=3)
  message = fails('--topology=v4-16', BATCH_SIZE=12)
  assert 'BATCH_SIZE = 12 is not a multiple of 8' in message
  assert '--choices=A=b' in fails('--topology=v4-16', '--choices=A=b')
  assert '--nocompile' in fails('--topology=v4-16', '--search', '--nocompile')
  message = fails('--topology=v4-16', TASK_FEATURE_LENGTHS={'inputs': 3})
  assert 'TASK_FEATURE_LENGTHS' in message


@pytest.mark.parametrize(
  'field, words',
  [
    ('error', 'Does not fit v4:2x2x2'),
    ('failure', 'The compiler fails on this program for v4:2x2x2'),
  ],
)
def test_what_cannot_run_is_one_line(fails, monkeypatch, field, words):
  from hypertuning import plan

  refused = Costs(**{**vars(COSTS), field: 'needs 34G of 30G.'})
  monkeypatch.setattr(plan, 'compile_step', lambda *_: refused)
  message = fails('--topology=v4-16')
  assert f'{words}: needs 34G of 30G.' in message
  assert 'REMAT_POLICY' in message


def test_without_the_compiler(monkeypatch):
  monkeypatch.setitem(sys.modules, 'libtpu', None)
  with pytest.raises(UserError, match='pip install libtpu'):
    topologies.devices(topologies.find('v4-8'))


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed'
)
def test_compiler_for_tpus(tmp_path):
  """In a process of its own: a step that fits, and one that does not."""
  path = tmp_path / 'plan.json'
  command = [
    *(sys.executable, '-m', 'hypertuning.plan'),
    *('--topology=v5e-4', '--search', f'--json={path}'),
    *(f'--cache_dir={tmp_path}', '--choices=BATCH_SIZE=[8, 33554432]'),
    *('--choices=MESH=[{"PARAMETER_PARTITIONING_DIMS": 2}]',),
    *('--choices=QUERIES=[2]', "--choices=REMAT_POLICY=['none']"),
    *runner.flags(runner.PLAN_FILES, BINDINGS),
  ]
  done = subprocess.run(
    command,
    env=runner.plain_environment(),
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stderr
  small, large = json.loads(path.read_text())
  assert small['fits'] and not large['fits']
  assert 'hbm' in large['costs']['error'].lower(), large['costs']['error']
  costs = Costs(**small['costs'])
  assert 0 < costs.params_bytes < costs.peak_bytes < 1 << 30
  assert sum(costs.collective_bytes.values()) > costs.params_bytes
  # Nothing of libtpu's own between the lines of progress.
  assert len(done.stderr.splitlines()) == 2, done.stderr


@pytest.mark.slow
def test_gpus_are_planned_on_simulated_cpus(tmp_path):
  """In a process of its own, which has so many devices as there are GPUs."""

  def plan(topology, **bindings) -> dict:
    path = tmp_path / f'{topology}.json'
    command = [
      *(sys.executable, '-m', 'hypertuning.plan', f'--topology={topology}'),
      *(f'--json={path}', f'--cache_dir={tmp_path}'),
      *runner.flags(runner.PLAN_FILES, {**BINDINGS, **bindings}),
    ]
    done = subprocess.run(
      command,
      env=runner.plain_environment(),
      capture_output=True,
      text=True,
      timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert 'by an estimate' in done.stdout and not done.stderr
    return json.loads(path.read_text())

  one, four = plan('h100-1'), plan('h100-4')
  assert (one['chips'], four['chips']) == (1, 4)
  assert 'NVLink' in four['assumptions']
  one, four = Costs(**one['costs']), Costs(**four['costs'])
  assert four.executed_flops == one.executed_flops / 4
  assert four.peak_bytes < one.peak_bytes
  assert not sum(one.collective_bytes.values())
  # Every GPU has whole weights: the gradients, float32, are summed, and each
  # byte of a sum is received twice. XLA sums those of relative biases before
  # they become those of their tables; the loss and its counts come on top.
  hyper, queries = runner.LENGTHS['hyper_inputs'], BINDINGS['PREFIX_LENGTH']
  biases = BINDINGS['NUM_HEADS'] * (hyper**2 + queries**2) * 4
  received = four.collective_bytes['all-reduce'] / 2
  assert four.params_bytes <= received <= four.params_bytes + biases + 12


def test_more_than_the_memory_of_a_gpu_does_not_fit(monkeypatch):
  topology = topologies.find('h100-1')
  small = dataclasses.replace(topology.chip, hbm_bytes=1 << 10)
  small_topology = dataclasses.replace(topology, chip=small)
  costs = step.compile_step(
    small_topology, tuple(jax.devices()[:1]), _settings(BINDINGS)
  )
  assert 'of 0 GiB by an estimate, which' in costs.error


def test_a_failure_of_the_compiler_is_kept(monkeypatch):
  # libtpu fails on some real programs, each of which takes minutes.
  def fail(*args, **kwargs):
    raise jax.errors.JaxRuntimeError('INTERNAL: RET_CHECK failure\nmore lines')

  monkeypatch.setattr(jax.stages.Lowered, 'compile', fail)
  topology = topologies.find('h100-1')
  costs = step.compile_step(
    topology, tuple(jax.devices()[:1]), _settings(BINDINGS)
  )
  assert costs.failure == 'INTERNAL: RET_CHECK failure' and not costs.error
  assert not report.as_json(costs, topology)['fits']


def _settings(bindings) -> dict:
  """The arguments of a training, as gin gives them."""
  gin_utils.parse(
    runner.PLAN_FILES, [f'{k} = {v!r}' for k, v in bindings.items()]
  )
  return gin_utils.arguments(train.train)


def test_cache_key_sees_every_source(tmp_path):
  """Also the network and the loss, which no list has to name."""
  topology = topologies.find('v4-16')
  keys = set()
  for number, file in enumerate(('networks/net.py', 'objectives.py')):
    package = tmp_path / str(number)
    (package / 'networks').mkdir(parents=True)
    for name in ('networks/net.py', 'objectives.py'):
      (package / name).write_text('x = 1\n')
    keys.add(search.key('', topology, package))
    changed = tmp_path / f'{number}_changed'
    shutil.copytree(package, changed)
    (changed / file).write_text('x = 2\n')
    keys.add(search.key('', topology, changed))
  assert len(keys) == 3
