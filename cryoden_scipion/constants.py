"""Names that several modules of the plugin share."""

CRYODEN_ENV_ACTIVATION = "CRYODEN_ENV_ACTIVATION"
"""Variable with a command that activates the environment of the denoiser; empty: Scipion's own Python."""

HALVES_LINK = "_mcEvenOddMics"
"""Attribute of a full micrograph that lists the files of its halves [odd, even], as the motioncorr plugin writes it."""
