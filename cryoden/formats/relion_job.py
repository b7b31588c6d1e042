"""A finished motion correction of RELION, as it is on disk: what it says, no arithmetic.

`corrected_micrographs.star` names for each micrograph a STAR file (`rlnMicrographMetadata`) about its movie. Names in
these files are relative to the project's folder, which is found by walking up from the file itself.

Source: what RELION 3.1.3 writes (`relion_run_motioncorr --use_own`); versions 4 and 5 write the same blocks.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import pandas as pd

from cryoden.config.shared import PIXEL_SIZES_A
from cryoden.errors import FileError, Remedy
from cryoden.formats.file_errors import PathLike, reading_errors
from cryoden.formats.images import open_movie_stack
from cryoden.formats.star import METADATA, MOVIE_NAME, SHIFT_LABELS, UNWEIGHTED_NAME, VOLTAGES_KV, ImageTable
from cryoden.formats.star_text import read_blocks, write_blocks

NOT_OBSERVED = -9999.0
"""Shift of a frame that was not used."""

POLYNOMIAL = 1
"""`rlnMotionModelVersion` of the third-order polynomial; 0 is none."""

COEFFICIENTS = (2, 6, 3)
"""Of the polynomial: x and y; terms 1, x, x^2, y, y^2, xy; powers 1, 2, 3 of time."""

_GENERAL, _SHIFTS, _MODEL, _OBSERVED, _HOT = (
    "general", "global_shift", "local_motion_model", "local_shift", "hot_pixels",
)  # fmt: skip
_PLACE = ("rlnCoordinateX", "rlnCoordinateY")
_COEFFICIENT = ("rlnMotionModelCoeffsIdx", "rlnMotionModelCoeff")

_IMAGE_NAME = re.compile(r"\.(mrcs?|tiff?|gain)$", re.IGNORECASE)
_NO_PIXELS = np.empty((2, 0), int)


@dataclass(frozen=True)
class MovieCorrection:
    """What the motion correction of one movie left.

    Attributes
    ----------
    source
        The STAR file.
    movie
        `rlnMicrographMovieName`, as written.
    shape
        Rows and columns of a frame, unbinned.
    n_frames
        Of the movie.
    shifts
        Frame, counted from 1 -> where its content must be moved to, unbinned pixels in x and y. Frames that were not
        used are not in it.
    binning
        Of the sums.
    sampling_rate
        A/px of the movie; None where it is not said.
    dose_per_frame, initial_dose
        e/A^2; None where they are not said.
    voltage
        kV; None where it is not said.
    gain, defects
        Files, as written.
    eer_upsampling, eer_grouping
        Of EER movies: 1 (4K) or 2 (8K), and hardware frames in a frame.
    coefficients
        Of the polynomial, `COEFFICIENTS`, in the pixels in which the job worked; None without a local model.
    observed
        What was measured of patches: frame, place (x, y) and shift (x, y), unbinned pixels, `(n, 5)`.
    hot_pixels
        Rows and columns `(2, n)` of the frames as RELION reads them.
    """

    source: str
    movie: str
    shape: Tuple[int, int]
    n_frames: int
    shifts: Dict[int, Tuple[float, float]]
    binning: float = 1.0
    sampling_rate: Optional[float] = None
    dose_per_frame: Optional[float] = None
    initial_dose: Optional[float] = None
    voltage: Optional[float] = None
    gain: Optional[str] = None
    defects: Optional[str] = None
    eer_upsampling: Optional[int] = None
    eer_grouping: Optional[int] = None
    coefficients: Optional[np.ndarray] = None
    observed: Optional[np.ndarray] = None
    hot_pixels: np.ndarray = field(default_factory=lambda: _NO_PIXELS)

    @property
    def frames(self) -> str:
        """First and last frame that were used, counted from 1, such as `3-40`."""
        return f"{min(self.shifts)}-{max(self.shifts)}"


def read_movie_correction(path: PathLike) -> MovieCorrection:
    """Read the STAR file about one movie.

    Raises
    ------
    FileError
        If it cannot be read, a block or value that is needed is missing, or a value is none that it can be.
    """
    blocks = read_blocks(path)
    general = _general_values(path, blocks)
    n_frames = general.whole("rlnImageSizeZ")
    version = general.optional_whole("rlnMotionModelVersion") or 0
    if version not in (0, POLYNOMIAL):
        raise FileError(
            f"{path} has the unknown motion model {version}; it must be {POLYNOMIAL} (a third-order polynomial) or 0 "
            "(none).",
            subject=str(path),
        )
    return MovieCorrection(
        source=str(path),
        movie=general.text(MOVIE_NAME),
        shape=(general.whole("rlnImageSizeY"), general.whole("rlnImageSizeX")),
        n_frames=n_frames,
        shifts=_read_shifts(path, blocks, n_frames),
        binning=general.number("rlnMicrographBinning", (1.0, 16.0)) or 1.0,
        sampling_rate=general.number("rlnMicrographOriginalPixelSize", PIXEL_SIZES_A),
        dose_per_frame=general.number("rlnMicrographDoseRate", (0.0, 1e3)),
        initial_dose=general.number("rlnMicrographPreExposure", (0.0, 1e4)),
        voltage=general.number("rlnVoltage", VOLTAGES_KV),
        gain=general.values.get("rlnMicrographGainName") or None,
        defects=general.values.get("rlnMicrographDefectFile") or None,
        eer_upsampling=general.optional_whole("rlnEERUpsampling"),
        eer_grouping=general.optional_whole("rlnEERGrouping"),
        coefficients=_read_coefficients(path, blocks) if version == POLYNOMIAL else None,
        observed=_read_observed(path, blocks),
        hot_pixels=_read_hot_pixels(path, blocks),
    )


def write_movie_correction(path: PathLike, correction: MovieCorrection) -> None:
    """Write the STAR file about one movie that `read_movie_correction` and RELION read.

    Parameters
    ----------
    path
        The file.
    correction
        Of its frames some or all. What was measured of patches is not written: `read_movie_correction` would have the
        model fitted to it again.

    Raises
    ------
    FileError
        As `whole_file`.
    """
    general = {
        "rlnImageSizeX": correction.shape[1],
        "rlnImageSizeY": correction.shape[0],
        "rlnImageSizeZ": correction.n_frames,
        MOVIE_NAME: correction.movie,
        "rlnMicrographGainName": correction.gain,
        "rlnMicrographDefectFile": correction.defects,
        "rlnMicrographBinning": correction.binning,
        "rlnMicrographOriginalPixelSize": correction.sampling_rate,
        "rlnMicrographDoseRate": correction.dose_per_frame,
        "rlnMicrographPreExposure": correction.initial_dose,
        "rlnVoltage": correction.voltage,
        "rlnEERUpsampling": correction.eer_upsampling,
        "rlnEERGrouping": correction.eer_grouping,
        "rlnMicrographStartFrame": min(correction.shifts),
        "rlnMotionModelVersion": 0 if correction.coefficients is None else POLYNOMIAL,
    }
    known = {label: [value] for label, value in general.items() if value is not None}
    unused = (NOT_OBSERVED, NOT_OBSERVED)
    shifts = [(frame, *correction.shifts.get(frame, unused)) for frame in range(1, correction.n_frames + 1)]
    blocks = {_GENERAL: pd.DataFrame(known), _SHIFTS: pd.DataFrame(shifts, columns=list(SHIFT_LABELS))}
    if correction.coefficients is not None:
        # Those of z^3 are small numbers times large ones: they need all of their digits.
        values = [f"{value:.9e}" for value in correction.coefficients.ravel()]
        blocks[_MODEL] = pd.DataFrame(dict(zip(_COEFFICIENT, (range(len(values)), values))))
    if correction.hot_pixels.size:
        blocks[_HOT] = pd.DataFrame(correction.hot_pixels[::-1].T.astype(float), columns=list(_PLACE))
    write_blocks(path, blocks)


def read_movie_name(path: PathLike) -> str:
    """Return `rlnMicrographMovieName` of a STAR file about one movie; raises as `read_movie_correction`."""
    return _general_values(path, read_blocks(path, only_first=True)).text(MOVIE_NAME)


def _general_values(path: PathLike, blocks: Mapping[str, pd.DataFrame]) -> _Values:
    if _GENERAL not in blocks or not len(blocks[_GENERAL]):
        raise FileError(
            f"{path} is not what a motion correction of RELION writes about a movie: it has no block data_general. "
            "Correct the motion of this movie again.",
            subject=str(path),
        )
    return _Values(str(path), blocks[_GENERAL].iloc[0].to_dict())


@dataclass(frozen=True)
class FinishedJob:
    """A finished motion correction.

    Attributes
    ----------
    table
        Its micrographs.
    project
        Folder to which the names in its files are relative.
    is_dose_weighted
        Whether its sums are weighted; None where nothing says it.
    """

    table: ImageTable
    project: Path
    is_dose_weighted: Optional[bool]

    @property
    def metadata(self) -> List[str]:
        """The STAR file of each movie, as it is found from here."""
        return [str(self.project / str(name)) for name in self.table.images[METADATA]]

    @property
    def micrographs(self) -> List[str]:
        """The sum of each movie, as it is found from here."""
        return [str(self.project / name) for name in self.table.paths]

    def located(self, name: str, folder: Optional[str] = None) -> Optional[Path]:
        """Return where a file is that the job names; None if it is not there.

        Parameters
        ----------
        name
            As written.
        folder
            Where to look first for files that have been moved: the longest end of the name that is there counts, so
            that movies of one name in several sub-folders are told apart.
        """
        places = [self.project / name]
        if folder is not None:
            parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
            places = [*(Path(folder, *parts[number:]) for number in range(len(parts))), *places]
        return next((place for place in places if place.is_file()), None)


def finished_job(table: Optional[ImageTable]) -> Optional[FinishedJob]:
    """Return the motion correction that a table of micrographs is of; None of any other table.

    Raises
    ------
    FileError
        If none of the files that it names is there, from whatever folder above the table.
    """
    if table is None or METADATA not in table.images:
        return None
    names = [str(name) for name in table.images[METADATA]]
    project = _project_of(table.source, names)
    return FinishedJob(table, project, _is_dose_weighted(table, Path(table.source).parent))


def require_finished(path: PathLike) -> None:
    """Say of a job's table that is not there why: RELION writes it when all movies are done.

    Raises
    ------
    FileError
        If the path is that of a table which a job that has begun did not write.
    """
    folder = Path(path).parent
    if os.path.exists(str(path)) or Path(path).name != CORRECTED or not folder.is_dir():
        return
    ending = next((name for name in _ENDINGS if (folder / name).exists()), None)
    how = f"; it ended with {ending}" if ending else ""
    raise FileError(
        f"{path} does not exist: the motion correction in {folder} did not finish{how}. Continue it in RELION, which "
        "writes this file when all movies are done.",
        subject=str(path),
    )


CORRECTED = "corrected_micrographs.star"
_ENDINGS = ("RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED")


def read_defects(path: PathLike, shape: Tuple[int, int]) -> np.ndarray:
    """Return rows and columns `(2, n)` of the pixels in a list of defects (`x y width height`) or a mask.

    Raises
    ------
    FileError
        If it cannot be read, or has another size than the frames.
    """
    if Path(path).suffix.lower() in (".txt", ".dat"):
        return _listed_defects(path, shape)
    mask = open_movie_stack(path)
    if mask.shape != shape or mask.n_frames != 1:
        raise FileError(
            f"Defect mask {path} is {mask.shape[1]} x {mask.shape[0]} px, but the frames are {shape[1]} x {shape[0]} "
            "px; it must be of their size.",
            subject=str(path),
        )
    return np.array(np.nonzero(mask.read_rows(0, 0, shape[0]) != 0))


def _listed_defects(path: PathLike, shape: Tuple[int, int]) -> np.ndarray:
    with reading_errors(path):
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    is_bad = np.zeros(shape, bool)
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            x, y, width, height = map(int, words)
        except ValueError as error:
            raise FileError(
                f"{path}, line {number}: a defect must be four whole numbers, x y width height.", subject=str(path)
            ) from error
        is_bad[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = True
    return np.array(np.nonzero(is_bad))


# ---------------------------------------------------------------------- where the project is
def _project_of(source: str, names: Sequence[str]) -> Path:
    """Return the nearest folder above a file from which one of the named files is there.

    As it is written first, then with its links resolved; one file is enough, because others may be missing.
    """
    for start in (Path(os.path.abspath(source)), Path(os.path.realpath(source))):
        for folder in start.parents:
            if any((folder / name).is_file() for name in names):
                return folder
    raise FileError(
        f"{source} names {names[0]}, which is in no folder above it. Leave the job's folder in its RELION project.",
        subject=source,
    )


def _is_dose_weighted(table: ImageTable, folder: Path) -> Optional[bool]:
    """Return whether a job weighted by dose: from its table, or from what its window wrote."""
    if UNWEIGHTED_NAME in table.images:
        return True
    options = _job_options(folder)
    if "do_dose_weighting" not in options:
        return None
    return options["do_dose_weighting"].lower() == "yes"


def _job_options(folder: Path) -> Mapping[str, str]:
    """Return the options in a job's `job.star`; none where it has no such file."""
    path = folder / "job.star"
    if not path.is_file():
        return {}
    values = read_blocks(path).get("joboptions_values", pd.DataFrame())
    labels = ("rlnJobOptionVariable", "rlnJobOptionValue")
    if any(label not in values for label in labels):
        return {}
    return dict(zip(values[labels[0]], values[labels[1]]))


