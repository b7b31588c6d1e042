"""From movies to batches."""
