from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterable, Tuple

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoden.movies.calibration import Calibration
from cryoden.movies.dose_weighting import DoseWeighting, critical_exposure, doses_at_end, exposure_weight
from cryoden.movies.motion.aligned_sums import aligned_half_bands, transform_rows
from cryoden.movies.motion.arrays import Arrays
from cryoden.movies.motion.motion import Motion
from cryoden.movies.motion.stored_shifts import Shift
from cryoden.movies.movie import Bands, Movie
from tests.helpers import clean_signal, write_raw_mrc

SHAPE = (90, 120)
INNER = (slice(15, -15), slice(15, -15))
RATE = 1.5


def concatenated(bands: Iterable[Bands]) -> Bands:
    halves = list(bands)
    return np.concatenate([odd for odd, _ in halves]), np.concatenate([even for _, even in halves])


def aligned(movie: Movie, shifts: Dict[int, Shift]) -> Bands:
    """Return the halves of a movie whose frames are moved."""
    used = [shifts[index + 1] for index in movie.frame_indices]
    return concatenated(aligned_half_bands(movie.corrected_frames, movie.shape, Motion(used)))


def weighted(movie: Movie, dose_per_frame: float, initial_dose: float = 0.0, voltage: float = 300.0) -> Bands:
    """Return the halves of a movie whose frames are weighted."""
    weighting = DoseWeighting(doses_at_end(movie.frame_indices, dose_per_frame, initial_dose), RATE, voltage)
    unmoved = [(0.0, 0.0)] * len(movie.frame_indices)
    return concatenated(aligned_half_bands(movie.corrected_frames, movie.shape, Motion(unmoved), weighting))


def drifting(path: Path, drift: Dict[int, Tuple[float, float]], seed: int = 1) -> Tuple[Movie, np.ndarray]:
    """Write frames in which one smooth image moves by drift (x, y); return the movie and the image at rest."""
    large = 20 + clean_signal((SHAPE[0] + 40, SHAPE[1] + 40), seed)
    frames = [scipy.ndimage.shift(large, (drift[n][1], drift[n][0]), order=5)[20:-20, 20:-20] for n in sorted(drift)]
    return Movie(write_raw_mrc(path, np.array(frames), 2)), large[20:-20, 20:-20]


@settings(deadline=None, max_examples=10, derandomize=True)
@given(st.floats(-6, 6), st.floats(-6, 6))
def test_a_shifted_image_comes_back(x: float, y: float) -> None:
    """The signs: content that moved by (x, y) is brought back by the shift (-x, -y)."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        drift = {1: (0.0, 0.0), 2: (x, y), 3: (-y, x), 4: (y, -x)}
        movie, image = drifting(Path(folder) / "m.mrc", drift)
        odd, even = aligned(movie, {frame: (-dx, -dy) for frame, (dx, dy) in drift.items()})
    # of a deviation of 2: from the edge, where the mirrored image has a kink, a shift by half a pixel rings inwards
    # (0.089 for 2.5, -2.5, which random examples found; with an exact shift in place of the spline as well)
    assert np.abs(odd - 2 * image)[INNER].max() < 0.08
    assert np.abs(even - 2 * image)[INNER].max() < 0.08


def test_the_wrong_sign_blurs(tmp_path: Path) -> None:
    drift = {frame: (1.5 * frame, -frame) for frame in range(1, 5)}
    movie, image = drifting(tmp_path / "m.mrc", drift)
    wrong = aligned(movie, drift)
    assert np.abs(wrong[0] - 2 * image)[INNER].max() > 0.5


def test_whole_pixel_shifts_are_exact(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).integers(0, 50, (4, *SHAPE))
    movie = Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 6))
    odd, even = aligned(movie, {1: (0, 0), 2: (3, 0), 3: (0, -2), 4: (-4, 5)})
    expected = frames[0][INNER] + np.roll(frames[2], -2, axis=0)[INNER]
    np.testing.assert_allclose(odd[INNER], expected, atol=1e-3)  # float32 transforms of values up to 50
    expected = np.roll(frames[1], 3, axis=1)[INNER] + np.roll(frames[3], (5, -4), axis=(0, 1))[INNER]
    np.testing.assert_allclose(even[INNER], expected, atol=1e-3)


def test_shifts_and_weights_of_nothing_change_nothing(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).integers(0, 50, (5, *SHAPE))
    movie = Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 6))
    plain = concatenated(movie.half_bands())
    moved = aligned(movie, dict.fromkeys(range(1, 6), (0.0, 0.0)))
    unweighted = weighted(movie, 1e-9)
    for half in range(2):
        np.testing.assert_allclose(moved[half], plain[half], atol=2e-3)
        np.testing.assert_allclose(unweighted[half], plain[half], atol=2e-3)


def test_weights_against_plain_numpy(tmp_path: Path) -> None:
    """Sum of weighted frames over sqrt(sum of squared weights / n), in float64 on the frames' own grid."""
    frames = np.random.default_rng(1).integers(0, 50, (6, 96, 120))
    movie = Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 6), frames="2-6")
    odd, even = weighted(movie, 3.0, 5.0, 200.0)
    k = np.hypot(np.fft.fftfreq(96, RATE)[:, None], np.fft.fftfreq(120, RATE))
    critical = critical_exposure(k, 200.0)
    weights = [exposure_weight(critical, dose) for dose in (11, 14, 17, 20, 23)]
    spectra = [np.fft.fft2(frame) * weight for frame, weight in zip(frames[1:], weights)]
    divisor = np.sqrt(sum(weight**2 for weight in weights) / 5)
    for half, own in ((odd, spectra[0::2]), (even, spectra[1::2])):
        np.testing.assert_allclose(half, np.fft.ifft2(sum(own) / divisor).real, atol=2e-3)
    assert (odd + even).mean() == pytest.approx(frames[1:].sum(axis=0).mean(), rel=1e-5)


def test_weights_keep_the_noise_of_the_full_sum(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).poisson(20, (8, 128, 128))
    movie = Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 6))
    odd, even = weighted(movie, 4.0)
    assert (odd + even).std() / frames.sum(axis=0).std() == pytest.approx(1.0, abs=0.02)


def test_hot_pixels_are_replaced_before_they_are_moved(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).poisson(20, (4, *SHAPE))
    frames[:, 40, 50] += 500
    movie = Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 6), Calibration(hot_pixels=8.0))
    odd, even = aligned(movie, {frame: (2.5 * frame, 0.0) for frame in range(1, 5)})
    assert movie.n_bad_pixels == 1
    assert (odd + even).max() < 200


def test_frames_are_continued_by_their_mirror_image() -> None:
    spectrum = np.empty((5, 5), np.complex64)
    transform_rows(spectrum, np.arange(12.0).reshape(3, 4), 8, np.ones(5, np.float32), Arrays())
    result = np.fft.irfft(spectrum.T, 8).round(5)
    np.testing.assert_array_equal(result[0], [0, 1, 2, 3, 3, 2, 1, 0])
    np.testing.assert_array_equal(result[:, 0], [0, 4, 8, 8, 0])