# ---------------------------------------------------------------------- blocks
@dataclass(frozen=True)
class _Values:
    """The single values of `data_general`."""

    source: str
    values: Mapping[str, str]

    def text(self, label: str) -> str:
        if not self.values.get(label):
            raise FileError(
                f"{self.source} does not say {label}. Correct the motion of this movie again.", subject=self.source
            )
        return self.values[label]

    def whole(self, label: str) -> int:
        text = self.text(label)
        if not text.isdigit() or int(text) < 1:
            raise FileError(
                f"{self.source} has {label} {text}; it must be a whole number of at least 1. Correct the motion of "
                "this movie again.",
                subject=self.source,
            )
        return int(text)

    def optional_whole(self, label: str) -> Optional[int]:
        return self.whole(label) if self.values.get(label) not in (None, "", "0") else None

    def number(self, label: str, bounds: Tuple[float, float]) -> Optional[float]:
        text = self.values.get(label)
        if not text:
            return None
        value = float(pd.to_numeric(text, errors="coerce"))
        if not bounds[0] <= value <= bounds[1]:
            raise FileError(
                f"{self.source} has {label} {text}; it must be a number from {bounds[0]:g} to {bounds[1]:g}. Mend the "
                "file.",
                subject=self.source,
                remedy=Remedy("set", "sampling_rate") if bounds is PIXEL_SIZES_A else None,
            )
        return value


