"""Public models' files: reads them as our checkpoints, and writes them back."""
