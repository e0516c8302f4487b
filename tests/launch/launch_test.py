"""launch/tpu.py against a gcloud that runs workers' commands on this machine.

Workers are folders: `ssh --command` is given to bash with one as its home.
"""

import ast
import contextlib
import importlib
import itertools
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LAUNCH = ROOT / 'launch'
ON = ['--name=mine', '--zone=here']
NEW = ['--accelerator_type=v4-64']
SSH = ['compute', 'tpus', 'tpu-vm', 'ssh', 'mine']
BUCKET = "--gin.MODEL_DIR='gs://bucket/dir'"

# Its folder holds worker0 and worker1 (homes), state and calls, and what a
# test puts there: next_states (of describe, in turn), failures by verb.
GCLOUD = r"""
import os, sys
arguments = sys.argv[1:]
os.chdir(os.environ['FAKE'])
with open('calls', 'a') as calls:
  calls.write(repr(arguments) + '\n')
verb = arguments[1] if arguments[0] == 'storage' else arguments[3]
flags = [a[2:].split('=', 1) for a in arguments if a[:2] == '--']
flags = {name: value[0] for name, *value in flags if value}


def take(path, key=None):
  if not os.path.exists(path):
    return None
  import json  # Not at the top: most of the time goes into starting.
  left = json.load(open(path))
  turn = left.get(key, []) if key else left
  first = turn.pop(0) if turn else None
  open(path, 'w').write(json.dumps(left))
  return first


def fail(text):
  print(text, file=sys.stderr)
  sys.exit(1)


def work(worker):
  home = os.path.abspath(f'worker{worker}')
  child = os.fork()
  if child:
    return child
  outside = os.getcwd()
  os.chdir(home)
  environment = {
    'HOME': home,
    'PATH': f"{outside}/bin:{os.environ['WORKER_PATH']}",
    'WORKER': f'w-{worker}',
    'OUTSIDE': outside,
  }
  os.execvpe('bash', ['bash', '-c', flags['command']], environment)


failure = take('failures', verb)
if failure:
  fail(failure)
if verb == 'describe':
  new = take('next_states')
  if new:
    open('state', 'w').write(new)
  if not os.path.exists('state'):
    fail("ERROR: (gcloud) NOT_FOUND: Resource 'nodes/mine' was not found.")
  print(open('state').read())
elif verb == 'create':
  for name in ('worker0', 'worker1'):
    os.mkdir(name)
  open('state', 'w').write('READY')
elif verb == 'delete':
  import glob
  for group in glob.glob('worker*/hypertuning_runs/*/group'):
    try:
      os.killpg(int(open(group).read().split()[0]), 9)
    except ProcessLookupError:
      pass
  os.system('rm -r worker*')
  os.remove('state')
elif verb == 'scp':
  for home in ('worker0', 'worker1'):
    os.system(f"cp {arguments[4]} {home}/{arguments[5].split(':')[1]}")
elif verb == 'ssh':
  workers = [0, 1] if flags['worker'] == 'all' else [flags['worker']]
  children = [work(worker) for worker in workers]
  worst = max(os.waitpid(child, 0)[1] for child in children)
  if worst:
    fail(f'##### Command execution failed with exit status {worst >> 8}.')
"""

# Makes a Python that notes what it is asked to install.
UV = r"""#!/bin/bash
mkdir -p "${@: -1}/bin"
cat >"${@: -1}/bin/python" <<'END'
#!/bin/bash
[[ $1 != -c ]] || { echo "jax sees ${DEVICES:=4} TPU devices"; exit; }
echo "$*" >>"$HOME/pip_calls"
[[ ! -f $OUTSIDE/pip_fails ]] || { echo 'ERROR: no matching jax'; exit 1; }
END
chmod +x "${@: -1}/bin/python"
echo "$*" >>"$HOME/uv_calls"
"""


