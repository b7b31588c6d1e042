"""What can be wrong with a set of halves, although each file can be read: found by covariance and by power spectra."""

from __future__ import annotations

from typing import Dict, List, Sequence, Tuple

import numpy as np
import scipy.fft

from cryoden.data.normalize import ZERO_MEAN_SHARE
from cryoden.data.rescale import fourier_crop
from cryoden.metrics.ring_covariance import A, B, RingCovariance, ring_frequencies

THUMBNAIL_SIDE = 192
THUMBNAIL_BAND_A = (300.0, 20.0)
"""Halves of different micrographs are compared as small images of this side and band, where the signal is strongest."""

MAX_COMPARED = 200
"""Micrographs that are compared with each other: 40,000 covariances are enough to see any pattern."""

MAX_POWER_RATIO = 2.0
"""Halves of one movie, each scaled to its own deviation, have the same noise power; a filter changes it."""

PATTERN_SHARE = 0.05
"""Share of the signal variance that micrographs may have in common before it is reported."""

DEVIATIONS = 5.0
"""What lies so many standard errors from chance is no chance."""


def thumbnail(image: np.ndarray, sampling_rate: float) -> np.ndarray:
    """Return a small band-passed copy of a half, mean 0 and deviation 1, float32.

    Parameters
    ----------
    image
        `(y, x)`.
    sampling_rate
        A/px.
    """
    rows, columns = (min(THUMBNAIL_SIDE, side) // 2 * 2 for side in image.shape)
    small = fourier_crop(image, (rows, columns))
    frequency = ring_frequencies(small.shape) / (sampling_rate * image.shape[1] / columns)
    spectrum = scipy.fft.rfft2(small)
    spectrum[(frequency < 1 / THUMBNAIL_BAND_A[0]) | (frequency > 1 / THUMBNAIL_BAND_A[1])] = 0
    small = scipy.fft.irfft2(spectrum, s=small.shape)
    deviation = float(small.std())
    return (small / deviation if deviation > 0 else small).astype(np.float32)


def correlations(thumbnails: Sequence[np.ndarray]) -> np.ndarray:
    """Return the correlation of every odd half (rows) with every even half (columns), `(n, n)`.

    Parameters
    ----------
    thumbnails
        `(2, y, x)` of each micrograph, all of one shape.
    """
    odd, even = (np.stack([images[half].ravel() for images in thumbnails]) for half in (0, 1))
    return (odd @ even.T).astype(np.float64) / odd.shape[1]


def swapped_halves(names: Sequence[str], correlation: np.ndarray) -> Dict[str, str]:
    """Return micrograph -> the other one to which its halves belong, where `correlation` shows that.

    A half that clearly correlates with another micrograph's half, but not with its partner, is in the wrong place.
    """
    belongs: Dict[str, str] = {}
    others = correlation - np.diag(np.diag(correlation))
    for i, name in enumerate(names):
        for partners in (others[i], others[:, i]):
            best = int(np.argmax(partners))
            spread = np.median(np.abs(np.delete(partners, [i, best]))) * 1.5 + 1e-6 if len(names) > 3 else 0.02
            if partners[best] > 2 * max(correlation[i, i], 0) + DEVIATIONS * spread:
                belongs.setdefault(name, names[best])
    return belongs


def common_pattern(correlation: np.ndarray) -> Tuple[float, float]:
    """Return how much of the signal is common to different micrographs, as a share, and its standard error.

    cov(a_i, b_j) of different micrographs is 0 unless something is the same in all of them: a gain defect, a shadow.
    """
    n = len(correlation)
    if n < 2:
        return 0.0, np.inf
    others = correlation[~np.eye(n, dtype=bool)]
    own = max(float(np.mean(np.diag(correlation))), 1e-9)
    return float(np.mean(others)) / own, float(np.std(others) / np.sqrt(len(others))) / own


def pattern_warnings(correlation: np.ndarray) -> List[str]:
    """Return a sentence where a fixed pattern would be counted as signal."""
    share, error = common_pattern(correlation)
    if share < PATTERN_SHARE or share < DEVIATIONS * error:
        return []
    return [
        f"Different micrographs correlate: {100 * share:.0f} % (± {100 * error:.0f} %) of what counts as signal "
        "between 300 and 20 Å is the same in all of them (a gain defect or a fixed shadow), and R2 counts it. Correct "
        "the gain of the movies and split them again."
    ]


def power_ratio(covariance: RingCovariance) -> float:
    """Return the power of the even half relative to the odd one in the outer half of the rings."""
    matrices = covariance.matrices[:-1]
    outer = matrices[len(matrices) // 2 :]
    return float(np.median(outer[:, B, B]) / max(float(np.median(outer[:, A, A])), 1e-30))


def filtered_half(name: str, covariance: RingCovariance) -> str:
    """Return a sentence if one of the halves was smoothed or sharpened but not the other; empty otherwise."""
    ratio = power_ratio(covariance)
    if 1 / MAX_POWER_RATIO <= ratio <= MAX_POWER_RATIO:
        return ""
    smoothed, other = ("even", "odd") if ratio < 1 else ("odd", "even")
    return (
        f"The {smoothed} half of '{name}' was smoothed: at high frequencies it has {min(ratio, 1 / ratio):.2g} of the "
        f"{other} half's power, where both must have the same. Give both halves as motion correction wrote them."
    )


def zero_mean_warnings(positive_shares: Dict[str, float]) -> List[str]:
    """Return a sentence if micrographs are no counts: PSNR and SSIM have no data range there."""
    wrong = sorted(name for name, share in positive_shares.items() if share < ZERO_MEAN_SHARE)
    if not wrong:
        return []
    return [
        f"{len(wrong)} of {len(positive_shares)} micrographs (such as '{wrong[0]}', "
        f"{100 * positive_shares[wrong[0]]:.0f} % of its pixels positive) have their background subtracted: PSNR and "
        "SSIM are left out, because the 95th percentile of positive values says nothing there. All other numbers "
        "stand. Give sums of frames to have these two as well."
    ]
