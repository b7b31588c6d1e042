from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import starfile
import tifffile

from cryoden.formats import outputs
from cryoden.formats.star import read_table
from tests.eer import random_events, rendered, write_eer
from tests.helpers import ROOT, Result, images_in, leftovers, read_mrc, write_mrc, write_raw_mrc

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


def write_references(folder: Path) -> None:
    """Write a reference, the same rotated by 90 degrees, and shifts of movie m."""
    gain = np.random.default_rng(3).normal(1, 0.1, (30, 40))
    write_mrc(folder / "gain.mrc", gain)
    write_mrc(folder / "rotated.mrc", np.rot90(gain))
    (folder / "shifts").mkdir()
    rows = "".join(f"{n} {0.7 * n} {-0.4 * n}\n" for n in range(1, 6))
    (folder / "shifts" / "m.star").write_text(
        "data_global_shift\nloop_\n_rlnMicrographFrameNumber\n_rlnMicrographShiftX\n_rlnMicrographShiftY\n" + rows
    )


GAIN = ["--gain", "gain.mrc"]


@pytest.mark.parametrize(
    ("options", "other"),
    [
        ([], GAIN),
        ([], ["--dark", "gain.mrc"]),
        (GAIN, [*GAIN, "--gain-flip", "up-down"]),
        (GAIN, [*GAIN, "--gain-flip", "left-right"]),
        (GAIN, [*GAIN, "--gain-rotation", "180"]),
        (GAIN, ["--gain", "rotated.mrc", "--gain-rotation", "90"]),
        ([], ["--frames", "2-5"]),
        ([], ["--hot-pixels", "2"]),
        ([], ["--shifts", "shifts"]),
        ([], ["--dose-per-frame", "3"]),
        (["--dose-per-frame", "3"], ["--dose-per-frame", "3", "--initial-dose", "20"]),
        (["--dose-per-frame", "3"], ["--dose-per-frame", "3", "--voltage", "200"]),
    ],
    ids=lambda options: " ".join(options[-2:]),
)
def test_option_changes_the_sums(tmp_path: Path, cryoden: Run, options: list, other: list) -> None:
    movie(tmp_path / "m.mrc")
    write_references(tmp_path)
    assert cryoden("halves", "m.mrc", "--output", "plain", *options).status == 0
    assert cryoden("halves", "m.mrc", "--output", "other", *other).status == 0
    plain, full, odd, even = (
        read_mrc(Path(p)) for p in ("plain/full/m.mrc", *(f"other/{k}/m.mrc" for k in outputs.SUMS))
    )
    assert not np.array_equal(plain, full)
    np.testing.assert_array_equal(odd + even, full)


def test_rotated_references_are_rotated_back(tmp_path: Path, cryoden: Run) -> None:
    movie(tmp_path / "m.mrc")
    write_references(tmp_path)
    assert cryoden("halves", "m.mrc", "--output", "plain", *GAIN).status == 0
    assert (
        cryoden("halves", "m.mrc", "--output", "rotated", "--gain", "rotated.mrc", "--gain-rotation", 270).status == 0
    )
    assert Path("plain/odd/m.mrc").read_bytes() == Path("rotated/odd/m.mrc").read_bytes()


def test_tiff_from_the_bottom_is_the_mirrored_movie(tmp_path: Path, cryoden: Run) -> None:
    """With the same MRC gain, a TIFF movie read from the bottom is the MRC movie that was flipped into it."""
    frames = movie(tmp_path / "m.mrc")
    write_references(tmp_path)
    tifffile.imwrite("m.tif", frames[:, ::-1].astype(np.uint16), photometric="minisblack")
    assert cryoden("halves", "m.mrc", "--output", "mrc", *GAIN).status == 0
    assert cryoden("halves", "m.tif", "--output", "tif", *GAIN, "--flip-tiff", "--sampling-rate", 1.5).status == 0
    np.testing.assert_array_equal(read_mrc(Path("mrc/odd/m.mrc")), read_mrc(Path("tif/odd/m.mrc")))


