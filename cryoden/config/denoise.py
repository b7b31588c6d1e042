"""What `cryoden denoise` can be asked."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Iterator, Optional, Tuple

from cryoden.config import shared
from cryoden.config.options import Config, Groups, option
from cryoden.errors import Problem, Remedy, option_problem


@dataclasses.dataclass(frozen=True)
class DenoiseConfig(Config):
    """Denoise micrographs, with a model of your own or the general one."""

    groups: ClassVar[Groups] = {
        "input": ("micrographs", "model", "odd", "even", "sampling_rate"),
        "output": ("output", "full_size", "scale", "dtype", "thumbnails", "folders", "overwrite"),
        "running microscope": ("watch", "poll_seconds", "end_with_stdin"),
        "network": ("quality", "tile", "precision", "device", "gpus"),
    }

    micrographs: Tuple[str, ...] = option(
        positional=True,
        help="Micrographs (MRC or TIFF), folders of them, or one STAR file of RELION or .cs file of CryoSPARC.",
    )
    model: str = option(
        shared.GENERAL,
        help="Model file (model.safetensors) that `cryoden train` wrote. general: the model that comes with cryoden, "
        "for micrographs without halves.",
    )
    output: str = option(help="Folder for the denoised micrographs and micrographs.star.")
    odd: Optional[str] = option(
        None, help="Folder or STAR file of the odd halves: both halves are then denoised and their mean is written."
    )
    even: Optional[str] = option(None, help="Folder or STAR file of the even halves.")
    sampling_rate: Optional[float] = shared.pixel_size(
        None,
        "Pixel size of the micrographs in Å/px, if it is missing or wrong in their headers.",
    )
    quality: str = shared.quality()
    dtype: str = option(
        "float32",
        choices=("float32", "float16"),
        help="Data type of the MRC files: float16 takes half the disk space, but not every program reads it.",
    )
    scale: str = option(
        "input",
        choices=("input", "standard"),
        help="Grey scale of the result. input: that of the micrograph. standard: a background of 0 and noise with a "
        "standard deviation of 1.",
    )
    full_size: bool = option(
        False,
        help="Fourier-pad the result to the pixel size of the original micrograph if the model works at a coarser one.",
    )
    thumbnails: str = option(
        "none", choices=("none", "png", "jpeg"), help="Also write a small picture of each, into the folder thumbnails."
    )
    folders: str = option(
        "kept",
        choices=("kept", "flat", "relion"),
        help="kept: micrographs from several folders keep these, below the innermost one that all have in common. "
        "flat: all are written to one folder. relion: as in RELION's jobs, so that picks on the results are found for "
        "the micrographs.",
    )
    precision: str = shared.precision()
    tile: Optional[int] = shared.tile()
    watch: Optional[float] = shared.watch()
    poll_seconds: float = shared.poll_seconds()
    end_with_stdin: bool = shared.end_with_stdin()
    overwrite: bool = option(False, help="Replace the results of an earlier run in the output folder.")
    device: str = shared.device()
    gpus: Optional[str] = shared.gpus()

    def _problems(self) -> Iterator[Problem]:
        if not self.micrographs or not all(self.micrographs):
            yield option_problem("micrographs", "has an empty name; name a micrograph, a folder or a STAR file.")
        if (self.odd is None) != (self.even is None):
            given, missing = ("odd", "even") if self.even is None else ("even", "odd")
            yield option_problem(given, "is given without the other half.", Remedy("set", missing))
        yield from shared.gpu_problems(self.device, self.gpus)
        yield from shared.watch_problems(self)
