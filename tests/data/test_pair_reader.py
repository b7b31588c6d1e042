from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import cryoden.data.pair_reader as loading
import cryoden.data.pairs as pairs
from cryoden.data.normalize import Normalization, measure_scale, sample_rows
from cryoden.data.pair_reader import PairReader, load_pair
from cryoden.data.pairs import find_pairs
from cryoden.errors import PairError, PixelError
from tests.helpers import read_mrc, two_halves, write_halves, write_mrc


def test_loaded_halves_are_standardised_in_the_order_odd_even(tmp_path: Path) -> None:
    write_halves(tmp_path, 1, (40, 50))
    halves = load_pair(find_pairs("odd", "even")[0][0]).halves
    _, odd, even = two_halves((40, 50), 100, 1.0)
    assert halves.dtype == torch.float16
    for half, raw in zip(halves, (odd, even)):
        # float16 keeps 11 bits: it rounds by 2**-12 of a value at most, 2**-11 with what float32 adds before
        np.testing.assert_allclose(half, (raw - raw.mean()) / raw.std(), rtol=2**-11, atol=1e-4)


def test_data_range_is_the_percentile_in_deviations(tmp_path: Path) -> None:
    _, odd, even = two_halves((40, 50), 100, 1.0)
    for half, image in (("odd", odd), ("even", even)):
        write_mrc(tmp_path / half / "mic0.mrc", 30 + image)
    expected = np.mean([np.percentile(30 + image, 95) / image.std() for image in (odd, even)])
    assert load_pair(find_pairs("odd", "even")[0][0]).data_range == pytest.approx(expected, rel=1e-5)


def test_bands_of_rows_give_the_same_halves_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_halves(tmp_path, 1, (53, 50))
    pair = find_pairs("odd", "even")[0][0]
    whole = load_pair(pair).halves
    opened = pairs.open_micrograph

    def in_small_bands(path: str) -> object:
        stack = opened(path)
        stack.band_rows = 7
        return stack

    monkeypatch.setattr(pairs, "open_micrograph", in_small_bands)
    np.testing.assert_array_equal(load_pair(pair).halves, whole)


def test_pixels_are_rounded_to_the_nearest_float16(tmp_path: Path) -> None:
    """Also in bands larger than what is rounded at once, and exactly as NumPy rounds."""
    for half, image in zip(("odd", "even"), two_halves((300, 250), 1, 1.0)[1:]):
        write_mrc(tmp_path / half / "mic0.mrc", image)
    halves = load_pair(find_pairs("odd", "even")[0][0], Normalization("standard")).halves
    image = read_mrc(tmp_path / "even" / "mic0.mrc")
    scale = measure_scale(image)
    np.testing.assert_array_equal(halves[1].numpy(), scale.standardize(image).astype(np.float16))


def test_pair_is_read_into_memory_that_is_given(tmp_path: Path) -> None:
    write_halves(tmp_path, 1, (40, 50))
    pair = find_pairs("odd", "even")[0][0]
    memory = torch.full((5000,), 7.0, dtype=torch.float16)
    with ThreadPoolExecutor(2) as pool:
        loaded = PairReader().read(pair, pool, memory)
    assert loaded.halves.data_ptr() == memory.data_ptr()
    assert torch.equal(loaded.halves, load_pair(pair).halves)
    assert bool((memory[4000:] == 7).all())  # the rest is left alone


@pytest.mark.parametrize("rate", [2.0, 4.0])
def test_second_reading_asks_no_statistics_and_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    write_halves(tmp_path, 1, (60, 90), rate=2.0)
    pair = find_pairs("odd", "even", rate)[0][0]
    reader = PairReader()
    with ThreadPoolExecutor(2) as pool:
        first = reader.read(pair, pool)
        monkeypatch.setattr(loading, "check_correlation", None)  # calling it would fail
        second = reader.read(pair, pool)
    assert torch.equal(first.halves, second.halves)
    assert first.data_range == second.data_range


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_pixel_that_is_no_number_is_found_wherever_it_is(tmp_path: Path, value: float) -> None:
    """The grey scale is measured on some rows only; this one is not among them."""
    odd, even = two_halves((2100, 1030), 1, 1.0)[1:]
    even[1001, 7] = value
    assert 1001 not in sample_rows(even.shape)
    write_mrc(tmp_path / "odd" / "mic0.mrc", odd)
    write_mrc(tmp_path / "even" / "mic0.mrc", even)
    with pytest.raises(PixelError, match=r"even/mic0.mrc cannot be used: it has pixels that are NaN or infinite"):
        load_pair(find_pairs("odd", "even")[0][0])


def test_saturated_halves_are_refused_at_another_pixel_size_too(tmp_path: Path) -> None:
    write_halves(tmp_path, 1, (60, 90), rate=2.0)
    image = read_mrc(tmp_path / "even" / "mic0.mrc")
    write_mrc(tmp_path / "even" / "mic0.mrc", np.minimum(image, np.percentile(image, 60)), 2.0)
    for rate in (2.0, 4.0):
        with pytest.raises(PixelError, match=r"even/mic0.mrc cannot be used: 40 % of its pixels have the largest"):
            load_pair(find_pairs("odd", "even", rate)[0][0])


def test_loading_refuses_halves_that_do_not_correlate(tmp_path: Path) -> None:
    for seed, half in enumerate(("odd", "even")):
        write_mrc(tmp_path / half / "mic0.mrc", np.random.default_rng(seed).normal(size=(60, 60)))
    with pytest.raises(PairError, match=r"The halves of 'mic0' do not correlate \("):
        load_pair(find_pairs("odd", "even")[0][0])


def test_loading_refuses_one_image_given_twice(tmp_path: Path) -> None:
    """The files differ in name and scale: only their pixels tell, and these are rounded to float16."""
    image = np.random.default_rng(1).normal(size=(60, 60))
    write_mrc(tmp_path / "odd" / "mic0.mrc", image)
    write_mrc(tmp_path / "even" / "mic0.mrc", 3 * image + 1)
    with pytest.raises(PairError, match="Both halves of 'mic0' are the same image; the noise of odd and even"):
        load_pair(find_pairs("odd", "even")[0][0])


def test_normalization_decides_what_is_loaded(tmp_path: Path) -> None:
    for half, image in zip(("odd", "even"), two_halves((60, 60), 1, 1.0)[1:]):
        write_mrc(tmp_path / half / "mic0.mrc", 30 + image)
    pair = find_pairs("odd", "even")[0][0]
    halves = load_pair(pair, Normalization("p95", 0.5, 0.25)).halves
    image = read_mrc(tmp_path / "odd" / "mic0.mrc").astype(np.float64)
    expected = (np.clip(image / np.percentile(image, 95), 0, 1) - 0.5) / 0.25
    np.testing.assert_allclose(halves[0], expected, rtol=2**-11, atol=1e-4)  # float16


def test_working_rate_shrinks_the_halves(tmp_path: Path) -> None:
    write_halves(tmp_path, 1, (60, 90), rate=2.0)
    pair = find_pairs("odd", "even", 4.0)[0][0]
    assert load_pair(pair).halves.shape == (2, 30, 45 // 2 * 2)
    assert pair.sampling_rate == pytest.approx(2.0 * 90 / 44)
