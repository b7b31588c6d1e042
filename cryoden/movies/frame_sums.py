"""Sums of frames as they are stored: exact, and checked for pixels that are not finite or overflowed."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, TypeVar

import numpy as np

from cryoden.errors import PixelError
from cryoden.formats.stack import Stack

T = TypeVar("T")
R = TypeVar("R")

MAX_OVERFLOWN_SHARE = 1e-3
"""Of the pixels of a frame; fewer are hot pixels, more are counts that did not fit."""


class SummedBand(NamedTuple):
    """Sums of some groups of frames in a band of rows.

    Attributes
    ----------
    first, last
        Rows of the band, `last` excluded.
    top
        First row of the sums: those around the band are summed too, as far as they were asked for.
    sums
        `(rows, x)` of each group, in the narrowest type that holds them.
    """

    first: int
    last: int
    top: int
    sums: List[np.ndarray]


def summed_bands(stack: Stack, groups: Sequence[Sequence[int]], halo: int = 0) -> Iterator[SummedBand]:
    """Yield the sums of groups of frames as bands of rows, from top to bottom.

    Parameters
    ----------
    stack
        The movie.
    groups
        Frames, counted from 0.
    halo
        Rows above and below each band that are summed too.

    Raises
    ------
    FileError
        If the movie cannot be read.
    PixelError
        If pixels are not finite or, after the last band, if many do not fit into 16 bits.
    """
    n_rows = stack.shape[0]
    overflown: Dict[int, int] = {}
    for first in range(0, n_rows, stack.band_rows):
        last = min(first + stack.band_rows, n_rows)
        top = max(0, first - halo)
        bottom = min(n_rows, last + halo)
        yield SummedBand(first, last, top, _sum_groups(stack, groups, top, bottom, overflown))
    _require_no_overflow(stack, overflown)


def frames_ahead(stack: Stack, indices: Sequence[int], n_ahead: int = 1) -> Iterator[np.ndarray]:
    """Yield whole frames `(y, x)` as they are stored, or in float32, while threads read those that come next.

    Parameters
    ----------
    stack
        The movie.
    indices
        Frames, counted from 0.
    n_ahead
        How many are read at the same time, and held beside the one that is yielded.

    Raises
    ------
    FileError, PixelError
        As `summed_bands`.
    """
    return ahead(partial(_whole_frame, stack), indices, 1 if stack.is_sequential else n_ahead)


def ahead(function: Callable[[T], R], items: Iterable[T], n_ahead: int) -> Iterator[R]:
    """Yield what a function makes of each item, in their order, while threads work on the next `n_ahead` items."""
    unread = iter(items)
    with ThreadPoolExecutor(n_ahead) as pool:
        tasks = deque(pool.submit(function, item) for item in islice(unread, n_ahead))
        try:
            while tasks:
                result = tasks.popleft().result()
                tasks.extend(pool.submit(function, item) for item in islice(unread, 1))
                yield result
                del result  # not kept while the next one is waited for
        finally:  # whoever stops early does not wait for what nobody wants
            for task in tasks:
                task.cancel()


def _whole_frame(stack: Stack, index: int) -> np.ndarray:
    """Return a frame in its stored type if that is of integers, else in float32."""
    overflown: Dict[int, int] = {}
    frame = _read(stack, index, 0, stack.shape[0], overflown)
    _require_no_overflow(stack, overflown)
    _require_finite(stack, [index], frame)
    return frame.astype(np.float32 if frame.dtype.kind == "f" else frame.dtype.newbyteorder("="), copy=False)


def _sum_groups(
    stack: Stack, groups: Sequence[Sequence[int]], first: int, last: int, overflown: Dict[int, int]
) -> List[np.ndarray]:
    """Return the sum of each group; a thread sums each, unless the file must be read from front to back."""
    if stack.is_sequential or len(groups) == 1:
        return _sum_in_order(stack, groups, first, last, overflown)
    with ThreadPoolExecutor(len(groups)) as pool:
        sums = list(pool.map(lambda group: _sum_in_order(stack, [group], first, last, overflown), groups))
    return [total for (total,) in sums]


def _sum_in_order(
    stack: Stack, groups: Sequence[Sequence[int]], first: int, last: int, overflown: Dict[int, int]
) -> List[np.ndarray]:
    totals = [FrameSum() for _ in groups]
    for index, number in sorted((index, number) for number, group in enumerate(groups) for index in group):
        totals[number].add(_read(stack, index, first, last, overflown))  # without a name, which would keep it alive
    sums = [total.total() for total in totals]

    # Looked for in the sums, not in every frame: that is free for the movies that are whole.
    for group, total in zip(groups, sums):
        _require_finite(stack, group, total)
    return sums


def _require_finite(stack: Stack, frames: Sequence[int], total: np.ndarray) -> None:
    """Refuse a sum of frames that is not finite; raises PixelError."""
    if not _is_finite(total):
        raise PixelError(
            f"Movie {stack.path} has NaN or infinite pixels in frame {_bad_frame(stack, frames) + 1}. Copy it again.",
            subject=str(stack.path),
        )


def _bad_frame(stack: Stack, group: Sequence[int]) -> int:
    """Return the first frame, counted from 0, that is not finite."""
    for index in sorted(group):
        for first in range(0, stack.shape[0], stack.band_rows):
            last = min(first + stack.band_rows, stack.shape[0])
            if not _is_finite(_read(stack, index, first, last, {})):
                return index
    return group[0]


def _read(stack: Stack, index: int, first: int, last: int, overflown: Dict[int, int]) -> np.ndarray:
    """Return rows of one frame, and count its pixels that do not fit into 16 bits."""
    rows = stack.read_rows(index, first, last)
    overflown[index] = overflown.get(index, 0) + _count_overflown(rows)
    return rows


def _require_no_overflow(stack: Stack, overflown: Dict[int, int]) -> None:
    """Refuse a movie of which many pixels of a frame do not fit into 16 bits."""
    for index, n_overflown in sorted(overflown.items()):
        share = n_overflown / (stack.shape[0] * stack.shape[1])
        if share > MAX_OVERFLOWN_SHARE:
            raise PixelError(
                f"Movie {stack.path}: {share:.0%} of the pixels of frame {index + 1} are at the limit of 16 bits or "
                "wrapped beyond it; counts overflowed when it was written. Write it again with 32 bits.",
                subject=str(stack.path),
            )


def _is_finite(rows: np.ndarray) -> bool:
    return rows.dtype.kind != "f" or bool(np.isfinite(rows).all())


def _count_overflown(rows: np.ndarray) -> int:
    """Return how many 16-bit pixels are at the highest number, or so far below 0 that they must have wrapped."""
    if rows.dtype.kind not in "iu" or rows.dtype.itemsize != 2:
        return 0
    limits = np.iinfo(rows.dtype)
    n = 0
    if rows.max() == limits.max:
        n += int(np.count_nonzero(rows == limits.max))
    if limits.min < 0 and rows.min() < limits.min // 2:
        n += int(np.count_nonzero(rows < limits.min // 2))
    return n


class FrameSum:
    """Exact sum of arrays of one shape and type, added one after the other.

    Integers are added in their own narrow type as long as the extremes met so far prove that nothing can overflow
    (counted electrons are small numbers), which is several times faster than adding into a wider type; then what was
    added so far is moved into the narrowest type that holds it. Floats are added in float64.
    """

    def __init__(self) -> None:
        self._part: Optional[np.ndarray] = None
        self._total: Optional[np.ndarray] = None
        self._part_range = (0, 0)
        self._total_range = (0, 0)

    def add(self, rows: np.ndarray) -> None:
        """Add one array of pixels; it is not changed."""
        rows = rows.astype(rows.dtype.newbyteorder("="), copy=False)
        if rows.dtype.kind == "f":
            self._total = rows.astype(np.float64) if self._total is None else np.add(self._total, rows, self._total)
            return

        # What the extremes of all that was added reach is a bound for every pixel of the sum.
        low = int(rows.min()) if rows.dtype.kind == "i" else 0
        extremes = (low, int(rows.max()))
        reached = (self._part_range[0] + extremes[0], self._part_range[1] + extremes[1])
        limits = np.iinfo(rows.dtype)

        if self._part is None:
            self._part = rows.copy()
            self._part_range = extremes
        elif limits.min <= reached[0] and reached[1] <= limits.max:
            np.add(self._part, rows, out=self._part)
            self._part_range = reached
        else:
            self._total = self._with_part(self._part)
            self._part = rows.copy()
            self._part_range = extremes

    def total(self) -> np.ndarray:
        """Return the sum, in the type that it came to need.

        Raises
        ------
        ValueError
            If nothing was added.
        """
        if self._part is not None and self._total is not None:
            self._total = self._with_part(self._part)
            self._part = None
        total = self._part if self._total is None else self._total
        if total is None:
            raise ValueError("nothing was added")
        return total

    def _with_part(self, part: np.ndarray) -> np.ndarray:
        """Return the total with the narrow part added, wide enough for both."""
        low = self._total_range[0] + self._part_range[0]
        high = self._total_range[1] + self._part_range[1]
        kinds = (np.uint16, np.uint32, np.uint64) if low >= 0 else (np.int16, np.int32, np.int64)
        dtype = next(kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
        self._total_range = (low, high)
        self._part_range = (0, 0)

        if self._total is None:
            return part.astype(dtype)
        total = self._total.astype(dtype, copy=False)
        return np.add(total, part, out=total, casting="unsafe")
