from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cryoden.data.normalize import measure_scale
from cryoden.metrics.psnr_ssim import SSIM_SIDE, psnr_rows, ssim_rows
from cryoden.metrics.ring_covariance import ring_covariance
from tests.helpers import clean_signal, two_halves

SHAPE = (512, 512)


def covariance_of(*images: np.ndarray) -> np.ndarray:
    return ring_covariance(images, 2.0).total()


def flat_counts(electrons: float, shape: tuple = (1024, 1024)) -> list:
    """Return two Poisson halves of an exposure without a specimen."""
    rng = np.random.default_rng(int(electrons))
    return [rng.poisson(electrons, shape).astype(np.float64) for _ in range(2)]


@pytest.mark.parametrize("electrons", [46, 70, 92, 400])
def test_psnr_ceiling_of_poisson_halves(electrons: float) -> None:
    """METRICS.md: 20 log10(sqrt(L) + 1.645) dB, for halves of L electrons scaled by their 95th percentile."""
    odd, even = flat_counts(electrons)
    # The percentile of counts is a whole number; half a count of jitter finds its place between two of them.
    rng = np.random.default_rng(1)
    scale = measure_scale(odd + rng.uniform(-0.5, 0.5, odd.shape))
    truth = np.full_like(odd, electrons)
    rows = psnr_rows(covariance_of(odd, even, truth, truth), scale.percentile)
    assert rows["ceiling"] == pytest.approx(20 * np.log10(np.sqrt(electrons) + 1.645), abs=0.1)
    assert rows["identity"] == pytest.approx(rows["ceiling"] - 10 * np.log10(2), abs=1e-9)


@pytest.mark.parametrize("noise", [1.0, 3.0])
def test_constant_image_lies_10_log10_of_1_plus_snr_below_the_ceiling(noise: float) -> None:
    _, odd, even = two_halves(SHAPE, 1, noise)
    rows = psnr_rows(covariance_of(odd, even, 0 * odd, 0 * odd), 1.0)
    # the signal has variance 1; chance covariances over 2**18 pixels: 0.02 dB
    assert rows["ceiling"] - rows["constant"] == pytest.approx(10 * np.log10(1 + 1 / noise**2), abs=0.03)
    assert rows["denoised"] == pytest.approx(rows["constant"], abs=1e-9)


def test_psnr_is_that_of_skimage() -> None:
    _, odd, even = two_halves(SHAPE, 2, 1.0)
    odd, even = odd - odd.mean(), even - even.mean()  # covariances know no mean
    denoised = [0.5 * half for half in (odd, even)]
    rows = psnr_rows(covariance_of(odd, even, *denoised), 4.0)
    mse = (np.mean((denoised[0] - even) ** 2) + np.mean((denoised[1] - odd) ** 2)) / 2
    assert rows["denoised"] == pytest.approx(10 * np.log10(4.0**2 / mse), abs=1e-6)
    assert rows["identity"] == pytest.approx(peak_signal_noise_ratio(even, odd, data_range=4.0), abs=1e-6)


def test_perfect_denoiser_reaches_the_ceiling_of_psnr() -> None:
    clean, odd, even = two_halves(SHAPE, 3, 2.0)
    rows = psnr_rows(covariance_of(odd, even, clean, clean), 1.0)
    assert rows["denoised"] == pytest.approx(rows["ceiling"], abs=0.03)
    assert rows["denoised"] > rows["constant"] > rows["identity"]


@pytest.mark.parametrize("shape", [(200, 180), (700, 531)])
def test_ssim_is_that_of_skimage_in_the_centre(shape: tuple) -> None:
    clean, odd, even = two_halves(shape, 1, 1.0)
    rows = ssim_rows(odd, even, clean, 5.0)
    top, left = (max(0, (side - SSIM_SIDE) // 2) for side in shape)
    a, b, f = (image[top : top + SSIM_SIDE, left : left + SSIM_SIDE] for image in (odd, even, clean))
    expected = {"denoised": f, "identity": a, "constant": np.full_like(b, b.mean())}
    for row, image in expected.items():
        assert rows[row] == pytest.approx(structural_similarity(image, b, data_range=5.0), abs=1e-12)


def test_ssim_ceiling_is_what_the_truth_scores() -> None:
    """For the true image the ceiling (truth against truth plus noise) and the score (against the half) agree."""
    clean, odd, even = two_halves(SHAPE, 2, 1.5)
    rows = ssim_rows(odd, even, clean, 6.0)
    assert rows["denoised"] == pytest.approx(rows["ceiling"], abs=0.01)  # another draw of the noise
    assert rows["denoised"] > rows["identity"] > rows["constant"] - 0.01


def test_ssim_of_a_noise_free_image_with_itself_is_1() -> None:
    image = clean_signal((128, 128), 1)
    rows = ssim_rows(image, image, image, 5.0)
    assert [rows[row] for row in ("denoised", "ceiling", "identity")] == pytest.approx([1.0] * 3, abs=1e-12)


def test_ssim_takes_float16() -> None:
    """Held-out halves are float16; sums over them must not be."""
    clean, odd, even = two_halves((300, 300), 4, 1.0)
    wide = ssim_rows(odd, even, clean, 5.0)
    narrow = ssim_rows(*(image.astype(np.float16) for image in (odd, even, clean)), data_range=5.0)
    assert [narrow[row] for row in wide] == pytest.approx(list(wide.values()), abs=1e-3)  # rounding by 2**-12
