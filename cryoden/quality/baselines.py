"""Linear filters that must stand beside every result: the unprocessed half and the best Gaussian."""

from __future__ import annotations

import numpy as np

from cryoden.config import SCORE_BAND_A
from cryoden.quality.metrics import RingCovariance, score

GAUSSIAN_WIDTHS_A = np.geomspace(1.0, 100.0, 81)
"""Standard deviations in A among which the best Gaussian is chosen."""


def gaussian_transfer(frequency: np.ndarray, width_A: float) -> np.ndarray:
    """Return the gain of a Gaussian blur of standard deviation `width_A` (A) at frequencies in 1/A."""
    return np.exp(-2 * (np.pi * width_A * frequency) ** 2)  # 0 at the infinite frequency of the corners


def best_gaussian_width(training: RingCovariance) -> float:
    """Return the width in A whose blur has the highest R2_corr in the score band of the training micrographs."""
    scores = [
        score(training.filtered(gaussian_transfer(training.frequency, width)).in_band(SCORE_BAND_A)).r2_corr
        for width in GAUSSIAN_WIDTHS_A
    ]
    return float(GAUSSIAN_WIDTHS_A[int(np.argmax(scores))])
