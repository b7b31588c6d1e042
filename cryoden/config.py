"""What each command can be asked: frozen dataclasses with their rules, to and from JSON.

The command line and the forms of the Scipion protocols are both made from these classes, so that an option has one
name, one default, one rule and one help text. Standard library only.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any, Dict, Iterator, Optional, Tuple, Type, TypeVar, get_args, get_origin, get_type_hints

from cryoden.errors import OptionError

NETWORKS = ("unet", "cnn3")
TOPAZ_NETWORKS = ("unet", "unet-small", "affine")
"""Pretrained networks of Topaz-Denoise that its --arch really selects."""

SCORE_BAND_A = (300.0, 8.0)
"""Score band in Angstrom: below, illumination gradients; above, noise and water."""

GIB = 1 << 30
"""Bytes; memory options are in GiB."""

C = TypeVar("C", bound="Options")


def option(default: Any = dataclasses.MISSING, *, help: str, **metadata: Any) -> Any:
    """Declare a field with its help text; `positional`, `choices` and `name` (on the command line) are metadata."""
    return dataclasses.field(default=default, metadata=dict(metadata, help=help))


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of all commands: checks its rules when made, travels as JSON."""

    def __post_init__(self) -> None:
        problems = [*self._choice_problems(), *self._problems()]
        if problems:
            raise OptionError(problems)

    def _choice_problems(self) -> Iterator[str]:
        for field in dataclasses.fields(self):
            choices, value = field.metadata.get("choices"), getattr(self, field.name)
            if choices and value not in choices:
                yield f"Option {_words(field.name)} is {value!r}; it must be one of {', '.join(choices)}."

    def _problems(self) -> Iterator[str]:
        """Yield one sentence for each broken rule."""
        return iter(())

    def to_dict(self) -> Dict[str, Any]:
        """Return the options as JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls: Type[C], values: Dict[str, Any]) -> C:
        """Make a configuration from what `to_dict` returned.

        Raises
        ------
        OptionError
            If an option is unknown, missing, or breaks a rule.
        """
        if not isinstance(values, dict):
            raise OptionError([f"Options are {values!r}; they must be a JSON object as --save-config writes it."])
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise OptionError([f"Unknown option {', '.join(unknown)}; known are {', '.join(fields)}."])
        missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in values]
        if missing:
            raise OptionError([f"Option {', '.join(missing)} is missing and has no default; give it."])
        arguments: Dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        hints = get_type_hints(cls)
        wrong = [
            f"Option {_words(name)} is {value!r}; it must be {_describe(hints[name])}."
            for name, value in arguments.items()
            if not _is_of(value, hints[name])
        ]
        if wrong:
            raise OptionError(wrong)
        return cls(**arguments)

    @classmethod
    def help_of(cls, name: str) -> str:
        """Return the help text of one option."""
        return next(f.metadata["help"] for f in dataclasses.fields(cls) if f.name == name)

    @classmethod
    def choices_of(cls, name: str) -> Tuple[str, ...]:
        """Return the words that an option may have."""
        return next(f.metadata["choices"] for f in dataclasses.fields(cls) if f.name == name)

    @classmethod
    def default_of(cls, name: str) -> Any:
        """Return the default of one option."""
        return next(f.default for f in dataclasses.fields(cls) if f.name == name)


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Base of the commands that must be told a folder to fill."""

    output: str = option(help="Folder for everything that is written.")


_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _is_of(value: Any, hint: Any) -> bool:
    """Return whether a JSON value has the type of a field: text, number, flag, a tuple of one of them, or nothing."""
    inner = get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_of(item, inner[0]) for item in value)
    if inner:
        return any(_is_of(value, kind) for kind in inner)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def _describe(hint: Any) -> str:
    inner = get_args(hint)
    if get_origin(hint) is tuple:
        return f"a list, each {_KINDS[inner[0]]}"
    return " or ".join(_KINDS[kind] for kind in inner or (hint,) if kind in _KINDS)


def _words(name: str) -> str:
    return "--" + name.replace("_", "-")


def _at_least(name: str, value: Optional[float], least: float) -> Iterator[str]:
    if value is not None and not value >= least:
        yield f"Option {_words(name)} is {value}; it must be at least {least}."


def within(name: str, value: Optional[float], least: float, most: float = math.inf) -> Iterator[str]:
    """Yield a sentence if an option lies outside a range, ends included, or is not finite; None is no value."""
    if value is not None and not (least <= value <= most and math.isfinite(value)):
        finite = "" if isinstance(value, int) else " and finite"
        bound = f"at least {least:g}{finite}" if most == math.inf else f"between {least:g} and {most:g}"
        yield f"Option {_words(name)} is {value:g}; it must be {bound}."


