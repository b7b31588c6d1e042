"""What the options of `cryoden halves` make of a movie: references, frames, shifts, weights; and how much memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from cryoden.config import HalvesConfig
from cryoden.config.halves import AS_RELION, MIDDLE, NONE
from cryoden.errors import FileError, Remedy
from cryoden.formats.files import mrc_name
from cryoden.formats.images import EER_ENDING, EerRendering, open_movie_stack
from cryoden.formats.relion_job import MovieCorrection, read_defects, read_movie_correction
from cryoden.formats.stack import BAND_BYTES
from cryoden.formats.star import star_path
from cryoden.movies.calibration import Calibration, Reference
from cryoden.movies.dose_weighting import DoseWeighting, doses_at_end
from cryoden.movies.motion.local_motion import LocalMotionModel
from cryoden.movies.motion.motion import Motion, binned_shape
from cryoden.movies.motion.stored_shifts import Shifts
from cryoden.movies.movie import Bands, Movie
from cryoden.movies.parallel_jobs import affordable
from cryoden.system.progress import Tell, tell_nobody

if TYPE_CHECKING:
    from cryoden.movies.motion.alignment import Alignment
    from cryoden.movies.motion.arrays import Arrays

BYTES_OF_WARPED_PIXEL = 24
"""Two sums, the transforms of a frame and of some together, the weights and their divisor, two frames as stored."""

BYTES_TO_ALIGN = 1 << 30
"""The transforms of all frames, and those of their patches."""


@dataclass(frozen=True)
class PreparedMovie:
    """A movie that is ready to be summed as the options say.

    Attributes
    ----------
    movie
        Opened, with the frames that are used.
    motion
        Where each of them must be moved to; None = they stay where they are.
    """

    movie: Movie
    motion: Optional[Motion] = None

    @property
    def binning(self) -> float:
        """Of the sums."""
        return self.motion.binning if self.motion else 1.0

    @property
    def shape(self) -> Tuple[int, int]:
        """Rows and columns of the sums."""
        return binned_shape(self.movie.shape, self.binning)


def open_calibration(config: HalvesConfig, is_corrected: bool = False, is_gain_divisor: bool = False) -> Calibration:
    """Open the references that the options name; raises FileError.

    Parameters
    ----------
    config
        References, and how they are oriented.
    is_corrected
        Whether the movies are those of a finished motion correction.
    is_gain_divisor
        Whether frames are divided by the gain reference.
    """

    def reference(kind: str, path: Optional[str], is_divisor: bool = False) -> Optional[Reference]:
        if path is None:
            return None
        quarter_turns = int(config.gain_rotation) // 90
        is_flipped = config.is_tiff_flipped(is_corrected)
        return Reference(kind, path, quarter_turns, config.gain_flip, is_flipped, is_divisor)

    gain = reference("Gain", config.gain, is_gain_divisor)
    return Calibration(gain, reference("Dark", config.dark), config.hot_pixels)


def prepare_movie(
    path: str,
    config: HalvesConfig,
    calibration: Calibration,
    sampling_rate: Optional[float] = None,
    correction: Optional[MovieCorrection] = None,
) -> PreparedMovie:
    """Open a movie and what belongs to it.

    Parameters
    ----------
    path
        The movie.
    config
        Frames, shifts and rendering.
    calibration
        Opened references.
    sampling_rate
        A/px, which EER frames of a given dose need.
    correction
        What a finished motion correction found of it, which then is used in place of separate shifts.

    Raises
    ------
    FileError
        If the movie or its shifts cannot be read or do not fit.
    """
    rendering = _rendering(path, config, sampling_rate)
    binning = correction.binning if correction else 1.0
    is_flipped = config.is_tiff_flipped(correction is not None)
    shifts = Shifts.of(correction) if correction else None
    if config.shifts is not None:
        star = Path(config.shifts) / Path(mrc_name(path)).with_suffix(".star")
        shifts = Shifts.read(star)
        if config.local_motion in (MIDDLE, AS_RELION):
            correction = replace(read_movie_correction(star), defects=None)  # a name that is relative to a project

    # The motion correction says which frames it used, unless the user does.
    frames = config.frames or (shifts.used_range if shifts else None)
    defects = _defects(correction) if correction else None
    movie = Movie(path, calibration, frames, config.expect_frames, rendering, is_flipped, defects)
    if shifts is None:
        return PreparedMovie(movie)
    if correction is not None:
        _require_same_movie(movie, correction)
    return PreparedMovie(movie, _motion(movie, config, shifts, correction, binning))


def _motion(
    movie: Movie, config: HalvesConfig, shifts: Shifts, correction: Optional[MovieCorrection], binning: float
) -> Motion:
    """Return how the used frames of a movie must be moved, with the local motion where it is known and wanted."""
    moved = shifts.of_frames(movie.frame_indices, movie.n_frames)
    is_as_relion = config.local_motion == AS_RELION
    if correction is None or correction.coefficients is None or config.local_motion == NONE:
        return Motion(moved, None, binning, is_circular=is_as_relion)

    model = LocalMotionModel.of(correction)
    fields = [model.fields(index + 1, is_as_relion) for index in movie.frame_indices]
    return Motion(moved, fields, binning, is_as_relion, model.is_unbinned and binning != 1)


def _defects(correction: MovieCorrection) -> np.ndarray:
    """Return the pixels that a motion correction replaced: those that it found, and those that it was given."""
    if correction.defects is None:
        return correction.hot_pixels
    return np.concatenate([correction.hot_pixels, read_defects(correction.defects, correction.shape)], axis=1)


def _require_same_movie(movie: Movie, correction: MovieCorrection) -> None:
    """Refuse a movie that is not what was corrected; raises FileError."""
    if (movie.shape, movie.n_frames) == (correction.shape, correction.n_frames):
        return
    (rows, columns), (rows_then, columns_then) = movie.shape, correction.shape
    raise FileError(
        f"Movie {movie.path} has {movie.n_frames} frames of {columns} x {rows} px, but the motion correction "
        f"{correction.source} is of {correction.n_frames} frames of {columns_then} x {rows_then} px. Give the movie "
        "that was corrected, or correct this one.",
        subject=str(movie.path),
    )


def align_prepared(
    prepared: PreparedMovie, config: HalvesConfig, rate: float, arrays: Arrays, tell: Tell = tell_nobody
) -> Tuple[PreparedMovie, Alignment]:
    """Return a movie with the motion that its frames show, and what is known of that.

    Parameters
    ----------
    prepared
        What `prepare_movie` returned, without motion.
    config
        Number of patches.
    rate
        A/px.
    arrays
        What computes.
    tell
        Is called with how much of the movie is read.

    Raises
    ------
    CryodenError
        If the movie cannot be read.
    """
    from cryoden.movies.motion.alignment import align_movie  # its Fourier transforms take time to load

    movie = prepared.movie
    movie.decode_once(arrays.n_workers, arrays.kept_bytes)
    movie.watch(tell, movie.n_passes)
    alignment = align_movie(movie, rate, config.align_patches, arrays)
    return replace(prepared, motion=alignment.motion()), alignment


def facts_for_relion(path: str, config: HalvesConfig) -> Dict[str, Any]:
    """Return what else of a movie's options a file in RELION's form says: fields of `MovieCorrection`.

    RELION applies the gain reference as it is: one that is rotated or mirrored here is not named.
    """
    facts: Dict[str, Any] = {"dose_per_frame": config.dose_per_frame}
    if config.dose_per_frame is not None:
        facts["initial_dose"] = config.initial_dose
    if config.gain is not None and (config.gain_rotation, config.gain_flip) == ("0", "none"):
        facts["gain"] = star_path(config.gain)
    if Path(path).suffix.lower() == EER_ENDING and config.eer_grouping is not None:
        facts.update(eer_upsampling=2 if config.eer_sampling == "8K" else 1, eer_grouping=config.eer_grouping)
    return facts


def preprocessed_halves(
    prepared: PreparedMovie,
    config: HalvesConfig,
    rate: float,
    voltage: float,
    arrays: Optional[Arrays] = None,
    tell: Tell = tell_nobody,
) -> Iterator[Bands]:
    """Yield odd and even sums, shifted and weighted where the options say so; see `Movie.half_bands`.

    Parameters
    ----------
    prepared
        What `prepare_movie` returned.
    config
        Dose.
    rate
        A/px.
    voltage
        kV.
    arrays
        What computes, if frames are moved or weighted; None = NumPy.
    tell
        Is called with how much of the movie is read.

    Raises
    ------
    CryodenError
        As `Movie.half_bands`.
    """
    movie = prepared.movie
    if prepared.motion is None and config.dose_per_frame is None:
        movie.watch(tell)
        return movie.half_bands()

    from cryoden.movies.motion.aligned_sums import aligned_half_bands  # its Fourier transforms take time to load

    weighting = None
    if config.dose_per_frame is not None:
        doses = doses_at_end(movie.frame_indices, config.dose_per_frame, config.initial_dose)
        weighting = DoseWeighting(doses, rate, voltage)
    if arrays is not None and movie.n_passes > 1:
        movie.decode_once(arrays.n_workers, arrays.kept_bytes)
    movie.watch(tell, movie.n_passes)
    movie.find_bad_pixels(arrays.n_workers if arrays is not None else 1)
    motion = prepared.motion or Motion([(0.0, 0.0)] * len(movie.frame_indices))
    frames = partial(movie.frames_by_rows, arrays=arrays)
    return aligned_half_bands(frames, movie.shape, motion, weighting, arrays, movie.stack.is_sequential)


def moves_frames(config: HalvesConfig, is_corrected: bool) -> bool:
    """Return whether frames are moved or weighted, which a GPU can do.

    Parameters
    ----------
    config
        The options.
    is_corrected
        Whether the movies are those of a finished motion correction.
    """
    is_asked = config.align or config.shifts is not None or config.dose_per_frame is not None
    return not config.are_images and (is_asked or is_corrected)


def require_gain_orientation(config: HalvesConfig, movies: List[str], is_corrected: bool = False) -> None:
    """Refuse a gain reference whose orientation is not that of the first readable movie's frames; raises FileError."""
    if config.gain is None:
        return
    from cryoden.movies.gain_orientation import require_orientation, summed_middle

    given = (int(config.gain_rotation) // 90, config.gain_flip)
    for path in movies:
        try:
            is_flipped = config.is_tiff_flipped(is_corrected)
            stack = open_movie_stack(path, _rendering(path, config, config.sampling_rate), is_flipped)
            counts = summed_middle(stack)
        except Exception:  # whatever it is, it is that movie's failure, which is named when its turn comes
            continue
        require_orientation(counts, stack.shape, path, config.gain, given, is_flipped)
        return


def affordable_jobs(
    config: HalvesConfig,
    movies: List[str],
    calibration: Calibration,
    needed: Optional[int] = None,
    kept_bytes: int = 0,
) -> int:
    """Return how many movies may be processed in parallel.

    Parameters
    ----------
    config
        Jobs and memory that are allowed.
    movies
        All of them.
    calibration
        Opened references.
    needed
        Bytes that a movie takes; None = as many as the first that can be opened.
    kept_bytes
        Of the decoded frames of a movie that are kept at most.
    """
    n_jobs = min(config.jobs, len(movies))
    if n_jobs == 1:
        return 1
    if needed is None:
        movie = _first_readable(movies, config, calibration)
        needed = 0 if movie is None else bytes_needed(movie, config, kept_bytes)
    else:
        needed += kept_bytes
    return affordable(config, n_jobs, needed, "movies")


def bytes_of_warped(shape: Tuple[int, int]) -> int:
    """Return about how much memory a movie takes whose frames are warped by local motion and weighted."""
    return 44 * BAND_BYTES + shape[0] * shape[1] * BYTES_OF_WARPED_PIXEL


def bytes_needed(movie: Movie, config: HalvesConfig, kept_bytes: int = 0) -> int:
    """Return about how much memory one movie takes (benchmarks/halves.py compares this with what it took)."""
    n_pixels = movie.shape[0] * movie.shape[1]
    item_bytes = movie.stack.dtype.itemsize
    bands = 44 * BAND_BYTES
    n_frames_bytes = n_pixels * item_bytes * len(movie.frame_indices)
    kept = n_frames_bytes if n_frames_bytes <= kept_bytes else n_pixels * item_bytes
    if config.align:
        return BYTES_TO_ALIGN + bytes_of_warped(movie.shape) + kept
    if config.shifts is not None or config.dose_per_frame is not None:
        return bands + n_pixels * (14 if config.dose_per_frame is None else 18) + kept
    if movie.stack.band_rows == movie.shape[0]:
        return bands + 6 * n_pixels * item_bytes
    return bands


def _rendering(path: str, config: HalvesConfig, sampling_rate: Optional[float]) -> EerRendering:
    """Return how the electron events of an EER movie become frames."""
    is_8k = config.eer_sampling == "8K"
    electrons_per_pixel = None
    if config.eer_dose is not None and Path(path).suffix.lower() == EER_ENDING:
        if not sampling_rate:
            raise FileError(
                f"The dose of the frames of {path} cannot be found without its pixel size.",
                subject=path,
                remedy=Remedy("set", "sampling_rate"),
            )
        # The pixel size is that of the rendered frames; a pixel of the detector is twice as wide as one of 8K.
        electrons_per_pixel = config.eer_dose * (sampling_rate * (2 if is_8k else 1)) ** 2
    return EerRendering(config.eer_frames, electrons_per_pixel, is_8k, config.eer_grouping)


def _first_readable(movies: List[str], config: HalvesConfig, calibration: Calibration) -> Optional[Movie]:
    for path in movies:
        try:
            return prepare_movie(path, config, calibration, config.sampling_rate).movie
        except Exception:  # whatever it is, it is that movie's failure, which is named when its turn comes
            continue
    return None
