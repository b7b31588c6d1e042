"""How far a number can be trusted: the bootstrap over micrographs, and a formula where there is only one."""

from __future__ import annotations

from typing import Callable, Dict, Optional, Sequence, Tuple

import numpy as np

from cryoden.metrics.ring_covariance import Score


def resamplings(n_micrographs: int, n_resamplings: int, seed: int) -> np.ndarray:
    """Return how often each micrograph is drawn, `(n_resamplings, n_micrographs)`, rows summing to `n_micrographs`.

    The same seed gives the same draws, so that denoisers are compared on the same ones.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_micrographs, np.full(n_micrographs, 1 / n_micrographs), n_resamplings)


def bootstrap_errors(
    values: np.ndarray, draws: np.ndarray, quantities: Callable[[np.ndarray], Dict[str, float]]
) -> Dict[str, Optional[float]]:
    """Return the standard error of each quantity over micrographs (Efron 1979, Ann. Statist. 7, 1).

    Parameters
    ----------
    values
        What is averaged over micrographs, such as covariance matrices, `(n_micrographs, ...)`.
    draws
        Of `resamplings`.
    quantities
        Makes named numbers of an average. The bootstrap of few micrographs is too narrow by sqrt((n-1)/n), which is
        corrected; None for each where there is one micrograph only.
    """
    n = len(values)
    names = list(quantities(values.mean(axis=0)))
    if n < 2:
        return dict.fromkeys(names)
    flat = values.reshape(n, -1)
    samples = [quantities(mean.reshape(values.shape[1:])) for mean in draws @ flat / n]
    spread = {name: np.array([sample[name] for sample in samples]) for name in names}
    return {
        name: float(np.nanstd(array) * np.sqrt(n / (n - 1))) if np.isfinite(array).sum() > 1 else None
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
    low, high = sampling_rate / band_A[0], min(sampling_rate / band_A[1], 0.5)
    return float(np.pi * max(high**2 - low**2, 0.0) * shape[0] * shape[1])
