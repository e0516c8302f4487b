#!/usr/bin/env bash
# What launch/tpu.py runs on every worker of a TPU VM; not for use by hand.
#
# The answer is a line `@hypertuning HOST WORDS`, or `@hypertuning HOST error
# WORDS` on standard error: exit codes and output of many workers come mixed.
set -euo pipefail

code=$HOME/hypertuning
venv=$HOME/hypertuning_venv
runs=$HOME/hypertuning_runs

answer() { echo "@hypertuning $(hostname) $*"; }
fail() {
  answer "error $*" >&2
  exit 1
}

# A process group outlives no reboot, but its number comes back.
boot() { cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo none; }

# alive FOLDER: whether a process of the run is there (zombies are not).
alive() {
  local group booted
  read -r group booted 2>/dev/null <"$1/group" || return 1
  [[ $booted == "$(boot)" ]] || return 1
  ps -eo pgid=,stat= |
    awk -v group="$group" '$1 == group && $2 !~ /^Z/ { n++ } END { exit !n }'
}

# state RUN: missing, running, stopped, `exit CODE`, or lost: ended without a
# word, as after a reboot.
state() {
  local folder=$runs/$1
  if [[ ! -d $folder ]]; then
    echo missing
  elif [[ -f $folder/stopped ]]; then
    echo stopped
  elif [[ -f $folder/exit_code ]]; then
    echo "exit $(<"$folder/exit_code")"
  elif alive "$folder"; then
    echo running
  else
    echo lost
  fi
}

# setup, from hypertuning.new, where the new code is.
setup() {
  local log=$HOME/hypertuning_setup.txt folder
  for folder in "$runs"/*/; do
    if alive "$folder"; then
      fail "run $(basename "$folder") is running: stop it before setup"
    fi
  done
  rm -rf "$code"
  mv "$code.new" "$code"
  bash "$code/launch/tpu_worker.sh" install >"$log" 2>&1 ||
    fail "$(tail -n 1 "$log") (all of it is in $log there)"
  answer installed
}

install() {
  local python=$venv/bin/python uv
  export PIP_DISABLE_PIP_VERSION_CHECK=1
  if ! "$python" -m pip --version; then
    # Ubuntu 22.04 has Python 3.10: uv brings one that is new enough.
    uv=$(command -v uv || echo "$HOME/.local/bin/uv")
    [[ -x $uv ]] || python3 -m pip install --quiet --user uv
    rm -rf "$venv"
    "$uv" venv --quiet --seed --python 3.11 "$venv"
  fi
  cd "$code"
  "$python" -m pip install --quiet '.[tpu,t5x]'
  # Forced, since their versions stay the same from commit to commit.
  "$python" -m pip install --quiet --no-deps --force-reinstall \
    -r launch/t5x_requirements.txt
}

# check: on all workers at once, as each waits for the others' devices.
check() {
  local said
  cd "$code"
  said=$(timeout 600 "$venv/bin/python" -c '
import jax
devices = jax.devices()
assert devices[0].platform == "tpu", f"jax sees {devices[0].platform} only"
print(f"jax sees {len(devices)} TPU devices")' 2>&1) ||
    fail "no TPU (${said##*$'\n'}): stop what holds it (launch/tpu.py status)," \
      "or delete it and create it with the --version of its accelerator"
  answer "${said##*$'\n'}"
}

# start RUN COMMAND...
start() {
  local run=$1 folder=$runs/$1
  shift
  [[ -d $code ]] || fail "no code here: run launch/tpu.py setup first"
  ! alive "$folder" ||
    fail "run $run is still running: stop it first, or give another --run"
  mkdir -p "$folder"
  rm -f "$folder"/{group,stopped,exit_code}
  cd "$code"
  echo "# $(date -u '+%F %T') UTC: $*" >>"$folder/log.txt"
  # A session of its own outlives this one, and is one group to signal.
  PATH=$venv/bin:$PATH PYTHONUNBUFFERED=1 setsid \
    bash "$code/launch/tpu_worker.sh" group "$folder" "$@" \
    >>"$folder/log.txt" 2>&1 </dev/null &
  echo "$! $(boot)" >"$folder/group"
  answer "$run started"
}

# group FOLDER COMMAND...: the leader of a run's process group.
group() {
  local folder=$1 exit_code=0
  shift
  # Signals go to the whole group: this one stays to note the exit code.
  trap : TERM INT
  "$@" || exit_code=$?
  echo "$exit_code" >"$folder/exit_code.new"
  mv "$folder/exit_code.new" "$folder/exit_code"
  # What the command has left behind would keep the TPU.
  kill -KILL -- "-$$"
}

# stop RUN SECONDS
stop() {
  local folder=$runs/$1 group end
  if alive "$folder"; then
    touch "$folder/stopped"
    read -r group _ <"$folder/group"
    kill -TERM -- "-$group" || true
    end=$((SECONDS + $2))
    while alive "$folder" && ((SECONDS < end)); do sleep 0.2; done
    kill -KILL -- "-$group" 2>/dev/null || true
  fi
  answer "$1 $(state "$1")"
}

# status [RUN]
status() {
  local folder
  if (($#)); then
    answer "$1 $(state "$1")"
  else
    for folder in "$runs"/*/; do
      [[ ! -d $folder ]] || status "$(basename "$folder")"
    done
  fi
}

# log RUN [-F]
log() {
  local file=$runs/$1/log.txt
  shift
  [[ -f $file ]] || fail "no such run: launch/tpu.py status lists them"
  exec tail -n +1 "$@" "$file"
}

"$@"
