from __future__ import annotations

from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import starfile

from cryoden.formats.star import read_table
from tests.helpers import Result, images_in, leftovers, read_mrc, write_mrc, write_raw_mrc

Run = Callable[..., Result]


def movie(path: Path, n: int = 5, rate: float = 1.5, seed: int = 1) -> np.ndarray:
    frames = np.random.default_rng(seed).integers(0, 120, (n, 30, 40))
    write_raw_mrc(path, frames, 6, rate=rate)
    return frames


def test_odd_plus_even_is_full_and_all_are_exact(tmp_path: Path, cryoden: Run) -> None:
    frames = movie(tmp_path / "m.mrc")
    assert cryoden("halves", "m.mrc", "--output", "out").status == 0
    full, odd, even = (read_mrc(tmp_path / "out" / kind / "m.mrc") for kind in ("full", "odd", "even"))
    np.testing.assert_array_equal(odd + even, full)
    np.testing.assert_array_equal(full, frames.sum(axis=0))


def test_tables_list_the_sums_relative_to_the_working_folder(tmp_path: Path, cryoden: Run) -> None:
    movie(tmp_path / "b.mrc")
    movie(tmp_path / "a.mrc")
    assert cryoden("halves", "b.mrc", "a.mrc", "--output", "out", "--voltage", 200).status == 0
    assert read_table("out/micrographs.star").paths == ["out/full/b.mrc", "out/full/a.mrc"]
    assert read_table("out/odd/micrographs.star").paths == ["out/odd/b.mrc", "out/odd/a.mrc"]
    optics = starfile.read("out/micrographs.star")["optics"]
    row = optics if isinstance(optics, dict) else optics.iloc[0]
    assert (float(row["rlnMicrographPixelSize"]), float(row["rlnVoltage"])) == (1.5, 200.0)


@pytest.mark.parametrize(
    ("option", "label", "value"),
    [
        ("--voltage", "rlnVoltage", 120.0),
        ("--spherical-aberration", "rlnSphericalAberration", 0.01),
        ("--amplitude-contrast", "rlnAmplitudeContrast", 0.07),
        ("--sampling-rate", "rlnMicrographPixelSize", 2.25),
    ],
)
def test_optics_options_reach_the_table(tmp_path: Path, cryoden: Run, option: str, label: str, value: float) -> None:
    movie(tmp_path / "m.mrc")
    assert cryoden("halves", "m.mrc", "--output", "out", option, value).status == 0
    assert float(read_table("out/micrographs.star").optics[label].iloc[0]) == value


def test_movies_star_keeps_groups_and_columns(tmp_path: Path, cryoden: Run) -> None:
    movie(tmp_path / "a.mrc")
    movie(tmp_path / "b.mrc")
    Path("movies.star").write_text(
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnMicrographOriginalPixelSize\n_rlnVoltage\n1 0.8 300\n2 0.9 200\n"
        "data_movies\nloop_\n_rlnMicrographMovieName\n_rlnOpticsGroup\n_mine\na.mrc 2 x\nb.mrc 1 y\n"
    )
    assert cryoden("halves", "movies.star", "--output", "out").status == 0
    table = read_table("out/micrographs.star")
    assert [table.sampling_rate(row) for row in (0, 1)] == [0.9, 0.8]
    assert list(table.images["mine"]) == ["x", "y"]


def test_movies_of_two_pixel_sizes_keep_theirs_in_the_table(tmp_path: Path, cryoden: Run) -> None:
    movie(tmp_path / "a.mrc", rate=1.0)
    movie(tmp_path / "b.mrc", rate=2.0)
    if cryoden("halves", "a.mrc", "b.mrc", "--output", "out").status == 0:
        table = read_table("out/micrographs.star")
        assert [table.sampling_rate(row) for row in (0, 1)] == [1.0, 2.0]


@pytest.mark.parametrize(
    "options",
    [["--gain", "gain.mrc"], ["--dark", "gain.mrc"], ["--frames", "2-5"]],
    ids=lambda options: options[0],
)
def test_option_changes_the_sums(tmp_path: Path, cryoden: Run, options: list) -> None:
    movie(tmp_path / "m.mrc")
    write_mrc(tmp_path / "gain.mrc", np.random.default_rng(3).normal(1, 0.1, (30, 40)))
    cryoden("halves", "m.mrc", "--output", "plain")
    assert cryoden("halves", "m.mrc", "--output", "other", *options).status == 0
    assert not np.array_equal(read_mrc(Path("plain/full/m.mrc")), read_mrc(Path("other/full/m.mrc")))


def test_several_jobs_give_the_same_files_as_one(tmp_path: Path, cryoden: Run) -> None:
    names = [f"m{number}.mrc" for number in range(5)]
    for number, name in enumerate(names):
        movie(tmp_path / name, seed=number)
    assert cryoden("halves", *names, "--output", "one").status == 0
    assert cryoden("halves", *names, "--output", "three", "--jobs", 3).status == 0
    for name in names:
        assert Path("one/odd", name).read_bytes() == Path("three/odd", name).read_bytes()
    assert read_table("three/micrographs.star").paths == [f"three/full/{name}" for name in names]


def test_finished_movies_are_skipped(tmp_path: Path, cryoden: Run) -> None:
    movie(tmp_path / "m.mrc")
    cryoden("halves", "m.mrc", "--output", "out")
    before = Path("out/full/m.mrc").stat().st_mtime_ns
    assert cryoden("halves", "m.mrc", "--output", "out").status == 0
    assert Path("out/full/m.mrc").stat().st_mtime_ns == before


