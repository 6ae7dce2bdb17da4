"""Files of a run: checkpoints, checksums, metrics."""
