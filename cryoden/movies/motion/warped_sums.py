"""Sums of frames that are binned, shifted as a whole and then warped by local motion, one frame after the other.

As RELION does it: frames are cropped in Fourier space, shifted by phases (and weighted) there, and their local motion
is undone on the grid of the result, by linear interpolation between four pixels.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Iterable, Iterator, Optional, Tuple

import numpy as np
import scipy.fft

from cryoden.formats.stack import rows_of_band
from cryoden.movies.dose_weighting import DoseWeighting
from cryoden.movies.motion.aligned_sums import FrameWeights, bands_of_spectrum, pad_mirrored, phases
from cryoden.movies.motion.local_motion import shifts_of_rows
from cryoden.movies.motion.motion import Motion, Shape, binned_shape
from cryoden.movies.motion.stored_shifts import Shift
from cryoden.movies.movie import Bands

MAX_DENOMINATOR = 8
"""Of a binning that can be padded: beyond, no small number of pixels is whole before and after."""

WARP_PIXELS = 1 << 16
"""Pixels that are warped at once: few enough to stay in the processor's cache."""


def warped_half_bands(
    frames: Iterable[np.ndarray],
    shape: Shape,
    motion: Motion,
    weighting: Optional[DoseWeighting] = None,
    n_threads: int = 1,
) -> Iterator[Bands]:
    """Yield the sums of the odd and even frames as bands of rows; the first is odd.

    Binned pixels have the mean, not the sum, of those that they cover, as in RELION.

    Parameters
    ----------
    frames
        Float32 `(y, x)` each, corrected: bad pixels must be replaced before they are moved.
    shape
        Rows and columns of a frame.
    motion
        Of all frames.
    weighting
        As for `aligned_half_bands`; its pixel size is that of the frames.
    n_threads
        Of the Fourier transforms.

    Raises
    ------
    CryodenError
        As `frames`, which are read one after the other.
    """
    binning = 1.0 if motion.is_binned_last else motion.binning
    result = binned_shape(shape, binning)
    padded, cropped = _transform_shapes(shape, result, motion)
    weights = None
    if weighting is not None:
        rate = weighting.sampling_rate * padded[0] / cropped[0]
        weights = FrameWeights(cropped, DoseWeighting(weighting.doses, rate, weighting.voltage))
        weights.prepare()

    halves = [np.zeros(result, np.float32) for _ in range(2)]
    positions = iter(range(len(motion.shifts)))
    for frame in frames:  # neither zip nor enumerate: they would keep a frame while the next one is read
        position = next(positions)
        continued = pad_mirrored(frame, padded)
        del frame
        spectrum = scipy.fft.rfft2(continued, workers=n_threads, overwrite_x=True)
        del continued
        spectrum = _cropped(spectrum, padded, cropped)
        _move(spectrum, padded, cropped, motion.shifts[position], weights, position)
        image = _inverse(spectrum, cropped, n_threads)
        del spectrum

        field = None if motion.fields is None else motion.fields[position] / binning
        _add_warped(halves[position % 2], image, field)
        del image

    if motion.is_binned_last:
        result = binned_shape(shape, motion.binning)
        halves = [_binned(halves.pop(0), result, n_threads) for _ in range(2)]
    step = rows_of_band(result[1], 4)
    for first in range(0, result[0], step):
        odd, even = (half[first : first + step] for half in halves)
        yield odd, even


def _transform_shapes(shape: Shape, result: Shape, motion: Motion) -> Tuple[Shape, Shape]:
    """Return the sizes of the transforms before and after binning: room for the largest shift, and fast lengths."""
    if motion.is_circular:
        return shape, result
    room = np.abs(np.array(motion.shifts)).max(axis=0)[::-1] + _local_reach(motion)
    sizes = [_padded_sizes(size, binned, reach) for size, binned, reach in zip(shape, result, room)]
    return (sizes[0][0], sizes[1][0]), (sizes[0][1], sizes[1][1])


def _inverse(spectrum: np.ndarray, shape: Shape, n_threads: int) -> np.ndarray:
    """Return the image of a spectrum, which is overwritten: by axes, because SciPy would copy it once more."""
    columns = scipy.fft.ifft(spectrum, axis=0, workers=n_threads, overwrite_x=True)
    image = np.empty(shape, np.float32)
    for rows in bands_of_spectrum(columns):
        image[rows] = scipy.fft.irfft(columns[rows], shape[1], axis=1, workers=n_threads)
    return image


def _local_reach(motion: Motion) -> np.ndarray:
    """Return a bound of the local shifts along rows and columns, px."""
    if motion.fields is None:
        return np.zeros(2)
    at_edges = 0.5 ** np.add.outer(np.arange(3), np.arange(3))
    return np.abs(np.array(motion.fields) * at_edges).sum(axis=(2, 3)).max(axis=0)[::-1]


