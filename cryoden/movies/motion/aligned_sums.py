"""Sums of frames that are moved: as a whole by Fourier phases, with exposure weights, and locally by interpolation.

There is one transform for each frame. The moved spectra of frames whose local motion is nearly the same are summed, and
so transformed back and warped together; without local motion there is one such sum for each half. Frames may be binned
first, by cropping their spectra, as RELION does.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import scipy.fft

from cryoden.formats.stack import rows_of_band
from cryoden.movies.dose_weighting import DoseWeighting, critical_exposure
from cryoden.movies.motion.arrays import Array, Arrays
from cryoden.movies.motion.motion import Motion, Shape, binned_shape
from cryoden.movies.motion.stored_shifts import Shift
from cryoden.movies.motion.warped_sums import add_warped
from cryoden.movies.movie import Bands

FramesOf = Callable[[Sequence[int]], Iterable[Array]]
"""Yields frames by their positions among the used ones, in the order that is asked for."""

MAX_DENOMINATOR = 8
"""Of a binning that can be padded: beyond, no small number of pixels is whole before and after."""

SAME_PX = 0.4
"""By how much the local motion of frames may differ, anywhere in the image, from that by which they are warped
together: about the error with which it is known. Even there it blurs by a B-factor of 8 pi^2 SAME_PX^2 / 3 = 4 px^2."""

GRID = 9
"""Places along each side at which local motions are compared."""


def aligned_half_bands(
    frames: FramesOf,
    shape: Shape,
    motion: Motion,
    weighting: Optional[DoseWeighting] = None,
    arrays: Optional[Arrays] = None,
    is_in_order: bool = False,
) -> Iterator[Bands]:
    """Yield the sums of the odd and even frames as bands of rows; the first is odd.

    Beyond their edges frames are continued by their mirror image, which is what comes in where a frame moves away.
    Binned pixels have the mean, not the sum, of those that they cover, as in RELION.

    Parameters
    ----------
    frames
        Float32 `(y, x)` each, where `arrays` computes, corrected: bad pixels must be replaced before they are moved.
    shape
        Rows and columns of a frame.
    motion
        Of all frames.
    weighting
        None = all frames weigh the same. The weights are exp(-dose / (2 critical)); their sum of squares is brought
        back to the number of frames at every frequency, with one divisor for both halves, so that the noise of the full
        sum stays as it was and odd + even = full. Its pixel size is that of the frames.
    arrays
        What computes; None = NumPy.
    is_in_order
        Whether frames must be asked for from the first to the last, which takes more memory.

    Raises
    ------
    CryodenError
        As `frames`, which are read one after the other.
    """
    arrays = arrays or Arrays()
    with arrays.alone():
        halves = _sums(frames, shape, motion, weighting, arrays, is_in_order)
        if motion.is_binned_last:
            result = binned_shape(shape, motion.binning)
            halves = [_binned(halves.pop(0), result, arrays) for _ in range(2)]
        images = [arrays.host(halves.pop(0)) for _ in range(2)]

    step = rows_of_band(images[0].shape[1], 4)
    for first in range(0, images[0].shape[0], step):
        odd, even = (image[first : first + step].astype(np.float32) for image in images)
        yield odd, even


@dataclass(frozen=True)
class Group:
    """Frames of one half that are warped together.

    Attributes
    ----------
    half
        0 is odd.
    positions
        Of its frames among the used ones.
    field
        Their local motion, `(2, 3, 3)`; None = none.
    """

    half: int
    positions: List[int]
    field: Optional[np.ndarray]


def _sums(
    frames: FramesOf,
    shape: Shape,
    motion: Motion,
    weighting: Optional[DoseWeighting],
    arrays: Arrays,
    is_in_order: bool,
) -> List[Array]:
    """Return the sums of the odd and of the even frames, before what is binned last is binned."""
    binning = 1.0 if motion.is_binned_last else motion.binning
    result = binned_shape(shape, binning)
    padded, cropped = transform_shapes(shape, result, motion)
    weights = None
    if weighting is not None:
        rate = weighting.sampling_rate * padded[0] / cropped[0]
        weights = FrameWeights(cropped, DoseWeighting(weighting.doses, rate, weighting.voltage), arrays)

    groups = _groups(motion)
    group_of = {position: group for group in groups for position in group.positions}
    order = sorted(group_of) if is_in_order or motion.fields is None else list(group_of)
    halves: Dict[int, Array] = {}
    totals: Dict[int, Array] = {}
    positions = iter(order)
    continued = map(partial(pad_mirrored, shape=padded, arrays=arrays), frames(order))
    # Neither zip nor enumerate: they would keep a spectrum while the next frame is read.
    for spectrum in arrays.overlapped(arrays.rfft2, continued, shape[0] * shape[1]):
        position = next(positions)
        group = group_of[position]
        if group.half not in totals:
            totals[group.half] = arrays.zeros((cropped[0], cropped[1] // 2 + 1), np.complex64)
        _add_moved(totals[group.half], spectrum, (padded, cropped), motion.shifts[position], weights, position, arrays)
        del spectrum
        if position != max(group.positions):
            continue

        total = totals.pop(group.half)
        if weights is not None:
            weights.equalize(total)
        image = arrays.irfft2(total, cropped)
        del total
        if group.field is None:
            halves[group.half] = image[: result[0], : result[1]]
        else:
            if group.half not in halves:
                halves[group.half] = arrays.zeros(result, np.float32)
            add_warped(halves[group.half], image, group.field / binning, arrays)
        del image
    return [halves[0], halves[1]]


def _groups(motion: Motion) -> List[Group]:
    """Return which frames are warped together; as RELION, none are where its sums are to be reproduced."""
    n_frames = len(motion.shifts)
    if motion.fields is None:
        return [Group(half, list(range(half, n_frames, 2)), None) for half in range(2)]
    fields = np.array(motion.fields)
    powers = np.vander((np.arange(GRID) + 0.5) / GRID - 0.5, 3, increasing=True)
    at_places = np.einsum("yi,naij,xj->nayx", powers, fields, powers)

    groups = []
    for half in range(2):
        members: List[List[int]] = []
        for position in range(half, n_frames, 2):
            together = [*members[-1], position] if members else [position]
            apart = np.abs(at_places[together] - at_places[together].mean(axis=0)).max()
            if members and not motion.is_circular and apart <= SAME_PX:
                members[-1] = together
            else:
                members.append([position])
        groups += [Group(half, items, fields[items].mean(axis=0)) for items in members]
    return groups


# ---------------------------------------------------------------------- sizes of transforms
def transform_shapes(shape: Shape, result: Shape, motion: Motion) -> Tuple[Shape, Shape]:
    """Return the sizes of the transforms before and after binning: room for the largest shift, and fast lengths."""
    if motion.is_circular:
        return shape, result
    room = np.abs(np.array(motion.shifts)).max(axis=0)[::-1] + _local_reach(motion)
    sizes = [_padded_sizes(size, binned, reach) for size, binned, reach in zip(shape, result, room)]
    return (sizes[0][0], sizes[1][0]), (sizes[0][1], sizes[1][1])


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


def pad_mirrored(frame: Array, shape: Shape, arrays: Arrays) -> Array:
    """Return a larger frame whose added rows and columns mirror its edges: half of them belong to the opposite edge."""
    n_rows, n_columns = frame.shape
    if (n_rows, n_columns) == shape:
        return frame
    result = arrays.empty(shape, np.float32)
    after = (shape[1] - n_columns) // 2
    before = shape[1] - n_columns - after

    def fill(rows: slice) -> None:
        part = frame[rows]
        result[rows, :n_columns] = part
        result[rows, n_columns : n_columns + after] = arrays.flip(part[:, n_columns - after :], 1)
        result[rows, n_columns + after :] = arrays.flip(part[:, :before], 1)

    arrays.each(fill, arrays.parts(n_rows, 4 * shape[1]))
    after = (shape[0] - n_rows) // 2
    before = shape[0] - n_rows - after
    result[n_rows : n_rows + after] = arrays.flip(result[n_rows - after : n_rows], 0)
    result[n_rows + after :] = arrays.flip(result[:before], 0)
    return result


# ---------------------------------------------------------------------- spectra
def _add_moved(
    total: Array,
    spectrum: Array,
    shapes: Tuple[Shape, Shape],
    shift: Shift,
    weights: Optional[FrameWeights],
    position: int,
    arrays: Arrays,
) -> None:
    """Add a frame's spectrum, cropped, moved and weighted, with its mean as it was: a shift is a phase."""
    padded, cropped = shapes
    frequencies = np.fft.fftfreq(cropped[0])
    if cropped[0] % 2 == 0:
        frequencies[cropped[0] // 2] = 0.5  # either sign would do; RELION counts it as positive
    scale = np.float32(cropped[0] * cropped[1] / (padded[0] * padded[1]))
    along_x = arrays.device(_phases(np.fft.rfftfreq(cropped[1]), shift[0] * cropped[1] / padded[1]) * scale)
    along_y = arrays.device(_phases(frequencies, shift[1] * cropped[0] / padded[0])[:, None])

    for rows, source in _cropped_rows(padded, cropped):

        def add(part: slice, first: int = rows.start, offset: int = source - rows.start) -> None:
            here = slice(first + part.start, first + part.stop)
            moved = spectrum[here.start + offset : here.stop + offset, : total.shape[1]]
            moved *= along_y[here]
            moved *= along_x
            if weights is not None:
                moved *= weights.of_frame(position, here)
            total[here] += moved

        arrays.each(add, arrays.parts(rows.stop - rows.start, 8 * total.shape[1]))


def _phases(frequencies: np.ndarray, shift: float) -> np.ndarray:
    """Return by which factors a shift in px changes a spectrum, complex64; frequencies in cycles per px."""
    return np.exp(-2j * np.pi * shift * frequencies).astype(np.complex64)


def _cropped_rows(padded: Shape, cropped: Shape) -> List[Tuple[slice, int]]:
    """Return the rows of a cropped spectrum, low frequencies, then negative ones, and where they begin in the whole."""
    n_below = cropped[0] // 2
    n_above = cropped[0] - n_below
    return [(slice(0, n_above), 0), (slice(n_above, cropped[0]), padded[0] - n_below)]


def _binned(image: Array, shape: Shape, arrays: Arrays) -> Array:
    """Return an image on a coarser grid, float32, with its mean."""
    full = image.shape[0], image.shape[1]
    spectrum = arrays.rfft2(image)
    small = arrays.empty((shape[0], shape[1] // 2 + 1), np.complex64)
    for rows, source in _cropped_rows(full, shape):
        small[rows] = spectrum[source : source + rows.stop - rows.start, : small.shape[1]]
    small *= shape[0] * shape[1] / (full[0] * full[1])
    return arrays.irfft2(small, shape)


class FrameWeights:
    """Exposure weights of every frame on the grid of the transforms, made row by row where they are needed."""

    def __init__(self, shape: Shape, weighting: DoseWeighting, arrays: Arrays) -> None:
        squared_y = np.fft.fftfreq(shape[0], weighting.sampling_rate)[:, None] ** 2
        squared_x = np.fft.rfftfreq(shape[1], weighting.sampling_rate) ** 2
        self._doses = [float(dose) for dose in weighting.doses]
        self._arrays = arrays
        exponents = np.empty((shape[0], squared_x.size), np.float32)

        def prepare(rows: slice) -> None:
            critical = critical_exposure(np.sqrt(squared_y[rows] + squared_x), weighting.voltage)
            exponents[rows] = -0.5 / critical

        arrays.each(prepare, arrays.parts(shape[0], 8 * squared_x.size))
        self._per_dose = arrays.device(exponents)

    def of_frame(self, position: int, rows: slice) -> Array:
        """Return the weights of a frame, given by its position among the used ones, for rows of the transform."""
        return self._arrays.exp(self._per_dose[rows] * self._doses[position])

    def equalize(self, spectrum: Array) -> None:
        """Bring the noise of a weighted sum, with that of the other frames, back to that of a plain sum."""

        def divide(rows: slice) -> None:
            squares = self.of_frame(0, rows) ** 2
            for position in range(1, len(self._doses)):
                squares += self.of_frame(position, rows) ** 2
            squares /= len(self._doses)
            spectrum[rows] /= self._arrays.sqrt(squares)

        self._arrays.each(divide, self._arrays.parts(spectrum.shape[0], 8 * spectrum.shape[1]))
