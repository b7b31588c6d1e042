"""Names that several modules of the plugin share."""

CRYODEN_ENV_ACTIVATION = "CRYODEN_ENV_ACTIVATION"
"""Variable with a command that activates the environment of the denoiser; empty: Scipion's own Python."""

MODEL_NAME = "model.safetensors"
"""Name of a denoiser's file in a run's folder."""

HALVES_LINK = "_mcEvenOddMics"
"""Attribute of a full micrograph that lists the files of its halves [odd, even], as the motioncorr plugin writes it."""
