"""Halves and denoisers in, numbers out."""
