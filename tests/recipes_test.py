"""Full-size recipes: stages, files, parameters, data, and a slice they fit."""

import copy
import csv
import importlib.util
import json
import math
import pathlib
import subprocess
import sys

import gin
import jax
import pytest
import runner
import seqio
import shared

from hypertuning import gin_utils
from hypertuning import report as report_lib
from hypertuning.data import aggregation
from hypertuning.sweeping import cells, expansion
from hypertuning.tasks import metaicl, p3

BENCHMARKS = ('p3', 'natural_instructions', 'metaicl')
SIZES = ('large', 'xl')
PATHS = {
  'p3': ['P3_DIR'],
  'natural_instructions': ['NI_DIR'],
  'metaicl': ['METAICL_DIR'],
}
REQUIRED = ('T5_CHECKPOINT', 'VOCABULARY_FILE')
RECIPES = [(b, s) for b in BENCHMARKS for s in SIZES]
LOCAL = 'gin/recipes/local.gin'
WHERE = {'train': 'MODEL_DIR', 'eval': 'EVAL_OUTPUT_DIR'}
# The slices that the size files name.
TOPOLOGIES = {'large': 'v4-16', 'xl': 'v4-64'}
# T5 1.1: width, heads, width of the MLP.
SHAPES = {'large': (1024, 16, 2816), 'xl': (2048, 32, 5120)}
LAYERS, HEAD_DIM, VOCAB, BUCKETS = 24, 64, 32128, 32
P, RANK, BOTTLENECK = 32, 16, 512


def stages(benchmark, size, *more, **paths):
  """The stages of a recipe, as a sweep is given them."""
  given = {name: name.lower() for name in (*PATHS[benchmark], *REQUIRED)}
  gin_utils.parse(
    [f'gin/recipes/{benchmark}.gin', f'gin/recipes/{size}.gin', *more],
    [f'{name} = {value!r}' for name, value in {**given, **paths}.items()],
  )
  return resolved('STAGES')


def resolved(macro):
  with gin.unlock_config():  # copies of references are what they refer to
    return copy.deepcopy(gin.query_parameter(f'{macro}/macro.value'))


def bindings(stage, **more):
  """All that a sweep binds in a stage's command."""
  after = {name: f'cells/{of}' for name, of in stage.get('after', {}).items()}
  where = {WHERE[stage['command'].rpartition('.')[2]]: 'cell'}
  given = {**stage['bindings'], **after, **where, **more}
  return [f'{name} = {value!r}' for name, value in given.items()]


def t5_parameters(width, heads, mlp):
  """Of a T5 1.1, by hand."""
  inner = heads * HEAD_DIM
  attention, ffn = 4 * width * inner, 3 * width * mlp
  encoder = LAYERS * (attention + ffn + 2 * width) + BUCKETS * heads + width
  decoder = LAYERS * (2 * attention + ffn + 3 * width) + BUCKETS * heads + width
  return {'embedding': VOCAB * width, 'stacks': encoder + decoder}


def hypermodel_parameters(kind, width, heads, mlp):
  """Of a T5 without its output layer, its queries and its head, by hand."""
  inner = heads * HEAD_DIM
  if kind == 'prefix':  # encoder_self, decoder_self
    queries = 2 * P
    keys_values = 2 * LAYERS * inner
    one = width * BOTTLENECK + BOTTLENECK * keys_values + LAYERS * heads
    head = 2 * one
  else:  # query and value of three attentions
    queries = 3 * LAYERS
    a = width * BOTTLENECK + BOTTLENECK * width * RANK
    b = width * BOTTLENECK + BOTTLENECK * inner * RANK
    head = 2 * (a + b)
  t5 = t5_parameters(width, heads, mlp)
  return sum(t5.values()) + queries * width + head


