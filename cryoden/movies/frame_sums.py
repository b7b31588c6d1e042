"""Sums of frames without overflow and without wide arithmetic where narrow arithmetic is proven to suffice."""

from __future__ import annotations

from typing import Optional

import numpy as np


class FrameSum:
    """Exact sum of arrays of one shape and type, added one after the other.

    Integers are added in their own narrow type as long as the extremes met so far prove that nothing can overflow
    (counted electrons are small numbers), which is several times faster than adding into a wider type; then what was
    added so far is moved into the narrowest type that holds it. Floats are added in float64.
    """

    def __init__(self) -> None:
        self._part: Optional[np.ndarray] = None
        self._total: Optional[np.ndarray] = None
        self._part_range = self._total_range = (0, 0)

    def add(self, rows: np.ndarray) -> None:
        """Add one array of pixels; it is not changed."""
        rows = rows.astype(rows.dtype.newbyteorder("="), copy=False)
        if rows.dtype.kind == "f":
            self._total = rows.astype(np.float64) if self._total is None else np.add(self._total, rows, self._total)
            return
        low = int(rows.min()) if rows.dtype.kind == "i" else 0
        extremes = (low, int(rows.max()))
        reached = (self._part_range[0] + extremes[0], self._part_range[1] + extremes[1])
        limits = np.iinfo(rows.dtype)
        if self._part is None:
            self._part, self._part_range = rows.copy(), extremes
        elif limits.min <= reached[0] and reached[1] <= limits.max:
            np.add(self._part, rows, out=self._part)
            self._part_range = reached
        else:
            self._total = self._with_part(self._part)
            self._part, self._part_range = rows.copy(), extremes

    def total(self) -> np.ndarray:
        """Return the sum, in the type that it came to need.

        Raises
        ------
        ValueError
            If nothing was added.
        """
        if self._part is not None and self._total is not None:
            self._total, self._part = self._with_part(self._part), None
        total = self._part if self._total is None else self._total
        if total is None:
            raise ValueError("nothing was added")
        return total

    def _with_part(self, part: np.ndarray) -> np.ndarray:
        """Return the total with the narrow part added, wide enough for both."""
        low, high = self._total_range[0] + self._part_range[0], self._total_range[1] + self._part_range[1]
        kinds = (np.uint16, np.uint32, np.uint64) if low >= 0 else (np.int16, np.int32, np.int64)
        dtype = next(kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
        self._total_range, self._part_range = (low, high), (0, 0)
        if self._total is None:
            return part.astype(dtype)
        total = self._total.astype(dtype, copy=False)
        return np.add(total, part, out=total, casting="unsafe")
