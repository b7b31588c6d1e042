"""Movies as a microscope takes them, with everything that is hidden in real ones: truth, drift, focus, coordinates."""

from __future__ import annotations

import logging
import math
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional, Sequence, Tuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.errors import FileError, Remedy
from cryoden.formats import outputs, star
from cryoden.formats.files import make_folder, whole_file
from cryoden.formats.mrc import MrcWriter, write_image
from cryoden.formats.output_folder import fills_folder, no_failures, require_own_folder
from cryoden.formats.run_record import Result, RunRecord, deleted_file
from cryoden.simulate.detector import Detector, count_type, make_detector, write_defects
from cryoden.simulate.facts import Facts, facts_path
from cryoden.simulate.imaging import ExpectedFrames, drift, expected_frames, margin, true_image
from cryoden.simulate.local_motion import LocalMotion
from cryoden.simulate.optics import Optics
from cryoden.simulate.shapes import Particle, build_shape, read_map
from cryoden.simulate.specimen import Film, Grid, make_specimen
from cryoden.wording import counted

log = logging.getLogger(__name__)

NOT_RECORDED = ("output", "movies", "threads")
"""Options that do not change what a movie is."""


COMMON_FILES = (
    outputs.GAIN, outputs.DEFECTS, outputs.MOVIES_STAR, outputs.MICROGRAPHS_STAR, outputs.COORDINATES_STAR,
)  # fmt: skip
"""Files of a simulation that belong to all of its movies."""


@dataclass(frozen=True)
class MovieFiles:
    """The files of one simulated movie.

    Attributes
    ----------
    name
        Of the movie.
    movie
        Its frames.
    truth
        What their sum would show without noise, drift and uneven pixels.
    facts
        What is known of it; written last.
    """

    name: str
    movie: Path
    truth: Path
    facts: Path

    @classmethod
    def of(cls, output: Path, name: str) -> MovieFiles:
        """Return the files of a movie in an output folder."""
        truth = output / outputs.TRUTH
        return cls(name, output / outputs.MOVIES / f"{name}.mrcs", truth / f"{name}.mrc", facts_path(output, name))

    @property
    def all(self) -> Tuple[Path, ...]:
        """All of them."""
        return self.movie, self.truth, self.facts

    @property
    def result(self) -> Result:
        """The movie as it is recorded."""
        return Result(self.name, self.all)


@fills_folder("simulate movies", no_failures)
def simulate_movies(config: SimulateMoviesConfig) -> Dict[str, Facts]:
    """Write movies, their truth and their STAR files; movies that an earlier run finished are kept.

    Returns
    -------
    facts
        Name of the movie -> what is known of it.

    Raises
    ------
    CryodenError
        If the map cannot be used or is larger than the frames, or the folder holds another simulation.
    """
    particle = _make_particle(config)
    output = Path(config.output)
    files = [MovieFiles.of(output, f"movie_{number + 1:04d}") for number in range(config.movies)]
    lasting = {key: value for key, value in config.to_dict().items() if key not in NOT_RECORDED}
    record = RunRecord(output / outputs.SIMULATION_RECORD, lasting)
    require_own_folder(output, outputs.SIMULATION_RECORD, COMMON_FILES)
    finished = record.finished([movie.result for movie in files])
    for folder in (outputs.MOVIES, outputs.TRUTH):
        make_folder(output / folder)
    record.begin()

    grid = Grid.around((config.size[0], config.size[1]), config.sampling_rate, margin(config))
    rng = _generator(config.seed, 0)
    detector = make_detector(grid, config.gain_spread, config.dead_pixels, config.hot_pixels, rng)
    with whole_file(output / outputs.GAIN) as temporary:
        write_image(temporary, detector.gain, config.sampling_rate)
    write_defects(output / outputs.DEFECTS, detector)

    facts = {}
    for number, movie in enumerate(files):
        if movie.name not in finished:
            with record.making(movie.result):
                _simulate_movie(config, number, movie, grid, particle, detector).write(movie.facts)
        facts[movie.name] = Facts.read(movie.facts)
        log.info("%s", describe(movie.name, facts[movie.name]))
    gone = deleted_file(path for movie in files for path in movie.all)
    if gone is not None:
        raise gone
    _write_tables(config, files, facts)
    return facts


def describe(name: str, facts: Facts) -> str:
    """Return one line about a simulated movie."""
    return (
        f"{name}: underfocus {facts.defocus / 1e4:.2f} µm, {counted(len(facts.coordinates), 'particle')}, "
        f"{facts.counts_per_pixel:.3f} e/px and frame, drift {math.hypot(*facts.shifts[-1]):.1f} px; "
        f"particles' contrast {100 * facts.contrast:.1f} %, SNR of the sum {facts.snr:.3g} per pixel"
    )


def _simulate_movie(
    config: SimulateMoviesConfig, number: int, files: MovieFiles, grid: Grid, particle: Particle, detector: Detector
) -> Facts:
    """Write one movie and its truth; return what is known of it."""
    rng = _generator(config.seed, 2, number, 0)
    defocus = 1e4 * (config.defocus + config.defocus_spread * rng.uniform(-1, 1))
    shifts = drift(config.frames, config.dose_per_frame, config.drift / config.sampling_rate, rng)
    local_motion = _draw_local_motion(config, number)
    film = Film(config.ice_thickness, config.ice_gradient, config.carbon)
    specimen = make_specimen(grid, particle, config.particles, film, config.voltage, rng)
    optics = Optics(config.voltage, config.spherical_aberration, config.amplitude_contrast, defocus)

    n_electrons = config.frames * config.dose_per_frame * config.sampling_rate**2
    truth, contrast = true_image(config, grid, specimen, optics)
    with whole_file(files.truth) as temporary:
        write_image(temporary, np.float32(n_electrons) * truth, config.sampling_rate)

    expected = expected_frames(config, grid, specimen, optics)
    n_counts = _write_counts(config, number, files, expected, shifts, local_motion, detector)
    return Facts(
        defocus=defocus,
        shifts=shifts.tolist(),
        coordinates=specimen.coordinates.tolist(),
        counts_per_pixel=n_counts / (config.frames * truth.size),
        contrast=contrast,
        snr=n_electrons * contrast**2,
        diameter_px=particle.diameter_A / config.sampling_rate,
        local_motion=local_motion.to_dict() if local_motion else None,
    )


