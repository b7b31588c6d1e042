"""What the simulations can be asked; standard library only."""

from __future__ import annotations

import dataclasses
from typing import Iterator, Optional, Tuple

from cryoden.config import shared
from cryoden.config.options import Config, option
from cryoden.errors import Problem, option_problem

SHAPES = ("barrel", "globule", "rod")
"""Built-in particles; see `cryoden.simulate.shapes`."""

PHANTOMS = ("particles", "discs", "lines")
"""Built-in clean images; see `cryoden.simulate.pairs`."""


@dataclasses.dataclass(frozen=True)
class SimulatePairsConfig(Config):
    """Simulate pairs of noisy images of one clean image each, for trying a denoiser."""

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
        help="gaussian: added to the clean image, which is brought to 0-1. poisson: counts whose expectation is the "
        "clean image, brought to a mean of --dose.",
    )
    sigma: float = option(
        0.1, at_least=0, help="Standard deviation of the Gaussian noise; the clean image has the range 0-1."
    )
    dose: float = option(10.0, above=0, help="Mean electrons per pixel of each Poisson image.")
    sampling_rate: float = shared.pixel_size(1.0, "Pixel size in A/px, written into the headers.")
    seed: int = option(1, at_least=0, help="Seed of everything that is random.")

    def _problems(self) -> Iterator[Problem]:
        yield from _size_problems(self.size)


@dataclasses.dataclass(frozen=True)
class SimulateMoviesConfig(Config):
    """Simulate movies of particles in ice, with their truth and coordinates."""

    output: str = option(help="Folder for movies/, truth/, gain.mrc, defects.txt, STAR files and simulation.json.")
    movies: int = option(4, at_least=1, help="Number of movies.")
    size: Tuple[int, ...] = option((4096, 4096), help="Rows and columns of the frames in pixels.")
    frames: int = option(40, at_least=2, help="Frames in a movie.")
    sampling_rate: float = shared.pixel_size(1.0, "Pixel size in A/px.")
    dose_per_frame: float = option(
        1.0, above=0, help="Exposure in electrons per A^2 and frame, before the ice takes its part."
    )
    map: Optional[str] = option(None, help="MRC map of the particle, protein positive, instead of a built-in shape.")
    shape: str = option(
        "barrel",
        choices=SHAPES,
        help="Built-in particle: barrel (28 subunits in four rings, 150 A long, 0.55 MDa), globule (80 A, 0.12 MDa) or "
        "rod (three domains in a row, 130 A, 0.07 MDa).",
    )
    potential: float = option(2.5, at_least=0, help="Mean inner potential of the particle above that of ice, in V.")
    particles: int = option(
        200, at_least=0, help="Particles in a movie at most: as many are placed as fit without touching."
    )
    voltage: float = option(300.0, above=0, help="Acceleration voltage in kV.")
    spherical_aberration: float = option(2.7, at_least=0, help="Spherical aberration in mm.")
    amplitude_contrast: float = option(0.1, at_least=0, at_most=1, help="Amplitude contrast (0 to 1).")
    defocus: float = option(1.5, at_least=-20, at_most=20, help="Mean underfocus in micrometres.")
    defocus_spread: float = option(0.5, at_least=0, help="Movies differ in underfocus by up to this, to both sides.")
    ice_thickness: float = option(300.0, at_least=0, help="Mean thickness of the ice in A.")
    ice_gradient: float = option(
        0.3,
        at_least=0,
        at_most=2,
        help="Difference of thickness between two opposite edges, relative to its mean; its direction is random.",
    )
    carbon: float = option(
        0.0,
        at_least=0,
        at_most=1,
        help="Fraction of every image that carbon film covers, behind the edge of a round hole.",
    )
    drift: float = option(
        10.0, at_least=0, help="Way that the specimen drifts during the exposure in A; fast first, then slower."
    )
    no_damage: bool = option(False, help="Keep fine detail at any dose instead of fading it as exposure accumulates.")
    blur: float = option(0.4, at_least=0, help="Standard deviation in pixels of where a detected electron is counted.")
    gain_spread: float = option(
        0.05, at_least=0, at_most=0.3, help="Standard deviation of the pixels' sensitivity, relative to its mean."
    )
    dead_pixels: int = option(40, at_least=0, help="Pixels that count nothing.")
    hot_pixels: int = option(40, at_least=0, help="Pixels that count 20 times the dose.")
    seed: int = option(1, at_least=0, help="Seed of everything that is random.")
    threads: Optional[int] = option(None, at_least=1, help="Frames computed side by side; default: one on each CPU.")

    def _problems(self) -> Iterator[Problem]:
        yield from _size_problems(self.size)


def _size_problems(size: Tuple[int, ...]) -> Iterator[Problem]:
    if len(size) != 2 or min(size) < 64:
        yield option_problem("size", f"is {' '.join(map(str, size))}; it must be rows and columns, each at least 64.")