def count(tree):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize('benchmark, size', RECIPES)
def test_stages_follow_from_c4_to_the_table(benchmark, size):
  found = stages(benchmark, size)
  axes = resolved('AXES')
  evaluated = set()
  for name, stage in found.items():
    assert set(stage) <= {'command', 'gin_files', 'bindings', 'axes', 'after'}
    assert set(stage['axes']) <= set(axes)
    for file in stage['gin_files']:
      assert (runner.ROOT / file).is_file(), file
    assert f'gin/recipes/sizes/{size}.gin' in stage['gin_files']
    for binding, other in stage.get('after', {}).items():
      # A cell reads one folder: of as many axes as it has, or of fewer.
      assert set(found[other]['axes']) <= set(stage['axes'])
      assert found[other]['command'] == 't5x.train'
      if binding == 'CHECKPOINT_PATH':
        assert stage['command'].endswith('.eval')
        evaluated.add(other)
      else:
        assert (binding, other) == (
          'INITIAL_CHECKPOINT_PATH',
          f'{name.rpartition("_")[2]}_hyperpretrain',
        )
  work = {cell.stage: cell for cell in expansion.expand('out', found, axes)}
  assert [*work] == [*found]
  cell = work[next(n for n in found if n.endswith('_prefix_eval'))]
  run = cell.after['CHECKPOINT_PATH'].folder.absolute()
  assert f"--gin.CHECKPOINT_PATH='{run}'" in cell.flags()
  trained = {n for n, s in found.items() if s['command'].endswith('.train')}
  assert trained - evaluated == {'lora_hyperpretrain'}
  from_t5 = {
    name
    for name, stage in found.items()
    if stage['bindings'].get('INITIAL_CHECKPOINT_PATH') == 't5_checkpoint'
  }
  assert {name.rpartition('_')[2] for name in from_t5} == {
    'hyperpretrain',
    'mtf',
    'context',
  }


def test_recipes_of_one_size_share_hyperpretraining_alone():
  found = [stages(benchmark, 'xl') for benchmark in BENCHMARKS]
  shared_names = {'prefix_hyperpretrain', 'lora_hyperpretrain'}
  for one, other in zip(found, found[1:], strict=False):
    assert set(one) & set(other) == shared_names
    for name in shared_names:
      assert one[name] == other[name]


@pytest.mark.parametrize('benchmark, size', RECIPES)
def test_what_is_missing_is_named(benchmark, size):
  files = [f'gin/recipes/{benchmark}.gin', f'gin/recipes/{size}.gin']
  with pytest.raises(gin_utils.UserError) as error:
    gin_utils.parse(files)
  for name in (*PATHS[benchmark], *REQUIRED):
    assert name in str(error.value)


@pytest.mark.parametrize('benchmark, size', RECIPES)
def test_every_stage_parses_and_has_the_parameters_of_the_papers_sizes(
  benchmark, size
):
  """By the commands of this machine: those of t5x differ in the run file."""
  t5 = t5_parameters(*SHAPES[size])
  t5_total = sum(t5.values()) + t5['embedding']  # and the output layer
  published = {'large': 783_150_080, 'xl': 2_849_757_184}
  assert t5_total == published[size]
  for name, stage in stages(benchmark, size, LOCAL).items():
    gin_utils.parse(stage['gin_files'], bindings(stage, VOCABULARY=None))
    lengths = resolved('TASK_FEATURE_LENGTHS')
    queries, inputs = lengths['inputs']
    assert lengths['targets'] == (queries, 128)
    baseline = 'mtf' in name or 'frozen' in name
    in_context = 'in_context' in name
    if benchmark == 'natural_instructions' and 'mtf' in name:
      in_context = True  # the definition stands in the input
    assert inputs == (1408 if in_context else 384)
    hyper = 1 if baseline else 512 if 'hyperpretrain' in name else 1024
    assert lengths['hyper_inputs'] == hyper
    if stage['command'] == 'hypertuning.train':
      assert queries == 1 and resolved('TRAIN_STEPS') >= 10_000
      # Behind the run file, which has its own.
      assert resolved('PARAMETER_PARTITIONING_DIMS') == 2
      assert resolved('FROZEN_PARTITIONING_DIMS') == 1
    if baseline:
      # Once: the same model in every stage of a size.
      if name.endswith('_mtf'):
        assert parameters(lengths) == {'params': t5_total}
      continue
    kind = 'prefix' if 'prefix' in name else 'lora'
    if name in ('prefix_hyperpretrain', 'lora_hyperpretrain'):
      assert parameters(lengths) == {
        'params': hypermodel_parameters(kind, *SHAPES[size]),
        'frozen': t5_total,
      }


def parameters(lengths):
  """Parameters of a collection of the model that gin describes."""
  with gin.unlock_config():
    model = gin.query_parameter('MODEL/macro.value').scoped_configurable_fn()
  queries, inputs = lengths['inputs']
  shapes = {
    'hyper_tokens': (1, lengths['hyper_inputs']),
    'input_tokens': (1, queries, inputs),
    'target_tokens': (1, *lengths['targets']),
  }
  variables = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), shapes)
  )
  frozen = variables.get('frozen', {})
  assert all(leaf.dtype == 'bfloat16' for leaf in jax.tree.leaves(frozen))
  return {
    name: count(variables[name])
    for name in ('params', 'frozen')
    if variables.get(name)
  }


