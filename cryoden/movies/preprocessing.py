"""What the options of `cryoden halves` make of a movie: references, frames, shifts, weights; and how much memory."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Optional

from cryoden.config import GIB, HalvesConfig
from cryoden.errors import FileError, Remedy
from cryoden.formats.files import mrc_name
from cryoden.formats.images import EER_ENDING, EerRendering
from cryoden.formats.stack import BAND_BYTES
from cryoden.movies.calibration import Calibration, Reference
from cryoden.movies.dose_weighting import DoseWeighting, doses_at_end
from cryoden.movies.motion.stored_shifts import Shift, Shifts
from cryoden.movies.movie import Bands, Movie
from cryoden.system.memory import free_host_bytes
from cryoden.system.progress import Tell, tell_nobody

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedMovie:
    """A movie that is ready to be summed as the options say.

    Attributes
    ----------
    movie
        Opened, with the frames that are used.
    shifts
        Where each of them must be moved to; None = they stay where they are.
    """

    movie: Movie
    shifts: Optional[List[Shift]] = None


def open_calibration(config: HalvesConfig) -> Calibration:
    """Open the references that the options name; raises FileError."""

    def reference(kind: str, path: Optional[str]) -> Optional[Reference]:
        quarter_turns = int(config.gain_rotation) // 90
        return None if path is None else Reference(kind, path, quarter_turns, config.gain_flip, config.flip_tiff)

    return Calibration(reference("Gain", config.gain), reference("Dark", config.dark), config.hot_pixels)


def prepare_movie(
    path: str, config: HalvesConfig, calibration: Calibration, sampling_rate: Optional[float] = None
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

    Raises
    ------
    FileError
        If the movie or its shifts cannot be read or do not fit.
    """
    rendering = _rendering(path, config, sampling_rate)
    shifts = None
    if config.shifts is not None:
        shifts = Shifts.read(Path(config.shifts) / Path(mrc_name(path)).with_suffix(".star"))

    # The motion correction says which frames it used, unless the user does.
    frames = config.frames or (shifts.used_range if shifts else None)
    movie = Movie(path, calibration, frames, config.expect_frames, rendering, config.flip_tiff)
    return PreparedMovie(movie, shifts.of_frames(movie.frame_indices, movie.n_frames) if shifts else None)


def preprocessed_halves(
    prepared: PreparedMovie,
    config: HalvesConfig,
    rate: float,
    voltage: float,
    n_threads: int,
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
    n_threads
        For Fourier transforms.
    tell
        Is called with how much of the movie is read.

    Raises
    ------
    CryodenError
        As `Movie.half_bands`.
    """
    movie = prepared.movie
    if prepared.shifts is None and config.dose_per_frame is None:
        movie.watch(tell)
        return movie.half_bands()
    from cryoden.movies.motion.aligned_sums import aligned_half_bands  # its Fourier transforms take time to load

    weighting = None
    if config.dose_per_frame is not None:
        doses = doses_at_end(movie.frame_indices, config.dose_per_frame, config.initial_dose)
        weighting = DoseWeighting(doses, rate, voltage)
    movie.watch(tell, n_passes=2 if movie.calibration.replaces_pixels else 1)
    shifts = prepared.shifts or [(0.0, 0.0)] * len(movie.frame_indices)
    return aligned_half_bands(movie.corrected_frames(), movie.shape, shifts, weighting, n_threads)


def require_gain_orientation(config: HalvesConfig, movies: List[str]) -> None:
    """Refuse a gain reference whose orientation is not that of the first readable movie's frames; raises FileError."""
    if config.gain is None:
        return
    from cryoden.movies.gain_orientation import require_orientation, summed_middle

    given = (int(config.gain_rotation) // 90, config.gain_flip)
    for path in movies:
        try:
            stack = prepare_movie(path, config, Calibration(), config.sampling_rate).movie.stack
            counts = summed_middle(stack)
        except Exception:  # whatever it is, it is that movie's failure, which is named when its turn comes
            continue
        require_orientation(counts, stack.shape, path, config.gain, given, config.flip_tiff)
        return


def affordable_jobs(config: HalvesConfig, movies: List[str], calibration: Calibration) -> int:
    """Return how many movies may be processed in parallel, from the size of the first that can be opened."""
    n_jobs = min(config.jobs, len(movies))
    if n_jobs == 1:
        return 1
    movie = _first_readable(movies, config, calibration)
    needed = 0 if movie is None else bytes_needed(movie, config)
    budget = config.memory * GIB if config.memory else free_host_bytes() / 2

    n_affordable = max(1, min(n_jobs, int(budget // needed) if needed else n_jobs))
    if n_affordable < n_jobs:
        log.info(
            "Processing %d movies in parallel, not %d: each needs about %.2f GiB of the %.2f GiB that are allowed.",
            n_affordable, n_jobs, needed / GIB, budget / GIB,
        )  # fmt: skip
    return n_affordable


def bytes_needed(movie: Movie, config: HalvesConfig) -> int:
    """Return about how much memory one movie takes (benchmarks/halves.py compares this with what it took)."""
    n_pixels = movie.shape[0] * movie.shape[1]
    item_bytes = movie.stack.dtype.itemsize
    bands = 44 * BAND_BYTES
    if config.shifts is not None or config.dose_per_frame is not None:
        return bands + n_pixels * (16 if config.dose_per_frame is None else 18) + n_pixels * item_bytes
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
    return EerRendering(config.eer_frames, electrons_per_pixel, is_8k)


def _first_readable(movies: List[str], config: HalvesConfig, calibration: Calibration) -> Optional[Movie]:
    for path in movies:
        try:
            return prepare_movie(path, config, calibration, config.sampling_rate).movie
        except Exception:  # whatever it is, it is that movie's failure, which is named when its turn comes
            continue
    return None
