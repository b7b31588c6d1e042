"""Pixels that stand out of their neighbourhood in the sum of all frames: found, and replaced in every frame or sum."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

import numpy as np
import scipy.ndimage
from scipy.special import betainc

from cryoden.movies.motion.arrays import Array, Arrays

REACH = 2
"""Rows and columns on either side that make the neighbourhood of a pixel (5 x 5)."""

HALO = 3 * REACH
"""Rows above and below a band that are needed to find and replace its bad pixels as in the whole image."""

TO_DEVIATION = 1.4826
"""Median of absolute differences -> deviation, for normal noise."""

PART_COLUMNS = 256
"""Columns of the parts of a row whose mean and noise are measured together."""

CHANCE = 1e-6
"""Probability at which counting statistics alone make a good pixel stand out so far: one in a Mpx."""

CONTRAST = 1.2
"""By how much a pixel may differ from its neighbourhood for what is there: the optics blurs all specimens."""

LEAST_MEAN = 0.05
"""Mean of a part in deviations of its noise, below which its grey values are no counts (0.0025 electrons a pixel)."""


class RowStatistics(NamedTuple):
    """Of the sum of all frames, `(rows, parts)` and `(rows, 1)`.

    Attributes
    ----------
    mean
        Of every part of a row; the lowest of the rows within reach, so that a hot row is not its own measure.
    quantum
        Grey value of one count: variance over mean of a row. NaN where there are no counts.
    """

    mean: np.ndarray
    quantum: np.ndarray


def find_by_counts(
    odd: np.ndarray,
    even: np.ndarray,
    n_frames: Tuple[int, int],
    gain: Optional[np.ndarray] = None,
    known: Optional[np.ndarray] = None,
) -> np.ndarray:
    """Return rows and columns `(2, n)` of the pixels that counted too much or too little for their neighbourhood.

    The bound follows the counts: with x counts in a pixel and S in n pixels around it, x is binomial in x + S trials of
    probability 1 / (n + 1), however many electrons there are. A good pixel is found with a probability of `CHANCE`,
    from no electrons to many. Bands of an image give the same pixels as the whole image.

    Parameters
    ----------
    odd, even
        Sums of the odd and of the even frames, times the gain, float32 `(y, x)`. Their difference says how much noise
        there is, and so what one count is worth; the specimen is not in it.
    n_frames
        Odd and even.
    gain
        Gain of every pixel; those where it is 0 are bad in any case. None = 1.
    known
        Mask of other pixels that are bad in any case.

    Notes
    -----
    The conditional test of two Poisson rates: Przyborowski & Wilenski, Biometrika 31 (1940) 313.
    """
    total = odd + even
    statistics = _measure_rows(odd, even, total, n_frames)
    is_high, is_low = _candidates(total, statistics)
    dead = np.zeros(total.shape, dtype=bool) if gain is None else gain == 0
    if known is not None:
        dead |= known
    is_suspect = is_high | is_low | dead

    for mask, is_hot in ((is_high, True), (is_low, False)):
        places = _places(mask & ~dead)
        chance = _chances(total, places, is_suspect, statistics.quantum, gain, is_hot)
        is_good = chance >= CHANCE
        mask[places[0][is_good], places[1][is_good]] = False
    return np.array(_places(is_high | is_low | dead))


def _measure_rows(odd: np.ndarray, even: np.ndarray, total: np.ndarray, n_frames: Tuple[int, int]) -> RowStatistics:
    """Measure the parts of every row."""
    mean = _parts(total).mean(axis=2)

    # Var(odd + even) from their difference, in which the mean of a pixel cancels also where one half has a frame more.
    n_odd, n_even = n_frames
    difference = odd - even if n_odd == n_even else odd * np.sqrt(n_even / n_odd) - even * np.sqrt(n_odd / n_even)
    parts = _parts(difference.astype(np.float32, copy=False))
    variance = np.einsum("rpc,rpc->rp", parts, parts) / parts.shape[2]

    # The median of the parts: a particle that hit one of them in one frame must not blind the row.
    has_counts = (mean > LEAST_MEAN * np.sqrt(variance)) & (variance > 0)
    ratios = np.sort(np.where(has_counts, variance / np.where(has_counts, mean, 1), 0), axis=1)
    n_without = (ratios == 0).sum(axis=1, keepdims=True)
    n_parts = ratios.shape[1]
    middle = np.minimum(n_without + (n_parts - n_without) // 2, n_parts - 1)
    quantum = np.take_along_axis(ratios, middle, axis=1)
    quantum[quantum == 0] = np.nan
    return RowStatistics(scipy.ndimage.minimum_filter1d(mean, 2 * REACH + 1, axis=0), quantum)


def _parts(image: np.ndarray) -> np.ndarray:
    """Return the rows of an image in parts of one width, `(rows, parts, columns)`, without some last columns."""
    n_rows, n_columns = image.shape
    n_parts = max(1, n_columns // PART_COLUMNS)
    width = n_columns // n_parts
    return image[:, : n_parts * width].reshape(n_rows, n_parts, width)


def _candidates(total: np.ndarray, statistics: RowStatistics) -> Tuple[np.ndarray, np.ndarray]:
    """Return masks of the pixels far above and far below their part of the row: few, but all that can be bad."""
    mean = np.maximum(statistics.mean, 0)
    spread = 4 * np.sqrt(mean * statistics.quantum)
    above = (mean + spread + 2 * statistics.quantum).astype(np.float32)
    below = (mean - spread).astype(np.float32)
    return _compared(np.greater, total, above), _compared(np.less, total, below)


def _compared(compare: np.ufunc, total: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Compare pixels with the bound of their part of the row; return a mask. No pixel is beyond NaN."""
    mask = np.empty(total.shape, dtype=bool)
    compare(_parts(total), bounds[:, :, None], out=_parts(mask))

    n_in_parts = bounds.shape[1] * (total.shape[1] // bounds.shape[1])
    compare(total[:, n_in_parts:], bounds[:, -1:], out=mask[:, n_in_parts:])
    return mask


def _chances(
    total: np.ndarray,
    places: Tuple[np.ndarray, ...],
    is_suspect: np.ndarray,
    quantum: np.ndarray,
    gain: Optional[np.ndarray],
    is_hot: bool,
) -> np.ndarray:
    """Return the probability of so high (or low) a count as that of each place, from the pixels around it."""
    around = _neighbourhoods(total, places)
    is_used = ~_neighbourhoods(is_suspect, places)
    n_used = np.maximum(is_used.sum(axis=1), 1)
    mean = np.where(is_used, around, 0).sum(axis=1) / n_used

    # Where suspects fill much of the neighbourhood (the edge of a shadow) they are what is normal there.
    median = np.median(around, axis=1)
    mean = np.maximum(np.maximum(mean, median) if is_hot else np.minimum(mean, median), 0)

    value_of_count = quantum[places[0], 0]
    if gain is not None:
        gains = _neighbourhoods(gain, places)
        value_of_count = value_of_count * gain[places] / np.maximum(gains.mean(axis=1), 1e-6)
    counts = np.maximum(total[places], 0) / value_of_count
    counts_around = mean * n_used / value_of_count

    ratio = CONTRAST if is_hot else 1 / CONTRAST
    share = ratio / (n_used + ratio)
    if is_hot:
        return betainc(np.maximum(counts, 1e-9), counts_around + 1, share)
    return betainc(np.maximum(counts_around, 1e-9), counts + 1, 1 - share)


def find_by_deviations(total: np.ndarray, n_deviations: float, dead: Optional[np.ndarray] = None) -> np.ndarray:
    """Return rows and columns `(2, n)` of the pixels to replace.

    A pixel is hot if it lies more than `n_deviations` above the median of its 5 x 5 neighbourhood. The deviation is a
    robust one of its row (median absolute difference to the mean of the neighbourhood), so that bands of an image
    give the same pixels as the whole image.

    Parameters
    ----------
    total
        Sum of all frames, float32 `(y, x)`.
    n_deviations
        Above 0.
    dead
        Mask of pixels that are bad in any case.
    """
    above = total - scipy.ndimage.uniform_filter(total, 2 * REACH + 1, mode="reflect")
    deviation = TO_DEVIATION * np.median(np.abs(above), axis=1, keepdims=True)

    # Up to half of the neighbourhood may be hot too: then its mean takes away half of the height, its median nothing.
    candidates = _places(above > 0.5 * n_deviations * deviation)
    medians = np.median(_neighbourhoods(total, candidates), axis=1)
    is_hot = total[candidates] - medians > n_deviations * deviation[candidates[0], 0]

    bad = np.zeros(total.shape, dtype=bool) if dead is None else dead.copy()
    bad[candidates[0][is_hot], candidates[1][is_hot]] = True
    return np.array(_places(bad))


class Replacement:
    """Bad pixels that become the mean of the good ones in their neighbourhood, in images of one shape.

    It is linear: replacing in every frame and summing gives the same as replacing in the sum. A pixel without good
    neighbours becomes the mean of the good pixels of its row (or of the image, if there is none).

    Parameters
    ----------
    bad
        Rows and columns `(2, n)`.
    shape
        Of the images.
    arrays
        What computes, which is where the images are; None = NumPy.
    """

    def __init__(self, bad: np.ndarray, shape: Tuple[int, int], arrays: Optional[Arrays] = None) -> None:
        self._arrays = arrays = arrays or Arrays()
        self._shape, self._flat = shape, np.sort(bad[0] * shape[1] + bad[1])
        if not bad.size:
            return
        is_good = np.ones(shape, dtype=bool)
        is_good.reshape(-1)[self._flat] = False
        rows, columns = _around((self._flat // shape[1], self._flat % shape[1]), shape)
        good = is_good[rows, columns].reshape(bad.shape[1], (2 * REACH + 1) ** 2)
        n_good = good.sum(axis=1)

        self._pixels = arrays.device(self._flat)
        self._good, self._n_good = arrays.device(good), arrays.device(np.maximum(n_good, 1))
        self._around = arrays.device((rows * shape[1] + columns).reshape(good.shape))

        # In the middle of a defect of 5 x 5 pixels and more there is no good neighbour.
        self._isolated = []
        for number in np.flatnonzero(n_good == 0):
            row = self._flat[number] // shape[1]
            of_row = row * shape[1] + np.flatnonzero(is_good[row])
            self._isolated.append((int(number), arrays.device(of_row if of_row.size else np.flatnonzero(is_good))))

    def __len__(self) -> int:
        """Return how many pixels are replaced."""
        return len(self._flat)

    def gathered(self, image: Array) -> List[Array]:
        """Return the pixels of an image `(y, x)` that the new values are made of, for `means`."""
        flat = image.reshape(-1)
        return [self._arrays.take(flat, index) for index in (self._around, *(index for _, index in self._isolated))]

    def means(self, gathered: List[Array]) -> Array:
        """Return the new values, float32 `(n,)`, from top left to bottom right."""
        around, *of_isolated = gathered
        values = self._arrays.float32(self._arrays.sums(around * self._good) / self._n_good)
        for (number, _), pixels in zip(self._isolated, of_isolated):
            values[number] = self._arrays.sums(pixels) / len(pixels)
        return values

    def put(self, rows: Array, first: int, values: Array) -> None:
        """Put new values into some rows of the image in place, of which the topmost is `first`."""
        width = self._shape[1]
        begin, end = np.searchsorted(self._flat, [first * width, (first + rows.shape[0]) * width])
        if end > begin:
            rows.reshape(-1)[self._pixels[begin:end] - first * width] = values[begin:end]

    def apply(self, image: Array) -> None:
        """Replace the pixels of a whole image `(y, x)` in place."""
        if len(self):
            self.put(image, 0, self.means(self.gathered(image)))


def _places(mask: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return rows and columns where a mask `(y, x)` is set, as `np.nonzero`, which takes ten times as long."""
    rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return rows, columns


def _neighbourhoods(image: np.ndarray, places: Tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the 5 x 5 pixels around each place, `(n, 25)`; at the edges the image is mirrored."""
    rows, columns = _around(places, (image.shape[0], image.shape[1]))
    return image[rows, columns].reshape(len(places[0]), (2 * REACH + 1) ** 2)


def _around(places: Tuple[np.ndarray, ...], shape: Tuple[int, int]) -> Tuple[np.ndarray, np.ndarray]:
    """Return rows `(n, 5, 1)` and columns `(n, 1, 5)` of the pixels around each place."""
    steps = np.arange(-REACH, REACH + 1)
    rows = _mirrored(places[0][:, None, None] + steps[:, None], shape[0])
    columns = _mirrored(places[1][:, None, None] + steps, shape[1])
    return rows, columns


def _mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """Return indices inside an axis, mirrored at its edges as `scipy.ndimage` does with `reflect`."""
    index = index % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)
