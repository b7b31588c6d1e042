"""Names that several modules of the plugin share."""

CRYODEN = "cryoden"
"""What `scipion3 installb` is told; with the version, the folder of the denoiser's environment in software/em."""

CRYODEN_ENV_ACTIVATION = "CRYODEN_ENV_ACTIVATION"
"""Variable with a command that activates the environment of the denoiser; empty: the plugin chooses."""

CRYODEN_TORCH = "CRYODEN_TORCH"
"""Variable with what pip installs as PyTorch into the denoiser's environment, for instance `torch==2.13.0`."""

CRYODEN_TORCH_INDEX = "CRYODEN_TORCH_INDEX"
"""Variable with the address of the package index that has this build of PyTorch, beside pip's own."""

DISTRIBUTION = "scipion-em-cryoden"
"""What pip calls the plugin and the denoiser together."""

HALVES_LINK = "_mcEvenOddMics"
"""Attribute of a full micrograph that lists the files of its halves [odd, even], as the motioncorr plugin writes it."""

MOTION_LINK = "_cryodenMotionStar"
"""Attribute of a movie that was aligned here: the STAR file about its motion, in RELION's form."""