def _padded_sizes(size: int, binned: int, reach: float) -> Tuple[int, int]:
    """Return lengths with a margin that is whole both before and after binning; without, where none is."""
    ratio = Fraction(size, binned)
    if ratio.denominator > MAX_DENOMINATOR:
        return size, binned
    margin = 2 * min(int(np.ceil(reach)), size // 2) / float(ratio)
    step = ratio.denominator
    length = binned + step * int(np.ceil(margin / step))
    while length < 2 * binned and scipy.fft.next_fast_len(length, real=True) != length:
        length += step
    return int(length * ratio), length


def _binned(image: np.ndarray, shape: Shape, n_threads: int) -> np.ndarray:
    """Return an image on a coarser grid, float32, with its mean."""
    spectrum = _cropped(scipy.fft.rfft2(image, workers=n_threads), (image.shape[0], image.shape[1]), shape)
    spectrum *= np.float32(shape[0] * shape[1] / image.size)
    return scipy.fft.irfft2(spectrum, s=shape, workers=n_threads, overwrite_x=True)


def _cropped(spectrum: np.ndarray, padded: Shape, cropped: Shape) -> np.ndarray:
    """Return the low frequencies of a spectrum."""
    if padded == cropped:
        return spectrum
    result = np.empty((cropped[0], cropped[1] // 2 + 1), spectrum.dtype)
    n_below = cropped[0] // 2
    n_above = cropped[0] - n_below
    result[:n_above] = spectrum[:n_above, : result.shape[1]]
    result[n_above:] = spectrum[len(spectrum) - n_below :, : result.shape[1]]
    return result


def _move(
    spectrum: np.ndarray,
    padded: Shape,
    cropped: Shape,
    shift: Shift,
    weights: Optional[FrameWeights],
    position: int,
) -> None:
    """Shift and weight a frame's spectrum, and bring its mean to that of the unbinned frame."""
    scale = np.float32(cropped[0] * cropped[1] / (padded[0] * padded[1]))
    frequencies = np.fft.fftfreq(cropped[0])
    if cropped[0] % 2 == 0:
        frequencies[cropped[0] // 2] = 0.5  # either sign would do; RELION counts it as positive
    along_x = phases(np.fft.rfftfreq(cropped[1]), shift[0] * cropped[1] / padded[1]) * scale
    along_y = phases(frequencies, shift[1] * cropped[0] / padded[0])
    for rows in bands_of_spectrum(spectrum):
        part = spectrum[rows]
        part *= along_y[rows, None]
        part *= along_x
        if weights is not None:
            part *= weights.equalized(position, rows)


def _add_warped(total: np.ndarray, image: np.ndarray, field: Optional[np.ndarray]) -> None:
    """Add an image, each pixel from where it has gone: out(p) = image(p - shift(p))."""
    n_rows, n_columns = total.shape
    shape = (n_rows, n_columns)
    step = max(1, WARP_PIXELS // n_columns)
    for first in range(0, n_rows, step):
        last = min(first + step, n_rows)
        if field is None:
            total[first:last] += image[first:last, :n_columns]
        else:
            shift_x, shift_y = (shifts_of_rows(polynomial, first, last, shape) for polynomial in field)
            total[first:last] += interpolated(image, first, shift_y, shift_x)


def interpolated(image: np.ndarray, first: int, shift_y: np.ndarray, shift_x: np.ndarray) -> np.ndarray:
    """Return rows of an image from `first` on, each pixel from between four.

    Parameters
    ----------
    image
        `(y, x)`, float32, at least 2 x 2. It may be larger than the result; beyond its edges the nearest pixel goes on,
        and is not interpolated along them, as in RELION.
    first
        Row.
    shift_y, shift_x
        By how much each pixel is moved, float32 `(rows, columns)`.
    """
    n_rows, n_columns = image.shape
    places_y = np.arange(first, first + len(shift_y), dtype=np.float32)[:, None] - shift_y
    places_x = np.arange(shift_x.shape[1], dtype=np.float32) - shift_x
    is_outside = _is_outside(places_y, n_rows) | _is_outside(places_x, n_columns)
    row, y = _split(places_y, n_rows)
    column, x = _split(places_x, n_columns)
    if is_outside.any():  # the pixel at or above and left of the place; at the last edges that is the second of the two
        y[is_outside] = np.floor(y[is_outside])
        x[is_outside] = np.floor(x[is_outside])
    flat = image.reshape(-1)
    index = row * np.int64(n_columns) + column
    upper = _between(flat, index, x)
    lower = _between(flat[n_columns:], index, x)
    lower -= upper
    lower *= y
    upper += lower
    return upper


def _is_outside(places: np.ndarray, size: int) -> np.ndarray:
    """Return where places have no pixel on one side."""
    return (places < 0) | (places >= size - 1)


def _split(place: np.ndarray, size: int) -> Tuple[np.ndarray, np.ndarray]:
    """Return pixel and fraction of places, which are brought inside an axis first."""
    np.clip(place, 0, size - 1, out=place)
    pixel = np.minimum(place.astype(np.int32), size - 2)
    place -= pixel
    return pixel, place


def _between(flat: np.ndarray, index: np.ndarray, x: np.ndarray) -> np.ndarray:
    left = flat.take(index)
    right = flat[1:].take(index)
    right -= left
    right *= x
    left += right
    return left
