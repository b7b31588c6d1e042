"""What the simulations can be asked; standard library only."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Iterator, Optional, Tuple

from cryoden.config import shared
from cryoden.config.options import Config, Groups, option
from cryoden.errors import Problem, option_problem

SHAPES = ("barrel", "globule", "rod")
"""Built-in particles; see `cryoden.simulate.shapes`."""

PHANTOMS = ("particles", "discs", "lines")
"""Built-in clean images; see `cryoden.simulate.pairs`."""


@dataclasses.dataclass(frozen=True)
class SimulatePairsConfig(Config):
    """Simulate pairs of noisy images of one clean image each, for trying a denoiser."""

    groups: ClassVar[Groups] = {
        "input and output": ("images", "output"),
        "phantom": ("phantom", "pairs", "size", "sampling_rate"),
        "noise": ("noise", "sigma", "dose", "seed"),
    }

    images: Tuple[str, ...] = option(
        (),
        positional=True,
        help="Clean images (MRC, TIFF, PNG, JPEG; colours become grey) instead of built-in phantoms.",
    )
    output: str = option(help="Folder for clean/, odd/ and even/.")
    phantom: str = option(
        "particles",
        choices=PHANTOMS,
        help="Built-in clean images: projections of the built-in particles, dark discs, or fine lines.",
    )
    pairs: int = option(8, at_least=1, help="Number of phantoms.")
    size: Tuple[int, ...] = option((1024, 1024), help="Rows and columns of the phantoms in pixels.")
    noise: str = option(
        "gaussian",
        choices=("gaussian", "poisson"),
        help="gaussian: added to the clean image, which is scaled to 0-1. poisson: counts whose expectation is the "
        "clean image, scaled to a mean of --dose.",
    )
    sigma: float = option(
        0.1, at_least=0, help="Standard deviation of the Gaussian noise; the clean image has the range 0-1."
    )
    dose: float = option(10.0, above=0, help="Mean electrons per pixel of each Poisson image.")
    sampling_rate: float = shared.pixel_size(1.0, "Pixel size in Å/px, written into the headers.")
    seed: int = option(1, at_least=0, help="Random seed.")

    def _problems(self) -> Iterator[Problem]:
        yield from _size_problems(self.size)


@dataclasses.dataclass(frozen=True)
class SimulateMoviesConfig(Config):
    """Simulate movies of particles in ice, with clean images and coordinates."""

    groups: ClassVar[Groups] = {
        "movie": ("output", "movies", "size", "frames", "sampling_rate", "dose_per_frame"),
        "specimen": ("map", "shape", "potential", "particles", "ice_thickness", "ice_gradient", "carbon"),
        "microscope": (
            "voltage",
            "spherical_aberration",
            "amplitude_contrast",
            "defocus",
            "defocus_spread",
            "drift",
            "no_damage",
        ),
        "detector": ("blur", "gain_spread", "dead_pixels", "hot_pixels"),
    }

    output: str = option(help="Folder for movies/, truth/, gain.mrc, defects.txt, STAR files and simulation.json.")
    movies: int = option(4, at_least=1, help="Number of movies.")
    size: Tuple[int, ...] = option((4096, 4096), help="Rows and columns of the frames in pixels.")
    frames: int = option(40, at_least=2, help="Number of frames per movie.")
    sampling_rate: float = shared.pixel_size(1.0, "Pixel size in Å/px.")
    dose_per_frame: float = option(
        1.0, above=0, help="Dose per frame in e/Å², before the ice scatters its part of the electrons."
    )
    map: Optional[str] = option(None, help="Map of the particle (MRC, protein positive), instead of a built-in one.")
    shape: str = option(
        "barrel",
        choices=SHAPES,
        help="Built-in particle: barrel (28 subunits in four rings, 150 Å long, 0.55 MDa), globule (80 Å, 0.12 MDa) or "
        "rod (three domains in a row, 130 Å, 0.07 MDa).",
    )
    potential: float = option(
        2.5, at_least=0, help="Mean inner potential of the particle relative to that of ice, in V."
    )
    particles: int = option(
        200, at_least=0, help="Maximum number of particles per movie; as many are placed as fit without touching."
    )
    voltage: float = option(300.0, above=0, help="Acceleration voltage in kV.")
    spherical_aberration: float = option(2.7, at_least=0, help="Spherical aberration in mm.")
    amplitude_contrast: float = option(0.1, at_least=0, at_most=1, help="Amplitude contrast (0 to 1).")
    defocus: float = option(1.5, at_least=-20, at_most=20, help="Mean underfocus in µm.")
    defocus_spread: float = option(
        0.5, at_least=0, help="Largest deviation of a movie's underfocus from the mean, in µm."
    )
    ice_thickness: float = option(300.0, at_least=0, help="Mean ice thickness in Å.")
    ice_gradient: float = option(
        0.3,
        at_least=0,
        at_most=2,
        help="Difference in ice thickness between two opposite edges, relative to the mean; its direction is random.",
    )
    carbon: float = option(
        0.0,
        at_least=0,
        at_most=1,
        help="Fraction of every image that is covered by carbon film, beyond the edge of a round hole.",
    )
    drift: float = option(
        10.0, at_least=0, help="Drift of the specimen during the exposure in Å, fast at first and slower later."
    )
    local_motion: float = option(
        0.0,
        at_least=0,
        help="Local motion in Å: how far the part of the image that moves most goes beyond the drift of the whole; a "
        "smooth field of displacements. Default: the specimen moves as a whole.",
    )
    no_damage: bool = option(False, help="No radiation damage: fine detail does not fade as dose accumulates.")
    blur: float = option(
        0.4, at_least=0, help="Blur of the detector: standard deviation, in pixels, of where an electron is counted."
    )
    gain_spread: float = option(
        0.05,
        at_least=0,
        at_most=0.3,
        help="Standard deviation of the pixels' sensitivity (gain), relative to its mean.",
    )
    dead_pixels: int = option(40, at_least=0, help="Number of pixels that count nothing.")
    hot_pixels: int = option(40, at_least=0, help="Number of pixels that count 20 times the dose.")
    seed: int = option(1, at_least=0, help="Random seed.")
    threads: Optional[int] = option(None, at_least=1, help="Frames computed in parallel; default: one on each CPU.")

    def _problems(self) -> Iterator[Problem]:
        yield from _size_problems(self.size)


def _size_problems(size: Tuple[int, ...]) -> Iterator[Problem]:
    if len(size) != 2 or min(size) < 64:
        yield option_problem("size", f"is {' '.join(map(str, size))}; it must be rows and columns, each at least 64.")
