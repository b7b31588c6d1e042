from __future__ import annotations

from pathlib import Path
from typing import Union

import numpy as np
import pytest
import scipy.ndimage

from cryoden.movies.calibration import Calibration
from cryoden.movies.hot_pixels import Replacement, find_by_counts, find_by_deviations
from cryoden.movies.movie import Movie
from tests.helpers import write_raw_mrc

HOT = [(0, 0), (0, 59), (20, 30), (20, 31), (39, 7), (25, 59)]


def noise(seed: int, shape: tuple = (40, 60)) -> np.ndarray:
    return np.random.default_rng(seed).poisson(40, shape).astype(np.float32)


def replaced(image: np.ndarray, bad: np.ndarray) -> np.ndarray:
    result = image.copy()
    Replacement(bad, image.shape).apply(result)
    return result


def test_exactly_the_hot_pixels_are_found() -> None:
    image = noise(1)
    for place in HOT:
        image[place] += 100
    assert sorted(zip(*find_by_deviations(image, 8.0))) == sorted(HOT)


def test_fewer_deviations_find_more() -> None:
    image = noise(2)
    image[20, 30] = 40 + 5 * np.sqrt(40)
    assert find_by_deviations(image, 8.0).shape == (2, 0)
    assert (20, 30) in list(zip(*find_by_deviations(image, 4.0)))


def test_threshold_lies_above_the_local_median() -> None:
    """On a slope, the local median counts and not the mean of the image."""
    image = noise(3) + np.linspace(0, 4000, 60, dtype=np.float32)
    image[20, 5] += 400
    places = list(zip(*find_by_deviations(image, 8.0)))
    assert (20, 5) in places
    median = scipy.ndimage.median_filter(image, 5, mode="reflect")
    assert all(image[place] - median[place] > 40 for place in places)


def test_replaced_pixels_are_means_of_good_neighbours() -> None:
    image = noise(4)
    bad = np.array([(20, 30), (20, 31)]).T
    result = replaced(image, bad)
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
    in_frames = np.sum([replaced(frame, bad).astype(np.float64) for frame in frames], axis=0)
    np.testing.assert_allclose(in_frames, replaced(np.sum(frames, axis=0), bad), rtol=1e-6)


def test_pixels_without_good_neighbours_become_the_mean_of_their_row() -> None:
    image = noise(5)
    bad = np.array(np.meshgrid(np.arange(10, 17), np.arange(10, 17), indexing="ij")).reshape(2, -1)
    good_of_row = np.delete(image[13], np.arange(10, 17))
    assert replaced(image, bad)[13, 13] == pytest.approx(good_of_row.mean(), rel=1e-6)


@pytest.mark.parametrize("hot_pixels", [8.0, "auto"])
@pytest.mark.parametrize("band_rows", [3, 7, 40])
def test_bands_give_the_same_as_the_whole_image(tmp_path: Path, band_rows: int, hot_pixels: Union[float, str]) -> None:
    frames = np.random.default_rng(6).poisson(10, (4, 40, 60))
    for place in HOT:
        frames[(slice(None), *place)] += 40
    path = write_raw_mrc(tmp_path / "m.mrc", frames, 6)
    results = []
    for rows in (band_rows, 40):
        movie = Movie(path, Calibration(hot_pixels=hot_pixels))
        movie.stack.band_rows = rows
        bands = list(movie.half_bands())
        results.append(np.stack([np.concatenate([band[half] for band in bands]) for half in range(2)]))
        assert movie.n_bad_pixels == len(HOT)
        first = next(movie.corrected_frames())
        assert sorted(map(tuple, np.argwhere(first != frames[0]))) == sorted(HOT)
    np.testing.assert_array_equal(results[0], results[1])
    assert results[0].max() < 2 * 40


# --------------------------------------------------------------------- by counting statistics
def counted(dose: np.ndarray, seed: int, gain: float = 0.0) -> tuple:
    """Return odd and even sums of Poisson counts with a mean (e/px of both), times a gain, and that gain."""
    rng = np.random.default_rng(seed)
    gains = np.clip(1 + gain * rng.standard_normal(dose.shape), 0.3, None).astype(np.float32)
    odd, even = (rng.poisson(dose / 2 / gains).astype(np.float32) * gains for _ in range(2))
    return odd, even, gains


