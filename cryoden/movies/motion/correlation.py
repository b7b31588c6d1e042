"""How far each frame of a movie is from the sum of the others: measured in Fourier space, with its uncertainty.

Each frame is compared with the sum of all others, so that it is never compared with itself (Li et al. 2013, Nat.
Methods 10, 584-590; Grant & Grigorieff 2015, eLife 4:e06980). Frequencies weigh as much as they carry common signal: at
first by a B-factor (as in Zheng et al. 2017, Nat. Methods 14, 331-332), later by what the frames themselves show.

Spectra are kept as the rectangle of frequencies that are used, with frequency 0 in the middle row of the first column:
a lower resolution is a slice of it, and moving it needs one factor for each row and one for each column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Iterable, List, Optional, Sequence, Tuple

import numpy as np
import scipy.fft

from cryoden.movies.motion.arrays import Array, Arrays
from cryoden.movies.motion.motion import Shape

LOWEST_FREQUENCY = 1 / 400
"""1/A: below lie gradients of the ice and of the illumination, which are wide and say little about a place."""

HIGHEST_FREQUENCY = 1 / 5
"""1/A: beyond, single frames have no signal by which a shift could be found."""

N_RINGS = 48
"""Rings in which the common signal is measured."""

SMOOTHED_RINGS = 5
"""Over which the common signal is averaged: it changes slowly, its measurement does not."""

LEAST_POWER = 1e-9
"""Of the strongest ring; a ring with less has nothing in it but rounding errors."""

LEAST_WEIGHT = 1e-3
"""Of the heaviest ring; lighter ones change nothing of where a correlation is highest."""

TINY = 1e-30
"""In place of a power that is 0."""

UNKNOWN_PX2 = 1e6
"""Variance of a shift about which the correlation says nothing."""

Window = Tuple[slice, slice]
"""Rows and columns of the rectangle of frequencies."""


class Band:
    """The frequencies of one size of image that are used.

    Parameters
    ----------
    shape
        Rows and columns of the images.
    pixel
        Height and width of their pixels in unbinned pixels; all shifts are in unbinned pixels.
    sampling_rate
        A per unbinned pixel.
    arrays
        What computes.

    Attributes
    ----------
    highest_per_angstrom
        Where the last ring ends, 1/A.
    """

    def __init__(self, shape: Shape, pixel: Tuple[float, float], sampling_rate: float, arrays: Arrays) -> None:
        self.shape, self.pixel, self.arrays = shape, pixel, arrays
        highest = min(HIGHEST_FREQUENCY * sampling_rate, 0.5 / max(pixel))
        self.highest_per_angstrom = highest / sampling_rate
        self.reach_y, self.reach_x = (
            max(0, min((size - 1) // 2, int(np.ceil(highest * size * step)) - 1)) for size, step in zip(shape, pixel)
        )
        self.along_y = np.arange(-self.reach_y, self.reach_y + 1) / (shape[0] * pixel[0])
        self.along_x = np.arange(self.reach_x + 1) / (shape[1] * pixel[1])
        radius = np.hypot(self.along_y[:, None], self.along_x)
        is_used = (radius >= LOWEST_FREQUENCY * sampling_rate) & (radius < highest)

        # Every column but the first stands for two: the transform of a real image is symmetric.
        counts = np.where(np.arange(self.reach_x + 1) > 0, 2.0, 1.0) * is_used
        ring = np.where(is_used, radius / highest * N_RINGS, N_RINGS).astype(np.int64)
        self.ring_sizes = np.bincount(ring.ravel(), counts.ravel(), minlength=N_RINGS + 1)[:N_RINGS]
        radii = np.bincount(ring.ravel(), radius.ravel(), minlength=N_RINGS + 1)[:N_RINGS] / sampling_rate
        self._ring_radii = radii / np.maximum(np.bincount(ring.ravel(), minlength=N_RINGS + 1)[:N_RINGS], 1)
        self._ring = ring
        self._highest = highest

        self.counts = arrays.device(counts.astype(np.float32))
        self._mask = arrays.device(is_used.astype(np.float32))
        self._device_ring = arrays.device(ring)

    @property
    def size(self) -> Shape:
        """Rows and columns of the rectangle of frequencies."""
        return len(self.along_y), len(self.along_x)

    @property
    def n_bytes(self) -> int:
        """Of the transform of one image."""
        return np.dtype(np.complex64).itemsize * self.size[0] * self.size[1]

    @property
    def whole(self) -> Window:
        """All of the frequencies."""
        return slice(0, self.size[0]), slice(0, self.size[1])

    def window(self, ring_weights: np.ndarray) -> Window:
        """Return the rectangle outside of which rings weigh nothing."""
        heavy = np.flatnonzero(ring_weights > LEAST_WEIGHT * ring_weights.max(initial=0))
        last = (heavy.max(initial=0) + 1) / N_RINGS * self._highest
        y, x = (
            min(reach, int(np.ceil(last * size * step)))
            for reach, size, step in zip((self.reach_y, self.reach_x), self.shape, self.pixel)
        )
        return slice(self.reach_y - y, self.reach_y + y + 1), slice(0, x + 1)

    def per_ring(self, values: np.ndarray, window: Window) -> Array:
        """Return the value of every ring at its frequencies, float32; 0 at those that are not used."""
        return self.arrays.device(np.append(values, 0.0).astype(np.float32)[self._ring[window]])

    def phases(self, shifts: np.ndarray, window: Window) -> Tuple[Array, Array]:
        """Return exp(-2 pi i k s) of rows `(n, rows, 1)` and columns `(n, 1, columns)` for shifts (x, y)."""
        in_y = np.exp(-2j * np.pi * shifts[:, 1, None] * self.along_y[window[0]]).astype(np.complex64)
        in_x = np.exp(-2j * np.pi * shifts[:, 0, None] * self.along_x[window[1]]).astype(np.complex64)
        return self.arrays.device(in_y[:, :, None]), self.arrays.device(in_x[:, None, :])

    def of_images(self, images: Array) -> Array:
        """Return the transforms of images `(..., y, x)` at these frequencies."""
        full = self.arrays.rfft2(images)
        result = self.arrays.empty((*full.shape[:-2], *self.size), np.complex64)
        y, n_x = self.reach_y, self.size[1]
        result[..., y:, :] = full[..., : y + 1, :n_x]
        if y:
            result[..., :y, :] = full[..., -y:, :n_x]
        result *= self._mask
        return result

    def to_images(self, spectra: Array, shape: Shape) -> Array:
        """Return the images of transforms at these frequencies, `(..., y, x)`, on a grid that may be coarser."""
        grid = on_grid(spectra, shape, self.arrays)
        grid *= np.float32(shape[0] * shape[1] / (self.shape[0] * self.shape[1])).item()
        return self.arrays.irfft2(grid, shape)

    def ring_means(self, values: Array) -> np.ndarray:
        """Return the mean of a quantity in every ring, `(rings,)`."""
        sums = self.arrays.ring_sums(self._device_ring, values * self.counts, N_RINGS + 1)[:N_RINGS]
        return sums / np.maximum(self.ring_sizes, 1.0)

    def b_factor(self, b_factor: float) -> np.ndarray:
        """Return the weight of every ring when images are filtered by exp(-B k^2 / 4), k in 1/A."""
        return np.exp(-b_factor / 2 * self._ring_radii**2)

    def common_signal(self, frc: np.ndarray) -> np.ndarray:
        """Return the weight of every ring by the signal that two halves share whose correlation is given.

        In the correlation of a frame with a reference, a frequency should weigh as much as the reference is signal.
        """
        padded = np.pad(frc, SMOOTHED_RINGS // 2, mode="edge")
        smooth = np.convolve(padded, np.full(SMOOTHED_RINGS, 1 / SMOOTHED_RINGS), mode="valid")
        uncertainty = 1 / np.sqrt(np.maximum(self.ring_sizes, 1.0))
        shared = np.where(smooth > uncertainty, smooth, 0.0)
        return 2 * shared / (1 + shared)


def on_grid(spectra: Array, shape: Shape, arrays: Arrays) -> Array:
    """Return spectra whose frequency 0 is in the middle row as the transforms of images of a shape."""
    y, n_x = spectra.shape[-2] // 2, spectra.shape[-1]
    grid = arrays.zeros((*spectra.shape[:-2], shape[0], shape[1] // 2 + 1), np.complex64)
    grid[..., : y + 1, :n_x] = spectra[..., y:, :]
    if y:
        grid[..., -y:, :n_x] = spectra[..., :y, :]
    return grid


@dataclass(frozen=True)
class Measurement:
    """What the correlation of each frame with the sum of the others says.

    Attributes
    ----------
    steps
        How far each frame must still be moved, `(frames, 2)` in x and y; unbinned pixels.
    covariances
        Of the steps, `(frames, 2, 2)`.
    scores
        The correlation, in units of the deviation that noise alone would give it.
    """

    steps: np.ndarray
    covariances: np.ndarray
    scores: np.ndarray


class FrameSpectra:
    """The Fourier transforms of all frames of a movie, or of one patch of them.

    Parameters
    ----------
    band
        Frequencies that are used.
    spectra
        `(frames, rows, columns)`, complex64.
    turned_at
        Shifts `(frames, 2)` after which every other frame is rotated by 180 degrees; None = none is.
    """

    def __init__(self, band: Band, spectra: Array, turned_at: Optional[np.ndarray] = None) -> None:
        self.band = band
        self._spectra = spectra
        self._turned_at = turned_at
        power = band.arrays.zeros(band.size, np.float32)

        def add_power(rows: slice) -> None:
            part = spectra[:, rows]
            power[rows] = (part.real**2 + part.imag**2).sum(0)

        band.arrays.each(add_power, self._parts(band.whole))
        noise = band.ring_means(power) / len(spectra)  # nearly all of the power is noise
        self._per_noise = np.where(noise > LEAST_POWER * noise.max(), 1 / np.maximum(noise, TINY), 0.0)

    @classmethod
    def of_images(cls, images: Iterable[Array], n_images: int, band: Band) -> FrameSpectra:
        """Transform images of one size, float32 `(y, x)`, which are read one after the other."""
        spectra = band.arrays.empty((n_images, *band.size), np.complex64)
        scale = 0.0
        for number, image in enumerate(images):
            if not scale:
                host = band.arrays.host(image)
                scale = float(np.std(host, dtype=np.float64)) * float(np.sqrt(host.size))
            spectra[number] = band.of_images(image)
            spectra[number] *= 1 / (scale or 1.0)  # squares of squares must remain numbers of single precision
        return cls(band, spectra)

    def __len__(self) -> int:
        return len(self._spectra)

    def _parts(self, window: Window) -> List[slice]:
        """Return the rows of a window in parts for all frames at once."""
        n_columns = window[1].stop - window[1].start
        first = window[0].start
        parts = self.band.arrays.parts(window[0].stop - first, 8 * len(self) * n_columns)
        return [slice(first + part.start, first + part.stop) for part in parts]

    def moving(self, shifts: np.ndarray, window: Window) -> Callable[..., Array]:
        """Return a function that returns the spectra of moved frames, `(frames, rows, columns)`.

        Parameters
        ----------
        shifts
            `(frames, 2)`, x and y, of all frames.
        window
            Frequencies. The function takes rows of it, all by default, and frames, all by default.
        """
        at, is_turned = shifts, np.zeros(len(self), bool)
        if self._turned_at is not None:  # rotating by 180 degrees turns a shift around, too
            is_turned = np.arange(len(self)) % 2 == 1
            at = self._turned_at + np.where(is_turned[:, None], -shifts, shifts)
        in_y, in_x = self.band.phases(at, window)

        def moved(rows: slice = window[0], frames: slice = slice(None)) -> Array:
            inside = slice(rows.start - window[0].start, rows.stop - window[0].start)
            result = self._spectra[frames, rows, window[1]] * in_y[frames, inside]
            result *= in_x[frames]
            for number in np.flatnonzero(is_turned[frames]):
                result[number] = result[number].conj()
            return result

        return moved

    def grouped(self, groups: List[np.ndarray], shifts: np.ndarray) -> FrameSpectra:
        """Return the sums of groups of neighbouring frames after these are moved."""
        spectra = self.band.arrays.empty((len(groups), *self.band.size), np.complex64)

        moved = self.moving(shifts, self.band.whole)

        def add(rows: slice) -> None:
            for number, group in enumerate(groups):
                spectra[number, rows] = moved(rows, slice(group[0], group[-1] + 1)).sum(0)

        self.band.arrays.each(add, self._parts(self.band.whole))
        return FrameSpectra(self.band, spectra)

    def common_signal(self, shifts: np.ndarray) -> np.ndarray:
        """Return the weight of every ring by the signal that odd and even frames share once they are moved."""
        return self.band.common_signal(ring_frc([self], [shifts]))

    def half_products(self, shifts: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Return the covariance of the odd and the even sum of moved frames, and the product of their powers.

        Both are `(rings,)`; the first over the root of the second is the FRC.
        """
        arrays, size = self.band.arrays, self.band.size
        cross, odd_power, even_power = (arrays.empty(size, np.float32) for _ in range(3))

        moved = self.moving(shifts, self.band.whole)

        def correlate(rows: slice) -> None:
            frames = moved(rows)
            odd, even = frames[0::2].sum(0), frames[1::2].sum(0)
            cross[rows] = (odd * even.conj()).real
            odd_power[rows] = odd.real**2 + odd.imag**2
            even_power[rows] = even.real**2 + even.imag**2

        arrays.each(correlate, self._parts(self.band.whole))
        means = arrays.each(self.band.ring_means, [cross, odd_power, even_power])
        return means[0], means[1] * means[2]

    def half_turned(self, shifts: np.ndarray) -> FrameSpectra:
        """Return the moved frames with every other one rotated by 180 degrees: odd and even show different things."""
        return FrameSpectra(self.band, self._spectra, shifts)

    def measure(self, shifts: np.ndarray, ring_weights: np.ndarray) -> Measurement:
        """Return how far each frame is from where it correlates best with the sum of the others, by Newton's method.

        Parameters
        ----------
        shifts
            `(frames, 2)`, x and y: where frames are moved to now.
        ring_weights
            `(rings,)`.
        """
        band, arrays = self.band, self.band.arrays
        window = band.window(ring_weights)
        per_ring = band.per_ring(ring_weights * self._per_noise, window)
        weights = per_ring * band.counts[window]
        squared = per_ring * weights  # two frequencies of a pair are the same number, not two
        k_x, k_y = (2 * np.pi * along for along in (band.along_x[window[1]], band.along_y))
        powers_x = arrays.device(np.vander(k_x, 3, increasing=True).astype(np.float32))
        moved = self.moving(shifts, window)

        def correlate(rows: slice) -> np.ndarray:
            inside = slice(rows.start - window[0].start, rows.stop - window[0].start)
            frames = moved(rows)
            product = frames.sum(0) - frames
            product = product.conj() * frames
            noise = (product.real**2 + product.imag**2) * squared[inside]
            values = (product.real * weights[inside], product.imag * weights[inside], noise)

            # Sums of k_x^i k_y^j over the frequencies: first along rows, then along columns.
            in_rows = [arrays.host(arrays.product(value, powers_x)) for value in values]
            powers_y = np.vander(k_y[rows], 3, increasing=True)
            return np.einsum("vnyx,yz->vnzx", np.array(in_rows, np.float64), powers_y)

        real, imag, noise = np.sum(arrays.each(correlate, self._parts(window)), axis=0)
        gradients = np.stack([imag[:, 0, 1], imag[:, 1, 0]], axis=1)
        steps, covariances = _newton(gradients, _second_moments(real), _second_moments(noise))
        return Measurement(steps, covariances, real[:, 0, 0] / np.sqrt(np.maximum(noise[:, 0, 0], TINY)))

    def peaks(self, shifts: np.ndarray, ring_weights: np.ndarray, reach: float) -> np.ndarray:
        """Return where each frame correlates best with the sum of the others, `(frames, 2)` relative to `shifts`.

        Parameters
        ----------
        shifts, ring_weights
            As for `measure`.
        reach
            How far is looked along each axis, unbinned pixels.
        """
        band, arrays = self.band, self.band.arrays

        # What is filtered has no fine detail: its correlation is computed on as few places as hold it.
        window = band.window(ring_weights)
        size = window[0].stop - window[0].start, window[1].stop
        weights = band.per_ring(ring_weights * self._per_noise, window)
        n_y, n_x = (scipy.fft.next_fast_len(n + 1) for n in (size[0], 2 * size[1]))
        step_y, step_x = band.shape[0] * band.pixel[0] / n_y, band.shape[1] * band.pixel[1] / n_x
        places_y, places_x = scipy.fft.fftfreq(n_y, 1 / n_y) * step_y, scipy.fft.fftfreq(n_x, 1 / n_x) * step_x
        is_near = (np.abs(places_y)[:, None] <= reach) & (np.abs(places_x) <= reach)

        total = arrays.empty(size, np.complex64)
        moved = self.moving(shifts, window)

        def add(rows: slice) -> None:
            inside = slice(rows.start - window[0].start, rows.stop - window[0].start)
            total[inside] = moved(rows).sum(0)

        def correlate(frames: slice) -> np.ndarray:
            some = moved(frames=frames)
            product = (total - some) * some.conj()
            product *= weights
            values = arrays.host(arrays.irfft2(on_grid(product, (n_y, n_x), arrays), (n_y, n_x)))
            row, column, in_y, in_x = np.array([_highest(image, is_near) for image in values]).T
            at_x, at_y = places_x[column.astype(int)], places_y[row.astype(int)]
            return np.stack([at_x + in_x * step_x, at_y + in_y * step_y], axis=1)

        arrays.each(add, self._parts(window))
        return np.concatenate(arrays.each(correlate, arrays.parts(len(self), 8 * size[0] * size[1])))