def above_zero(name: str, value: Optional[float]) -> Iterator[str]:
    """Yield a sentence if an option is not above 0, or not finite; None is no value."""
    if value is not None and not 0 < value < math.inf:
        yield f"Option {_words(name)} is {value}; it must be above 0 and finite."


def parse_frame_range(text: Optional[str]) -> Tuple[int, Optional[int]]:
    """Return first and last frame (counted from 1, both included) of a text such as `3-40` or `3-`.

    Raises
    ------
    OptionError
        If the text has another form, or the last frame comes before the first.
    """
    if not text:
        return 1, None
    match = re.fullmatch(r"\s*(\d+)\s*-\s*(\d*)\s*", text)
    first, last = (int(match[1]), int(match[2]) if match[2] else None) if match else (0, None)
    if first < 1 or (last is not None and last <= first):
        raise OptionError(
            [f"Frame range is {text!r}; it must be FIRST-LAST, counted from 1, with two frames or more, such as 1-40."]
        )
    return first, last


@dataclasses.dataclass(frozen=True)
class HalvesConfig(Config):
    """Split movies into the sums of their odd and even frames."""

    movies: Tuple[str, ...] = option(
        positional=True,
        help="Movies (MRC, also packed by gzip or bzip2, TIFF or EER), or one RELION STAR file that lists them.",
    )
    output: str = option(help="Folder for full/, odd/, even/, micrographs.star and log.jsonl.")
    gain: Optional[str] = option(None, help="Gain reference (MRC, TIFF or .gain): frames are multiplied by it.")
    gain_rotation: str = option(
        "0",
        choices=("0", "90", "180", "270"),
        help="Turn the references (gain and dark) by so many degrees, counter-clockwise with the first row on top.",
    )
    gain_flip: str = option(
        "none", choices=("none", "up-down", "left-right"), help="Mirror the references, after they were turned."
    )
    dark: Optional[str] = option(None, help="Dark reference (MRC or TIFF): subtracted from frames before the gain.")
    hot_pixels: Optional[float] = option(
        None,
        help="Replace pixels that lie so many deviations above the median of their neighbourhood in the sum of all "
        "frames, such as 8, and pixels where the gain is 0, by the mean of their neighbours. Default: keep all.",
    )
    frames: Optional[str] = option(
        None,
        help="Frames to use, FIRST-LAST, counted from 1 and inclusive; default all. The first used frame goes to the "
        "odd half, so of an odd number of frames the odd half has one more.",
    )
    expect_frames: Optional[int] = option(
        None, help="Leave out movies that do not have this number of frames (interrupted exposures)."
    )
    shifts: Optional[str] = option(
        None,
        help="Folder with the shifts of every movie in NAME.star, as RELION's motion correction writes them. Only "
        "global shifts are applied, not local motion.",
    )
    dose_per_frame: Optional[float] = option(
        None,
        help="Dose of a frame in e/A^2: weight frames by their exposure (Grant & Grigorieff 2015). Default: no "
        "weights.",
    )
    initial_dose: float = option(0.0, help="Dose in e/A^2 before the first frame, for the weights.")
    flip_tiff: bool = option(
        False,
        help="Count the rows of TIFF files from the bottom, as RELION, MotionCor2 and IMOD do: needed where the gain "
        "is an MRC file of these programs, or the shifts are theirs. The micrographs are then mirrored up-down.",
    )
    eer_frames: Optional[int] = option(None, help="Sum the hardware frames of EER movies to so many frames.")
    eer_dose: Optional[float] = option(
        None, help="Instead of --eer-frames: so many counted electrons per A^2 in each frame; needs the pixel size."
    )
    eer_sampling: str = option(
        "4K", choices=("4K", "8K"), help="Grid of EER movies: the detector's pixels, or each of them as 2 x 2."
    )
    sampling_rate: Optional[float] = option(
        None, help="Pixel size in A/px, where the movies or the STAR file do not say it or say it wrongly."
    )
    voltage: float = option(
        300.0, help="Acceleration voltage in kV, written to micrographs.star; a STAR file of movies says its own."
    )
    spherical_aberration: float = option(2.7, help="Spherical aberration in mm, written to micrographs.star.")
    amplitude_contrast: float = option(0.1, help="Amplitude contrast (0 to 1), written to micrographs.star.")
    jobs: int = option(1, help="Movies processed side by side, as far as the memory allows.")
    memory: Optional[float] = option(
        None, help="Memory in GiB that --jobs may use together (default: half of what is free)."
    )

    def _problems(self) -> Iterator[str]:
        if not self.movies or not all(self.movies):
            yield "No movies are given, or one has an empty name; name at least one movie or STAR file."
        if not 0 <= self.amplitude_contrast <= 1:
            yield f"Option --amplitude-contrast is {self.amplitude_contrast}; it must be between 0 and 1."
        for name in ("spherical_aberration", "initial_dose"):
            yield from _at_least(name, getattr(self, name), 0)
        for name in ("sampling_rate", "voltage", "dose_per_frame", "eer_dose", "hot_pixels", "memory"):
            yield from above_zero(name, getattr(self, name))
        for name in ("expect_frames", "eer_frames"):
            yield from _at_least(name, getattr(self, name), 2)
        yield from _at_least("jobs", self.jobs, 1)
        if self.eer_frames is not None and self.eer_dose is not None:
            yield "Both --eer-frames and --eer-dose are given; give one of them."
        if self.initial_dose and self.dose_per_frame is None:
            yield "Option --initial-dose has no meaning alone; give --dose-per-frame too."
        if self.gain is None and self.dark is None and (self.gain_rotation, self.gain_flip) != ("0", "none"):
            yield "Options --gain-rotation and --gain-flip have no meaning without --gain or --dark; give one of them."
        try:
            parse_frame_range(self.frames)
        except OptionError as error:
            yield from error.problems


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
    patch: Optional[int] = option(None, help="Side in pixels of patches that come without manifest.json.")
    output: str = option(help="Folder for model.safetensors, log.jsonl, curves.png and checkpoint.pt.")
    network: str = option("unet", choices=NETWORKS, help="unet (best) or cnn3 (three layers, 2,625 parameters).")
    channels: Tuple[int, ...] = option(
        (32, 64, 128, 256, 256, 256), help="Channels of the U-Net's levels, from full resolution downwards."
    )
    sampling_rate: Optional[float] = option(
        None,
        help="Pixel size in A/px at which to train and denoise: the micrographs are Fourier-cropped to it. Picking "
        "needs 3-5 A/px, which is many times faster than full resolution. Default: as the micrographs are.",
    )
    epochs: int = option(20, help="Epochs; in each, about as many crops are drawn as a half-overlapping grid has.")
    minutes: Optional[float] = option(None, help="Train for this many minutes instead of a number of epochs.")
    crops: str = option(
        "random", choices=("random", "grid"), help="Crops anywhere, or on the half-overlapping grid of patch files."
    )
    crop: int = option(512, help="Side of the square training crops in pixels (smaller where micrographs are).")
    batch_size: int = option(8, help="Crops per optimisation step.")
    lr: float = option(1e-3, help="Highest learning rate; warmed up to, then lowered to zero along a cosine.")
    ema: float = option(
        0.99,
        help="Decay per step of the moving average of the weights, which is what is validated and saved.",
    )
    validation: float = option(
        0.1,
        help="Fraction of the micrographs held out for validation (at least one); one micrograph is cut in two.",
    )
    patience: Optional[int] = option(
        None,
        help="Stop early when the held-out R2 has not risen for so many epochs; 0 = never. Default: as many as it took "
        "to reach the best, at least 10.",
    )
    normalization: str = option(
        "standard",
        choices=("standard", "p95"),
        help="standard: by each micrograph's mean and deviation. p95: by the 95th percentile of its positive values, "
        "clipped to [0, 1], as in the specification; only for counts.",
    )
    precision: str = option(
        "auto", choices=("auto", "bfloat16", "float32"), help="Arithmetic; auto is bfloat16 on GPUs, float32 on CPUs."
    )
    compile: str = option(
        "auto",
        choices=("auto", "yes", "no"),
        help="Whether torch.compile makes the network faster; auto does so on a GPU when training is to last long "
        "enough to win back the time that compiling takes.",
    )
    keep: str = option("best", choices=("best", "all"), help="Keep the best model only, or that of every epoch too.")
    checkpoint_minutes: float = option(5.0, help="Minutes between checkpoints inside long epochs.")
    stream: bool = option(False, help="Read micrographs during training instead of keeping all of them in memory.")
    force: bool = option(False, help="With --stream: stream even where everything fits into the streaming window.")
    memory: Optional[float] = option(
        None,
        help="Memory in GiB that micrographs may take when all are kept (default: half of what is free).",
    )
    window: float = option(1.0, help="Memory in GiB of the streaming window.")
    min_batches: int = option(
        100, help="Batches per epoch at least: small sets are passed through several times between two validations."
    )
    max_batches: Optional[int] = option(None, help="Batches per epoch at most, for a quick try.")
    seed: int = option(1, help="Seed of everything that is random.")
    device: str = option("auto", help="auto, cpu, cuda or cuda:N.")
    resume: bool = option(False, help="Go on from the last checkpoint in the output folder.")
    from_model: Optional[str] = option(None, name="from", help="Start from the weights of this model (fine-tuning).")

    def _problems(self) -> Iterator[str]:
        if self.patches and (self.odd or self.even):
            yield "Both --patches and --odd or --even are given; give patch files or halves."
        if not self.patches and not (self.odd and self.even):
            yield "Nothing to train on: give --odd and --even, or --patches."
        if self.patch is not None and not self.patches:
            yield "Option --patch has no meaning without --patches."
        for name in ("sampling_rate", "minutes", "lr", "memory", "window", "checkpoint_minutes"):
            yield from above_zero(name, getattr(self, name))
        for name in ("epochs", "batch_size", "min_batches", "max_batches"):
            yield from _at_least(name, getattr(self, name), 1)
        for name in ("patience", "seed"):
            yield from _at_least(name, getattr(self, name), 0)
        yield from _at_least("crop", self.crop, 32)
        if not self.channels or min(self.channels) < 1:
            yield f"Option --channels is {self.channels}; it must be one or more positive numbers such as 32 64 128."
        if not 0 < self.validation < 1:
            yield f"Option --validation is {self.validation}; it must be above 0 and below 1, such as 0.1."
        if not 0 <= self.ema < 1:
            yield f"Option --ema is {self.ema}; it must be at least 0 and below 1, such as 0.99."
        if self.force and not self.stream:
            yield "Option --force has no meaning alone; give --stream --force."
        yield from _device_problems(self.device)


