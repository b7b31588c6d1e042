from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, Mapping

import numpy as np
import pytest

from cryoden.data.half_sources import list_halves
from cryoden.data.pair_reader import load_pair
from cryoden.data.pairs import HalfPair, check_correlation, find_pairs, hold_out
from cryoden.errors import FileError, PairError, Problem
from tests.helpers import RATE, Result, leftovers, two_halves, write_halves, write_mrc

Run = Callable[..., Result]


def said(failures: Mapping[str, Problem]) -> Dict[str, str]:
    """Return what is said of every micrograph that was left out."""
    return {name: problem.text() for name, problem in failures.items()}


@pytest.mark.parametrize(("odd", "even"), [("_odd", "_even"), ("_ODD", "_EVN"), ("-odd", "-even"), ("", "")])
def test_halves_find_each_other_by_name(tmp_path: Path, odd: str, even: str) -> None:
    for name in ("a", "b_7"):
        write_mrc(tmp_path / "o" / f"{name}{odd}.mrc", np.eye(40))
        write_mrc(tmp_path / "e" / f"{name}{even}.mrc", np.eye(40))
    pairs, failures = find_pairs("o", "e")
    assert [(p.name, p.odd, p.even) for p in pairs] == [
        (n, f"o/{n}{odd}.mrc", f"e/{n}{even}.mrc") for n in ("a", "b_7")
    ]
    assert not failures


@pytest.mark.parametrize(("odd", "even"), [("_ODD", "_EVN"), ("_odd", "_even")])
def test_halves_of_motioncor_lie_in_one_folder_with_full_sums(tmp_path: Path, odd: str, even: str) -> None:
    """MotionCor's folder: full, dose-weighted, odd and even; a movie that lost its even half is named, not shifted."""
    for name in ("a", "b", "c"):
        for mark in ("", "_DW", odd, even):
            write_mrc(tmp_path / "mc" / f"{name}{mark}.mrc", np.eye(40))
    (tmp_path / "mc" / f"b{even}.mrc").unlink()
    pairs, failures = find_pairs("mc", "mc")
    assert [(p.name, p.odd, p.even) for p in pairs] == [(n, f"mc/{n}{odd}.mrc", f"mc/{n}{even}.mrc") for n in "ac"]
    assert said(failures) == {"b": "'b' has an odd half but no even half in mc. Split its movie again, or remove it."}


def test_movies_whose_own_names_end_like_a_half(tmp_path: Path) -> None:
    """`cryoden halves` names the halves of mic_ODD.mrcs like the movie, in two folders."""
    for half in ("odd", "even"):
        for name in ("mic_ODD", "other"):
            write_mrc(tmp_path / half / f"{name}.mrc", np.eye(40))
    pairs, failures = find_pairs("odd", "even")
    assert [(p.name, p.odd, p.even) for p in pairs] == [
        ("mic", "odd/mic_ODD.mrc", "even/mic_ODD.mrc"),
        ("other", "odd/other.mrc", "even/other.mrc"),
    ]
    assert not failures


def test_halves_of_xmipp_have_one_name_in_two_folders(tmp_path: Path) -> None:
    """Leftovers on both sides, as many on each: by position every pair would be wrong."""
    for name in ("a", "c", "d"):
        write_mrc(tmp_path / "oddMics" / f"{name}.mrc", np.eye(40))
    for name in ("b", "c", "d"):
        write_mrc(tmp_path / "evenMics" / f"{name}.mrc", np.eye(40))
    pairs, failures = find_pairs("oddMics", "evenMics")
    assert [(p.name, Path(p.odd).name, Path(p.even).name) for p in pairs] == [(n, f"{n}.mrc", f"{n}.mrc") for n in "cd"]
    assert sorted(failures) == ["a", "b"]


def test_star_files_name_halves_too(tmp_path: Path) -> None:
    write_halves(tmp_path, 2, (40, 40))
    for half in ("odd", "even"):
        Path(f"{half}.star").write_text(
            f"data_micrographs\nloop_\n_rlnMicrographName\n{half}/mic0.mrc\n{half}/mic1.mrc\n"
        )
    assert [pair.name for pair in find_pairs("odd.star", "even.star")[0]] == ["mic0", "mic1"]


