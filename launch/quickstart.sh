#!/usr/bin/env bash
# The main job on the embedded default, from nothing to a page of tables and
# plots: about 13 minutes on two slow CPU cores after the installation.
#
#   launch/quickstart.sh             # in .venv, results in runs/quickstart
#   launch/quickstart.sh --help
#   SEED=1 launch/quickstart.sh      # another seed, beside the first
#
# Stopped and started again it goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ $# -gt 0 ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  [[ $1 == --help ]] && exit 0 || exit 2
fi

source launch/environment.sh
seed=${SEED:-0}
runs=${RUNS:-runs/quickstart}
"$python" -m hypertuning.sweep --gin_file=gin/experiments/quickstart/sweep.gin \
  "--gin.SWEEP_DIR='$runs'" "--gin.SEEDS={'$seed': {'RANDOM_SEED': $seed}}"
"$python" -m hypertuning.report --gin_file=gin/experiments/quickstart/report.gin \
  "--gin.SWEEP_DIR='$runs'"
