"""Micrographs without end, simulated on the GPU at the pixel size at which a network learns them.

The same physics as `cryoden simulate movies` (cryoden/simulate: weak phase contrast, ice, damage, counting), in PyTorch
and for a whole batch at once; `tests/training_sets` compares both on one specimen. What differs is what makes it fast
enough to feed a training: specimens are beads that are added up on the image instead of slices of a Fourier transform,
images are simulated at their coarse pixel size (3 to 6.5 A/px), where the finer pixels of the detector only say how
signal and noise fall off, and counts are normally distributed: there are more than a few in every pixel.

A scene (what the beam passes) is costly, an exposure of it (optics, dose, detector) is cheap: scenes are kept in a
pool, of which the oldest are replaced, and every batch is made of new exposures of some of them.

Lengths in A, frequencies `k` in 1/A, angles in radians, doses in e/A^2.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import List, Sequence, Tuple

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cryoden.movies.dose_weighting import critical_exposure
from cryoden.simulate.optics import interaction_parameter, wavelength
from cryoden.simulate.specimen import (
    CARBON_DENSITY,
    CARBON_MEAN_FREE_PATH,
    CARBON_POTENTIAL,
    ICE_MEAN_FREE_PATH,
    WATER_DENSITY,
    WATER_LONG_WAVES,
    WATER_POTENTIAL,
)

RATES = (3.0, 6.5)
"""A/px of the images."""

VOLTAGES = (80.0, 100.0, 200.0, 300.0)
"""kV, of which the higher ones are drawn more often; 120 kV is held out."""

VOLTAGE_SHARES = (0.05, 0.1, 0.25, 0.6)

CROP, SCENE = 448, 640
"""Side of the images and of the scenes in pixels: the margin is wider than what the contrast transfer delocalises."""

MOST_BEADS = 3_000_000
"""Of one scene: as many particles are placed as these suffice for."""

LEAST_DENSITY = 0.05
"""Of the largest one: voxels with less are none."""

STRENGTH = (0.4, 1.1)
"""Contrast of particles relative to that computed: real ones have less, for many small reasons."""

OVERSAMPLING = 2
"""Beads are added to the nearest pixel of an image with pixels of this fraction of the size."""

LEAST_INTENSITY = 0.02
"""Of an image: what is weakly scattering in theory only would come out darker than black."""


@dataclass(frozen=True)
class Beads:
    """A specimen as points.

    Attributes
    ----------
    places
        x, y, z `(n, 3)` in A around the centre, float32, on the device.
    potentials
        Integrated potential above that of the displaced ice `(n,)` in V A^3.
    diameter
        Of the specimen in A.
    """

    places: torch.Tensor
    potentials: torch.Tensor
    diameter: float

    @classmethod
    def of_density(cls, density: np.ndarray, voxel: float, device: torch.device) -> Beads:
        """Return a bead for every voxel of a density `(z, y, x)` in V, in voxels of so many A, that holds something."""
        is_full = np.abs(density) > LEAST_DENSITY * np.abs(density).max()
        potentials = density[is_full] * voxel**3
        places = (np.argwhere(is_full)[:, ::-1] - np.array(density.shape[::-1]) // 2) * voxel
        # What the empty voxels held: all of it counts at long waves.
        potentials *= density.sum(dtype=np.float64) * voxel**3 / potentials.sum(dtype=np.float64)
        reach = float(np.sqrt(np.quantile(np.square(places).sum(axis=1), 0.995)))
        return cls(
            torch.tensor(places, dtype=torch.float32, device=device),
            torch.tensor(potentials, dtype=torch.float32, device=device),
            2 * reach,
        )


@dataclass(frozen=True)
class Scenes:
    """What the beam passes, for several images.

    Attributes
    ----------
    potential
        Projected, in V A, of everything: particles, grain of ice and carbon `(n, y, x)`.
    losses
        -log of the share of electrons that are not lost at 300 kV `(n, y, x)`.
    rates
        A/px of each image.
    """

    potential: torch.Tensor
    losses: torch.Tensor
    rates: np.ndarray


@dataclass(frozen=True)
class Exposures:
    """How each image is taken, every field `(n,)`.

    Attributes
    ----------
    rates
        A/px of the image.
    voltage, spherical_aberration, defocus, astigmatism, astigmatism_angle
        Of the optics: kV, mm, A, A, radians.
    phase
        Of amplitude contrast and phase plate, radians.
    b_factor
        Of the envelope in A^2: exp(-B k^2 / 4).
    dose
        Of the image in e/A^2, of which `efficiency` counts.
    damage
        Dose in e/A^2 that the specimen got: of a half it is twice that of the image.
    is_weighted
        1 where frames were weighted by the dose.
    pixel
        A of the detector's pixels.
    detector
        0 counting, 1 counting and interpolated, 2 integrating what electrons leave in the pixels.
    efficiency
        Share of the electrons that count.
    wavelength, interaction, resistance
        What follows from the voltage: A, rad per V A, and the critical dose relative to 300 kV.
    """

    rates: torch.Tensor
    voltage: torch.Tensor
    spherical_aberration: torch.Tensor
    defocus: torch.Tensor
    astigmatism: torch.Tensor
    astigmatism_angle: torch.Tensor
    phase: torch.Tensor
    b_factor: torch.Tensor
    dose: torch.Tensor
    damage: torch.Tensor
    is_weighted: torch.Tensor
    pixel: torch.Tensor
    detector: torch.Tensor
    efficiency: torch.Tensor
    wavelength: torch.Tensor
    interaction: torch.Tensor
    resistance: torch.Tensor

    @classmethod
    def of(cls, device: torch.device, **fields: np.ndarray) -> Exposures:
        """Return exposures of all fields but the last three, `(n,)` each, on a device: one copy for all of them."""
        voltage = fields["voltage"]
        at_one = critical_exposure(np.ones(1))
        follows = {
            "wavelength": [wavelength(kv) for kv in voltage],
            "interaction": [interaction_parameter(kv) for kv in voltage],
            "resistance": [float((critical_exposure(np.ones(1), kv) / at_one)[0]) for kv in voltage],
        }
        values = {**fields, **follows}
        table = np.stack([np.asarray(values[name.name], np.float32) for name in dataclasses.fields(cls)])
        return cls(*sent(table, device))


@dataclass(frozen=True)
class Batch:
    """Images `(n, 1, y, x)`, standardised as a network sees them.

    Attributes
    ----------
    inputs
        Noisy.
    targets
        The same without noise, on the same scale.
    rates
        A/px `(n,)`.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    rates: torch.Tensor


