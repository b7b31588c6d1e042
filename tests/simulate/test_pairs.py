"""Noisy pairs of clean images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cryoden.config.simulate import PHANTOMS
from tests.helpers import read_mrc, write_mrc


def pair(name: str, folder: str = "out") -> list:
    return [read_mrc(Path(folder, kind, f"{name}.mrc")).astype(np.float64) for kind in ("clean", "odd", "even")]


@pytest.mark.parametrize("phantom", PHANTOMS)
@pytest.mark.parametrize("sigma", [0.1, 0.2])
def test_gaussian_pairs(cryoden: Any, phantom: str, sigma: float) -> None:
    words = ["simulate", "pairs", "--output", "out", "--phantom", phantom, "--size", 128, 160, "--sigma", sigma]
    assert cryoden(*words, "--pairs", 2).out == "2 of 2 pairs are simulated: out/{odd,even,clean}\n"
    clean, odd, even = pair(f"{phantom}_0002")
    assert clean.shape == (128, 160)
    assert (clean.min(), clean.max()) == (0, 1)
    assert clean.std() > 0.05
    assert (odd - clean).std() == pytest.approx(sigma, rel=0.03)
    assert (even - clean).std() == pytest.approx(sigma, rel=0.03)
    assert abs(np.corrcoef((odd - clean).ravel(), (even - clean).ravel())[0, 1]) < 0.04
    assert not np.array_equal(clean, pair(f"{phantom}_0001")[0])


def test_poisson_pairs(cryoden: Any) -> None:
    words = ["simulate", "pairs", "--noise", "poisson", "--dose", 5, "--pairs", 1, "--size", 256, 256]
    cryoden(*words, "--output", "out", "--sampling-rate", 3)
    clean, odd, even = pair("particles_0001")
    assert clean.mean() == pytest.approx(5, rel=1e-4)
    for noisy in (odd, even):
        assert np.array_equal(noisy, noisy.round())
        assert ((noisy - clean) ** 2).sum() == pytest.approx(clean.sum(), rel=0.03)
    cryoden(*words, "--output", "again", "--sampling-rate", 3)
    cryoden(*words, "--output", "other", "--seed", 2)
    assert np.array_equal(odd, pair("particles_0001", "again")[1])
    assert not np.array_equal(odd, pair("particles_0001", "other")[1])


def test_pairs_can_be_trained_on(cryoden: Any) -> None:
    cryoden("simulate", "pairs", "--output", "out", "--pairs", 3, "--size", 96, 96, "--sampling-rate", 4)
    words = ["--network", "cnn3", "--epochs", 1, "--crop", 32, "--min-batches", 2]
    assert cryoden("train", "--odd", "out/odd", "--even", "out/even", "--output", "model", *words).status == 0


def test_pairs_of_ones_own_images(tmp_path: Path, cryoden: Any) -> None:
    ramp = np.tile(np.arange(80, dtype=np.uint8), (70, 1))
    Image.fromarray(np.stack([ramp] * 3, axis=-1)).save("photo.png")
    Image.fromarray((ramp * np.uint16(500)).astype(np.uint16)).save("deep.png")
    write_mrc(tmp_path / "map.mrc", ramp.T)
    (tmp_path / "words.png").write_text("no picture")
    (tmp_path / "a.bmp").write_text("")
    Image.fromarray(np.full((70, 80), 7, np.uint8)).save("flat.png")
    result = cryoden(
        "simulate", "pairs", "photo.png", "deep.png", "map.mrc", "words.png", "a.bmp", "flat.png", "--output", "out"
    )
    assert result.status == 1
    assert "3 of 6 pairs" in result.out
    assert "cryoden: failed: words.png: words.png cannot be read as a picture (" in result.err
    assert "a.bmp has the unknown ending '.bmp'; give .mrc, " in result.err
    assert "flat.png is constant: every pixel is 7. It holds no image; leave it out." in result.err
    np.testing.assert_allclose(pair("photo")[0], ramp / 79, atol=1e-6)
    np.testing.assert_allclose(pair("deep")[0], ramp / 79, atol=1e-6)
    np.testing.assert_allclose(pair("map")[0], ramp.T / 79, atol=1e-6)


def test_no_image_can_be_used(cryoden: Any) -> None:
    result = cryoden("simulate", "pairs", "none.png", "--output", "out")
    assert result.status == 2
    assert result.last_error.startswith("cryoden: None of 1 images could be used; the first reason: none.png cannot")
    result = cryoden("simulate", "pairs", "a/x.png", "b/x.png", "--output", "out")
    assert result.last_error == "cryoden: Two images would both be written as x.mrc; rename one of them."


@pytest.mark.parametrize("words", [["--sigma", "-1"], ["--dose", "0"], ["--pairs", "0"], ["--size", "10"]])
def test_options_out_of_range(cryoden: Any, words: list) -> None:
    result = cryoden("simulate", "pairs", "--output", "out", *words)
    assert result.status == 2
    assert words[0] in result.last_error
