"""The simulation that feeds the general model's training, against that of `cryoden simulate movies`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "training_sets"))
from micrographs import Beads, Exposures, Micrographs, Scenes, clean_images, noise_of

from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.simulate.imaging import true_image
from cryoden.simulate.optics import Optics, interaction_parameter
from cryoden.simulate.shapes import Particle, build_shape
from cryoden.simulate.specimen import Film, Grid, make_specimen

CPU = torch.device("cpu")
RATE = 4.0
VOXEL = 3.0
DOSE = 40.0


def exposures(**changes: float) -> Exposures:
    """Return one exposure as `cryoden simulate movies` would take it."""
    fields = {
        "rates": RATE, "voltage": 200.0, "spherical_aberration": 2.7, "defocus": 15000.0, "astigmatism": 0.0,
        "astigmatism_angle": 0.0, "phase": np.arcsin(0.1), "b_factor": 0.0, "dose": DOSE, "damage": DOSE,
        "is_weighted": 0.0, "pixel": RATE, "detector": 0.0, "efficiency": 1.0,
    }  # fmt: skip
    return Exposures.of(CPU, **{name: np.array([value]) for name, value in {**fields, **changes}.items()})


@pytest.fixture(scope="module")
def barrel() -> np.ndarray:
    return build_shape("barrel", VOXEL, np.random.default_rng(1))


def test_an_image_is_that_of_the_simulation(barrel: np.ndarray) -> None:
    config = SimulateMoviesConfig(
        output="-", size=(256, 256), sampling_rate=RATE, voltage=200.0, frames=int(DOSE), dose_per_frame=1.0
    )
    grid = Grid.around((256, 256), RATE, 0.0)
    rng = np.random.default_rng(2)
    specimen = make_specimen(grid, Particle(barrel, VOXEL, 2.5), 20, Film(300.0, 0.3, 0.2), 200.0, rng)
    truth, _ = true_image(config, grid, specimen, Optics(200.0, 2.7, 0.1, 15000.0))

    sigma = interaction_parameter(200.0)
    losses = -np.log(specimen.transmission) * (interaction_parameter(300.0) / sigma) ** 2
    scenes = Scenes(
        torch.from_numpy(specimen.phase / sigma).float()[None], torch.from_numpy(losses)[None], np.array([RATE])
    )
    image = clean_images(scenes, exposures())[0].numpy()

    assert np.abs(image - truth).max() < 1e-3 * np.ptp(truth)


def test_beads_project_as_a_slice_of_the_transform_does(barrel: np.ndarray) -> None:
    particle = Particle(barrel, VOXEL, 2.5)
    rotation = Rotation.from_euler("xyz", (0.3, 0.7, 1.1))
    projection = particle.project(rotation, RATE)

    beads = Beads.of_density(barrel, VOXEL, CPU)
    maker = Micrographs([beads], CPU, seed=1)
    side = len(projection)
    centre = np.full((1, 2), side // 2 * RATE)
    image = maker._placed(beads, centre, rotation.as_matrix()[None], RATE)[:side, :side].numpy()

    assert np.corrcoef(image.ravel(), projection.ravel())[0, 1] > 0.97
    assert image.sum() * RATE**2 == pytest.approx(barrel.sum() * VOXEL**3, rel=1e-3)


def test_noise_is_that_of_the_electrons(barrel: np.ndarray) -> None:
    clean = torch.full((1, 256, 256), 0.5)
    noise = noise_of(clean, exposures(efficiency=0.5), torch.Generator().manual_seed(1))
    assert float(noise.var()) == pytest.approx(0.5 / (0.5 * DOSE * RATE**2), rel=0.02)

    spread = noise_of(clean, exposures(detector=2.0), torch.Generator().manual_seed(1))
    power = torch.fft.rfft2(spread)[0].abs().square()
    assert float(power[:20, 1:20].mean()) > 1.5 * float(power[108:148, 90:].mean())


def test_the_same_seed_draws_the_same_batches(barrel: np.ndarray) -> None:
    beads = Beads.of_density(barrel, VOXEL, CPU)
    first, second = (Micrographs([beads], CPU, seed=3).batch(2) for _ in range(2))
    assert torch.equal(first.inputs, second.inputs)

    deviation = first.inputs.std(dim=(1, 2, 3))
    assert ((deviation > 0.7) & (deviation < 1.4)).all()
    assert (first.targets.var(dim=(1, 2, 3)) < first.inputs.var(dim=(1, 2, 3))).all()
