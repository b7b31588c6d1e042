"""From a specimen to the electrons that are expected at the detector: drift, contrast transfer, damage, blur."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import numpy as np
import scipy.fft

from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.movies.dose_weighting import critical_exposure
from cryoden.simulate.optics import Optics, detection_blur, fading, wavelength
from cryoden.simulate.specimen import Grid, Specimen

MARGIN_RESOLUTION = 4.0
"""Detail in A that the contrast transfer may delocalise without reaching beyond the margin."""

DRIFT_EXPOSURE = 8.0
"""Exposure in e/A^2 in which the drift slows down to 1/e of its first speed."""

DRIFT_JITTER = 0.03
"""Random part of the drift between two frames, relative to the whole drift."""

SPECTRUM_ROWS = 16
"""Rows of a spectrum that are processed at once: few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class ExpectedFrames:
    """What the frames of one movie are expected to show, as transforms from which each one is made.

    Attributes
    ----------
    grid
        The frames and their margin.
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
        """Return the relative intensity of a frame and its margin `(y, x)`, float32, 1 without specimen.

        Parameters
        ----------
        before
            Dose in e/A^2 before the frame.
        shift
            Rows and columns in pixels by which the specimen has moved since the first frame.
        """
        along_y, along_x = (
            np.exp(np.complex64(-2j * np.pi * pixels * self.grid.rate) * frequency)
            for frequency, pixels in zip(self.grid.frequencies(), shift)
        )

        # In bands of rows: several passes over a whole spectrum would wait for the memory, not for the arithmetic.
        spectrum = np.empty_like(self.contrast)
        for first in range(0, len(spectrum), SPECTRUM_ROWS):
            rows = slice(first, first + SPECTRUM_ROWS)
            np.multiply(self.contrast[rows], np.exp(np.float32(-before) * self.decay[rows]), out=spectrum[rows])
            spectrum[rows] += self.plain[rows]
            spectrum[rows] *= along_y[rows]
            spectrum[rows] *= along_x
        return scipy.fft.irfft2(spectrum, self.grid.shape, overwrite_x=True)


def expected_frames(config: SimulateMoviesConfig, grid: Grid, specimen: Specimen, optics: Optics) -> ExpectedFrames:
    """Return what all frames of a movie have in common; the damage within a frame is in its contrast already."""
    k = grid.frequency()
    blur = detection_blur(k, config.blur * config.sampling_rate)
    contrast = scipy.fft.rfft2(specimen.phase, workers=-1)
    contrast *= (2 * optics.ctf(k) * blur).astype(np.float32)

    decay = np.zeros_like(k)
    if not config.no_damage:
        decay = (0.5 / critical_exposure(k, config.voltage)).astype(np.float32)
        contrast *= fading(k, config.voltage, 0.0, config.dose_per_frame).astype(np.float32)

    plain = scipy.fft.rfft2(specimen.transmission, workers=-1)
    plain *= blur
    return ExpectedFrames(grid, contrast, plain, decay)


def true_image(
    config: SimulateMoviesConfig, grid: Grid, specimen: Specimen, optics: Optics
) -> Tuple[np.ndarray, float]:
    """Return what a movie would show without noise, drift and uneven pixels.

    Returns
    -------
    truth
        Mean relative intensity of all frames, float32 `(y, x)`.
    contrast
        Deviation of the particles' part of it, relative to its mean.
    """
    k = grid.frequency()
    transfer = 2 * optics.ctf(k)
    if not config.no_damage:
        transfer *= fading(k, config.voltage, 0.0, config.frames * config.dose_per_frame)
    blur = detection_blur(k, config.blur * config.sampling_rate)

    def image(phase: np.ndarray, plain: np.ndarray) -> np.ndarray:
        spectrum = scipy.fft.rfft2(phase, workers=-1) * transfer.astype(np.float32)
        spectrum += scipy.fft.rfft2(plain, workers=-1)
        spectrum *= blur
        return grid.cut(scipy.fft.irfft2(spectrum, grid.shape, workers=-1))

    particles = image(specimen.particle_phase, np.zeros_like(specimen.transmission))
    truth = image(specimen.phase, specimen.transmission)
    return truth, float(particles.std(dtype=np.float64) / truth.mean(dtype=np.float64))


def drift(n_frames: int, dose_per_frame: float, length: float, rng: np.random.Generator) -> np.ndarray:
    """Return where the specimen is `(frames, 2)`, in rows and columns: 0 in the first frame, `length` away in the last.

    It starts fast and slows down with the exposure, in one direction, with a little random walk on top.
    """
    exposure = dose_per_frame * np.arange(n_frames)
    distance = -np.expm1(-exposure / DRIFT_EXPOSURE)
    angle = rng.uniform(0, 2 * np.pi)
    places = np.outer(distance / distance[-1], (np.sin(angle), np.cos(angle)))

    # The walk is tilted so that it ends where it began: the drift keeps the length that was asked for.
    steps = DRIFT_JITTER * rng.standard_normal((n_frames, 2))
    walk = np.cumsum(steps, axis=0) - steps[0]
    walk -= np.outer(exposure / exposure[-1], walk[-1])
    return length * (places + walk)


def margin(config: SimulateMoviesConfig) -> float:
    """Return how far detail of `MARGIN_RESOLUTION` may come from, in A: by delocalisation and by motion."""
    k = min(1 / MARGIN_RESOLUTION, 0.5 / config.sampling_rate)
    lam = wavelength(config.voltage)
    defocus = 1e4 * (abs(config.defocus) + config.defocus_spread)
    return lam * k * defocus + config.spherical_aberration * 1e7 * (lam * k) ** 3 + config.drift + config.local_motion