# Tasks of the held-out mixtures, and what the benchmark measures.
EVALUATED = {
  'p3': (
    [
      *(f'anli_prompt_r{n}' for n in (1, 2, 3)),
      *(f'{name}_prompt' for name in p3.HELD_OUT if name != 'anli'),
    ],
    '_score_eval',
    'accuracy',
  ),
  'natural_instructions': (['natural_instructions'], '', 'rouge_l'),
  'metaicl': (
    [f'metaicl_{task}_{seed}' for task in 'ab' for seed in metaicl.SEEDS],
    '_score_eval',
    'score',
  ),
}
AGGREGATES = {'p3': p3.aggregate, 'metaicl': metaicl.aggregate}
LABELS = {
  'prefix_eval': 'HyperT5-Prefix',
  'lora_eval': 'HyperT5-LoRA',
  'mtf_eval': 'MTF',
  'mtf_in_context_eval': 'few-shot MTF',
  'frozen_in_context_eval': 'frozen model, examples in context',
}


def write_results(benchmark, cell, value):
  """What t5x, or the one stage of this machine, writes: a number a task."""
  names, ending, metric = EVALUATED[benchmark]
  ni = benchmark == 'natural_instructions'
  if 'in_context' in cell.stage or (ni and 'mtf' in cell.stage):
    ending = f'_in_context{ending}'
  numbers = {f'{name}{ending}': value + n for n, name in enumerate(names)}
  if cell.command == 'hypertuning.eval':
    rows = [
      {'task': task, 'phi': 'none', metric: number}
      for task, number in numbers.items()
    ]
    rows += AGGREGATES.get(benchmark, aggregation.averages)(rows)
    text = ''.join(f'{json.dumps(row)}\n' for row in rows)
    (cell.folder / 'results.jsonl').write_text(text)
  else:
    (cell.folder / 'inference_eval').mkdir()
    for task, number in numbers.items():
      path = cell.folder / f'inference_eval/{task}-metrics.jsonl'
      path.write_text(json.dumps({'step': 1, metric: number}))
    if 'mtf' in cell.stage:
      (cell.folder / 'config.gin').write_text('HYPERMODEL = None\n')
  cell.succeed(1.0)
  return numbers


@pytest.mark.parametrize('benchmark, size', RECIPES)
def test_report_has_every_method(benchmark, size, tmp_path):
  found = stages(benchmark, size)
  work = expansion.expand(str(tmp_path), found, resolved('AXES'))
  cells.claim(str(tmp_path), work)
  values = {}
  for n, cell in enumerate(work):
    if cell.stage.endswith('_eval'):
      values[cell.stage] = write_results(benchmark, cell, 10.0 + 3 * n)
  file = f'report_{benchmark}_{size}'
  if benchmark == 'metaicl':
    file = f'report_{benchmark}'  # nothing is published for a size

  def report(file):
    gin_utils.parse(
      [f'gin/recipes/{file}.gin'], [f'SWEEP_DIR = {str(tmp_path)!r}']
    )
    gin_utils.call(report_lib.report)
    with (tmp_path / 'methods.csv').open() as table:
      return list(csv.DictReader(table))

  rows = report(file)
  short = 'ni' if benchmark == 'natural_instructions' else benchmark
  assert {row['method'] for row in rows} == set(LABELS.values())
  for stage, label in LABELS.items():
    numbers = values[f'{short}_{stage}']
    mean = sum(numbers.values()) / len(numbers)
    if benchmark == 'p3':  # three rounds of ANLI are one set
      anli = [number for task, number in numbers.items() if 'anli' in task]
      sets = [number for task, number in numbers.items() if 'anli' not in task]
      mean = (sum(anli) / len(anli) + sum(sets)) / (1 + len(sets))
    first = next(row for row in rows if row['method'] == label)
    assert float(first['mean']) == pytest.approx(mean)
  if benchmark != 'metaicl':
    other = next(other for other in SIZES if other != size)
    with pytest.raises(
      gin_utils.UserError, match=f'not run with .*{other}.gin'
    ):
      report(f'report_{benchmark}_{other}')


PARSE = """
import importlib, json, sys
from hypertuning import gin_utils, paths
module, function, stages = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
# Gin files of t5x configure the script that runs.
globals()[function] = getattr(importlib.import_module(module), function)
globals()[function].__module__ = '__main__'
import gin, pathlib, t5x
search = [str(pathlib.Path(t5x.__path__[0]).parent)]
for name, (files, bindings) in stages.items():
  gin_utils.parse(files, bindings, search)
  print(name)
"""


