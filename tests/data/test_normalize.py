from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoden.data.normalize import GreyScale, measure_scale
from cryoden.errors import PixelError


def image(mean: float = 50.0, deviation: float = 7.0) -> np.ndarray:
    return np.random.default_rng(1).normal(mean, deviation, (80, 90)).astype(np.float32)


def test_scale_is_mean_and_deviation_of_the_pixels() -> None:
    pixels, scale = image(), measure_scale(image())
    # none of 7,200 normal pixels lies beyond 6 deviations, so that nothing is left out
    assert (scale.mean, scale.deviation) == pytest.approx((pixels.mean(), pixels.std()), rel=1e-5)


def test_hot_pixels_do_not_change_the_scale() -> None:
    hot = image()
    hot[3, 4], hot[5, 6] = 1e6, -1e5
    plain, scale = measure_scale(image()), measure_scale(hot)
    assert (scale.mean, scale.deviation) == pytest.approx((plain.mean, plain.deviation), rel=1e-3)


def test_hot_pixels_are_clamped() -> None:
    hot = image()
    hot[3, 4] = 1e6
    assert measure_scale(hot).standardize(hot).max() == 20


def test_standardised_image_has_mean_0_and_deviation_1() -> None:
    standard = measure_scale(image()).standardize(image())
    assert (standard.mean(), standard.std()) == pytest.approx((0, 1), abs=1e-4)
    assert standard.dtype == np.float32


def test_standardising_leaves_its_argument_alone() -> None:
    pixels = image()
    measure_scale(pixels).standardize(pixels)
    np.testing.assert_array_equal(pixels, image())


@settings(deadline=None, max_examples=50)
@given(st.floats(-1e4, 1e4), st.floats(0.1, 1e3))
def test_restoring_undoes_standardising(mean: float, deviation: float) -> None:
    pixels = image(mean, deviation)
    scale = GreyScale(mean, deviation)
    # float32 keeps 7 digits of the larger of mean and deviation
    tolerance = 4e-7 * (abs(mean) + 20 * deviation)
    np.testing.assert_allclose(scale.restore(scale.standardize(pixels)), pixels, atol=tolerance)


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_constant_but_for_one_pixel_is_refused(value: float) -> None:
    flat = np.full((80, 90), value, np.float32)
    flat[2, 3] = 1e4
    with pytest.raises(PixelError) as caught:
        measure_scale(flat)
    assert str(caught.value) == f"nearly all pixels are {value:g}; there is no image to denoise."
