#!/usr/bin/env bash
# Sets up everything that the tests need, and runs them but the slowest: 5 to 9
# minutes on two CPU cores after the installation.
#
#   launch/test.sh                 # in .venv, which is made if it is missing
#   launch/test.sh -m ''           # the slowest as well, as .ci/run does
#   VENV=/tmp/venv launch/test.sh tests/commands/train_test.py -k resume
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-.venv}
if [[ ! -x "$venv/bin/python" ]]; then
  "${PYTHON:-python3}" -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet --editable \
  '.[test,docs,hf,gguf,knowledge,serve]'

"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check --quiet .
"$venv/bin/mypy"
# Two at a time, a file by one process: its tests share runs and programs.
exec "$venv/bin/python" -m pytest -q --numprocesses=2 --dist=loadfile \
  -m "not slow" "$@"
