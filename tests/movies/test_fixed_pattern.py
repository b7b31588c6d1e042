from __future__ import annotations

import json
from pathlib import Path
from typing import Callable, Optional

import numpy as np
import pytest

from cryoden.errors import FileError, Remedy
from cryoden.movies.fixed_pattern import FixedPattern
from tests.helpers import Result, two_halves, write_mrc, write_raw_mrc

Run = Callable[..., Result]
SHAPE = (200, 240)


def micrographs(folder: Path, n: int, pattern: Optional[np.ndarray] = None, seed: int = 1) -> FixedPattern:
    """Write halves with independent specimens and noise, and a common pattern; look at them."""
    halves = FixedPattern()
    for number in range(n):
        _, odd, even = two_halves(SHAPE, 1000 * seed + number, noise=2.0)
        common = 0 if pattern is None else pattern
        files = [write_mrc(folder / f"{kind}{number}.mrc", h + common) for kind, h in (("odd", odd), ("even", even))]
        halves.add(f"m{number}", *files)
    return halves


def test_what_is_found_is_what_all_pairs_give(tmp_path: Path) -> None:
    """The sums give the mean over all pairs of different micrographs, calculated one by one."""
    pattern = np.random.default_rng(9).standard_normal(SHAPE)
    halves = micrographs(tmp_path, 4, pattern)
    singles = []
    for number in range(4):
        one = FixedPattern()
        one.add("m", tmp_path / f"odd{number}.mrc", tmp_path / f"even{number}.mrc")
        singles.append(one.sums)
    pairs = [np.mean(a[0] * b[1]) for i, a in enumerate(singles) for j, b in enumerate(singles) if i != j]
    found = halves.found()
    assert found.shared_covariance == pytest.approx(np.mean(pairs), rel=1e-5)
    assert found.own_covariance == pytest.approx(np.mean([np.mean(s[0] * s[1]) for s in singles]), rel=1e-5)
    assert found.n_micrographs == 4


@pytest.mark.parametrize("seed", range(5))
def test_sound_micrographs_share_nothing(tmp_path: Path, seed: int) -> None:
    found = micrographs(tmp_path, 6, seed=seed).found()
    assert found.own_covariance > 0.05
    assert abs(found.deviations) < 5
    assert found.warnings(True) == []


def test_parts_of_several_processes_are_added(tmp_path: Path) -> None:
    """What each process found in its part is, added up, what one finds in all."""
    whole = micrographs(tmp_path, 4, np.random.default_rng(9).standard_normal(SHAPE))
    merged = FixedPattern()
    for numbers in ((0, 2), (1, 3)):
        part = FixedPattern()
        for number in numbers:
            part.add(f"m{number}", tmp_path / f"odd{number}.mrc", tmp_path / f"even{number}.mrc")
        merged.merge(part)
        merged.merge(part)  # what is known already does not count twice
    assert sorted(merged.names) == sorted(whole.names)
    assert all(name in merged for name in whole.names)
    assert merged.found().shared_covariance == pytest.approx(whole.found().shared_covariance)


def test_residual_gain_is_found_and_named(tmp_path: Path) -> None:
    found = micrographs(tmp_path, 6, 0.4 * np.random.default_rng(9).standard_normal(SHAPE)).found()
    assert found.is_fixed_pattern
    assert len(found.warnings(True)) == 1
    warning = found.warnings(True)[0]
    assert warning.message.startswith("A fixed pattern: ")
    assert "is the same in all 6 micrographs" in warning.message
    assert warning.remedy == Remedy("leave_out", "hot_pixels")
    assert warning.message.endswith("orientation, and have hot pixels replaced.")
    replaced = found.warnings(False)[0]
    assert replaced.remedy is None
    assert replaced.message.endswith("Check the gain reference and its orientation.")


def test_common_illumination_is_no_fixed_pattern(tmp_path: Path) -> None:
    slope = np.linspace(0, 10, SHAPE[1]) * np.ones(SHAPE)
    assert micrographs(tmp_path, 6, slope).found().warnings(True) == []


def test_halves_of_different_movies_are_named(tmp_path: Path) -> None:
    halves = micrographs(tmp_path, 3)
    halves.add("mixed", tmp_path / "odd0.mrc", tmp_path / "even1.mrc")
    assert halves.found().uncorrelated.keys() == {"mixed"}
    assert [warning.message for warning in halves.found().warnings(True)] == [
        "The halves of 1 of 4 micrographs do not correlate (mixed): they show nothing, or frames of different movies. "
        "Look at them before you train on them."
    ]


def test_saved_sums_are_continued(tmp_path: Path) -> None:
    halves = micrographs(tmp_path, 3)
    halves.save(tmp_path / "p.npz")
    again = FixedPattern.load(tmp_path / "p.npz")
    again.add("m0", tmp_path / "odd0.mrc", tmp_path / "even0.mrc")
    assert again.names == halves.names
    assert again.found().shared_covariance == pytest.approx(halves.found().shared_covariance, abs=1e-6)


@pytest.mark.parametrize("content", [b"words", b"", b"PK\3\4 cut off"])
def test_damaged_sums_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.npz").write_bytes(content)
    with pytest.raises(FileError, match=r"p\.npz cannot be read"):
        FixedPattern.load(tmp_path / "p.npz")


def test_command_reports_and_draws_a_residual_gain(tmp_path: Path, cryoden: Run) -> None:
    """Movies of a detector with gain, split without it, in two commands; with the gain nothing is wrong."""
    rng = np.random.default_rng(1)
    gain = rng.uniform(0.7, 1.4, SHAPE)
    write_mrc(tmp_path / "gain.mrc", gain)
    names = [f"m{number}.mrc" for number in range(4)]
    for number, name in enumerate(names):
        clean = 20 + 2 * two_halves(SHAPE, number)[0]
        write_raw_mrc(tmp_path / name, rng.poisson(clean / gain, (6, *SHAPE)), 6)
    assert cryoden("halves", *names[:3], "--output", "out").status == 0
    result = cryoden("halves", *names, "--output", "out")
    assert "cryoden: warning: A fixed pattern: " in result.err
    assert "The pattern: out/fixed_pattern.png" in result.out
    assert Path("out/fixed_pattern.png").stat().st_size > 10000
    sanity = json.loads(Path("out/sanity.json").read_text())
    assert (sanity["n_micrographs"], sanity["is_fixed_pattern"]) == (4, True)
    sound = cryoden("halves", *names, "--output", "sound", "--gain", "gain.mrc")
    assert "warning" not in sound.err
    assert not Path("sound/fixed_pattern.png").exists()