def _write(path: pathlib.Path, text: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


class Cloud:
  """A fake gcloud, a checkout to launch from, and the command under test."""

  def __init__(self, folder, tpu, capfd):
    self.folder, self.tpu, self.capfd = folder, tpu, capfd
    self.slept = []

  def __call__(self, *arguments: str) -> tuple[int, str, str]:
    """Runs launch/tpu.py here: exit code, standard output and error."""
    self.capfd.readouterr()
    try:
      code = self.tpu.main([*arguments])
    except SystemExit as stop:
      code = stop.code
    out, err = self.capfd.readouterr()
    assert 'Traceback' not in err
    return code, out, err

  def works(self, *arguments: str) -> str:
    code, out, err = self(*arguments)
    assert code == 0, err
    return out

  def fails(self, *arguments: str, code: int = 1) -> str:
    got, _, err = self(*arguments)
    assert got == code, err
    lines = err.splitlines()
    assert len(lines) == 1 and lines[0].startswith('launch/tpu.py'), err
    assert ': error: ' in err
    return lines[0]

  def put(self, name: str, value) -> None:
    (self.folder / name).write_text(json.dumps(value))

  def calls(self) -> list[list[str]]:
    """Arguments of every gcloud since the last call."""
    path = self.folder / 'calls'
    if not path.exists():
      return []
    lines = path.read_text().splitlines()
    path.unlink()
    return [ast.literal_eval(line) for line in lines]

  def verbs(self) -> list[str]:
    """What gcloud was asked, and on workers what their script was asked."""
    words = []
    for call in self.calls():
      verb = call[1] if call[0] == 'storage' else call[3]
      if verb == 'ssh':
        remote = next(a for a in call if a.startswith('--command='))
        verb = remote.partition('tpu_worker.sh ')[2].split()[0]
      words.append(verb)
    return words

  def workers(self) -> list[pathlib.Path]:
    return sorted(self.folder.glob('worker*'))

  def ready(self) -> None:
    """A TPU whose workers have the code."""
    for name in ('worker0', 'worker1'):
      target = self.folder / name / 'hypertuning/launch/tpu_worker.sh'
      target.parent.mkdir(parents=True)
      target.symlink_to(LAUNCH / 'tpu_worker.sh')
    (self.folder / 'state').write_text('READY')

  def settle(self, seconds: float) -> None:
    """In place of sleep: until all commands have ended or left a sign."""
    self.slept.append(seconds)
    for _ in range(100 if self.workers() and not self.failing() else 0):
      ended = len([*self.folder.glob('worker*/hypertuning_runs/*/exit_code')])
      if ended + len([*self.folder.glob('worker*/sign')]) >= 2:
        break
      time.sleep(0.02)

  def failing(self) -> bool:
    """Whether there are failures left that gcloud is told to have."""
    path = self.folder / 'failures'
    return path.exists() and any(json.loads(path.read_text()).values())

  def until(self, run: str, *states: str) -> None:
    """Waits until the workers say these states of a run."""
    ends = sum(state.startswith('exit') for state in states)
    codes, out = f'worker*/hypertuning_runs/{run}/exit_code', ''
    for _ in range(100):
      if len([*self.folder.glob(codes)]) < ends:
        time.sleep(0.02)
        continue
      out = self.works('status', *ON, f'--run={run}')
      if [line.split(f' {run} ')[1] for line in out.splitlines()[1:]] == [
        *states
      ]:
        return
      time.sleep(0.05)
    pytest.fail(out)


@pytest.fixture(scope='session')  # `tpu` is imported once, from there
def checkout(tmp_path_factory):
  """A repository of the launcher alone."""
  folder = tmp_path_factory.mktemp('checkout')
  shutil.copytree(LAUNCH, folder / 'launch')
  shutil.copy(ROOT / '.gitignore', folder)
  git = ['git', '-C', str(folder), '-c', 'user.name=a', '-c', 'user.email=a']
  for command in (['init', '-q'], ['add', '.'], ['commit', '-qm', 'a']):
    subprocess.run([*git, *command], check=True)
  return folder


def _end_runs(folder: pathlib.Path) -> None:
  for group in folder.glob('worker*/hypertuning_runs/*/group'):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(int(group.read_text().split()[0]), signal.SIGKILL)


@pytest.fixture
def cloud(tmp_path, checkout, monkeypatch, capfd):
  folder = tmp_path / 'cloud'
  _write(tmp_path / 'bin/gcloud', f'#!{sys.executable} -SE\n{GCLOUD}')
  _write(folder / 'bin/hostname', '#!/bin/bash\necho "$WORKER"\n')
  _write(folder / 'bin/uv', UV)
  shutil.rmtree(checkout / 'build', ignore_errors=True)
  monkeypatch.setenv('FAKE', str(folder))
  monkeypatch.setenv('WORKER_PATH', os.environ['PATH'])
  monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:{os.environ["PATH"]}')
  for name in ('TPU_NAME', 'TPU_ZONE', 'TPU_PROJECT'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.syspath_prepend(checkout / 'launch')
  tpu = importlib.import_module('tpu')
  cloud = Cloud(folder, tpu, capfd)
  # Between two looks of watch: what a test's states and runs still have to do.
  clock = types.SimpleNamespace(sleep=cloud.settle)
  monkeypatch.setattr(tpu, 'time', clock)
  yield cloud
  _end_runs(folder)


def _sh(script: str, *arguments: str) -> list[str]:
  """What follows the options of start and watch, in a bucket."""
  return ['--', 'bash', '-c', script, 'bash', BUCKET, *arguments]


WATCH = ['watch', *ON, *NEW, '--run=a']
STARTED = ['create', 'scp', 'setup', 'check', 'start']


@pytest.mark.parametrize(
  'kind, version',
  [
    ('v2-8', 'tpu-ubuntu2204-base'),
    ('v4-64', 'tpu-ubuntu2204-base'),
    ('v5p-32', 'v2-alpha-tpuv5'),
    ('v5litepod-16', 'v2-alpha-tpuv5-lite'),
    ('v6e-8', 'v2-alpha-tpuv6e'),
  ],
)
def test_create_knows_the_runtime_of_an_accelerator(cloud, kind, version):
  out = cloud.works('create', *ON, f'--accelerator_type={kind}', '--dry_run')
  assert f'--version={version} ' in out


def test_create_and_delete(cloud, monkeypatch):
  monkeypatch.setenv('TPU_PROJECT', 'ours')
  cloud.works('create', *ON, *NEW, '--spot', '--version=v9')
  cloud.works('delete', *ON)
  place = ['--zone=here', '--project=ours']
  kind = ['--accelerator-type=v4-64', '--version=v9', '--spot']
  assert cloud.calls() == [
    ['compute', 'tpus', 'tpu-vm', 'create', 'mine', *kind, *place],
    ['compute', 'tpus', 'tpu-vm', 'delete', 'mine', '--quiet', *place],
  ]
  monkeypatch.setenv('TPU_NAME', 'other')
  monkeypatch.setenv('TPU_ZONE', 'there')
  out = cloud.works('create', *NEW, '--preemptible', '--dry_run')
  assert 'create other ' in out and '--zone=there' in out
  assert '--preemptible' in out and '--spot' not in out


def test_setup_brings_code_and_packages_to_every_worker(cloud, checkout):
  cloud.works('create', *ON, *NEW)
  cloud.calls()
  for _ in range(2):  # The second finds an environment, and does not make it.
    out = cloud.works('setup', *ON)
    assert 'w-0: jax sees 4 TPU devices' in out
    assert 'w-1: jax sees 4 TPU devices' in out
    tar = str(checkout / 'build/mine.tar')
    scp, *rest = cloud.calls()
    assert scp[3:] == [
      *('scp', tar, 'mine:hypertuning.tar', '--worker=all', '--quiet'),
      '--zone=here',
    ]
    assert [c[:6] for c in rest] == [[*SSH, '--worker=all']] * 2
  assert len(cloud.workers()) == 2
  for home in cloud.workers():
    assert (home / 'hypertuning/launch/tpu.py').is_file()
    venv = home / 'hypertuning_venv'
    assert (home / 'uv_calls').read_text().splitlines() == [
      f'venv --quiet --seed --python 3.11 {venv}'
    ]
    installs = (home / 'pip_calls').read_text().splitlines()
    assert [line for line in installs if 'install' in line] == [
      '-m pip install --quiet .[tpu,t5x]',
      '-m pip install --quiet --no-deps --force-reinstall '
      '-r launch/t5x_requirements.txt',
    ] * 2


def test_setup_sends_what_is_committed(cloud, checkout):
  cloud.works('create', *ON, *NEW)
  file = checkout / 'launch/test.sh'
  before = file.read_text()
  file.write_text('changed')
  cloud.calls()
  try:
    for command in (['setup', *ON], [*WATCH, *_sh('true')]):
      assert '--allow_dirty' in cloud.fails(*command)
      assert not cloud.calls()
    assert 'stay behind' in cloud.works('setup', *ON, '--allow_dirty')
  finally:
    file.write_text(before)
  for home in cloud.workers():
    assert (home / 'hypertuning/launch/test.sh').read_text() == before


def test_setup_that_fails_says_why(cloud):
  cloud.works('create', *ON, *NEW)
  cloud.put('pip_fails', True)
  error = cloud.fails('setup', *ON)
  assert ': ERROR: no matching jax' in error
  assert 'hypertuning_setup.txt' in error
  (cloud.folder / 'pip_fails').unlink()
  uv = UV.replace('echo "jax sees ${DEVICES:=4} TPU devices"; exit', 'exit 1')
  _write(cloud.folder / 'bin/uv', uv)
  for home in cloud.workers():
    shutil.rmtree(home / 'hypertuning_venv')
  error = cloud.fails('setup', *ON)
  assert ': no TPU' in error and '--version' in error


def test_arguments_arrive_as_given(cloud):
  cloud.ready()
  given = [
    *("it's", 'a "b"', '$HOME', '`date`', '', '  two  spaces ', 'a\nb', '*'),
    *('\\', '!x', '~', '--gin.X="y"', "--gin.D={'a': ('b', 1)}", '--', 'ü;&|'),
  ]
  program = (
    'import json, os, sys; json.dump(sys.argv[1:], open(sys.argv[1], "w"))'
  )
  target = str(cloud.folder / 'got.json')
  cloud.works(
    *('start', *ON, '--run=a', '--', sys.executable, '-c', program),
    *(target, *given),
  )
  cloud.until('a', 'exit 0', 'exit 0')
  assert json.loads(pathlib.Path(target).read_text()) == [target, *given]


def test_start_status_log_and_stop(cloud):
  cloud.ready()
  script = 'pwd; echo "I am $(hostname)"; sleep 60 & sleep 60'
  cloud.works('start', *ON, '--run=a', '--', 'bash', '-c', script)
  cloud.until('a', 'running', 'running')
  assert 'run a is still running' in cloud.fails(
    'start', *ON, '--run=a', '--', 'true'
  )
  cloud.calls()
  for _ in range(100):
    log = cloud.works('log', *ON, '--run=a', '--worker=1', '--no_follow')
    if 'I am w-1' in log:
      break
  assert f'{cloud.folder}/worker1/hypertuning\nI am w-1\n' in log
  assert cloud.calls()[-1] == [
    *(*SSH, '--worker=1'),
    '--command=bash hypertuning/launch/tpu_worker.sh log a',
    *('--quiet', '--zone=here'),
  ]
  groups = [
    int((home / 'hypertuning_runs/a/group').read_text().split()[0])
    for home in cloud.workers()
  ]
  assert 'running: stop it before setup' in cloud.fails('setup', *ON)
  assert cloud.works('stop', *ON, '--run=a', '--grace=5') == 'a: stopped\n'
  ps = subprocess.run(
    ['ps', '-eo', 'pgid=,stat='], capture_output=True, text=True, check=True
  )
  alive = {
    int(line.split()[0])
    for line in ps.stdout.splitlines()
    if 'Z' not in line.split()[1]
  }
  assert not alive & {*groups}
  cloud.until('a', 'stopped', 'stopped')
  assert (cloud.workers()[0] / 'hypertuning_runs/a/exit_code').read_text()


def test_stop_kills_what_does_not_listen(cloud):
  cloud.ready()
  script = (
    'trap "" TERM; echo >$OUTSIDE/up_$WORKER; while :; do sleep 0.1; done'
  )
  cloud.works('start', *ON, '--run=a', '--', 'bash', '-c', script)
  while len([*cloud.folder.glob('up_*')]) < 2:
    time.sleep(0.02)
  assert cloud.works('stop', *ON, '--run=a', '--grace=0') == 'a: stopped\n'
  # A name is free again.
  cloud.works('start', *ON, '--run=a', '--', 'bash', '-c', 'exit 3')
  cloud.until('a', 'exit 3', 'exit 3')


def test_run_that_went_down_with_its_worker_is_lost(cloud):
  cloud.ready()
  cloud.works('start', *ON, '--run=a', '--', 'sleep', '60')
  cloud.until('a', 'running', 'running')
  group = cloud.workers()[1] / 'hypertuning_runs/a/group'
  number = group.read_text().split()[0]
  os.killpg(int(number), signal.SIGKILL)
  cloud.until('a', 'running', 'lost')
  # Its number belongs to another process after a reboot.
  other = cloud.workers()[0] / 'hypertuning_runs/a/group'
  group.write_text(f'{other.read_text().split()[0]} another-boot\n')
  cloud.until('a', 'running', 'lost')


def test_nothing_outlives_the_command(cloud):
  cloud.ready()
  script = 'sleep 60 & echo $! >$OUTSIDE/left_$WORKER'
  cloud.works('start', *ON, '--run=a', '--', 'bash', '-c', script)
  cloud.until('a', 'exit 0', 'exit 0')
  for left in cloud.folder.glob('left_*'):
    number = left.read_text().strip()
    for _ in range(100):
      ps = ['ps', '-o', 'stat=', '-p', number]
      done = subprocess.run(ps, capture_output=True, text=True)
      if done.stdout.strip()[:1] in ('', 'Z'):
        break
      time.sleep(0.02)
    else:
      pytest.fail(f'{number} is still there')


def test_unknown_run_and_workers_without_code(cloud):
  cloud.ready()
  assert 'no run b on mine' in cloud.fails('stop', *ON, '--run=b')
  assert 'no such run' in cloud.fails('log', *ON, '--run=b', '--no_follow')
  for home in cloud.workers():
    shutil.rmtree(home / 'hypertuning')
  for arguments in (
    ['start', *ON, '--run=b', '--', 'true'],
    ['stop', *ON, '--run=b'],
    ['log', *ON, '--run=b'],
    ['status', *ON],
  ):
    assert '`launch/tpu.py setup` first' in cloud.fails(*arguments)


def test_status_without_a_tpu(cloud):
  assert cloud.works('status', *ON) == 'mine: not there\n'
  assert cloud.calls() == [
    [
      *('compute', 'tpus', 'tpu-vm', 'describe', 'mine'),
      *('--format=value(state)', '--zone=here'),
    ]
  ]


def test_watch_does_everything_and_then_nothing(cloud):
  script = 'echo $HOME >>$OUTSIDE/starts'
  dry = cloud.works(*WATCH, '--dry_run', *_sh(script))
  assert not cloud.calls() and not (cloud.folder / 'state').exists()
  out = cloud.works(*WATCH, *_sh(script))
  assert 'a has ended' in out
  first = cloud.calls()
  assert [
    shlex.split(line)[1:]
    for line in dry.splitlines()
    if line.startswith('gcloud')
  ] == first
  assert len((cloud.folder / 'starts').read_text().splitlines()) == 2
  cloud.works(*WATCH, *_sh(script))
  assert cloud.verbs() == ['ls', 'describe', 'status']


def test_watch_starts_again_after_a_preemption(cloud):
  cloud.put('next_states', [None, None, 'PREEMPTED'])
  script = (
    'checkpoint=$OUTSIDE/checkpoint_$WORKER; '
    'if [[ -e $checkpoint ]]; then exit 0; fi; '
    'touch $checkpoint ~/sign; sleep 60'
  )
  # What is sent again is what was sent first.
  out = cloud.works(*WATCH, '--spot', *_sh(script))
  assert 'preempted' in out and 'a has ended' in out
  calls = [c for c in cloud.calls() if {'create', 'scp'} & {*c}]
  assert calls[0] == calls[2] and calls[1] == calls[3]
  assert '--spot' in calls[0]


def test_watch_of_a_preemption_in_order(cloud):
  cloud.ready()
  script = 'touch ~/sign; sleep 60'
  cloud.works('start', *ON, '--run=a', '--', 'bash', '-c', script)
  cloud.until('a', 'running', 'running')
  cloud.put('next_states', [None, 'REPAIRING', 'PREEMPTED'])
  cloud.calls()
  cloud.works(*WATCH, *_sh('true'))
  looks = ['describe', 'status']
  assert cloud.verbs() == [
    *('ls', *looks, 'describe', 'describe', 'delete', *STARTED, *looks)
  ]


def test_failure_that_a_preemption_explains(cloud):
  """Workers fail before the state tells that one was taken away."""
  cloud.ready()
  cloud.works('start', *ON, '--run=a', '--', 'false')
  cloud.until('a', 'exit 1', 'exit 1')
  cloud.put('next_states', [None, 'TERMINATED'])
  assert 'a has ended' in cloud.works(*WATCH, *_sh('true'))


def test_program_that_fails_ends_the_watch(cloud):
  script = (
    'echo x >>$OUTSIDE/$WORKER; [[ $WORKER = w-0 ]] || exit 7; '
    'touch ~/sign; sleep 60'
  )
  error = cloud.fails(*WATCH, *_sh(script))
  assert '(exit 7)' in error and 'launch/tpu.py log --run=a' in error
  assert (cloud.folder / 'w-1').read_text() == 'x\n'
  cloud.until('a', 'stopped', 'exit 7')  # the one that waited for the other
  assert 'was stopped' in cloud.fails(*WATCH, *_sh(script))


def test_program_may_fail_so_often(cloud):
  script = 'echo x >>$OUTSIDE/$WORKER; exit 1'
  cloud.fails(*WATCH, '--max_failures=2', *_sh(script))
  assert (cloud.folder / 'w-1').read_text() == 'x\nx\nx\n'


def test_lost_run_is_started_again(cloud):
  cloud.ready()
  cloud.works('start', *ON, '--run=a', '--', 'sleep', '60')
  cloud.until('a', 'running', 'running')
  group = cloud.workers()[1] / 'hypertuning_runs/a/group'
  os.killpg(int(group.read_text().split()[0]), signal.SIGKILL)
  cloud.calls()
  assert 'a has ended' in cloud.works(*WATCH, *_sh('true'))
  assert cloud.verbs() == [
    *('ls', 'describe', 'status', 'stop', 'start', 'describe', 'status')
  ]


def test_stockout_is_waited_for(cloud):
  full = (
    'ERROR: (gcloud.create) {\n  "code": 8,\n'
    '  "message": "There is no more capacity in the zone"\n}'
  )
  cloud.put('failures', {'create': [full] * 7})
  out = cloud.works(*WATCH, *_sh('sleep 0'))
  lines = [line for line in out.splitlines() if 'trying again' in line]
  assert len(lines) == 7
  assert lines[1] == (
    'creating mine: "message": "There is no more capacity in the zone": '
    'trying again in 120 seconds'
  )
  assert cloud.slept[:7] == [60, 120, 240, 480, 900, 900, 900]


def test_watch_bears_a_gcloud_that_fails_now_and_then(cloud):
  cloud.ready()
  cloud.works('start', *ON, '--run=a', '--', 'true')
  cloud.until('a', 'exit 0', 'exit 0')
  cloud.put('failures', {'describe': ['ERROR: no network'] * 4})
  cloud.works(*WATCH, *_sh('true'))
  cloud.put('failures', {'describe': ['ERROR: no network'] * 5})
  assert 'no network' in cloud.fails(*WATCH, *_sh('true'))
  cloud.put('failures', {'describe': ['ERROR: PERMISSION_DENIED: no']})
  assert 'PERMISSION_DENIED' in cloud.fails(*WATCH, *_sh('true'))


def test_watch_needs_a_bucket(cloud):
  for command in (['true'], ['true', "--gin.MODEL_DIR='runs/a'"]):
    assert 'MODEL_DIR' in cloud.fails(*WATCH, '--', *command)
  assert not cloud.calls()


def test_missing_bucket(cloud):
  cloud.ready()
  missing = 'ERROR: (gcloud.storage.ls) gs://bucket not found: 404.'
  for command in (['start', *ON, '--run=a'], WATCH):
    cloud.put('failures', {'ls': [missing]})
    error = cloud.fails(*command, *_sh('true'))
    assert 'bucket gs://bucket cannot be read' in error
    assert 'gcloud storage buckets create gs://bucket' in error
    assert cloud.calls() == [['storage', 'ls', 'gs://bucket']]
  assert not [*cloud.folder.glob('worker*/hypertuning_runs')]


@pytest.mark.parametrize(
  'arguments',
  [
    ['create', *ON, *NEW, '--spot'],
    ['setup', *ON],
    ['start', *ON, '--run=a', *_sh('exit 0', "a 'b' $c")],
    ['status', *ON],
    ['log', *ON, '--run=a', '--no_follow'],
    ['stop', *ON, '--run=a'],
    ['delete', *ON, '--project=ours'],
  ],
  ids=lambda arguments: arguments[0],
)
def test_dry_run_prints_what_a_run_does(
  cloud, checkout, monkeypatch, arguments
):
  if arguments[0] != 'create':
    cloud.ready()
    cloud.works('start', *ON, '--run=a', '--', 'true')
    cloud.until('a', 'exit 0', 'exit 0')
    cloud.calls()
  with monkeypatch.context() as patched:
    patched.setenv('PATH', '')  # Neither gcloud nor git.
    at = arguments.index('--') if '--' in arguments else len(arguments)
    dry = cloud.works(*arguments[:at], '--dry_run', *arguments[at:])
  assert not cloud.calls() and not (checkout / 'build').exists()
  printed = [shlex.split(line) for line in dry.splitlines()]
  assert {line[0] for line in printed} <= {'gcloud', 'git'}
  if arguments[0] == 'setup':  # ready() has no folder to replace.
    for home in cloud.workers():
      shutil.rmtree(home / 'hypertuning')
  cloud.works(*arguments)
  assert [p[1:] for p in printed if p[0] == 'gcloud'] == cloud.calls()


def test_gcloud_that_fails(cloud):
  text = 'Waiting...\nERROR: (gcloud) Quota of TPUs exceeded.\n\nSee there\n'
  for verb, arguments in (
    ('create', ['create', *ON, *NEW]),
    ('describe', ['status', *ON]),
    ('ssh', ['start', *ON, '--run=a', '--', 'true']),
    ('ssh', ['log', *ON, '--run=a']),
    ('scp', ['setup', *ON]),
    ('delete', ['delete', *ON]),
  ):
    cloud.put('failures', {verb: [text]})
    error = cloud.fails(*arguments)
    assert error.endswith(': ERROR: (gcloud) Quota of TPUs exceeded.')
    assert 'mine' in error or ' a:' in error


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['create', '--zone=here', *NEW], '--name is missing'),
    (['create', '--name=mine', *NEW], 'TPU_ZONE'),
    (['create', *ON], '--accelerator_type'),
    (['create', *ON, '--accelerator_type=v4'], "'v4' is not like v4-64"),
    (['create', *ON, '--accelerator_type=v9-8'], 'give its --version'),
    (['create', *ON, *NEW, '--spot', '--preemptible'], 'not allowed'),
    (['create', '--name=a/b', '--zone=z', *NEW], "'a/b'"),
    (['start', *ON, '--', 'true'], '--run'),
    (['start', *ON, '--run=a b', '--', 'true'], "'a b'"),
    (['start', *ON, '--run=a'], 'after --'),
    (['start', *ON, '--run=a', 'true'], 'unrecognized'),
    (['stop', *ON, '--run=a', '--', 'true'], 'takes nothing after --'),
    ([], 'SUBCOMMAND'),
    (['begin'], "'begin'"),
  ],
)
def test_slips_on_the_command_line(cloud, arguments, message):
  assert message in cloud.fails(*arguments, code=2)
  assert not cloud.calls()


