"""Numbers of arrays: no files, no torch."""
