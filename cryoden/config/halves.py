"""What `cryoden halves` can be asked."""

from __future__ import annotations

import dataclasses
import re
from typing import ClassVar, Iterator, Optional, Tuple, Union

from cryoden.config import shared
from cryoden.config.options import Config, Groups, option
from cryoden.config.shared import AUTO, OFF
from cryoden.errors import OptionError, Problem, Remedy, option_problem

OF_MOVIES = (
    "gain", "dark", "hot_pixels", "frames", "expect_frames", "align", "shifts", "local_motion", "dose_per_frame",
    "flip_tiff", "row_order", "eer_frames", "eer_dose", "eer_grouping", "movie_folder", "dose_weighting",
)  # fmt: skip
"""Options that say something of frames."""

ON, NONE = "on", "none"
MIDDLE, AS_RELION = "middle", "relion"
FROM_TOP, FROM_BOTTOM = "top", "bottom"


@dataclasses.dataclass(frozen=True)
class HalvesConfig(Config):
    """Split movies into halves: sum their odd and even frames separately."""

    groups: ClassVar[Groups] = {
        "input and output": ("movies", "output", "sampling_rate", "expect_frames"),
        "running microscope": ("watch", "poll_seconds", "end_with_stdin"),
        "reference": ("gain", "gain_rotation", "gain_flip", "dark", "hot_pixels", "flip_tiff", "row_order"),
        "frame": (
            "frames",
            "align",
            "align_patches",
            "shifts",
            "local_motion",
            "dose_per_frame",
            "initial_dose",
            "eer_frames",
            "eer_dose",
            "eer_grouping",
            "eer_sampling",
        ),
        "finished motion correction": ("movie_folder", "dose_weighting"),
        "optics": ("voltage", "spherical_aberration", "amplitude_contrast"),
        "processor and memory": ("device", "gpus", "jobs", "memory"),
    }

    movies: Tuple[str, ...] = option(
        positional=True,
        help="Movies (MRC, also packed by gzip or bzip2, TIFF or EER), or one file that lists them: "
        "corrected_micrographs.star of a finished RELION motion correction, all of whose results are used, another "
        "STAR file, or a .cs file of CryoSPARC.",
    )
    output: str = option(help="Folder for full/, odd/, even/, micrographs.star and log.jsonl.")
    gain: Optional[str] = option(None, help="Gain reference (MRC, TIFF or .gain), by which frames are multiplied.")
    gain_rotation: str = option(
        "0",
        choices=("0", "90", "180", "270"),
        help="Rotate the gain and dark references by this many degrees, counter-clockwise with the first row at the "
        "top.",
    )
    gain_flip: str = option(
        "none", choices=("none", "up-down", "left-right"), help="Flip the references, after the rotation."
    )
    dark: Optional[str] = option(
        None, help="Dark reference (MRC or TIFF), subtracted from frames before the gain is applied."
    )
    hot_pixels: Union[float, str] = option(
        AUTO,
        words=(AUTO, OFF),
        above=0,
        before=OFF,
        help="Replace defective pixels by the mean of their neighbours. auto: those that counted more, or less, in "
        "all frames together than their neighbourhood makes possible, one good pixel in a million; off: none; a "
        "number: those that lie this many deviations above the median of their neighbourhood, such as 8. Pixels whose "
        "gain is 0 are replaced unless it is off.",
    )
    frames: Optional[str] = option(
        None,
        help="Frames to use, FIRST-LAST, counted from 1 and inclusive; default: all. The first frame used goes to the "
        "odd half; if the number of frames is odd, the odd half has one more.",
    )
    expect_frames: Optional[int] = option(
        None, at_least=2, help="Skip movies that do not have this number of frames (interrupted exposures)."
    )
    shifts: Optional[str] = option(
        None,
        help="Folder with the shifts of every movie in NAME.star, as RELION's motion correction writes them. Only "
        "global shifts are applied, not local motion.",
    )
    align: bool = option(
        False,
        help="Align the frames by what they show before they are summed: as a whole, and patch by patch. What is found "
        "is applied only if the halves then agree better; motion/ holds it in RELION's form.",
    )
    align_patches: int = option(
        5,
        at_least=1,
        at_most=20,
        help="Patches along each side for local motion when frames are aligned; below 3: none.",
    )
    local_motion: str = option(
        AUTO,
        choices=(AUTO, MIDDLE, AS_RELION, NONE),
        help="Local motion of RELION's motion correction. middle: as it is in the middle of each frame, which is what "
        "RELION measured; relion: as RELION itself applies it, half a frame earlier and with edges that wrap around, "
        "to reproduce its sums; none: only global shifts. auto: middle for a finished motion correction, none for "
        "separate shifts.",
    )
    movie_folder: Optional[str] = option(
        None,
        help="Folder with the movies (and the gain reference) of a finished motion correction, if they were moved "
        "since. They are found by their names, with as many of their sub-folders as are there.",
    )
    dose_weighting: str = option(
        AUTO,
        choices=(AUTO, ON, OFF),
        help="Whether to weight by the dose that a finished motion correction recorded. auto: if it did so itself.",
    )
    dose_per_frame: Optional[float] = option(
        None,
        above=0,
        help="Dose per frame in e/Å², for dose weighting (Grant & Grigorieff 2015). Default: no dose weighting.",
    )
    initial_dose: float = option(0.0, at_least=0, help="Dose in e/Å² before the first frame, for dose weighting.")
    flip_tiff: bool = option(
        False,
        help="Count the rows of TIFF files from the bottom, as RELION, MotionCor2 and IMOD do. This is needed if the "
        "gain reference is an MRC file from these programs, or the shifts are theirs. The micrographs are then upside "
        "down.",
    )
    row_order: str = option(
        AUTO,
        choices=(AUTO, FROM_TOP, FROM_BOTTOM),
        help="Which row of TIFF files is the first: top, that of the file, or bottom, as RELION and MotionCor count. "
        "auto: bottom where frames are shifted (stored shifts, a finished motion correction, frames aligned here), so "
        "that all of them count alike; else top.",
    )
    eer_frames: Optional[int] = option(
        None, at_least=2, help="Group the hardware frames of EER movies into this many frames."
    )
    eer_dose: Optional[float] = option(
        None,
        above=0,
        help="Instead of a number of frames: dose per frame of EER movies, in counted e/Å²; needs the pixel size.",
    )
    eer_grouping: Optional[int] = option(
        None,
        at_least=1,
        help="Instead of a number of frames: hardware frames in each frame of EER movies, as in RELION; those left "
        "over at the end are not used.",
    )
    eer_sampling: str = option(
        "4K", choices=("4K", "8K"), help="Sampling of EER movies: physical pixels (4K) or super-resolution (8K)."
    )
    sampling_rate: Optional[float] = shared.pixel_size(
        None, "Pixel size in Å/px, if it is missing or wrong in the movies or the STAR file."
    )
    voltage: float = option(
        300.0,
        above=0,
        help="Acceleration voltage in kV, written to micrographs.star; the one in a STAR file of movies takes "
        "precedence.",
    )
    spherical_aberration: float = option(
        2.7, at_least=0, help="Spherical aberration in mm, written to micrographs.star."
    )
    amplitude_contrast: float = option(
        0.1, at_least=0, at_most=1, help="Amplitude contrast (0 to 1), written to micrographs.star."
    )
    thin: bool = option(
        False,
        help="The inputs are not movies but integrated exposures of a counting detector: deal the electrons of each "
        "pixel to both halves at random, if the image proves to hold counts with white Poisson noise (docs/halves.md).",
    )
    difference: Optional[str] = option(
        None,
        help="The inputs are not movies but full images, and this folder has the differences of their halves (odd - "
        "even), matched by name, as in the data set CryoCRAB.",
    )
    full_is: str = option(
        "auto",
        choices=("auto", "sum", "mean"),
        help="With a difference: what the full images are of their halves; auto finds it out from the noise.",
    )
    seed: int = option(1, at_least=0, help="Seed of how electrons are dealt.")
    watch: Optional[float] = shared.watch()
    poll_seconds: float = shared.poll_seconds()
    end_with_stdin: bool = shared.end_with_stdin()
    device: str = shared.device()
    gpus: Optional[str] = shared.gpus()
    jobs: int = option(1, at_least=1, help="Number of movies processed in parallel, as far as the memory allows.")
    memory: Optional[float] = option(
        None,
        above=0,
        help="Memory in GiB for movies processed in parallel (default: half of what is free).",
    )

    def _problems(self) -> Iterator[Problem]:
        if not self.movies or not all(self.movies):
            yield option_problem("movies", "has an empty name; name at least one movie or a STAR file.")
        if self.eer_frames is not None and self.eer_dose is not None:
            yield option_problem(
                "eer_frames", "and a dose per frame exclude each other.", Remedy("leave_out", "eer_dose")
            )
        if self.eer_grouping is not None and (self.eer_frames, self.eer_dose) != (None, None):
            other = "eer_dose" if self.eer_frames is None else "eer_frames"
            yield option_problem(
                "eer_grouping", "says already how hardware frames are grouped.", Remedy("leave_out", other)
            )
        if self.flip_tiff and self.row_order == FROM_TOP:
            yield option_problem(
                "row_order", "is top, but TIFF files are to be flipped.", Remedy("leave_out", "flip_tiff")
            )
        if self.local_motion in (MIDDLE, AS_RELION) and self.shifts is None and not self.is_star:
            yield option_problem("local_motion", "has no meaning without shifts.", Remedy("set", "shifts"))
        if self.align and self.shifts is not None:
            yield option_problem("align", "and stored shifts exclude each other.", Remedy("leave_out", "shifts"))
        if self.align_patches != self.default_of("align_patches") and not self.align:
            yield option_problem("align_patches", "has no meaning alone.", Remedy("set", "align"))
        if self.initial_dose and self.dose_per_frame is None:
            yield option_problem("initial_dose", "has no meaning alone.", Remedy("set", "dose_per_frame"))
        if self.gain is None and self.dark is None and (self.gain_rotation, self.gain_flip) != ("0", "none"):
            turned = "gain_flip" if self.gain_rotation == "0" else "gain_rotation"
            yield option_problem(turned, "has no meaning without a gain or dark reference.", Remedy("set", "gain"))
        yield from self._image_problems()
        yield from shared.gpu_problems(self.device, self.gpus)
        yield from shared.watch_problems(self)
        try:
            parse_frame_range(self.frames)
        except OptionError as error:
            yield from error.problems

    @property
    def are_images(self) -> bool:
        """Whether the inputs are single images, not movies."""
        return self.thin or self.difference is not None

    def _image_problems(self) -> Iterator[Problem]:
        if self.thin and self.difference is not None:
            yield option_problem("thin", "and a difference exclude each other.", Remedy("leave_out", "difference"))
        if self.full_is != "auto" and self.difference is None:
            yield option_problem("full_is", "has no meaning alone.", Remedy("set", "difference"))
        for name in OF_MOVIES if self.are_images else ():
            if getattr(self, name) != self.default_of(name):
                reason = "has no meaning for single images; it belongs to movies."
                yield option_problem(name, reason, Remedy("leave_out", name))

    @property
    def is_star(self) -> bool:
        """Whether one STAR file is given in place of movies."""
        return len(self.movies) == 1 and self.movies[0].endswith(".star")

    def is_tiff_flipped(self, is_corrected: bool = False) -> bool:
        """Return whether the rows of TIFF files count from the bottom.

        Parameters
        ----------
        is_corrected
            Whether the movies are those of a finished motion correction.
        """
        is_by_itself = self.row_order == AUTO and (is_corrected or self.align or self.shifts is not None)
        return self.flip_tiff or self.row_order == FROM_BOTTOM or is_by_itself


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
            [
                option_problem(
                    "frames", f"is {text!r}; it must be FIRST-LAST, counted from 1, two frames or more, such as 1-40."
                )
            ]
        )
    return first, last
