from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage

from cryoden.movies.calibration import Calibration
from cryoden.movies.hot_pixels import find_bad_pixels, replace_pixels
from cryoden.movies.movie import Movie
from tests.helpers import write_raw_mrc

HOT = [(0, 0), (0, 59), (20, 30), (20, 31), (39, 7), (25, 59)]


def noise(seed: int, shape: tuple = (40, 60)) -> np.ndarray:
    return np.random.default_rng(seed).poisson(40, shape).astype(np.float32)


def test_exactly_the_hot_pixels_are_found() -> None:
    image = noise(1)
    for place in HOT:
        image[place] += 100
    assert sorted(zip(*find_bad_pixels(image, 8.0))) == sorted(HOT)


def test_fewer_deviations_find_more() -> None:
    image = noise(2)
    image[20, 30] = 40 + 5 * np.sqrt(40)
    assert find_bad_pixels(image, 8.0).shape == (2, 0)
    assert (20, 30) in list(zip(*find_bad_pixels(image, 4.0)))


def test_threshold_lies_above_the_local_median() -> None:
    """On a slope, the local median counts and not the mean of the image."""
    image = noise(3) + np.linspace(0, 4000, 60, dtype=np.float32)
    image[20, 5] += 400
    places = list(zip(*find_bad_pixels(image, 8.0)))
    assert (20, 5) in places
    median = scipy.ndimage.median_filter(image, 5, mode="reflect")
    assert all(image[place] - median[place] > 40 for place in places)


def test_replaced_pixels_are_means_of_good_neighbours() -> None:
    image = noise(4)
    bad = np.array([(20, 30), (20, 31)]).T
    result = replace_pixels(image, bad)
    good = np.ones(image.shape, bool)
    good[20, 30:32] = False
    expected = image[18:23, 28:33][good[18:23, 28:33]].mean()
    assert result[20, 30] == pytest.approx(expected, rel=1e-6)
    assert image[20, 30] == noise(4)[20, 30]
    result[20, 30:32] = image[20, 30:32]
    np.testing.assert_array_equal(result, image)


def test_replacing_is_linear() -> None:
    bad = np.array(HOT).T
    frames = [noise(seed) for seed in range(5)]
    in_frames = np.sum([replace_pixels(frame, bad).astype(np.float64) for frame in frames], axis=0)
    np.testing.assert_allclose(in_frames, replace_pixels(np.sum(frames, axis=0), bad), rtol=1e-6)


def test_pixels_without_good_neighbours_become_the_mean_of_their_row() -> None:
    image = noise(5)
    bad = np.array(np.meshgrid(np.arange(10, 17), np.arange(10, 17), indexing="ij")).reshape(2, -1)
    good_of_row = np.delete(image[13], np.arange(10, 17))
    assert replace_pixels(image, bad)[13, 13] == pytest.approx(good_of_row.mean(), rel=1e-6)


@pytest.mark.parametrize("band_rows", [3, 7, 40])
def test_bands_give_the_same_as_the_whole_image(tmp_path: Path, band_rows: int) -> None:
    frames = np.random.default_rng(6).poisson(10, (4, 40, 60))
    for place in HOT:
        frames[(slice(None), *place)] += 40
    path = write_raw_mrc(tmp_path / "m.mrc", frames, 6)
    results = []
    for rows in (band_rows, 40):
        movie = Movie(path, Calibration(hot_deviations=8.0))
        movie.stack.band_rows = rows
        bands = list(movie.half_bands())
        results.append(np.stack([np.concatenate([band[half] for band in bands]) for half in range(2)]))
        assert movie.n_bad_pixels == len(HOT)
        first = next(movie.corrected_frames())
        assert sorted(map(tuple, np.argwhere(first != frames[0]))) == sorted(HOT)
    np.testing.assert_array_equal(results[0], results[1])
    assert results[0].max() < 2 * 40
