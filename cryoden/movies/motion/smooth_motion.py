"""Smooth motion from noisy measurements: as smooth as the measurements themselves say, by their evidence.

What is measured of a frame is its place plus noise of a known size; specimens move smoothly. Both are Gaussian models
whose few parameters are those under which the measurements are most probable (Rasmussen & Williams 2006, Gaussian
processes for machine learning, chapter 5; as a prior on beam-induced motion: Zivanov et al. 2019, IUCrJ 6, 5-17).
"""

from __future__ import annotations

from itertools import product
from typing import Callable, Sequence, Tuple

import numpy as np
import scipy.linalg

from cryoden.movies.motion.local_motion import FRAME_MIDDLE, POWERS

FREE = 1e6
"""Variance (px^2) of what the measurements alone decide."""

WALKS = (0.0, *np.geomspace(1e-4, 1e4, 17))
"""Variances of the steps of a random walk that are tried, px^2 per frame."""

BENDS = (0.0, *np.geomspace(1e-7, 1e2, 19))
"""Variances of the changes of velocity that are tried, px^2 per frame^3."""

FIELDS = (0.0, *np.geomspace(1e-3, 1e3, 13))
"""Variances of local motion that are tried, px^2."""

TINY = 1e-9
"""Variance (px^2) of a field that is none."""

LEAST_EVIDENCE = -7.0
"""Models that are a thousand times less probable than the best one are not asked."""

DEGREES = 4.0
"""Of freedom of the t-distribution that a measurement's error may have: some are far out."""

N_ROBUST = 4
"""Rounds in which far-out measurements lose weight."""


