"""Movies as a microscope takes them, with everything that is hidden in real ones: truth, drift, focus, coordinates."""

from __future__ import annotations

import logging
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import pandas as pd
import scipy.fft
from tqdm import tqdm

from cryoden.data.exposure import critical_exposure
from cryoden.errors import FileError
from cryoden.formats import star
from cryoden.formats.files import make_folder, read_json, whole_file, write_json
from cryoden.formats.mrc import MrcWriter, write_image
from cryoden.simulate.config import SimulateMoviesConfig
from cryoden.simulate.detector import Detector, count_type, make_detector, write_defects
from cryoden.simulate.optics import Optics, fading, wavelength
from cryoden.simulate.shapes import Particle, build_shape, read_map
from cryoden.simulate.specimen import Film, Grid, Specimen, make_specimen

log = logging.getLogger(__name__)

RECORD_NAME = "simulation.json"
"""Says, in the output folder, with which options its movies were made."""

MARGIN_RESOLUTION = 4.0
"""Detail in A that the contrast transfer may delocalise without reaching beyond the margin."""

DRIFT_EXPOSURE = 8.0
"""Exposure in e/A^2 in which the drift slows down to 1/e of its first speed."""

DRIFT_JITTER = 0.03
"""Random part of the way between two frames, relative to the whole way."""

SPECTRUM_ROWS = 16
"""Rows of a spectrum that are worked on at once: few enough to stay in the processor's cache."""

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
    grid = Grid.around((config.size[0], config.size[1]), config.sampling_rate, _margin(config))
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


def _movie_path(output: Path, name: str) -> Path:
    return output / "movies" / f"{name}.mrcs"


def describe(name: str, facts: Facts) -> str:
    """Return one line about a simulated movie."""
    return (
        f"{name}: underfocus {facts.defocus / 1e4:.2f} um, {len(facts.coordinates)} particles, "
        f"{facts.counts_per_pixel:.3f} e/px and frame, drift {math.hypot(*facts.shifts[-1]):.1f} px; "
        f"particles' contrast {100 * facts.contrast:.1f} %, SNR of the sum {facts.snr:.3g} per pixel"
    )


