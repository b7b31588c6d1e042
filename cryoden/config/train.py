"""What `cryoden train` can be asked."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Dict, Iterator, Mapping, Optional, Tuple, Union

from cryoden.config import shared
from cryoden.config.options import Config, Groups, option
from cryoden.errors import Problem, Remedy, option_problem

FREE_OPTIONS = (
    "resume", "device", "gpus", "memory", "stream", "force", "output", "compile", "checkpoint_minutes", "keep",
)  # fmt: skip
"""Options that may change when a training is resumed: they change nothing of its result."""


EPOCHS, FINE_TUNING_EPOCHS = 20, 10
"""Of a training from random weights, and from a model."""

LEARNING_RATE, FINE_TUNING_RATE = 1e-3, 2e-4
"""Highest ones of the same. From a model, 1e-3 gained less on one exposure (benchmarks/fine_tuning.py); 2e-4 and 6e-4
gain the same within 60 steps, and the lower one is kept (benchmarks/fine_tuning_curve.py)."""

WINDOW_BEFORE = 1.0
"""Default in GiB of the streaming window in version 0.1."""


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
        "resunet",
        choices=shared.NETWORKS,
        before="unet",
        help="Residual U-Net (resunet), U-Net (unet, that of 0.1) or CNN3 (cnn3, three layers, 2,625 parameters).",
    )
    channels: Tuple[int, ...] = option(
        (),
        before=shared.UNET_CHANNELS,
        help="Number of channels at each level of a U-Net, from full resolution down. Default: "
        f"{' '.join(map(str, shared.RESUNET_CHANNELS))}; of the plain U-Net "
        f"{' '.join(map(str, shared.UNET_CHANNELS))}.",
    )
    sampling_rate: Union[float, str] = shared.working_rate("to train and denoise")
    epochs: Optional[int] = option(
        None,
        at_least=1,
        before=EPOCHS,
        help="Number of epochs; in each, about as many crops are drawn as a half-overlapping grid has. Default: "
        f"{EPOCHS}, or {FINE_TUNING_EPOCHS} from a model.",
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
    lr: Optional[float] = option(
        None,
        above=0,
        before=LEARNING_RATE,
        help="Peak learning rate, reached after a warm-up and lowered to zero along a cosine. Default: "
        f"{LEARNING_RATE:g}, or {FINE_TUNING_RATE:g} from a model.",
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
    precision: str = shared.precision()
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
    window: float = option(0.5, above=0, before=WINDOW_BEFORE, help="Memory in GiB of the streaming window.")
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
    gpus: Optional[str] = shared.gpus()
    resume: bool = option(False, help="Resume from the last checkpoint in the output folder.")
    from_model: str = option(
        shared.AUTO,
        name="from",
        before=shared.NOTHING,
        help="Start from the weights of this model (fine-tuning); general: the model that comes with cryoden; none: "
        "random weights. auto: general where network, channels, normalisation and pixel size are its own, otherwise "
        "none.",
    )

    @property
    def is_fine_tuning(self) -> bool:
        """Whether it starts from a model; of `auto`, that is not settled yet."""
        return self.from_model not in (shared.AUTO, shared.NOTHING)

    @property
    def network_channels(self) -> Tuple[int, ...]:
        """Channels of the network's levels."""
        return self.channels or shared.default_channels(self.network)

    @property
    def peak_lr(self) -> float:
        """The highest learning rate."""
        return self.lr or (FINE_TUNING_RATE if self.is_fine_tuning else LEARNING_RATE)

    @property
    def n_epochs(self) -> int:
        """Number of epochs, where minutes do not count."""
        return self.epochs or (FINE_TUNING_EPOCHS if self.is_fine_tuning else EPOCHS)

    def begun_with(self, recorded: Mapping[str, Any]) -> TrainConfig:
        """Return the options with which a training goes on: what is left open here is as it was settled then.

        Parameters
        ----------
        recorded
            Option -> value, of the training that was begun. What version 0.1 recorded as nothing was the pixel size
            `full` and the start `none`; its own default network and window go on where none is asked for.
        """
        then = self.completed(recorded)
        changes: Dict[str, Any] = {}
        is_of_0_1 = recorded.get("from_model") is None and then["network"] == "unet"
        is_of_file = self.is_fine_tuning and self.from_model == then["from_model"]
        if (is_of_0_1 or is_of_file) and self.network == self.default_of("network"):
            changes["network"] = then["network"]
        if not self.channels and changes.get("network", self.network) == then["network"]:
            changes["channels"] = tuple(then["channels"])
        if self.window == self.default_of("window") and then["window"] == WINDOW_BEFORE:
            changes["window"] = WINDOW_BEFORE
        if self.sampling_rate == shared.AUTO:
            changes["sampling_rate"] = then["sampling_rate"]
        if self.from_model in (shared.AUTO, shared.GENERAL):
            changes["from_model"] = then["from_model"]
        changes.update({name: then[name] for name in ("lr", "epochs") if getattr(self, name) is None})
        return dataclasses.replace(self, **changes)

    def lasting_options(self) -> Dict[str, Any]:
        """Return the options that make a training what it is, as JSON types; what is left open, as it is meant."""
        meant = {"channels": list(self.network_channels), "lr": self.peak_lr, "epochs": self.n_epochs}
        return {name: value for name, value in {**self.to_dict(), **meant}.items() if name not in FREE_OPTIONS}

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
        if self.channels:
            yield from shared.channel_problems(self.channels)
        if not self.from_model.strip():
            yield option_problem("from_model", "is empty; it must be auto, general, none, or a model file.")
        yield from shared.gpu_problems(self.device, self.gpus)
        if self.force and not self.stream:
            yield option_problem("force", "has no meaning alone.", Remedy("set", "stream"))
