#!/usr/bin/env bash
# A sweep of evaluations: checkpoints x tasks x draws of shots in one table.
#
#   launch/eval_sweep.sh --gin_file=my_sweep.gin --gin.SWEEP_DIR="'runs/sweep'"
#
# my_sweep.gin binds AXES and GIN_FILES, see gin/sweeps/eval.gin. Stopped and
# started again it goes on where it was; a finished cell never runs twice.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [[ $# -eq 0 || $1 == --help ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  [[ ${1:-} == --help ]] && exit 0 || exit 2
fi

source "$root/launch/environment.sh"
exec "$python" -m hypertuning.sweep \
  --gin_file=gin/sweeps/eval.gin "$@"
