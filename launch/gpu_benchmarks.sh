#!/usr/bin/env bash
# Runs the tests that need an NVIDIA GPU, and measures training steps on it:
# 8 minutes at most. Needs jax with CUDA, flax, optax, orbax, torch, transformers
# and peft, but neither TensorFlow nor seqio. Where gin-config, clu and pydantic
# cannot be installed, give a folder of wheels as WHEELS, see launch/wheels.sh.
#
#   launch/gpu_benchmarks.sh runs/gpu               # a folder, which gets JSON
#   WHEELS=wheels launch/gpu_benchmarks.sh runs/gpu
#   JAX_PLATFORMS=cpu launch/gpu_benchmarks.sh out --size=tiny --episodes=2 \
#     --hyper_inputs=8 --inputs=8 --targets=4       # flags for every row
set -uo pipefail

usage() { sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
case ${1:-} in
  --help) usage; exit 0 ;;
  '' | -*) usage >&2; exit 2 ;;
esac
mkdir -p "$1" || exit
output=$(cd "$1" && pwd)
shift
source "$(dirname "${BASH_SOURCE[0]}")/wheels.sh"
cd "$root" || exit
failed=0

# Other files of tests need what is not installed here.
mapfile -t files < <(grep -rlE 'mark\.gpu\b' tests --include='*_test.py')
if ((${#files[@]})); then
  JAX_PLATFORMS=cuda JAX_DISABLE_MOST_OPTIMIZATIONS=0 \
    timeout 90 "$python" -m pytest -q -m gpu "${files[@]}" || failed=1
fi

# row NAME SECONDS FLAGS: measures one row of the table.
row() {
  local name=$1 seconds=$2
  shift 2
  echo "$name"
  timeout "$seconds" "$python" -m hypertuning.benchmarks train_step "$@" \
    --output="$output/$name.json" || {
    echo "$name: none within $seconds s." >&2
    failed=1
  }
}

row hyper_t5_lora_large 90 --model=t5 --size=large --method=hyper_lora \
  --optimizer=adafactor --episodes=32 --hyper_inputs=1024 --inputs=384 \
  --targets=128 "$@"
row mtf_t5_large 220 --model=t5 --size=large --episodes=16 --inputs=1408 \
  --targets=128 "$@"
row hyper_llama_smollm2 80 --model=llama --size=smollm2_135m --method=gist \
  --episodes=32 --queries=4 --hyper_inputs=384 --inputs=64 --targets=16 "$@"
exit $failed
