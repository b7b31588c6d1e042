"""A movie as a stream of calibrated sums: gain, dark and frame range, band of rows by band of rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

import numpy as np

from cryoden.config import parse_frame_range
from cryoden.errors import FileError, PixelError
from cryoden.formats.files import PathLike
from cryoden.formats.images import Stack, open_stack


@dataclass(frozen=True)
class Calibration:
    """Gain and dark reference of a detector: corrected frame = (frame - dark) * gain."""

    gain: Optional[PathLike] = None
    dark: Optional[PathLike] = None


class Movie:
    """The frames of one exposure that are used, opened and checked, pixels still on disk.

    Parameters
    ----------
    path
        MRC or TIFF stack.
    calibration
        References of the size of the frames.
    frames
        `FIRST-LAST`, counted from 1, inclusive; None = all.

    Attributes
    ----------
    frame_indices : list of int
        Frames used, counted from 0.

    Raises
    ------
    FileError
        If the movie or a reference cannot be read, has too few frames, or their sizes differ.
    """

    def __init__(self, path: PathLike, calibration: Calibration = Calibration(), frames: Optional[str] = None) -> None:
        self.path = Path(path)
        self.stack = open_stack(path)
        self.shape = self.stack.shape
        self.sampling_rate = self.stack.sampling_rate
        first, last = parse_frame_range(frames)
        n_frames = self.stack.n_frames
        if n_frames < 2:
            raise FileError(f"Movie {path} has 1 frame; halves need at least 2. Give the movie, not its sum.")
        if (last or first + 1) > n_frames:
            raise FileError(f"Movie {path} has {n_frames} frames, not the range {frames}; choose frames inside it.")
        self.frame_indices: List[int] = list(range(first - 1, last or n_frames))
        self._gain = self._open_reference("Gain", calibration.gain)
        self._dark = self._open_reference("Dark", calibration.dark)

    def _open_reference(self, kind: str, path: Optional[PathLike]) -> Optional[Stack]:
        if path is None:
            return None
        reference = open_stack(path)
        if reference.shape != self.shape or reference.n_frames != 1:
            size = f"{reference.shape[1]} x {reference.shape[0]} px"
            hint = ""
            if reference.shape == self.shape[::-1]:
                hint = " Its sides are swapped: rotate it by 90 degrees."
            raise FileError(
                f"{kind} reference {path} is {size} with {reference.n_frames} image(s), but the frames of "
                f"{self.path.name} are {self.shape[1]} x {self.shape[0]} px; it must be one image of that size.{hint}"
            )
        return reference

    def half_bands(self) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        """Yield the sums of the odd and of the even frames, calibrated, as bands of rows from top to bottom.

        The first used frame counts as odd whatever its number, so of an odd number of frames the odd half has one more.

        Yields
        ------
        (odd, even)
            float32 `(rows, x)`. Integer counts are summed as integers: without gain the sums are exact.
        """
        for first in range(0, self.shape[0], self.stack.band_rows):
            last = min(first + self.stack.band_rows, self.shape[0])
            odd, even = self._sum_rows(first, last)
            gain = self._reference_rows(self._gain, "Gain", first, last)
            dark = self._reference_rows(self._dark, "Dark", first, last)
            n_odd = (len(self.frame_indices) + 1) // 2
            n_even = len(self.frame_indices) - n_odd
            yield _calibrate(odd, n_odd, gain, dark), _calibrate(even, n_even, gain, dark)

    def _sum_rows(self, first: int, last: int) -> Tuple[np.ndarray, np.ndarray]:
        dtype = _sum_type(self.stack.dtype, len(self.frame_indices))
        sums = np.zeros((2, last - first, self.shape[1]), dtype=dtype)
        for position, index in enumerate(self.frame_indices):
            rows = self.stack.read_rows(index, first, last)
            if rows.dtype.kind == "f" and not np.isfinite(rows).all():
                raise PixelError(f"Movie {self.path} has NaN or infinite pixels in frame {index + 1}; copy it again.")
            sums[position % 2] += rows
        return sums[0], sums[1]

    def _reference_rows(self, reference: Optional[Stack], kind: str, first: int, last: int) -> Optional[np.ndarray]:
        if reference is None:
            return None
        rows = reference.read_rows(0, first, last).astype(np.float32)
        if not np.isfinite(rows).all():
            raise PixelError(f"{kind} reference {reference.path} has NaN or infinite pixels; make it again.")
        return rows


def _sum_type(dtype: np.dtype, n_frames: int) -> np.dtype:
    """Return the narrowest type in which `n_frames` frames of `dtype` can be summed without overflow."""
    if dtype.kind == "f":
        return np.dtype(np.float64)
    limits = np.iinfo(dtype)
    largest = max(int(limits.max), -int(limits.min)) * n_frames
    candidates = (np.uint16, np.uint32, np.uint64) if limits.min == 0 else (np.int16, np.int32, np.int64)
    return np.dtype(next(c for c in candidates if np.iinfo(c).max >= largest))


def _calibrate(total: np.ndarray, n_frames: int, gain: Optional[np.ndarray], dark: Optional[np.ndarray]) -> np.ndarray:
    result = total.astype(np.float32)
    if dark is not None:
        result -= n_frames * dark
    if gain is not None:
        result *= gain
    return result
