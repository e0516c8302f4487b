#!/usr/bin/env bash
# The main job on the embedded default, from nothing to a table and a plot:
# about 12 minutes on two CPU cores after the installation.
#
#   launch/quickstart.sh             # in .venv, results in runs/quickstart
#   launch/quickstart.sh --help
#   SEED=1 launch/quickstart.sh      # another seed, in runs/quickstart_seed1
#
# Stopped and started again it goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ $# -gt 0 ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  [[ $1 == --help ]] && exit 0 || exit 2
fi

seed=${SEED:-0}
suffix=$([[ $seed == 0 ]] || echo "_seed$seed")
runs=${RUNS:-runs/quickstart$suffix}
venv=${VENV:-.venv}
if [[ ! -x "$venv/bin/python" ]]; then
  "${PYTHON:-python3}" -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet --editable .

# A step's buffers in huge pages, and no program compiled twice.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/runs/.jax_cache}

# run COMMAND "GIN FILES" NAME=value...
run() {
  local command=$1 flags=() file binding
  for file in $2; do flags+=("--gin_file=gin/$file.gin"); done
  for binding in "${@:3}"; do flags+=("--gin.$binding"); done
  "$venv/bin/python" -m "hypertuning.$command" "${flags[@]}" \
    "--gin.RANDOM_SEED=$seed"
}

# hypermodel NAME MODEL: hyperpretraining, fine-tuning, both evaluations.
hypermodel() {
  local stage=$runs/$1 model=models/$2
  run train "$model quickstart/hyperpretrain" \
    "MODEL_DIR='${stage}_hyperpretrain'" \
    "INITIAL_CHECKPOINT_PATH='$runs/downstream'"
  run train "$model quickstart/multitask" \
    "MODEL_DIR='${stage}_multitask'" \
    "INITIAL_CHECKPOINT_PATH='${stage}_hyperpretrain'"
  run eval "$model quickstart/eval_text" \
    "CHECKPOINT_PATH='${stage}_hyperpretrain'" \
    "EVAL_OUTPUT_DIR='${stage}_eval_text'"
  run eval "$model quickstart/eval_tasks" \
    "CHECKPOINT_PATH='${stage}_multitask'" \
    "EVAL_OUTPUT_DIR='${stage}_eval_tasks'"
}

# Every job is a process group: what still runs when another fails, or the user
# stops, is stopped as a whole, and saves its state first.
set -m
stop() { for job in $(jobs -p); do kill -- "-$job" 2>/dev/null || true; done; }
trap 'stop; wait' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir -p "$runs"
run train quickstart/downstream "MODEL_DIR='$runs/downstream'"
run eval "models/t5 quickstart/eval_in_context" \
  "CHECKPOINT_PATH='$runs/downstream'" \
  "EVAL_OUTPUT_DIR='$runs/eval_in_context'" &
# A model this small does not keep two cores busy: the two run side by side.
hypermodel prefix hyper_t5_prefix &
hypermodel lora hyper_t5_lora &
for _ in 1 2 3; do wait -n; done
for report in report_text report; do
  "$venv/bin/python" -m hypertuning.report \
    --gin_file=gin/quickstart/$report.gin "--gin.RUNS_DIR='$runs'"
done
