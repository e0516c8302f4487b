# Sourced by the scripts beside it: `recordings`, the arguments of the sweep that
# records episodes. The machines that record and that train must give the same ones.
recordings=(
  --gin_file=gin/experiments/smollm/recordings.gin
  "--gin.SWEEP_DIR='$runs/recorded_$kind'"
  "--gin.VOCABULARY_FILE='$runs/base/tokenizer.json'"
  "--gin.RECORD_STEPS=${RECORD_STEPS:-6000}"
  "--gin.EPISODES=${BATCH_SIZE:-32}"
)
if [[ -n $data ]]; then
  classification=$data/icl/classification
  recordings+=(
    --gin_file=gin/experiments/smollm/recordings_data.gin
    "--gin.FUNCTION_VECTORS_DIR='$data/icl/function_vectors'"
    "--gin.NI_DIR='$data/superni'"
    "--gin.P3_DIR='$data/p3_train'"
    "--gin.CLASSIFICATION_DIR='$classification'"
    "--gin.SYMBOL_FILES=('$classification/imdb.train.jsonl',
      '$classification/yelp.train.jsonl', '$classification/mnli.train.jsonl')"
  )
fi