def _numbers(path: PathLike, table: pd.DataFrame, labels: Sequence[str], block: str) -> np.ndarray:
    """Return columns of a table as numbers `(rows, columns)`."""
    missing = [label for label in labels if label not in table]
    if missing:
        raise FileError(
            f"{path}: the table {block} has no column {missing[0]}. Correct the motion of this movie again.",
            subject=str(path),
        )
    columns = [pd.to_numeric(table[label], errors="coerce").to_numpy(float) for label in labels]
    numbers = np.stack(columns, axis=1)
    if not np.isfinite(numbers).all():
        raise FileError(
            f"{path}: the table {block} has values that are no numbers. Correct the motion of this movie again.",
            subject=str(path),
        )
    return numbers


def _read_shifts(path: PathLike, blocks: Mapping[str, pd.DataFrame], n_frames: int) -> Dict[int, Tuple[float, float]]:
    if _SHIFTS not in blocks:
        raise FileError(
            f"{path} holds no global shifts: it has no table {_SHIFTS}. Correct the motion of this movie again.",
            subject=str(path),
        )
    rows = _numbers(path, blocks[_SHIFTS], SHIFT_LABELS, _SHIFTS)
    if sorted(rows[:, 0]) != list(range(1, n_frames + 1)):
        raise FileError(
            f"{path} has shifts of {len(rows)} frames, but the movie had {n_frames}; there must be one for each. "
            "Correct the motion of this movie again.",
            subject=str(path),
        )
    shifts = {int(frame): (float(x), float(y)) for frame, x, y in rows if NOT_OBSERVED not in (x, y)}
    if not shifts:
        raise FileError(
            f"{path} has no shift of any frame: none was used. Correct the motion of this movie again.",
            subject=str(path),
        )
    gaps = [frame for frame in range(min(shifts), max(shifts) + 1) if frame not in shifts]
    if gaps:
        raise FileError(
            f"{path} has no shift of frame {gaps[0]}, between frames that were used. Correct the motion of this movie "
            "again.",
            subject=str(path),
        )
    return shifts


