"""What `cryoden run` can be asked: what its steps can be asked, word for word."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Iterator, Optional, Tuple, Type, TypeVar, Union

from cryoden.config import shared
from cryoden.config.choose import ChooseConfig
from cryoden.config.denoise import DenoiseConfig
from cryoden.config.evaluate import EvaluateConfig
from cryoden.config.halves import HalvesConfig
from cryoden.config.options import Config, Groups, Options, option
from cryoden.config.train import TrainConfig
from cryoden.errors import OptionError, Problem, Remedy, option_problem

C = TypeVar("C", bound=Options)

PIXEL_SIZE, SAMPLING_RATE = "pixel_size", "sampling_rate"

RENAMED = {HalvesConfig: {SAMPLING_RATE: PIXEL_SIZE}, DenoiseConfig: {SAMPLING_RATE: PIXEL_SIZE}}
"""Step -> its options that have another name here. The pixel size of training has its own."""

WATCHING = ("watch", "poll_seconds")
"""What is asked of the whole, although some steps have it too: a round of the whole is one of each step."""


def _of(step: Type[Options], name: str) -> Any:
    """Declare an option of a step, as it is declared there."""
    return step.declared(name)


@dataclasses.dataclass(frozen=True)
class RunConfig(Config):
    """Do all that is missing from movies, halves or micrographs to denoised micrographs and a report."""

    groups: ClassVar[Groups] = {
        "input and output": ("inputs", "output", "model", "choose", "seconds", "from_model", "pixel_size", "overwrite"),
        "running microscope": ("watch", "poll_seconds", "train_after"),
        "movies": (
            "gain", "gain_rotation", "gain_flip", "dark", "hot_pixels", "frames", "expect_frames", "shifts",
            "unaligned", "align_patches",
            "dose_per_frame", "initial_dose", "flip_tiff", "eer_frames", "eer_dose", "eer_sampling", "voltage",
            "spherical_aberration", "amplitude_contrast",
        ),
        "training": (
            "network", "channels", "sampling_rate", "epochs", "minutes", "crop", "batch_size", "lr", "min_batches",
            "max_batches", "stream",
        ),
        "denoising and evaluation": ("quality", "dtype", "full_size", "thumbnails", "folders", "topaz"),
    }  # fmt: skip

    inputs: Tuple[str, ...] = option(
        positional=True,
        help="Movies, micrographs, a folder of them (also one with odd/ and even/), a quoted pattern, or one RELION "
        "STAR file or job folder, or .cs file of CryoSPARC.",
    )
    output: str = option(
        help="Folder for halves/, model/, denoised/ and evaluation/, each as its own command fills it."
    )
    model: Optional[str] = option(
        None,
        help="Denoise with this model instead of training one: a model file, or general, the model that comes with "
        "cryoden, which is taken for micrographs without halves.",
    )
    choose: bool = option(
        False,
        help="Choose the best of linear filters, the general model, and the same fine-tuned for --seconds, instead of "
        "training a model for longer (docs/choosing.md).",
    )
    seconds: float = _of(ChooseConfig, "seconds")
    from_model: str = _of(TrainConfig, "from_model")
    watch: Optional[float] = shared.watch()
    poll_seconds: float = shared.poll_seconds()
    train_after: int = option(
        20,
        at_least=1,
        help="With --watch: training starts when this many micrographs are there, or no more come.",
    )

    pixel_size: Optional[float] = shared.pixel_size(
        None, "Pixel size of the inputs in Å/px, if it is missing or wrong in the files."
    )
    gain: Optional[str] = _of(HalvesConfig, "gain")
    gain_rotation: str = _of(HalvesConfig, "gain_rotation")
    gain_flip: str = _of(HalvesConfig, "gain_flip")
    dark: Optional[str] = _of(HalvesConfig, "dark")
    hot_pixels: Union[float, str] = _of(HalvesConfig, "hot_pixels")
    frames: Optional[str] = _of(HalvesConfig, "frames")
    expect_frames: Optional[int] = _of(HalvesConfig, "expect_frames")
    shifts: Optional[str] = _of(HalvesConfig, "shifts")
    unaligned: bool = option(
        False,
        help="Sum the frames of raw movies as they are. Otherwise those without stored shifts are aligned by what they "
        "show (docs/movies.md).",
    )
    align_patches: int = _of(HalvesConfig, "align_patches")
    dose_per_frame: Optional[float] = _of(HalvesConfig, "dose_per_frame")
    initial_dose: float = _of(HalvesConfig, "initial_dose")
    flip_tiff: bool = _of(HalvesConfig, "flip_tiff")
    eer_frames: Optional[int] = _of(HalvesConfig, "eer_frames")
    eer_dose: Optional[float] = _of(HalvesConfig, "eer_dose")
    eer_sampling: str = _of(HalvesConfig, "eer_sampling")
    voltage: float = _of(HalvesConfig, "voltage")
    spherical_aberration: float = _of(HalvesConfig, "spherical_aberration")
    amplitude_contrast: float = _of(HalvesConfig, "amplitude_contrast")
    jobs: int = _of(HalvesConfig, "jobs")

    network: str = _of(TrainConfig, "network")
    channels: Tuple[int, ...] = _of(TrainConfig, "channels")
    sampling_rate: Union[float, str] = _of(TrainConfig, "sampling_rate")
    epochs: Optional[int] = _of(TrainConfig, "epochs")
    minutes: Optional[float] = _of(TrainConfig, "minutes")
    crop: int = _of(TrainConfig, "crop")
    batch_size: int = _of(TrainConfig, "batch_size")
    lr: Optional[float] = _of(TrainConfig, "lr")
    min_batches: int = _of(TrainConfig, "min_batches")
    max_batches: Optional[int] = _of(TrainConfig, "max_batches")
    stream: bool = _of(TrainConfig, "stream")
    seed: int = _of(TrainConfig, "seed")

    quality: str = _of(DenoiseConfig, "quality")
    dtype: str = _of(DenoiseConfig, "dtype")
    full_size: bool = _of(DenoiseConfig, "full_size")
    thumbnails: str = _of(DenoiseConfig, "thumbnails")
    folders: str = _of(DenoiseConfig, "folders")
    overwrite: bool = _of(DenoiseConfig, "overwrite")
    topaz: str = _of(EvaluateConfig, "topaz")
    precision: str = _of(DenoiseConfig, "precision")
    tile: Optional[int] = _of(DenoiseConfig, "tile")
    memory: Optional[float] = _of(TrainConfig, "memory")
    device: str = shared.device()

    def step(self, command: Type[C], **given: Any) -> C:
        """Return the options of a step.

        Parameters
        ----------
        command
            Their class.
        **given
            What is not asked of the whole: inputs and output of the step.

        Raises
        ------
        OptionError
            If they break a rule.
        """
        renamed = RENAMED.get(command, {})
        names = {field.name: renamed.get(field.name, field.name) for field in dataclasses.fields(command)}
        if command is EvaluateConfig:  # images are compared as the model works
            del names[SAMPLING_RATE]
        for name in WATCHING:
            names.pop(name, None)
        asked = {name: getattr(self, here) for name, here in names.items() if hasattr(self, here)}
        return command(**{**asked, **given})

    def _problems(self) -> Iterator[Problem]:
        if not self.inputs or not all(self.inputs):
            yield option_problem("inputs", "has an empty name; name movies, micrographs, a folder or a STAR file.")
        if self.model is not None and self.from_model not in (shared.AUTO, shared.NOTHING):
            yield option_problem(
                "model", "and a model to start from exclude each other.", Remedy("leave_out", "from_model")
            )
        if self.choose and self.model is not None:
            yield option_problem(
                "choose", "and a model to denoise with exclude each other.", Remedy("leave_out", "model")
            )
        yield from self._problems_of_steps()

    def _problems_of_steps(self) -> Iterator[Problem]:
        """Yield what a step would say of its options, before the first of them begins."""
        known = {(problem.subject, problem.message) for problem in self._option_problems()}
        steps = (
            (HalvesConfig, {"movies": ("-",)}),
            (TrainConfig, {"odd": "-", "even": "-"}),
            (ChooseConfig, {"odd": "-", "even": "-", "model": ()}),
            (DenoiseConfig, {"micrographs": ("-",), "model": "-"}),
            (EvaluateConfig, {"odd": "-", "even": "-", "model": ()}),
        )
        for command, given in steps:
            try:
                self.step(command, output="-", **given)
            except OptionError as error:
                for problem in error.problems:
                    problem = in_words_of_run(command, problem)
                    if (problem.subject, problem.message) not in known:
                        known.add((problem.subject, problem.message))
                        yield problem


def in_words_of_run(command: Type[Options], problem: Problem) -> Problem:
    """Return a step's problem with the options that it names called as here."""
    renamed = RENAMED.get(command, {})
    if problem.kind == OptionError.kind:
        problem = dataclasses.replace(problem, subject=renamed.get(problem.subject, problem.subject))
    remedy = problem.remedy
    if remedy is not None and remedy.option in renamed:
        problem = dataclasses.replace(problem, remedy=dataclasses.replace(remedy, option=renamed[remedy.option]))
    return problem