def smooth_trajectory(measured: np.ndarray, variances: np.ndarray, times: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the most probable trajectory.

    It is a constant velocity, a velocity that wanders, and a random walk, each as large as the evidence says; where it
    jumps, the walk is so large that nothing is smoothed.

    Parameters
    ----------
    measured
        Places `(n, 2)`, px.
    variances
        Of their errors, `(n, 2)`, px^2.
    times
        When they were measured `(n,)`, in frames.
    at
        When the places are wanted, `(m,)`, in frames.

    Returns
    -------
    places
        `(m, 2)`, px.
    """
    origin = min(times.min(), at.min())
    result = np.empty((len(at), 2))
    for axis in range(2):
        result[:, axis] = _smooth_axis(measured[:, axis], variances[:, axis], times - origin, at - origin)
    return result


def _smooth_axis(measured: np.ndarray, variances: np.ndarray, times: np.ndarray, at: np.ndarray) -> np.ndarray:
    free = FREE * (1 + np.outer(times, times))
    walk, bend = np.minimum.outer(times, times), _velocity_kernel(times, times)

    sizes = list(product(WALKS, BENDS))
    fits = [
        _explained(measured, free + walk_size * walk + bend_size * bend + np.diag(variances))
        for walk_size, bend_size in sizes
    ]
    free_at, walk_at, bend_at = (
        FREE * (1 + np.outer(at, times)), np.minimum.outer(at, times), _velocity_kernel(at, times)
    )  # fmt: skip
    return _averaged(
        [evidence for evidence, _ in fits],
        lambda number: (free_at + sizes[number][0] * walk_at + sizes[number][1] * bend_at) @ fits[number][1],
    )


def _averaged(evidences: Sequence[float], answer: Callable[[int], np.ndarray]) -> np.ndarray:
    """Return the mean of the answers of several models, each as probable as its evidence says.

    The most probable one alone would flip to another when the measurements change by very little.
    """
    relative = np.array(evidences) - max(evidences)
    weights = np.where(relative > LEAST_EVIDENCE, np.exp(relative), 0.0)
    weights /= weights.sum()
    return np.sum([weights[number] * answer(number) for number in np.flatnonzero(weights)], axis=0)


def _velocity_kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the covariance of places when the velocity is a random walk (the cubic smoothing spline's)."""
    small, large = np.minimum.outer(one, other), np.maximum.outer(one, other)
    return small**2 * (3 * large - small) / 6


def _explained(values: np.ndarray, covariance: np.ndarray) -> Tuple[float, np.ndarray]:
    """Return the log evidence of values of a Gaussian with mean 0, but for a constant, and covariance^-1 @ values."""
    factor = scipy.linalg.cho_factor(covariance, lower=True, check_finite=False)
    solution = scipy.linalg.cho_solve(factor, values, check_finite=False)
    return float(-0.5 * values @ solution - np.log(np.diag(factor[0])).sum()), solution


def fit_local_motion(
    measured: np.ndarray, variances: np.ndarray, places: np.ndarray, times: np.ndarray, n_frames: int
) -> np.ndarray:
    """Return the polynomial of local motion that is most probable; 0 where the measurements are no evidence of one.

    The model is that of `LocalMotionModel`: terms 1, x, x^2, y, y^2, xy, times z, z^2, z^3. What all frames of a patch
    have in common is free, since each patch is compared with itself.

    Parameters
    ----------
    measured
        Shifts `(patches, groups, 2)`, px, beyond those of the frames as a whole.
    variances
        Of their errors, of the same shape, px^2.
    places
        Centres of the patches `(patches, 2)`, x and y from -1/2 to 1/2.
    times
        Of the groups `(groups,)`: the middle of their frames, counted from 0 at the beginning of the first.
    n_frames
        Of the movie.

    Returns
    -------
    coefficients
        `(2, 6, 3)`.
    """
    terms = places[:, 1, None] ** POWERS[:, 0] * places[:, 0, None] ** POWERS[:, 1]
    powers = (times / n_frames)[:, None] ** [1, 2, 3]
    features = (terms[:, None, :, None] * powers[None, :, None, :]).reshape(len(places) * len(times), -1)
    mixing = _orthonormal(n_frames)
    design = features @ mixing
    of_patch = np.repeat(np.eye(len(places)), len(times), axis=0)

    coefficients = np.empty((2, len(POWERS), 3))
    for axis in range(2):
        values, noise = measured[..., axis].ravel(), variances[..., axis].ravel()
        solution = _evident_solution(design, of_patch, values, noise)
        coefficients[axis] = (mixing @ solution).reshape(len(POWERS), 3)
    return coefficients / n_frames ** np.array([1.0, 2.0, 3.0])


def _orthonormal(n_frames: int) -> np.ndarray:
    """Return the matrix that makes independent motions of equal mean square, over image and time, of the features.

    So that one number, the mean square of the motion, is all that is assumed about it.
    """
    side = (np.arange(8) + 0.5) / 8 - 0.5
    y, x = np.repeat(side, 8), np.tile(side, 8)
    terms = y[:, None] ** POWERS[:, 0] * x[:, None] ** POWERS[:, 1]
    powers = ((np.arange(n_frames) + FRAME_MIDDLE) / n_frames)[:, None] ** [1, 2, 3]
    features = (terms[:, None, :, None] * powers[None, :, None, :]).reshape(len(terms) * n_frames, -1)
    upper = np.linalg.qr(features / np.sqrt(len(features)), mode="r")
    return np.linalg.inv(upper)


def _evident_solution(design: np.ndarray, free: np.ndarray, values: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return the most probable coefficients `(n,)` of a design, with free ones beside them.

    Errors are t-distributed: a measurement that is far out counts less in the next round.
    """
    n_coefficients = design.shape[1]
    both = np.concatenate([design, free], axis=1)
    spread = variances.copy()
    solution = np.zeros(both.shape[1])
    for _ in range(N_ROBUST):
        weighted = both / spread[:, None]
        fits = [_posterior(both.T @ weighted, weighted.T @ values, n_coefficients, size) for size in FIELDS]
        solution = _averaged([evidence for evidence, _ in fits], [fit for _, fit in fits].__getitem__)
        squares = (values - both @ solution) ** 2
        spread = variances * (DEGREES + squares / variances) / (DEGREES + 1)
    return solution[:n_coefficients]


def _posterior(
    information: np.ndarray, projected: np.ndarray, n_coefficients: int, size: float
) -> Tuple[float, np.ndarray]:
    """Return the log evidence of a field of mean square `size`, but for a constant, and the most probable solution."""
    per_coefficient = n_coefficients / max(size, TINY)
    prior = np.full(len(projected), 1 / FREE)
    prior[:n_coefficients] = per_coefficient
    factor = scipy.linalg.cho_factor(information + np.diag(prior), lower=True, check_finite=False)
    solution = scipy.linalg.cho_solve(factor, projected, check_finite=False)
    log_evidence = 0.5 * projected @ solution - np.log(np.diag(factor[0])).sum()
    return float(log_evidence + 0.5 * n_coefficients * np.log(per_coefficient)), solution