def test_eer_options(tmp_path: Path, cryoden: Run) -> None:
    pytest.importorskip("imagecodecs", "2025.11.11")
    rng = np.random.default_rng(1)
    frames = [random_events(rng, (32, 48), 200) for _ in range(12)]
    write_eer(tmp_path / "m.eer", (32, 48), frames)
    write_mrc(tmp_path / "gain.mrc", 1 + np.arange(32.0 * 48).reshape(32, 48))
    words = ["halves", "m.eer", "--sampling-rate", 2.0, "--output"]
    assert cryoden(*words, "plain", "--eer-frames", 3).status == 0
    np.testing.assert_array_equal(read_mrc(Path("plain/odd/m.mrc")), rendered((32, 48), [*frames[0:4], *frames[8:12]]))
    # 200 electrons on 32 x 48 pixels of 4 A2 are 0.0326 e/A2 in a hardware frame: two to a frame
    assert cryoden(*words, "dose", "--eer-dose", 0.0651).status == 0
    assert json.loads(Path("dose/log.jsonl").read_text())["n_odd"] == 3
    assert cryoden(*words, "fine", "--eer-frames", 3, "--eer-sampling", "8K", *GAIN).status == 0
    fine, gain = rendered((32, 48), frames, 2), 1 + np.arange(32.0 * 48).reshape(32, 48)
    np.testing.assert_array_equal(read_mrc(Path("fine/full/m.mrc")), fine * np.kron(gain, np.ones((2, 2))))
    result = cryoden("halves", "m.eer", "--eer-dose", 1, "--output", "none")
    assert result.last_error.endswith("of m.eer cannot be found without its pixel size. Give --sampling-rate.")


def test_movies_of_another_number_of_frames_are_left_out(tmp_path: Path, cryoden: Run) -> None:
    movie(tmp_path / "whole.mrc", 5)
    movie(tmp_path / "short.mrc", 4)
    result = cryoden("halves", "whole.mrc", "short.mrc", "--expect-frames", 5, "--output", "out")
    assert result.status == 1
    assert "short.mrc has 4 frames, but every movie must have 5; its exposure" in result.last_error
    assert read_table("out/micrographs.star").paths == ["out/full/whole.mrc"]


def test_every_movie_is_a_line_of_the_log(tmp_path: Path, cryoden: Run) -> None:
    """In the file alone, with the reason of a failure, which stands in the last lines of stderr too."""
    movie(tmp_path / "m.mrc", 5)
    Path("bad.mrc").write_text("words")
    first = cryoden("halves", "m.mrc", "bad.mrc", "--output", "out")
    cryoden("halves", "m.mrc", "--output", "out")
    lines = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["split", "failed", "kept"]
    assert (lines[0]["n_odd"], lines[0]["n_even"], lines[0]["done"], lines[0]["of"]) == (3, 2, 1, 2)
    assert "bad.mrc is no MRC file" in lines[1]["reason"]
    assert not [line for line in first.err.splitlines() if line.startswith("{")]
    assert "%" not in first.err


