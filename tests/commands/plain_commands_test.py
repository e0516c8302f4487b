"""The commands that need no gin file."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import runner
import tiny_runs

import hypertuning
from hypertuning import command_line, convert, export
from hypertuning.shell import adapt, infer

EXAMPLES = [('a', 'xy'), ('bb', 'z'), ('cde', 'x')]
_MINE = '--examples={0}/mine.jsonl'
ROWS = [{'inputs': x, 'targets': y} for x, y in EXAMPLES]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  root = tmp_path_factory.mktemp('plain')
  for family in ('lora', 'prefix'):
    tiny_runs.make(root / family, family)
  (root / 'mine.jsonl').write_text('\n'.join(map(json.dumps, ROWS)))
  lines = [
    {'examples': ROWS, 'queries': ['a', 'q']},
    {'examples': ROWS[:1], 'queries': ['b'], 'definition': 'Go.'},
  ]
  (root / 'tasks.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  (root / 'queries.txt').write_text('a\n\nq\n')
  return root


def _run(main, capfd, *flags) -> tuple[int, str, str]:
  capfd.readouterr()
  code = command_line.run(main, [str(flag) for flag in flags])
  out, err = capfd.readouterr()
  return code, out, err


def test_examples_become_an_adapter_that_answers(runs, capfd, tmp_path):
  phi = tmp_path / 'phi.safetensors'
  model = hypertuning.load(runs / 'lora')
  code, out, err = _run(
    *(adapt.main, capfd, f'--examples={runs}/mine.jsonl'),
    *(f'--output={phi}', f'--model={runs}/lora'),
  )
  assert code == 0, err
  assert 'LoRA of' in out and '3 examples' in out
  expected = model.answer(['a', 'q'], model.adapt(EXAMPLES))
  # The file of phi knows its model.
  code, out, err = _run(
    infer.main, capfd, f'--phi={phi}', '--query=a', '--query=q'
  )
  assert (code, out) == (0, '\n'.join([*expected, '']))
  answers = tmp_path / 'answers.jsonl'
  code, out, err = _run(
    *(infer.main, capfd, f'--phi={phi}', f'--queries={runs}/queries.txt'),
    f'--output={answers}',
  )
  assert code == 0, err
  rows = runner.read_lines(answers)
  assert [row['query'] for row in rows] == ['a', 'q']
  assert [row['prediction'] for row in rows] == expected
  folder = tmp_path / 'peft'
  code, out, err = _run(
    export.main, capfd, f'--phi={phi}', '--to=peft', f'--output={folder}'
  )
  assert code == 0, err
  assert {path.name for path in folder.iterdir()} == {
    *('adapter_config.json', 'adapter_model.safetensors'),
  }


def test_an_adapter_is_merged_into_the_model_of_a_run(runs, capfd, tmp_path):
  """Its vocabulary is no public model's, and it is a model all the same."""
  model = hypertuning.load(runs / 'lora')
  made = model.adapt(EXAMPLES)
  # A tiny run's update is a small one.
  large = jax.tree.map(lambda x: x * 50, made.adapters)
  phi = hypertuning.Phi(large, made.base)
  phi.save(tmp_path / 'phi.safetensors')
  code, _, err = _run(
    *(export.main, capfd, f'--phi={tmp_path}/phi.safetensors', '--to=merged'),
    f'--output={tmp_path}/merged',
  )
  assert code == 0, err
  merged = hypertuning.load(tmp_path / 'merged')
  question = ('q', ['x', 'yz'])
  wanted = model.score(*question, phi)
  # Sums in float32, in another order.
  np.testing.assert_allclose(merged.score(*question), wanted, rtol=1e-5)
  assert not np.allclose(model.score(*question), wanted, rtol=1e-2)
  assert not merged.has_hypermodel
  code, _, err = _run(
    *(convert.main, capfd, '--to_hugging_face', f'--source={tmp_path}/merged'),
    f'--output={tmp_path}/public',
  )
  assert code == 0, err
  assert (tmp_path / 'public/model.safetensors').is_file()


def test_a_file_of_tasks_needs_no_gin_file(runs, capfd, tmp_path):
  answers = tmp_path / 'answers.jsonl'
  code, _, err = _run(
    *(infer.main, capfd, f'--tasks={runs}/tasks.jsonl'),
    *(f'--model={runs}/prefix', f'--output={answers}'),
  )
  assert code == 0, err
  model = hypertuning.load(runs / 'prefix')
  rows = runner.read_lines(answers)
  assert [(row['line'], row['query']) for row in rows] == [
    *((1, 'a'), (1, 'q'), (2, 'b')),
  ]
  phi = model.adapt(EXAMPLES[:1], definition='Go.')
  assert rows[2]['prediction'] == model.answer(['b'], phi)[0]


