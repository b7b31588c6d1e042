"""Where the frames of a movie must be moved to: all that their sum needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import numpy as np

from cryoden.movies.motion.stored_shifts import Shift

Shape = Tuple[int, int]
"""Rows and columns."""

UNALIGNED, GLOBAL, LOCAL, NULL = "unaligned", "global", "local", "null"
"""What can be done to frames; null: what the same estimation makes of halves that show different things."""


@dataclass(frozen=True)
class Motion:
    """Where the frames of a movie must be moved to, and what their sum is like.

    Attributes
    ----------
    shifts
        Of each frame as a whole, unbinned pixels.
    fields
        Local shifts of each frame, `(2, 3, 3)` as `LocalMotionModel.fields`; None = none.
    binning
        Pixels of the frames in one of the sums, along each side.
    is_circular
        Whether what leaves a frame at an edge comes in at the opposite one, as in RELION; else it is mirrored.
    is_binned_last
        Whether frames are moved on their own grid and their sum is binned, as in RELION without early binning.
    """

    shifts: Sequence[Shift]
    fields: Optional[Sequence[np.ndarray]] = None
    binning: float = 1.0
    is_circular: bool = False
    is_binned_last: bool = False


def binned_shape(shape: Shape, binning: float) -> Shape:
    """Return rows and columns of a sum, as RELION rounds them."""
    return int(shape[0] / binning), int(shape[1] / binning)
