"""cryoden: denoise cryo-EM micrographs with a network trained on the user's own data."""

__version__ = "0.1.0"
