"""Frames of a specimen that moves, whose motion is known."""

from __future__ import annotations

from typing import Iterator, Optional

import numpy as np
import scipy.ndimage

from cryoden.movies.motion.local_motion import LocalMotionModel, shifts_of_rows

SHAPE = (320, 384)
RATE = 2.0
N_FRAMES = 12
BENT = LocalMotionModel(np.zeros((2, 6, 3)))
"""Local motion of some pixels, that differs over the image and in time."""
BENT.coefficients[0, :, 0] = (0.0, 0.5, 0.3, -0.2, 0.0, 0.4)
BENT.coefficients[1, :, 1] = (0.0, -0.03, 0.0, 0.04, 0.03, 0.0)

MARGIN = 40


def specimen(rng: np.random.Generator) -> np.ndarray:
    """Return detail of 20 A and finer, mean 1, larger than the frames by `MARGIN` on each side."""
    image = rng.standard_normal((SHAPE[0] + 2 * MARGIN, SHAPE[1] + 2 * MARGIN))
    image = scipy.ndimage.gaussian_filter(image, 1.5) - scipy.ndimage.gaussian_filter(image, 8)
    return 1 + 0.12 * image / image.std()


def moving_frames(
    shifts: np.ndarray, dose: float, seed: int = 1, model: Optional[LocalMotionModel] = None
) -> Iterator[np.ndarray]:
    """Yield counts of `dose` electrons per pixel, float32.

    To be aligned, each must be moved by its shift (x, y; px) and the model's.
    """
    rng = np.random.default_rng(seed)
    image = specimen(rng)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float) + MARGIN
    for number, shift in enumerate(shifts):
        moved = np.zeros((2, *SHAPE)) + np.asarray(shift)[:, None, None]
        if model is not None:
            moved += field_of(model, number + 1)
        # The sum at p takes the frame at p - s; so the frame at q has what belongs to about q + s.
        seen = scipy.ndimage.map_coordinates(image, [rows + moved[1], columns + moved[0]], order=3)
        yield rng.poisson(dose * np.maximum(seen, 0)).astype(np.float32)


def field_of(model: LocalMotionModel, frame: int) -> np.ndarray:
    """Return the local shifts of a frame, counted from 1, `(2, y, x)`."""
    return np.stack([shifts_of_rows(polynomial, 0, SHAPE[0], SHAPE) for polynomial in model.fields(frame)])


def drift(n_frames: int = N_FRAMES, length: float = 9.0) -> np.ndarray:
    """Return shifts `(frames, 2)` of a specimen that moves fast at first."""
    time = np.arange(n_frames) / (n_frames - 1)
    return length * np.stack([np.sqrt(time), -0.6 * time], axis=1)


def rms(found: np.ndarray, true: np.ndarray) -> float:
    """Return the root mean square of the distance, apart from a shift of all frames."""
    error = found - true
    return float(np.sqrt(((error - error.mean(axis=0)) ** 2).sum(axis=-1).mean()))
