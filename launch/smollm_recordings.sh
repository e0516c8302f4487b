# Sourced by the scripts beside it, after `runs` and `data` (a folder of public data
# sets, or nothing): names of files, and `recordings`, the arguments of the sweep that
# records episodes. The machines that record and that train must give the same ones.
kind=${data:+data}
kind=${kind:-knowledge}
base=$runs/base
gguf=$runs/SmolLM2-135M-Instruct.Q4_1.gguf
results=$runs/results_$kind
batch=${BATCH_SIZE:-32}
record_steps=${RECORD_STEPS:-6000}
folders=()
recordings=(
  --gin_file=gin/experiments/smollm/recordings.gin
  "--gin.SWEEP_DIR='$runs/recorded_$kind'"
  "--gin.VOCABULARY_FILE='$base/tokenizer.json'"
  "--gin.RECORD_STEPS=$record_steps"
  "--gin.EPISODES=$batch"
)
if [[ -n $data ]]; then
  classification=$data/icl/classification
  folders=(
    "--gin.FUNCTION_VECTORS_DIR='$data/icl/function_vectors'"
    "--gin.NI_DIR='$data/superni'"
    "--gin.CLASSIFICATION_DIR='$classification'"
  )
  recordings+=(
    --gin_file=gin/experiments/smollm/recordings_data.gin "${folders[@]}"
    "--gin.P3_DIR='$data/p3_train'"
    "--gin.SYMBOL_FILES=('$classification/imdb.train.jsonl',
      '$classification/yelp.train.jsonl', '$classification/mnli.train.jsonl')"
  )
fi
