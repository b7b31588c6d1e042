"""Pairs of noisy images with one clean image each: the simplest data on which a denoiser can be tried and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import scipy.ndimage
from PIL import Image
from scipy.spatial.transform import Rotation

from cryoden.config.simulate import SHAPES, SimulatePairsConfig
from cryoden.errors import (
    NOT_REACHED,
    FileError,
    FullDiskError,
    NothingDoneError,
    PixelError,
    Problem,
    problem_of,
)
from cryoden.formats import outputs
from cryoden.formats.files import make_folder, mrc_name, whole_file
from cryoden.formats.images import ENDINGS, read_micrograph
from cryoden.formats.mrc import write_image
from cryoden.formats.outcome import Outcome
from cryoden.formats.output_folder import failures_of, fills_folder, require_own_folder
from cryoden.formats.progress_log import ProgressLog
from cryoden.formats.run_record import Result, RunRecord, require_distinct, require_no_input
from cryoden.simulate.shapes import Particle, build_shape

KINDS = (outputs.CLEAN, outputs.ODD, outputs.EVEN)
"""Folders of the clean and the noisy images."""

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg")

NOT_RECORDED = ("output", "images", "pairs")
"""Options that do not change what a pair is."""

PARTICLE_RATE = 2.0
"""A/px at which phantoms of particles are made."""

PARTICLE_AREA_PX = 150.0**2
"""Pixels of the image for each particle."""


@fills_folder("simulate pairs", failures_of)
def simulate_pairs(config: SimulatePairsConfig) -> Outcome:
    """Write `clean/NAME.mrc`, `odd/NAME.mrc` and `even/NAME.mrc` of every image or phantom; finished ones are kept.

    Raises
    ------
    CryodenError
        If no image can be used, two would be written under one name, one would be overwritten, or the folder holds
        what this command did not make with these options.
    """
    inputs = list(config.images) or [f"{config.phantom}_{number + 1:04d}" for number in range(config.pairs)]
    names = [mrc_name(path) if config.images else f"{path}.mrc" for path in inputs]
    output = Path(config.output)
    require_distinct(zip(inputs, names))
    results = [
        Result(name, tuple(output / kind / name for kind in KINDS), (path,) if config.images else ())
        for path, name in zip(inputs, names)
    ]
    require_no_input([target for result in results for target in result.files], config.images)
    record = RunRecord(output / outputs.PAIRS_RECORD, _lasting_options(config))
    require_own_folder(output, outputs.PAIRS_RECORD, [f"{kind}/{name}" for kind in KINDS for name in names])
    finished = record.finished(results)
    for kind in KINDS:
        make_folder(output / kind)
    record.begin()

    paint = None if config.images else _phantom_painter(config)
    failures: Dict[str, Problem] = {}
    with ProgressLog(output / outputs.LOG, len(inputs), "pair", "Simulating") as progress:
        for number, (path, result) in enumerate(zip(inputs, results)):
            if result.name in finished:
                progress.report(path, is_kept=True, image=path, status="kept")
                continue

            rng = np.random.default_rng([config.seed, number])
            try:
                clean = paint(rng) if paint else read_picture(path)
                images = noisy_pair(clean, config, rng)
                with record.making(result):
                    _write_pair(result, images, config.sampling_rate)
            except Exception as error:
                failures[path] = problem_of(error, path)
                progress.report_failure(path, failures[path], error, image=path)
                if isinstance(error, FullDiskError):
                    failures.update(dict.fromkeys(inputs[number + 1 :], NOT_REACHED))
                    break
            else:
                progress.report(path, image=path, status="simulated")
    if len(failures) == len(inputs):
        raise NothingDoneError("image", "used", len(inputs), failures)
    return Outcome(len(inputs), failures)


def _lasting_options(config: SimulatePairsConfig) -> Dict[str, Any]:
    """Return what the pairs of one folder have in common."""
    options = {key: value for key, value in config.to_dict().items() if key not in NOT_RECORDED}
    if config.images:
        options.update(phantom=None, size=None)
    return options


def _write_pair(result: Result, images: List[np.ndarray], sampling_rate: float) -> None:
    for path, image in zip(result.files, images):
        with whole_file(path) as temporary:
            write_image(temporary, image, sampling_rate)


def noisy_pair(clean: np.ndarray, config: SimulatePairsConfig, rng: np.random.Generator) -> List[np.ndarray]:
    """Return the scaled clean image and two with independent noise, float32 `(y, x)` each."""
    low = float(clean.min())
    high = float(clean.max())
    scaled = (clean.astype(np.float64) - low) / (high - low)
    if config.noise == "gaussian":
        images = [scaled, *(scaled + config.sigma * rng.standard_normal(scaled.shape) for _ in range(2))]
    else:
        expected = scaled * (config.dose / scaled.mean())
        images = [expected, *(rng.poisson(expected) for _ in range(2))]
    return [image.astype(np.float32) for image in images]


def read_picture(path: str) -> np.ndarray:
    """Read a clean image of any kind as grey values `(y, x)`.

    Raises
    ------
    CryodenError
        If it cannot be read, or is constant.
    """
    ending = Path(path).suffix.lower()
    if ending in ENDINGS:
        return read_micrograph(path)[0]
    if ending not in PICTURE_ENDINGS:
        known = ", ".join((*ENDINGS, *PICTURE_ENDINGS))
        raise FileError(f"{path} has the unknown ending {ending!r}; give {known}.", subject=path)

    try:
        with Image.open(path) as picture:
            is_deep = picture.mode.startswith(("I", "F"))
            image = np.asarray(picture if is_deep else picture.convert("L"), dtype=np.float64)
    except (OSError, ValueError) as error:
        raise FileError(f"{path} cannot be read as a picture ({error}). Check what it is.", subject=path) from error
    if image.min() == image.max():
        raise PixelError(
            f"{path} is constant: every pixel is {image.flat[0]:g}. It holds no image; leave it out.", subject=path
        )
    return image


def _phantom_painter(config: SimulatePairsConfig) -> Callable[[np.random.Generator], np.ndarray]:
    shape = (config.size[0], config.size[1])
    if config.phantom == "discs":
        return lambda rng: _discs(shape, rng)
    if config.phantom == "lines":
        return lambda rng: _lines(shape, rng)
    shape_rng = np.random.default_rng([config.seed])
    particles = [Particle(build_shape(name, PARTICLE_RATE, shape_rng), PARTICLE_RATE, 1.0) for name in SHAPES]
    return lambda rng: _projections(shape, particles, rng)


def _projections(shape: Tuple[int, int], particles: List[Particle], rng: np.random.Generator) -> np.ndarray:
    """Return projections of all built-in particles in random directions, dark on bright; they may overlap."""
    image = np.zeros(shape)
    for _ in range(max(3, int(shape[0] * shape[1] / PARTICLE_AREA_PX))):
        particle = particles[rng.integers(len(particles))]
        patch = particle.project(Rotation.from_quat(rng.standard_normal(4)), PARTICLE_RATE)
        side = min(len(patch), *shape)
        patch = patch[:side, :side]
        y, x = (int(rng.integers(0, n - side + 1)) for n in shape)
        image[y : y + side, x : x + side] -= patch
    return image


def _discs(shape: Tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return dark discs with soft edges on a bright ground that brightens to one side."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = 1 + 0.2 * x / shape[1]
    for _ in range(max(4, shape[0] * shape[1] // 12000)):
        centre = rng.uniform(0, shape)
        radius = rng.uniform(6, 24)
        image -= rng.uniform(0.3, 0.8) / (1 + np.exp(np.hypot(y - centre[0], x - centre[1]) - radius))
    return image


def _lines(shape: Tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return thin dark lines in random directions: what a denoiser blurs first."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.ones(shape)
    for _ in range(max(6, sum(shape) // 60)):
        angle = rng.uniform(0, np.pi)
        width = rng.uniform(0.7, 2.0)
        centre = rng.uniform(0, shape)
        away = (y - centre[0]) * np.cos(angle) - (x - centre[1]) * np.sin(angle)
        image -= 0.5 * np.exp(-0.5 * np.square(away / width))
    return scipy.ndimage.gaussian_filter(image, 0.5)
