"""Images warped by local motion, by linear interpolation between four pixels, as RELION does it."""

from __future__ import annotations

import numpy as np

from cryoden.movies.motion.arrays import Array, Arrays
from cryoden.movies.motion.local_motion import factors_of_shifts

ARRAYS_AT_ONCE = 12
"""As many of the pixels that are warped at once stay in the processor's cache."""


def add_warped(total: Array, image: Array, field: np.ndarray, arrays: Arrays) -> None:
    """Add an image, each pixel from where it has gone: out(p) = image(p - shift(p)).

    Parameters
    ----------
    total
        `(y, x)`, float32; it is changed.
    image
        At least as large.
    field
        Local shifts in pixels of the images, `(2, 3, 3)` as `LocalMotionModel.fields`.
    arrays
        What computes.
    """
    shape = (int(total.shape[0]), int(total.shape[1]))
    factors = [[arrays.device(factor) for factor in factors_of_shifts(polynomial, shape)] for polynomial in field]

    def add(rows: slice) -> None:
        shift_x, shift_y = (arrays.float32(arrays.product(y[rows], x)) for y, x in factors)
        total[rows] += interpolated(image, rows.start, shift_y, shift_x, arrays)

    arrays.each(add, arrays.parts(shape[0], 4 * ARRAYS_AT_ONCE * shape[1]))


def interpolated(image: Array, first: int, shift_y: Array, shift_x: Array, arrays: Arrays) -> Array:
    """Return rows of an image from `first` on, each pixel from between four.

    Parameters
    ----------
    image
        `(y, x)`, float32, at least 2 x 2. It may be larger than the result; beyond its edges the nearest pixel goes on,
        and is not interpolated along them, as in RELION.
    first
        Row.
    shift_y, shift_x
        By how much each pixel is moved, float32 `(rows, columns)`.
    arrays
        What computes.
    """
    n_rows, n_columns = (int(size) for size in image.shape)
    n_lines, n_wide = (int(size) for size in shift_y.shape)
    lines = arrays.device(np.arange(first, first + n_lines, dtype=np.float32)[:, None])
    row, y, is_above = arrays.split(lines - shift_y, n_rows)
    column, x, is_beside = arrays.split(arrays.device(np.arange(n_wide, dtype=np.float32)) - shift_x, n_columns)

    # Outside: the pixel at or above and left of the place; at the last edges that is the second of the two.
    is_outside = is_above | is_beside
    arrays.round_down_where(is_outside, y)
    arrays.round_down_where(is_outside, x)

    flat = image.reshape(-1)
    index = arrays.pixel_index(row, column, n_columns)
    upper = _between(flat, index, x, arrays)
    lower = _between(flat[n_columns:], index, x, arrays)
    lower -= upper
    lower *= y
    upper += lower
    return upper


def _between(flat: Array, index: Array, x: Array, arrays: Arrays) -> Array:
    left = arrays.take(flat, index)
    right = arrays.take(flat[1:], index)
    right -= left
    right *= x
    left += right
    return left
