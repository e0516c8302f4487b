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
LLAMA_BENCHMARKS = ('p3', 'natural_instructions', 'symbol_tuning')
LLAMAS = ('llama2_7b', 'llama2_13b')
PATHS = {
  'p3': ['P3_DIR'],
  'natural_instructions': ['NI_DIR'],
  'metaicl': ['METAICL_DIR'],
  'symbol_tuning': ['SYMBOL_TRAIN_FILES', 'SYMBOL_TEST_FILES'],
}
RECIPES = [(b, s) for b in BENCHMARKS for s in SIZES]
RECIPES += [(b, s) for b in LLAMA_BENCHMARKS for s in LLAMAS]
LOCAL = 'gin/experiments/recipes/local.gin'
WHERE = {'train': 'MODEL_DIR', 'eval': 'EVAL_OUTPUT_DIR'}
# The slices that the size files name.
TOPOLOGIES = {
  'large': 'v4-16',
  'xl': 'v4-64',
  'llama2_7b': 'v4-64',
  'llama2_13b': 'v4-64',
}
# T5 1.1: width, heads, width of the MLP.
SHAPES = {'large': (1024, 16, 2816), 'xl': (2048, 32, 5120)}
LAYERS, HEAD_DIM, VOCAB, BUCKETS = 24, 64, 32128, 32
P, RANK, BOTTLENECK = 32, 16, 512
# Llama 2: width, layers, width of the MLP, parameters.
LLAMA_SHAPES = {
  'llama2_7b': (4096, 32, 11008, 6_738_415_616),
  'llama2_13b': (5120, 40, 13824, 13_015_864_320),
}
GISTS, GIST_RANK = 16, 8
PATHS_OF_FILES = ('SYMBOL_TRAIN_FILES', 'SYMBOL_TEST_FILES')
SHORT = {
  'p3': 'p3',
  'natural_instructions': 'ni',
  'metaicl': 'metaicl',
  'symbol_tuning': 'symbols',
}


def required(size):
  """The macros that all recipes of a model need."""
  family = 'LLAMA' if size in LLAMAS else 'T5'
  return f'{family}_CHECKPOINT', 'VOCABULARY_FILE'


def methods_of(size):
  shared = ('shared_prefix',) if size in LLAMAS else ()
  return 'prefix', 'lora', *shared, 'mtf', 'mtf_in_context'


def is_baseline(name):
  return any(x in name for x in ('mtf', 'frozen', 'shared'))


def work(benchmark, size, *more, folder='out', **paths):
  """The cells of a recipe, by STAGE/METHOD: it has one seed."""
  bound = {
    name: (name.lower(),) if name in PATHS_OF_FILES else name.lower()
    for name in (*PATHS[benchmark], *required(size))
  }
  gin_utils.parse(
    [
      f'gin/experiments/recipes/{benchmark}.gin',
      f'gin/experiments/recipes/{size}.gin',
      *more,
    ],
    [f'{name} = {value!r}' for name, value in {**bound, **paths}.items()],
  )
  cells = expansion.expand(str(folder), resolved('STAGES'), resolved('AXES'))
  found = {
    '/'.join([cell.stage, cell.point.get('method', '')]).rstrip('/'): cell
    for cell in cells
  }
  assert len(found) == len(cells)
  return found


def resolved(macro):
  with gin.unlock_config():  # copies of references are what they refer to
    return copy.deepcopy(gin.query_parameter(f'{macro}/macro.value'))


def bindings(cell, **more):
  """All that a sweep binds in a cell's command."""
  after = {name: other.name for name, other in cell.after.items()}
  where = {WHERE[cell.command.rpartition('.')[2]]: 'cell'}
  values = {**cell.bindings, **after, **where, **more}
  return [f'{name} = {value!r}' for name, value in values.items()]


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


def llama_parameters(kind, width, layers, mlp):
  """What HyperLlama trains, by hand."""
  attention, ffn = 4 * 2 * width, 3 * (width + mlp)
  lora = layers * GIST_RANK * (attention + ffn)
  if kind == 'prefix':
    return GISTS * width + lora
  a = b = width * BOTTLENECK + BOTTLENECK * width * RANK  # query and value
  return layers * width + lora + 2 * (a + b)


