"""What the options of `cryoden halves` make of a movie: references, frames, shifts, weights; and how much memory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Iterator, List, Optional

from cryoden.config import GIB, HalvesConfig
from cryoden.errors import CryodenError, FileError
from cryoden.formats.files import mrc_name
from cryoden.formats.images import EerRendering
from cryoden.formats.stack import BAND_BYTES
from cryoden.formats.star import read_global_shifts
from cryoden.movies.calibration import Calibration, Reference
from cryoden.movies.dose_weighting import Exposure
from cryoden.movies.motion.stored_shifts import Shifts
from cryoden.movies.movie import Bands, Movie
from cryoden.system.memory import free_host_bytes

log = logging.getLogger(__name__)


def open_calibration(config: HalvesConfig) -> Calibration:
    """Open the references that the options name; raises FileError."""

    def reference(kind: str, path: Optional[str]) -> Optional[Reference]:
        turns = int(config.gain_rotation) // 90
        return None if path is None else Reference(kind, path, turns, config.gain_flip, config.flip_tiff)

    return Calibration(reference("Gain", config.gain), reference("Dark", config.dark), config.hot_pixels)


def prepare_movie(path: str, config: HalvesConfig, calibration: Calibration, sampling_rate: Optional[float]) -> Movie:
    """Open a movie as the options say; raises CryodenError."""
    is_8k, electrons = config.eer_sampling == "8K", None
    if config.eer_dose is not None and path.lower().endswith(".eer"):
        if not sampling_rate:
            raise FileError(f"{path}: --eer-dose needs the pixel size; give it with --sampling-rate (A/px).")
        electrons = config.eer_dose * (sampling_rate * (2 if is_8k else 1)) ** 2
    rendering = EerRendering(config.eer_frames, electrons, is_8k)
    return Movie(path, calibration, config.frames, config.expect_frames, rendering, config.flip_tiff)


def preprocessed_halves(
    movie: Movie, config: HalvesConfig, rate: float, voltage: float, n_threads: int
) -> Iterator[Bands]:
    """Yield odd and even sums, shifted and weighted where the options say so; see `Movie.half_bands`.

    Parameters
    ----------
    movie
        Opened by `prepare_movie`.
    config
        Shifts and dose.
    rate
        A/px.
    voltage
        kV.
    n_threads
        For Fourier transforms.
    """
    if config.shifts is None and config.dose_per_frame is None:
        return movie.half_bands()
    from cryoden.movies.motion.aligned_sums import aligned_half_bands  # its Fourier transforms take time to load

    shifts = None
    if config.shifts is not None:
        source = Path(config.shifts) / Path(mrc_name(movie.path)).with_suffix(".star")
        shifts = Shifts(str(source), read_global_shifts(source))
    exposure = Exposure(config.dose_per_frame, config.initial_dose, voltage) if config.dose_per_frame else None
    return aligned_half_bands(movie, shifts, exposure, rate, n_threads)


def require_gain_orientation(config: HalvesConfig, movies: List[str]) -> None:
    """Refuse a gain reference that does not lie as the frames of the first readable movie do; raises FileError."""
    if config.gain is None:
        return
    from cryoden.movies.gain_orientation import require_orientation

    movie = _first_readable(movies, config, Calibration())
    if movie is not None:
        given = (int(config.gain_rotation) // 90, config.gain_flip)
        require_orientation(movie.stack, config.gain, given, config.flip_tiff)


def affordable_jobs(config: HalvesConfig, movies: List[str], calibration: Calibration) -> int:
    """Return how many movies may be worked on side by side, from the size of the first that can be opened."""
    n_jobs = min(config.jobs, len(movies))
    if n_jobs == 1:
        return 1
    movie = _first_readable(movies, config, calibration)
    needed = 0 if movie is None else bytes_needed(movie, config)
    budget = config.memory * GIB if config.memory else free_host_bytes() / 2
    n_affordable = max(1, min(n_jobs, int(budget // needed) if needed else n_jobs))
    if n_affordable < n_jobs:
        log.info(
            "Working on %d movies side by side, not %d: each needs about %.2f GiB of the %.2f GiB (--memory).",
            n_affordable, n_jobs, needed / GIB, budget / GIB,
        )  # fmt: skip
    return n_affordable


def _first_readable(movies: List[str], config: HalvesConfig, calibration: Calibration) -> Optional[Movie]:
    for path in movies:
        try:
            return prepare_movie(path, config, calibration, config.sampling_rate)
        except CryodenError:  # said when its turn comes
            continue
    return None


def bytes_needed(movie: Movie, config: HalvesConfig) -> int:
    """Return about how much memory one movie takes (benchmarks/halves.py compares this with what it took)."""
    n_pixels, item = movie.shape[0] * movie.shape[1], movie.stack.dtype.itemsize
    bands = 44 * BAND_BYTES
    if config.shifts is not None or config.dose_per_frame is not None:
        return bands + n_pixels * (16 if config.dose_per_frame is None else 18) + n_pixels * item
    if movie.stack.band_rows == movie.shape[0]:
        return bands + 6 * n_pixels * item
    return bands
