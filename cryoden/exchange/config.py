"""What the commands of the exchange can be asked; standard library only."""

from __future__ import annotations

import dataclasses
from typing import Iterator, Optional

from cryoden.config import Config, Options, option, within


@dataclasses.dataclass(frozen=True)
class PatchesExportConfig(Config):
    """Cut halves into patch files that any trainer can read."""

    odd: str = option(help="Folder or STAR file of the odd micrographs: the inputs.")
    even: str = option(help="Folder or STAR file of the even micrographs: the targets; matched with the odd by name.")
    output: str = option(help="Folder for train_input.bin, train_target.bin, test_*.bin and manifest.json.")
    patch: int = option(1024, help="Side of the patches in pixels; the specification knows 1024 and 512.")
    stride: int = option(512, help="Distance between neighbouring patches in pixels.")
    edges: bool = option(
        False, help="Also cut a last row and column of patches flush with the border, where the stride misses it."
    )
    normalization: str = option(
        "p95",
        choices=("p95", "standard"),
        help="p95: divided by the 95th percentile of the micrograph's positive values and clipped to [0, 1]; only for "
        "counts. standard: the micrograph's mean is taken off and its deviation becomes 1.",
    )
    validation: float = option(0.1, help="Share of the micrographs whose patches go to the test files (at least one).")
    seed: int = option(1, help="Seed of the choice of test micrographs.")

    def _problems(self) -> Iterator[str]:
        yield from within("patch", self.patch, 16)
        yield from within("stride", self.stride, 1)
        yield from within("seed", self.seed, 0)
        if not 0 < self.validation < 1:
            yield f"Option --validation is {self.validation:g}; it must be above 0 and below 1."


@dataclasses.dataclass(frozen=True)
class PatchesVerifyConfig(Options):
    """Read patch files again and check everything: sizes, counts, checksums, values."""

    folder: str = option(positional=True, help="Folder of patch files.")
    patch: Optional[int] = option(None, help="Side of the patches in pixels, where there is no manifest.json.")

    def _problems(self) -> Iterator[str]:
        yield from within("patch", self.patch, 1)
