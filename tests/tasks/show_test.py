"""`python -m hypertuning.tasks`: list, show and validate."""

import json
import re
import signal
import subprocess
import sys

import pytest
import runner
import seqio

from hypertuning.data import registry, text_format
from hypertuning.tasks import __main__ as command

LENGTHS = "{'hyper_inputs': 20, 'inputs': (4, 5), 'targets': (4, 5)}"


def run(capsys, *arguments):
  code = command.main(list(arguments))
  captured = capsys.readouterr()
  return code, captured.out, captured.err


def test_list_names_the_tasks_of_the_package(capsys):
  code, out, _ = run(capsys, 'list')
  assert code == 0
  lines = dict(line.split(maxsplit=1) for line in out.splitlines())
  assert lines['toy_symbols'].split() == ['task', 'train,', 'validation']
  assert lines['toy'].startswith('mixture of 2')
  assert 'hyperpretrain_c4' in lines


def test_show_prints_episodes_and_what_is_cut(capsys):
  arguments = ('--n', '2', '--lengths', LENGTHS, '--sample', '20')
  code, out, _ = run(capsys, 'show', 'toy_symbols', *arguments)
  assert code == 0
  assert out.count('--- episode') == 2
  # An episode shows six examples of six tokens, of which three fit.
  shown = re.search(r'hypermodel reads \(19 tokens\):\n  (.*)', out).group(1)
  assert shown.count('<input>') == 3 and shown.endswith('</s>')
  assert re.search(r'query 3: downstream reads \(4 tokens\)', out)
  assert 'hyper_inputs: 20 of 37.0 tokens' in out
  assert '100.0% are cut to 20' in out and '0.0% are cut to 5' in out


def test_show_prints_text_of_any_vocabulary(capsys):
  registry.add_episodes(
    'no_sentinels',
    {'train': lambda: {'t': [(f'{n}', 'ab'[n % 2]) for n in range(9)]}},
    shots=2,
    text_format=text_format.markers_format(seqio.ByteVocabulary(extra_ids=0)),
  )
  code, out, _ = run(capsys, 'show', 'no_sentinels', '--n', '1')
  assert code == 0
  assert re.search(
    r'   Input: \d Output: [ab] Input: \d Output: [ab] </s>', out
  )
  assert re.search(r'   Input: \d Output: \n', out)


def test_show_says_what_is_wrong(capsys):
  code, _, err = run(capsys, 'show', 'toys')
  assert code == 2 and "'toys' is not registered" in err
  code, _, err = run(capsys, 'show', 'toy', '--lengths', '{')
  assert code == 2 and '--lengths' in err
  code, _, err = run(capsys, 'show', 'toy', '--split', 'test')
  assert code == 2 and "no split 'test'" in err
  with pytest.raises(SystemExit):
    run(capsys, 'show')


@pytest.mark.parametrize(
  'arguments, message',
  [
    (('show', 'toy', '--n=-1'), 'argument --n: -1: give 0 or more'),
    (('show', 'toy', '--sample=-1'), 'argument --sample: -1: give 0 or more'),
    (('show', 'toy', '--n=1e1'), 'argument --n: 1e1: give a whole number'),
    (('validate', 'r', '--shots=-1'), '--shots: -1: give 0 or more'),
    (('validate', 'r', '--queries=0'), '--queries: 0: give 1 or more'),
  ],
)
def test_counts_are_checked_before_any_work(capsys, arguments, message):
  with pytest.raises(SystemExit) as error:
    command.main([*arguments])
  captured = capsys.readouterr()
  (line,) = captured.err.splitlines()
  assert error.value.code == 2 and message in line and not captured.out


def test_lengths_and_vocabularies_that_are_none(capsys, tmp_path):
  path = write(tmp_path, [{'inputs': f'{n}', 'targets': 'a'} for n in range(4)])
  for arguments, message in (
    (('show', 'toy', '--n', '1', '--lengths', '5'), '--lengths'),
    (('show', 'toy', '--n', '1', '--lengths', '[' * 4000), '--lengths'),
    (('validate', path, '--vocabulary', path), path),
  ):
    code, _, err = run(capsys, *arguments)
    (line,) = err.splitlines()
    assert code == 2 and message in line


def test_no_episodes_and_no_statistics(capsys):
  code, out, _ = run(capsys, 'show', 'toy', '--n', '0', '--sample', '0')
  assert code == 0 and 'episode' not in out


def write(tmp_path, rows):
  path = tmp_path / 'mine.jsonl'
  path.write_text('\n'.join(json.dumps(row) for row in rows))
  return str(path)


def test_validate_a_good_file(capsys, tmp_path):
  rows = [{'q': f'{n}', 'targets': 'eo'[n % 2]} for n in range(20)]
  path = write(tmp_path, rows)
  code, out, _ = run(
    capsys, 'validate', path, '--shots', '4', '--field', 'inputs=q'
  )
  assert code == 0
  assert 'task mine: 20 rows' in out
  assert "targets: 'e' 10, 'o' 10" in out
  assert 'inputs: 20 of 1.5 tokens on average' in out
  code, _, err = run(capsys, 'validate', path, '--field', 'inputs')
  assert code == 2 and 'write FIELD=NAME' in err


def test_validate_names_every_bad_line(capsys, tmp_path):
  rows = [{'inputs': 'a', 'targets': 'b'}, {'inputs': 'a'}, {'targets': 'b'}]
  code, out, _ = run(capsys, 'validate', write(tmp_path, rows))
  assert code == 1
  assert re.search(r"mine.jsonl:2: no field 'targets'", out)
  assert re.search(r"mine.jsonl:3: no field 'inputs'", out)
  assert '16 shots + 1 queries need 17' in out


@pytest.mark.slow
def test_real_processes(tmp_path):
  """Help, one line of error, no noise at the start, and a closed pipe."""
  path = write(tmp_path, [{'inputs': f'{n}', 'targets': 'a'} for n in range(9)])

  def call(*arguments):
    return subprocess.run(
      [sys.executable, '-m', 'hypertuning.tasks', *arguments],
      env=runner.environment(),
      capture_output=True,
      text=True,
      timeout=120,
      cwd=tmp_path,
    )

  assert 'validate' in call('--help').stdout
  failed = call('validate', 'none.jsonl')
  assert failed.returncode == 2 and 'Traceback' not in failed.stderr
  assert 'none.jsonl: no such file' in failed.stderr
  assert not call('validate', path, '--shots', '1').stderr
  process = subprocess.Popen(
    [sys.executable, '-m', 'hypertuning.tasks', 'show', 'toy', '--n', '2000'],
    env=runner.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  process.stdout.readline()
  process.stdout.close()
  assert not process.stderr.read()
  assert process.wait(120) == 128 + signal.SIGPIPE