def _draw_local_motion(config: SimulateMoviesConfig, number: int) -> Optional[LocalMotion]:
    """Return the local motion of a movie, drawn by a generator of its own: a movie without any stays what it was."""
    if not config.local_motion:
        return None
    length = config.local_motion / config.sampling_rate
    return LocalMotion.draw(config.frames, config.dose_per_frame, length, _generator(config.seed, 3, number))


def _write_counts(
    config: SimulateMoviesConfig,
    number: int,
    files: MovieFiles,
    expected: ExpectedFrames,
    shifts: np.ndarray,
    local_motion: Optional[LocalMotion],
    detector: Detector,
) -> int:
    """Write the frames of one movie; return the sum of their counts."""
    dose = config.dose_per_frame * config.sampling_rate**2
    kind = count_type(dose)
    grid = expected.grid
    shape = grid.frame_shape

    def frame(index: int) -> np.ndarray:
        shift = (float(shifts[index][0]), float(shifts[index][1]))
        moved = expected.image(index * config.dose_per_frame, shift)
        image = local_motion.warp(moved, grid.first, shape, index, shift) if local_motion else grid.cut(moved)
        return detector.count(image, dose, kind, _generator(config.seed, 2, number, index + 1))

    total = 0
    with ExitStack() as stack:
        temporary = stack.enter_context(whole_file(files.movie))
        writer = stack.enter_context(MrcWriter(temporary, shape, config.sampling_rate, kind.name, config.frames))
        bar = stack.enter_context(tqdm(total=config.frames, unit="frame", desc=files.name, leave=False, disable=None))
        for counts in _in_order(frame, config.frames, config.threads or os.cpu_count() or 1):
            total += int(counts.sum(dtype=np.int64))
            writer.write_rows(counts)
            bar.update()
    return total


def _in_order(make: Callable[[int], np.ndarray], n: int, n_threads: int) -> Iterator[np.ndarray]:
    """Yield make(0), make(1)... computed in parallel; at most one finished result waits for its turn."""
    with ThreadPoolExecutor(n_threads) as pool:
        remaining = iter(range(n))
        running = [pool.submit(make, index) for index in islice(remaining, n_threads + 1)]
        while running:
            yield running.pop(0).result()
            running += [pool.submit(make, index) for index in islice(remaining, 1)]


def _make_particle(config: SimulateMoviesConfig) -> Particle:
    if not config.map:
        rate = max(1.0, config.sampling_rate)  # finer than this a residue has nothing to show
        return Particle(build_shape(config.shape, rate, _generator(config.seed, 1)), rate, config.potential)

    volume, rate = read_map(config.map)
    side = len(volume) * rate
    image = min(config.size) * config.sampling_rate
    if side > image:
        raise FileError(
            f"Map {config.map} is {len(volume)} voxels of {rate:g} Å = {side:g} Å wide, but the frames are only "
            f"{min(config.size)} px of {config.sampling_rate:g} Å = {image:g} Å. Give a smaller map or larger frames.",
            subject=config.map,
            remedy=Remedy("change", "size"),
        )
    return Particle(volume, rate, config.potential)


def _generator(seed: int, *key: int) -> np.random.Generator:
    """Return the generator of one purpose.

    Detector (0), shape (1), movie (2, number, 0), frame (2, number, n), local motion (3, number).
    """
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key)))


def _write_tables(config: SimulateMoviesConfig, files: Sequence[MovieFiles], facts: Dict[str, Facts]) -> None:
    """Write the STAR files of the movies, of their true micrographs, and of the particles."""
    output = Path(config.output)
    truths = {movie.name: star.star_path(movie.truth) for movie in files}
    optics = (config.sampling_rate, config.voltage, config.spherical_aberration, config.amplitude_contrast)
    table = star.new_table(list(truths.values()), *optics)
    for axis in "UV":
        table.images[f"rlnDefocus{axis}"] = [item.defocus for item in facts.values()]
    table.images["rlnDefocusAngle"] = 0.0
    star.write_table(output / outputs.MICROGRAPHS_STAR, table)

    movies = table.images[[star.NAME, star.OPTICS_GROUP]].rename(columns={star.NAME: star.MOVIE_NAME})
    movies[star.MOVIE_NAME] = [star.star_path(movie.movie) for movie in files]
    star.write_table(output / outputs.MOVIES_STAR, star.ImageTable(table.optics, movies, star.MOVIE_NAME))

    rows = [(truths[name], x, y, 1) for name, item in facts.items() for x, y in item.coordinates]
    columns = [star.NAME, "rlnCoordinateX", "rlnCoordinateY", star.OPTICS_GROUP]
    particles = pd.DataFrame(rows, columns=columns)
    star.write_coordinates(output / outputs.COORDINATES_STAR, table.optics, particles)