def ring_frc(patches: Sequence[FrameSpectra], shifts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the correlation of the odd and the even sums of patches in every ring, `(rings,)`."""
    arrays = patches[0].band.arrays
    products = arrays.each(lambda item: item[0].half_products(item[1]), list(zip(patches, shifts)))
    cross = np.sum([product[0] for product in products], axis=0)
    power = np.sum([np.sqrt(np.maximum(product[1], 0.0)) for product in products], axis=0)
    return cross / np.maximum(power, TINY)


def _second_moments(moments: np.ndarray) -> np.ndarray:
    """Return the matrices `(n, 2, 2)` of xx, xy and yy from moments `(n, powers of y, powers of x)`."""
    xx, xy, yy = moments[:, 0, 2], moments[:, 1, 1], moments[:, 2, 0]
    return np.stack([np.stack([xx, xy], axis=-1), np.stack([xy, yy], axis=-1)], axis=-2)


def _newton(gradients: np.ndarray, curvatures: np.ndarray, spreads: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return steps to the maxima and their covariances; no step where a correlation has no maximum nearby."""
    has_maximum = np.linalg.eigvalsh(curvatures)[:, 0] > 0
    inverses = np.linalg.inv(np.where(has_maximum[:, None, None], curvatures, np.eye(2)))
    steps = np.where(has_maximum[:, None], np.einsum("nij,nj->ni", inverses, gradients), 0.0)
    covariances = np.where(has_maximum[:, None, None], inverses @ spreads @ inverses, np.eye(2) * UNKNOWN_PX2)
    return steps, covariances


def _highest(values: np.ndarray, is_near: np.ndarray) -> Tuple[int, int, float, float]:
    """Return row and column of the highest of some values, and how far the top of a parabola is from there."""
    n_y, n_x = values.shape
    row, column = divmod(int(np.argmax(np.where(is_near, values, -np.inf))), n_x)
    in_y = _top(values[(row - 1) % n_y, column], values[row, column], values[(row + 1) % n_y, column])
    in_x = _top(values[row, (column - 1) % n_x], values[row, column], values[row, (column + 1) % n_x])
    return row, column, in_y, in_x


def _top(before: float, middle: float, after: float) -> float:
    """Return where a parabola through a maximum and its neighbours is highest, in pixels from the maximum."""
    bend = before - 2 * middle + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
