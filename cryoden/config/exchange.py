"""What the commands of the exchange can be asked; standard library only."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Iterator, Optional, Tuple

from cryoden.config import shared
from cryoden.config.options import Config, Groups, Options, option
from cryoden.errors import Problem


@dataclasses.dataclass(frozen=True)
class PatchesExportConfig(Config):
    """Cut halves into patch files that any trainer can read."""

    groups: ClassVar[Groups] = {
        "input and output": ("odd", "even", "output"),
        "patch": ("patch", "stride", "edges", "normalization"),
    }

    odd: str = option(help="Folder or STAR file of the odd micrographs: the inputs.")
    even: str = option(help="Folder or STAR file of the even micrographs: the targets; matched with the odd by name.")
    output: str = option(help="Folder for train_input.bin, train_target.bin, test_*.bin and manifest.json.")
    patch: int = option(1024, at_least=16, help="Side of the patches in pixels; the specification knows 1024 and 512.")
    stride: int = option(512, at_least=1, help="Distance between neighbouring patches in pixels.")
    edges: bool = option(
        False, help="Also cut a last row and column of patches flush with the border, where the stride misses it."
    )
    normalization: str = option(
        "p95",
        choices=("p95", "standard"),
        help="p95: divided by the 95th percentile of the micrograph's positive values and clipped to [0, 1]; only for "
        "counts. standard: the micrograph's mean is taken off and its deviation becomes 1.",
    )
    validation: float = option(
        0.1, above=0, below=1, help="Fraction of the micrographs whose patches go to the test files (at least one)."
    )
    seed: int = option(1, at_least=0, help="Seed of the choice of test micrographs.")


@dataclasses.dataclass(frozen=True)
class PatchesVerifyConfig(Options):
    """Read patch files again and check everything: sizes, counts, checksums, values."""

    groups: ClassVar[Groups] = {
        "input and output": ("folder", "patch"),
    }

    folder: str = option(positional=True, help="Folder of patch files.")
    patch: Optional[int] = option(
        None, at_least=1, help="Side of the patches in pixels, where there is no manifest.json."
    )


def _network() -> Any:
    return option("cnn3", choices=shared.NETWORKS, help="U-Net (unet), residual U-Net (resunet) or CNN3 (cnn3).")


def _channels() -> Any:
    return option(
        shared.EXCHANGED_UNET_CHANNELS, help="Number of channels at each level of the U-Net, from full resolution down."
    )


def _order() -> Any:
    return option(
        "C",
        choices=("C", "F"),
        help="Order of the numbers in the files: C (last axis fastest) or F (first axis fastest, as Fortran keeps an "
        "array of the same shape).",
    )


@dataclasses.dataclass(frozen=True)
class VerifyExportConfig(Config):
    """Write a bundle with which another implementation can prove that it computes the same."""

    groups: ClassVar[Groups] = {
        "input and output": ("model", "patches", "output"),
        "network": ("network", "channels"),
        "batch": ("batch_size", "size", "seed", "order"),
    }

    output: str = option(help="Folder for index.json and one file for each item.")
    model: Optional[str] = option(
        None,
        help="Model file, whatever --network and --channels say; default: a new network whose weights --seed draws.",
    )
    network: str = _network()
    channels: Tuple[int, ...] = _channels()
    patches: Optional[str] = option(None, help="Folder of patch files whose first patches are the batch; else noise.")
    batch_size: int = option(2, at_least=1, help="Patches in the batch.")
    size: int = option(64, at_least=16, help="Side of the patches in pixels; those of patch files are cut to it.")
    order: str = _order()
    seed: int = option(1, at_least=0, help="Seed of weights and noise.")

    def _problems(self) -> Iterator[Problem]:
        yield from shared.channel_problems(self.channels)


@dataclasses.dataclass(frozen=True)
class VerifyCompareConfig(Options):
    """Compare a bundle that another implementation wrote with what cryoden computes from its weights and batch."""

    groups: ClassVar[Groups] = {
        "input and output": ("folder", "reference"),
        "tolerance": ("tolerance", "loss_tolerance"),
    }

    folder: str = option(positional=True, help="Folder of the other implementation's bundle.")
    reference: Optional[str] = option(
        None, help="Bundle of `cryoden verify export` to compare with instead of computing anew."
    )
    tolerance: float = option(
        1e-5, above=0, help="Largest difference of output and gradients, relative to their largest value."
    )
    loss_tolerance: float = option(1e-6, above=0, help="Largest relative difference of the loss.")


@dataclasses.dataclass(frozen=True)
class ImportWeightsConfig(Config):
    """Make a model of cryoden from weights of another trainer: conv1_weights.bin, conv1_bias.bin and so on."""

    groups: ClassVar[Groups] = {
        "input and output": ("folder", "output", "order"),
        "network": ("network", "channels", "sampling_rate", "normalization"),
    }

    folder: str = option(positional=True, help="Folder of the weights; an index.json in it is obeyed.")
    output: str = option(help="Folder for model.safetensors.")
    sampling_rate: float = shared.pixel_size(
        dataclasses.MISSING, "Pixel size in Å/px of the micrographs it was trained on."
    )
    network: str = _network()
    channels: Tuple[int, ...] = _channels()
    order: str = _order()
    normalization: str = option(
        "p95",
        choices=("p95", "standard"),
        help="What the trainer saw: p95 (percentile-scaled, 0 to 1, as in patch files) or standard (mean 0, "
        "deviation 1).",
    )

    def _problems(self) -> Iterator[Problem]:
        yield from shared.channel_problems(self.channels)


@dataclasses.dataclass(frozen=True)
class StepBenchmarkConfig(Options):
    """Time one optimisation step in its parts: forward, backward, Adam."""

    groups: ClassVar[Groups] = {
        "network": ("network", "channels"),
        "step": ("batch_size", "size", "steps", "precision", "device"),
    }

    network: str = _network()
    channels: Tuple[int, ...] = _channels()
    batch_size: int = option(4, at_least=1, help="Crops in a batch.")
    size: int = option(1024, at_least=16, help="Side of the crops in pixels.")
    steps: int = option(
        10, at_least=1, help="Number of steps that are timed, after 3 to warm up; the median is reported."
    )
    precision: str = option("float32", choices=("float32", "bfloat16"), help="Arithmetic of forward and backward.")
    device: str = shared.device()

    def _problems(self) -> Iterator[Problem]:
        yield from shared.channel_problems(self.channels)
