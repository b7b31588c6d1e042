"""A movie as a stream of calibrated sums of its odd and its even frames, band of rows by band of rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from cryoden.config import parse_frame_range
from cryoden.errors import FileError, PixelError
from cryoden.formats.files import PathLike
from cryoden.formats.images import EerRendering, open_movie_stack
from cryoden.formats.stack import rows_of_band
from cryoden.movies.calibration import Calibration
from cryoden.movies.frame_sums import FrameSum
from cryoden.movies.hot_pixels import HALO, find_bad_pixels, replace_pixels

MAX_SATURATED_SHARE = 1e-3
"""Of the pixels of a frame; fewer are hot pixels, more are counts that did not fit."""

Bands = Tuple[np.ndarray, np.ndarray]


class Movie:
    """The frames of one exposure that are used, opened and checked, pixels still on disk.

    Parameters
    ----------
    path
        MRC, TIFF or EER movie.
    calibration
        References of the size of the frames.
    frames
        `FIRST-LAST`, counted from 1, inclusive; None = all.
    n_expected
        How many frames the movie must have; None = any number.
    rendering
        How the electron events of an EER movie become frames.
    is_tiff_flipped
        Whether the rows of TIFF files count from the bottom.

    Attributes
    ----------
    frame_indices : list of int
        Frames used, counted from 0.
    n_bad_pixels : int
        Pixels replaced so far, in the bands that were yielded.

    Raises
    ------
    FileError
        If the movie cannot be read, has too few frames, or a reference has another size.
    """

    def __init__(
        self,
        path: PathLike,
        calibration: Calibration = Calibration(),
        frames: Optional[str] = None,
        n_expected: Optional[int] = None,
        rendering: EerRendering = EerRendering(),
        is_tiff_flipped: bool = False,
    ) -> None:
        self.path, self.calibration = Path(path), calibration
        self.stack = open_movie_stack(path, rendering, is_tiff_flipped)
        self.shape = self.stack.shape
        self.sampling_rate = self.stack.sampling_rate
        first, last = parse_frame_range(frames)
        self.n_frames = n_frames = self.stack.n_frames
        if n_frames < 2:
            raise FileError(f"Movie {path} has 1 frame; halves need at least 2. Give the movie, not its sum.")
        if n_expected is not None and n_frames != n_expected:
            raise FileError(
                f"Movie {path} has {n_frames} frames, but every movie must have {n_expected} (--expect-frames); its "
                "exposure or its copy was interrupted. Leave it out, or copy it again."
            )
        if (last or first + 1) > n_frames:
            raise FileError(f"Movie {path} has {n_frames} frames, not the range {frames}; choose frames inside it.")
        self.frame_indices: List[int] = list(range(first - 1, last or n_frames))
        calibration.require_fit(self.path.name, self.shape, rendering.is_super_resolution)
        self.n_bad_pixels = 0
        self._n_saturated: Dict[int, int] = {}

    @property
    def n_odd(self) -> int:
        """Frames of the odd half: of an odd number of frames one more than the even half has."""
        return (len(self.frame_indices) + 1) // 2

    @property
    def n_even(self) -> int:
        """Frames of the even half."""
        return len(self.frame_indices) // 2

    def half_bands(self) -> Iterator[Bands]:
        """Yield the sums of the odd and of the even frames, calibrated, as bands of rows from top to bottom.

        The first used frame counts as odd whatever its number, so of an odd number of frames the odd half has one more.

        Yields
        ------
        (odd, even)
            float32 `(rows, x)`. Integer counts are summed as integers: without gain the sums are exact.

        Raises
        ------
        PixelError
            If pixels are not finite, or many are at the limit of 16 bits.
        """
        for _, (odd, even), bad in self._corrected_bands():
            self.n_bad_pixels += bad.shape[1]
            yield odd, even
        self.require_no_overflow()

    def bad_pixels(self) -> np.ndarray:
        """Return rows and columns `(2, n)` of the pixels that are replaced; reads the movie once."""
        if self.calibration.hot_deviations is None:
            return np.empty((2, 0), dtype=int)
        places = [bad + np.array([[first], [0]]) for first, _, bad in self._corrected_bands()]
        self._n_saturated.clear()
        return np.concatenate(places, axis=1)

    def corrected_frame(self, index: int, bad: np.ndarray) -> np.ndarray:
        """Return one frame, calibrated, with bad pixels replaced; float32 `(y, x)`.

        Parameters
        ----------
        index
            Counted from 0 in the file.
        bad
            What `bad_pixels` returned.
        """
        frame = np.empty(self.shape, np.float32)
        for first, last in _split(0, self.shape[0], self.stack.band_rows):
            total = self._sum_rows([index], first, last)
            for start, stop in _split(first, last, rows_of_band(self.shape[1], 4)):
                part = total[start - first : stop - first]
                frame[start:stop] = self.calibration.corrected(part, 1, start, self.shape)
        return replace_pixels(frame, bad)

    def _corrected_bands(self) -> Iterator[Tuple[int, Bands, np.ndarray]]:
        """Yield first row, calibrated halves, and rows (of the band) and columns of the pixels replaced."""
        n_rows, deviations = self.shape[0], self.calibration.hot_deviations
        halo = 0 if deviations is None else HALO
        self._n_saturated.clear()
        for outer_first, outer_last in _split(0, n_rows, self.stack.band_rows):
            top = max(0, outer_first - halo)
            sums = self._sum_halves(top, min(n_rows, outer_last + halo))
            for first, last in _split(outer_first, outer_last, rows_of_band(self.shape[1], 4)):
                start, stop = max(0, first - halo), min(n_rows, last + halo)
                odd, even = (
                    self.calibration.corrected(total[start - top : stop - top], n_frames, start, self.shape)
                    for total, n_frames in zip(sums, (self.n_odd, self.n_even))
                )
                bad = np.empty((2, 0), dtype=int)
                if deviations is not None:
                    dead = self.calibration.dead_pixels(start, stop, self.shape)
                    bad = find_bad_pixels(odd + even, deviations, dead)
                    odd, even = replace_pixels(odd, bad), replace_pixels(even, bad)
                    bad = bad[:, (bad[0] >= first - start) & (bad[0] < last - start)] - [[first - start], [0]]
                yield first, (odd[first - start : last - start], even[first - start : last - start]), bad

    def _sum_halves(self, first: int, last: int) -> Bands:
        """Return the plain sums of the odd and the even frames, side by side in two threads where the file allows."""
        halves = (self.frame_indices[0::2], self.frame_indices[1::2])
        if self.stack.is_sequential:
            sums = (FrameSum(), FrameSum())
            for position, index in enumerate(self.frame_indices):
                sums[position % 2].add(self._read(index, first, last))
            return self._finite(sums[0].total(), halves[0]), self._finite(sums[1].total(), halves[1])
        with ThreadPoolExecutor(2) as pool:
            odd, even = pool.map(lambda half: self._sum_rows(half, first, last), halves)
        return odd, even

    def _sum_rows(self, indices: Sequence[int], first: int, last: int) -> np.ndarray:
        total = FrameSum()
        for index in indices:
            total.add(self._read(index, first, last))
        return self._finite(total.total(), indices)

    def _read(self, index: int, first: int, last: int) -> np.ndarray:
        rows = self.stack.read_rows(index, first, last)
        if rows.dtype.kind in "iu" and rows.dtype.itemsize == 2:
            self._n_saturated[index] = self._n_saturated.get(index, 0) + _count_overflown(rows)
        return rows

    def _finite(self, total: np.ndarray, indices: Sequence[int]) -> np.ndarray:
        if total.dtype.kind == "f" and not np.isfinite(total).all():
            number = self._bad_frame(indices)
            raise PixelError(f"Movie {self.path} has NaN or infinite pixels in frame {number}; copy it again.")
        return total

    def _bad_frame(self, indices: Sequence[int]) -> int:
        """Return the number, counted from 1, of the first frame that is not finite."""
        for index in sorted(indices):
            for first, last in _split(0, self.shape[0], self.stack.band_rows):
                if not np.isfinite(self.stack.read_rows(index, first, last)).all():
                    return index + 1
        return indices[0] + 1

    def require_no_overflow(self) -> None:
        """Refuse a movie of which many pixels, as far as read, do not fit into 16 bits; raises PixelError."""
        for index, n_saturated in sorted(self._n_saturated.items()):
            share = n_saturated / (self.shape[0] * self.shape[1])
            if share > MAX_SATURATED_SHARE:
                raise PixelError(
                    f"Movie {self.path}: {share:.0%} of the pixels of frame {index + 1} are at the limit of 16 bits "
                    "or wrapped beyond it; counts overflowed when it was written. Write it again with 32 bits."
                )


def _count_overflown(rows: np.ndarray) -> int:
    """Return how many 16-bit pixels are at the highest number, or so far below 0 that they must have wrapped."""
    limits = np.iinfo(rows.dtype)
    n = 0
    if rows.max() == limits.max:
        n += int(np.count_nonzero(rows == limits.max))
    if limits.min < 0 and rows.min() < limits.min // 2:
        n += int(np.count_nonzero(rows < limits.min // 2))
    return n


def _split(first: int, last: int, step: int) -> Iterator[Tuple[int, int]]:
    """Yield first and last row (excluded) of the bands that make a range of rows."""
    for start in range(first, last, step):
        yield start, min(start + step, last)
