"""Pixels that stand out of their neighbourhood in the sum of all frames: found, and replaced in every frame or sum."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np
import scipy.ndimage

REACH = 2
"""Rows and columns on either side that make the neighbourhood of a pixel (5 x 5)."""

HALO = 2 * REACH
"""Rows above and below a band that are needed to find and replace its bad pixels as in the whole image."""

TO_DEVIATION = 1.4826
"""Median of absolute differences -> deviation, for normal noise."""


def find_bad_pixels(total: np.ndarray, n_deviations: float, dead: Optional[np.ndarray] = None) -> np.ndarray:
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
    candidates = np.nonzero(above > 0.5 * n_deviations * deviation)
    medians = np.median(_neighbourhoods(total, candidates), axis=1)
    is_hot = total[candidates] - medians > n_deviations * deviation[candidates[0], 0]

    bad = np.zeros(total.shape, dtype=bool) if dead is None else dead.copy()
    bad[candidates[0][is_hot], candidates[1][is_hot]] = True
    return np.array(np.nonzero(bad))


def replace_pixels(image: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Return the image with each bad pixel replaced by the mean of the good pixels in its neighbourhood.

    The replacement is linear: replacing in every frame and summing gives the same as replacing in the sum. A pixel
    without good neighbours becomes the mean of the good pixels of its row (or of the image, if there is none).

    Parameters
    ----------
    image
        `(y, x)`, not changed.
    bad
        Rows and columns `(2, n)`.
    """
    if not bad.size:
        return image
    is_good = np.ones(image.shape, dtype=bool)
    is_good[tuple(bad)] = False
    good = _neighbourhoods(is_good, tuple(bad))
    values = np.where(good, _neighbourhoods(image, tuple(bad)), 0)
    n_good = good.sum(axis=1)
    with np.errstate(invalid="ignore"):
        means = values.sum(axis=1, dtype=np.float64) / n_good

    # In the middle of a defect of 5 x 5 pixels and more there is no good neighbour.
    for isolated in np.nonzero(n_good == 0)[0]:
        row = bad[0, isolated]
        good_of_row = image[row][is_good[row]]
        means[isolated] = (good_of_row if good_of_row.size else image[is_good]).mean(dtype=np.float64)

    result = image.copy()
    result[tuple(bad)] = means
    return result


def _neighbourhoods(image: np.ndarray, places: Tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the 5 x 5 pixels around each place, `(n, 25)`; at the edges the image is mirrored."""
    steps = np.arange(-REACH, REACH + 1)
    rows = _mirrored(places[0][:, None, None] + steps[:, None], image.shape[0])
    columns = _mirrored(places[1][:, None, None] + steps, image.shape[1])
    return image[rows, columns].reshape(len(places[0]), (2 * REACH + 1) ** 2)


def _mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """Return indices inside an axis, mirrored at its edges as `scipy.ndimage` does with `reflect`."""
    index = index % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)
