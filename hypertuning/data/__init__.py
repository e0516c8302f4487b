"""From text to batches: episodes, segments, feature conversion, metrics."""