def scene(kind: str, shape: tuple) -> np.ndarray:
    """Return relative doses: `even`; a `slope` of the ice; a `hole` in carbon; `detail`; gold `beads`; `crystals`."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    rng = np.random.default_rng(1)
    if kind == "slope":
        return 0.3 + 1.4 * columns / shape[1]
    if kind == "hole":
        is_hole = (columns - shape[1] / 2) ** 2 + (rows - shape[0] / 2) ** 2 < (0.35 * shape[0]) ** 2
        return scipy.ndimage.gaussian_filter(np.where(is_hole, 1, 0.55), 1)
    if kind == "detail":
        detail = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
        return 1 + 0.15 * detail / detail.std()
    if kind == "crystals":  # of ice: three families of planes in patches, 20 % up and 10 % down
        is_crystal = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), 40) > 0
        angles = np.arange(3) * np.pi / 3
        waves = sum(np.cos(2 * np.pi / 3.7 * (rows * np.sin(angle) + columns * np.cos(angle))) for angle in angles)
        return 1 + 0.2 / 3 * waves * scipy.ndimage.gaussian_filter(is_crystal.astype(np.float32), 5)
    if kind == "beads":
        beads = scipy.ndimage.binary_dilation(rng.random(shape) < 1e-4, iterations=8)
        return scipy.ndimage.gaussian_filter(np.where(beads, 0.2, 1.0), 0.8)
    return np.ones(shape)


@pytest.mark.parametrize("kind", ["even", "slope", "hole", "detail", "beads", "crystals"])
@pytest.mark.parametrize("dose", [0.1, 0.3, 1, 3, 10, 30, 60])
def test_good_pixels_are_kept_at_every_dose(kind: str, dose: float) -> None:
    """At most 5 of a Mpx; 6 deviations would be 30,000 of them at 0.3 e/px."""
    shape = (800, 1250)
    odd, even, gain = counted(dose * scene(kind, shape), 7, gain=0.1)
    assert find_by_counts(odd, even, (20, 20), gain).shape[1] <= 5


@pytest.mark.parametrize(("dose", "least"), [(1, 0.95), (3, 1), (60, 1)])
def test_hot_pixels_are_found_at_every_dose(dose: float, least: float) -> None:
    mean = np.full((400, 600), float(dose))
    places = np.random.default_rng(2).choice(mean.size, 240, replace=False)
    mean.flat[places] *= 20
    odd, even, _ = counted(mean, 3)
    found = np.ravel_multi_index(tuple(find_by_counts(odd, even, (20, 20))), mean.shape)
    assert np.isin(places, found).mean() >= least
    assert np.isin(found, places, invert=True).sum() <= 2


def test_dead_pixels_are_found_where_counts_prove_them() -> None:
    for dose, share in ((10.0, 0), (30.0, 1)):
        mean = np.full((200, 300), dose)
        places = [(20, 30), (100, 299), (101, 5)]
        for place in places:
            mean[place] = 0
        odd, even, _ = counted(mean, 4)
        found = set(zip(*find_by_counts(odd, even, (20, 20)).tolist()))
        assert len(found & set(places)) == share * len(places)
        assert found <= set(places)


@pytest.mark.parametrize("where", [np.s_[50:53, 60:63], np.s_[70, :], np.s_[:, 80], np.s_[:, 120:122]])
def test_lines_and_clusters_are_found(where: tuple) -> None:
    mean = np.full((200, 300), 30.0)
    mean[where] *= 20
    odd, even, _ = counted(mean, 5)
    found = np.zeros(mean.shape, bool)
    found[tuple(find_by_counts(odd, even, (20, 20)))] = True
    assert np.array_equal(found, mean > 30)


def test_shadow_is_no_defect() -> None:
    """Where half of the detector is in the shadow of a stop, its edges are not touched, however sharp.

    Only of the three pixels at its inner corner more than half of the neighbourhood is dark.
    """
    mean = np.full((400, 600), 30.0)
    mean[:150] = mean[:, :200] = 0
    odd, even, _ = counted(mean, 6)
    found = set(zip(*find_by_counts(odd, even, (20, 20)).tolist()))
    assert found <= {(150, 200), (150, 201), (151, 200)}


@pytest.mark.parametrize("factor", [0.01, 37.0])
def test_grey_scale_of_a_count_does_not_matter(factor: float) -> None:
    """Integrating detectors, scaled movies: what one count is worth follows from the noise."""
    mean = np.full((400, 600), 20.0)
    mean[HOT[2]] = mean[HOT[4]] = 400
    odd, even, _ = counted(mean, 8)
    expected = find_by_counts(odd, even, (20, 20))
    found = find_by_counts(odd * np.float32(factor), even * np.float32(factor), (20, 20))
    np.testing.assert_array_equal(found, expected)
    assert {HOT[2], HOT[4]} <= set(zip(*found.tolist()))


def test_halves_of_unequal_numbers_of_frames() -> None:
    """With 3 frames the odd sum has twice the dose of the even one: that is no noise."""
    rng = np.random.default_rng(9)
    mean = 10 * scene("slope", (400, 600))
    mean[20, 30] *= 20
    odd, even = rng.poisson(2 * mean).astype(np.float32), rng.poisson(mean).astype(np.float32)
    found = find_by_counts(odd, even, (2, 1)).T.tolist()
    assert [20, 30] in found
    assert len(found) <= 2


def test_one_particle_of_high_energy_does_not_hide_the_row() -> None:
    """A cosmic ray in one frame adds to the noise of its part of the row alone."""
    mean = np.full((60, 1200), 20.0)
    mean[30, 100] *= 20
    odd, even, _ = counted(mean, 10)
    odd[30, 900] += 20000
    found = find_by_counts(odd, even, (20, 20)).T.tolist()
    assert [30, 100] in found
    assert [30, 900] in found


def test_images_that_are_no_counts_are_left_alone() -> None:
    rng = np.random.default_rng(11)
    odd, even = (rng.standard_normal((200, 300)).astype(np.float32) for _ in range(2))
    assert find_by_counts(odd, even, (20, 20)).shape == (2, 0)
    assert find_by_counts(0 * odd, 0 * even, (20, 20)).shape == (2, 0)