def count(tree):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize('benchmark, size', RECIPES)
def test_stages_follow_from_c4_to_the_table(benchmark, size):
  found = work(benchmark, size)
  short = SHORT[benchmark]
  hyper, methods = ('prefix', 'lora'), methods_of(size)
  frozen = f'{short}_frozen_in_context_eval'
  assert set(found) == {
    *(f'hyperpretrain/{method}' for method in hyper),
    *(f'{short}/{method}' for method in methods),
    *(f'{short}_eval/{method}' for method in methods),
    frozen,
  }
  for cell in found.values():
    for file in cell.gin_files:
      assert (runner.ROOT / file).is_file(), file
    assert f'gin/experiments/recipes/sizes/{size}.gin' in cell.gin_files
    # t5x would not read the frozen model of a hypermodel's run alone.
    package = 'hypertuning' if cell is found[frozen] else 't5x'
    assert cell.command.startswith(f'{package}.')
  starts = {name: cell.after for name, cell in found.items()}
  first = {
    name
    for name, cell in found.items()
    if cell.bindings.get('INITIAL_CHECKPOINT_PATH') == required(size)[0].lower()
  }
  assert first == {
    *(f'hyperpretrain/{method}' for method in hyper),
    *(f'{short}/{method}' for method in methods if method not in hyper),
  }
  assert not any(starts[name] for name in first)
  for method in hyper:
    assert starts[f'{short}/{method}'] == {
      'INITIAL_CHECKPOINT_PATH': found[f'hyperpretrain/{method}']
    }
  for method in methods:
    trained = found[f'{short}/{method}']
    assert starts[f'{short}_eval/{method}'] == {'CHECKPOINT_PATH': trained}
    run = trained.folder.absolute()
    flags = found[f'{short}_eval/{method}'].flags()
    assert f"--gin.CHECKPOINT_PATH='{run}'" in flags
  assert starts[frozen] == {'CHECKPOINT_PATH': found['hyperpretrain/prefix']}


MODELS = pytest.mark.parametrize(
  'size, benchmarks',
  [('xl', BENCHMARKS), ('llama2_7b', LLAMA_BENCHMARKS)],
  ids=['xl', 'llama2_7b'],
)


@MODELS
def test_recipes_of_one_size_share_hyperpretraining_alone(size, benchmarks):
  found = [work(benchmark, size) for benchmark in benchmarks]
  shared_names = {'hyperpretrain/prefix', 'hyperpretrain/lora'}
  for one, other in zip(found, found[1:], strict=False):
    assert set(one) & set(other) == shared_names
    for name in shared_names:
      assert one[name] == other[name]


@MODELS
def test_recipes_of_one_size_run_in_one_folder(size, benchmarks, tmp_path):
  for benchmark in benchmarks:
    found = work(benchmark, size, folder=tmp_path)
    cells.claim(str(tmp_path), list(found.values()))
    for method in ('prefix', 'lora'):
      found[f'hyperpretrain/{method}'].succeed(1.0)


@pytest.mark.parametrize('benchmark, size', RECIPES)
def test_what_is_missing_is_named(benchmark, size):
  files = [
    f'gin/experiments/recipes/{benchmark}.gin',
    f'gin/experiments/recipes/{size}.gin',
  ]
  with pytest.raises(gin_utils.UserError) as error:
    gin_utils.parse(files)
  for name in (*PATHS[benchmark], *required(size)):
    assert name in str(error.value)


