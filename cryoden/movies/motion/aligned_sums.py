"""Sums of frames that are shifted by Fourier phases, with exposure weights in the same pass."""

from __future__ import annotations

from typing import Iterable, Iterator, List, Optional, Sequence

import numpy as np
import scipy.fft

from cryoden.formats.stack import rows_of_band
from cryoden.movies.dose_weighting import DoseWeighting, critical_exposure, exposure_weight
from cryoden.movies.motion.motion import Shape
from cryoden.movies.motion.stored_shifts import Shift
from cryoden.movies.movie import Bands


def aligned_half_bands(
    frames: Iterable[np.ndarray],
    shape: Shape,
    shifts: Sequence[Shift],
    weighting: Optional[DoseWeighting] = None,
    n_threads: int = 1,
) -> Iterator[Bands]:
    """Yield the sums of the odd and even frames after shifting and weighting, as bands of rows; the first is odd.

    The sums are made in Fourier space, so that there is one inverse transform for each half. Beyond their edges frames
    are continued by their mirror image, which is what comes in where a frame moves away.

    Parameters
    ----------
    frames
        Float32 `(y, x)` each, corrected: bad pixels must be replaced before they are moved.
    shape
        Rows and columns of a frame.
    shifts
        Where each frame must be moved to.
    weighting
        None = all frames weigh the same. The weights are exp(-dose / (2 critical)); their sum of squares is brought
        back to the number of frames at every frequency, with one divisor for both halves, so that the noise of the full
        sum stays as it was and odd + even = full.
    n_threads
        Of the Fourier transforms.

    Raises
    ------
    CryodenError
        As `frames`, which are read one after the other.
    """
    padded = padded_shape(shape, shifts)
    weights = FrameWeights(padded, weighting) if weighting else None
    spectra = [np.zeros((padded[0], padded[1] // 2 + 1), np.complex64) for _ in range(2)]
    positions = iter(range(len(shifts)))
    for frame in frames:  # neither zip nor enumerate: they would keep a frame while the next one is read
        position = next(positions)
        continued = pad_mirrored(frame, padded)
        del frame
        spectrum = scipy.fft.rfft2(continued, workers=n_threads, overwrite_x=True)
        del continued
        _add_moved(spectra[position % 2], spectrum, padded, shifts[position], weights, position)
        del spectrum
    if weights is not None:
        weights.equalize(spectra)

    halves = []
    while spectra:  # each is freed before the next is transformed
        halves.append(scipy.fft.irfft2(spectra.pop(0), s=padded, workers=n_threads, overwrite_x=True))

    step = rows_of_band(shape[1], 4)
    for first in range(0, shape[0], step):
        rows = slice(first, min(first + step, shape[0]))
        odd, even = (half[rows, : shape[1]].astype(np.float32) for half in halves)
        yield odd, even


def padded_shape(shape: Shape, shifts: Sequence[Shift]) -> Shape:
    """Return rows and columns for the transforms: room for the largest shift on either side, and fast lengths."""
    room = np.abs(np.array(shifts)).max(axis=0)
    rows, columns = (
        scipy.fft.next_fast_len(size + 2 * min(int(np.ceil(reach)), size // 2), real=True)
        for size, reach in zip(shape, room[::-1])
    )
    return rows, columns


def pad_mirrored(frame: np.ndarray, shape: Shape) -> np.ndarray:
    """Return a larger frame whose added rows and columns mirror its edges: half of them belong to the opposite edge."""
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
    total: np.ndarray, spectrum: np.ndarray, shape: Shape, shift: Shift, weights: Optional[FrameWeights], position: int
) -> None:
    """Add a frame's spectrum, moved and weighted: a shift by s is the phase exp(-2 pi i k s)."""
    along_x = phases(np.fft.rfftfreq(shape[1]), shift[0])
    along_y = phases(np.fft.fftfreq(shape[0]), shift[1])
    for rows in bands_of_spectrum(total):
        part = spectrum[rows]
        part *= along_y[rows, None]
        part *= along_x
        if weights is not None:
            part *= weights.of_frame(position, rows)
        total[rows] += part


def phases(frequencies: np.ndarray, shift: float) -> np.ndarray:
    """Return by which factors a shift in px changes a spectrum, complex64; frequencies in cycles per px."""
    return np.exp(-2j * np.pi * shift * frequencies).astype(np.complex64)


def bands_of_spectrum(spectrum: np.ndarray) -> List[slice]:
    """Return the rows of a spectrum in bands that stay in the processor's cache."""
    step = rows_of_band(spectrum.shape[1], 8)
    return [slice(first, first + step) for first in range(0, spectrum.shape[0], step)]


class FrameWeights:
    """Exposure weights of every frame on the grid of the transforms, made row by row where they are needed."""

    def __init__(self, shape: Shape, weighting: DoseWeighting) -> None:
        squared_y = np.fft.fftfreq(shape[0], weighting.sampling_rate)[:, None] ** 2
        squared_x = np.fft.rfftfreq(shape[1], weighting.sampling_rate) ** 2
        self._doses = weighting.doses
        self._critical = np.empty((shape[0], squared_x.size), np.float32)
        for rows in bands_of_spectrum(self._critical):
            frequency = np.sqrt(squared_y[rows] + squared_x)
            self._critical[rows] = critical_exposure(frequency, weighting.voltage)

    def of_frame(self, position: int, rows: slice) -> np.ndarray:
        """Return the weights of a frame, given by its position among the used ones, for rows of the transform."""
        return exposure_weight(self._critical[rows], self._doses[position])

    def prepare(self) -> None:
        """Find the divisor of `equalized` once, which takes as long as weighting all frames."""
        self._divisor = np.empty_like(self._critical)
        for rows in bands_of_spectrum(self._critical):
            self._divisor[rows] = self._noise(rows)

    def equalized(self, position: int, rows: slice) -> np.ndarray:
        """Return the weights of a frame over the divisor that `equalize` applies to sums."""
        return self.of_frame(position, rows) / self._divisor[rows]

    def equalize(self, spectra: Sequence[np.ndarray]) -> None:
        """Bring the noise of the weighted full sum back to that of a plain sum; the mean is kept."""
        for rows in bands_of_spectrum(self._critical):
            divisor = self._noise(rows)
            for spectrum in spectra:
                spectrum[rows] /= divisor

    def _noise(self, rows: slice) -> np.ndarray:
        """Return the noise of the weighted sum, relative to that of a plain one."""
        squares = np.zeros_like(self._critical[rows])
        for position in range(len(self._doses)):
            squares += self.of_frame(position, rows) ** 2
        return np.sqrt(squares / np.float32(len(self._doses)))
