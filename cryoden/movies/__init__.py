"""Frames in, odd, even and full sums out."""
