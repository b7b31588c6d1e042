"""Sums of frames that are moved: as a whole by Fourier phases, with exposure weights, and locally by interpolation.

There is one transform for each frame. The moved spectra of frames whose local motion is nearly the same are summed, and
so transformed back and warped together; without local motion there is one such sum for each half. Frames may be binned
first, by cropping their spectra, as RELION does.

Memory is what takes time here, not arithmetic. So no frame is made as an image: some of its rows are corrected,
continued and transformed while they are in the processor's cache, then some of the columns of that are transformed,
moved and summed; likewise back. Spectra are kept transposed, `(columns, rows)`: both transforms are of whole rows then.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import scipy.fft

from cryoden.formats.stack import rows_of_band
from cryoden.movies.dose_weighting import DoseWeighting, critical_exposure
from cryoden.movies.frame_sums import ahead
from cryoden.movies.motion.arrays import Array, Arrays
from cryoden.movies.motion.motion import Motion, Shape, binned_shape
from cryoden.movies.motion.stored_shifts import Shift
from cryoden.movies.motion.warped_sums import add_warped
from cryoden.movies.movie import Bands

RowsOf = Any
"""An image of which rows can be asked for, `image[first:last]`: an array, or one whose rows are made then."""

FramesOf = Callable[[Sequence[int]], Iterable[RowsOf]]
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
        Of which rows can be asked for, float32, where `arrays` computes; corrected: bad pixels must be replaced before
        they are moved.
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
    result = binned_shape(shape, motion.binning)
    with arrays.alone():
        halves = _sums(frames, shape, motion, weighting, arrays, is_in_order)
        if motion.is_binned_last:
            halves = [_binned(halves.pop(0), result, arrays) for _ in range(2)]

    def band(first: int) -> Bands:
        rows = slice(first, min(first + step, result[0]))
        odd, even = arrays.each(lambda half: arrays.host(half[rows])[:, : result[1]], halves)
        return odd, even

    step = rows_of_band(result[1], 4)
    yield from ahead(band, range(0, result[0], step), 1)


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
) -> List[RowsOf]:
    """Return the sums of the odd and of the even frames, before what is binned last is binned."""
    binning = 1.0 if motion.is_binned_last else motion.binning
    result = binned_shape(shape, binning)
    padded, cropped = transform_shapes(shape, result, motion)
    n_columns = cropped[1] // 2 + 1
    weights = None
    if weighting is not None:
        rate = weighting.sampling_rate * padded[0] / cropped[0]
        weights = FrameWeights(cropped, DoseWeighting(weighting.doses, rate, weighting.voltage), arrays)

    groups = _groups(motion)
    group_of = {position: group for group in groups for position in group.positions}
    order = sorted(group_of) if is_in_order or motion.fields is None else list(group_of)
    halves: Dict[int, RowsOf] = {}
    totals: Dict[int, Array] = {}
    unused: List[Array] = []  # memory that is used again is not asked for again, which takes long
    spectrum = arrays.empty((n_columns, padded[0]), np.complex64)

    positions = iter(order)
    for frame in frames(order):  # neither zip nor enumerate: they would keep a frame while the next one is read
        position = next(positions)
        group = group_of[position]
        if group.half not in totals:
            totals[group.half] = unused.pop() if unused else arrays.zeros((n_columns, cropped[0]), np.complex64)
        along_x, along_y = moving_factors(motion.shifts[position], padded, cropped)
        transform_rows(spectrum, frame, padded[1], arrays.device(along_x), arrays)
        del frame
        _add_columns(totals[group.half], spectrum, arrays.device(along_y), weights, position, arrays)
        if position != max(group.positions):
            continue

        total = totals.pop(group.half)
        summed = TransformedRows(total, cropped[1], arrays)
        if group.field is None:
            halves[group.half] = summed
            continue
        if group.half not in halves:
            halves[group.half] = arrays.zeros(result, np.float32)
        image = summed.written_to(arrays.floats_in(spectrum, cropped))
        add_warped(halves[group.half], image, group.field / binning, arrays)
        total[:] = 0
        unused.append(total)
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


# ---------------------------------------------------------------------- spectra
def transform_rows(spectrum: Array, frame: RowsOf, n_wide: int, factors: Array, arrays: Arrays) -> None:
    """Transform the rows of a frame, continued by their mirror image on all sides.

    Half of what is added to rows or columns belongs to the opposite edge.

    Parameters
    ----------
    spectrum
        `(columns, rows)`, complex: it becomes the first columns of the transformed rows, and has as many rows as the
        continued frame.
    frame
        Rows of it are asked for, float32.
    n_wide
        Columns of the continued frame.
    factors
        By which the columns of the spectrum are multiplied.
    arrays
        What computes.
    """
    n_rows, n_tall = frame.shape[0], spectrum.shape[1]

    def transform(rows: slice) -> None:
        lines = arrays.rfft(_widened(frame[rows], n_wide, arrays))[:, : spectrum.shape[0]]
        spectrum[:, rows] = (lines * factors).T

    arrays.each(transform, arrays.parts(n_rows, 2 * n_wide))

    after = (n_tall - n_rows) // 2
    before = n_tall - n_rows - after
    spectrum[:, n_rows : n_rows + after] = arrays.flip(spectrum[:, n_rows - after : n_rows], 1)
    spectrum[:, n_rows + after :] = arrays.flip(spectrum[:, :before], 1)


def _widened(rows: Array, n_wide: int, arrays: Arrays) -> Array:
    """Return rows that are continued by their mirror image to a number of columns."""
    n_rows, n_columns = rows.shape
    if n_columns == n_wide:
        return arrays.float32(rows)
    result = arrays.empty((n_rows, n_wide), np.float32)
    after = (n_wide - n_columns) // 2
    before = n_wide - n_columns - after
    result[:, :n_columns] = rows
    result[:, n_columns : n_columns + after] = arrays.flip(rows[:, n_columns - after :], 1)
    result[:, n_columns + after :] = arrays.flip(rows[:, :before], 1)
    return result


def moving_factors(shift: Shift, padded: Shape, cropped: Shape) -> Tuple[np.ndarray, np.ndarray]:
    """Return the factors that move a spectrum, for its columns and for its rows: a shift is a phase.

    Those of the columns keep the mean of an image that is cropped in Fourier space.
    """
    frequencies = np.fft.fftfreq(cropped[0])
    if cropped[0] % 2 == 0:
        frequencies[cropped[0] // 2] = 0.5  # either sign would do; RELION counts it as positive
    scale = np.float32(cropped[0] * cropped[1] / (padded[0] * padded[1]))
    along_x = _phases(np.fft.rfftfreq(cropped[1]), shift[0] * cropped[1] / padded[1]) * scale
    return along_x, _phases(frequencies, shift[1] * cropped[0] / padded[0])


def _add_columns(
    total: Array, spectrum: Array, factors: Array, weights: Optional[FrameWeights], position: int, arrays: Arrays
) -> None:
    """Transform the columns of a frame, and add what is left of them after cropping, moved and weighted."""
    pieces = _cropped_rows(spectrum.shape[1], total.shape[1])

    def add(columns: slice) -> None:
        whole = arrays.fft(spectrum[columns])
        weight = None if weights is None else weights.of_frame(position, columns)
        for rows, source in pieces:
            moved = whole[:, source : source + rows.stop - rows.start]
            moved *= factors[rows]
            if weight is not None:
                moved *= weight[:, rows]
            total[columns, rows] += moved

    arrays.each(add, arrays.parts(total.shape[0], 8 * spectrum.shape[1]))


class TransformedRows:
    """The image of a spectrum, whose rows are transformed back when they are asked for; its columns are at once.

    Parameters
    ----------
    spectrum
        `(columns, rows)`; it is overwritten.
    n_columns
        Of the image.
    arrays
        What computes.
    """

    def __init__(self, spectrum: Array, n_columns: int, arrays: Arrays) -> None:
        self._spectrum, self._arrays = spectrum, arrays
        self.shape = (int(spectrum.shape[1]), n_columns)

        def transform(columns: slice) -> None:
            spectrum[columns] = arrays.ifft(spectrum[columns])

        arrays.each(transform, arrays.parts(spectrum.shape[0], 8 * spectrum.shape[1]))

    def __getitem__(self, rows: slice) -> Array:
        """Return rows, float32."""
        return self._arrays.irfft(self._spectrum[:, rows].T, self.shape[1])

    def written_to(self, image: Array) -> Array:
        """Return an image that all rows were written to."""

        def write(rows: slice) -> None:
            image[rows] = self[rows]

        self._arrays.each(write, self._arrays.parts(self.shape[0], 2 * self.shape[1]))
        return image


def _phases(frequencies: np.ndarray, shift: float) -> np.ndarray:
    """Return by which factors a shift in px changes a spectrum, complex64; frequencies in cycles per px."""
    return np.exp(-2j * np.pi * shift * frequencies).astype(np.complex64)


def _cropped_rows(n_rows: int, n_cropped: int) -> List[Tuple[slice, int]]:
    """Return the rows of a cropped spectrum, low frequencies, then negative ones, and where they begin in the whole."""
    n_below = n_cropped // 2
    n_above = n_cropped - n_below
    return [(slice(0, n_above), 0), (slice(n_above, n_cropped), n_rows - n_below)]


def _binned(image: RowsOf, shape: Shape, arrays: Arrays) -> Array:
    """Return an image on a coarser grid, float32, with its mean."""
    full = image.shape[0], image.shape[1]
    spectrum = arrays.rfft2(image[0 : full[0]])
    small = arrays.empty((shape[0], shape[1] // 2 + 1), np.complex64)
    for rows, source in _cropped_rows(full[0], shape[0]):
        small[rows] = spectrum[source : source + rows.stop - rows.start, : small.shape[1]]
    small *= shape[0] * shape[1] / (full[0] * full[1])
    return arrays.irfft2(small, shape)


class FrameWeights:
    """Exposure weights of every frame, over the root of the mean of their squares, on the grid of a transform.

    They are made where they are needed, `(columns, rows)`. What they are divided by brings the noise of the sum of all
    frames back to that of a plain sum.
    """

    def __init__(self, shape: Shape, weighting: DoseWeighting, arrays: Arrays) -> None:
        squared_y = np.fft.fftfreq(shape[0], weighting.sampling_rate) ** 2
        squared_x = np.fft.rfftfreq(shape[1], weighting.sampling_rate)[:, None] ** 2
        self._doses = [float(dose) for dose in weighting.doses]
        self._arrays = arrays
        exponents = np.empty((squared_x.size, shape[0]), np.float32)

        def prepare(columns: slice) -> None:
            critical = critical_exposure(np.sqrt(squared_y + squared_x[columns]), weighting.voltage)
            exponents[columns] = -0.5 / critical

        parts = arrays.parts(squared_x.size, 8 * shape[0])
        arrays.each(prepare, parts)
        self._per_dose = arrays.device(exponents)
        self._divisor = arrays.empty(exponents.shape, np.float32)

        def square(columns: slice) -> None:
            squares = arrays.exp(self._per_dose[columns] * (2 * self._doses[0]))
            for dose in self._doses[1:]:
                squares += arrays.exp(self._per_dose[columns] * (2 * dose))
            squares /= len(self._doses)
            self._divisor[columns] = arrays.sqrt(squares)

        arrays.each(square, parts)

    def of_frame(self, position: int, columns: slice) -> Array:
        """Return the weights of a frame, given by its position among the used ones, for columns of the transform."""
        weights = self._arrays.exp(self._per_dose[columns] * self._doses[position])
        weights /= self._divisor[columns]
        return weights
