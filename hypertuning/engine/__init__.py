"""Parts of the runner that comes with hypertuning, without t5x."""
