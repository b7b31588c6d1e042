"""What the commands for RELION's files can be asked; standard library only."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from cryoden.config.options import Config, Groups, option


@dataclasses.dataclass(frozen=True)
class RelionCoordinatesConfig(Config):
    """Rescale picks on denoised micrographs to the original ones: RELION knows no scale between two sets."""

    groups: ClassVar[Groups] = {"input and output": ("picks", "picked", "micrographs", "output")}

    picks: str = option(
        positional=True,
        help="Folder of a picking job, a STAR file of it (autopick.star, manualpick.star, coords_suffix_*.star), or a "
        "STAR file of particles.",
    )
    picked: str = option(
        help="STAR file of the micrographs on which was picked: micrographs.star of the denoised ones."
    )
    micrographs: str = option(help="STAR file of the original micrographs, for which coordinates are wanted.")
    output: str = option(help="Folder for the rescaled coordinates and the STAR files that list them.")