def test_every_subcommand_has_help_with_an_example(cloud):
  names = [*('create', 'setup', 'start', 'status', 'log', 'watch', 'stop')]
  for name in [*names, 'delete']:
    out = cloud.works(name, '--help')
    assert f'launch/tpu.py {name} --name=mine' in out and 'TPU_NAME' in out
  assert all(name in cloud.works('--help') for name in names)


def test_as_a_program_of_its_own(cloud, checkout, tmp_path):
  """Without gcloud, and interrupted: no traceback."""
  tpu = checkout / 'launch/tpu.py'
  # Only an interpreter: neither gcloud nor our own packages.
  command = [sys.executable, '-SE', str(tpu)]
  done = subprocess.run(
    [*command, 'delete', *ON],
    env={'PATH': str(tmp_path)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert len(done.stderr.splitlines()) == 1
  assert 'gcloud is not on PATH' in done.stderr
  assert os.access(tpu, os.X_OK)
  cloud.ready()
  cloud.works('start', *ON, '--run=a', '--', 'sleep', '60')
  for arguments in (['log', *ON, '--run=a'], [*WATCH, *_sh('true')]):
    cloud.calls()
    process = subprocess.Popen(
      [*command, *arguments],
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      start_new_session=True,
      text=True,
    )
    calls = cloud.folder / 'calls'
    while not calls.exists() or '--command=' not in calls.read_text():
      time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, '')
  cloud.until('a', 'running', 'running')  # It is only the watching that ends.


def test_workers_answers_make_one_verdict(cloud):
  steps = sys.modules['tpu_steps']
  states = ['missing', 'running', 'stopped', 'lost', 'exit 0', 'exit 1']
  expected = {
    ('missing', 'missing'): 'missing',
    ('exit 0', 'running'): 'running',
    ('exit 0', 'exit 0'): 'exit 0',
    ('exit 0', 'exit 1'): 'exit 1',
    ('exit 1', 'lost'): 'lost',
    ('missing', 'running'): 'lost',
    ('lost', 'stopped'): 'stopped',
    ('exit 1', 'running'): 'exit 1',
  }
  for pair in itertools.product(states, states):
    got = steps.verdict({str(i): [f'a {s}'] for i, s in enumerate(pair)})
    key = tuple(sorted(pair))
    assert got == expected.get(key, got)
    assert got in states


def test_pins_are_commits():
  text = (LAUNCH / 't5x_requirements.txt').read_text()
  lines = [line for line in text.splitlines() if not line.startswith('#')]
  assert len(lines) == 3
  for line in lines:
    name, url = line.split(' @ git+')
    repository, commit = url.split('@')
    assert repository.endswith(f'/{name}') and len(commit) == 40
