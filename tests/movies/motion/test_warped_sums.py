"""Sums of warped and binned frames against an independent computation in float64."""

from __future__ import annotations

from typing import Iterable, List, Optional, Tuple

import numpy as np
import pytest
import scipy.ndimage

from cryoden.movies.dose_weighting import DoseWeighting, critical_exposure
from cryoden.movies.motion.aligned_sums import FramesOf, aligned_half_bands
from cryoden.movies.motion.arrays import Arrays
from cryoden.movies.motion.local_motion import shifts_of_rows
from cryoden.movies.motion.motion import Motion
from cryoden.movies.motion.warped_sums import BLOCK, add_warped, interpolated
from cryoden.movies.movie import Bands
from tests.helpers import clean_signal

SHAPE = (96, 144)
SHIFTS = [(0.0, 0.0), (3.25, -1.5), (-2.0, 4.75), (1.0, 1.0)]
N = len(SHIFTS)
RNG = np.random.default_rng(3)
FIELDS = [number * RNG.normal(size=(2, 3, 3)) for number in range(N)]
FRAMES = [(20 + RNG.standard_normal(SHAPE)).astype(np.float32) for _ in range(N)]
INNER = (slice(20, -20), slice(20, -20))


def concatenated(bands: Iterable[Bands]) -> Bands:
    halves = list(bands)
    return np.concatenate([odd for odd, _ in halves]), np.concatenate([even for _, even in halves])


def among(frames: List[np.ndarray]) -> FramesOf:
    """Return what yields frames by their positions."""
    return lambda positions: (frames[position] for position in positions)