def test_movie_of_which_a_half_is_missing_is_split_again(tmp_path: Path, cryoden: Run) -> None:
    movie(tmp_path / "m.mrc")
    cryoden("halves", "m.mrc", "--output", "out")
    Path("out/odd/m.mrc").unlink()
    assert cryoden("halves", "m.mrc", "--output", "out").status == 0
    np.testing.assert_array_equal(
        read_mrc(Path("out/odd/m.mrc")) + read_mrc(Path("out/even/m.mrc")), read_mrc(Path("out/full/m.mrc"))
    )


def test_other_options_into_the_same_folder_are_refused(tmp_path: Path, cryoden: Run) -> None:
    movie(tmp_path / "m.mrc")
    cryoden("halves", "m.mrc", "--output", "out")
    result = cryoden("halves", "m.mrc", "--output", "out", "--frames", "1-4")
    assert result.status == 2
    assert result.last_error == (
        "cryoden: out holds halves made with other options (out/halves.json); choose another --output folder."
    )


def test_one_bad_movie_is_named_and_the_others_are_split(tmp_path: Path, cryoden: Run) -> None:
    movie(tmp_path / "good.mrc")
    movie(tmp_path / "bad.mrc")
    Path("bad.mrc").write_bytes(Path("bad.mrc").read_bytes()[:5000])
    result = cryoden("halves", "bad.mrc", "good.mrc", "--output", "out")
    assert result.status == 1
    assert result.last_error == (
        "cryoden: failed: bad.mrc: bad.mrc is truncated: its header promises 13024 bytes but it has 5000. "
        "Copy it again."
    )
    assert images_in(Path("out")) == [
        "even/good.mrc", "even/micrographs.star", "full/good.mrc", "micrographs.star", "odd/good.mrc",
        "odd/micrographs.star",
    ]  # fmt: skip
    assert read_table("out/micrographs.star").paths == ["out/full/good.mrc"]


def test_movie_that_fails_half_way_leaves_no_file(tmp_path: Path, cryoden: Run) -> None:
    frames = np.ones((4, 30, 40), np.float32)
    frames[3, 29, 39] = np.nan
    write_raw_mrc(tmp_path / "m.mrc", frames, 2)
    result = cryoden("halves", "m.mrc", "--output", "out")
    assert result.status == 2
    assert result.last_error == (
        "cryoden: None of 1 movies could be split; the first reason: Movie m.mrc has NaN or infinite pixels in "
        "frame 4; copy it again."
    )
    assert images_in(Path("out")) == []
    assert leftovers(Path("out")) == []


def test_movie_without_pixel_size_names_the_option(tmp_path: Path, cryoden: Run) -> None:
    write_raw_mrc(tmp_path / "m.mrc", np.ones((4, 8, 8)), 6, rate=0.0)
    result = cryoden("halves", "m.mrc", "--output", "out")
    assert result.status == 2
    assert result.last_error.endswith("Movie m.mrc does not say its pixel size; give it with --sampling-rate (A/px).")


def test_advice_can_be_followed_in_the_same_folder(tmp_path: Path, cryoden: Run) -> None:
    """A command that did nothing must not stand in the way of its correction."""
    write_raw_mrc(tmp_path / "m.mrc", np.ones((4, 8, 8)), 6, rate=0.0)
    assert cryoden("halves", "m.mrc", "--output", "out").status == 2
    assert cryoden("halves", "m.mrc", "--output", "out", "--sampling-rate", 1.1).status == 0


def test_two_movies_of_one_name(tmp_path: Path, cryoden: Run) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    movie(tmp_path / "a" / "m.mrc")
    movie(tmp_path / "b" / "m.mrc")
    result = cryoden("halves", "a/m.mrc", "b/m.mrc", "--output", "out")
    assert result.status == 2
    assert result.last_error == ("cryoden: a/m.mrc and b/m.mrc would both be written as m.mrc; rename one of them.")
    assert images_in(tmp_path / "out") == []


def test_movies_are_never_overwritten_by_their_sums(tmp_path: Path, cryoden: Run) -> None:
    (tmp_path / "run" / "full").mkdir(parents=True)
    movie(tmp_path / "run" / "full" / "m.mrc")
    before = Path("run/full/m.mrc").read_bytes()
    cryoden("halves", "run/full/m.mrc", "--output", "run")
    assert Path("run/full/m.mrc").read_bytes() == before


@pytest.mark.parametrize("word", ["", "none.mrc", "folder", "none.star"])
def test_movie_that_is_not_there_is_no_traceback(tmp_path: Path, cryoden: Run, word: str) -> None:
    (tmp_path / "folder").mkdir()
    result = cryoden("halves", word, "--output", "out")
    assert result.status == 2
    assert result.last_error.startswith("cryoden: ")


def test_star_file_without_movies_is_no_traceback(tmp_path: Path, cryoden: Run) -> None:
    Path("empty.star").write_text("data_movies\n\nloop_\n_rlnMicrographMovieName #1\n_rlnOpticsGroup #2\n\n")
    result = cryoden("halves", "empty.star", "--output", "out")
    assert result.status == 2
    assert result.last_error.startswith("cryoden: ")


@pytest.mark.parametrize("text", ["1:5", "0-4", "3-3", "5-2", "abc", "-3", "1-4-6"])
def test_malformed_frame_range(tmp_path: Path, cryoden: Run, text: str) -> None:
    movie(tmp_path / "m.mrc")
    result = cryoden("halves", "m.mrc", "--output", "out", f"--frames={text}")
    assert result.status == 2
    assert f"Frame range is {text!r}; it must be FIRST-LAST, counted from 1, with two frames or more" in " ".join(
        result.err.replace("│", " ").split()
    )
    assert not Path("out").exists()
