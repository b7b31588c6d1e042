"""Movies in, odd, even and full sums out. No torch: this command starts fast and stays small."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from cryoden.config import HalvesConfig
from cryoden.errors import CryodenError, FileError, NothingDoneError, Problem
from cryoden.formats.files import LOG_NAME, make_folder, mrc_name, read_json, whole_file, write_json
from cryoden.formats.mrc import MrcStack, MrcWriter
from cryoden.formats.outcome import Outcome
from cryoden.formats.progress_log import ProgressLog
from cryoden.formats.star import ImageTable, new_table, read_table, star_path, write_table
from cryoden.movies.calibration import Calibration
from cryoden.movies.fixed_pattern import FixedPattern
from cryoden.movies.preprocessing import (
    affordable_jobs,
    open_calibration,
    prepare_movie,
    preprocessed_halves,
    require_gain_orientation,
)

log = logging.getLogger(__name__)

KINDS = ("full", "odd", "even")
"""Sub-folders of the output; odd + even = full."""

RECORD_NAME = "halves.json"
"""Says, in the output folder, how its sums were made."""

SANITY_NAME, PATTERN_NAME, PATTERN_PICTURE_NAME = "sanity.json", "fixed_pattern.npz", "fixed_pattern.png"
"""What the halves have in common, the sums from which that follows, and the picture of a fixed pattern."""

RECORDED = (
    "gain", "gain_rotation", "gain_flip", "dark", "hot_pixels", "frames", "shifts", "dose_per_frame", "initial_dose",
    "flip_tiff", "eer_frames", "eer_dose", "eer_sampling", "sampling_rate",
)  # fmt: skip
"""Options that change the sums."""


@dataclass(frozen=True)
class Split:
    """What is known of one movie's sums.

    Attributes
    ----------
    sampling_rate
        A/px.
    n_odd, n_even
        Frames of each half.
    n_bad_pixels
        Pixels that were replaced.
    """

    sampling_rate: float
    n_odd: int
    n_even: int
    n_bad_pixels: int


def split_movies(config: HalvesConfig) -> Outcome:
    """Write odd, even and full sums of every movie and `micrographs.star`; finished movies are skipped.

    Raises
    ------
    CryodenError
        If nothing can be done: no movie can be split, a reference is unusable, or two movies would be written under
        one name.
    """
    table, movies = _list_movies(config)
    names = _output_names(movies)
    calibration = open_calibration(config)
    calibration.require_usable()
    output = make_folder(config.output)
    for kind in KINDS:
        make_folder(output / kind)
    record = {key: getattr(config, key) for key in RECORDED}
    if config.dose_per_frame is not None:  # without weights it is but written into the STAR file
        record["voltage"] = config.voltage
    is_continued = _guard_options(output, record)
    if not is_continued:
        require_gain_orientation(config, movies)
    pattern = FixedPattern.load(output / PATTERN_NAME)
    rates: Dict[int, float] = {}
    failures: Dict[str, Problem] = {}

    def split(row: int) -> None:
        path, targets = movies[row], [output / kind / names[row] for kind in KINDS]
        rate = config.sampling_rate or (table.sampling_rate(row) if table else None)
        begun = time.monotonic()
        try:
            if is_continued and all(target.is_file() for target in targets):
                rates[row] = rate or MrcStack(targets[0]).sampling_rate or 0.0
                if names[row] not in pattern.names:  # split by a run that was killed
                    pattern.add(names[row], targets[1], targets[2])
                progress.report(movie=path, status="kept")
                return
            voltage = (table.voltage(row) if table else None) or config.voltage
            done = write_halves(path, targets, config, calibration, rate, voltage, n_threads)
            rates[row] = done.sampling_rate
            write_json(output / RECORD_NAME, record)
            pattern.add(names[row], targets[1], targets[2])
            progress.report(movie=path, status="split", seconds=round(time.monotonic() - begun, 3), **asdict(done))
        except CryodenError as error:
            failures[path] = error.problem
            progress.report(movie=path, status="failed", reason=str(error))

    n_jobs = affordable_jobs(config, movies, calibration)
    n_threads = max(1, (os.cpu_count() or 1) // n_jobs)
    progress_log = ProgressLog(output / LOG_NAME, len(movies), "movie", "Splitting")
    with progress_log as progress, ThreadPoolExecutor(n_jobs) as pool:
        list(pool.map(split, range(len(movies))))
    if not rates:
        raise NothingDoneError("movies", "split", len(movies), failures)
    _write_tables(config, output, table, names, rates)
    pattern.save(output / PATTERN_NAME)
    found = pattern.found()
    warnings = tuple(Problem("warning", line) for line in found.warnings())
    content = {
        **asdict(found),
        "share": found.share,
        "is_fixed_pattern": found.is_fixed_pattern,
        "warnings": found.warnings(),
    }
    write_json(output / SANITY_NAME, content)
    return Outcome(len(movies), failures, warnings)


def write_halves(
    path: str,
    targets: List[Path],
    config: HalvesConfig,
    calibration: Calibration,
    sampling_rate: Optional[float],
    voltage: float,
    n_threads: int = 1,
) -> Split:
    """Write the full, odd and even sums of one movie.

    Parameters
    ----------
    path
        The movie.
    targets
        Files to write, in the order of `KINDS`; all of them or none.
    config
        Frames, shifts, weights and rendering.
    calibration
        Opened references.
    sampling_rate
        A/px, None = what the movie says.
    voltage
        kV, for the weights.
    n_threads
        For Fourier transforms.

    Raises
    ------
    CryodenError
        If the movie is unusable or nothing says its pixel size; then no file is written.
    """
    movie = prepare_movie(path, config, calibration, sampling_rate)
    rate = sampling_rate or movie.sampling_rate
    if not rate:
        raise FileError(f"Movie {path} does not say its pixel size; give it with --sampling-rate (A/px).")
    if Path(path).resolve() in [target.resolve() for target in targets]:
        raise FileError(f"Movie {path} would be overwritten by its own sum; choose another --output folder.")
    with ExitStack() as stack:
        temporaries = [stack.enter_context(whole_file(target)) for target in targets]
        with ExitStack() as writers:
            full, odd, even = (writers.enter_context(MrcWriter(t, movie.shape, rate)) for t in temporaries)
            for odd_rows, even_rows in preprocessed_halves(movie, config, rate, voltage, n_threads):
                odd.write_rows(odd_rows)
                even.write_rows(even_rows)
                full.write_rows(odd_rows + even_rows)
    return Split(rate, movie.n_odd, movie.n_even, movie.n_bad_pixels)


def _list_movies(config: HalvesConfig) -> Tuple[Optional[ImageTable], List[str]]:
    if len(config.movies) == 1 and config.movies[0].endswith(".star"):
        table = read_table(config.movies[0])
        return table, table.paths
    return None, list(config.movies)


def _output_names(movies: List[str]) -> List[str]:
    names = [mrc_name(movie) for movie in movies]
    seen: Dict[str, str] = {}
    for movie, name in zip(movies, names):
        if name in seen:
            raise FileError(f"{seen[name]} and {movie} would both be written as {name}; rename one of them.")
        seen[name] = movie
    return names


def _guard_options(output: Path, record: Dict[str, object]) -> bool:
    """Refuse to mix sums made with different calibration in one folder; return whether a run is continued."""
    path = output / RECORD_NAME
    if not path.is_file():
        return False
    if read_json(path) != record:
        raise FileError(f"{output} holds halves made with other options ({path}); choose another --output folder.")
    return True


def _write_tables(
    config: HalvesConfig, output: Path, table: Optional[ImageTable], names: List[str], rates: Dict[int, float]
) -> None:
    """Write a STAR file of every kind of sum."""
    done = sorted(rates)
    if table is None:
        optics = (config.voltage, config.spherical_aberration, config.amplitude_contrast)
        table = new_table([""] * len(names), rates[done[0]], *optics)
    for kind in KINDS:
        written = [star_path(output / kind / names[row]) for row in done]
        star = output / "micrographs.star" if kind == "full" else output / kind / "micrographs.star"
        write_table(star, table.with_images(done, written, [rates[row] for row in done]))
