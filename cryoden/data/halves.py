"""Movies in, odd, even and full sums out. No torch: this command starts fast and stays small."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from tqdm import tqdm

from cryoden.config import HalvesConfig
from cryoden.data.movies import Calibration, Movie
from cryoden.errors import CryodenError, FileError
from cryoden.formats.files import make_folder, mrc_name, read_json, whole_file, write_json
from cryoden.formats.mrc import MrcWriter
from cryoden.formats.star import ImageTable, new_table, read_table, star_path, write_table

log = logging.getLogger(__name__)

KINDS = ("full", "odd", "even")
"""Sub-folders of the output; odd + even = full."""


RECORD_NAME = "halves.json"
"""Says, in the output folder, how its sums were made."""


@dataclass(frozen=True)
class Outcome:
    """What a command did: how many inputs there were, and why some failed (name -> reason)."""

    n_inputs: int
    failures: Dict[str, str]

    @property
    def n_done(self) -> int:
        """Inputs that were processed or had been before."""
        return self.n_inputs - len(self.failures)


def split_movies(config: HalvesConfig) -> Outcome:
    """Write odd, even and full sums of every movie and `micrographs.star`; finished movies are skipped.

    Raises
    ------
    CryodenError
        If nothing can be done: no movie can be split, or two movies would be written under one name.
    """
    table, movies = _list_movies(config)
    output = make_folder(config.output)
    names = _output_names(movies)
    for kind in KINDS:
        make_folder(output / kind)
    record = {key: getattr(config, key) for key in ("gain", "dark", "frames", "sampling_rate")}
    is_continued = _guard_options(output, record)
    pixel_sizes: Dict[int, float] = {}
    failures: Dict[str, str] = {}

    def split(row: int) -> None:
        rate = config.sampling_rate or (table.sampling_rate(row) if table else None)
        try:
            pixel_sizes[row] = write_halves(movies[row], names[row], config, output, rate, is_continued)
            write_json(output / RECORD_NAME, record)
        except CryodenError as error:
            failures[movies[row]] = str(error)
            log.error("%s", error)

    with ThreadPoolExecutor(config.jobs) as pool:
        list(tqdm(pool.map(split, range(len(movies))), total=len(movies), unit="movie", desc="Splitting", disable=None))
    if not pixel_sizes:
        reason = next(iter(failures.values()), "the list is empty.")
        raise FileError(f"None of {len(movies)} movies could be split; the first reason: {reason}")
    done = sorted(pixel_sizes)
    rates = [pixel_sizes[row] for row in done]
    for kind in KINDS:
        written = [star_path(output / kind / names[row]) for row in done]
        base = table or new_table(
            [""] * len(movies),
            rates[0],
            config.voltage,
            config.spherical_aberration,
            config.amplitude_contrast,
        )
        star = output / "micrographs.star" if kind == "full" else output / kind / "micrographs.star"
        write_table(star, base.with_images(done, written, rates))
    return Outcome(len(movies), failures)


def write_halves(
    path: str, name: str, config: HalvesConfig, output: Path, sampling_rate: Optional[float], is_continued: bool
) -> float:
    """Write the three sums of one movie as `output/{full,odd,even}/name` and return their sampling rate in A/px.

    Where an earlier run is continued, sums that it finished are kept.

    Raises
    ------
    CryodenError
        If the movie is unusable or nothing says its pixel size; then no file is written.
    """
    movie = Movie(path, Calibration(config.gain, config.dark), config.frames)
    rate = sampling_rate or movie.sampling_rate
    if not rate:
        raise FileError(f"Movie {path} does not say its pixel size; give it with --sampling-rate (A/px).")
    targets = [output / kind / name for kind in KINDS]
    if is_continued and all(target.is_file() for target in targets):
        return rate
    if Path(path).resolve() in [target.resolve() for target in targets]:
        raise FileError(f"Movie {path} would be overwritten by its own sum; choose another --output folder.")
    with ExitStack() as stack:
        temporaries = [stack.enter_context(whole_file(target)) for target in targets]
        with ExitStack() as writers:
            full, odd, even = (writers.enter_context(MrcWriter(t, movie.shape, rate)) for t in temporaries)
            for odd_rows, even_rows in movie.half_bands():
                odd.write_rows(odd_rows)
                even.write_rows(even_rows)
                full.write_rows(odd_rows + even_rows)
    return rate


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
