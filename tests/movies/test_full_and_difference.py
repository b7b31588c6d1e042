"""Halves from full images and differences, as CryoCRAB stores them."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import numpy as np
import pytest

from cryoden.errors import PairError
from cryoden.movies.full_and_difference import full_kind, list_differences
from tests.helpers import Result, read_mrc, two_halves, write_mrc

Run = Callable[..., Result]


def write_pair(folder: Path, name: str, factor: float, noise: float = 2.0, seed: int = 1) -> tuple:
    """Write `NAME_full.mrc` (factor times the sum) and `NAME_diff.mrc`; return odd and even."""
    _, odd, even = two_halves((256, 256), seed, noise)
    write_mrc(folder / f"{name}_full.mrc", factor * (odd + even))
    write_mrc(folder / f"{name}_diff.mrc", odd - even)
    return odd, even


@pytest.mark.parametrize(("factor", "kind"), [(1.0, "sum"), (0.5, "mean")])
def test_sum_or_mean_is_found_out(tmp_path: Path, cryoden: Run, factor: float, kind: str) -> None:
    halves = [write_pair(tmp_path / "crab", f"m{n}", factor, seed=n + 1) for n in range(2)]
    fulls = [f"crab/m{n}_full.mrc" for n in range(2)]
    result = cryoden("halves", *fulls, "--difference", "crab", "--output", "h")
    assert "2 of 2 images are split" in result.out
    for number, (odd, even) in enumerate(halves):
        for half, expected in (("odd", odd), ("even", even), ("full", odd + even)):
            np.testing.assert_allclose(read_mrc(Path("h") / half / f"m{number}_full.mrc"), expected, atol=1e-5)
    assert f'"full_is": "{kind}"' in Path("h/log.jsonl").read_text()


@pytest.mark.parametrize("factor", [1 / 24, 0.75])
def test_neither_sum_nor_mean_is_asked(tmp_path: Path, cryoden: Run, factor: float) -> None:
    odd, _ = write_pair(tmp_path, "m", factor)
    words = ("halves", "m_full.mrc", "--difference", ".", "--output", "h")
    result = cryoden(*words)
    assert result.status == 2
    assert (
        "Nothing tells whether m_full.mrc is the sum or the mean of its halves: its noise has 0." in result.last_error
    )
    assert result.last_error.endswith("Give --full-is.")
    assert cryoden(*words, "--full-is", "mean").status == 0
    assert read_mrc(tmp_path / "h/odd/m_full.mrc").shape == odd.shape


def test_signal_does_not_make_a_mean_a_sum() -> None:
    _, odd, even = two_halves((256, 256), 3, 0.5)
    assert full_kind((odd + even) / 2, odd - even, "x") == "mean"


def test_difference_that_is_missing_or_of_another_size(tmp_path: Path, cryoden: Run) -> None:
    for name in "abc":
        write_pair(tmp_path, name, 1.0)
    (tmp_path / "a_diff.mrc").unlink()
    write_mrc(tmp_path / "b_diff.mrc", np.eye(64))
    result = cryoden("halves", *(f"{name}_full.mrc" for name in "abc"), "--difference", ".", "--output", "h")
    assert result.status == 1
    assert result.err.count("failed: ") == 2
    assert "a_full.mrc has no difference of its name in .; add it, or leave this image out." in result.err
    assert "b_full.mrc is 256 x 256 px but the difference b_diff.mrc is 64 x 64 px" in result.err


def test_differences_in_a_folder_of_their_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_mrc(tmp_path / "diff" / f"{name}.mrc", np.eye(40))
    assert list_differences("diff") == {"a": "diff/a.mrc", "b": "diff/b.mrc"}
    write_mrc(tmp_path / "diff" / "a.tif.mrc", np.eye(40))
    write_mrc(tmp_path / "diff" / "a_diff.mrc", np.eye(40))
    write_mrc(tmp_path / "diff" / "a_difference.mrc", np.eye(40))
    with pytest.raises(PairError, match=r"a_diff\.mrc and diff/a_difference\.mrc are both the difference of 'a'"):
        list_differences("diff")


def test_both_ways_exclude_each_other(cryoden: Run) -> None:
    result = cryoden("halves", "a.mrc", "--thin", "--difference", "d", "--output", "h")
    assert result.last_error == ("cryoden: Option --thin and a difference exclude each other. Leave out --difference.")
    result = cryoden("halves", "a.mrc", "--full-is", "sum", "--output", "h")
    assert result.last_error == "cryoden: Option --full-is has no meaning alone. Give --difference."
