"""What `cryoden show` can be asked."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Union

from cryoden.config import shared
from cryoden.config.options import Config, Groups, option


@dataclasses.dataclass(frozen=True)
class ShowConfig(Config):
    """Look at the data before training: crops of both halves, their sum, difference and histograms."""

    groups: ClassVar[Groups] = {
        "input and output": ("odd", "even", "output"),
        "crop": ("micrographs", "crops", "crop", "sampling_rate", "seed"),
    }

    odd: str = shared.odd()
    even: str = shared.even()
    output: str = option(help="Folder for the contact sheets, PNG.")
    micrographs: int = option(8, at_least=1, help="Number of micrographs shown, evenly spread over the set.")
    crops: int = option(1, at_least=1, help="Crops per micrograph, at random positions.")
    crop: int = option(256, at_least=16, help="Side of the crops in pixels (smaller if the micrographs are).")
    sampling_rate: Union[float, str] = shared.working_rate("to look, the one at which to train")
    seed: int = option(1, at_least=0, help="Random seed of the positions.")