def _read_coefficients(path: PathLike, blocks: Mapping[str, pd.DataFrame]) -> np.ndarray:
    rows = _numbers(path, blocks.get(_MODEL, pd.DataFrame()), _COEFFICIENT, _MODEL)
    n = int(np.prod(COEFFICIENTS))
    if sorted(rows[:, 0]) != list(range(n)):
        raise FileError(
            f"{path} has a motion model of {len(rows)} coefficients; they must be {n}, counted from 0. Correct the "
            "motion of this movie again.",
            subject=str(path),
        )
    return rows[np.argsort(rows[:, 0]), 1].reshape(COEFFICIENTS)


def _read_observed(path: PathLike, blocks: Mapping[str, pd.DataFrame]) -> Optional[np.ndarray]:
    table = blocks.get(_OBSERVED)
    if table is None or not len(table):
        return None
    return _numbers(path, table, (SHIFT_LABELS[0], *_PLACE, *SHIFT_LABELS[1:]), _OBSERVED)


def _read_hot_pixels(path: PathLike, blocks: Mapping[str, pd.DataFrame]) -> np.ndarray:
    table = blocks.get(_HOT)
    if table is None or not len(table):
        return _NO_PIXELS
    return np.rint(_numbers(path, table, _PLACE, _HOT)).astype(int).T[::-1]


def is_image_name(name: str) -> bool:
    """Return whether a name can be that of a gain reference: RELION has been seen to write an option there."""
    return bool(_IMAGE_NAME.search(name))