def test_own_column_pairs_halves_of_other_names(tmp_path: Path) -> None:
    write_mrc(tmp_path / "x.mrc", np.eye(40))
    write_mrc(tmp_path / "y.mrc", np.eye(40))
    for half, file in (("odd", "x.mrc"), ("even", "y.mrc")):
        Path(f"{half}.star").write_text(
            f"data_micrographs\nloop_\n_rlnMicrographName\n_cryodenName\n{file} same\n{file.upper()} {half}\n"
        )
    pairs, _ = find_pairs("odd.star", "even.star")
    assert [(p.name, p.odd, p.even) for p in pairs] == [("same", "x.mrc", "y.mrc")]


def test_missing_half(tmp_path: Path) -> None:
    write_halves(tmp_path, 3, (40, 40))
    (tmp_path / "even" / "mic1.mrc").unlink()
    (tmp_path / "odd" / "mic2.mrc").unlink()
    pairs, failures = find_pairs("odd", "even")
    assert [pair.name for pair in pairs] == ["mic0"]
    assert said(failures) == {
        "mic1": "'mic1' has an odd half but no even half in even. Split its movie again, or remove it.",
        "mic2": "'mic2' has an even half but no odd half in odd. Split its movie again, or remove it.",
    }


def test_halves_of_other_size(tmp_path: Path) -> None:
    write_halves(tmp_path, 1, (40, 40))
    write_mrc(tmp_path / "even" / "mic0.mrc", np.eye(30, 44))
    with pytest.raises(PairError) as caught:
        find_pairs("odd", "even")
    assert str(caught.value) == (
        "odd and even have no usable pair of halves; the first reason: Odd half of 'mic0' is 40 x 40 px but its even "
        "half is 44 x 30 px; both must come from one movie. Split this movie again."
    )


@pytest.mark.parametrize(("rate", "said"), [(2.0, "2"), (0.0, "0")])
def test_halves_of_other_pixel_size(tmp_path: Path, rate: float, said: str) -> None:
    write_halves(tmp_path, 2, (40, 40))
    write_mrc(tmp_path / "even" / "mic0.mrc", np.eye(40), rate)
    assert find_pairs("odd", "even")[1]["mic0"].text() == (
        f"The headers of the halves of 'mic0' say 4 and {said} Å/px; both must hold the same pixel size above 0. "
        "Split this movie again, or mend the headers."
    )


def test_micrographs_of_other_pixel_size(tmp_path: Path) -> None:
    write_halves(tmp_path, 2, (40, 40))
    for half in ("odd", "even"):
        write_mrc(tmp_path / half / "mic0.mrc", np.eye(40), 3.0)
    with pytest.raises(PairError) as caught:
        find_pairs("odd", "even")
    assert str(caught.value) == (
        "'mic0' has 3 Å/px but 'mic1' has 4; one model needs one sampling rate. Train on them separately, or "
        "at a common one. Give --sampling-rate."
    )


def test_same_folder_twice(tmp_path: Path) -> None:
    write_halves(tmp_path, 1, (40, 40))
    with pytest.raises(PairError, match=r"Both halves of 'mic0' are the same file odd/mic0\.mrc; give odd and even"):
        find_pairs("odd", "odd")


def test_two_files_of_one_name(tmp_path: Path) -> None:
    write_mrc(tmp_path / "o" / "a_odd.mrc", np.eye(40))
    write_mrc(tmp_path / "o" / "a.mrc", np.eye(40))
    with pytest.raises(PairError) as caught:
        list_halves("o")
    assert str(caught.value) == "o/a.mrc and o/a_odd.mrc are both the micrograph 'a'; names must be unique."


def test_source_that_is_neither_folder_nor_star() -> None:
    with pytest.raises(FileError) as caught:
        list_halves("none")
    assert str(caught.value) == "none is neither a folder nor a STAR file; micrographs are given as one of these."


def test_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "e").mkdir()
    with pytest.raises(PairError) as caught:
        find_pairs("o", "e")
    assert str(caught.value) == "o and e have no usable pair of halves; the first reason: both are empty."


def test_identical_images_are_refused() -> None:
    image = np.random.default_rng(1).normal(size=(50, 50)).astype(np.float32)
    with pytest.raises(PairError, match="Both halves of 'm' are the same image; the noise of odd and even must"):
        check_correlation("m", np.stack([image, 3 * image + 1]))


def test_uncorrelated_images_are_refused() -> None:
    with pytest.raises(PairError, match=r"The halves of 'm' do not correlate \(-?0\.\d{4}\); halves of one movie"):
        check_correlation("m", np.random.default_rng(1).normal(size=(2, 50, 50)).astype(np.float32))