@dataclasses.dataclass(frozen=True)
class DenoiseConfig(Config):
    """Denoise micrographs with a trained model."""

    micrographs: Tuple[str, ...] = option(
        positional=True, help="Micrographs (MRC or TIFF), folders of them, or one RELION STAR file."
    )
    model: str = option(help="Model file (model.safetensors) that `cryoden train` wrote.")
    output: str = option(help="Folder for the denoised micrographs and micrographs.star.")
    odd: Optional[str] = option(
        None, help="Folder or STAR file of the odd halves: then the mean of both denoised halves is written."
    )
    even: Optional[str] = option(None, help="Folder or STAR file of the even halves.")
    sampling_rate: Optional[float] = option(
        None,
        help="Pixel size of the micrographs in A/px, where their headers do not say it or say it wrongly.",
    )
    quality: str = option(
        "fast",
        choices=("fast", "best"),
        help="best averages the 8 rotated and mirrored views (8 times slower).",
    )
    dtype: str = option(
        "float32",
        choices=("float32", "float16"),
        help="Pixel type of the MRC files: float16 halves the disk space, but not every program reads it.",
    )
    scale: str = option(
        "input",
        choices=("input", "standard"),
        help="Grey scale of the result: that of the micrograph, or standard (background 0, its noise's deviation 1).",
    )
    full_size: bool = option(
        False, help="Fourier-pad the result back to the pixel size of the micrograph, where the model's is coarser."
    )
    thumbnails: str = option(
        "none", choices=("none", "png", "jpeg"), help="Also write a small picture of each, into a folder beside it."
    )
    folders: str = option(
        "kept",
        choices=("kept", "flat"),
        help="Whether micrographs from several folders keep them, below the first that all have in common.",
    )
    precision: str = option(
        "auto", choices=("auto", "bfloat16", "float32"), help="Arithmetic; auto is bfloat16 on GPUs, float32 on CPUs."
    )
    tile: Optional[int] = option(None, help="Side of the tiles in pixels; default: as large as the memory allows.")
    overwrite: bool = option(False, help="Denoise again what an earlier run left in the output folder.")
    device: str = option("auto", help="auto, cpu, cuda or cuda:N.")

    def _problems(self) -> Iterator[str]:
        if not self.micrographs or not all(self.micrographs):
            yield "No micrographs are given, or one has an empty name; name a micrograph, folder or STAR file."
        if (self.odd is None) != (self.even is None):
            yield "Only one of --odd and --even is given; give both halves or none."
        yield from above_zero("sampling_rate", self.sampling_rate)
        yield from _at_least("tile", self.tile, 64)
        yield from _device_problems(self.device)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(Config):
    """Measure how good denoisers are, without ground truth, beside the baselines that anything must beat."""

    odd: str = option(help="Folder or STAR file of the odd micrographs.")
    even: str = option(help="Folder or STAR file of the even micrographs; matched with the odd ones by name.")
    output: str = option(help="Folder for report.html, metrics.json, metrics.csv, metrics.star and the pictures.")
    model: Tuple[str, ...] = option((), help="Model files to compare; the first is the one the report is about.")
    truth: Optional[str] = option(
        None, help="Folder or STAR file of the clean images, where they are known (simulations); matched by name."
    )
    band: Tuple[float, float] = option(
        SCORE_BAND_A, help="Longest and shortest period in A that count: below lie illumination gradients, above noise."
    )
    sampling_rate: Optional[float] = option(
        None, help="Pixel size in A/px at which images are compared. Default: the coarsest that a model works at."
    )
    scored: str = option(
        "held-out",
        choices=("held-out", "all"),
        help="held-out leaves micrographs that a model was trained on out of the overall numbers, if others are there.",
    )
    topaz: str = option(
        "auto",
        help="Topaz-Denoise as a baseline. auto: if topaz-em is installed here; no: never; else the command that "
        "starts Topaz, such as /opt/topaz/bin/topaz. It needs minutes per micrograph on a CPU.",
    )
    topaz_network: str = option("unet", choices=TOPAZ_NETWORKS, help="Pretrained network of Topaz-Denoise.")
    quality: str = option(
        "fast", choices=("fast", "best"), help="best averages the 8 rotated and mirrored views (8 times slower)."
    )
    precision: str = option(
        "auto", choices=("auto", "bfloat16", "float32"), help="Arithmetic; auto is bfloat16 on GPUs, float32 on CPUs."
    )
    tile: Optional[int] = option(None, help="Side of the tiles in pixels; default: as large as the memory allows.")
    bootstrap: int = option(1000, help="Resamplings of the micrographs from which errors are estimated.")
    seed: int = option(1, help="Seed of the resampling.")
    overwrite: bool = option(False, help="Measure again what an earlier run left in the output folder.")
    device: str = option("auto", help="auto, cpu, cuda or cuda:N.")

    def _problems(self) -> Iterator[str]:
        if len(self.band) != 2 or not 0 < self.band[1] < self.band[0] < math.inf:
            given = " ".join(f"{period:g}" for period in self.band)
            yield f"Option --band is {given}; it must be two periods in A, the longer first, such as 300 8."
        if len(set(self.model)) < len(self.model):
            yield f"A model is named twice in --model {' '.join(self.model)}; name each once."
        if not self.topaz.strip():
            yield "Option --topaz is empty; it must be auto, no, or the command that starts Topaz."
        yield from above_zero("sampling_rate", self.sampling_rate)
        yield from _at_least("tile", self.tile, 64)
        yield from _at_least("bootstrap", self.bootstrap, 10)
        yield from _at_least("seed", self.seed, 0)
        yield from _device_problems(self.device)


