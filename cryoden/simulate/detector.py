"""A counting detector: pixels of uneven sensitivity, dead and hot ones, and the chance of every electron."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoden.formats.files import PathLike, whole_file
from cryoden.simulate.specimen import Grid

HOT = 20.0
"""A hot pixel counts this many times the dose."""

BAND_PIXELS = 1 << 17
"""Pixels whose counts are drawn at once: few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class Detector:
    """The sensitivity of every pixel, and the defective ones.

    Attributes
    ----------
    gain
        Gain reference, float32 `(y, x)`: counts times gain are corrected. Defective pixels have 1.
    dead, hot
        Flat indices, sorted, of pixels that count nothing, and far too much.
    """

    gain: np.ndarray
    dead: np.ndarray
    hot: np.ndarray

    def count(self, expected: np.ndarray, dose: float, count_type: np.dtype, rng: np.random.Generator) -> np.ndarray:
        """Return the counts of one frame, `(y, x)` of `count_type`.

        An electron is counted in a pixel near the one that it hit. Points of a Poisson process that are displaced at
        random, each for itself, are a Poisson process whose intensity is blurred by the distribution of the
        displacements; so the counts of a blurred expectation are independent and exactly Poisson.

        Parameters
        ----------
        expected
            Share of the electrons that are expected in every pixel, blurred, `(y, x)`; below 0 counts as 0.
        dose
            Mean electrons in a pixel without specimen.
        count_type
            Integer type of the result; higher counts are cut off at its highest value.
        rng
            Draws the electrons.
        """
        counts = np.empty(expected.shape, count_type)
        highest = np.iinfo(count_type).max
        n_rows, n_columns = expected.shape
        step = max(1, BAND_PIXELS // n_columns)
        for first in range(0, n_rows, step):
            rows = slice(first, first + step)
            means = np.maximum(expected[rows], 0) * np.float32(dose)
            means /= self.gain[rows]

            for pixels, mean in ((self.dead, 0.0), (self.hot, HOT * dose)):
                low, high = np.searchsorted(pixels, (first * n_columns, (first + step) * n_columns))
                means.reshape(-1)[pixels[low:high] - first * n_columns] = mean

            counts[rows] = np.minimum(rng.poisson(means), highest)
        return counts


def make_detector(grid: Grid, gain_spread: float, n_dead: int, n_hot: int, rng: np.random.Generator) -> Detector:
    """Draw the pixels' sensitivities (mean 1) and which pixels are defective.

    Parameters
    ----------
    grid
        Its frames are as large as the detector.
    gain_spread
        Standard deviation of the sensitivity; no pixel is below 0.1.
    n_dead, n_hot
        Pixels that count nothing, and far too much.
    rng
        Draws them.
    """
    rows, columns = grid.frame_shape
    sensitivity = 1 + gain_spread * rng.standard_normal(grid.frame_shape, np.float32)
    sensitivity = np.clip(sensitivity, 0.1, None)
    defects = rng.choice(rows * columns, min(n_dead + n_hot, rows * columns), replace=False)
    gain = (sensitivity.mean(dtype=np.float64) / sensitivity).astype(np.float32)
    gain.reshape(-1)[defects] = 1
    return Detector(gain, np.sort(defects[:n_dead]), np.sort(defects[n_dead:]))


def write_defects(path: PathLike, detector: Detector) -> None:
    """Write the defective pixels as MotionCor2 reads them: a line `x y width height` for each, counted from 0."""
    columns = detector.gain.shape[1]
    pixels = np.sort(np.concatenate((detector.dead, detector.hot)))
    with whole_file(path) as temporary:
        temporary.write_text("".join(f"{pixel % columns} {pixel // columns} 1 1\n" for pixel in pixels.tolist()))


def count_type(dose: float) -> np.dtype:
    """Return the narrowest type that holds the counts at a mean of `dose` electrons a pixel: int8 or uint16."""
    # Twelve deviations above the mean, and some for means near 0: no count of any movie reaches that.
    return np.dtype(np.int8 if dose + 12 * np.sqrt(dose) + 12 < np.iinfo(np.int8).max else np.uint16)