@pytest.mark.t5x
@pytest.mark.parametrize('benchmark', BENCHMARKS)
@pytest.mark.parametrize(
  'script, function', [('train', 'train'), ('eval', 'evaluate')]
)
def test_every_stage_parses_under_t5x(benchmark, script, function):
  # Where it is missing, Python takes the folder tests/t5x for it.
  t5x = importlib.util.find_spec('t5x')
  if t5x is None or t5x.origin is None:
    pytest.skip('needs t5x, airio and jestimator, see setup.py')
  found = {
    f'{size}/{name}': (stage['gin_files'], bindings(stage))
    for size in SIZES
    for name, stage in stages(benchmark, size).items()
    if stage['command'] == f't5x.{script}'
  }
  done = subprocess.run(
    [
      *(sys.executable, '-c', PARSE),
      *(f't5x.{script}', function, json.dumps(found)),
    ],
    env=runner.environment(),
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr[-4000:]
  assert done.stdout.split() == list(found)


REAL = {
  'p3': {
    'P3_DIR': shared.DATA / 'p3_train',
    'P3_HELD_OUT_DIR': shared.DATA / 'p3_heldout',
  },
  'natural_instructions': {'NI_DIR': shared.DATA / 'superni'},
  'metaicl': {'METAICL_DIR': shared.DATA / 'metaicl'},
}


@pytest.mark.slow
@shared.needed
@pytest.mark.parametrize('benchmark', BENCHMARKS)
def test_real_data_fills_the_lengths(benchmark):
  """The mixtures of all stages, by gin, from the files that are here."""
  paths = {name: str(path) for name, path in REAL[benchmark].items()}
  model = shared.DATA / 'tokenizer/t5/spiece.model'
  paths['VOCABULARY_FILE'] = str(model)
  more = {}
  if benchmark == 'natural_instructions':
    paths['NI_TRACK'] = 'offline'
  for name, stage in stages(benchmark, 'large', LOCAL, **paths).items():
    if 'hyperpretrain' in name:
      continue  # C4 is not here
    gin_utils.parse(stage['gin_files'], bindings(stage, **more))
    registered = resolved('MIXTURE_OR_TASK_NAME')
    in_context = 'in_context' in name
    if benchmark == 'natural_instructions' and 'mtf' in name:
      in_context = True
    assert registered.endswith('_in_context') == in_context, name
    provider = seqio.get_mixture_or_task(registered)
    split = 'train'
    if stage['command'].endswith('eval'):
      split = resolved('SPLIT')
    tasks = seqio.get_subtasks(provider)
    assert all(split in task.splits for task in tasks)
    if benchmark == 'metaicl':
      continue  # its rows are not here
    lengths = resolved('TASK_FEATURE_LENGTHS')
    dataset = tasks[0].get_dataset(lengths, split, shuffle=False, seed=0)
    for example in dataset.take(20).as_numpy_iterator():
      for feature, length in lengths.items():
        shape = example[feature].shape
        room = length if isinstance(length, tuple) else (length,)
        assert len(shape) == len(room)
        assert all(n <= most for n, most in zip(shape, room, strict=True))
      if not in_context and 'mtf' not in name:
        assert len(example['hyper_inputs']) > 32


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed'
)
@pytest.mark.parametrize('kind', ['prefix', 'lora'])
@pytest.mark.parametrize('size', SIZES)
def test_multitask_step_fits_its_slice(size, kind, tmp_path):
  """Compiled for TPUs; the benchmarks' steps have the same shapes."""
  path = tmp_path / 'plan.json'
  stage = stages('p3', size, LOCAL, MULTITASK_FILE='gin/local/plan.gin')[
    f'p3_{kind}'
  ]
  given = {
    **stage['bindings'],
    'VOCABULARY': None,
    'MIXTURE_OR_TASK_NAME': None,
  }
  command = [
    *(sys.executable, '-m', 'hypertuning.plan'),
    *(f'--topology={TOPOLOGIES[size]}', f'--json={path}'),
    f'--cache_dir={tmp_path}',
    *runner.flags(stage['gin_files'], given),
  ]
  done = subprocess.run(
    command,
    env=runner.plain_environment(),
    capture_output=True,
    text=True,
    timeout=3000,
  )
  assert done.returncode == 0, done.stderr
  costs = json.loads(pathlib.Path(path).read_text())['costs']
  assert costs['error'] is None and costs['queries'] == 128
  # A v4 chip shows 30.75 GiB; some room for the programs of a run's start.
  assert costs['peak_bytes'] < 28 << 30


def test_steps_of_all_benchmarks_have_the_same_shapes():
  """So that one that is compiled speaks for the others."""
  for size in SIZES:
    seen = set()
    for benchmark in BENCHMARKS:
      for name, stage in stages(benchmark, size, LOCAL).items():
        if name.endswith(('_prefix', '_lora')):
          gin_utils.parse(stage['gin_files'], bindings(stage))
          seen.add(
            (str(resolved('TASK_FEATURE_LENGTHS')), resolved('BATCH_SIZE'))
          )
    assert len(seen) == 1
