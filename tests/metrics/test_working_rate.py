from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from cryoden.data.pairs import find_pairs
from cryoden.metrics.working_rate import MAX_PAIRS, choose_rate, spread_pairs, working_rate
from tests.helpers import write_mrc

SIDE = 384


def write_halves(
    folder: Path, rate: float, end_A: float, n: int = 3, snr: float = 0.3, water: bool = False, slope: float = 0.0
) -> None:
    """Write pairs whose halves have detail down to a period in common, and white noise each."""
    rng = np.random.default_rng(1)
    frequency = np.hypot(np.fft.fftfreq(SIDE, rate)[:, None], np.fft.rfftfreq(SIDE, rate))
    for number in range(n):
        spectrum = np.fft.rfft2(rng.standard_normal((SIDE, SIDE)))
        signal = np.fft.irfft2(spectrum * (frequency < 1 / end_A), s=(SIDE, SIDE))
        signal /= signal.std()
        if water:
            ring = np.fft.irfft2(spectrum * (abs(frequency - 1 / 3.7) < 0.01), s=(SIDE, SIDE))
            signal += ring / ring.std()
        for half in ("odd", "even"):
            noise = rng.standard_normal((SIDE, SIDE)) + slope * np.linspace(-1, 1, SIDE)
            write_mrc(folder / half / f"m{number}.mrc", 100 + np.sqrt(snr) * signal + noise, rate)


@pytest.mark.parametrize(("end_A", "lowest", "highest"), [(5.0, 2.1, 2.5), (6.5, 2.8, 3.3), (20.0, 4.0, 4.0)])
def test_what_correlates_is_kept(tmp_path: Path, end_A: float, lowest: float, highest: float) -> None:
    """Pixels half as wide as the finest detail, no finer than a ring's width; never coarser than the band needs."""
    write_halves(tmp_path, 1.0, end_A)
    chosen = choose_rate(spread_pairs("odd", "even"))
    assert isinstance(chosen.value, float)
    assert lowest <= chosen.value <= highest
    assert str(chosen) == f"{chosen.value:g} Å/px, from the FRC of the halves of 3 micrographs (full: 1 Å/px)"


@pytest.mark.parametrize(("rate", "end_A"), [(3.8, 20.0), (5.0, 20.0), (1.0, 2.05)])
def test_nothing_finer_than_the_micrographs_and_no_idle_cropping(tmp_path: Path, rate: float, end_A: float) -> None:
    write_halves(tmp_path, rate, end_A, snr=1.0)
    assert choose_rate(spread_pairs("odd", "even")).value == "full"


def test_water_is_not_pursued(tmp_path: Path) -> None:
    write_halves(tmp_path, 1.0, 20.0, water=True)
    assert choose_rate(spread_pairs("odd", "even")).value == 4.0


def test_ice_gradient_is_no_detail(tmp_path: Path) -> None:
    """Its jump at the edges would leak into all frequencies of both halves."""
    write_halves(tmp_path, 1.0, 20.0, slope=5.0)
    assert choose_rate(spread_pairs("odd", "even")).value == 4.0


def test_few_micrographs_are_looked_at(tmp_path: Path) -> None:
    write_halves(tmp_path, 5.0, 20.0, n=30)
    names = [pair.name for pair in spread_pairs("odd", "even")]
    assert len(names) == MAX_PAIRS
    listed = [pair.name for pair in find_pairs("odd", "even")[0]]
    assert [names[0], names[-1]] == [listed[0], listed[-1]]
    assert max(np.diff([listed.index(name) for name in names])) <= 5


def test_unusable_micrographs_do_not_matter(tmp_path: Path) -> None:
    write_halves(tmp_path, 1.0, 5.0)
    expected = choose_rate(spread_pairs("odd", "even")).value
    constant, broken = np.ones((SIDE, SIDE)), np.full((SIDE, SIDE), np.nan)
    for number, image in enumerate((constant, broken, broken[:50]), 3):
        write_mrc(tmp_path / "odd" / f"m{number}.mrc", image, 1.0)
        write_mrc(tmp_path / "even" / f"m{number}.mrc", constant, 1.0)
    chosen = choose_rate(spread_pairs("odd", "even"))
    assert (chosen.value, chosen.n_pairs) == (expected, 3)


def test_what_the_option_asks_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_halves(tmp_path, 1.0, 20.0)
    caplog.set_level(logging.INFO)
    assert working_rate(3.4, "odd", "even") == 3.4
    assert working_rate("full", "odd", "even") is None
    assert caplog.messages == []
    assert working_rate("auto", "odd", "even") == 4.0
    assert working_rate("auto", "odd", "even", known=2.5) == 2.5
    assert working_rate("auto", "odd", "even", known=0.7) == 4.0
    assert caplog.messages == [
        "Working pixel size: 4 Å/px, from the FRC of the halves of 3 micrographs (full: 1 Å/px).",
        "Working pixel size: 2.5 Å/px, that of the model to start from.",
        "Working pixel size: 4 Å/px, from the FRC of the halves of 3 micrographs (full: 1 Å/px).",
    ]
