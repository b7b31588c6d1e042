"""Denoisers as a library uses them: networks and linear filters, loaded, fitted, saved and applied."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, Tuple

import numpy as np
import pytest
import torch

from cryoden.data.pairs import find_pairs
from cryoden.errors import DeviceError, FileError, ModelError, OptionError, PixelError
from cryoden.formats.model_file import ModelCard, read_card, read_model, write_model
from cryoden.metrics.linear_filters import filter_image
from cryoden.metrics.ring_covariance import RingCovariance, score
from cryoden.model import predictor
from cryoden.model.denoiser import Denoiser, ModelDenoiser
from cryoden.model.filters import GaussianFilter, LinearFilter, WienerFilter
from tests.helpers import RATE, Result, blurred_three_times, clean_signal, read_mrc, two_halves, write_halves, write_mrc

BAND = (300.0, 10.0)


def picture(shape: Tuple[int, int] = (90, 70)) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal(shape)
    return (50 + 5 * (clean_signal(shape, 1) + noise)).astype(np.float32)


# ------------------------------------------------------------------ networks
def test_a_network_denoises_an_array_in_its_own_grey_scale(blur_model: Path) -> None:
    denoiser = Denoiser.load(blur_model, device="cpu")
    assert (denoiser.label, denoiser.sampling_rate, denoiser.card.network) == ("CNN3", RATE, "cnn3")
    image = picture()
    before = image.copy()
    denoised = denoiser.denoise(image, sampling_rate=RATE)
    assert denoised.dtype == np.float32
    np.testing.assert_allclose(denoised, blurred_three_times(image), rtol=2e-5)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("rate", [RATE, RATE / 1.7])
@pytest.mark.parametrize("quality", ["fast", "best"])
def test_an_array_is_denoised_as_its_file_is(
    cryoden: Callable[..., Result], make_model: Callable, rate: float, quality: str
) -> None:
    model = make_model(network="unet", channels=(4, 8))
    write_mrc(Path("a.mrc"), picture(), rate)
    assert cryoden("denoise", "a.mrc", "--model", model, "--output", "out", "--quality", quality).status == 0
    denoised = Denoiser.load(model, "cpu", quality).denoise(picture(), rate)
    np.testing.assert_array_equal(denoised, read_mrc(Path("out/a.mrc")))


def test_tiles_change_nothing(make_model: Callable) -> None:
    model, image = make_model(network="unet", channels=(4, 8)), picture((300, 260))
    whole, tiled = (Denoiser.load(model, "cpu", tile=tile).denoise(image, RATE) for tile in (None, 96))
    np.testing.assert_allclose(tiled, whole, atol=1e-5 * whole.std())


def test_a_given_grey_scale_is_not_measured_again(blur_model: Path) -> None:
    """A cut-out in which nothing varies as in its micrograph is denoised as a part of it."""
    denoiser, image = Denoiser.load(blur_model, "cpu"), picture()
    scale = denoiser.measure_scale(image)
    faint = image.mean() + 1e-3 * (image - image.mean())
    expected = image.mean() + 1e-3 * (denoiser.denoise(image, RATE, scale) - image.mean())
    np.testing.assert_allclose(denoiser.denoise(faint, RATE, scale), expected, atol=2e-5)


def test_what_cannot_be_denoised_is_refused(blur_model: Path) -> None:
    denoiser = Denoiser.load(blur_model, "cpu")
    with pytest.raises(PixelError, match="constant"):
        denoiser.denoise(np.ones((60, 60)), RATE)
    with pytest.raises(PixelError, match="NaN"):
        denoiser.denoise(np.full((60, 60), np.nan), RATE)
    with pytest.raises(ModelError, match="The image has 8 Å/px, coarser than the 4 Å/px of the model"):
        denoiser.denoise(picture(), 8.0)


def test_what_cannot_be_loaded_is_refused(blur_model: Path) -> None:
    with pytest.raises(FileError, match="nowhere"):
        Denoiser.load("nowhere.safetensors")
    with pytest.raises(DeviceError, match="cuda:99"):
        Denoiser.load(blur_model, "cuda:99")
    with pytest.raises(OptionError, match="--quality is 'good'; it must be one of fast, best"):
        Denoiser.load(blur_model, "cpu", quality="good")


@pytest.mark.parametrize(
    "normalization",
    [{"kind": "standard", "colour": "blue"}, {"kind": "x"}, {"kind": "p95", "deviation": 0}, {"mean": "high"}],
)
def test_normalisations_that_are_unknown_are_refused(blur_model: Path, normalization: Dict[str, object]) -> None:
    weights = read_model(blur_model)[1]
    write_model("odd.safetensors", weights, ModelCard("cnn3", (), RATE, normalization))
    with pytest.raises(ModelError, match=r"of model odd\.safetensors is unknown here; update cryoden"):
        Denoiser.load("odd.safetensors", "cpu")


def huge(blur_model: Path) -> str:
    """Write a model whose weights are finite but make numbers that are not."""
    card, weights = read_model(blur_model)
    write_model("huge.safetensors", {name: 1e30 * array for name, array in weights.items()}, card)
    return "huge.safetensors"


def test_a_prediction_that_is_not_finite_is_the_failure_of_its_micrograph(
    cryoden: Callable[..., Result], blur_model: Path
) -> None:
    with pytest.raises(ModelError, match="makes values that are NaN or infinite of the image"):
        Denoiser.load(huge(blur_model), "cpu").denoise(picture(), RATE)
    write_mrc(Path("raw/a.mrc"), picture())
    result = cryoden("denoise", "raw", "--model", "huge.safetensors", "--output", "out", "--thumbnails", "png")
    assert result.status == 2
    assert "Model huge.safetensors makes values that are NaN or infinite of raw/a.mrc; train again" in result.last_error
    assert not [path for path in Path("out").rglob("*") if path.suffix in (".mrc", ".png")]


# ------------------------------------------------------------------ linear filters
@pytest.fixture
def pairs() -> list:
    write_halves(Path(), n=3, shape=(128, 128), noise=2.0)
    return find_pairs("odd", "even")[0]


@pytest.mark.parametrize("kind", [GaussianFilter, WienerFilter])
def test_a_fitted_filter_is_a_model_file_that_denoise_applies(
    cryoden: Callable[..., Result], pairs: list, kind: type
) -> None:
    fitted = kind.fit(pairs, BAND)
    fitted.save("filter.safetensors")
    card = read_card("filter.safetensors")
    assert (card.network, card.sampling_rate) == (kind.KIND, RATE)
    assert card.training["trained_on"] == ["mic0", "mic1", "mic2"]

    result = cryoden("denoise", "odd/mic0.mrc", "--model", "filter.safetensors", "--output", "out")
    assert result.status == 0, result.err
    written, image = read_mrc(Path("out/mic0.mrc")), read_mrc(Path("odd/mic0.mrc"))
    expected = filter_image(image, RATE, fitted.frequency, fitted.gain)  # an independent way: NumPy, float64 gain
    np.testing.assert_allclose(written, expected, atol=1e-5)
    np.testing.assert_array_equal(written, Denoiser.load("filter.safetensors", "cpu").denoise(image, RATE))
    np.testing.assert_array_equal(written, fitted.denoise(image, RATE))


@pytest.mark.parametrize("kind", [GaussianFilter, WienerFilter])
def test_a_fitted_filter_comes_close_to_the_clean_image(pairs: list, kind: type) -> None:
    fitted = kind.fit(pairs, BAND)
    clean, odd, _ = two_halves((128, 128), 999, 2.0)
    denoised = fitted.denoise(odd.astype(np.float32), RATE)
    before, after = (np.corrcoef(image.ravel(), clean.ravel())[0, 1] for image in (odd, denoised))
    assert after > before + 0.2
    assert abs(float(denoised.mean()) - float(odd.mean())) < 1e-4


def test_the_wiener_filter_is_the_share_of_signal_in_each_ring() -> None:
    frequency = np.array([0.01, 0.05, 0.1, np.inf])
    matrices = np.zeros((4, 2, 2))
    matrices[:] = [[[5.0, 4.0], [4.0, 5.0]], [[2.0, 1.0], [1.0, 2.0]], [[1.0, -0.1], [-0.1, 1.0]], [[1, 0], [0, 1]]]
    fitted = WienerFilter.fit_covariance(RingCovariance(frequency, matrices), RATE)
    np.testing.assert_allclose(fitted.gain_at(frequency), [0.8, 0.5, 0.0, 0.0])


def test_the_gaussian_has_the_width_with_the_best_score(pairs: list) -> None:
    fitted = GaussianFilter.fit(pairs, BAND)
    width = fitted.card.training["width_A"]
    np.testing.assert_allclose(fitted.gain, np.exp(-2 * (np.pi * width * fitted.frequency) ** 2))

    from cryoden.data.pair_reader import load_pair
    from cryoden.metrics.ring_covariance import pool, ring_covariance

    halves = pool([ring_covariance(list(load_pair(pair).halves.float().numpy()), RATE) for pair in pairs])

    def quality(width_A: float) -> float:
        gain = np.exp(-2 * (np.pi * width_A * halves.frequency) ** 2)
        return score(halves.filtered(gain).in_band(BAND)).r2_corr

    assert quality(width) >= max(quality(width / 1.1), quality(width * 1.1))


@pytest.mark.parametrize(
    "tensors",
    [
        {"gain": np.ones(3)},
        {"frequency": np.arange(3.0), "gain": np.ones(4)},
        {"frequency": np.array([0.1, 0.1, 0.2]), "gain": np.ones(3)},
        {"frequency": np.arange(3.0), "gain": np.array([1, np.nan, 0])},
        {"frequency": np.ones((2, 2)), "gain": np.ones((2, 2))},
    ],
)
def test_a_filter_file_without_a_curve_is_refused(tensors: dict) -> None:
    write_model("bad.safetensors", tensors, ModelCard("wiener", (), RATE))
    with pytest.raises(ModelError, match=r"bad\.safetensors is a wiener filter without a transfer curve"):
        Denoiser.load("bad.safetensors", "cpu")


def test_filters_of_images_of_several_sizes_keep_them_apart(pairs: list) -> None:
    """The gain of the last size is kept; another size, or pixel size, must not get it."""
    fitted = WienerFilter.fit(pairs, BAND)
    for shape, rate in (((128, 128), RATE), ((100, 90), RATE), ((100, 90), RATE * 0.995), ((128, 128), RATE)):
        image = picture(shape)
        expected = filter_image(image, rate, fitted.frequency, fitted.gain)
        np.testing.assert_allclose(fitted.denoise(image, rate), expected, atol=2e-4)


def test_every_model_is_a_denoiser(blur_model: Path, pairs: list) -> None:
    WienerFilter.fit(pairs).save("w.safetensors")
    for path in (blur_model, "w.safetensors"):
        denoiser = Denoiser.load(path, "cpu")
        assert isinstance(denoiser, ModelDenoiser)
        assert denoiser.n_weights > 0
    assert set(LinearFilter.KINDS) == {"gaussian", "wiener"}


def test_lack_of_host_memory_is_recognised() -> None:
    """What PyTorch really says: tiles are halved on that word."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert predictor.is_out_of_memory(caught.value)
    assert predictor.is_out_of_memory(RuntimeError("could not create a primitive"))  # oneDNN's, at its limit
    assert not predictor.is_out_of_memory(RuntimeError("shape mismatch"))
