"""Gain and dark reference of a detector: oriented, checked, applied by rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Optional, Tuple, Union

import numpy as np

from cryoden.config.shared import OFF
from cryoden.errors import FileError, PixelError, Remedy
from cryoden.formats.files import PathLike
from cryoden.formats.images import open_movie_stack
from cryoden.formats.stack import rows_of_band
from cryoden.movies.hot_pixels import Replacement
from cryoden.movies.motion.arrays import Array, Arrays
from cryoden.wording import counted

KEPT_BYTES = 128 << 20
"""Of a reference that is kept in memory while frames are corrected."""


class Reference:
    """A gain or dark reference, rotated and flipped to the orientation of the frames.

    Rows are read when they are needed; only a quarter turn needs the whole image, which is then kept.

    Parameters
    ----------
    kind
        `Gain` or `Dark`, for messages.
    path
        MRC, TIFF or .gain file of one image.
    quarter_turns
        Counter-clockwise, seen with the first row on top; done before the flip.
    flip
        `none`, `up-down` or `left-right`.
    is_tiff_flipped
        Whether the rows of TIFF files count from the bottom.
    is_divisor
        Whether frames are divided by the file's pixels, relative to their mean, as RELION does with the gain of EER
        movies. What is 0 stays 0.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns once it is oriented.

    Raises
    ------
    FileError
        If the file cannot be read or holds more than one image.
    """

    def __init__(
        self,
        kind: str,
        path: PathLike,
        quarter_turns: int = 0,
        flip: str = "none",
        is_tiff_flipped: bool = False,
        is_divisor: bool = False,
    ) -> None:
        self.kind = kind
        self.path = Path(path)
        self._stack = open_movie_stack(path, is_tiff_flipped=is_tiff_flipped)
        if self._stack.n_frames != 1:
            raise FileError(
                f"{kind} reference {path} has {self._stack.n_frames} images; it must be one. Average them first.",
                subject=str(path),
            )

        # Half a turn is a flip of both axes, which rows can be read in.
        self._is_up_down = (quarter_turns == 2) ^ (flip == "up-down")
        self._is_left_right = (quarter_turns == 2) ^ (flip == "left-right")
        self._rotated: Optional[np.ndarray] = None
        self.shape: Tuple[int, int] = self._stack.shape
        if quarter_turns % 2:
            self.shape = self.shape[::-1]
            self._rotated = np.rot90(self._stack.read_rows(0, 0, self._stack.shape[0]), quarter_turns)
        self._divided: Optional[float] = None
        if is_divisor:
            self._divided = self._mean()

    def rows(self, first: int, last: int, shape: Optional[Tuple[int, int]] = None) -> np.ndarray:
        """Return rows `first` to `last` (excluded) as float32 for frames of a shape, by default its own.

        Frames that are twice as fine (an 8K rendering) see every pixel of the reference as 2 x 2.
        """
        if shape and shape != self.shape:
            rows = self.rows(first // 2, (last + 1) // 2).repeat(2, axis=0).repeat(2, axis=1)
            return rows[first % 2 :][: last - first]

        if self._is_up_down:
            first, last = self.shape[0] - last, self.shape[0] - first
        rows = self._stack.read_rows(0, first, last) if self._rotated is None else self._rotated[first:last]
        rows = rows[::-1] if self._is_up_down else rows
        rows = rows[:, ::-1] if self._is_left_right else rows
        rows = rows.astype(np.float32)
        if self._divided is None:
            return rows
        return np.divide(np.float32(self._divided), rows, out=np.zeros_like(rows), where=rows != 0)

    def _mean(self) -> float:
        """Return the mean of the file's pixels."""
        n_rows, step = self.shape[0], rows_of_band(self.shape[1], 4)
        total = sum(
            float(self.rows(first, min(first + step, n_rows)).sum(dtype=np.float64)) for first in range(0, n_rows, step)
        )
        return total / (n_rows * self.shape[1])

    def require_fit(self, movie: str, shape: Tuple[int, int], is_super_resolution: bool) -> None:
        """Refuse frames of another size.

        Raises
        ------
        FileError
            If the sizes differ; a super-resolution rendering may be twice as large.
        """
        if shape == self.shape or (is_super_resolution and shape == (2 * self.shape[0], 2 * self.shape[1])):
            return
        message = (
            f"{self.kind} reference {self.path} is {_size(self.shape)}, but the frames of {movie} are {_size(shape)}; "
            "it must be of their size."
        )
        remedy = None
        if shape == self.shape[::-1]:
            message += " Its sides are swapped: rotate it by another quarter turn."
            remedy = Remedy("set_to", "gain_rotation", "0" if self._rotated is not None else "90")
        raise FileError(message, subject=str(self.path), remedy=remedy)

    def require_usable(self, may_be_zero: bool) -> None:
        """Look at every pixel once.

        Parameters
        ----------
        may_be_zero
            Whether pixels of a gain reference that are 0 are replaced later.

        Raises
        ------
        FileError
            If the file cannot be read.
        PixelError
            If pixels are not finite, or are 0 in a gain reference whose zeros are not to be replaced.
        """
        n_bad, n_zero = self._count_unusable()
        name = f"{self.kind} reference {self.path}"
        n_pixels = self.shape[0] * self.shape[1]

        if n_bad:
            raise PixelError(
                f"{name} has {counted(n_bad, 'NaN or infinite pixel')}; every pixel must be a number. Make it again.",
                subject=str(self.path),
            )
        if self.kind == "Gain" and n_zero and not may_be_zero:
            raise PixelError(
                f"{name} has {counted(n_zero, 'pixel')} of value 0, which would leave no image there; all must be "
                "above 0. Make it again, or have such pixels replaced by their neighbours.",
                subject=str(self.path),
                remedy=Remedy("leave_out", "hot_pixels"),
            )
        if self.kind == "Gain" and n_zero > MAX_DEAD_SHARE * n_pixels:
            raise PixelError(
                f"{name} has {n_zero} of {n_pixels} pixels at 0, too many to be replaced by their neighbours; at most "
                f"{MAX_DEAD_SHARE:.0%} may be. Make it again.",
                subject=str(self.path),
            )

    def _count_unusable(self) -> Tuple[int, int]:
        """Return how many pixels are not finite, and how many are 0."""
        n_bad = 0
        n_zero = 0
        for first in range(0, self.shape[0], 512):
            rows = self.rows(first, min(first + 512, self.shape[0]))
            n_bad += rows.size - int(np.count_nonzero(np.isfinite(rows)))
            n_zero += rows.size - int(np.count_nonzero(rows))
        return n_bad, n_zero


