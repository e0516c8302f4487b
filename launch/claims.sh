#!/usr/bin/env bash
# The papers' claims on the embedded tasks, three seeds, as tables, plots and
# verdicts on one page: about 110 minutes on two CPU cores.
#
#   launch/claims.sh                 # in .venv, results in runs/claims
#   launch/claims.sh --help
#
# Stopped and started again it goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ $# -gt 0 ]]; then
  sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  [[ $1 == --help ]] && exit 0 || exit 2
fi

source launch/environment.sh
runs=${RUNS:-runs/claims}
code=0
"$python" -m hypertuning.sweep --gin_file=gin/experiments/claims/sweep.gin \
  "--gin.SWEEP_DIR='$runs'" || code=$?
# A page of what there is, if some cells have failed.
"$python" -m hypertuning.report --gin_file=gin/experiments/claims/report.gin \
  "--gin.SWEEP_DIR='$runs'"
exit "$code"
