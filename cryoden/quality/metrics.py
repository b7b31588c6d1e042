"""Honest numbers without ground truth, from the two halves of held-out micrographs.

Everything is derived from one thing: for each ring of the Fourier transform, the 4 x 4 covariance matrix of the images
(a, b, f(a), f(b)), where a and b are the halves and f is the denoiser. Summed over the rings of a band it is the
covariance matrix of the band-passed images (Parseval), and every quantity below is a combination of its entries.

Source: Noise2Noise (Lehtinen et al. 2018, ICML) for E|f(a) - b|^2 = E|f(a) - s|^2 + sigma^2; the other identities
follow from a = s + n1, b = s + n2 with independent zero-mean noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence, Tuple

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
        Mean spatial frequency of each ring in 1/A, shape `(rings,)`.
    matrices
        Contribution of each ring to the covariance matrix of (a, b, f(a), f(b)), float64 `(rings, 4, 4)`.
    """

    frequency: np.ndarray
    matrices: np.ndarray

    def in_band(self, band_A: Tuple[float, float] = SCORE_BAND_A) -> np.ndarray:
        """Return the `(4, 4)` covariance matrix of the images band-passed between two periods (low, high) in A."""
        low, high = 1 / band_A[0], 1 / band_A[1]
        return self.matrices[(self.frequency >= low) & (self.frequency <= high)].sum(axis=0)

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


def ring_covariance(
    odd: np.ndarray,
    even: np.ndarray,
    denoised_odd: np.ndarray,
    denoised_even: np.ndarray,
    sampling_rate: float,
) -> RingCovariance:
    """Measure the ring-wise covariances of one micrograph.

    Parameters
    ----------
    odd, even, denoised_odd, denoised_even
        Images of one shape `(y, x)` on one scale.
    sampling_rate
        A/px.
    """
    shape = (odd.shape[0], odd.shape[1])
    spectra = [
        scipy.fft.rfft2(image - np.float32(image.mean(dtype=np.float64)), workers=-1)
        for image in (odd, even, denoised_odd, denoised_even)
    ]
    rings, weights, frequency = _rings(shape)
    weights = weights / float(shape[0] * shape[1]) ** 2
    matrices = np.zeros((len(frequency), 4, 4))
    for i in range(4):
        for j in range(i, 4):
            product = spectra[i].real * spectra[j].real + spectra[i].imag * spectra[j].imag
            sums = np.bincount(rings.ravel(), (product * weights).ravel(), minlength=len(frequency) + 1)
            matrices[:, i, j] = matrices[:, j, i] = sums[: len(frequency)]
    return RingCovariance(frequency / sampling_rate, matrices)


def pool(covariances: Sequence[RingCovariance]) -> RingCovariance:
    """Return the mean over micrographs; those with other rings (another size) are brought to the first one's rings."""
    first = covariances[0]
    total = np.zeros_like(first.matrices)
    for covariance in covariances:
        edges = (first.frequency[1:] + first.frequency[:-1]) / 2
        np.add.at(total, np.searchsorted(edges, covariance.frequency), covariance.matrices)
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


def _rings(shape: Tuple[int, int]) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ring number and weight of every rfft2 coefficient and the frequency of every ring in cycles per pixel.

    Rings are one coefficient of the shorter side wide; coefficients beyond the Nyquist frequency get the number after
    the last ring.
    """
    n_rings = min(shape) // 2
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    rings = np.minimum(np.rint(frequency * 2 * n_rings).astype(np.int64), n_rings + 1)
    rings = np.where(rings == 0, 1, rings) - 1
    weights = np.full(frequency.shape, 2.0)
    weights[:, 0] = 1.0
    if shape[1] % 2 == 0:
        weights[:, -1] = 1.0
    return rings, weights, np.arange(1, n_rings + 1) / (2.0 * n_rings)
