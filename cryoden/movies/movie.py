"""A movie as a stream of calibrated sums of its odd and its even frames, band of rows by band of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List, Optional, Sequence, Tuple, cast

import numpy as np

from cryoden.config import parse_frame_range
from cryoden.errors import FileError, Remedy
from cryoden.formats.files import PathLike
from cryoden.formats.images import EerRendering, open_movie_stack
from cryoden.formats.stack import Stack, WatchedStack, decoded, rows_of_band
from cryoden.movies.calibration import Calibration, CorrectedRows, FrameCorrection
from cryoden.movies.frame_sums import ahead, frames_ahead, summed_bands
from cryoden.movies.hot_pixels import HALO, Replacement, find_by_counts, find_by_deviations
from cryoden.movies.motion.arrays import Array, Arrays
from cryoden.system.progress import Tell

Bands = Tuple[np.ndarray, np.ndarray]
"""The same rows of the odd and of the even sum."""

NO_PIXELS = np.empty((2, 0), dtype=int)


def _inside(pixels: np.ndarray, shape: Tuple[int, int]) -> np.ndarray:
    """Return the pixels that an image has."""
    is_inside = (pixels >= 0).all(axis=0) & (pixels < np.array(shape)[:, None]).all(axis=0)
    return pixels[:, is_inside]


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
    defects
        Rows and columns `(2, n)` of pixels that are known to be bad, such as those that a motion correction listed:
        they are replaced, as are those whose gain is 0. Those outside the frame are passed over. None = nothing known.

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
        defects: Optional[np.ndarray] = None,
    ) -> None:
        self.path = Path(path)
        self.calibration = calibration
        self._file = open_movie_stack(path, rendering, is_tiff_flipped)
        self.stack: Stack = self._file
        self.shape = self.stack.shape
        self.sampling_rate = self.stack.sampling_rate
        self.n_frames = self.stack.n_frames
        self.n_bad_pixels = 0
        self._is_decoded = False

        if self.n_frames < 2:
            raise FileError(
                f"Movie {path} has 1 frame; halves need at least 2. Give the movie, not its sum.", subject=str(path)
            )
        if n_expected is not None and self.n_frames != n_expected:
            raise FileError(
                f"Movie {path} has {self.n_frames} frames, but every movie must have {n_expected}; its exposure or its "
                "copy was interrupted. Leave it out, or copy it again.",
                subject=str(path),
            )
        first, last = parse_frame_range(frames)
        if (last or first + 1) > self.n_frames:
            raise FileError(
                f"Movie {path} has {self.n_frames} frames, not the range {frames}.",
                subject=str(path),
                remedy=Remedy("change", "frames"),
            )
        self.frame_indices: List[int] = list(range(first - 1, last or self.n_frames))
        self._defects = None if defects is None else _inside(defects, self.shape)
        self._bad: Optional[np.ndarray] = None
        calibration.require_fit(self.path.name, self.shape, rendering.is_super_resolution)

    @property
    def halves(self) -> Tuple[List[int], List[int]]:
        """Frames of the odd and of the even half, counted from 0.

        The first used frame counts as odd whatever its number, so of an odd number of frames the odd half has one more.
        """
        return self.frame_indices[0::2], self.frame_indices[1::2]

    def watch(self, tell: Tell, n_passes: int = 1) -> None:
        """Have it said how much of the used frames is read, from now on.

        Parameters
        ----------
        tell
            Is called with the share, 0 to 1.
        n_passes
            How often they are going to be read.
        """
        n_rows = n_passes * len(self.frame_indices) * self.shape[0]
        self.stack = cast(Stack, WatchedStack(self._file, n_rows, tell))

    def decode_once(self, n_threads: int, most_bytes: int) -> None:
        """Have the used frames decoded ahead by threads and kept for the next time, if so many bytes hold them."""
        n_bytes = len(self.frame_indices) * self.shape[0] * self.shape[1] * self.stack.dtype.itemsize
        if not self._is_decoded and n_bytes <= most_bytes:
            self._is_decoded = True
            self.stack = self._file = decoded(self._file, self.frame_indices, n_threads)

    def half_bands(self) -> Iterator[Bands]:
        """Yield the sums of the odd and of the even frames, calibrated, as bands of rows from top to bottom.

        Yields
        ------
        (odd, even)
            float32 `(rows, x)`. Integer counts are summed as integers: without gain the sums are exact.

        Raises
        ------
        FileError
            If the movie cannot be read.
        PixelError
            If pixels are not finite, or many are at the limit of 16 bits.
        """
        self.n_bad_pixels = 0
        for halves, n_bad in self._corrected_halves():
            self.n_bad_pixels += n_bad
            yield halves

    def corrected_frames(
        self, positions: Optional[Sequence[int]] = None, arrays: Optional[Arrays] = None
    ) -> Iterator[Array]:
        """Yield used frames one after the other, calibrated and with bad pixels replaced; float32 `(y, x)`.

        Bad pixels are found in the sum of all frames: where they are looked for, the movie is read once more the first
        time.

        Parameters
        ----------
        positions
            Of the wanted ones among the used ones, in the order in which they are wanted; None = all.
        arrays
            What computes, which is where the frames will be; None = NumPy.

        Raises
        ------
        FileError, PixelError
            As `half_bands`.
        """
        arrays = arrays or Arrays()
        correction = self._frame_correction(arrays)
        yield from map(correction.corrected, self._stored_frames(positions, arrays))

    def frames_by_rows(
        self, positions: Optional[Sequence[int]] = None, arrays: Optional[Arrays] = None
    ) -> Iterator[CorrectedRows]:
        """Yield used frames as `corrected_frames` does, but each of them is corrected when its rows are asked for."""
        arrays = arrays or Arrays()
        correction = self._frame_correction(arrays)
        yield from map(correction.by_rows, self._stored_frames(positions, arrays))

    def _frame_correction(self, arrays: Arrays) -> FrameCorrection:
        bad = self.find_bad_pixels()
        self.n_bad_pixels = bad.shape[1]
        return FrameCorrection(self.calibration, self.shape, bad, arrays)

    def _stored_frames(self, positions: Optional[Sequence[int]], arrays: Arrays) -> Iterator[np.ndarray]:
        indices = self.frame_indices if positions is None else [self.frame_indices[position] for position in positions]
        return frames_ahead(self.stack, indices, arrays.n_ahead)

    @property
    def n_passes(self) -> int:
        """How often `corrected_frames` is going to read the movie."""
        return 2 if self._bad is None and self.calibration.replaces_pixels else 1

    def find_bad_pixels(self, n_threads: int = 1) -> np.ndarray:
        """Return rows and columns `(2, n)` of the pixels to replace in the whole frame; read from it once."""
        if self._bad is None:
            self._bad = self._bad_pixels(n_threads)
        return self._bad

    def _bad_pixels(self, n_threads: int) -> np.ndarray:
        if not self.calibration.replaces_pixels:
            return NO_PIXELS if self._defects is None else self._defects_and_dead()

        def find(part: Tuple[slice, slice, List[np.ndarray]]) -> np.ndarray:
            rows, around, (odd, even) = part
            found = self._find_bad_pixels(odd, even, around)
            found[0] += around.start
            return found[:, (found[0] >= rows.start) & (found[0] < rows.stop)]

        return np.concatenate(list(ahead(find, self._calibrated_sums(self.halves, HALO), n_threads)), axis=1)

    def _corrected_halves(self) -> Iterator[Tuple[Bands, int]]:
        """Yield calibrated halves, and how many pixels were replaced."""
        is_replaced = self.calibration.replaces_pixels or self._defects is not None
        for rows, around, (odd, even) in self._calibrated_sums(self.halves, HALO if is_replaced else 0):
            n_bad = 0
            inner = slice(rows.start - around.start, rows.stop - around.start)
            if is_replaced:
                bad = self._find_bad_pixels(odd, even, around)
                replacement = Replacement(bad, (odd.shape[0], odd.shape[1]))
                replacement.apply(odd)
                replacement.apply(even)

                # Those of the rows around are found again, with all of their neighbours, in the next band.
                n_bad = int(np.count_nonzero((bad[0] >= inner.start) & (bad[0] < inner.stop)))
            yield (odd[inner], even[inner]), n_bad

    def _find_bad_pixels(self, odd: np.ndarray, even: np.ndarray, rows: slice) -> np.ndarray:
        """Return rows (of the sums given) and columns of the pixels to replace."""
        gain = self.calibration.gain_rows(rows.start, rows.stop, self.shape)
        known = self._known_bad(gain, rows)
        if not self.calibration.replaces_pixels:
            return np.array(np.nonzero(known))
        if isinstance(self.calibration.hot_pixels, str):
            n_odd, n_even = map(len, self.halves)
            return find_by_counts(odd, even, (n_odd, n_even), gain, known)
        return find_by_deviations(odd + even, self.calibration.hot_pixels, known)

    def _known_bad(self, gain: Optional[np.ndarray], rows: slice) -> np.ndarray:
        """Return a mask of the pixels in some rows that are bad whatever they counted: listed, or of gain 0."""
        is_bad = np.zeros((rows.stop - rows.start, self.shape[1]), dtype=bool) if gain is None else gain == 0
        if self._defects is not None:
            listed = self._defects[:, (self._defects[0] >= rows.start) & (self._defects[0] < rows.stop)]
            is_bad[listed[0] - rows.start, listed[1]] = True
        return is_bad

    def _defects_and_dead(self) -> np.ndarray:
        """Return rows and columns of the pixels that are known to be bad in the whole frame."""
        whole = slice(0, self.shape[0])
        return np.array(np.nonzero(self._known_bad(self.calibration.gain_rows(0, whole.stop, self.shape), whole)))

    def _calibrated_sums(
        self, groups: Sequence[Sequence[int]], halo: int = 0
    ) -> Iterator[Tuple[slice, slice, List[np.ndarray]]]:
        """Yield the rows of a band, these with up to `halo` rows on either side, and each group's sum of the latter.

        Much is read at once where that is faster, little is corrected at once: it stays in the processor's cache.
        """
        n_rows = self.shape[0]
        step = rows_of_band(self.shape[1], 4)
        for band in summed_bands(self.stack, groups, halo):
            for start in range(band.first, band.last, step):
                stop = min(start + step, band.last)
                around = slice(max(0, start - halo), min(n_rows, stop + halo))
                part = slice(around.start - band.top, around.stop - band.top)

                yield (
                    slice(start, stop),
                    around,
                    [
                        self.calibration.corrected(total[part], len(group), around.start, self.shape)
                        for total, group in zip(band.sums, groups)
                    ],
                )
