"""Images warped by local motion, by linear interpolation between four pixels, as RELION does it."""

from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np

from cryoden.movies.motion.arrays import Array, Arrays
from cryoden.movies.motion.local_motion import factors_of_shifts

ARRAYS_AT_ONCE = 12
"""As many of the pixels that are warped at once stay in the processor's cache."""

BLOCK = 64, 256
"""Rows and columns that a CPU warps at once: so few that shifts differ little, so many that calls do not count."""

N_SCRATCH = 5
"""Arrays of that size that warping one takes, besides its shifts."""

Block = Tuple[slice, slice]
"""Rows and columns."""


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

    def shifts(block: Block) -> List[Array]:
        return [arrays.float32(arrays.product(y[block[0]], x[:, block[1]])) for y, x in factors]

    def add(block: Block) -> None:
        shift_x, shift_y = shifts(block)
        total[block] += interpolated(image, (block[0].start, block[1].start), shift_y, shift_x, arrays)

    def add_inner(band: Sequence[Block]) -> None:
        scratch = np.empty((N_SCRATCH, *BLOCK), np.float32)
        for block in band:
            shift_x, shift_y = shifts(block)
            n_rows, n_columns = shift_x.shape
            total[block] += _between_slices(image, block, shift_y, shift_x, list(scratch[:, :n_rows, :n_columns]))

    if arrays.is_apart:
        arrays.each(add, [(rows, slice(0, shape[1])) for rows in arrays.parts(shape[0], 4 * ARRAYS_AT_ONCE * shape[1])])
        return

    # A CPU gathers single pixels slowly; in small blocks inside of the image, where shifts are nearly the same, slices
    # take their place.
    inner, edges = _inner_and_edges(image.shape, shape, field)
    arrays.each(add, edges)
    arrays.each(add_inner, _bands(inner))


def _inner_and_edges(image: Tuple[int, ...], shape: Tuple[int, int], field: np.ndarray) -> Tuple[Block, List[Block]]:
    """Return the block whose pixels all come from between pixels of the image, and those around it."""
    at_edges = 0.5 ** np.add.outer(np.arange(3), np.arange(3))
    reach_x, reach_y = (int(reach) + 2 for reach in np.abs(field * at_edges).sum(axis=(1, 2)))
    top, left = min(reach_y, shape[0]), min(reach_x, shape[1])
    bottom = max(top, min(shape[0], image[0] - reach_y))
    right = max(left, min(shape[1], image[1] - reach_x))

    rows, wide = slice(top, bottom), slice(0, shape[1])
    edges = [
        (slice(0, top), wide), (slice(bottom, shape[0]), wide), (rows, slice(0, left)), (rows, slice(right, shape[1]))
    ]  # fmt: skip
    return (rows, slice(left, right)), [edge for edge in edges if all(side.stop > side.start for side in edge)]


def _bands(whole: Block) -> List[List[Block]]:
    """Return a block in small ones, those of the same rows together."""
    rows, columns = (
        [slice(first, min(first + size, side.stop)) for first in range(side.start, side.stop, size)]
        for side, size in zip(whole, BLOCK)
    )
    return [[(row, column) for column in columns] for row in rows]


def _between_slices(
    image: np.ndarray, block: Block, shift_y: np.ndarray, shift_x: np.ndarray, scratch: List[np.ndarray]
) -> np.ndarray:
    """Return a block of the warped image, all of which comes from between pixels of the image.

    Between neighbours linear interpolation adds a share of their difference. A place that is beyond the second of two
    has all of it, and a share of the next one. The shifts are overwritten; the result is one of the
    scratch arrays.
    """
    rows, columns = block
    result, upper, lower, step, share = scratch
    down, right = (int(np.floor(-shift.max())) for shift in (shift_y, shift_x))
    n_down, n_right = (int(np.floor(-shift.min())) - first + 1 for shift, first in ((shift_y, down), (shift_x, right)))
    beyond_y, beyond_x = np.subtract(-down, shift_y, out=shift_y), np.subtract(-right, shift_x, out=shift_x)

    def line(number: int, out: np.ndarray) -> np.ndarray:
        """Return the block, between its neighbours along the rows, from so many rows further down."""
        first = rows.start + down + number
        source = image[first : first + rows.stop - rows.start]
        before = source[:, columns.start + right : columns.stop + right]
        np.copyto(out, before)
        for at in range(n_right):
            after = source[:, columns.start + right + at + 1 : columns.stop + right + at + 1]
            np.subtract(after, before, out=step)
            np.multiply(step, _share(beyond_x, at, n_right, share), out=step)
            out += step
            before = after
        return out

    before = line(0, upper)
    np.copyto(result, before)
    for number in range(n_down):
        after = line(number + 1, lower)
        np.subtract(after, before, out=before)
        before *= _share(beyond_y, number, n_down, share)
        result += before
        lower, before = before, after
    return result


def _share(beyond: np.ndarray, number: int, n_pixels: int, out: np.ndarray) -> np.ndarray:
    """Return how far from one of some pixels to the next places are, 0 to 1, that are so far beyond the first."""
    if n_pixels == 1:
        return beyond
    np.subtract(beyond, np.float32(number), out=out)
    if number > 0:
        np.maximum(out, np.float32(0), out=out)
    return np.minimum(out, np.float32(1), out=out) if number < n_pixels - 1 else out


def interpolated(image: Array, corner: Tuple[int, int], shift_y: Array, shift_x: Array, arrays: Arrays) -> Array:
    """Return a block of an image from a corner on, each pixel from between four.

    Parameters
    ----------
    image
        `(y, x)`, float32, at least 2 x 2. It may be larger than the result; beyond its edges the nearest pixel goes on,
        and is not interpolated along them, as in RELION.
    corner
        Row and column.
    shift_y, shift_x
        By how much each pixel is moved, float32 `(rows, columns)`.
    arrays
        What computes.
    """
    n_rows, n_columns = (int(size) for size in image.shape)
    n_lines, n_wide = (int(size) for size in shift_y.shape)
    lines, wide = (np.arange(first, first + n, dtype=np.float32) for first, n in zip(corner, (n_lines, n_wide)))
    row, y, is_above = arrays.split(arrays.device(lines[:, None]) - shift_y, n_rows)
    column, x, is_beside = arrays.split(arrays.device(wide) - shift_x, n_columns)

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
