"""Opens streams: which examples stand where, and how they become batches."""
