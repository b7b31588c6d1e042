"""Standard errors: of made-up numbers whose error is known, and of one micrograph by its noise."""

from __future__ import annotations

from typing import Dict, List

import numpy as np
import pytest

from cryoden.metrics.bootstrap import (
    bootstrap_errors,
    coefficients_in_band,
    formula_error,
    resampled_means,
    resamplings,
)
from cryoden.metrics.ring_covariance import ring_covariance, ring_frequencies, score
from tests.helpers import two_halves


def test_every_resampling_draws_as_many_as_there_are() -> None:
    draws = resamplings(7, 500, 3)
    assert draws.shape == (500, 7)
    assert (draws.sum(axis=1) == 7).all()
    np.testing.assert_allclose(draws.mean(axis=0), 1, atol=0.2)  # 500 draws of variance 6/7: 0.04
    np.testing.assert_array_equal(draws, resamplings(7, 500, 3))
    assert (draws != resamplings(7, 500, 4)).any()


@pytest.mark.parametrize("shape", [(), (2,), (4, 4)])
def test_resampled_means_are_the_means_of_what_was_drawn(shape: tuple) -> None:
    values = np.random.default_rng(1).normal(size=(5, *shape))
    draws = resamplings(5, 20, 1)
    for mean, draw in zip(resampled_means(values, draws), draws):
        drawn = [values[i] for i, times in enumerate(draw) for _ in range(times)]
        np.testing.assert_allclose(mean, np.mean(drawn, axis=0), atol=1e-12)


def errors_of(values: np.ndarray, n_resamplings: int = 2000) -> Dict[str, float]:
    means = resampled_means(values, resamplings(len(values), n_resamplings, 1))
    samples: List[Dict[str, float]] = [{"mean": float(m), "square": float(m) ** 2, "never": np.nan} for m in means]
    return bootstrap_errors(len(values), samples)  # type: ignore[return-value]


@pytest.mark.parametrize("n", [3, 10, 100])
def test_the_error_of_a_mean_is_that_of_the_textbook(n: int) -> None:
    """The deviation of the values over sqrt(n), without the bias that few micrographs have."""
    values = np.random.default_rng(n).normal(5, 2, n)
    errors = errors_of(values)
    expected = values.std(ddof=1) / np.sqrt(n)
    assert errors["mean"] == pytest.approx(expected, rel=0.06)  # 2,000 resamplings: 1.6 %
    assert errors["square"] == pytest.approx(2 * abs(values.mean()) * expected, rel=0.2)  # of first order
    assert errors["never"] is None


def test_of_one_micrograph_nothing_can_be_resampled() -> None:
    assert bootstrap_errors(1, [{"mean": 3.0}]) == {"mean": None}


@pytest.mark.parametrize("noise", [1.0, 2.0, 4.0])
def test_the_formula_is_about_how_r2_scatters_over_noise(noise: float) -> None:
    """R2 of a fixed filter, on one specimen under 200 draws of the noise.

    The formula is on the safe side: it takes the errors of MSE and of the signal variance as independent.
    """
    shape, rate, band = (96, 96), 4.0, (300.0, 12.0)
    gain = np.exp(-((ring_frequencies(shape) / 0.08) ** 2))
    clean = two_halves(shape, 1, 1.0)[0]
    r2, formula = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        halves = [clean + noise * rng.standard_normal(shape) for _ in range(2)]
        denoised = [np.fft.irfft2(np.fft.rfft2(half) * gain, s=shape) for half in halves]
        quality = score(ring_covariance([*halves, *denoised], rate).in_band(band))
        r2.append(quality.r2)
        formula.append(formula_error(quality, coefficients_in_band(shape, rate, band)))
    assert 0.9 < np.median(formula) / np.std(r2) < 2


def test_without_signal_there_is_no_error_to_speak_of() -> None:
    halves = [np.random.default_rng(seed).standard_normal((64, 64)) for seed in (1, 2)]
    covariance = ring_covariance([*halves, *halves], 4.0).total()
    covariance[0, 1] = covariance[1, 0] = -1e-3
    assert formula_error(score(covariance), 1000) == np.inf


@pytest.mark.parametrize(
    ("band", "share"), [((1e9, 8.0), np.pi / 4), ((1e9, 1.0), np.pi / 4), ((1e9, 16.0), np.pi / 16)]
)
def test_coefficients_in_a_band_are_the_area_of_its_ring(band: tuple, share: float) -> None:
    """At 4 A/px, Nyquist is at 8 A: beyond it there is nothing."""
    assert coefficients_in_band((100, 50), 4.0, band) == pytest.approx(5000 * share)
    frequency = ring_frequencies((100, 50)) / 4.0
    inside = ((frequency >= 1 / band[0]) & (frequency <= 1 / band[1])).sum() * 2  # half of the plane is stored
    if band[1] >= 8:
        assert coefficients_in_band((100, 50), 4.0, band) == pytest.approx(inside, rel=0.05)