@pytest.mark.parametrize('benchmark, size', RECIPES)
def test_every_stage_parses_and_has_the_parameters_of_the_papers_sizes(
  benchmark, size
):
  """By the commands of this machine: those of t5x differ in the run file."""
  is_llama = size in LLAMAS
  if is_llama:
    *shape, total = LLAMA_SHAPES[size]
  else:
    t5 = t5_parameters(*SHAPES[size])
    total = sum(t5.values()) + t5['embedding']  # and the output layer
    assert total == {'large': 783_150_080, 'xl': 2_849_757_184}[size]
  for name, cell in work(benchmark, size, LOCAL).items():
    gin_utils.parse(cell.gin_files, bindings(cell, VOCABULARY=None))
    lengths = resolved('TASK_FEATURE_LENGTHS')
    queries, inputs = lengths['inputs']
    assert lengths['targets'] == (queries, 128)
    baseline = is_baseline(name)
    in_context = 'in_context' in name
    if benchmark == 'natural_instructions' and baseline:
      in_context = True  # the definition stands in the input
    assert inputs == (1408 if in_context else 384)
    hyper = 1 if baseline else 512 if 'hyperpretrain' in name else 1024
    assert lengths['hyper_inputs'] == hyper
    if cell.command == 'hypertuning.train':
      assert queries == 1 and resolved('TRAIN_STEPS') >= 10_000
      # Behind the run file, which has its own.
      assert resolved('PARAMETER_PARTITIONING_DIMS') == 2
      assert resolved('FROZEN_PARTITIONING_DIMS') == (2 if is_llama else 1)
      rate = 1e-3
      if is_llama:
        assert resolved('SAVE_FROZEN') is False
        assert resolved('NUM_MICROBATCHES') == 4
        rate = 1e-2 if 'shared' in name else 2e-5 if 'mtf' in name else 2e-4
      assert resolved('LEARNING_RATE') == rate
    if baseline:
      # Once: the same model in every stage of a size.
      if name == f'{SHORT[benchmark]}/mtf':
        assert parameters(lengths) == {'params': total}
      continue
    kind = 'prefix' if 'prefix' in name else 'lora'
    if cell.stage == 'hyperpretrain':
      trained = (
        llama_parameters(kind, *shape)
        if is_llama
        else hypermodel_parameters(kind, *SHAPES[size])
      )
      assert parameters(lengths) == {'params': trained, 'frozen': total}


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
  'symbol_tuning': (
    [f'symbol_tuning_test_{task}' for task in 'ab'],
    '_score_eval',
    'accuracy',
  ),
}
AGGREGATES = {'p3': p3.aggregate, 'metaicl': metaicl.aggregate}
BASELINES = {
  'eval/mtf': 'MTF',
  'eval/mtf_in_context': 'few-shot MTF',
  'frozen_in_context_eval': 'frozen model, examples in context',
}
T5_LABELS = {
  'eval/prefix': 'HyperT5-Prefix',
  'eval/lora': 'HyperT5-LoRA',
  **BASELINES,
}
LLAMA_LABELS = {
  'eval/prefix': 'HyperLlama',
  'eval/lora': 'HyperLlama-LoRA',
  'eval/shared_prefix': 'shared prefix',
  **BASELINES,
}


def write_results(benchmark, cell, value):
  """What t5x, or the one stage of this machine, writes: a number a task."""
  names, ending, metric = EVALUATED[benchmark]
  ni = benchmark == 'natural_instructions'
  name = cell.name
  if 'in_context' in name or (ni and is_baseline(name)):
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
    if 'mtf' in name:
      (cell.folder / 'config.gin').write_text('HYPERMODEL = None\n')
  cell.succeed(1.0)
  return numbers