MAX_DEAD_SHARE = 0.01
"""Of a gain reference; a detector with more dead pixels is no detector."""


@dataclass(frozen=True)
class Calibration:
    """How stored counts become an image: corrected = (counts - dark) * gain, bad pixels replaced.

    Attributes
    ----------
    gain, dark
        References, or None.
    hot_pixels
        `auto`: pixels that counted too much or too little for their neighbourhood are replaced; `off`: none; a number:
        those that lie so many deviations above it.
    """

    gain: Optional[Reference] = None
    dark: Optional[Reference] = None
    hot_pixels: Union[float, str] = OFF

    @property
    def replaces_pixels(self) -> bool:
        """Whether bad pixels are looked for."""
        return self.hot_pixels != OFF

    def require_usable(self, may_be_zero: bool = False) -> None:
        """Look at every pixel of the references, before any movie is read; raises PixelError.

        Parameters
        ----------
        may_be_zero
            Whether pixels whose gain is 0 are replaced in any case.
        """
        for reference in (self.gain, self.dark):
            if reference is not None:
                reference.require_usable(may_be_zero or self.replaces_pixels)

    def require_fit(self, movie: str, shape: Tuple[int, int], is_super_resolution: bool = False) -> None:
        """Refuse references of another size than the frames; raises FileError."""
        for reference in (self.gain, self.dark):
            if reference is not None:
                reference.require_fit(movie, shape, is_super_resolution)

    def corrected(self, total: np.ndarray, n_frames: int, first: int, shape: Tuple[int, int]) -> np.ndarray:
        """Return the calibrated sum of some frames, float32.

        Parameters
        ----------
        total
            Sum of the stored counts, rows from `first` on.
        n_frames
            How many frames were summed.
        first
            Row of the frame at which `total` begins.
        shape
            Rows and columns of the frames.
        """
        last = first + total.shape[0]
        result = total.astype(np.float32)
        if self.dark is not None:
            result -= n_frames * self.dark.rows(first, last, shape)
        if self.gain is not None:
            result *= self.gain.rows(first, last, shape)
        return result

    def gain_rows(self, first: int, last: int, shape: Tuple[int, int]) -> Optional[np.ndarray]:
        """Return rows of the gain, float32; None without a gain."""
        return None if self.gain is None else self.gain.rows(first, last, shape)