def test_terminal_gets_a_bar_and_no_json(tmp_path: Path) -> None:
    movie(tmp_path / "m.mrc", 5)
    words = f"stty cols 80 rows 24; {sys.executable} -m cryoden halves m.mrc --output out"
    done = subprocess.run(
        ["script", "--quiet", "--return", "--command", words, "/dev/null"],
        capture_output=True, text=True, env=dict(os.environ, PYTHONPATH=str(ROOT)), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "1 of 1 movie" in done.stdout
    assert '"status"' not in done.stdout


def test_memory_bounds_the_jobs(tmp_path: Path, cryoden: Run, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.mrc", "b.mrc", "c.mrc"):
        movie(tmp_path / name)
    caplog.set_level("INFO")
    cryoden("halves", "a.mrc", "b.mrc", "c.mrc", "--output", "out", "--jobs", 3, "--memory", 0.4)
    assert "Processing 2 movies in parallel, not 3: each needs about 0.17 GiB of the 0.40 GiB" in caplog.text
    caplog.clear()
    cryoden("halves", "a.mrc", "b.mrc", "c.mrc", "--output", "all", "--jobs", 3, "--memory", 1)
    assert "in parallel" not in caplog.text


def test_shifts_that_are_missing_name_the_file(tmp_path: Path, cryoden: Run) -> None:
    movie(tmp_path / "m.mrc")
    movie(tmp_path / "n.mrc")
    write_references(tmp_path)
    result = cryoden("halves", "m.mrc", "n.mrc", "--shifts", "shifts", "--output", "out")
    assert result.status == 1
    assert result.last_error == (
        "cryoden: failed: n.mrc: shifts/n.star does not exist or is no file; shifts are in one STAR file for each "
        "movie."
    )


def test_gain_with_zeros_stops_before_the_first_movie(tmp_path: Path, cryoden: Run) -> None:
    movie(tmp_path / "m.mrc")
    gain = np.ones((30, 40))
    gain[3, 4] = 0
    write_mrc(tmp_path / "gain.mrc", gain)
    result = cryoden("halves", "m.mrc", "--output", "out", *GAIN, "--hot-pixels", "off")
    assert result.status == 2
    assert result.last_error.startswith("cryoden: Gain reference gain.mrc has 1 pixel of value 0, which would leave no")
    assert not Path("out").exists()
    assert cryoden("halves", "m.mrc", "--output", "out", *GAIN).status == 0


def test_one_bad_movie_among_a_hundred(tmp_path: Path, cryoden: Run) -> None:
    names = [f"m{number:03d}.mrc" for number in range(100)]
    for name in names:
        movie(tmp_path / name, 2)
    Path(names[57]).write_bytes(Path(names[57]).read_bytes()[:3000])
    result = cryoden("halves", *names, "--output", "out", "--jobs", 2)
    assert result.status == 1
    assert result.last_error.startswith("cryoden: failed: m057.mrc: m057.mrc is truncated")
    assert result.out.startswith("99 of 100 movies are split")
    assert len(read_table("out/micrographs.star").paths) == 99


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
        "cryoden: out/full/m.mrc was made with other options. These options differ: --frames (was empty, is "
        "now 1-4). Choose another --output folder."
    )


def test_another_voltage_is_another_option_only_where_it_weights(tmp_path: Path, cryoden: Run) -> None:
    movie(tmp_path / "m.mrc")
    for words, status in (((), 0), (("--dose-per-frame", 3), 2)):
        command = ("halves", "m.mrc", "--output", f"out{status}", *words)
        assert cryoden(*command).status == 0
        assert cryoden(*command, "--voltage", 200).status == status


def test_folder_instead_of_movies_is_named(tmp_path: Path, cryoden: Run) -> None:
    (tmp_path / "movies").mkdir()
    movie(tmp_path / "movies" / "m.mrc")
    result = cryoden("halves", "movies", "--output", "out")
    assert result.status == 2
    assert result.last_error.endswith("movies is a folder; name the files in it, such as movies/*.mrc.")


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
        "even/good.mrc", "even/micrographs.star", "full/good.mrc", "log.jsonl", "micrographs.star", "odd/good.mrc",
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
        "cryoden: The only movie could not be split: Movie m.mrc has NaN or infinite pixels in frame 4. Copy it again."
    )
    assert images_in(Path("out")) == ["log.jsonl"]
    assert leftovers(Path("out")) == []


def test_movie_without_pixel_size_names_the_option(tmp_path: Path, cryoden: Run) -> None:
    write_raw_mrc(tmp_path / "m.mrc", np.ones((4, 8, 8)), 6, rate=0.0)
    result = cryoden("halves", "m.mrc", "--output", "out")
    assert result.status == 2
    assert result.last_error.endswith("Movie m.mrc does not say its pixel size. Give --sampling-rate.")


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
    rule = "it must be FIRST-LAST, counted from 1, two frames or more, such as 1-40."
    assert result.last_error == f"cryoden: Option --frames is {text!r}; {rule}"
    assert not Path("out").exists()
