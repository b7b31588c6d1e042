"""From halves to batches."""
