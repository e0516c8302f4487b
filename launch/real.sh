#!/usr/bin/env bash
# Real data to a table, with a tiny T5: books, function vectors' toy tasks,
# Super-NaturalInstructions and P3. 40 minutes on two busy CPU cores.
#
#   launch/real.sh DATA              # results in runs/real
#   SEED=1 launch/real.sh DATA       # another seed, beside the first
#   launch/real.sh --help
#
# DATA has corpus/books_{train,validation}.jsonl.gz, tokenizer/t5/spiece.model,
# icl/function_vectors/, superni/, p3_train/ and p3_heldout/ in their published
# layouts. Stopped and started again it goes on where it was.
set -euo pipefail

if [[ $# -ne 1 || $1 == --help ]]; then
  sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  [[ ${1:-} == --help ]] && exit 0 || exit 2
fi
data=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source launch/environment.sh
seed=${SEED:-0}
runs=${RUNS:-runs/real}
vocabulary="'VOCABULARY_FILE': '$data/tokenizer/t5/spiece.model'"
books=$data/corpus/books
text="$vocabulary, 'TRAIN_TEXT': '${books}_train.jsonl.gz',
  'VALIDATION_TEXT': '${books}_validation.jsonl.gz'"
tasks="$vocabulary, 'FUNCTION_VECTORS_DIR': '$data/icl/function_vectors',
  'NI_DIR': '$data/superni', 'P3_DIR': '$data/p3_train',
  'P3_HELD_OUT_DIR': '$data/p3_heldout'"
code=0
"$python" -m hypertuning.sweep --gin_file=gin/experiments/real/sweep.gin \
  "--gin.SWEEP_DIR='$runs'" "--gin.SEEDS={'$seed': {'RANDOM_SEED': $seed}}" \
  "--gin.TEXT_BINDINGS={$text}" "--gin.TASK_BINDINGS={$tasks}" || code=$?
# A page of what there is, if some cells have failed.
"$python" -m hypertuning.report --gin_file=gin/experiments/real/report.gin \
  "--gin.SWEEP_DIR='$runs'"
exit "$code"
