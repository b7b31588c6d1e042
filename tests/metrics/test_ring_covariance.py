from __future__ import annotations

from typing import Sequence, Tuple

import numpy as np
import pytest
import scipy.ndimage
import torch

from cryoden.metrics.linear_filters import best_gaussian_width, gaussian_transfer
from cryoden.metrics.ring_covariance import RingCovariance, frc, pool, ring_covariance, score
from tests.helpers import clean_signal, two_halves

SHAPES = [(64, 64), (65, 63), (64, 96), (97, 50)]
RATE = 2.0


def ring_mask(shape: Tuple[int, int], low: float, high: float) -> np.ndarray:
    """Return which Fourier coefficients lie in rings of the given frequencies (cycles per pixel), both included."""
    n_rings = min(shape) // 2
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None])
    rings = np.maximum(np.rint(2 * n_rings * frequency), 1) / (2 * n_rings)
    return (rings >= low - 1e-12) & (rings <= high + 1e-12)


def band_passed(image: np.ndarray, low: float, high: float) -> np.ndarray:
    spectrum = np.fft.fft2(image - image.mean()) * ring_mask(image.shape, low, high)
    return np.fft.ifft2(spectrum).real


def measured(images: Sequence[np.ndarray]) -> RingCovariance:
    return ring_covariance([image.astype(np.float32) for image in images], RATE)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_rings_together_are_the_plain_covariance(shape: Tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    images = [rng.normal(3, 1, shape) for _ in range(4)]
    expected = np.cov([image.ravel() for image in images], bias=True)
    # float32 transforms: 1e-6 of the largest entry
    np.testing.assert_allclose(measured(images).total(), expected, atol=3e-6 * expected.max())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_last_ring_is_all_beyond_nyquist(shape: Tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    images = [rng.normal(3, 1, shape) for _ in range(4)]
    found = measured(images)
    corners = [(image - image.mean() - band_passed(image, 0, 0.5)).ravel() for image in images]
    np.testing.assert_allclose(found.matrices[-1], np.cov(corners, bias=True), atol=3e-6)
    np.testing.assert_allclose(found.matrices[:-1].sum(axis=0), found.in_band((1e9, 1e-9)), rtol=1e-9)


def test_transform_and_histogram_of_the_caller_are_used() -> None:
    """As `cryoden.model.validation` does for images on a GPU, here with torch on the CPU in float64."""
    rng = np.random.default_rng(5)
    images = [torch.from_numpy(rng.normal(3, 1, (65, 50))) for _ in range(4)]

    def histogram(rings: np.ndarray, values: torch.Tensor, n_rings: int) -> np.ndarray:
        return torch.bincount(torch.from_numpy(rings).ravel(), values.ravel(), n_rings).numpy()

    found = ring_covariance(images, RATE, torch.fft.rfft2, histogram)
    expected = ring_covariance([image.numpy() for image in images], RATE)
    np.testing.assert_allclose(found.matrices, expected.matrices, atol=1e-12)
    np.testing.assert_array_equal(found.frequency, expected.frequency)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_band_is_the_covariance_of_band_passed_images(shape: Tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    images = [rng.normal(3, 1, shape) for _ in range(4)]
    passed = [band_passed(image, RATE / 40, RATE / 6).ravel() for image in images]
    found = measured(images).in_band((40.0, 6.0))
    np.testing.assert_allclose(found, np.cov(passed, bias=True), atol=1e-5)


def test_mean_grey_level_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    images = [rng.normal(0, 1, (64, 64)) for _ in range(4)]
    shifted = [image + 100 * number for number, image in enumerate(images)]
    np.testing.assert_allclose(measured(images).matrices, measured(shifted).matrices, atol=1e-6)


def test_frequencies_are_per_angstrom_up_to_nyquist() -> None:
    frequency = measured([np.random.default_rng(1).normal(size=(64, 80)) for _ in range(4)]).frequency
    assert frequency[-2] == pytest.approx(0.5 / RATE)
    assert np.isinf(frequency[-1])
    np.testing.assert_allclose(np.diff(frequency[:-1]), 1 / (64 * RATE))


def test_frc_of_an_image_with_itself_is_1() -> None:
    image = np.random.default_rng(1).normal(size=(64, 80))
    np.testing.assert_allclose(frc(measured([image] * 4)), 1, atol=1e-6)


def test_frc_of_a_negative_is_minus_1() -> None:
    image = np.random.default_rng(1).normal(size=(64, 80))
    np.testing.assert_allclose(frc(measured([image, -image, image, image])), -1, atol=1e-6)


def test_frc_of_noise_is_0_within_its_deviation() -> None:
    rng = np.random.default_rng(1)
    values = frc(measured([rng.normal(size=(256, 256)) for _ in range(4)]))[:-1]
    # the deviation of a ring's FRC is 1/sqrt(coefficients/2), about 1/sqrt(pi * ring)
    ring = np.arange(1, len(values) + 1)
    assert np.all(np.abs(values) < 5 / np.sqrt(np.pi * ring))


class Truth:
    """A signal that is known, two independent noises, and a linear denoiser, in float64."""

    def __init__(self, shape: Tuple[int, int] = (512, 512), noise: float = 1.5) -> None:
        self.band = (40.0, 6.0)
        self.clean, self.odd, self.even = two_halves(shape, 5, noise)
        self.denoised = [self.smooth(half) for half in (self.odd, self.even)]
        self.score = score(measured((self.odd, self.even, *self.denoised)).in_band(self.band))
        low, high = RATE / self.band[0], RATE / self.band[1]
        self.signal, odd, even, denoised_odd, denoised_even = (
            band_passed(i, low, high) for i in (self.clean, self.odd, self.even, *self.denoised)
        )
        self.noises = odd - self.signal, even - self.signal
        self.errors = denoised_odd - self.signal, denoised_even - self.signal
        # The estimates carry up to four chance covariances (noise with signal, noise, prediction); each deviates by
        # sqrt(product of variances / coefficients in the band); added in quadrature, three deviations.
        n_coefficients = ring_mask(shape, low, high).sum()
        largest = max(np.var(self.noises[0]), np.var(self.signal))
        self.tolerance = 3 * np.sqrt(4 / n_coefficients) * largest

    @staticmethod
    def smooth(image: np.ndarray) -> np.ndarray:
        return scipy.ndimage.gaussian_filter(image, 2.0, mode="wrap")


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth()


def test_signal_variance_against_the_truth(truth: Truth) -> None:
    assert truth.score.signal_variance == pytest.approx(np.var(truth.signal), abs=truth.tolerance)


def test_noise_variance_against_the_truth(truth: Truth) -> None:
    expected = np.mean([np.var(noise) for noise in truth.noises])
    assert truth.score.noise_variance == pytest.approx(expected, abs=truth.tolerance)


def test_mse_clean_against_the_truth(truth: Truth) -> None:
    expected = np.mean([np.mean(error**2) for error in truth.errors])
    assert truth.score.mse_clean == pytest.approx(expected, abs=truth.tolerance)
    assert truth.tolerance < 0.2 * expected  # else the comparison would show nothing


def test_r2_against_the_truth(truth: Truth) -> None:
    expected = 1 - np.mean([np.mean(error**2) for error in truth.errors]) / np.var(truth.signal)
    assert truth.score.r2 == pytest.approx(expected, abs=2 * truth.tolerance / np.var(truth.signal))


def test_r2_corr_against_the_truth(truth: Truth) -> None:
    predictions = [error + truth.signal for error in truth.errors]
    expected = np.mean([np.corrcoef(p.ravel(), truth.signal.ravel())[0, 1] ** 2 for p in predictions])
    assert truth.score.r2_corr == pytest.approx(expected, abs=2 * truth.tolerance / np.var(truth.signal))


def test_bias_and_variance_against_the_truth(truth: Truth) -> None:
    bias2 = np.mean(truth.errors[0] * truth.errors[1])
    variance = np.mean((truth.errors[0] - truth.errors[1]) ** 2) / 2
    assert truth.score.bias2 == pytest.approx(bias2, abs=truth.tolerance)
    assert truth.score.variance == pytest.approx(variance, abs=truth.tolerance)
    assert truth.score.bias2 + truth.score.variance == pytest.approx(truth.score.mse_clean)


def test_perfect_denoiser_has_r2_1_and_constant_image_0() -> None:
    clean, odd, even = two_halves((512, 512), 7, 1.0)
    perfect = score(measured((odd, even, clean, clean)).in_band((40.0, 6.0)))
    nothing = score(measured((odd, even, 0 * odd, 0 * odd)).in_band((40.0, 6.0)))
    assert perfect.r2 == pytest.approx(1, abs=0.05)
    assert perfect.r2_corr == pytest.approx(1, abs=0.05)
    assert nothing.r2 == pytest.approx(0, abs=0.05)


def test_r2_corr_does_not_depend_on_the_scale_of_the_output() -> None:
    _, odd, even = two_halves((128, 128), 7, 1.0)
    denoised = [Truth.smooth(half) for half in (odd, even)]
    scores = [score(measured((odd, even, *(k * d for d in denoised))).in_band((40.0, 6.0))) for k in (1, 5)]
    assert scores[0].r2_corr == pytest.approx(scores[1].r2_corr, rel=1e-4)
    assert scores[0].r2 != pytest.approx(scores[1].r2, rel=0.1)


def test_filter_on_rings_equals_the_filter_on_images() -> None:
    _, odd, even = two_halves((128, 128), 3, 1.0)
    raw = measured((odd, even, odd, even))
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None])
    rings = np.maximum(np.rint(128 * frequency), 1) / 128
    rings[rings > 0.5] = np.inf  # the corners are one ring
    gain = gaussian_transfer(rings / RATE, 5.0)
    denoised = [np.fft.ifft2(np.fft.fft2(half) * gain).real for half in (odd, even)]
    filtered = raw.filtered(gaussian_transfer(raw.frequency, 5.0))
    np.testing.assert_allclose(filtered.matrices, measured((odd, even, *denoised)).matrices, atol=1e-6)


def test_raw_filter_gives_the_score_of_the_raw_half() -> None:
    _, odd, even = two_halves((128, 128), 3, 1.0)
    raw = measured((odd, even, odd, even))
    assert score(raw.filtered(np.ones(65)).in_band()) == score(raw.in_band())


def test_best_gaussian_is_no_worse_than_any_width_beside_it() -> None:
    _, odd, even = two_halves((256, 256), 3, 1.5)
    raw = measured((odd, even, odd, even))

    def quality(width: float) -> float:
        return score(raw.filtered(gaussian_transfer(raw.frequency, width)).in_band()).r2_corr

    best = best_gaussian_width(raw)
    assert quality(best) >= max(quality(0.8 * best), quality(1.25 * best), quality(1e-3))
    assert 1.0 < best < 20.0


def test_gaussian_transfer_is_the_transform_of_a_gaussian_blur() -> None:
    impulse = np.zeros((128, 128))
    impulse[0, 0] = 1
    spectrum = np.fft.fft2(scipy.ndimage.gaussian_filter(impulse, 3.0, mode="wrap", truncate=8)).real
    np.testing.assert_allclose(
        gaussian_transfer(np.fft.fftfreq(128)[:64] / RATE, 3.0 * RATE), spectrum[0, :64], atol=1e-6
    )


def test_pool_is_the_mean_over_micrographs() -> None:
    first, second = (measured(2 * two_halves((64, 64), seed)[1:]) for seed in (1, 2))
    np.testing.assert_allclose(pool([first, second]).matrices, (first.matrices + second.matrices) / 2)


def test_pool_of_two_sizes_keeps_the_covariance_of_a_band() -> None:
    small, large = (measured(2 * two_halves(shape, 1)[1:]) for shape in ((64, 64), (128, 128)))
    expected = (small.in_band((1e9, 1.0)) + large.in_band((1e9, 1.0))) / 2
    np.testing.assert_allclose(pool([small, large]).in_band((1e9, 1.0)), expected, rtol=1e-9)
    np.testing.assert_allclose(pool([small, large]).total(), (small.total() + large.total()) / 2, rtol=1e-9)


def test_score_of_images_without_signal_warns_nobody() -> None:
    assert np.isnan(score(np.zeros((4, 4))).r2)


def test_blurring_the_clean_signal_is_all_bias() -> None:
    clean = clean_signal((128, 128), 1)
    blurred = Truth.smooth(clean)
    result = score(measured((clean, clean, blurred, blurred)).in_band((1e9, 1.0)))
    assert result.variance == pytest.approx(0, abs=1e-6)
    assert result.bias2 == pytest.approx(np.var(clean - blurred), rel=1e-3)
