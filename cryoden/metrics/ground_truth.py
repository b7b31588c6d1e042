"""When the clean image is known: true quality, and where a denoiser invents or deletes.

The truth may be in any units: its scale is fitted to the halves by least squares, which their noise does not bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Tuple

import numpy as np
import scipy.fft
import scipy.ndimage

from cryoden.errors import PairError
from cryoden.metrics.ring_covariance import FA, FB, A, B, RingCovariance, frc, psnr, ring_frequencies

TRUE = 4
"""Place of the truth in covariance matrices of (a, b, f(a), f(b), truth)."""

MIN_CORRELATION = 0.01
"""Correlation in the score band that a truth must have with its halves."""

MAP_WINDOW_A = 50.0
"""Deviation of the Gaussian window in which invented and deleted structure is measured."""


@dataclass(frozen=True)
class TruthMaps:
    """Where a denoiser is wrong, in units of the truth's variance, images `(y, x)`.

    Attributes
    ----------
    invented
        Local variance of the prediction that the truth does not explain.
    deleted
        Local variance of the truth that the prediction does not explain.
    """

    invented: np.ndarray
    deleted: np.ndarray


def truth_scale(name: str, in_band: np.ndarray) -> float:
    """Return the factor from the units of the truth to those of the halves.

    Parameters
    ----------
    name
        Of the micrograph.
    in_band
        Covariance matrix in the score band, of (a, b, f(a), f(b), truth).

    Raises
    ------
    PairError
        If the truth does not correlate with the halves, or with inverted contrast.
    """
    c = in_band
    covariance = (c[A, TRUE] + c[B, TRUE]) / 2
    correlation = covariance / np.sqrt(max(c[TRUE, TRUE], 1e-30) * (c[A, A] + c[B, B]) / 2)

    if abs(correlation) < MIN_CORRELATION:
        raise PairError(
            f"The truth of '{name}' does not correlate with its halves ({correlation:.4f} in the score band); it must "
            "be the clean image of the same micrograph. Check the names of the truths.",
            subject=name,
        )
    if correlation < 0:
        raise PairError(
            f"The truth of '{name}' has inverted contrast (correlation {correlation:.3f} with its halves); particles "
            "must be dark or bright in both. Multiply the truth by -1.",
            subject=name,
        )
    return float(covariance / c[TRUE, TRUE])


def true_numbers(in_band: np.ndarray, total: np.ndarray, scale: float, data_range: float) -> Dict[str, float]:
    """Return true R2, R2_corr and MSE in the band, and PSNR against the truth over all frequencies.

    Parameters
    ----------
    in_band, total
        Covariance matrices `(5, 5)` of (a, b, f(a), f(b), truth).
    scale
        Of `truth_scale`.
    data_range
        L of the PSNR.
    """
    error = _error(in_band, scale)
    all_error = _error(total, scale)
    signal = scale**2 * in_band[TRUE, TRUE]
    with np.errstate(divide="ignore", invalid="ignore"):
        r2_corr = np.mean([in_band[f, TRUE] ** 2 / (in_band[f, f] * in_band[TRUE, TRUE]) for f in (FA, FB)])
    return {
        "r2": float(1 - error / signal),
        "r2_corr": float(r2_corr),
        "mse": float(error),
        "psnr": psnr(all_error, data_range),
    }


def true_correlation(covariance: RingCovariance) -> np.ndarray:
    """Return the correlation of prediction and truth in each ring, both directions averaged."""
    return (frc(covariance, FA, TRUE) + frc(covariance, FB, TRUE)) / 2


def truth_maps(
    prediction: np.ndarray, truth: np.ndarray, sampling_rate: float, band_A: Tuple[float, float]
) -> TruthMaps:
    """Return where structure was invented and where it was deleted.

    Both images are band-passed. In a Gaussian window around each pixel, each is regressed on the other; what the truth
    does not explain of the prediction was invented, what the prediction does not explain of the truth was deleted.

    Parameters
    ----------
    prediction, truth
        `(y, x)`, the truth in the units of the prediction.
    sampling_rate
        A/px.
    band_A
        Longest and shortest period in A.
    """
    g, s = (_band_passed(image, sampling_rate, band_A) for image in (prediction, truth))
    width = MAP_WINDOW_A / sampling_rate
    gg, ss, gs = (scipy.ndimage.gaussian_filter(x, width, mode="reflect") for x in (g * g, s * s, g * s))
    tiny = 1e-6 * float(ss.mean()) + 1e-30
    invented = np.maximum(gg - gs**2 / np.maximum(ss, tiny), 0)
    deleted = np.maximum(ss - gs**2 / np.maximum(gg, 1e-6 * float(gg.mean()) + 1e-30), 0)
    unit = float(ss.mean()) + 1e-30
    return TruthMaps(invented / unit, deleted / unit)


def _error(c: np.ndarray, scale: float) -> float:
    return float(np.mean([c[f, f] - 2 * scale * c[f, TRUE] + scale**2 * c[TRUE, TRUE] for f in (FA, FB)]))


def _band_passed(image: np.ndarray, sampling_rate: float, band_A: Tuple[float, float]) -> np.ndarray:
    frequency = ring_frequencies(image.shape) / sampling_rate
    spectrum = scipy.fft.rfft2(image.astype(np.float64))
    spectrum[(frequency < 1 / band_A[0]) | (frequency > 1 / band_A[1])] = 0
    return scipy.fft.irfft2(spectrum, s=image.shape)
