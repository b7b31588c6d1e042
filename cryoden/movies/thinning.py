"""Two halves of one exposure without frames: its counted electrons are dealt at random.

Binomial thinning of a Poisson number gives two Poisson numbers that are independent of each other, and the more an
image's noise differs from Poisson's, the less they are. So nothing is dealt before an image has shown that it holds
counts, and that their noise is white.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import numpy as np

from cryoden.errors import PixelError
from cryoden.movies.noise_spectrum import band_powers

TOLERANCE = 0.05
"""By how much variance over mean, and the powers of bands, may differ from those of white Poisson noise. With 5 % the
noise of thinned halves correlates by 0.025."""

CHANCE_DEVIATIONS = 4.0
"""Added to that: what chance does in small images."""

MAX_OFF_STEP = 0.001
"""Share of pixels that need not be whole counts: defects that the detector's software filled in."""

BULK_PERCENTILES = (1, 99)
"""Between these, grey values lie densely: steps are looked for there."""

SAMPLED_PIXELS = 1 << 20
"""From which the step is found."""

OUTLIER_DEVIATIONS = 8.0
"""Above so many deviations a pixel is hot; it is measured as if it lay there."""

MAD_DEVIATIONS = 1.4826
"""Deviations of a normal distribution in its median absolute deviation."""

OFF_STEP = 0.02
"""Distance from a whole count, in counts, from which a pixel is none; images of integers may be rounded beside."""


@dataclass(frozen=True)
class CountStatistics:
    """What was measured of an image's grey values.

    Attributes
    ----------
    step
        Grey values per electron, found in the image.
    off_step
        Share of pixels that are no multiple of it.
    variance_over_mean
        Of the noise, in steps; 1 for Poisson counts.
    flatness
        Largest power of the noise in a band of frequencies over the smallest; 1 for white noise.
    chance
        By how much both may differ from 1 by chance (one deviation).
    mean_count
        Electrons per pixel.
    """

    step: float
    off_step: float
    variance_over_mean: float
    flatness: float
    chance: float
    mean_count: float

    def __str__(self) -> str:
        return (
            f"smallest step {self.step:.6g}, {100 * self.off_step:.2g} % of the pixels no multiple of it, variance "
            f"over mean {self.variance_over_mean:.3g} steps (1 in Poisson counts), strongest over weakest band of the "
            f"noise {self.flatness:.3g} (1 in white noise)"
        )


def counts_of(image: np.ndarray, path: str) -> Tuple[np.ndarray, CountStatistics]:
    """Return the electrons that were counted in each pixel, int64 `(y, x)`, of an image that holds such counts.

    Parameters
    ----------
    image
        As stored: counts times a factor, the same for all pixels.
    path
        The file, for messages.

    Raises
    ------
    PixelError
        If it does not hold counts with white Poisson noise; the message has the numbers that were measured.
    """
    smallest = float(image.min())  # NaN where any pixel is
    if not smallest >= 0 or not np.isfinite(image.max()):
        raise _refused(path, f"it has values such as {smallest:g}, and counts are finite and never below 0")
    statistics, counts = _measure(image)

    allowed = TOLERANCE + CHANCE_DEVIATIONS * statistics.chance
    if statistics.off_step > MAX_OFF_STEP:
        raise _refused(path, f"its values are no multiples of one step. Measured: {statistics}")
    if statistics.flatness - 1 > allowed:
        raise _refused(path, f"the noise of its neighbouring pixels is correlated. Measured: {statistics}")
    if abs(statistics.variance_over_mean - 1) > allowed:
        raise _refused(path, f"its noise is not that of counts. Measured: {statistics}")
    return counts, statistics


def thin(counts: np.ndarray, n_parts: int, rng: np.random.Generator) -> np.ndarray:
    """Deal the electrons of every pixel to several images at random.

    Parameters
    ----------
    counts
        Electrons, whole numbers of shape `(y, x)`.
    n_parts
        How many images.
    rng
        Source of chance.

    Returns
    -------
    parts
        Shape `(n_parts, y, x)`, of the smallest type that holds the counts; their sum is `counts`.
    """
    parts = np.empty((n_parts, *counts.shape), dtype=np.min_scalar_type(int(counts.max(initial=0))))
    left = counts.copy()
    for part in range(n_parts - 1):
        parts[part] = dealt = rng.binomial(left, 1.0 / (n_parts - part))
        left -= dealt
    parts[-1] = left
    return parts


def _measure(image: np.ndarray) -> Tuple[CountStatistics, np.ndarray]:
    values = image.astype(np.float64)
    step = _step(values)
    counts = np.rint(values / step)

    # Integers are rounded multiples of a step that is no whole number itself, such as 103.7.
    rounding = 0.5 if np.issubdtype(image.dtype, np.integer) and step > 1 else 0.0
    storage = np.finfo(image.dtype).eps * values if np.issubdtype(image.dtype, np.floating) else 0.0
    off_step = float((np.abs(values - step * counts) > OFF_STEP * step + rounding + storage).mean())

    electrons = values / step
    middle = float(np.median(electrons))
    deviation = max(MAD_DEVIATIONS * float(np.median(np.abs(electrons - middle))), np.sqrt(middle + 1))
    calm = np.minimum(electrons, middle + OUTLIER_DEVIATIONS * deviation)
    mean = float(calm.mean())
    powers, chance = band_powers(calm)
    variance = float(powers.mean() / mean) if mean else 0.0
    flatness = float(powers.max() / powers.min()) if powers.min() > 0 else float("inf")
    return CountStatistics(step, off_step, variance, flatness, chance, mean), counts.astype(np.int64)


def _step(values: np.ndarray) -> float:
    """Return the distance of neighbouring grey values; 1 where there is one value only."""
    values = values.ravel()[:: max(1, values.size // SAMPLED_PIXELS)]
    low, high = np.percentile(values, BULK_PERCENTILES)
    bulk = values[(values >= low) & (values <= high)]
    gaps = np.diff(np.unique(bulk))
    if not gaps.size:
        return 1.0
    usual = float(np.median(gaps))
    step = float(gaps.sum() / max(1.0, np.rint(gaps / usual).sum()))

    for _ in range(2):  # the longer lever: from 0 to the grey values themselves
        counts = np.rint(bulk / step)
        step = float(bulk @ counts / (counts @ counts)) if counts.any() else step
    return step


def _refused(path: str, why: str) -> PixelError:
    return PixelError(
        f"{path} cannot be dealt to two halves: {why}. It must be the unprocessed sum of a counting detector; images "
        "that were interpolated, weighted or averaged are not. Make halves of its movie instead.",
        subject=path,
    )
