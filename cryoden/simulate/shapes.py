"""Particles: built-in ones and maps from files, as potentials that can be projected in any direction."""

from __future__ import annotations

from typing import Callable, Dict, Tuple

import numpy as np
import scipy.fft
import scipy.ndimage
from scipy.spatial.transform import Rotation

from cryoden.errors import FileError, PixelError
from cryoden.formats.files import PathLike
from cryoden.formats.mrc import MrcStack

RESIDUE_STEP = 3.8
"""Distance in A of neighbouring residues along a chain."""

RESIDUE_DENSITY = 1 / 135.0
"""Residues per A^3 of protein (110 Da at 1.35 g/cm^3)."""

HELIX_RESIDUES = 12
"""Residues of a chain between two changes of direction, about those of a helix."""

WOBBLE = 0.3
"""How much the direction of a chain wanders from one residue to the next."""

DIRECTION_TRIES = 50
"""Directions tried before a chain stays where it is."""

RESIDUE_WIDTH = 1.6
"""Standard deviation in A of a residue's potential, temperature included."""

BODY_WIDTH = 5.0
"""Standard deviation in A of the Gaussian that smooths a map before its mean inner potential is taken."""

FADE = 0.1
"""Width, in diameters of the particle, of the rim in which its projection fades out."""

EDGE = 0.05
"""Share of its largest value below which a smoothed map counts as empty."""

Point = Tuple[float, float, float]
"""x, y, z in A."""


