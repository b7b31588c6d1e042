"""Movies in, odd, even and full sums out. No torch: this command starts fast and stays small."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import psutil

from cryoden.config import HalvesConfig
from cryoden.data.calibration import Calibration, Reference
from cryoden.data.exposure import Exposure
from cryoden.data.fixed_pattern import FixedPattern
from cryoden.data.movies import Bands, Movie
from cryoden.data.progress import Progress
from cryoden.errors import CryodenError, FileError
from cryoden.formats.files import make_folder, mrc_name, read_json, whole_file, write_json
from cryoden.formats.images import EerRendering
from cryoden.formats.mrc import MrcStack, MrcWriter
from cryoden.formats.stack import BAND_BYTES
from cryoden.formats.star import ImageTable, new_table, read_global_shifts, read_table, star_path, write_table

log = logging.getLogger(__name__)

KINDS = ("full", "odd", "even")
"""Sub-folders of the output; odd + even = full."""

RECORD_NAME = "halves.json"
"""Says, in the output folder, how its sums were made."""

LOG_NAME = "log.jsonl"
"""One line for each movie: what became of it."""

SANITY_NAME, PATTERN_NAME, PATTERN_PICTURE_NAME = "sanity.json", "fixed_pattern.npz", "fixed_pattern.png"
"""What the halves have in common, the sums from which that follows, and the picture of a fixed pattern."""

RECORDED = (
    "gain", "gain_rotation", "gain_flip", "dark", "hot_pixels", "frames", "shifts", "dose_per_frame", "initial_dose",
    "flip_tiff", "eer_frames", "eer_dose", "eer_sampling", "sampling_rate",
)  # fmt: skip
"""Options that change the sums."""

GIB = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """What a command did: how many inputs there were, why some failed (name -> reason), what is suspicious."""

    n_inputs: int
    failures: Dict[str, str]
    warnings: Tuple[str, ...] = ()

    @property
    def n_done(self) -> int:
        """Inputs that were processed or had been before."""
        return self.n_inputs - len(self.failures)


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
    is_continued = _guard_options(output, record)
    if not is_continued:
        _require_gain_orientation(config, movies)
    pattern = FixedPattern.load(output / PATTERN_NAME)
    rates: Dict[int, float] = {}
    failures: Dict[str, str] = {}

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
            failures[path] = str(error)
            log.error("%s", error)
            progress.report(movie=path, status="failed", reason=str(error))

    n_jobs = _affordable_jobs(config, movies, calibration)
    n_threads = max(1, (os.cpu_count() or 1) // n_jobs)
    with Progress(output / LOG_NAME, len(movies), "movie", "Splitting") as progress, ThreadPoolExecutor(n_jobs) as pool:
        list(pool.map(split, range(len(movies))))
    if not rates:
        reason = next(iter(failures.values()), "the list is empty.")
        raise FileError(f"None of {len(movies)} movies could be split; the first reason: {reason}")
    _write_tables(config, output, table, names, rates)
    pattern.save(output / PATTERN_NAME)
    found = pattern.found()
    warnings = tuple(found.warnings())
    content = {**asdict(found), "share": found.share, "is_fixed_pattern": found.is_fixed_pattern, "warnings": warnings}
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
    movie = open_movie(path, config, calibration, sampling_rate)
    rate = sampling_rate or movie.sampling_rate
    if not rate:
        raise FileError(f"Movie {path} does not say its pixel size; give it with --sampling-rate (A/px).")
    if Path(path).resolve() in [target.resolve() for target in targets]:
        raise FileError(f"Movie {path} would be overwritten by its own sum; choose another --output folder.")
    with ExitStack() as stack:
        temporaries = [stack.enter_context(whole_file(target)) for target in targets]
        with ExitStack() as writers:
            full, odd, even = (writers.enter_context(MrcWriter(t, movie.shape, rate)) for t in temporaries)
            for odd_rows, even_rows in _half_bands(movie, config, rate, voltage, n_threads):
                odd.write_rows(odd_rows)
                even.write_rows(even_rows)
                full.write_rows(odd_rows + even_rows)
    return Split(rate, movie.n_odd, movie.n_even, movie.n_bad_pixels)


def open_calibration(config: HalvesConfig) -> Calibration:
    """Open the references that the options name; raises FileError."""

    def reference(kind: str, path: Optional[str]) -> Optional[Reference]:
        turns = int(config.gain_rotation) // 90
        return None if path is None else Reference(kind, path, turns, config.gain_flip, config.flip_tiff)

    return Calibration(reference("Gain", config.gain), reference("Dark", config.dark), config.hot_pixels)


def open_movie(path: str, config: HalvesConfig, calibration: Calibration, sampling_rate: Optional[float]) -> Movie:
    """Open a movie as the options say; raises CryodenError."""
    is_8k, electrons = config.eer_sampling == "8K", None
    if config.eer_dose is not None and path.lower().endswith(".eer"):
        if not sampling_rate:
            raise FileError(f"{path}: --eer-dose needs the pixel size; give it with --sampling-rate (A/px).")
        electrons = config.eer_dose * (sampling_rate * (2 if is_8k else 1)) ** 2
    rendering = EerRendering(config.eer_frames, electrons, is_8k)
    return Movie(path, calibration, config.frames, config.expect_frames, rendering, config.flip_tiff)


def _half_bands(movie: Movie, config: HalvesConfig, rate: float, voltage: float, n_threads: int) -> Iterator[Bands]:
    if config.shifts is None and config.dose_per_frame is None:
        return movie.half_bands()
    from cryoden.data.alignment import Shifts, aligned_half_bands  # its Fourier transforms take time to load

    shifts = None
    if config.shifts is not None:
        source = Path(config.shifts) / Path(mrc_name(movie.path)).with_suffix(".star")
        shifts = Shifts(str(source), read_global_shifts(source))
    exposure = Exposure(config.dose_per_frame, config.initial_dose, voltage) if config.dose_per_frame else None
    return aligned_half_bands(movie, shifts, exposure, rate, n_threads)


def _require_gain_orientation(config: HalvesConfig, movies: List[str]) -> None:
    """Refuse a gain reference that does not lie as the frames of the first readable movie do; raises FileError."""
    if config.gain is None:
        return
    from cryoden.data.gain_orientation import require_orientation

    for path in movies:
        try:
            stack = open_movie(path, config, Calibration(), config.sampling_rate).stack
        except CryodenError:  # said when its turn comes
            continue
        given = (int(config.gain_rotation) // 90, config.gain_flip)
        return require_orientation(stack, config.gain, given, config.flip_tiff)


def _affordable_jobs(config: HalvesConfig, movies: List[str], calibration: Calibration) -> int:
    """Return how many movies may be worked on side by side, from the size of the first that can be opened."""
    n_jobs = min(config.jobs, len(movies))
    if n_jobs == 1:
        return 1
    needed = 0
    for path in movies:
        try:
            needed = bytes_needed(open_movie(path, config, calibration, config.sampling_rate), config)
            break
        except CryodenError:  # said when its turn comes
            continue
    budget = config.memory * GIB if config.memory else psutil.virtual_memory().available / 2
    n_affordable = max(1, min(n_jobs, int(budget // needed) if needed else n_jobs))
    if n_affordable < n_jobs:
        log.info(
            "Working on %d movies side by side, not %d: each needs about %.2f GiB of the %.2f GiB (--memory).",
            n_affordable, n_jobs, needed / GIB, budget / GIB,
        )  # fmt: skip
    return n_affordable


def bytes_needed(movie: Movie, config: HalvesConfig) -> int:
    """Return about how much memory one movie takes (benchmarks/halves.py compares this with what it took)."""
    n_pixels, item = movie.shape[0] * movie.shape[1], movie.stack.dtype.itemsize
    bands = 44 * BAND_BYTES
    if config.shifts is not None or config.dose_per_frame is not None:
        return bands + n_pixels * (16 if config.dose_per_frame is None else 18) + n_pixels * item
    if movie.stack.band_rows == movie.shape[0]:
        return bands + 6 * n_pixels * item
    return bands


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