@dataclasses.dataclass(frozen=True)
class ShowConfig(Config):
    """Look at the data: crops of both halves, their sum, difference and histograms, before training."""

    odd: str = option(help="Folder or STAR file of the odd micrographs.")
    even: str = option(help="Folder or STAR file of the even micrographs; matched with the odd ones by name.")
    output: str = option(help="Folder for the contact sheets, PNG.")
    micrographs: int = option(8, help="Micrographs shown, evenly spread over the set.")
    crops: int = option(1, help="Crops of each micrograph, at random places.")
    crop: int = option(256, help="Side of the crops in pixels (smaller where micrographs are).")
    sampling_rate: Optional[float] = option(
        None, help="Pixel size in A/px at which to look: the one at which you will train. Default: as they are."
    )
    seed: int = option(1, help="Seed of the places.")

    def _problems(self) -> Iterator[str]:
        for name in ("micrographs", "crops"):
            yield from _at_least(name, getattr(self, name), 1)
        yield from _at_least("crop", self.crop, 16)
        yield from _at_least("seed", self.seed, 0)
        yield from above_zero("sampling_rate", self.sampling_rate)


def _device_problems(device: str) -> Iterator[str]:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        yield f"Option --device is {device!r}; it must be auto, cpu, cuda or cuda:N."
