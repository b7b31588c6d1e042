"""Linear filters that must stand beside every result: the unprocessed half, the best Gaussian, the Wiener filter."""

from __future__ import annotations

from typing import Tuple

import numpy as np
import scipy.fft

from cryoden.config import SCORE_BAND_A
from cryoden.metrics.ring_covariance import RingCovariance, frc, ring_frequencies, score

GAUSSIAN_WIDTHS_A = np.geomspace(1.0, 100.0, 81)
"""Standard deviations in A among which the best Gaussian is chosen."""


def gaussian_transfer(frequency: np.ndarray, width_A: float) -> np.ndarray:
    """Return the gain of a Gaussian blur of standard deviation `width_A` (A) at frequencies in 1/A."""
    return np.exp(-2 * (np.pi * width_A * frequency) ** 2)  # 0 at the infinite frequency of the corners


def best_gaussian_width(training: RingCovariance, band_A: Tuple[float, float] = SCORE_BAND_A) -> float:
    """Return the width in A whose blur has the highest R2_corr in the score band of the training micrographs."""
    scores = [
        score(training.filtered(gaussian_transfer(training.frequency, width)).in_band(band_A)).r2_corr
        for width in GAUSSIAN_WIDTHS_A
    ]
    return float(GAUSSIAN_WIDTHS_A[int(np.argmax(scores))])


def wiener_transfer(training: RingCovariance, frequency: np.ndarray) -> np.ndarray:
    """Return the gain of the ring-wise Wiener filter at frequencies in 1/A.

    W = SSNR / (1 + SSNR) with the spectral signal-to-noise ratio of one half, SSNR = FRC / (1 - FRC); so W is the FRC
    of the training micrographs' halves. Beyond Nyquist it is 0.
    """
    gain = np.clip(np.nan_to_num(frc(training)[:-1]), 0.0, 1.0)
    return np.interp(frequency, training.frequency[:-1], gain, right=0.0)


def filter_gain(
    shape: Tuple[int, int], sampling_rate: float, frequency: np.ndarray, transfer: np.ndarray
) -> np.ndarray:
    """Return the gain of a filter for every rfft2 coefficient of an image of a shape; see `filter_image`."""
    finite = np.isfinite(frequency)
    gain = np.interp(ring_frequencies(shape) / sampling_rate, frequency[finite], transfer[finite], right=0.0)
    gain[0, 0] = 1.0
    return gain


def filter_image(image: np.ndarray, sampling_rate: float, frequency: np.ndarray, transfer: np.ndarray) -> np.ndarray:
    """Return an image `(y, x)` filtered ring by ring, mean kept.

    Parameters
    ----------
    image
        Float32.
    sampling_rate
        A/px.
    frequency, transfer
        Gain at rising frequencies in 1/A; interpolated between, 0 beyond the last finite one.
    """
    gain = filter_gain((image.shape[0], image.shape[1]), sampling_rate, frequency, transfer)
    spectrum = scipy.fft.rfft2(image.astype(np.float32), workers=-1) * gain.astype(np.float32)
    return scipy.fft.irfft2(spectrum, s=image.shape, workers=-1)
