"""What the beam passes: particles in ice of uneven thickness, perhaps the carbon film at the edge of a hole.

All images here cover the frames and a margin around them, so that what drifts in or is delocalised by the contrast
transfer comes from somewhere. Lengths in A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Tuple

import numpy as np
import scipy.fft
from scipy.spatial.transform import Rotation

from cryoden.simulate.optics import interaction_parameter
from cryoden.simulate.shapes import Particle

ICE_MEAN_FREE_PATH = 3950.0
"""Way in A through ice on which 1 - 1/e of the electrons are lost behind an energy filter at 300 kV (Rice et al. 2018,
J. Struct. Biol. 204, 38-44)."""

CARBON_MEAN_FREE_PATH = 1500.0
"""As for ice, in A; assumed shorter because carbon is denser."""

CARBON_THICKNESS = 200.0
"""Of a holey support film, in A."""

HOLE_RADIUS = 6000.0
"""In A: holes of 1.2 um across, as in films called R1.2/1.3."""

WATER_DENSITY = 0.0308
"""Molecules per A^3 in ice of 0.92 g/cm^3."""

WATER_POTENTIAL = 4.53 / 0.0308
"""Integrated potential of a molecule in V A^3: it gives ice its mean inner potential of 4.53 V (Vulovic et al. 2013,
J. Struct. Biol. 183, 19-32)."""

CARBON_DENSITY = 0.100
"""Atoms per A^3 at 2 g/cm^3."""

CARBON_POTENTIAL = 47.88 * 2.509
"""Integrated potential of an atom in V A^3, from the scattering amplitude 2.509 A (Kirkland 2010)."""

WATER_RING = 1 / 3.7
"""Where the structure factor of vitreous ice has its ring, in 1/A."""

WATER_RING_WIDTH, WATER_RING_HEIGHT = 0.035, 0.8
"""Of that ring: in 1/A, and above 1; its form is only roughly that of ice."""

WATER_LONG_WAVES = 0.06
"""The structure factor of ice at low frequencies."""

PLACE_TRIES = 30
"""Places tried for each particle before the ice counts as full."""


@dataclass(frozen=True)
class Grid:
    """The frames and the margin around them.

    Attributes
    ----------
    frame_shape
        Rows and columns of the frames.
    shape
        Rows and columns with the margin: sizes that Fourier transforms like.
    rate
        A/px.
    """

    frame_shape: Tuple[int, int]
    shape: Tuple[int, int]
    rate: float

    @classmethod
    def around(cls, frame_shape: Tuple[int, int], rate: float, margin_A: float) -> Grid:
        """Make a grid with at least this margin on every side."""
        rows, columns = (scipy.fft.next_fast_len(n + 2 * int(np.ceil(margin_A / rate)), real=True) for n in frame_shape)
        return cls(frame_shape, (rows + rows % 2, columns + columns % 2), rate)

    @property
    def first(self) -> Tuple[int, int]:
        """Row and column of the frames' first pixel."""
        return (self.shape[0] - self.frame_shape[0]) // 2, (self.shape[1] - self.frame_shape[1]) // 2

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Return the part of an image `(y, x)` that the frames show, without copying it."""
        (top, left), (rows, columns) = self.first, self.frame_shape
        return image[top : top + rows, left : left + columns]

    def frequencies(self) -> Tuple[np.ndarray, np.ndarray]:
        """Return the frequencies of a real transform in 1/A, float32: a column of rows' and a row of columns'."""
        ky = scipy.fft.fftfreq(self.shape[0], self.rate)[:, None]
        kx = scipy.fft.rfftfreq(self.shape[1], self.rate)[None, :]
        return ky.astype(np.float32), kx.astype(np.float32)

    def frequency(self) -> np.ndarray:
        """Return the distance from the origin of a real transform, 1/A, float32 `(rows, columns // 2 + 1)`."""
        return np.hypot(*self.frequencies())


@dataclass(frozen=True)
class Specimen:
    """A specimen on a grid.

    Attributes
    ----------
    phase
        Phase shift of the electron wave in rad, float32 `(y, x)`: particles and the grain of ice and carbon.
    particle_phase
        The particles' part of it.
    transmission
        Share of the electrons that are not lost, float32 `(y, x)`.
    coordinates
        Columns and rows `(n, 2)` of the particles whose centres the frames show, counted from 0 at the centre of the
        frames' first pixel.
    """

    phase: np.ndarray
    particle_phase: np.ndarray
    transmission: np.ndarray
    coordinates: np.ndarray


@dataclass(frozen=True)
class Film:
    """Ice and carbon: how thick they are.

    Attributes
    ----------
    thickness
        Of the ice in A, mean over the frames.
    gradient
        Difference between two opposite edges, relative to the mean.
    carbon
        Share of the frames that carbon covers.
    """

    thickness: float
    gradient: float
    carbon: float


def make_specimen(
    grid: Grid, particle: Particle, n_particles: int, film: Film, voltage: float, rng: np.random.Generator
) -> Specimen:
    """Place particles at random, in random directions, without touching each other or the carbon.

    Parameters
    ----------
    grid
        The frames and their margin.
    particle
        Of which all are copies.
    n_particles
        In the frames, at most.
    film
        Ice and carbon.
    voltage
        kV.
    rng
        Draws everything that is random.
    """
    ice, carbon = _thickness(grid, film, rng)
    centres = _place(grid, carbon > 0, particle.diameter_A / grid.rate, n_particles, rng)
    sigma = interaction_parameter(voltage)

    particle_phase = np.zeros(grid.shape, np.float32)
    for centre in centres:
        rotation = Rotation.from_quat(rng.standard_normal(4))
        _add(particle_phase, sigma * particle.project(rotation, grid.rate, tuple(centre % 1)), np.floor(centre))

    grain = _grain(grid, _water_spectrum, WATER_DENSITY * WATER_POTENTIAL**2, ice, rng)
    if film.carbon:
        grain += _grain(grid, np.ones_like, CARBON_DENSITY * CARBON_POTENTIAL**2, carbon, rng)

    phase = particle_phase + np.float32(sigma) * grain
    transmission = np.exp(-ice / ICE_MEAN_FREE_PATH - carbon / CARBON_MEAN_FREE_PATH).astype(np.float32)

    # Those in the margin are drawn for the sake of the edges, and are no part of the truth.
    places = centres - grid.first
    shown = np.all((places >= 0) & (places <= np.array(grid.frame_shape) - 1), axis=1)
    return Specimen(phase, particle_phase, transmission, places[shown][:, ::-1])


def _thickness(grid: Grid, film: Film, rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
    """Return the thickness of ice and carbon in A, float32 `(y, x)`."""
    rows, columns = (np.arange(n, dtype=np.float32) - (n - 1) / 2 for n in grid.shape)
    angle, hole_angle = rng.uniform(0, 2 * np.pi, 2)
    along = rows[:, None] * np.float32(np.sin(angle)) + columns[None, :] * np.float32(np.cos(angle))
    width = abs(np.sin(angle)) * grid.frame_shape[0] + abs(np.cos(angle)) * grid.frame_shape[1]
    ice = np.maximum(film.thickness * (1 + film.gradient / width * along), 0).astype(np.float32)
    if not film.carbon:
        return ice, np.zeros(grid.shape, np.float32)
    radius = HOLE_RADIUS / grid.rate
    centre_y = radius * np.sin(hole_angle)
    centre_x = radius * np.cos(hole_angle)
    distance = np.hypot(rows[:, None] - np.float32(centre_y), columns[None, :] - np.float32(centre_x))
    edge = np.quantile(grid.cut(distance)[::8, ::8], 1 - film.carbon)
    return ice, np.where(distance > edge, np.float32(CARBON_THICKNESS), np.float32(0))


def _place(grid: Grid, taken: np.ndarray, distance_px: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return rows and columns `(n or fewer, 2)` of points with a least distance, none of them on taken pixels.

    `n` is their number in the frames; the margin gets as many for its area.
    """
    wanted = round(n * grid.shape[0] * grid.shape[1] / (grid.frame_shape[0] * grid.frame_shape[1]))
    centres = np.empty((wanted, 2))
    n_placed = 0
    for _ in range(wanted):
        for point in rng.uniform(0, grid.shape, (PLACE_TRIES, 2)):
            squared = np.square(centres[:n_placed] - point).sum(axis=1)
            if not taken[int(point[0]), int(point[1])] and (squared >= distance_px**2).all():
                centres[n_placed] = point
                n_placed += 1
                break
        else:
            break
    return centres[:n_placed]


