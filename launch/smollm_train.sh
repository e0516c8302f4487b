#!/usr/bin/env bash
# Trains SmolLM2's hypermodel on the recordings of `launch/smollm.sh --record`, and
# few-shot MTF beside it, and evaluates both on held-out tasks. For a machine with a
# GPU, which needs jax, flax, optax, orbax and tokenizers, but neither TensorFlow nor
# seqio. Where gin-config, clu, gguf and pydantic cannot be installed, give a folder
# of wheels as WHEELS, see launch/wheels.sh.
#
#   launch/smollm_train.sh                       # both methods
#   launch/smollm_train.sh hyper_llama           # one of hyper_llama and few_shot
#   launch/smollm_train.sh rank_8                # or one of variants.gin
#   DATA=FOLDER launch/smollm_train.sh           # recordings of public data sets
#   WHEELS=wheels PARTS=parts launch/smollm_train.sh
#   launch/smollm_train.sh --help
#
# Reads runs/smollm (RUNS), the same folder, relative to the project, as on the
# machine that recorded; PARTS has `part_*` of it, which are joined first. Results
# are in runs/smollm/results_knowledge (or _data): files of at most 16 MiB.
# MINUTES (6) is how long a training takes: a few steps are measured, and the number
# of steps follows, at most as many as were recorded; STEPS sets it. Stopped and
# started again it goes on from the last checkpoint.
set -euo pipefail

usage() { sed -n '2,21s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
case ${1:-} in
  --help) usage; exit 0 ;;
  '') methods=(hyper_llama few_shot) ;;
  hyper_llama | few_shot | gists_4 | gists_32 | rank_8 | lora) methods=("$1") ;;
  *) usage >&2; exit 2 ;;
esac
parts=${PARTS:+$(realpath "$PARTS")}
source "$(dirname "${BASH_SOURCE[0]}")/wheels.sh"
cd "$root"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$PWD/runs/.jax_cache}

runs=${RUNS:-runs/smollm}
data=${DATA:-}
source launch/smollm_recordings.sh
if [[ -n $parts && ! -f $parts/part_aa ]]; then
  echo "error: PARTS = '$PARTS': no part_aa there; launch/smollm.sh --record" \
    "--parts FOLDER writes it." >&2
  exit 2
fi
if [[ -n $parts ]]; then
  cat "$parts"/part_* | tar --extract --skip-old-files
fi
if [[ ! -f $runs/recorded_$kind/sweep.json ]]; then
  echo "error: RUNS = '$runs': no recordings in recorded_$kind;" \
    "launch/smollm.sh --record writes them." >&2
  exit 2
fi
mkdir -p "$results"
if [[ ! -f $base/model.gin ]]; then
  "$python" -m hypertuning.convert --source="$gguf" --output="$base"
fi

if [[ ! -f $results/steps ]]; then
  steps=${STEPS:-}
  if [[ -z $steps ]]; then
    "$python" -m hypertuning.benchmarks train_step --model=llama \
      --size=smollm2_135m --method=gist --episodes="$batch" --queries=4 \
      --hyper_inputs=384 --inputs=64 --targets=16 --output="$results/step.json"
    steps=$("$python" -c 'import json, sys
seconds = json.load(open(sys.argv[1]))["rows"][0]["seconds"]
print(max(1, min(int(sys.argv[2]), int(60 * float(sys.argv[3]) / seconds))))' \
      "$results/step.json" "$record_steps" "${MINUTES:-6}")
  fi
  echo "$steps" >"$results/steps"
fi
steps=$(cat "$results/steps")
echo "$steps steps of $batch episodes."

# A CPU computes bfloat16 by way of float32.
dtype=${DTYPE:-$("$python" -c 'import jax
print("float32" if jax.default_backend() == "cpu" else "bfloat16")')}
code=0
for method in "${methods[@]}"; do
  "$python" -m hypertuning.sweep \
    "${recordings[@]}" --gin_file=gin/experiments/smollm/recorded.gin \
    --gin_file=gin/experiments/smollm/variants.gin \
    "--gin.BASE='$base'" "--gin.TRAINED=('$method',)" "--gin.TRAIN_STEPS=$steps" \
    "--gin.WARMUP_STEPS=$(((steps + 22) / 23))" \
    "--gin.DTYPE='$dtype'" || code=$?
  trained=$runs/recorded_$kind/cells/train/$method
  for name in metrics.jsonl log.txt; do
    if [[ -f $trained/$name ]]; then
      cp "$trained/$name" "$results/${method}_$name"
    fi
  done
  if [[ $method == hyper_llama && -f $trained/done ]]; then
    rm -f "$results/hypermodel.safetensors"
    "$python" -m hypertuning.convert --trained --source="$trained" \
      --base=smollm2_135m --output="$results/hypermodel.safetensors"
  fi
  for name in table.md table.csv cells.csv; do
    if [[ -f $runs/recorded_$kind/$name ]]; then
      cp "$runs/recorded_$kind/$name" "$results/$name"
    fi
  done
done
# The page compares both methods, once they are evaluated.
evaluated=$runs/recorded_$kind/cells/evaluation
if compgen -G "$evaluated/hyper_llama__*/done" >/dev/null &&
  compgen -G "$evaluated/few_shot__*/done" >/dev/null; then
  if ! "$python" -c 'import jinja2, matplotlib' 2>/dev/null; then
    echo 'No page: jinja2 or matplotlib cannot be imported.'
  elif "$python" -m hypertuning.report \
    --gin_file="gin/experiments/smollm/report_recorded${data:+_data}.gin" \
    "--gin.SWEEP_DIR='$runs/recorded_$kind'"; then
    cp "$runs/recorded_$kind/report.html" "$results"
  else
    code=$?
  fi
fi
exit "$code"
