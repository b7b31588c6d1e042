"""How far a number can be trusted: the bootstrap over micrographs, and a formula where there is only one."""

from __future__ import annotations

from typing import Dict, Optional, Sequence, Tuple

import numpy as np

from cryoden.metrics.ring_covariance import Score


def resamplings(n_micrographs: int, n_resamplings: int, seed: int) -> np.ndarray:
    """Return how often each micrograph is drawn, `(n_resamplings, n_micrographs)`, rows summing to `n_micrographs`.

    The same seed gives the same draws, so that denoisers are compared on the same ones.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_micrographs, np.full(n_micrographs, 1 / n_micrographs), n_resamplings)


def resampled_means(values: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return the mean over micrographs of each resampling, `(n_resamplings, ...)`.

    Parameters
    ----------
    values
        What is averaged over micrographs, such as covariance matrices, `(n_micrographs, ...)`.
    draws
        Of `resamplings`.
    """
    n = len(values)
    return (draws @ values.reshape(n, -1) / n).reshape(len(draws), *values.shape[1:])


def bootstrap_errors(n_micrographs: int, samples: Sequence[Dict[str, float]]) -> Dict[str, Optional[float]]:
    """Return the standard error of each quantity over micrographs (Efron 1979, Ann. Statist. 7, 1).

    The bootstrap of few micrographs is too narrow by sqrt((n-1)/n), which is corrected.

    Parameters
    ----------
    n_micrographs
        That were drawn from.
    samples
        For each resampling, named numbers of its average.

    Returns
    -------
    errors
        None for each quantity where there is one micrograph only, or where fewer than two samples are numbers.
    """
    names = list(samples[0])
    if n_micrographs < 2:
        return dict.fromkeys(names)
    spread = {name: np.array([sample[name] for sample in samples]) for name in names}
    correction = np.sqrt(n_micrographs / (n_micrographs - 1))
    return {
        name: float(np.nanstd(array) * correction) if np.isfinite(array).sum() > 1 else None
        for name, array in spread.items()
    }


def formula_error(score: Score, n_coefficients: float) -> float:
    """Return the standard error of R2 of one micrograph from the noise alone.

    The error of MSE_clean is sigma2 / sqrt(N); the same noise is in the signal variance by which it is divided.
    """
    if not score.signal_variance > 0:
        return float("inf")
    error = score.noise_variance / np.sqrt(max(n_coefficients, 1.0))
    return float(error * np.hypot(1.0, 1.0 - score.r2) / score.signal_variance)


def coefficients_in_band(shape: Sequence[int], sampling_rate: float, band_A: Tuple[float, float]) -> float:
    """Return about how many independent Fourier coefficients of an image lie between two periods in A."""
    low = sampling_rate / band_A[0]
    high = min(sampling_rate / band_A[1], 0.5)  # Nyquist
    return float(np.pi * max(high**2 - low**2, 0.0) * shape[0] * shape[1])