# ---------------------------------------------------------------------- images of given scenes and exposures
def frequencies(shape: Tuple[int, int], rates: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return the frequencies `(n, rows, 1)` and `(n, 1, columns // 2 + 1)` of real transforms in 1/A."""
    ky = torch.fft.fftfreq(shape[0], device=rates.device)[None, :, None] / rates[:, None, None]
    kx = torch.fft.rfftfreq(shape[1], device=rates.device)[None, None, :] / rates[:, None, None]
    return ky, kx


def contrast_transfer(ky: torch.Tensor, kx: torch.Tensor, exposures: Exposures) -> torch.Tensor:
    """Return the contrast transfer with its envelope, negative at low frequencies in underfocus.

    Source: Rohou & Grigorieff (2015) J. Struct. Biol. 192, 216-221, eqs. 2-5.
    """
    lam = _of_image(exposures.wavelength)
    k2 = ky.square() + kx.square()
    angle = torch.atan2(ky.expand_as(k2), kx.expand_as(k2)) - _of_image(exposures.astigmatism_angle)
    defocus = _of_image(exposures.defocus) + _of_image(exposures.astigmatism) * torch.cos(2 * angle)
    aberration = 0.5 * lam.square() * k2 * _of_image(exposures.spherical_aberration) * 1e7
    phase = math.pi * lam * k2 * (defocus - aberration)
    return -torch.sin(phase + _of_image(exposures.phase)) * torch.exp(-_of_image(exposures.b_factor) * k2 / 4)


def damage(k: torch.Tensor, exposures: Exposures) -> torch.Tensor:
    """Return what is left of the signal beside white noise after all frames were summed.

    Plain sums keep the mean of exp(-N / 2 Nc) over the exposure N; weighted ones the square root of the mean of
    exp(-N / Nc), where the noise is brought back to white (Grant & Grigorieff 2015, eLife 4, e06980, eq. 9).
    """
    at_300_kv = 0.245 * k.clamp(min=1e-6).pow(-1.665) + 2.81
    rate = 1 / (at_300_kv * _of_image(exposures.resistance))
    whole = _of_image(exposures.damage)
    plain = -torch.expm1(-0.5 * rate * whole) / (0.5 * rate * whole)
    weighted = (-torch.expm1(-rate * whole) / (rate * whole)).sqrt()
    return torch.where(_of_image(exposures.is_weighted) > 0, weighted, plain)


def detection(
    k: torch.Tensor, ky: torch.Tensor, kx: torch.Tensor, exposures: Exposures
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return how a detector transfers the signal, and the amplitude of its noise, 1 at low frequencies.

    Counting: electrons are counted near the place that they hit; their noise stays white. Interpolated: frames moved
    by linear interpolation, on the average over all shifts. Integrating: an electron's charge spreads over some pixels,
    which takes signal and noise along; some noise comes after it. Cameras with a scintillator, whose light spreads much
    farther, are held out.
    """
    pixel = _of_image(exposures.pixel)
    counted = torch.exp(-2 * (math.pi * 0.4 * pixel * k).square())
    moved = (((2 + torch.cos(2 * math.pi * ky * pixel)) * (2 + torch.cos(2 * math.pi * kx * pixel))) / 9).sqrt()
    spread = torch.exp(-2 * (math.pi * 0.55 * pixel * k).square())
    kind = _of_image(exposures.detector)
    signal = torch.where(kind == 0, counted, torch.where(kind == 1, counted * moved, spread))
    noise = torch.where(
        kind == 0, torch.ones_like(k), torch.where(kind == 1, moved, (0.7 * spread.square() + 0.3).sqrt())
    )
    return signal, noise


def clean_images(scenes: Scenes, exposures: Exposures) -> torch.Tensor:
    """Return the expected intensity of each image `(n, y, x)`, 1 without specimen."""
    shape = (scenes.potential.shape[-2], scenes.potential.shape[-1])
    ky, kx = frequencies(shape, exposures.rates)
    k = (ky.square() + kx.square()).sqrt()
    blur, _ = detection(k, ky, kx, exposures)
    sigma = _of_image(exposures.interaction)

    spectrum = torch.fft.rfft2(scenes.potential * sigma)
    spectrum = spectrum * (2 * contrast_transfer(ky, kx, exposures) * damage(k, exposures))
    # Slower electrons are lost more often: as the square of the interaction parameter.
    stronger = (sigma / interaction_parameter(300.0)).square()
    spectrum = spectrum + torch.fft.rfft2(torch.exp(-scenes.losses * stronger))
    return torch.fft.irfft2(spectrum * blur, shape).clamp(min=LEAST_INTENSITY)


def noise_of(clean: torch.Tensor, exposures: Exposures, generator: torch.Generator) -> torch.Tensor:
    """Return the counting noise of images, in units of their intensity."""
    shape = (clean.shape[-2], clean.shape[-1])
    ky, kx = frequencies(shape, exposures.rates)
    k = (ky.square() + kx.square()).sqrt()
    _, amplitude = detection(k, ky, kx, exposures)
    electrons = exposures.dose * exposures.efficiency * exposures.rates.square()
    white = torch.randn(clean.shape, device=clean.device, generator=generator) * (clean / _of_image(electrons)).sqrt()
    return torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, shape)


