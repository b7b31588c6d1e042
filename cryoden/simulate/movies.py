"""Movies as a microscope takes them, with everything that is hidden in real ones: truth, drift, focus, coordinates."""

from __future__ import annotations

import logging
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Callable, Dict, Iterator, List

import numpy as np
import pandas as pd
from tqdm import tqdm

from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.errors import FileError
from cryoden.formats import star
from cryoden.formats.files import make_folder, read_json, whole_file, write_json
from cryoden.formats.mrc import MrcWriter, write_image
from cryoden.simulate.detector import Detector, count_type, make_detector, write_defects
from cryoden.simulate.imaging import drift, expose, margin, true_image
from cryoden.simulate.optics import Optics
from cryoden.simulate.shapes import Particle, build_shape, read_map
from cryoden.simulate.specimen import Film, Grid, make_specimen

log = logging.getLogger(__name__)

RECORD_NAME = "simulation.json"
"""Says, in the output folder, with which options its movies were made."""

GAIN_NAME, DEFECTS_NAME = "gain.mrc", "defects.txt"
MOVIES_STAR, TRUTH_STAR, COORDINATES_STAR = "movies.star", "micrographs.star", "coordinates.star"


@dataclass(frozen=True)
class Facts:
    """What is known of one simulated movie.

    Attributes
    ----------
    defocus
        Underfocus in A.
    shifts
        Rows and columns `(frames, 2)` in pixels by which the specimen lies away from its place in the first frame.
    coordinates
        Columns and rows of the particles in the first frame.
    counts_per_pixel
        Mean counts in a frame.
    contrast
        Deviation of the particles' part of the image, relative to the mean.
    snr
        Variance of the particles' part of the summed image over that of its counting noise, per pixel.
    diameter_px
        Of the smallest circle around a particle's centre that always holds it.
    """

    defocus: float
    shifts: List[List[float]]
    coordinates: List[List[float]]
    counts_per_pixel: float
    contrast: float
    snr: float
    diameter_px: float


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
    output = make_folder(config.output)
    _guard_options(config)
    for folder in ("movies", "truth"):
        make_folder(output / folder)
    grid = Grid.around((config.size[0], config.size[1]), config.sampling_rate, margin(config))
    detector = make_detector(
        grid, config.gain_spread, config.dead_pixels, config.hot_pixels, _generator(config.seed, 0)
    )
    with whole_file(output / GAIN_NAME) as temporary:
        write_image(temporary, detector.gain, config.sampling_rate)
    write_defects(output / DEFECTS_NAME, detector)
    facts = {}
    for number in range(config.movies):
        name = f"movie_{number + 1:04d}"
        record = output / "truth" / f"{name}.json"
        if not (record.is_file() and _movie_path(output, name).is_file()):
            write_json(record, asdict(_simulate_movie(config, number, name, grid, particle, detector)))
        facts[name] = Facts(**read_json(record))
        log.info("%s", describe(name, facts[name]))
    _write_tables(config, facts)
    return facts


def describe(name: str, facts: Facts) -> str:
    """Return one line about a simulated movie."""
    return (
        f"{name}: underfocus {facts.defocus / 1e4:.2f} um, {len(facts.coordinates)} particles, "
        f"{facts.counts_per_pixel:.3f} e/px and frame, drift {math.hypot(*facts.shifts[-1]):.1f} px; "
        f"particles' contrast {100 * facts.contrast:.1f} %, SNR of the sum {facts.snr:.3g} per pixel"
    )