class CorrectedRows:
    """A stored frame whose rows are corrected when they are asked for: they are still in the cache when they are used.

    `frame[first:last]` are these rows, float32 `(last - first, x)`, where the correction computes.
    """

    def __init__(self, correction: FrameCorrection, stored: np.ndarray) -> None:
        self.shape = correction.shape
        self._correction = correction
        self._counts = correction.arrays.device(stored)
        self._replaced = correction.replaced(self._counts)

    def __getitem__(self, rows: slice) -> Array:
        """Return rows; both ends must be given."""
        return self._correction.corrected_rows(self._counts, rows, self._replaced)


class FrameCorrection:
    """Stored frames made images, wherever these are computed: calibrated, and bad pixels replaced.

    Parameters
    ----------
    calibration
        References.
    shape
        Rows and columns of the frames.
    bad
        Rows and columns `(2, n)` of the pixels to replace.
    arrays
        What computes.
    """

    def __init__(self, calibration: Calibration, shape: Tuple[int, int], bad: np.ndarray, arrays: Arrays) -> None:
        self.shape, self.arrays = shape, arrays
        self._replacement = Replacement(bad, shape, arrays)
        self._dark, self._dark_at = self._prepared(calibration.dark)
        self._gain, self._gain_at = self._prepared(calibration.gain)

    def by_rows(self, stored: np.ndarray) -> CorrectedRows:
        """Return a frame whose rows are corrected when they are asked for."""
        return CorrectedRows(self, stored)

    def corrected(self, stored: np.ndarray) -> Array:
        """Return a frame as float32 `(y, x)`."""
        rows = self.by_rows(stored)
        frame = self.arrays.empty(self.shape, np.float32)

        def correct(part: slice) -> None:
            frame[part] = rows[part]

        self.arrays.each(correct, self.arrays.parts(self.shape[0], 4 * self.shape[1]))
        return frame

    def replaced(self, counts: Array) -> Optional[Array]:
        """Return what the bad pixels of a stored frame become; None if there are none."""
        if not len(self._replacement):
            return None
        around = [self.arrays.float32(pixels) for pixels in self._replacement.gathered(counts)]
        if self._dark is not None:
            around = [pixels - dark for pixels, dark in zip(around, self._dark_at)]
        if self._gain is not None:
            around = [pixels * gain for pixels, gain in zip(around, self._gain_at)]
        return self._replacement.means(around)

    def corrected_rows(self, counts: Array, rows: slice, replaced: Optional[Array]) -> Array:
        """Return rows of a stored frame as float32, with what its bad pixels become."""
        result = self.arrays.empty((rows.stop - rows.start, self.shape[1]), np.float32)
        result[:] = counts[rows]
        if self._dark is not None:
            result -= self._dark(rows)
        if self._gain is not None:
            result *= self._gain(rows)
        if replaced is not None:
            self._replacement.put(result, rows.start, replaced)
        return result

    def _prepared(self, reference: Optional[Reference]) -> Tuple[Optional[Callable[[slice], Array]], List[Array]]:
        """Return what returns rows of a reference, and its pixels around the bad ones.

        Rows come from memory, or from the file where the reference takes too much of it.
        """
        if reference is None:
            return None, []
        n_bytes = 4 * self.shape[0] * self.shape[1]
        is_kept = self.arrays.is_apart or n_bytes <= KEPT_BYTES
        at_bad: List[Array] = []
        if is_kept or len(self._replacement):
            pixels = self.arrays.device(reference.rows(0, self.shape[0], self.shape))
            at_bad = self._replacement.gathered(pixels) if len(self._replacement) else []
        if is_kept:
            return pixels.__getitem__, at_bad
        return lambda rows: reference.rows(rows.start, rows.stop, self.shape), at_bad


def _size(shape: Tuple[int, int]) -> str:
    return f"{shape[1]} x {shape[0]} px"