@pytest.mark.parametrize('benchmark, size', RECIPES)
def test_report_has_every_method(benchmark, size, tmp_path):
  found = work(benchmark, size, folder=tmp_path)
  cells.claim(str(tmp_path), list(found.values()))
  values = {
    name: write_results(benchmark, cell, 10.0 + 3 * n)
    for n, (name, cell) in enumerate(found.items())
    if cell.stage.endswith('_eval')
  }
  file = f'report_{benchmark}_{size}'
  has_published = benchmark in ('p3', 'natural_instructions')
  if not has_published:  # for a size
    family = '_llama' if size in LLAMAS else ''
    file = f'report_{benchmark}{family}'
  labels = LLAMA_LABELS if size in LLAMAS else T5_LABELS

  def report(file):
    gin_utils.parse(
      [f'gin/experiments/recipes/{file}.gin'],
      [f'SWEEP_DIR = {str(tmp_path)!r}'],
    )
    gin_utils.call(report_lib.report)
    with (tmp_path / 'methods.csv').open() as table:
      return list(csv.DictReader(table))

  rows = report(file)
  assert {row['method'] for row in rows} == set(labels.values())
  for stage, label in labels.items():
    numbers = values[f'{SHORT[benchmark]}_{stage}']
    mean = sum(numbers.values()) / len(numbers)
    if benchmark == 'p3':  # three rounds of ANLI are one set
      anli = [number for task, number in numbers.items() if 'anli' in task]
      sets = [number for task, number in numbers.items() if 'anli' not in task]
      mean = (sum(anli) / len(anli) + sum(sets)) / (1 + len(sets))
    first = next(row for row in rows if row['method'] == label)
    assert float(first['mean']) == pytest.approx(mean)
  if has_published and size in LLAMAS:
    page = (tmp_path / 'report.html').read_text()
    assert 'No table of HyperLlama was found' in page
    task = 'average' if benchmark == 'p3' else 'Def + 2 Pos'
    tables = [
      list(csv.DictReader(path.open()))
      for path in tmp_path.glob('published_*.csv')
    ]
    ours = [
      row
      for table in tables
      for row in table
      if (row['method'], row['task']) == ('HyperLlama', task)
    ]
    mean = next(row['mean'] for row in rows if row['method'] == 'HyperLlama')
    assert [(x['value'], x['measured mean']) for x in ours] == [('', mean)]
    assert len(tables) > 1  # those of T5
  if has_published:
    sizes = LLAMAS if size in LLAMAS else SIZES
    other = next(other for other in sizes if other != size)
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
@pytest.mark.parametrize('benchmark', PATHS)
@pytest.mark.parametrize(
  'script, function', [('train', 'train'), ('eval', 'evaluate')]
)
def test_every_stage_parses_under_t5x(benchmark, script, function):
  # Where it is missing, Python takes the folder tests/t5x for it.
  t5x = importlib.util.find_spec('t5x')
  if t5x is None or t5x.origin is None:
    pytest.skip('needs t5x, airio and jestimator, see setup.py')
  found = {
    f'{size}/{name}': (cell.gin_files, bindings(cell))
    for recipe, size in RECIPES
    if recipe == benchmark
    for name, cell in work(benchmark, size).items()
    if cell.command == f't5x.{script}'
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


def real_paths(benchmark):
  if benchmark != 'symbol_tuning':
    return {name: str(path) for name, path in REAL[benchmark].items()}
  folder = shared.DATA / 'icl/classification'
  train, test, pool = (
    [str(folder / f'{name}.{split}.jsonl') for name in names]
    for split, names in (
      ('train', ('agnews', 'sst2')),
      ('test', ('trec',)),
      ('train', ('trec',)),
    )
  )
  return {
    'SYMBOL_TRAIN_FILES': train,
    'SYMBOL_TEST_FILES': test,
    'SYMBOL_POOL_FILES': pool,
    'SYMBOL_FIELDS': metaicl.FIELDS,
  }


@pytest.mark.slow
@shared.needed
@pytest.mark.parametrize(
  'benchmark, size',
  [
    *((benchmark, 'large') for benchmark in BENCHMARKS),
    *((benchmark, 'llama2_7b') for benchmark in LLAMA_BENCHMARKS),
  ],
)
def test_real_data_fills_the_lengths(benchmark, size):
  """The mixtures of all stages, by gin, from the files that are here.

  T5's vocabulary stands in for Llama 2's, which is not here.
  """
  paths = real_paths(benchmark)
  model = shared.DATA / 'tokenizer/t5/spiece.model'
  paths['VOCABULARY_FILE'] = str(model)
  if benchmark == 'natural_instructions':
    paths['NI_TRACK'] = 'offline'
  for name, cell in work(benchmark, size, LOCAL, **paths).items():
    if 'hyperpretrain' in name:
      continue  # C4 is not here
    gin_utils.parse(cell.gin_files, bindings(cell))
    registered = resolved('MIXTURE_OR_TASK_NAME')
    in_context = 'in_context' in name
    if benchmark == 'natural_instructions' and is_baseline(name):
      in_context = True
    assert registered.endswith('_in_context') == in_context, name
    provider = seqio.get_mixture_or_task(registered)
    split = 'train'
    if cell.command.endswith('eval'):
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
      if not is_baseline(name):
        assert len(example['hyper_inputs']) > 32


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed'
)
@pytest.mark.parametrize(
  'size, kind',
  [
    *((size, kind) for size in SIZES for kind in ('prefix', 'lora')),
    *((size, 'prefix') for size in LLAMAS),
  ],
)
def test_multitask_step_fits_its_slice(size, kind, tmp_path):
  """Compiled for TPUs; the benchmarks' steps have the same shapes."""
  path = tmp_path / 'plan.json'
  plan_file = {'MULTITASK_FILE': 'gin/local/plan.gin'}
  cell = work('p3', size, LOCAL, **plan_file)[f'p3/{kind}']
  bound = {
    **cell.bindings,
    'VOCABULARY': None,
    'MIXTURE_OR_TASK_NAME': None,
  }
  command = [
    *(sys.executable, '-m', 'hypertuning.plan'),
    *(f'--topology={TOPOLOGIES[size]}', f'--json={path}'),
    f'--cache_dir={tmp_path}',
    *runner.flags(cell.gin_files, bound),
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
  for size in (*SIZES, *LLAMAS):
    seen = set()
    for benchmark in BENCHMARKS if size in SIZES else LLAMA_BENCHMARKS:
      for name, cell in work(benchmark, size, LOCAL).items():
        if name in (f'{SHORT[benchmark]}/{x}' for x in ('prefix', 'lora')):
          gin_utils.parse(cell.gin_files, bindings(cell))
          seen.add(
            (str(resolved('TASK_FEATURE_LENGTHS')), resolved('BATCH_SIZE'))
          )
    assert len(seen) == 1