def _simulate_movie(
    config: SimulateMoviesConfig, number: int, name: str, grid: Grid, particle: Particle, detector: Detector
) -> Facts:
    rng = _generator(config.seed, 2, number, 0)
    defocus = 1e4 * (config.defocus + config.defocus_spread * rng.uniform(-1, 1))
    shifts = drift(config.frames, config.dose_per_frame, config.drift / config.sampling_rate, rng)
    film = Film(config.ice_thickness, config.ice_gradient, config.carbon)
    specimen = make_specimen(grid, particle, config.particles, film, config.voltage, rng)
    optics = Optics(config.voltage, config.spherical_aberration, config.amplitude_contrast, defocus)
    dose = config.dose_per_frame * config.sampling_rate**2
    truth, contrast = true_image(config, grid, specimen, optics)
    output = Path(config.output)
    with whole_file(output / "truth" / f"{name}.mrc") as temporary:
        write_image(temporary, np.float32(config.frames * dose) * truth, config.sampling_rate)
    exposure = expose(config, grid, specimen, optics)
    kind = count_type(dose)
    total = 0
    with whole_file(_movie_path(output, name)) as temporary, MrcWriter(
        temporary, grid.frame_shape, config.sampling_rate, kind.name, config.frames
    ) as writer:

        def make(frame: int) -> np.ndarray:
            image = exposure.image(frame * config.dose_per_frame, (shifts[frame][0], shifts[frame][1]))
            return detector.count(image, dose, kind, _generator(config.seed, 2, number, frame + 1))

        bar = tqdm(total=config.frames, unit="frame", desc=name, leave=False, disable=None)
        for counts in _in_order(make, config.frames, config.threads or os.cpu_count() or 1):
            total += int(counts.sum(dtype=np.int64))
            writer.write_rows(counts)
            bar.update()
        bar.close()
    return Facts(
        defocus,
        shifts.tolist(),
        specimen.coordinates.tolist(),
        total / (config.frames * truth.size),
        contrast,
        config.frames * dose * contrast**2,
        particle.diameter_A / config.sampling_rate,
    )


def _in_order(make: Callable[[int], np.ndarray], n: int, n_threads: int) -> Iterator[np.ndarray]:
    """Yield make(0), make(1)... computed side by side, never more than one beyond those in work."""
    with ThreadPoolExecutor(n_threads) as pool:
        coming = iter(range(n))
        running = [pool.submit(make, index) for index in islice(coming, n_threads + 1)]
        while running:
            yield running.pop(0).result()
            running += [pool.submit(make, index) for index in islice(coming, 1)]


def _movie_path(output: Path, name: str) -> Path:
    return output / "movies" / f"{name}.mrcs"


def _make_particle(config: SimulateMoviesConfig) -> Particle:
    if config.map:
        volume, rate = read_map(config.map)
        side, image = len(volume) * rate, min(config.size) * config.sampling_rate
        if side > image:
            raise FileError(
                f"Map {config.map} is {len(volume)} voxels of {rate:g} A = {side:g} A wide, but the frames are only "
                f"{min(config.size)} px of {config.sampling_rate:g} A = {image:g} A. Give a smaller map or a larger "
                "--size."
            )
    else:
        rate = max(1.0, config.sampling_rate)  # finer than this a residue has nothing to show
        volume = build_shape(config.shape, rate, _generator(config.seed, 1))
    return Particle(volume, rate, config.potential)


def _generator(seed: int, *key: int) -> np.random.Generator:
    """Return the generator of one purpose: detector (0), shape (1), movie (2, number, 0) and frame (2, number, n)."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key)))


def _guard_options(config: SimulateMoviesConfig) -> None:
    """Refuse to mix two simulations in one folder; more movies of the same one are welcome."""
    path = Path(config.output) / RECORD_NAME
    record = {key: value for key, value in config.to_dict().items() if key not in ("output", "movies", "threads")}
    if path.is_file() and read_json(path) != record:
        raise FileError(
            f"{config.output} holds movies simulated with other options ({path}); choose another --output folder."
        )
    write_json(path, record)


def _write_tables(config: SimulateMoviesConfig, facts: Dict[str, Facts]) -> None:
    output = Path(config.output)
    truths = {name: star.star_path(output / "truth" / f"{name}.mrc") for name in facts}
    base = star.new_table(
        list(truths.values()),
        config.sampling_rate,
        config.voltage,
        config.spherical_aberration,
        config.amplitude_contrast,
    )
    for axis in "UV":
        base.images[f"rlnDefocus{axis}"] = [item.defocus for item in facts.values()]
    base.images["rlnDefocusAngle"] = 0.0
    star.write_table(output / TRUTH_STAR, base)
    movies = base.images[[star.NAME, star.OPTICS_GROUP]].rename(columns={star.NAME: star.MOVIE_NAME})
    movies[star.MOVIE_NAME] = [star.star_path(_movie_path(output, name)) for name in facts]
    star.write_table(output / MOVIES_STAR, star.ImageTable(base.optics, movies, star.MOVIE_NAME))
    rows = [(truths[name], x, y, 1) for name, item in facts.items() for x, y in item.coordinates]
    columns = [star.NAME, "rlnCoordinateX", "rlnCoordinateY", star.OPTICS_GROUP]
    star.write_coordinates(output / COORDINATES_STAR, base.optics, pd.DataFrame(rows, columns=columns))
