"""What `cryoden train` can be asked."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Dict, Iterator, Mapping, Optional, Tuple, Union

from cryoden.config import shared
from cryoden.config.options import Config, Groups, option
from cryoden.errors import Problem, Remedy, option_problem

FREE_OPTIONS = (
    "resume", "device", "memory", "stream", "force", "output", "compile", "checkpoint_minutes", "keep",
)  # fmt: skip
"""Options that may change when a training is resumed: they change nothing of its result."""


@dataclasses.dataclass(frozen=True)
class TrainConfig(Config):
    """Train a denoiser on odd and even micrographs (Noise2Noise)."""

    groups: ClassVar[Groups] = {
        "input and output": ("odd", "even", "patches", "patch", "output", "sampling_rate", "resume", "from_model"),
        "network": ("network", "channels", "normalization"),
        "schedule": (
            "epochs", "minutes", "crops", "crop", "batch_size", "lr", "ema", "validation", "patience", "min_batches",
            "max_batches", "keep", "checkpoint_minutes",
        ),
        "memory": ("stream", "force", "memory", "window"),
    }  # fmt: skip

    odd: Optional[str] = option(
        None, help="Folder or STAR file of the odd micrographs, or of both halves; needed without --patches."
    )
    even: Optional[str] = option(
        None, help="Folder or STAR file of the even micrographs, or the same as for the odd ones; matched by name."
    )
    patches: Optional[str] = option(
        None, help="Folder of patch files (train_input.bin, train_target.bin...) to train on instead of micrographs."
    )
    patch: Optional[int] = option(None, at_least=1, help="Side in pixels of patches that come without manifest.json.")
    output: str = option(help="Folder for model.safetensors, log.jsonl, curves.png and checkpoint.pt.")
    network: str = option(
        "unet",
        choices=shared.NETWORKS,
        help="U-Net (unet), residual U-Net (resunet) or CNN3 (cnn3, three layers, 2,625 parameters).",
    )
    channels: Tuple[int, ...] = option(
        shared.UNET_CHANNELS, help="Number of channels at each level of the U-Net, from full resolution down."
    )
    sampling_rate: Union[float, str] = shared.working_rate("to train and denoise")
    epochs: int = option(
        20, at_least=1, help="Number of epochs; in each, about as many crops are drawn as a half-overlapping grid has."
    )
    minutes: Optional[float] = option(None, above=0, help="Train for this many minutes instead of a number of epochs.")
    crops: str = option(
        "random",
        choices=("random", "grid"),
        help="Positions of the crops: random, or on the half-overlapping grid of patch files.",
    )
    crop: int = option(
        512, at_least=32, help="Side of the square training crops in pixels (smaller if the micrographs are)."
    )
    batch_size: int = option(8, at_least=1, help="Crops per optimisation step (batch size).")
    lr: float = option(
        1e-3, above=0, help="Peak learning rate, reached after a warm-up and lowered to zero along a cosine."
    )
    ema: float = option(
        0.99,
        at_least=0,
        below=1,
        help="Decay per step of the moving average of the weights (EMA); the averaged weights are validated and saved.",
    )
    validation: float = option(
        0.1,
        above=0,
        below=1,
        help="Fraction of the micrographs held out for validation (at least one); a single micrograph is cut in two.",
    )
    patience: Optional[int] = option(
        None,
        at_least=0,
        help="Stop early when the held-out R2 has not improved for this many epochs; 0: never. Default: as many "
        "epochs as it took to reach the best, at least 10.",
    )
    normalization: str = option(
        "standard",
        choices=("standard", "p95"),
        help="standard: each micrograph is brought to mean 0 and standard deviation 1. p95: divided by the 95th "
        "percentile of its positive values and clipped to [0, 1], as in the specification; only for counts.",
    )
    precision: str = shared.precision("bfloat16 on GPUs that support it, float32 on CPUs")
    compile: str = option(
        "auto",
        choices=("auto", "yes", "no"),
        help="Speed up the network with torch.compile; auto: on a GPU, if the training is long enough to make up for "
        "the time that compiling takes.",
    )
    keep: str = option("best", choices=("best", "all"), help="Keep only the best model, or also that of every epoch.")
    checkpoint_minutes: float = option(5.0, above=0, help="Minutes between checkpoints within long epochs.")
    stream: bool = option(
        False, help="Read micrographs during training instead of keeping all of them, unless they fit into the window."
    )
    force: bool = option(False, help="With --stream: stream even if everything fits into the window.")
    memory: Optional[float] = option(
        None,
        above=0,
        help="Memory in GiB that the micrographs may take if all are kept (default: half of what is free).",
    )
    window: float = option(1.0, above=0, help="Memory in GiB of the streaming window.")
    min_batches: int = option(
        100,
        at_least=1,
        help="Minimum number of batches per epoch: small data sets are used several times between two validations.",
    )
    max_batches: Optional[int] = option(
        None, at_least=1, help="Maximum number of batches per epoch, for a quick trial."
    )
    seed: int = option(1, at_least=0, help="Random seed.")
    device: str = shared.device()
    resume: bool = option(False, help="Resume from the last checkpoint in the output folder.")
    from_model: Optional[str] = option(None, name="from", help="Start from the weights of this model (fine-tuning).")

    def begun_with(self, recorded: Mapping[str, Any]) -> TrainConfig:
        """Return the options with which a training goes on: where the pixel size is `auto`, the one chosen then.

        Parameters
        ----------
        recorded
            Option -> value, of the training that was begun; what version 0.1 recorded as nothing was `full`.
        """
        if self.sampling_rate != shared.AUTO:
            return self
        return dataclasses.replace(self, sampling_rate=self.completed(recorded)["sampling_rate"])

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
