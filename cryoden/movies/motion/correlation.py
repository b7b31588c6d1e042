"""How far each frame of a movie is from the sum of the others: measured in Fourier space, with its uncertainty.

Each frame is compared with the sum of all others, so that it is never compared with itself (Li et al. 2013, Nat.
Methods 10, 584-590; Grant & Grigorieff 2015, eLife 4:e06980). Frequencies weigh as much as they carry common signal: at
first by a B-factor (as in Zheng et al. 2017, Nat. Methods 14, 331-332), later by what the frames themselves show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, List, Sequence, Tuple

import numpy as np
import scipy.fft

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


class Band:
    """The frequencies of one size of image that are used, as vectors.

    Parameters
    ----------
    shape
        Rows and columns of the images.
    pixel
        Their pixel in unbinned pixels; all shifts are in unbinned pixels.
    sampling_rate
        A per unbinned pixel.

    Attributes
    ----------
    highest_per_angstrom
        Where the last ring ends, 1/A.
    """

    def __init__(self, shape: Shape, pixel: float, sampling_rate: float) -> None:
        self.shape = shape
        self.pixel = pixel
        highest = min(HIGHEST_FREQUENCY * sampling_rate, 0.5 / pixel)
        self.highest_per_angstrom = highest / sampling_rate
        along_y = scipy.fft.fftfreq(shape[0], pixel)
        along_x = scipy.fft.rfftfreq(shape[1], pixel)
        radius = np.hypot(along_y[:, None], along_x)
        is_used = (radius >= LOWEST_FREQUENCY * sampling_rate) & (radius < highest)

        self.rows, self.columns = np.nonzero(is_used)
        self.signed_rows = np.where(self.rows > shape[0] // 2, self.rows - shape[0], self.rows)
        self.along_y = along_y
        self.along_x = along_x
        self.radius_A = (radius[is_used] / sampling_rate).astype(np.float32)
        self.ring = (radius[is_used] / highest * N_RINGS).astype(np.intp)

        # Every column but the first stands for two: the transform of a real image is symmetric.
        self.counts = np.where(self.columns > 0, 2.0, 1.0).astype(np.float32)
        k_x = (2 * np.pi * along_x[self.columns]).astype(np.float32)
        k_y = (2 * np.pi * along_y[self.rows]).astype(np.float32)
        self.gradient_terms = np.stack([k_x, k_y])
        self.curvature_terms = np.stack([k_x * k_x, k_x * k_y, k_y * k_y])

    def __len__(self) -> int:
        return len(self.rows)

    def phases(self, shift: np.ndarray) -> np.ndarray:
        """Return the factors exp(-2 pi i k s) that move an image by a shift (x, y)."""
        in_y = np.exp(-2j * np.pi * shift[1] * self.along_y).astype(np.complex64)
        in_x = np.exp(-2j * np.pi * shift[0] * self.along_x).astype(np.complex64)
        return in_y[self.rows] * in_x[self.columns]

    @property
    def n_bytes(self) -> int:
        """Of the transform of one image."""
        return np.dtype(np.complex64).itemsize * len(self)

    def of_image(self, image: np.ndarray, n_threads: int = 1) -> np.ndarray:
        """Return the transform of an image at these frequencies, complex64."""
        return scipy.fft.rfft2(image, workers=n_threads)[self.rows, self.columns]

    def to_image(self, spectrum: np.ndarray, n_threads: int = 1) -> np.ndarray:
        """Return the image of a transform at these frequencies, float32 `(y, x)`."""
        grid = np.zeros((self.shape[0], self.shape[1] // 2 + 1), np.complex64)
        grid[self.rows, self.columns] = spectrum
        return scipy.fft.irfft2(grid, s=self.shape, workers=n_threads, overwrite_x=True)

    def ring_means(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of a quantity in every ring, `(rings,)`."""
        sums = np.bincount(self.ring, self.counts * values, minlength=N_RINGS)
        return sums / np.maximum(self.ring_sizes, 1.0)

    @property
    def ring_sizes(self) -> np.ndarray:
        """How many frequencies every ring has, `(rings,)`."""
        return np.bincount(self.ring, self.counts, minlength=N_RINGS)

    def b_factor(self, b_factor: float) -> np.ndarray:
        """Return the weight of every ring when images are filtered by exp(-B k^2 / 4), k in 1/A."""
        radii = np.bincount(self.ring, self.radius_A, minlength=N_RINGS)
        radii = radii / np.maximum(np.bincount(self.ring, minlength=N_RINGS), 1)
        return np.exp(-b_factor / 2 * radii**2)


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
        `(frames, frequencies)`, complex64.
    """

    def __init__(self, band: Band, spectra: np.ndarray) -> None:
        self.band = band
        self._spectra = spectra
        power = np.zeros(len(band), np.float32)
        for spectrum in spectra:
            power += spectrum.real**2 + spectrum.imag**2
        noise = band.ring_means(power / len(spectra))  # nearly all of the power is noise
        per_noise = np.where(noise > LEAST_POWER * noise.max(), 1 / np.maximum(noise, TINY), 0.0)
        self._per_noise = per_noise.astype(np.float32)[band.ring]

    @classmethod
    def of_images(cls, images: Iterable[np.ndarray], n_images: int, band: Band, n_threads: int = 1) -> FrameSpectra:
        """Transform images of one size, float32 `(y, x)`, which are read one after the other."""
        spectra = np.empty((n_images, len(band)), np.complex64)
        scale = 0.0
        for number, image in enumerate(images):
            scale = scale or float(np.std(image, dtype=np.float64)) * float(np.sqrt(image.size))
            spectra[number] = band.of_image(image, n_threads)
            spectra[number] /= scale or 1.0  # squares of squares must remain numbers of single precision
        return cls(band, spectra)

    def __len__(self) -> int:
        return len(self._spectra)

    def moved(self, number: int, shift: np.ndarray) -> np.ndarray:
        """Return the spectrum of a frame that is moved by a shift."""
        return self._spectra[number] * self.band.phases(shift)

    def total(self, shifts: np.ndarray) -> np.ndarray:
        """Return the sum of the moved frames."""
        total = np.zeros(len(self.band), np.complex64)
        for number in range(len(self)):
            total += self.moved(number, shifts[number])
        return total

    def grouped(self, groups: List[np.ndarray], shifts: np.ndarray) -> FrameSpectra:
        """Return the sums of groups of frames after these are moved."""
        spectra = np.zeros((len(groups), len(self.band)), np.complex64)
        for number, group in enumerate(groups):
            for frame in group:
                spectra[number] += self.moved(frame, shifts[frame])
        return FrameSpectra(self.band, spectra)

    def common_signal(self, shifts: np.ndarray) -> np.ndarray:
        """Return the weight of every ring by the signal that odd and even frames share once they are moved.

        In the correlation of a frame with a reference, a frequency should weigh as much as the reference is signal.
        """
        cross, power = self.half_products(shifts)
        frc = cross / np.sqrt(np.maximum(power, TINY))
        padded = np.pad(frc, SMOOTHED_RINGS // 2, mode="edge")
        smooth = np.convolve(padded, np.full(SMOOTHED_RINGS, 1 / SMOOTHED_RINGS), mode="valid")
        uncertainty = 1 / np.sqrt(np.maximum(self.band.ring_sizes, 1.0))
        shared = np.where(smooth > uncertainty, smooth, 0.0)
        return 2 * shared / (1 + shared)

    def half_products(self, shifts: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Return the covariance of the odd and the even sum of moved frames, and the product of their powers.

        Both are `(rings,)`; the first over the root of the second is the FRC.
        """
        odd, even = (np.zeros(len(self.band), np.complex64) for _ in range(2))
        for number in range(len(self)):
            half = even if number % 2 else odd
            half += self.moved(number, shifts[number])
        cross = self.band.ring_means((odd * even.conj()).real)
        return cross, self.band.ring_means(np.abs(odd) ** 2) * self.band.ring_means(np.abs(even) ** 2)

    def half_turned(self, shifts: np.ndarray) -> FrameSpectra:
        """Return the moved frames with every other one rotated by 180 degrees: odd and even show different things."""
        turned = np.stack([self.moved(number, shift) for number, shift in enumerate(shifts)])
        np.conj(turned[1::2], out=turned[1::2])
        return FrameSpectra(self.band, turned)

    def measure(self, shifts: np.ndarray, ring_weights: np.ndarray) -> Measurement:
        """Return how far each frame is from where it correlates best with the sum of the others, by Newton's method.

        Parameters
        ----------
        shifts
            `(frames, 2)`, x and y: where frames are moved to now.
        ring_weights
            `(rings,)`.
        """
        band = self.band
        weights = band.counts * ring_weights.astype(np.float32)[band.ring] * self._per_noise
        squared = weights * weights / band.counts  # two frequencies of a pair are the same number, not two
        total = self.total(shifts)

        n = len(self)
        steps = np.zeros((n, 2))
        covariances = np.zeros((n, 2, 2))
        scores = np.zeros(n)
        for number in range(n):
            moved = self.moved(number, shifts[number])
            product = moved * (total - moved).conj()
            noise = squared * (product.real**2 + product.imag**2)
            real = weights * product.real

            gradient = band.gradient_terms @ (weights * product.imag)
            curvature = _symmetric(band.curvature_terms @ real)
            spread = _symmetric(band.curvature_terms @ noise)
            steps[number], covariances[number] = _newton(gradient, curvature, spread)
            scores[number] = real.sum(dtype=np.float64) / np.sqrt(max(noise.sum(dtype=np.float64), TINY))
        return Measurement(steps, covariances, scores)

    def peaks(self, shifts: np.ndarray, ring_weights: np.ndarray, reach: float) -> np.ndarray:
        """Return where each frame correlates best with the sum of the others, `(frames, 2)` relative to `shifts`.

        Parameters
        ----------
        shifts, ring_weights
            As for `measure`.
        reach
            How far is looked along each axis, unbinned pixels.
        """
        band = self.band
        weights = ring_weights.astype(np.float32)[band.ring] * self._per_noise

        # What is filtered has no fine detail: its correlation is computed on as few places as hold it.
        is_used = ring_weights[band.ring] > LEAST_WEIGHT * ring_weights.max()
        rows, columns = band.signed_rows[is_used], band.columns[is_used]
        n_y, n_x = (scipy.fft.next_fast_len(2 * int(np.abs(index).max(initial=0)) + 2) for index in (rows, columns))
        step_y, step_x = band.shape[0] * band.pixel / n_y, band.shape[1] * band.pixel / n_x
        places_y, places_x = scipy.fft.fftfreq(n_y, 1 / n_y) * step_y, scipy.fft.fftfreq(n_x, 1 / n_x) * step_x
        is_near = (np.abs(places_y)[:, None] <= reach) & (np.abs(places_x) <= reach)

        total = self.total(shifts)
        steps = np.zeros((len(self), 2))
        grid = np.zeros((n_y, n_x // 2 + 1), np.complex64)
        for number in range(len(self)):
            moved = self.moved(number, shifts[number])
            grid[rows, columns] = (weights * moved.conj() * (total - moved))[is_used]
            values = scipy.fft.irfft2(grid, s=(n_y, n_x))
            row, column = np.unravel_index(np.argmax(np.where(is_near, values, -np.inf)), values.shape)
            in_y = _top(values[(row - 1) % n_y, column], values[row, column], values[(row + 1) % n_y, column])
            in_x = _top(values[row, (column - 1) % n_x], values[row, column], values[row, (column + 1) % n_x])
            steps[number] = (places_x[column] + in_x * step_x, places_y[row] + in_y * step_y)
        return steps


def ring_frc(patches: Sequence[FrameSpectra], shifts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the correlation of the odd and the even sums of patches in every ring, `(rings,)`."""
    products = [patch.half_products(moved) for patch, moved in zip(patches, shifts)]
    cross = np.sum([product[0] for product in products], axis=0)
    power = np.sum([np.sqrt(np.maximum(product[1], 0.0)) for product in products], axis=0)
    return cross / np.maximum(power, TINY)


def _symmetric(terms: np.ndarray) -> np.ndarray:
    """Return the matrix of the terms xx, xy, yy."""
    return np.array([[terms[0], terms[1]], [terms[1], terms[2]]], np.float64)


def _newton(gradient: np.ndarray, curvature: np.ndarray, spread: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return the step to the maximum and its covariance; no step where the correlation has no maximum nearby."""
    if np.linalg.eigvalsh(curvature)[0] <= 0:
        return np.zeros(2), np.eye(2) * UNKNOWN_PX2
    inverse = np.linalg.inv(curvature)
    return inverse @ gradient, inverse @ spread @ inverse


def _top(before: float, middle: float, after: float) -> float:
    """Return where a parabola through a maximum and its neighbours is highest, in pixels from the maximum."""
    bend = before - 2 * middle + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
