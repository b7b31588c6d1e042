"""What every image file looks like from above: a stack of images of which rows can be read."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional, Sequence, Tuple, cast

import numpy as np
from typing_extensions import Protocol

from cryoden.system.progress import Tell

BAND_BYTES = 4 << 20
"""Rows are read in bands of about this size: they stay in a processor's cache, and memory stays flat."""

LONGEST_SIDE = 1 << 20
"""Rows, columns or frames that no image file has; a header that says more is damaged."""


class Stack(Protocol):
    """An open file as a stack of images `(n, y, x)`, pixels still on disk.

    Attributes
    ----------
    path : pathlib.Path
    n_frames : int
    shape : (int, int)
        Rows and columns of one image.
    dtype : numpy.dtype
        Of the pixels as stored.
    sampling_rate : float or None
        A/px, None where the file says nothing.
    band_rows : int
        Rows that are best read at once; all rows where images are decoded as a whole.
    is_sequential : bool
        Whether images must be read in order, because an earlier one means to begin again.
    """

    path: Path
    n_frames: int
    shape: Tuple[int, int]
    dtype: np.dtype
    sampling_rate: Optional[float]
    band_rows: int
    is_sequential: bool

    def read_rows(self, frame: int, first: int, last: int) -> np.ndarray:
        """Return rows `first` to `last` (excluded) of one image, shape `(last - first, x)`, as stored.

        Several threads may read different images at once. If the last image of a sequential stack is read, the file is
        verified as by `verify`.
        """

    def verify(self) -> None:
        """Read what is needed to be sure that the rows read so far are undamaged; raises FileError if they are not.

        The checksum of a compressed file stands at its end. Call it before a result is given its final name, unless the
        last image was read; for all other files it does nothing.
        """


class WatchedStack:
    """A stack that says how much of it was read; everything else is asked of the stack itself.

    Parameters
    ----------
    stack
        What is read.
    n_rows
        Of all images that are going to be read, together.
    tell
        Is called with how many of them were read, as a share.
    """

    def __init__(self, stack: Stack, n_rows: int, tell: Tell) -> None:
        self._stack, self._n_rows, self._tell = stack, n_rows, tell
        self._n_read = 0
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack, name)

    def read_rows(self, frame: int, first: int, last: int) -> np.ndarray:
        """Return rows of one image; see `Stack.read_rows`."""
        rows = self._stack.read_rows(frame, first, last)
        with self._lock:
            self._n_read += last - first
            self._tell(min(self._n_read / self._n_rows, 1.0))
        return rows


class DecodedStack:
    """A stack whose images are decoded whole, once, and kept; everything else is asked of the stack itself.

    Parameters
    ----------
    stack
        What is read.
    frames
        Images that are going to be read, in this order.
    n_threads
        That decode ahead; one where images must be read in order.
    """

    def __init__(self, stack: Stack, frames: Sequence[int], n_threads: int) -> None:
        self._stack = stack
        with_threads = ThreadPoolExecutor(1 if stack.is_sequential else n_threads)
        self._tasks = {frame: with_threads.submit(stack.read_rows, frame, 0, stack.shape[0]) for frame in frames}
        with_threads.shutdown(wait=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack, name)

    def read_rows(self, frame: int, first: int, last: int) -> np.ndarray:
        """Return rows of one image as soon as it is decoded; see `Stack.read_rows`."""
        return self._tasks[frame].result()[first:last]


def decoded(stack: Stack, frames: Sequence[int], n_threads: int) -> Stack:
    """Return the stack with its frames decoded ahead, as `DecodedStack`."""
    return cast(Stack, DecodedStack(stack, frames, n_threads))


def rows_of_band(n_columns: int, item_bytes: int) -> int:
    """Return how many rows make a band, at least 1."""
    return max(1, BAND_BYTES // (n_columns * item_bytes))
