"""What `cryoden evaluate` can be asked."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Iterator, Optional, Tuple

from cryoden.config import shared
from cryoden.config.options import Config, Groups, option
from cryoden.errors import Problem, option_problem

TOPAZ_NETWORKS = ("unet", "unet-small", "affine")
"""Pretrained networks of Topaz-Denoise that its --arch really selects."""

SCORE_BAND_A = (300.0, 8.0)
"""Score band in Angstrom: below, illumination gradients; above, noise and water."""


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(Config):
    """Measure how good denoisers are, without ground truth, and compare them with simple baselines."""

    groups: ClassVar[Groups] = {
        "input and output": ("odd", "even", "model", "truth", "output", "overwrite"),
        "score": ("band", "sampling_rate", "scored", "bootstrap", "seed"),
        "baseline": ("topaz", "topaz_network"),
        "network": ("quality", "tile", "precision", "device"),
    }

    odd: str = shared.odd()
    even: str = shared.even()
    output: str = option(help="Folder for report.html, metrics.json, metrics.csv, metrics.star and the pictures.")
    model: Tuple[str, ...] = option(
        (), help="Model files to compare (general: the model that comes with cryoden); the report is about the first."
    )
    truth: Optional[str] = option(
        None, help="Folder or STAR file of the clean images, where they are known (simulations); matched by name."
    )
    band: Tuple[float, float] = option(
        SCORE_BAND_A,
        help="Resolution range in Å that is scored, the coarser end first: at lower resolution there are illumination "
        "gradients, at higher resolution there is mostly noise.",
    )
    sampling_rate: Optional[float] = shared.pixel_size(
        None,
        "Pixel size in Å/px at which images are compared. Default: that of the model with the coarsest one.",
    )
    scored: str = option(
        "held-out",
        choices=("held-out", "all"),
        help="held-out: micrographs that a model was trained on do not count in the overall numbers, if there are "
        "others. all: every micrograph counts.",
    )
    topaz: str = option(
        "auto",
        help="Topaz-Denoise as a baseline. auto: if topaz-em is installed; no: never; otherwise the command that "
        "starts Topaz, such as /opt/topaz/bin/topaz. It takes minutes per micrograph on a CPU.",
    )
    topaz_network: str = option("unet", choices=TOPAZ_NETWORKS, help="Pretrained model of Topaz-Denoise.")
    quality: str = shared.quality()
    precision: str = shared.precision()
    tile: Optional[int] = shared.tile()
    bootstrap: int = option(
        1000, at_least=10, help="Bootstrap resamplings of the micrographs, for the standard errors."
    )
    seed: int = option(1, at_least=0, help="Random seed of the bootstrap.")
    overwrite: bool = option(False, help="Replace the results of an earlier run in the output folder.")
    device: str = shared.device()

    def _problems(self) -> Iterator[Problem]:
        if len(self.band) != 2 or not 0 < self.band[1] < self.band[0] < math.inf:
            given = " ".join(f"{period:g}" for period in self.band)
            yield option_problem("band", f"is {given}; it must be two periods in Å, the longer first, such as 300 8.")
        if len(set(self.model)) < len(self.model):
            yield option_problem("model", f"names a model twice ({' '.join(self.model)}); name each once.")
        if not self.topaz.strip():
            yield option_problem("topaz", "is empty; it must be auto, no, or the command that starts Topaz.")