def cropped(spectrum: np.ndarray, shape: Tuple[int, int]) -> np.ndarray:
    """Return the middle of a full spectrum; 0 in row and column -n / 2 of the result, which is ambiguous."""
    rows, columns = ((np.arange(n) - n // 2) % full for n, full in zip(shape, spectrum.shape))
    small = spectrum[np.ix_(rows, columns)]
    small[0] = 0
    small[:, 0] = 0
    return np.fft.ifftshift(small)


def expected(
    binning: int, fields: Optional[List[np.ndarray]], weights: Optional[np.ndarray] = None
) -> List[np.ndarray]:
    """Return every frame, moved around the edges, as float64, by full complex transforms and SciPy's interpolation."""
    shape = (SHAPE[0] // binning, SHAPE[1] // binning)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    ky, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])
    images = []
    for number, (frame, (shift_x, shift_y)) in enumerate(zip(FRAMES, SHIFTS)):
        spectrum = cropped(np.fft.fft2(frame.astype(float)), shape) / binning**2
        spectrum = spectrum * np.exp(-2j * np.pi * (kx * shift_x + ky * shift_y) / binning)
        if weights is not None:
            spectrum = spectrum * weights[number]
        image = np.fft.ifft2(spectrum).real
        if fields is not None:
            powers_y, powers_x = np.vander(y[:, 0] / shape[0] - 0.5, 3, True), np.vander(x[0] / shape[1] - 0.5, 3, True)
            local_x, local_y = (powers_y @ axis @ powers_x.T / binning for axis in fields[number])
            image = scipy.ndimage.map_coordinates(image, [y - local_y, x - local_x], order=1, mode="nearest")
        images.append(image)
    return images


def without_nyquist(image: np.ndarray, binning: int = 1) -> np.ndarray:
    """Return an image without the highest frequencies of the binned one, whose sign is a convention."""
    spectrum = np.fft.fft2(image.astype(float))
    for sign in (-1, 1):
        spectrum[sign * image.shape[0] // (2 * binning)] = 0
        spectrum[:, sign * image.shape[1] // (2 * binning)] = 0
    return np.fft.ifft2(spectrum).real


@pytest.mark.parametrize("binning", [1, 2])
def test_halves_as_relion_makes_them(binning: int) -> None:
    """Around the edges a place has no four neighbours, and RELION takes the nearest: not compared."""
    frames = [without_nyquist(frame, binning).astype(np.float32) for frame in FRAMES]
    motion = Motion(SHIFTS, FIELDS, binning, is_circular=True)
    odd, even = concatenated(aligned_half_bands(among(frames), SHAPE, motion))
    images = expected(binning, FIELDS)
    for half, number in ((odd, 0), (even, 1)):
        assert half.dtype == np.float32
        np.testing.assert_allclose(half[INNER], (images[number] + images[number + 2])[INNER], atol=1e-3)


def test_without_local_motion_nothing_but_the_grid_differs() -> None:
    motion = Motion(SHIFTS, None, 1.0, is_circular=True)
    odd, _ = concatenated(aligned_half_bands(among(FRAMES), SHAPE, motion))
    images = expected(1, None)
    np.testing.assert_allclose(without_nyquist(odd), without_nyquist(images[0] + images[2]), atol=1e-3)


def test_weights_come_before_the_warp() -> None:
    doses, rate = np.array([1.0, 2.0, 30.0, 40.0]), 1.3
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(SHAPE[0], rate), np.fft.fftfreq(SHAPE[1], rate), indexing="ij"))
    weights = np.exp(-0.5 * doses[:, None, None] / critical_exposure(k))
    weights = weights / np.sqrt((weights**2).mean(axis=0))
    frames = [without_nyquist(frame).astype(np.float32) for frame in FRAMES]
    motion = Motion(SHIFTS, FIELDS, 1.0, is_circular=True)
    odd, even = concatenated(aligned_half_bands(among(frames), SHAPE, motion, DoseWeighting(doses, rate)))
    images = expected(1, FIELDS, weights)
    np.testing.assert_allclose(odd[INNER], (images[0] + images[2])[INNER], atol=2e-3)
    np.testing.assert_allclose(even[INNER], (images[1] + images[3])[INNER], atol=2e-3)


@pytest.mark.parametrize(("binning", "is_last"), [(1.0, False), (2.0, False), (1.5, False), (2.0, True)])
def test_mirrored_edges_change_nothing_inside_and_keep_the_mean(binning: float, is_last: bool) -> None:
    frames = [(20 + clean_signal(SHAPE, number)).astype(np.float32) for number in range(N)]
    halves = []
    for is_circular in (True, False):
        motion = Motion(SHIFTS, FIELDS, binning, is_circular, is_last)
        halves.append(concatenated(aligned_half_bands(among(frames), SHAPE, motion)))
    (circular, _), (mirrored, _) = halves
    assert mirrored.shape == circular.shape == (int(SHAPE[0] / binning), int(SHAPE[1] / binning))
    # of a deviation of 1.4: a step at the edge of the circular image rings inwards
    np.testing.assert_allclose(mirrored[INNER], circular[INNER], atol=0.1)
    assert mirrored.mean() == pytest.approx(40, rel=0.01)


def test_binning_last_is_binning_of_the_unbinned_sum() -> None:
    unbinned, _ = concatenated(aligned_half_bands(among(FRAMES), SHAPE, Motion(SHIFTS, FIELDS, 1.0)))
    last, _ = concatenated(aligned_half_bands(among(FRAMES), SHAPE, Motion(SHIFTS, FIELDS, 2.0, is_binned_last=True)))
    shape = (SHAPE[0] // 2, SHAPE[1] // 2)
    small = np.fft.ifft2(cropped(np.fft.fft2(unbinned.astype(float)), shape)).real / 4
    np.testing.assert_allclose(without_nyquist(last), small, atol=1e-4)


def test_a_place_that_moved_comes_back() -> None:
    """A smooth image whose rows move by more to the right the lower they are; the local shift undoes it."""
    large = clean_signal((SHAPE[0], SHAPE[1] + 40), 8, 4.0)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    by = 6.0 * (y / SHAPE[0] - 0.5)
    moved = scipy.ndimage.map_coordinates(large, [y, x + 20 - by], order=5).astype(np.float32)
    field = np.zeros((2, 3, 3))
    field[0, 1, 0] = -6.0
    still = large[:, 20:-20].astype(np.float32)
    motion = Motion([(0.0, 0.0)] * 2, [np.zeros((2, 3, 3)), field])
    odd, even = concatenated(aligned_half_bands(among([still, moved]), SHAPE, motion))
    np.testing.assert_allclose(odd, still, atol=1e-4)
    np.testing.assert_allclose(even[INNER], still[INNER], atol=0.03)


@pytest.mark.parametrize("strength", [0.0, 1.0, 12.0])
@pytest.mark.parametrize("margin", [0, 40])
def test_slices_and_single_pixels_are_the_same_interpolation(strength: float, margin: int) -> None:
    """Over several blocks, with places below, at and beyond the pixels that a block reaches first, and at all edges."""
    shape = (2 * BLOCK[0] + 7, BLOCK[1] + 90)
    rng = np.random.default_rng(5)
    image = rng.standard_normal((shape[0] + margin, shape[1] + margin)).astype(np.float32)
    field = strength * rng.normal(size=(2, 3, 3))
    shift_x, shift_y = (shifts_of_rows(polynomial, 0, shape[0], shape) for polynomial in field)
    single = interpolated(image, (0, 0), shift_y, shift_x, Arrays())

    total = np.ones(shape, np.float32)
    add_warped(total, image, field, Arrays(2))
    np.testing.assert_allclose(total - 1, single, atol=1e-3)  # float32 places beyond 256 are known to 3e-5 px