class Particle:
    """A potential in a cube that is projected along any direction by cutting its Fourier transform.

    The cube is padded to twice its side, and what the linear interpolation between Fourier voxels takes away is given
    back before (division by the square of the sinc function), as is common in reconstruction programs.

    Parameters
    ----------
    volume
        Potential, any unit, float `(z, y, x)`, a cube.
    rate
        A per voxel.
    potential
        Mean inner potential above the ice, in V, to which the volume is scaled: the mean over the volume smoothed to
        about 10 A, each voxel weighted by its own density.

    Attributes
    ----------
    diameter_A : float
        Of the smallest sphere around the centre that holds the particle.
    """

    def __init__(self, volume: np.ndarray, rate: float, potential: float) -> None:
        self.n = volume.shape[0]
        self.rate = rate
        body = scipy.ndimage.gaussian_filter(volume.astype(np.float32), BODY_WIDTH / rate, mode="constant")
        self.diameter_A = 2 * rate * _reach(body)
        scale = potential * float(volume.sum(dtype=np.float64)) / float(np.vdot(volume, body))

        offsets = np.arange(self.n) - self.n // 2
        correction = np.sinc(offsets / (2 * self.n)) ** 2
        padded = np.zeros((2 * self.n,) * 3, np.float32)
        middle = slice(self.n - self.n // 2, 2 * self.n - self.n // 2)
        corrected = volume / correction[:, None, None] / correction[None, :, None] / correction[None, None, :]
        padded[middle, middle, middle] = scale * corrected

        spectrum = scipy.fft.rfftn(scipy.fft.ifftshift(padded), workers=-1)
        # Rows of negative frequencies first, so that linear interpolation never meets a jump.
        self._spectrum = scipy.fft.fftshift(spectrum, axes=(0, 1)).astype(np.complex64)

    def box(self, rate: float) -> int:
        """Return the side in pixels (even) of a projection at `rate` A/px, which holds it in any direction."""
        return 2 * int(np.ceil((0.5 + FADE) * self.diameter_A / rate)) + 2

    def project(self, rotation: Rotation, rate: float, shift: Tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        """Return the projected potential in V A, float32 `(y, x)` with the centre at pixel `box // 2` plus `shift`.

        Parameters
        ----------
        rotation
            Of the particle; the projection runs along z of the rotated particle.
        rate
            A/px.
        shift
            Rows and columns in pixels.
        """
        side = self.box(rate)
        ky = scipy.fft.fftfreq(side)[:, None]
        kx = scipy.fft.rfftfreq(side)[None, :]
        plane = np.stack(np.broadcast_arrays(kx, ky, 0.0 * kx), axis=-1) / rate
        x, y, z = np.moveaxis(rotation.inv().apply(plane.reshape(-1, 3)), 1, 0) * (2 * self.n * self.rate)

        # The other half of the spectrum is the complex conjugate of this one.
        mirrored = np.where(x < 0, -1.0, 1.0)
        index = np.stack((z * mirrored + self.n, y * mirrored + self.n, x * mirrored))
        values = scipy.ndimage.map_coordinates(self._spectrum, index, order=1, mode="constant")
        values = np.where(mirrored < 0, values.conj(), values).reshape(side, side // 2 + 1)
        values[np.hypot(ky, kx) > 0.5] = 0

        dy, dx = (side // 2 + offset for offset in shift)
        values = values * np.exp(-2j * np.pi * (ky * dy + kx * dx))
        # A slice of the transform is an integral over the other axis: one voxel's depth, and area per pixel, remain.
        image = scipy.fft.irfft2(values, (side, side)) * (self.rate**3 / rate**2)

        y, x = (np.arange(side) - centre for centre in (dy, dx))
        away = rate * np.hypot(y[:, None], x[None, :]) - self.diameter_A / 2
        # Outside the particle there is only a ripple of the interpolation, and the edge of the cube: both fade out.
        fade = 0.5 + 0.5 * np.cos(np.pi * np.clip(away / (FADE * self.diameter_A), 0, 1))
        return (image * fade).astype(np.float32)


def read_map(path: PathLike) -> Tuple[np.ndarray, float]:
    """Read a particle's map: float32 cube with values below zero set to zero, and its A per voxel.

    Raises
    ------
    FileError
        If it is no cube or does not say its voxel size.
    PixelError
        If it holds no positive values, or some that are not finite.
    """
    stack = MrcStack(path)
    n_rows, n_columns = stack.shape

    if not stack.n_frames == n_rows == n_columns:
        raise FileError(
            f"Map {path} is {stack.n_frames} x {n_rows} x {n_columns} voxels; a particle's map is a cube. "
            "Crop or pad it to one.",
            subject=str(path),
        )
    if not stack.sampling_rate:
        raise FileError(f"Map {path} does not say its voxel size. Write it into the header.", subject=str(path))

    volume = np.stack([stack.read_rows(index, 0, n_rows) for index in range(stack.n_frames)]).astype(np.float32)
    if not np.isfinite(volume).all() or volume.max() <= 0:
        raise PixelError(
            f"Map {path} has no positive values, or some that are not finite; protein must be positive.",
            subject=str(path),
        )
    return np.maximum(volume, 0), stack.sampling_rate


def build_shape(name: str, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Return the volume `(z, y, x)` of a built-in particle at `rate` A per voxel: residues of folded chains."""
    points = _SHAPES[name](rng)
    side = 2 * int(np.ceil((np.abs(points).max() + 6 * RESIDUE_WIDTH) / rate)) + 2
    volume = np.zeros((side,) * 3)
    place = points[:, ::-1] / rate + side // 2
    low = np.floor(place).astype(int)
    part = place - low
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, part, 1 - part), axis=1)
        np.add.at(volume, tuple((low + corner).T), weight)
    return scipy.ndimage.gaussian_filter(volume, RESIDUE_WIDTH / rate, mode="constant").astype(np.float32)


def _chain(n: int, inside: Callable[[np.ndarray], bool], rng: np.random.Generator) -> np.ndarray:
    """Return `n` points `(n, 3)` in A of a walk in straight pieces that stays where `inside` is true."""
    points = np.zeros((n, 3))
    direction = np.array([1.0, 0.0, 0.0])
    for i in range(1, n):
        if i % HELIX_RESIDUES == 0:
            direction = rng.standard_normal(3)

        for _ in range(DIRECTION_TRIES):
            direction /= np.linalg.norm(direction)
            step = points[i - 1] + RESIDUE_STEP * direction
            if inside(step):
                break
            direction = rng.standard_normal(3)

        points[i] = step if inside(step) else points[i - 1]
        direction = direction + WOBBLE * rng.standard_normal(3)
    return points


def _ellipsoid(semi_axes: Point, centre: Point, rng: np.random.Generator) -> np.ndarray:
    """Return the residues of one folded chain that fills an ellipsoid."""
    n = int(4 / 3 * np.pi * np.prod(semi_axes) * RESIDUE_DENSITY)
    points = _chain(n, lambda point: bool(np.sum((point / semi_axes) ** 2) <= 1), rng)
    return points - points.mean(axis=0) + np.array(centre)


def _barrel(rng: np.random.Generator) -> np.ndarray:
    """Four rings of seven subunits around an axis, the lower two mirrored by a two-fold: D7, like a proteasome."""
    rings = []
    for height, radius, twist in ((15.0, 38.0, 0.0), (49.0, 36.0, 0.3)):
        subunit = _ellipsoid((17.0, 17.0, 20.0), (radius, 0.0, height), rng)
        rings += [Rotation.from_euler("z", 2 * np.pi * (i / 7 + twist / 7)).apply(subunit) for i in range(7)]
    half = np.concatenate(rings)
    return np.concatenate((half, half * (1.0, -1.0, -1.0)))


def _globule(rng: np.random.Generator) -> np.ndarray:
    parts = [_ellipsoid(axes, centre, rng) for axes, centre in (
        ((30.0, 26.0, 22.0), (-12.0, 0.0, 0.0)), ((20.0, 24.0, 26.0), (18.0, 14.0, 0.0)),
        ((16.0, 16.0, 22.0), (14.0, -20.0, 10.0)),
    )]  # fmt: skip
    points = np.concatenate(parts)
    return points - points.mean(axis=0)


def _rod(rng: np.random.Generator) -> np.ndarray:
    parts = [_ellipsoid((24.0, 17.0, 17.0), (x, y, 0.0), rng) for x, y in ((-40.0, 0.0), (0.0, 6.0), (40.0, 0.0))]
    points = np.concatenate(parts)
    return points - points.mean(axis=0)


_SHAPES: Dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "barrel": _barrel,
    "globule": _globule,
    "rod": _rod,
}


def _reach(body: np.ndarray) -> float:
    """Return the distance in voxels of the outermost voxel that is not empty from the centre."""
    away = [np.square(np.arange(n) - n // 2) for n in body.shape]
    squared = away[0][:, None, None] + away[1][None, :, None] + away[2][None, None, :]
    return float(np.sqrt(squared[body > EDGE * body.max()].max()))
