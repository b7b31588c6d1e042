"""Honest numbers without ground truth, from the two halves of held-out micrographs.

Everything is derived from one thing: for each ring of the Fourier transform, the 4 x 4 covariance matrix of the images
(a, b, f(a), f(b)), where a and b are the halves and f is the denoiser. Summed over the rings of a band it is the
covariance matrix of the band-passed images (Parseval), and every quantity below is a combination of its entries.

Source: Noise2Noise (Lehtinen et al. 2018, ICML) for E|f(a) - b|^2 = E|f(a) - s|^2 + sigma^2; the other identities
follow from a = s + n1, b = s + n2 with independent zero-mean noise.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Callable, Sequence, Tuple

import numpy as np
import scipy.fft

from cryoden.config import SCORE_BAND_A

A, B, FA, FB = range(4)
"""Order of the images in every covariance matrix: odd, even, denoised odd, denoised even."""


@dataclass(frozen=True)
class RingCovariance:
    """Covariance matrices per Fourier ring.

    Attributes
    ----------
    frequency
        Spatial frequency of each ring in 1/A, shape `(rings,)`; the last, infinite, is all beyond Nyquist.
    matrices
        Contribution of each ring to the covariance matrix of (a, b, f(a), f(b)), float64 `(rings, 4, 4)`.
    """

    frequency: np.ndarray
    matrices: np.ndarray

    def in_band(self, band_A: Tuple[float, float] = SCORE_BAND_A) -> np.ndarray:
        """Return the `(4, 4)` covariance matrix of the images band-passed between two periods (low, high) in A."""
        low, high = 1 / band_A[0], 1 / band_A[1]
        return self.matrices[(self.frequency >= low) & (self.frequency <= high)].sum(axis=0)

    def total(self) -> np.ndarray:
        """Return the `(4, 4)` covariance matrix of the images themselves."""
        return self.matrices.sum(axis=0)

    def filtered(self, transfer: np.ndarray) -> RingCovariance:
        """Return what the covariances would be if the denoiser were a linear filter.

        Parameters
        ----------
        transfer
            Gain of the filter in each ring, shape `(rings,)`; all ones is the unprocessed half.
        """
        ab = self.matrices[:, :2, :2]
        gain = np.asarray(transfer)[:, None, None]
        blocks = [[ab, gain * ab], [gain * ab, gain**2 * ab]]
        return RingCovariance(self.frequency, np.block(blocks))


@dataclass(frozen=True)
class Score:
    """Quality of a denoiser in one band; variances in the squared units of the halves.

    Attributes
    ----------
    r2
        Explained signal, 1 - mse_clean / signal_variance: 1 is perfect, 0 is a constant image.
    r2_corr
        Scale-free form, cov(f(a), b)^2 / (var f(a) * signal_variance).
    signal_variance, noise_variance
        Variance of the signal, and of the noise of one half.
    mse_clean
        Mean squared error against the unknown clean image.
    bias2, variance
        Its parts: what both predictions have wrong together, and what differs between them.
    """

    r2: float
    r2_corr: float
    signal_variance: float
    noise_variance: float
    mse_clean: float
    bias2: float
    variance: float


def _rfft2(image: np.ndarray) -> np.ndarray:
    return scipy.fft.rfft2(image, workers=-1)


def _histogram(rings: np.ndarray, values: np.ndarray, n_rings: int) -> np.ndarray:
    return np.bincount(rings.ravel(), values.ravel(), n_rings)


def ring_covariance(
    images: Sequence[Any],
    sampling_rate: float,
    rfft2: Callable[[Any], Any] = _rfft2,
    histogram: Callable[[np.ndarray, Any, int], np.ndarray] = _histogram,
) -> RingCovariance:
    """Measure the ring-wise covariances of one micrograph.

    Parameters
    ----------
    images
        Odd, even, denoised odd, denoised even: arrays of one shape `(y, x)` on one scale.
    sampling_rate
        A/px.
    rfft2, histogram
        The Fourier transform, and the sum of weights by ring number: NumPy's, unless the images live on a GPU.
    """
    shape = (int(images[0].shape[0]), int(images[0].shape[1]))
    spectra = [rfft2(image - image.mean()) for image in images]
    rings, weights, frequency = _rings(shape)
    matrices = np.zeros((len(frequency), 4, 4))
    for i in range(4):
        for j in range(i, 4):
            product = spectra[i].real * spectra[j].real + spectra[i].imag * spectra[j].imag
            product[:, weights] *= 2  # the half of the plane that a real transform leaves out
            matrices[:, i, j] = matrices[:, j, i] = histogram(rings, product, len(frequency))
    return RingCovariance(frequency / sampling_rate, matrices / float(shape[0] * shape[1]) ** 2)


def pool(covariances: Sequence[RingCovariance]) -> RingCovariance:
    """Return the mean over micrographs; those with other rings (another size) are brought to the first one's rings."""
    first = covariances[0]
    total = np.zeros_like(first.matrices)
    for covariance in covariances:
        edges = (first.frequency[1:-1] + first.frequency[:-2]) / 2
        ring = np.where(np.isinf(covariance.frequency), len(total) - 1, np.searchsorted(edges, covariance.frequency))
        np.add.at(total, ring, covariance.matrices)
    return RingCovariance(first.frequency, total / len(covariances))


def score(covariance: np.ndarray) -> Score:
    """Return the quality numbers of a `(4, 4)` covariance matrix of (a, b, f(a), f(b)), both directions averaged."""
    c = covariance
    noise = (c[A, A] + c[B, B] - 2 * c[A, B]) / 2
    signal = c[A, B]
    forward = c[FA, FA] - 2 * c[FA, B] + c[B, B]
    backward = c[FB, FB] - 2 * c[FB, A] + c[A, A]
    mse_clean = (forward + backward) / 2 - noise
    bias2 = c[FA, FB] - c[FA, B] - c[FB, A] + c[A, B]
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = 1 - mse_clean / signal
        correlations = [c[FA, B] ** 2 / (c[FA, FA] * signal), c[FB, A] ** 2 / (c[FB, FB] * signal)]
    return Score(
        r2=float(r2),
        r2_corr=float(np.mean(correlations)),
        signal_variance=float(signal),
        noise_variance=float(noise),
        mse_clean=float(mse_clean),
        bias2=float(bias2),
        variance=float(mse_clean - bias2),
    )


def frc(covariance: RingCovariance) -> np.ndarray:
    """Return the Fourier ring correlation of the two halves, shape `(rings,)`."""
    m = covariance.matrices
    with np.errstate(divide="ignore", invalid="ignore"):
        return m[:, A, B] / np.sqrt(m[:, A, A] * m[:, B, B])


@functools.lru_cache(maxsize=1)
def _rings(shape: Tuple[int, int]) -> Tuple[np.ndarray, slice, np.ndarray]:
    """Return the ring number of every rfft2 coefficient, its columns that count twice, and the rings' frequencies.

    Rings are one coefficient of the shorter side wide. The coefficients beyond the Nyquist frequency make up a last
    ring of their own, of infinite frequency: in no band, but part of the total.
    """
    n_rings = min(shape) // 2
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    rings = np.clip(np.rint(frequency * 2 * n_rings).astype(np.int32), 1, n_rings + 1) - 1
    twice = slice(1, -1 if shape[1] % 2 == 0 else None)
    return rings, twice, np.append(np.arange(1, n_rings + 1) / (2.0 * n_rings), np.inf)
