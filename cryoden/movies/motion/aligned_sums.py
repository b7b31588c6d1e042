"""Frames brought to their places: stored global shifts by Fourier phases, with exposure weights in the same pass."""

from __future__ import annotations

from typing import Iterator, Optional, Sequence, Tuple

import numpy as np
import scipy.fft

from cryoden.formats.stack import rows_of_band
from cryoden.movies.dose_weighting import Exposure, critical_exposure, exposure_weight
from cryoden.movies.motion.stored_shifts import Shifts
from cryoden.movies.movie import Bands, Movie

Shape = Tuple[int, int]


def aligned_half_bands(
    movie: Movie,
    shifts: Optional[Shifts],
    exposure: Optional[Exposure] = None,
    sampling_rate: Optional[float] = None,
    n_threads: int = 1,
) -> Iterator[Bands]:
    """Yield the sums of the odd and even frames after shifting and weighting; as `Movie.half_bands`.

    The sums are made in Fourier space, so that there is one inverse transform for each half. Beyond their edges frames
    are continued by their mirror image, which is what comes in where a frame moves away.

    Parameters
    ----------
    movie
        Pixels are calibrated and bad ones replaced before they are moved.
    shifts
        None = frames stay where they are.
    exposure
        None = all frames weigh the same. The weights are exp(-dose / (2 critical)); their sum of squares is brought
        back to the number of frames at every frequency, with one divisor for both halves, so that the noise of the full
        sum stays as it was and odd + even = full.
    sampling_rate
        A/px, needed for the weights.
    n_threads
        Of the Fourier transforms.

    Raises
    ------
    FileError
        If the shifts do not fit the movie.
    PixelError
        As `Movie.half_bands`.
    """
    indices = movie.frame_indices
    moves = shifts.of_frames(indices, movie.n_frames) if shifts else [(0.0, 0.0)] * len(indices)
    shape = padded_shape(movie.shape, moves)
    weights = _Weights(shape, exposure, sampling_rate or 1.0, indices) if exposure else None
    bad = movie.bad_pixels()
    movie.n_bad_pixels = bad.shape[1]
    spectra = [np.zeros((shape[0], shape[1] // 2 + 1), np.complex64) for _ in range(2)]
    for position, (index, move) in enumerate(zip(indices, moves)):
        frame = continue_mirrored(movie.corrected_frame(index, bad), shape)
        spectrum = scipy.fft.rfft2(frame, workers=n_threads, overwrite_x=True)
        del frame
        _add_moved(spectra[position % 2], spectrum, move, shape, weights, position)
        del spectrum
    movie.require_no_overflow()
    if weights is not None:
        weights.equalize(spectra)
    halves = []
    while spectra:  # each is freed before the next is transformed
        halves.append(scipy.fft.irfft2(spectra.pop(0), s=shape, workers=n_threads, overwrite_x=True))
    step = rows_of_band(movie.shape[1], 4)
    for first in range(0, movie.shape[0], step):
        rows = slice(first, min(first + step, movie.shape[0]))
        odd, even = (half[rows, : movie.shape[1]].astype(np.float32) for half in halves)
        yield odd, even


def padded_shape(shape: Shape, moves: Sequence[Tuple[float, float]]) -> Shape:
    """Return rows and columns for the transforms: room for the largest shift on either side, and fast lengths."""
    room = np.abs(np.array(moves)).max(axis=0)
    rows, columns = (
        scipy.fft.next_fast_len(size + 2 * min(int(np.ceil(reach)), size // 2), real=True)
        for size, reach in zip(shape, room[::-1])
    )
    return rows, columns


def continue_mirrored(frame: np.ndarray, shape: Shape) -> np.ndarray:
    """Return a larger frame whose added rows and columns mirror its edges, as if it went round."""
    result = np.empty(shape, frame.dtype)
    n_rows, n_columns = frame.shape
    result[:n_rows, :n_columns] = frame
    for axis, size in enumerate(frame.shape):
        room = shape[axis] - size
        after = room // 2
        view = result if axis == 0 else result.T
        view[size : size + after] = view[size - after : size][::-1]
        view[size + after :] = view[: room - after][::-1]
    return result


def _add_moved(
    total: np.ndarray,
    spectrum: np.ndarray,
    move: Tuple[float, float],
    shape: Shape,
    weights: Optional[_Weights],
    position: int,
) -> None:
    """Add a frame's spectrum, moved and weighted: a shift by s is the phase exp(-2 pi i k s)."""
    along_y, along_x = (
        np.exp(-2j * np.pi * shift * frequencies).astype(np.complex64)
        for shift, frequencies in zip(move[::-1], (np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1])))
    )
    step = rows_of_band(total.shape[1], 8)
    for first in range(0, shape[0], step):
        rows = slice(first, first + step)
        part = spectrum[rows]
        part *= along_y[rows, None]
        part *= along_x
        if weights is not None:
            part *= weights.of_frame(position, rows)
        total[rows] += part


class _Weights:
    """Exposure weights of every frame on the grid of the transforms, made row by row where they are needed."""

    def __init__(self, shape: Shape, exposure: Exposure, sampling_rate: float, frame_indices: Sequence[int]) -> None:
        squared_y = np.fft.fftfreq(shape[0], sampling_rate)[:, None] ** 2
        squared_x = np.fft.rfftfreq(shape[1], sampling_rate) ** 2
        self._critical = np.empty((shape[0], squared_x.size), np.float32)
        step = rows_of_band(squared_x.size, 8)
        for first in range(0, shape[0], step):
            rows = slice(first, first + step)
            self._critical[rows] = critical_exposure(np.sqrt(squared_y[rows] + squared_x), exposure.voltage)
        self._doses = exposure.doses(frame_indices)

    def of_frame(self, position: int, rows: slice) -> np.ndarray:
        return exposure_weight(self._critical[rows], self._doses[position])

    def equalize(self, spectra: Sequence[np.ndarray]) -> None:
        """Bring the noise of the weighted full sum back to that of a plain sum; the mean is kept."""
        step = rows_of_band(self._critical.shape[1], 8)
        for first in range(0, self._critical.shape[0], step):
            rows = slice(first, first + step)
            squares = np.zeros_like(self._critical[rows])
            for position in range(len(self._doses)):
                squares += self.of_frame(position, rows) ** 2
            for spectrum in spectra:
                spectrum[rows] *= np.sqrt(np.float32(len(self._doses)) / squares)
