"""Electrons of single exposures, dealt to two halves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import scipy.ndimage

from cryoden.errors import PixelError
from cryoden.movies.thinning import counts_of, thin
from tests.helpers import RATE, Result, clean_signal, read_mrc, write_mrc

Run = Callable[..., Result]


def exposure(mean: float = 20.0, side: int = 384, seed: int = 1) -> np.ndarray:
    """Return the counts of a specimen, int64."""
    expected = mean * np.exp(0.1 * clean_signal((side, side), seed, 4.0))
    return np.random.default_rng(seed).poisson(expected)


@pytest.mark.parametrize(("mean", "step", "dtype"), [
    (0.7, 1, np.uint8), (20, 1, np.int16), (20, 103.7, np.uint16), (20, 0.123, np.float32), (300, 1, np.float32),
    (20, 1, np.float16),
])  # fmt: skip
def test_counts_and_their_step_are_found(mean: float, step: float, dtype: type) -> None:
    counts = exposure(mean)
    stored = (np.rint(counts * step) if np.issubdtype(dtype, np.integer) else counts * step).astype(dtype)
    found, statistics = counts_of(stored, "x.mrc")
    np.testing.assert_array_equal(found, counts)
    assert statistics.step == pytest.approx(step, rel=1e-3)
    assert statistics.variance_over_mean == pytest.approx(1, abs=0.04)
    assert statistics.mean_count == pytest.approx(counts.mean(), rel=1e-3)


def test_hot_pixel_is_no_reason(tmp_path: Path) -> None:
    counts = exposure()
    counts[7, 9] = 60000
    np.testing.assert_array_equal(counts_of(counts.astype(np.uint16), "x.mrc")[0], counts)


def falcon() -> np.ndarray:
    """Return whole numbers of a detector that spreads each electron over its neighbours.

    Its grey scale is such that the variance of all pixels is their mean, as in counts.
    """
    counts = np.random.default_rng(5).poisson(200.0, (384, 384)).astype(float)
    spread = scipy.ndimage.gaussian_filter(counts, 0.45, mode="wrap")
    return np.rint(spread * spread.mean() / spread.var()).astype(np.int16)


REFUSED = {
    "interpolated": (
        lambda: scipy.ndimage.shift(exposure().astype(np.float32), 0.5, order=1, mode="wrap"),
        "the noise of its neighbouring pixels is correlated. Measured: smallest step 0.25,",
    ),
    "like a Falcon": (falcon, "the noise of its neighbouring pixels is correlated."),
    "averaged and gain-corrected": (
        lambda: (exposure() * np.random.default_rng(3).normal(1, 0.02, (384, 384)) / 40).astype(np.float32),
        "its values are no multiples of one step.",
    ),
    "dose-weighted": (
        lambda: np.fft.irfft2(
            np.fft.rfft2(exposure()) * np.exp(-2 * np.hypot(np.fft.fftfreq(384)[:, None], np.fft.rfftfreq(384)))
        ).astype(np.float32),
        "",
    ),
    "rounded grey values": (
        lambda: np.rint(exposure() * np.random.default_rng(3).normal(100, 5, (384, 384))).astype(np.uint16),
        "its noise is not that of counts. Measured: smallest step 1, 0 % of the pixels no multiple of it, variance "
        "over mean 1",
    ),
    "coincidence loss": (
        lambda: np.random.default_rng(2).binomial(40, 0.5, (384, 384)).astype(np.uint8),
        "its noise is not that of counts. Measured: smallest step 1, 0 % of the pixels no multiple of it, variance "
        "over mean 0.5",
    ),
    "background subtracted": (lambda: exposure().astype(np.float32) - 20, "it has values such as -"),
    "not a number": (lambda: np.where(np.eye(384) > 0, np.nan, 3.0), "it has values such as nan,"),
    "constant": (lambda: np.full((64, 64), 5), "the noise of its neighbouring pixels is correlated."),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_no_counts_is_refused_with_what_was_measured(name: str) -> None:
    make, why = REFUSED[name]
    with pytest.raises(PixelError) as caught:
        counts_of(make(), "x.mrc")
    assert str(caught.value).startswith(f"x.mrc cannot be dealt to two halves: {why}")


def test_falcon_is_refused_for_its_spectrum() -> None:
    """Variance over mean of its pixels, the usual test, is that of counts."""
    image = falcon()
    assert image.var() / image.mean() == pytest.approx(1, abs=0.01)
    with pytest.raises(PixelError) as caught:
        counts_of(image, "x.mrc")
    strongest_over_weakest = str(caught.value).split("weakest band of the noise ")[1].split()[0]
    assert float(strongest_over_weakest) > 1.5


@pytest.mark.parametrize("n_parts", [2, 16])
def test_parts_sum_up_and_are_independent(n_parts: int) -> None:
    counts = np.random.default_rng(1).poisson(20, (300, 300))
    parts = thin(counts, n_parts, np.random.default_rng(2))
    np.testing.assert_array_equal(parts.sum(axis=0), counts)
    assert parts.dtype == np.uint8
    assert parts[0].mean() == pytest.approx(20 / n_parts, rel=0.02)
    assert parts[0].var() == pytest.approx(20 / n_parts, rel=0.03)
    assert abs(np.corrcoef(parts[0].ravel(), parts[-1].ravel())[0, 1]) < 4 / 300


def test_command_deals_exposures_and_says_what_it_found(tmp_path: Path, cryoden: Run) -> None:
    """odd + even = full = the exposure; the same seed deals alike; an image that is refused ends no list."""
    for number in range(2):
        write_mrc(tmp_path / f"e{number}.mrc", 2.5 * exposure(seed=number + 1))
    write_mrc(tmp_path / "bad.mrc", np.random.default_rng(1).normal(100, 5, (384, 384)))
    words = ("halves", "--thin", "e0.mrc", "e1.mrc", "bad.mrc", "--seed", 7, "--output")
    result = cryoden(*words, "h")
    assert result.status == 1
    assert "2 of 3 images are split: h/micrographs.star" in result.out
    assert result.last_error.startswith("cryoden: failed: bad.mrc: bad.mrc cannot be dealt to two halves: its values")

    odd, even, full = (read_mrc(tmp_path / "h" / kind / "e0.mrc") for kind in ("odd", "even", "full"))
    np.testing.assert_array_equal(odd + even, full)
    np.testing.assert_allclose(full, read_mrc(tmp_path / "e0.mrc"), rtol=1e-6)
    assert not np.array_equal(odd, read_mrc(tmp_path / "h/odd/e1.mrc"))
    facts = json.loads(Path("h/log.jsonl").read_text().splitlines()[0])
    assert (facts["step"], facts["sampling_rate"]) == (pytest.approx(2.5), RATE)
    assert next(iter(json.loads(Path("h/halves.json").read_text())["runs"].values()))["options"]["seed"] == 7

    assert cryoden(*words, "again").status == 1
    np.testing.assert_array_equal(read_mrc(tmp_path / "again/odd/e0.mrc"), odd)
    assert cryoden("halves", "--thin", "e0.mrc", "--output", "other", "--seed", 8).status == 0
    assert not np.array_equal(read_mrc(tmp_path / "other/odd/e0.mrc"), odd)


def test_other_seed_in_a_finished_folder_is_refused(tmp_path: Path, cryoden: Run) -> None:
    write_mrc(tmp_path / "e.mrc", exposure())
    assert cryoden("halves", "--thin", "e.mrc", "--output", "h").status == 0
    assert cryoden("halves", "--thin", "e.mrc", "--output", "h").status == 0
    result = cryoden("halves", "--thin", "e.mrc", "--output", "h", "--seed", 2)
    assert result.status == 2
    assert "--seed (was 1, is now 2)" in result.last_error


def test_options_of_movies_have_no_meaning_for_exposures(cryoden: Run) -> None:
    result = cryoden("halves", "--thin", "e.mrc", "--output", "h", "--gain", "g.mrc")
    assert result.last_error == (
        "cryoden: Option --gain has no meaning for single images; it belongs to movies. Leave out --gain."
    )