# ---------------------------------------------------------------------- what is drawn
class Micrographs:
    """Draws scenes, exposures and batches.

    Parameters
    ----------
    specimens
        What the scenes show.
    device
        Where everything happens.
    seed
        Of all that is random.
    n_scenes
        Kept at a time.
    """

    def __init__(self, specimens: Sequence[Beads], device: torch.device, seed: int, n_scenes: int = 512) -> None:
        self.specimens, self.device = list(specimens), device
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator(device).manual_seed(seed)
        self._pool: List[Scenes] = []
        self._n_scenes, self._next = n_scenes, 0

    def batch(self, n: int, n_new_scenes: int = 1) -> Batch:
        """Return new exposures of scenes of the pool, after some new scenes came into it."""
        for _ in range(n_new_scenes if self._pool else n):
            self._keep(self.scene())
        chosen = [self._turned(self._pool[index]) for index in self.rng.integers(0, len(self._pool), n)]
        scenes = Scenes(
            torch.cat([scene.potential for scene in chosen]),
            torch.cat([scene.losses for scene in chosen]),
            np.concatenate([scene.rates for scene in chosen]),
        )
        return self.expose(scenes, self.exposures(scenes.rates))

    def expose(self, scenes: Scenes, exposures: Exposures) -> Batch:
        """Return what is seen of the scenes: the middle of each image, standardised."""
        clean = clean_images(scenes, exposures)
        noisy = clean + noise_of(clean, exposures, self.generator)
        first = (SCENE - CROP) // 2
        clean, noisy = (image[:, first : first + CROP, first : first + CROP] for image in (clean, noisy))

        # A crop's own scale is not that of its micrograph, which may have other ice and carbon elsewhere.
        deviation, mean = torch.std_mean(noisy, dim=(-2, -1), keepdim=True)
        mean = mean + 0.15 * deviation * self._normal((len(noisy), 1, 1))
        deviation = deviation * torch.exp(0.08 * self._normal((len(noisy), 1, 1)))
        inputs, targets = (((image - mean) / deviation).clamp(-20, 20)[:, None] for image in (noisy, clean))
        return Batch(inputs, targets, exposures.rates)

    def exposures(self, rates: np.ndarray) -> Exposures:
        """Draw how each image, of these A/px, is taken."""
        rng, n = self.rng, len(rates)
        plate = np.where(rng.random(n) < 0.04, rng.uniform(0.3, 1.8, n), 0.0)
        dose = np.exp(rng.uniform(math.log(2.5), math.log(80.0), n))
        finer = np.exp(rng.uniform(math.log(0.6), np.log(rates)))
        return Exposures.of(
            self.device,
            rates=rates,
            voltage=rng.choice(VOLTAGES, n, p=VOLTAGE_SHARES),
            spherical_aberration=rng.choice([2.7, 2.7, 2.7, 1.4, 0.01], n),
            defocus=1e4 * np.exp(rng.uniform(math.log(0.4), math.log(3.6), n)),
            astigmatism=np.abs(rng.normal(0, 200, n)),
            astigmatism_angle=rng.uniform(0, math.pi, n),
            phase=np.arcsin(rng.uniform(0.06, 0.14, n)) + plate,
            b_factor=rng.uniform(20, 250, n),
            dose=dose,
            damage=np.where(rng.random(n) < 0.5, 2 * dose, dose),
            is_weighted=rng.random(n) < 0.5,
            pixel=np.where(rng.random(n) < 0.25, rates, finer),
            detector=rng.choice(3, n, p=[0.6, 0.2, 0.2]),
            efficiency=rng.uniform(0.2, 1.0, n),
        )

    def scene(self) -> Scenes:
        """Draw one scene."""
        rng = self.rng
        rate = float(rng.choice([4.0, rng.uniform(*RATES)], p=[0.4, 0.6]))
        potential = torch.zeros((SCENE, SCENE), device=self.device)
        thickness = np.exp(rng.uniform(math.log(150), math.log(1000)))
        ice = self._film(thickness)
        carbon = None
        extra_losses = torch.zeros_like(ice)

        kind = rng.choice(["particles", "filaments", "empty"], p=[0.84, 0.1, 0.06])
        if kind == "particles":
            potential += self._particles(rate)
        if kind == "filaments":
            potential += self._filaments(rate)

        if rng.random() < 0.15:
            for _ in range(rng.integers(1, 5)):
                potential += self._vesicle(rate)
        if rng.random() < 0.25:
            cover = self._carbon_cover(rate)
            carbon = cover * rng.uniform(80, 300)
            # Carbon ends in vacuum or thinner ice: its mean potential makes the fringe along the edge.
            potential += carbon * rng.uniform(0, 4)
            ice = ice * (1 - cover * rng.uniform(0, 0.5))
        if rng.random() < 0.25:
            height = self._blobs(rate, rng.integers(1, 6))
            potential += height * rng.uniform(1, 4.5)
            extra_losses += height / ICE_MEAN_FREE_PATH
        if rng.random() < 0.04:
            gold = self._balls(rate, rng.integers(1, 8), rng.uniform(25, 75))
            potential += 20.0 * gold
            extra_losses += gold / 150.0

        fine = max(0.0, rng.normal(1.0, 0.2))
        grain = self._grain(rate, WATER_DENSITY * WATER_POTENTIAL**2 * WATER_LONG_WAVES * fine, ice)
        losses = ice / ICE_MEAN_FREE_PATH + extra_losses
        if carbon is not None:
            grain = grain + self._grain(rate, CARBON_DENSITY * CARBON_POTENTIAL**2, carbon)
            losses = losses + carbon / CARBON_MEAN_FREE_PATH
        return Scenes((potential + grain)[None], losses[None], np.array([rate]))

    # ------------------------------------------------------------------ what a scene holds
    def _particles(self, rate: float) -> torch.Tensor:
        """Return the potential of particles of one kind, sometimes of two."""
        image = torch.zeros((SCENE, SCENE), device=self.device)
        strength = self.rng.uniform(*STRENGTH)
        kinds = self.rng.choice(len(self.specimens), 2 if self.rng.random() < 0.2 else 1)
        for index in kinds:
            beads = self.specimens[index]
            cover = math.exp(self.rng.uniform(math.log(0.01), math.log(0.6))) / len(kinds)
            area = math.pi / 4 * beads.diameter**2
            n = int(min(cover * (SCENE * rate) ** 2 / area, MOST_BEADS / len(beads.potentials) / len(kinds), 3000))
            image += self._placed(beads, self._places(max(n, 1), rate), self._rotations(max(n, 1)), rate)
        return strength * image

    def _places(self, n: int, rate: float) -> np.ndarray:
        """Return centres `(n or fewer, 2)` in A: at random, or apart from each other; all over, or in some regions."""
        rng, side = self.rng, SCENE * rate
        if rng.random() < 0.25:
            places = rng.uniform(0, side, (n, 2))
        else:
            per_side = math.ceil(math.sqrt(n))
            step = side / per_side
            grid = np.stack(np.meshgrid(np.arange(per_side), np.arange(per_side)), -1).reshape(-1, 2).astype(float)
            grid[:, 0] += 0.5 * (grid[:, 1] % 2)
            grid = (grid + rng.uniform(0, 1, 2) + rng.uniform(-0.32, 0.32, grid.shape)) * step
            places = grid[rng.permutation(len(grid))[:n]] % side
        if rng.random() < 0.3:
            wave = rng.normal(0, 1, 2) * 2 * math.pi / side * rng.uniform(0.5, 2)
            crowd = np.sin(places @ wave + rng.uniform(0, 2 * math.pi))
            places = places[crowd > rng.uniform(-0.8, 0.6)]
        return places

    def _rotations(self, n: int) -> np.ndarray:
        """Return rotations `(n, 3, 3)`: any, or around one preferred direction."""
        turned = Rotation.from_quat(self.rng.standard_normal((n, 4)))
        if self.rng.random() < 0.25:
            view = Rotation.from_quat(self.rng.standard_normal(4))
            tilt = Rotation.from_rotvec(self.rng.normal(0, self.rng.uniform(0.05, 0.5), (n, 3)))
            turned = _about("z", self.rng.uniform(0, 2 * np.pi, n)) * tilt * view
        return turned.as_matrix()

    def _placed(self, beads: Beads, places: np.ndarray, rotations: np.ndarray, rate: float) -> torch.Tensor:
        """Return the projected potential in V A of copies of a specimen; what leaves on one side comes back."""
        fine = SCENE * OVERSAMPLING
        image = torch.zeros(fine * fine, device=self.device)
        chunk = max(1, 2_000_000 // len(beads.potentials))
        turns = self._tensor(rotations[: len(places), :2])
        centres = self._tensor(places)
        for first in range(0, len(places), chunk):
            few = slice(first, first + chunk)
            at = turns[few] @ beads.places.T + centres[few, :, None]
            at = torch.remainder((at * (OVERSAMPLING / rate)).round().long(), fine)
            image.index_add_(0, (at[:, 1] * fine + at[:, 0]).flatten(), beads.potentials.repeat(len(at)))
        return self._coarser(image.view(fine, fine)) * (OVERSAMPLING / rate) ** 2

    def _coarser(self, image: torch.Tensor) -> torch.Tensor:
        """Return an image with pixels of `OVERSAMPLING` times the size: its low frequencies."""
        spectrum = torch.fft.rfft2(image)
        half = SCENE // 2
        kept = torch.cat((spectrum[:half, : half + 1], spectrum[-half:, : half + 1]))
        return torch.fft.irfft2(kept, (SCENE, SCENE)) / OVERSAMPLING**2

    def _filaments(self, rate: float) -> torch.Tensor:
        """Return the potential of filaments: a small specimen again and again, turned a little each time."""
        rng, image = self.rng, torch.zeros((SCENE, SCENE), device=self.device)
        small = sorted(self.specimens, key=lambda beads: len(beads.potentials))[: max(1, len(self.specimens) // 2)]
        beads = small[rng.integers(len(small))]
        rise = beads.diameter * rng.uniform(0.3, 0.9)
        twist = rng.uniform(0, 2 * math.pi)
        n_strands = int(rng.choice([1, 2, 3]))
        radius = 0.0 if n_strands == 1 else beads.diameter * rng.uniform(0.3, 0.6)
        own = Rotation.from_quat(rng.standard_normal(4))
        side = SCENE * rate
        n = int(min(1.5 * side / rise, MOST_BEADS / (len(beads.potentials) * n_strands) / 4))
        for _ in range(rng.integers(1, 8)):
            angle = rng.uniform(0, 2 * math.pi) + np.cumsum(rng.normal(0, 0.02, n))
            way = rise * np.stack((np.cos(angle), np.sin(angle)), -1)
            axis = rng.uniform(0, side, 2) + np.cumsum(way, axis=0)
            for strand in range(n_strands):
                turn = twist * np.arange(n) + 2 * math.pi * strand / n_strands
                along = _about("z", angle)
                turns = along * _about("x", turn) * own
                beside = along.apply(radius * np.stack((0 * turn, -np.sin(turn), np.cos(turn)), -1))[:, :2]
                image += self._placed(beads, axis + beside, turns.as_matrix(), rate)
        return image

    def _vesicle(self, rate: float) -> torch.Tensor:
        """Return the potential of a hollow sphere of two layers of heads and the tails between them."""
        radius = math.exp(self.rng.uniform(math.log(120), math.log(700)))
        away = self._distance(rate, stretch=self.rng.uniform(1, 1.3))

        def ball(r: float) -> torch.Tensor:
            return 2 * (r**2 - away.square()).clamp(min=0).sqrt()

        heads = ball(radius + 24) - ball(radius + 14) + ball(radius - 14) - ball(radius - 24)
        tails = ball(radius + 14) - ball(radius - 14)
        return self.rng.uniform(0.7, 1.3) * (3.0 * heads - 0.8 * tails)

    def _carbon_cover(self, rate: float) -> torch.Tensor:
        """Return how much of each pixel is carbon: beyond the edge of a hole, on one side of a line, or everywhere."""
        if self.rng.random() < 0.25:
            return torch.ones((SCENE, SCENE), device=self.device)
        radius = self.rng.choice([3000.0, 6000.0, 1e5])
        angle, edge = self.rng.uniform(0, 2 * math.pi), self.rng.uniform(-0.4, 0.4) * SCENE * rate
        y, x = self._axes(rate)
        centre = radius - edge
        away = torch.hypot(y - centre * math.sin(angle), x - centre * math.cos(angle)) - radius
        return torch.sigmoid(away / self.rng.uniform(5, 25))

    def _blobs(self, rate: float, n: int) -> torch.Tensor:
        """Return the height in A of crystals of ice and other dirt, with ragged edges."""
        height = torch.zeros((SCENE, SCENE), device=self.device)
        ragged = self._smooth(rate, self.rng.uniform(60, 250))
        for _ in range(n):
            size = math.exp(self.rng.uniform(math.log(40), math.log(600)))
            away = self._distance(rate, stretch=self.rng.uniform(1, 2)) / size + 0.2 * ragged
            height += self.rng.uniform(0.3, 1.5) * size * (1 - away.square()).clamp(min=0).sqrt()
        return height.clamp(max=2000)

    def _balls(self, rate: float, n: int, radius: float) -> torch.Tensor:
        """Return the thickness in A of balls of one size."""
        thickness = torch.zeros((SCENE, SCENE), device=self.device)
        for _ in range(n):
            thickness += 2 * (radius**2 - self._distance(rate).square()).clamp(min=0).sqrt()
        return thickness

    def _film(self, thickness: float) -> torch.Tensor:
        """Return the thickness of the ice in A: a wedge with some waves."""
        y, x = self._axes(1.0 / SCENE)
        angle = self.rng.uniform(0, 2 * math.pi)
        wedge = self.rng.uniform(0, 0.5) * (y * math.sin(angle) + x * math.cos(angle))
        waves = self.rng.uniform(0, 0.1) * self._smooth(1.0, self.rng.uniform(60, 400))
        return (thickness * (1 + wedge + waves)).clamp(min=50)

    def _grain(self, rate: float, strength: float, thickness: torch.Tensor) -> torch.Tensor:
        """Return the potential in V A of scatterers at random; see `cryoden.simulate.specimen`."""
        return self._normal((SCENE, SCENE)) * (thickness * strength).sqrt() / rate

    def _smooth(self, rate: float, length: float) -> torch.Tensor:
        """Return a random field of mean 0 and deviation 1 whose waves are longer than about `length`."""
        ky, kx = frequencies((SCENE, SCENE), torch.tensor([rate], device=self.device))
        falls = torch.exp(-(ky.square() + kx.square()) * length**2)[0]
        field = torch.fft.irfft2(torch.fft.rfft2(self._normal((SCENE, SCENE))) * falls, (SCENE, SCENE))
        return (field - field.mean()) / field.std()

    # ------------------------------------------------------------------ small parts
    def _axes(self, rate: float) -> Tuple[torch.Tensor, torch.Tensor]:
        axis = (torch.arange(SCENE, device=self.device) - SCENE / 2) * rate
        return axis[:, None], axis[None, :]

    def _distance(self, rate: float, stretch: float = 1.0) -> torch.Tensor:
        """Return the distance in A from a place drawn at random, longer along one direction."""
        y, x = self._axes(rate)
        y, x = y - self.rng.uniform(-0.5, 0.5) * SCENE * rate, x - self.rng.uniform(-0.5, 0.5) * SCENE * rate
        angle = self.rng.uniform(0, math.pi)
        along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        return torch.hypot(along / stretch, across)

    def _normal(self, shape: Tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, device=self.device, generator=self.generator)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        array = np.asarray(values)
        return sent(array.astype(np.float32) if array.dtype == np.float64 else array, self.device)

    def _keep(self, scene: Scenes) -> None:
        if len(self._pool) < self._n_scenes:
            self._pool.append(scene)
        else:
            self._pool[self._next % self._n_scenes] = scene
        self._next += 1

    def _turned(self, scene: Scenes) -> Scenes:
        """Return a scene turned by a multiple of 90 degrees, perhaps mirrored."""
        n_turns, is_mirrored = int(self.rng.integers(4)), self.rng.random() < 0.5
        potential, losses = (torch.rot90(image, n_turns, (-2, -1)) for image in (scene.potential, scene.losses))
        if is_mirrored:
            potential, losses = potential.flip(-1), losses.flip(-1)
        return Scenes(potential, losses, scene.rates)


def sent(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return an array on a device, without waiting for what the device still has to do."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _about(axis: str, angles: np.ndarray) -> Rotation:
    """Return rotations by angles in radians about one axis; versions of SciPy want them in other shapes."""
    return Rotation.from_rotvec(angles[:, None] * np.eye(3)["xyz".index(axis)])


def _of_image(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None]