def test_weakly_correlated_halves_are_accepted() -> None:
    _, odd, even = two_halves((300, 300), 1, 5.0)
    check_correlation("m", np.stack([odd, even]).astype(np.float32))


def some_pairs(n: int) -> list:
    return [HalfPair(f"m{i}", "", "", (100, 80), RATE, (100, 80)) for i in range(n)]


@pytest.mark.parametrize(("n", "fraction", "n_held_out"), [(10, 0.1, 1), (10, 0.3, 3), (2, 0.01, 1), (3, 0.99, 2)])
def test_fraction_of_the_micrographs_is_held_out(n: int, fraction: float, n_held_out: int) -> None:
    training, held_out = hold_out(some_pairs(n), fraction, np.random.default_rng(1))
    assert (len(training), len(held_out)) == (n - n_held_out, n_held_out)
    assert {p.name for p in training}.isdisjoint(p.name for p in held_out)


def test_one_micrograph_is_cut_in_two_parts_without_a_common_row(tmp_path: Path) -> None:
    training, held_out = hold_out(some_pairs(1), 0.1, np.random.default_rng(1))
    assert (training[0].rows, held_out[0].rows) == ((0, 75), (75, 100))


def test_part_of_a_micrograph_is_loaded_at_the_scale_of_the_whole(tmp_path: Path) -> None:
    write_halves(tmp_path, 1, (100, 80))
    pair = find_pairs("odd", "even")[0][0]
    training, held_out = hold_out([pair], 0.1, np.random.default_rng(1))
    whole = np.concatenate([load_pair(part).halves for part in (training[0], held_out[0])], axis=1)
    np.testing.assert_array_equal(whole, load_pair(pair).halves)


def damage(path: Path, how: str) -> str:
    """Damage a half; return what must be said about it."""
    image = np.random.default_rng(9).normal(size=(96, 96))
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:9000])
        return f"{path} is truncated: its header promises 37888 bytes but it has 9000. Copy it again."
    if how == "constant":
        write_mrc(path, np.full((96, 96), 5.0))
        return f"{path} cannot be used: nearly all pixels are 5; it holds no image. Leave it out."
    if how == "not finite":
        image[3, 3:5] = np.nan, np.inf
        write_mrc(path, image)
        return (
            f"{path} cannot be used: it has pixels that are NaN or infinite; every pixel must be a number. Remake it."
        )
    if how == "stack":
        write_mrc(path, np.ones((3, 96, 96), np.float32))
        return f"{path} holds 3 images; a micrograph is one. Movies are split into halves first."
    if how == "one pixel":
        image = np.zeros((96, 96))
        image[4, 4] = 1
        write_mrc(path, image)
        return f"{path} cannot be used: nearly all pixels are 0; it holds no image. Leave it out."
    write_mrc(path, image)
    return "The halves of 'mic0' do not correlate ("


HOWS = ["truncated", "constant", "not finite", "stack", "one pixel", "uncorrelated"]


@pytest.mark.parametrize("stream", [[], ["--stream", "--force"]], ids=["managed", "streaming"])
@pytest.mark.parametrize("how", HOWS)
def test_one_bad_half_is_named_and_training_goes_on(tmp_path: Path, cryoden: Run, how: str, stream: list) -> None:
    write_halves(tmp_path, 4)
    reason = damage(Path("odd/mic0.mrc"), how)
    result = cryoden(
        "train", "--odd", "odd", "--even", "even", "--output", "t", "--network", "cnn3", "--epochs", 1,
        "--crop", 32, "--seed", 2, *stream,
    )  # fmt: skip
    assert result.status == 1
    assert result.last_error.startswith(f"cryoden: failed: mic0: {reason}")
    assert Path("t/model.safetensors").is_file()


@pytest.mark.parametrize("how", HOWS)
def test_only_bad_halves_leave_nothing(tmp_path: Path, cryoden: Run, how: str) -> None:
    write_halves(tmp_path, 1)
    reason = damage(Path("odd/mic0.mrc"), how)
    result = cryoden("train", "--odd", "odd", "--even", "even", "--output", "t", "--network", "cnn3")
    assert result.status == 2
    assert reason in result.last_error
    assert not Path("t").exists()
    assert leftovers(tmp_path) == []
