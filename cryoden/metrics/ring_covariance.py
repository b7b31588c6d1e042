"""Honest numbers without ground truth, from the two halves of held-out micrographs.

Everything is derived from one thing: for each ring of the Fourier transform, the covariance matrix of the images
(a, b, f(a), f(b)), where a and b are the halves and f is the denoiser. Summed over the rings of a band it is the
covariance matrix of the band-passed images (Parseval), and every quantity below is a combination of its entries.
Several denoisers are measured together, (a, b, f1(a), f1(b), f2(a), f2(b), ...); `RingCovariance.of` takes one of them
out.

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
        Contribution of each ring to the covariance matrix of the images, float64 `(rings, n, n)`; n is 4 for the images
        (a, b, f(a), f(b)).
    """

    frequency: np.ndarray
    matrices: np.ndarray

    def in_band(self, band_A: Tuple[float, float] = SCORE_BAND_A) -> np.ndarray:
        """Return the `(n, n)` covariance matrix of the images band-passed between two periods (low, high) in A."""
        low, high = 1 / band_A[0], 1 / band_A[1]
        return self.matrices[(self.frequency >= low) & (self.frequency <= high)].sum(axis=0)

    def total(self) -> np.ndarray:
        """Return the `(n, n)` covariance matrix of the images themselves."""
        return self.matrices.sum(axis=0)

    def of(self, *images: int) -> RingCovariance:
        """Return the covariances of some of the images, in the given order."""
        return RingCovariance(self.frequency, self.matrices[:, images][:, :, images])

    def coarser(self, n_rings: int) -> RingCovariance:
        """Return at most `n_rings` wider rings up to Nyquist; what lies beyond Nyquist is left out."""
        n = len(self.frequency) - 1
        edges = np.unique(np.linspace(0, n, min(n_rings, n) + 1).round().astype(int))
        frequency = [self.frequency[first:last].mean() for first, last in zip(edges, edges[1:])]
        return RingCovariance(np.array(frequency), np.add.reduceat(self.matrices[:n], edges[:-1], axis=0))

    def on_rings(self, frequency: np.ndarray) -> RingCovariance:
        """Return the same covariances on other rings, each ring in the one that is nearest."""
        if np.array_equal(frequency, self.frequency):
            return self
        matrices = np.zeros((len(frequency), *self.matrices.shape[1:]))
        edges = (frequency[1:-1] + frequency[:-2]) / 2
        ring = np.where(np.isinf(self.frequency), len(matrices) - 1, np.searchsorted(edges, self.frequency))
        np.add.at(matrices, ring, self.matrices)
        return RingCovariance(frequency, matrices)

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
        Odd, even, denoised odd, denoised even, or any others: arrays of one shape `(y, x)` on one scale.
    sampling_rate
        A/px.
    rfft2, histogram
        The Fourier transform, and the sum of weights by ring number: NumPy's, unless the images live on a GPU.
    """
    shape = (int(images[0].shape[0]), int(images[0].shape[1]))
    spectra = [rfft2(image - image.mean()) for image in images]
    rings, weights, frequency = _rings(shape)
    n = len(images)
    matrices = np.zeros((len(frequency), n, n))
    for i in range(n):
        for j in range(i, n):
            product = spectra[i].real * spectra[j].real + spectra[i].imag * spectra[j].imag
            product[:, weights] *= 2  # the half of the plane that a real transform leaves out
            matrices[:, i, j] = matrices[:, j, i] = histogram(rings, product, len(frequency))
    return RingCovariance(frequency / sampling_rate, matrices / float(shape[0] * shape[1]) ** 2)


def pool(covariances: Sequence[RingCovariance]) -> RingCovariance:
    """Return the mean over micrographs; those with other rings (another size) are brought to the first one's rings."""
    frequency = covariances[0].frequency
    total = np.sum([covariance.on_rings(frequency).matrices for covariance in covariances], axis=0)
    return RingCovariance(frequency, total / len(covariances))


def score(covariance: np.ndarray) -> Score:
    """Return the quality numbers of a `(4, 4)` covariance matrix of (a, b, f(a), f(b)), both directions averaged."""
    c = covariance
    noise = (c[A, A] + c[B, B] - 2 * c[A, B]) / 2
    signal = c[A, B]
    forward = c[FA, FA] - 2 * c[FA, B] + c[B, B]
    backward = c[FB, FB] - 2 * c[FB, A] + c[A, A]
    # A half's noise is not in the other half: what is left of the error without it is against the clean image.
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


def frc(covariance: RingCovariance, first: int = A, second: int = B) -> np.ndarray:
    """Return the Fourier ring correlation of two of the images (the halves), shape `(rings,)`."""
    m = covariance.matrices
    with np.errstate(divide="ignore", invalid="ignore"):
        return m[:, first, second] / np.sqrt(m[:, first, first] * m[:, second, second])


def frc_clean(covariance: RingCovariance) -> np.ndarray:
    """Return FRC(f(a), b) / sqrt(FRC(a, b)), the ring correlation of prediction and unknown clean image.

    Mean of both directions, shape `(rings,)`; NaN where the halves do not correlate. The ring correlation of the two
    predictions, which rises to 1 for any hallucination, is deliberately not offered.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return (frc(covariance, FA, B) + frc(covariance, FB, A)) / 2 / np.sqrt(frc(covariance))


def psnr(mean_squared_error: float, data_range: float) -> float:
    """Return the peak signal-to-noise ratio in dB; NaN for an error that chance made negative."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(-10 * np.log10(np.float64(mean_squared_error) / data_range**2))


def ring_frequencies(shape: Tuple[int, ...]) -> np.ndarray:
    """Return the spatial frequency of every rfft2 coefficient of an image `(y, x)` in 1/px."""
    return np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])


@functools.lru_cache(maxsize=2)
def _rings(shape: Tuple[int, int]) -> Tuple[np.ndarray, slice, np.ndarray]:
    """Return the ring number of every rfft2 coefficient, its columns that count twice, and the rings' frequencies.

    Rings are one coefficient of the shorter side wide. The coefficients beyond the Nyquist frequency make up a last
    ring of their own, of infinite frequency: in no band, but part of the total.
    """
    n_rings = min(shape) // 2
    frequency = ring_frequencies(shape)
    rings = np.clip(np.rint(frequency * 2 * n_rings).astype(np.int32), 1, n_rings + 1) - 1
    twice = slice(1, -1 if shape[1] % 2 == 0 else None)
    return rings, twice, np.append(np.arange(1, n_rings + 1) / (2.0 * n_rings), np.inf)
