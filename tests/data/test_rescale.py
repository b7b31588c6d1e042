from __future__ import annotations

from typing import Tuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoden.data.rescale import fourier_crop, rescaled_rate, rescaled_shape
from cryoden.errors import OptionError
from cryoden.model.denoiser import resized


def sinusoid(shape: Tuple[int, int], cycles: Tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return 2 + np.cos(2 * np.pi * (cycles[0] * y / shape[0] + cycles[1] * x / shape[1]) + 0.3)


@settings(deadline=None, max_examples=40)
@given(st.tuples(st.integers(8, 70), st.integers(8, 70)), st.floats(1.05, 3.0))
def test_mean_is_kept(shape: Tuple[int, int], factor: float) -> None:
    image = np.random.default_rng(1).normal(5, 1, shape).astype(np.float32)
    small = fourier_crop(image, rescaled_shape(shape, 1.0, factor))
    assert small.mean(dtype=np.float64) == pytest.approx(image.mean(dtype=np.float64), rel=1e-5)


@pytest.mark.parametrize("cycles", [(0, 3), (3, 0), (5, 7), (-5, 7), (13, -13)])
@pytest.mark.parametrize("shape", [(64, 80), (65, 81)])
def test_band_limited_sinusoid_is_kept(shape: Tuple[int, int], cycles: Tuple[int, int]) -> None:
    small = fourier_crop(sinusoid(shape, cycles), (28, 30))
    np.testing.assert_allclose(small, sinusoid((28, 30), cycles), atol=2e-6)


def test_sinusoid_beyond_the_new_nyquist_vanishes() -> None:
    np.testing.assert_allclose(fourier_crop(sinusoid((64, 64), (0, 20)), (32, 32)), 2, atol=2e-6)


@settings(deadline=None, max_examples=80)
@given(st.tuples(st.integers(2, 9000), st.integers(2, 9000)), st.floats(0.2, 5), st.floats(1.02, 8))
def test_rescaled_sides_are_even_and_not_larger(shape: Tuple[int, int], rate: float, factor: float) -> None:
    new = rescaled_shape(shape, rate, rate * factor)
    assert all(n % 2 == 0 and 2 <= n <= max(2, old) for n, old in zip(new, shape))


@pytest.mark.parametrize("wanted", [0.995, 1.0, 1.005])
def test_nearly_equal_rate_leaves_the_image_alone(wanted: float) -> None:
    assert rescaled_shape((31, 33), 1.0, wanted) == (31, 33)
    assert rescaled_rate((31, 33), 1.0, (31, 33)) == 1.0


def test_new_rate_is_that_of_the_pixels() -> None:
    shape = rescaled_shape((64, 101), 1.0, 2.0)
    assert shape == (32, 50)
    assert rescaled_rate((64, 101), 1.0, shape) == pytest.approx(2.02)


def test_finer_pixels_cannot_be_asked_for() -> None:
    with pytest.raises(OptionError) as caught:
        rescaled_shape((64, 64), 2.0, 1.0)
    assert str(caught.value) == (
        "Option --sampling-rate is 1 Å/px, finer than the micrograph's 2 Å/px; it must be equal or coarser."
    )


@pytest.mark.parametrize("shape", [(64, 64), (65, 71), (64, 71)])
def test_padding_undoes_cropping_of_a_smooth_image(shape: Tuple[int, int]) -> None:
    image = sinusoid(shape, (3, 5))
    small = fourier_crop(image, (32, 34))
    np.testing.assert_allclose(resized(torch.from_numpy(small), shape).numpy(), image, atol=1e-5)


@pytest.mark.parametrize(("shape", "new"), [((64, 64), (32, 34)), ((65, 71), (40, 50)), ((65, 71), (64, 70))])
def test_arrays_and_tensors_are_cropped_alike(shape: Tuple[int, int], new: Tuple[int, int]) -> None:
    image = np.random.default_rng(1).normal(5, 1, shape).astype(np.float32)
    cropped = resized(torch.from_numpy(image), new)
    np.testing.assert_allclose(cropped.numpy(), fourier_crop(image, new), atol=1e-5)


def test_the_same_size_changes_nothing() -> None:
    image = sinusoid((32, 34), (3, 5)).astype(np.float32)
    np.testing.assert_array_equal(fourier_crop(image, (32, 34)), image)
    np.testing.assert_array_equal(resized(torch.from_numpy(image), (32, 34)).numpy(), image)
