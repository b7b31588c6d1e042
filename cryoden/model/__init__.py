"""From batches to denoised micrographs."""
