"""What `cryoden train` can be asked."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Iterator, Optional, Tuple

from cryoden.config import shared
from cryoden.config.options import Config, option
from cryoden.errors import Problem, Remedy, option_problem

FREE_OPTIONS = (
    "resume", "device", "memory", "stream", "force", "output", "compile", "checkpoint_minutes", "keep",
)  # fmt: skip
"""Options that may change when a training is resumed: they change nothing of its result."""


@dataclasses.dataclass(frozen=True)
class TrainConfig(Config):
    """Train a denoiser on odd and even micrographs (Noise2Noise)."""

    odd: Optional[str] = option(None, help="Folder or STAR file of the odd micrographs; needed without --patches.")
    even: Optional[str] = option(
        None, help="Folder or STAR file of the even micrographs; matched with the odd ones by name."
    )
    patches: Optional[str] = option(
        None, help="Folder of patch files (train_input.bin, train_target.bin...) to train on instead of micrographs."
    )
    patch: Optional[int] = option(None, at_least=1, help="Side in pixels of patches that come without manifest.json.")
    output: str = option(help="Folder for model.safetensors, log.jsonl, curves.png and checkpoint.pt.")
    network: str = option("unet", choices=shared.NETWORKS, help="unet (best) or cnn3 (three layers, 2,625 parameters).")
    channels: Tuple[int, ...] = option(
        shared.UNET_CHANNELS, help="Channels of the U-Net's levels, from full resolution downwards."
    )
    sampling_rate: Optional[float] = shared.pixel_size(
        None,
        "Pixel size in A/px at which to train and denoise: the micrographs are Fourier-cropped to it. Picking "
        "needs 3-5 A/px, which is many times faster than full resolution. Default: as the micrographs are.",
    )
    epochs: int = option(
        20, at_least=1, help="Epochs; in each, about as many crops are drawn as a half-overlapping grid has."
    )
    minutes: Optional[float] = option(None, above=0, help="Train for this many minutes instead of a number of epochs.")
    crops: str = option(
        "random", choices=("random", "grid"), help="Crops anywhere, or on the half-overlapping grid of patch files."
    )
    crop: int = option(
        512, at_least=32, help="Side of the square training crops in pixels (smaller where micrographs are)."
    )
    batch_size: int = option(8, at_least=1, help="Crops per optimisation step.")
    lr: float = option(1e-3, above=0, help="Highest learning rate; warmed up to, then lowered to zero along a cosine.")
    ema: float = option(
        0.99,
        at_least=0,
        below=1,
        help="Decay per step of the moving average of the weights, which is what is validated and saved.",
    )
    validation: float = option(
        0.1,
        above=0,
        below=1,
        help="Fraction of the micrographs held out for validation (at least one); one micrograph is cut in two.",
    )
    patience: Optional[int] = option(
        None,
        at_least=0,
        help="Stop early when the held-out R2 has not risen for so many epochs; 0 = never. Default: as many as it took "
        "to reach the best, at least 10.",
    )
    normalization: str = option(
        "standard",
        choices=("standard", "p95"),
        help="standard: by each micrograph's mean and deviation. p95: by the 95th percentile of its positive values, "
        "clipped to [0, 1], as in the specification; only for counts.",
    )
    precision: str = shared.precision("bfloat16 on GPUs that have it, float32 on CPUs")
    compile: str = option(
        "auto",
        choices=("auto", "yes", "no"),
        help="Whether torch.compile makes the network faster; auto does so on a GPU when training is to last long "
        "enough to win back the time that compiling takes.",
    )
    keep: str = option("best", choices=("best", "all"), help="Keep the best model only, or that of every epoch too.")
    checkpoint_minutes: float = option(5.0, above=0, help="Minutes between checkpoints inside long epochs.")
    stream: bool = option(False, help="Read micrographs during training instead of keeping all of them in memory.")
    force: bool = option(False, help="With --stream: stream even where everything fits into the streaming window.")
    memory: Optional[float] = option(
        None,
        above=0,
        help="Memory in GiB that micrographs may take when all are kept (default: half of what is free).",
    )
    window: float = option(1.0, above=0, help="Memory in GiB of the streaming window.")
    min_batches: int = option(
        100,
        at_least=1,
        help="Batches per epoch at least: small sets are passed through several times between two validations.",
    )
    max_batches: Optional[int] = option(None, at_least=1, help="Batches per epoch at most, for a quick try.")
    seed: int = option(1, at_least=0, help="Seed of everything that is random.")
    device: str = shared.device()
    resume: bool = option(False, help="Go on from the last checkpoint in the output folder.")
    from_model: Optional[str] = option(None, name="from", help="Start from the weights of this model (fine-tuning).")

    def lasting_options(self) -> Dict[str, Any]:
        """Return the options that make a training what it is, as JSON types."""
        return {name: value for name, value in self.to_dict().items() if name not in FREE_OPTIONS}

    def _problems(self) -> Iterator[Problem]:
        if self.patches and (self.odd or self.even):
            yield option_problem(
                "patches", "and halves exclude each other.", Remedy("leave_out", "odd" if self.odd else "even")
            )
        if not self.patches and not (self.odd and self.even):
            missing = "even" if self.odd else "odd"
            yield option_problem(missing, "is missing: training needs both halves, or patch files.")
        if self.patch is not None and not self.patches:
            yield option_problem("patch", "has no meaning without patch files.", Remedy("set", "patches"))
        yield from shared.channel_problems(self.channels)
        if self.force and not self.stream:
            yield option_problem("force", "has no meaning alone.", Remedy("set", "stream"))
