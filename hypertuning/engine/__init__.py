"""Parts of the embedded runner: state, steps, batches, checkpoints."""
