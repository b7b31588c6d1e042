"""What can be wrong with halves is found, and what is right is not accused."""

from __future__ import annotations

from typing import List

import numpy as np
import pytest

from cryoden.metrics import sanity_checks as checks
from cryoden.metrics.ring_covariance import ring_covariance, ring_frequencies
from tests.helpers import RATE, clean_signal, two_halves

SHAPE = (128, 128)


def thumbnails(n: int, noise: float = 1.0, common: float = 0.0) -> List[np.ndarray]:
    """Return small copies of the halves of some micrographs, of which a part is the same in all."""
    pattern = common * clean_signal(SHAPE, 777, 4.0)
    return [
        np.stack([checks.thumbnail(half + pattern, RATE) for half in two_halves(SHAPE, seed, noise)[1:]])
        for seed in range(n)
    ]


@pytest.mark.parametrize("shape", [(128, 128), (300, 257), (1000, 201)])
def test_a_thumbnail_is_small_standardised_and_band_passed(shape: tuple) -> None:
    image = 7 + 3 * np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    small = checks.thumbnail(image, RATE)
    assert small.dtype == np.float32
    assert small.shape == tuple(min(checks.THUMBNAIL_SIDE, side) // 2 * 2 for side in shape)
    assert abs(small.mean()) < 1e-5
    assert small.std() == pytest.approx(1, abs=1e-4)
    rate = RATE * shape[1] / small.shape[1]
    power = np.abs(np.fft.rfft2(small)) ** 2
    frequency = ring_frequencies(small.shape) / rate
    low, high = checks.THUMBNAIL_BAND_A
    outside = (frequency < 0.99 / low) | (frequency > 1.01 / high)
    assert power[outside].sum() < 1e-6 * power.sum()


def test_a_constant_image_has_a_thumbnail_too() -> None:
    assert not checks.thumbnail(np.full((64, 64), 3.0, np.float32), RATE).any()


def test_correlations_are_those_of_numpy() -> None:
    small = thumbnails(3)
    found = checks.correlations(small)
    for i in range(3):
        for j in range(3):
            expected = np.corrcoef(small[i][0].ravel(), small[j][1].ravel())[0, 1]
            assert found[i, j] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_swapped_halves_are_told_where_they_belong(n: int) -> None:
    small, names = thumbnails(n), [f"mic{i}" for i in range(n)]
    assert checks.swapped_halves(names, checks.correlations(small)) == {}
    small[0][1], small[1][1] = small[1][1].copy(), small[0][1].copy()
    assert checks.swapped_halves(names, checks.correlations(small)) == {"mic0": "mic1", "mic1": "mic0"}


def test_halves_without_a_partner_belong_nowhere() -> None:
    small = thumbnails(6)
    small[2][1] = checks.thumbnail(clean_signal(SHAPE, 4242), RATE)
    assert checks.swapped_halves([f"mic{i}" for i in range(6)], checks.correlations(small)) == {}


@pytest.mark.parametrize(("common", "share"), [(0.0, 0.0), (0.5, 0.2), (1.0, 0.5)])
def test_what_all_micrographs_share_is_measured(common: float, share: float) -> None:
    found, error = checks.common_pattern(checks.correlations(thumbnails(12, common=common)))
    assert found == pytest.approx(share, abs=0.1 + 3 * error)
    assert bool(checks.pattern_warnings(checks.correlations(thumbnails(12, common=common)))) == (common > 0)


def test_one_micrograph_has_nothing_in_common() -> None:
    assert checks.common_pattern(checks.correlations(thumbnails(1))) == (0.0, np.inf)
    assert checks.pattern_warnings(checks.correlations(thumbnails(1))) == []


@pytest.mark.parametrize(("factor", "sigma"), [(1.0, 0.0), (1.2, 0.0), (1.0, 0.3), (1.0, 1.0)])
def test_a_filtered_half_is_told_by_its_power(factor: float, sigma: float) -> None:
    _, odd, even = two_halves(SHAPE, 1, 2.0)
    blur = np.exp(-2 * (np.pi * sigma * ring_frequencies(SHAPE)) ** 2)
    even = factor * np.fft.irfft2(np.fft.rfft2(even) * blur, s=SHAPE)
    ratio = checks.power_ratio(ring_covariance([odd, even], RATE))
    rings = np.linspace(0.25, 0.5, 200)  # white noise: power grows with the length of a ring
    expected = factor**2 * np.median(rings * np.exp(-4 * (np.pi * sigma * rings) ** 2)) / np.median(rings)
    assert ratio == pytest.approx(expected, rel=0.15)
    said = checks.filtered_half("mic7", ring_covariance([odd, even], RATE))
    assert bool(said) == (sigma == 1.0)
    if said:
        assert said.startswith("The even half of 'mic7' was smoothed")
        assert checks.filtered_half("mic7", ring_covariance([even, odd], RATE)).startswith("The odd half of 'mic7'")


def test_micrographs_without_background_are_counted() -> None:
    assert checks.zero_mean_warnings({"a": 1.0, "b": 0.76}) == []
    (said,) = checks.zero_mean_warnings({"a": 1.0, "c": 0.5, "b": 0.6})
    assert said.startswith("2 of 3 micrographs (such as 'b', 60 % of its pixels positive)")
