from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoden.data.normalize import GreyScale, Normalization, measure_scale, p95_normalization, sample_rows
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
    assert measure_scale(hot).standardize(hot).max() == pytest.approx(20, rel=1e-6)  # float32


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
    scale = GreyScale(mean, deviation, (mean - 20 * deviation, mean + 20 * deviation), 1.0)
    # float32 keeps 7 digits of the larger of mean and deviation
    tolerance = 4e-7 * (abs(mean) + 20 * deviation)
    np.testing.assert_allclose(scale.restore(scale.standardize(pixels)), pixels, atol=tolerance)


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_constant_but_for_one_pixel_is_refused(value: float) -> None:
    flat = np.full((80, 90), value, np.float32)
    flat[2, 3] = 1e4
    with pytest.raises(PixelError) as caught:
        measure_scale(flat)
    assert str(caught.value) == f"nearly all pixels are {value:g}; it holds no image. Leave it out."


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused(bad: float) -> None:
    pixels = image()
    pixels[2, 3] = bad
    with pytest.raises(PixelError, match=r"^it has pixels that are NaN or infinite; every pixel must be a number"):
        measure_scale(pixels)


def test_percentile_is_that_of_the_positive_values() -> None:
    pixels = image(2.0, 5.0)
    scale = measure_scale(pixels)
    assert scale.percentile == pytest.approx(np.percentile(pixels[pixels > 0], 95), rel=1e-6)
    assert scale.data_range == pytest.approx(scale.percentile / scale.deviation)


def test_image_without_positive_values_has_no_data_range() -> None:
    assert measure_scale(image(-500.0)).data_range == 0


def test_p95_clips_to_0_and_the_percentile() -> None:
    pixels = image(10.0, 5.0)
    high = np.percentile(pixels[pixels > 0].astype(np.float64), 95)
    found = measure_scale(pixels, Normalization("p95", 0.0, 1.0)).standardize(pixels)
    assert pixels.min() < 0  # else nothing would be clipped below
    np.testing.assert_allclose(found, np.clip(pixels / high, 0, 1), atol=1e-6)  # float32


def test_p95_gives_the_training_micrograph_mean_0_and_deviation_1() -> None:
    normalization = p95_normalization(image())
    found = measure_scale(image(), normalization).standardize(image())
    assert (found.mean(), found.std()) == pytest.approx((0, 1), abs=1e-4)


def test_p95_standardises_other_micrographs_with_the_same_two_numbers() -> None:
    """A micrograph of other contrast does not come out with deviation 1: that is what tells p95 from standard."""
    normalization = p95_normalization(image())
    found = measure_scale(image(50.0, 3.5), normalization).standardize(image(50.0, 3.5))
    assert found.std() < 0.7


def test_p95_undoes_its_scale_where_nothing_was_clipped() -> None:
    pixels = image()
    scale = measure_scale(pixels, p95_normalization(pixels))
    inside = (pixels > 0) & (pixels < scale.percentile)
    np.testing.assert_allclose(scale.restore(scale.standardize(pixels))[inside], pixels[inside], rtol=1e-6)


def test_p95_refuses_what_is_no_counts() -> None:
    with pytest.raises(PixelError) as caught:
        measure_scale(image(0.0), Normalization("p95"))
    share = 100 * (image(0.0) > 0).mean()
    assert str(caught.value) == (
        f"only {share:.0f} % of its pixels are positive: its background was subtracted, and the p95 normalisation "
        "needs counts. Give --normalization standard."
    )


def test_large_micrographs_are_measured_on_rows_spread_over_them() -> None:
    rows = sample_rows((4096, 8192))
    assert (rows[0], rows.step, len(rows)) == (0, 64, 64)
    assert list(sample_rows((90, 80))) == list(range(90))