def _add(image: np.ndarray, patch: np.ndarray, centre: np.ndarray) -> None:
    """Add a patch whose pixel `side // 2` is at `centre`; what reaches beyond the image is left out."""
    box = []
    cut = []
    for start, n_image, n_patch in zip(centre.astype(int), image.shape, patch.shape):
        first = start - n_patch // 2
        low = max(first, 0)
        high = min(first + n_patch, n_image)
        box.append(slice(low, high))
        cut.append(slice(low - first, high - first))
    image[tuple(box)] += patch[tuple(cut)]


def _water_spectrum(k: np.ndarray) -> np.ndarray:
    """Return a structure factor of amorphous ice: little at long waves, a ring at 3.7 A, 1 beyond."""
    rise = 1 / (1 + np.exp(-(k - WATER_RING) / WATER_RING_WIDTH))
    ring = WATER_RING_HEIGHT * np.exp(-0.5 * np.square((k - WATER_RING) / WATER_RING_WIDTH))
    return WATER_LONG_WAVES + (1 - WATER_LONG_WAVES) * rise + ring


def _grain(
    grid: Grid,
    structure: Callable[[np.ndarray], np.ndarray],
    strength: float,
    thickness: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the random projected potential in V A of scatterers in a film.

    Its power spectrum per area is (scatterers per A^3) x thickness x (integrated potential)^2 x structure factor.

    Parameters
    ----------
    structure
        Structure factor as a function of the frequency.
    strength
        Scatterers per A^3 times their squared integrated potential.
    thickness
        In A, `(y, x)`.
    """
    white = scipy.fft.rfft2(rng.standard_normal(grid.shape, np.float32), workers=-1, overwrite_x=True)
    white *= np.sqrt(structure(grid.frequency()) * np.float32(strength)) / np.float32(grid.rate)
    return scipy.fft.irfft2(white, grid.shape, workers=-1, overwrite_x=True) * np.sqrt(thickness)
