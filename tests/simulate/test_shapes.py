"""Particles and their projections."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoden.config.simulate import SHAPES
from cryoden.errors import CryodenError
from cryoden.simulate.shapes import Particle, build_shape, read_map
from tests.helpers import write_mrc


def blob(side: int, width: float = 3.0, centre: tuple = (0, 0, 0)) -> np.ndarray:
    z, y, x = (np.arange(side) - side // 2 - c for c in centre)
    squared = z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2
    return np.exp(-squared / (2 * width**2))


def test_projection_along_z_is_the_sum_along_z() -> None:
    volume = build_shape("globule", 2.0, np.random.default_rng(1))
    image = Particle(volume, 2.0, 2.5).project(Rotation.identity(), 2.0)
    direct = np.zeros_like(image)
    first = (len(image) - len(volume)) // 2
    direct[first : first + len(volume), first : first + len(volume)] = volume.sum(axis=0)
    assert np.corrcoef(image.ravel(), direct.ravel())[0, 1] > 0.998


@pytest.mark.parametrize(
    ("turn", "centre"),
    [
        (Rotation.from_euler("z", 90, degrees=True), (8.0, 0.0)),
        (Rotation.from_euler("y", 90, degrees=True), (0.0, 0.0)),
    ],
)
def test_rotation_moves_what_lies_off_the_centre(turn: Rotation, centre: tuple) -> None:
    """A blob at x = 8 goes to y = 8 when turned about z, and behind the middle when turned about y."""
    image = Particle(blob(48, centre=(0, 0, 8)), 1.0, 1.0).project(turn, 1.0)
    y, x = np.mgrid[: len(image), : len(image)] - len(image) // 2
    weight = np.maximum(image, 0)
    assert ((y * weight).sum() / weight.sum(), (x * weight).sum() / weight.sum()) == pytest.approx(centre, abs=0.3)


def test_potential_is_what_was_asked_for() -> None:
    """A large uniform body has the asked potential inside: its projection is potential times thickness."""
    side, radius = 96, 30
    away = np.sqrt(sum(np.square(g) for g in np.mgrid[:side, :side, :side] - side // 2))
    ball = Particle((away < radius).astype(np.float32) * 7.0, 4.0, 2.5)
    image = ball.project(Rotation.identity(), 4.0)
    assert image[len(image) // 2, len(image) // 2] == pytest.approx(2.5 * 2 * radius * 4.0, rel=0.1)
    assert ball.diameter_A == pytest.approx(2 * 4.0 * radius, rel=0.1)


def test_projection_does_not_depend_on_the_pixel_size() -> None:
    volume = blob(40, 5.0)
    fine, coarse = (Particle(volume, 1.0, 2.0).project(Rotation.identity(), rate) for rate in (1.0, 2.0))
    assert len(fine) / 2 <= len(coarse) <= len(fine) / 2 + 3
    assert coarse[len(coarse) // 2, len(coarse) // 2] == pytest.approx(fine[len(fine) // 2, len(fine) // 2], rel=0.02)
    assert coarse.sum() * 4 == pytest.approx(fine.sum(), rel=1e-2)


@pytest.mark.parametrize("name", SHAPES)
def test_no_trace_of_the_cube_around_a_projection(name: str) -> None:
    """A network would learn boxes around particles: at the border of the projection there is nothing."""
    particle = Particle(build_shape(name, 2.0, np.random.default_rng(1)), 2.0, 2.5)
    image = particle.project(Rotation.from_euler("zyz", (10, 50, 30), degrees=True), 2.0)
    y, x = np.mgrid[: len(image), : len(image)] - len(image) // 2
    outside = np.hypot(y, x) * 2.0 > 0.6 * particle.diameter_A
    assert np.abs(image[outside]).max() < 1e-6 * image.max()


def test_shift_of_a_fraction_of_a_pixel() -> None:
    image = Particle(blob(40, 4.0), 1.0, 2.0).project(Rotation.identity(), 1.0, (0.5, -0.25))
    y, x = np.mgrid[: len(image), : len(image)] - len(image) // 2
    weight = np.maximum(image, 0)
    assert (y * weight).sum() / weight.sum() == pytest.approx(0.5, abs=0.05)
    assert (x * weight).sum() / weight.sum() == pytest.approx(-0.25, abs=0.05)


@pytest.mark.parametrize(("name", "residues"), list(zip(SHAPES, (5070, 1090, 645))))
def test_built_in_shapes_have_their_mass(name: str, residues: int) -> None:
    volume = build_shape(name, 2.0, np.random.default_rng(1))
    assert volume.sum() == pytest.approx(residues, rel=0.05)


@pytest.mark.parametrize(
    ("volume", "rate", "reason"),
    [
        (np.ones((8, 8, 10)), 1.0, "Map m.mrc is 8 x 8 x 10 voxels; a particle's map is a cube."),
        (np.ones((8, 8, 8)), 0.0, "Map m.mrc does not say its voxel size. Write it into the header."),
        (-np.ones((8, 8, 8)), 1.0, "Map m.mrc has no positive values, or some that are not finite; protein"),
        (np.full((8, 8, 8), np.nan), 1.0, "Map m.mrc has no positive values, or some that are not finite"),
    ],
)
def test_maps_that_cannot_be_used(tmp_path: Path, volume: np.ndarray, rate: float, reason: str) -> None:
    write_mrc(tmp_path / "m.mrc", volume.astype(np.float32), rate)
    with pytest.raises(CryodenError, match=re.escape(reason)):
        read_map("m.mrc")