def test_a_file_that_is_there_stays(runs, capfd, tmp_path):
  phi = tmp_path / 'phi.safetensors'
  phi.write_text('mine')
  flags = [f'--examples={runs}/mine.jsonl', f'--model={runs}/lora']
  code, _, err = _run(adapt.main, capfd, *flags, f'--output={phi}')
  assert code == 2 and 'is there already' in err
  assert phi.read_text() == 'mine'


@pytest.mark.parametrize(
  ('main', 'flags', 'message'),
  [
    (adapt, ('--output=q',), 'required: --examples'),
    (
      adapt,
      ('--examples={0}/mine.jsonl', '--output=q', '--modle=x'),
      '--modle',
    ),
    (adapt, ('--examples={0}/no.jsonl', '--output=q'), 'no such file'),
    (adapt, ('--examples={0}/bad.jsonl', '--output=q'), 'bad.jsonl:1'),
    (adapt, ('--examples={0}/empty.jsonl', '--output=q'), 'empty.jsonl'),
    (
      adapt,
      ('--examples={0}/mine.jsonl', '--output=q', '--model={0}/x'),
      '--model',
    ),
    (adapt, ('--examples={0}/latin.jsonl', '--output=q'), 'not UTF-8'),
    (infer, ('--phi={0}/no.safetensors', '--query=a'), 'no such file'),
    (infer, ('--phi={0}/mine.jsonl', '--query=a'), 'not a safetensors file'),
    (infer, ('--phi={0}/no.safetensors',), 'give --query'),
    (infer, ('--query=a',), 'Give --phi and queries, or --tasks'),
    (infer, ('--tasks={0}/tasks.jsonl', '--query=a'), '--tasks'),
    (
      export,
      ('--phi={0}/no.safetensors', '--to=peft', '--output=q'),
      'no such',
    ),
    (export, ('--phi=p', '--to=gguf', '--output=q'), "'gguf'"),
    (export, ('--phi=p', '--to=peft', '--output={0}'), 'is there already'),
  ],
)
def test_bad_input_is_one_line(
  runs, capfd, tmp_path, monkeypatch, main, flags, message
):
  monkeypatch.chdir(tmp_path)
  (runs / 'bad.jsonl').write_text('{"inputs": "a"}\n')
  (runs / 'empty.jsonl').write_text('')
  (runs / 'latin.jsonl').write_bytes(b'{"inputs": "\xe9", "targets": "a"}\n')
  code, out, err = _run(main.main, capfd, *(x.format(runs) for x in flags))
  assert code == 2 and not out
  assert err.startswith('error: ') and message in err
  assert err.count('\n') == 1
  assert not list(tmp_path.iterdir())


def test_a_prefix_of_a_t5_cannot_leave(runs, capfd, tmp_path):
  phi, folder = tmp_path / 'phi.safetensors', tmp_path / 'out'
  hypertuning.load(runs / 'prefix').adapt(EXAMPLES).save(phi)
  for form in ('peft', 'cache'):
    code, _, err = _run(
      export.main, capfd, f'--phi={phi}', f'--to={form}', f'--output={folder}'
    )
    assert code == 2 and 'T5' in err and not folder.exists()
  code, _, err = _run(
    *(export.main, capfd, f'--phi={phi}', '--to=merged', f'--output={folder}'),
    f'--model={runs}/lora',
  )
  assert code == 2 and not folder.exists()


def test_help_shows_both_forms():
  done = subprocess.run(
    [sys.executable, '-m', 'hypertuning.infer', '--help'],
    env=runner.environment(),
    capture_output=True,
    text=True,
  )
  assert '--phi' in done.stdout and '--gin_file' in done.stdout


def test_help_that_nobody_reads():
  done = subprocess.run(
    f'{sys.executable} -m hypertuning.infer --help | true',
    shell=True,
    env=runner.environment(),
    stderr=subprocess.PIPE,
  )
  assert not done.stderr


def test_a_program_of_its_own_needs_no_tensorflow(runs, tmp_path):
  code = runner.BLOCKED + (
    'import runpy\nsys.argv = sys.argv[1:]\n'
    'runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)\n'
  )
  done = subprocess.run(
    [
      *(sys.executable, '-c', code, 'hypertuning.adapt'),
      *(f'--examples={runs}/mine.jsonl', f'--model={runs}/prefix'),
      f'--output={tmp_path}/phi.safetensors',
    ],
    env=runner.environment(),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert not done.stderr  # nothing but our own line, on stdout
  assert done.stdout.count('\n') == 1