@dataclass(frozen=True)
class Exposure:
    """The expected images of one exposure, as transforms from which each frame's is made.

    Parameters
    ----------
    contrast
        Transform of what the specimen's phase adds to the image, undamaged and unmoved, complex64.
    plain
        Transform of the image without phase contrast.
    decay
        Fading of each frequency per e/A^2, float32.
    """

    grid: Grid
    contrast: np.ndarray
    plain: np.ndarray
    decay: np.ndarray

    def image(self, before: float, shift: Tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        """Return the relative intensity of the frames `(y, x)` after an exposure of `before` e/A^2, shifted in px."""
        spectrum = np.empty_like(self.contrast)
        turns = [
            np.exp(np.complex64(-2j * np.pi * pixels * self.grid.rate) * frequency)
            for frequency, pixels in zip(self.grid.frequencies(), shift)
        ]
        for first in range(0, len(spectrum), SPECTRUM_ROWS):
            rows = slice(first, first + SPECTRUM_ROWS)
            np.multiply(self.contrast[rows], np.exp(np.float32(-before) * self.decay[rows]), out=spectrum[rows])
            spectrum[rows] += self.plain[rows]
            spectrum[rows] *= turns[0][rows]
            spectrum[rows] *= turns[1]
        return self.grid.cut(scipy.fft.irfft2(spectrum, self.grid.shape, overwrite_x=True))


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
    truth, contrast = _truth(config, grid, specimen, optics)
    output = Path(config.output)
    with whole_file(output / "truth" / f"{name}.mrc") as temporary:
        write_image(temporary, np.float32(config.frames * dose) * truth, config.sampling_rate)
    exposure = _expose(config, grid, specimen, optics)
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


def _in_order(make: Any, n: int, n_threads: int) -> Iterator[np.ndarray]:
    """Yield make(0), make(1)... computed side by side, never more than one beyond those in work."""
    with ThreadPoolExecutor(n_threads) as pool:
        coming = iter(range(n))
        running = [pool.submit(make, index) for index in islice(coming, n_threads + 1)]
        while running:
            yield running.pop(0).result()
            running += [pool.submit(make, index) for index in islice(coming, 1)]


def drift(n_frames: int, dose_per_frame: float, length: float, rng: np.random.Generator) -> np.ndarray:
    """Return the specimen's place `(frames, 2)` in rows and columns: 0 in the first frame, `length` away in the last.

    It starts fast and slows down with the exposure, in one direction, with a little random walk on top.
    """
    exposure = dose_per_frame * np.arange(n_frames)
    way = -np.expm1(-exposure / DRIFT_EXPOSURE)
    angle = rng.uniform(0, 2 * np.pi)
    places = np.outer(way / way[-1], (np.sin(angle), np.cos(angle)))
    steps = DRIFT_JITTER * rng.standard_normal((n_frames, 2))
    walk = np.cumsum(steps, axis=0) - steps[0]
    walk -= np.outer(exposure / exposure[-1], walk[-1])  # back home in the last frame
    return length * (places + walk)


def _expose(config: SimulateMoviesConfig, grid: Grid, specimen: Specimen, optics: Optics) -> Exposure:
    ky, kx = grid.frequencies()
    k = np.hypot(ky, kx)
    blur = np.exp(-2 * np.square(np.pi * config.blur * config.sampling_rate * k))
    contrast = scipy.fft.rfft2(specimen.phase, workers=-1)
    contrast *= (2 * optics.ctf(k) * blur).astype(np.float32)
    decay = np.zeros_like(k)
    if not config.no_damage:
        decay = (0.5 / critical_exposure(k, config.voltage)).astype(np.float32)
        contrast *= fading(k, config.voltage, 0.0, config.dose_per_frame).astype(np.float32)
    plain = scipy.fft.rfft2(specimen.transmission, workers=-1)
    plain *= blur
    return Exposure(grid, contrast, plain, decay)


def _truth(config: SimulateMoviesConfig, grid: Grid, specimen: Specimen, optics: Optics) -> Tuple[np.ndarray, float]:
    """Return the mean relative intensity of all frames, not moved, and the contrast of the particles in it."""
    ky, kx = grid.frequencies()
    k = np.hypot(ky, kx)
    transfer = 2 * optics.ctf(k)
    if not config.no_damage:
        transfer *= fading(k, config.voltage, 0.0, config.frames * config.dose_per_frame)
    blur = np.exp(-2 * np.square(np.pi * config.blur * config.sampling_rate * k))

    def image(phase: np.ndarray, plain: np.ndarray) -> np.ndarray:
        spectrum = scipy.fft.rfft2(phase, workers=-1) * transfer.astype(np.float32)
        spectrum += scipy.fft.rfft2(plain, workers=-1)
        spectrum *= blur
        return grid.cut(scipy.fft.irfft2(spectrum, grid.shape, workers=-1))

    particles = image(specimen.particle_phase, np.zeros_like(specimen.transmission))
    truth = image(specimen.phase, specimen.transmission)
    return truth, float(particles.std(dtype=np.float64) / truth.mean(dtype=np.float64))


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


def _margin(config: SimulateMoviesConfig) -> float:
    """Return how far detail of `MARGIN_RESOLUTION` may come from, in A: by delocalisation and by drift."""
    k = min(1 / MARGIN_RESOLUTION, 0.5 / config.sampling_rate)
    lam = wavelength(config.voltage)
    defocus = 1e4 * (abs(config.defocus) + config.defocus_spread)
    return lam * k * defocus + config.spherical_aberration * 1e7 * (lam * k) ** 3 + config.drift


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
