"""Fetching from an archive on the loopback address that breaks connections and lies about sizes."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cryoden.fetch.empiar import spread
from tests.fetch.server import FOLDER, N_MOVIES, FakeArchive, entry, movie


def assert_all_here(archive: FakeArchive, *numbers: int) -> None:
    for number in numbers:
        assert (FOLDER / movie(number)).read_bytes() == archive.files[movie(number)]
    assert not list(Path("empiar").rglob("*.part"))


def test_dry_run_says_all_and_writes_nothing(archive: FakeArchive, fetch: Any) -> None:
    result = fetch("--dry-run", "--subset", 2, number="EMPIAR-10025")
    assert result.status == 0
    lines = result.out.splitlines()
    assert lines[0] == "EMPIAR-10025: A small protein (12.4 TB in all)"
    assert lines[2] == "* 2. raw movies: 5 x micrographs - multiframe, MRC, /data/movies"
    assert lines[3] == "  1.5 Å/px, 3 frames, 300 kV, 2.7 mm Cs, 53 e/Å²"
    assert lines[4] == "To download: 2 movies and 1 reference, 0.00 GiB; the archive gives no checksums."
    assert lines[6].startswith("  ascp ")
    assert "emp_ext2@fasp.ebi.ac.uk:/10025/data/movies ." in lines[6]
    assert "/empiar/world_availability/10025/data/movies" in lines[7]
    assert list(Path().iterdir()) == []


def test_everything_arrives_with_its_record(archive: FakeArchive, fetch: Any) -> None:
    result = fetch()
    assert result.status == 0, result.err
    assert result.out.endswith("5 of 5 movies are in empiar/EMPIAR-10025\n")
    assert_all_here(archive, *range(N_MOVIES))
    record = json.loads((FOLDER / "entry.json").read_text())
    assert record["movies"] == [movie(number) for number in range(N_MOVIES)]
    assert record["gains"] == ["data/CountRef_gain.mrc"]
    assert record["microscope"] == {"voltage": 300.0, "spherical_aberration": 2.7, "dose": 53.0}
    assert (record["imageset"]["sampling_rate"], record["imageset"]["n_frames"]) == (1.5, 3)
    assert not (FOLDER / "data/stacks").exists()
    before = archive.requests.copy()
    assert fetch().status == 0
    again = archive.requests - before
    assert not [path for (method, path) in again if method == "GET" and path.endswith(".mrc")]


def test_gain_reference_in_capitals_beside_the_movies(archive: FakeArchive, fetch: Any) -> None:
    archive.files["data/movies/GAIN.MRC"] = archive.files["data/CountRef_gain.mrc"]
    assert fetch("--subset", 1).out.endswith("1 of 1 movie is in empiar/EMPIAR-10025\n")
    record = json.loads((FOLDER / "entry.json").read_text())
    assert record["gains"] == ["data/CountRef_gain.mrc", "data/movies/GAIN.MRC"]


def test_subset_pattern_and_image_set(archive: FakeArchive, fetch: Any) -> None:
    assert fetch("--subset", 2).status == 0
    assert sorted(path.name for path in FOLDER.rglob("movie*.mrc")) == ["movie 0.mrc", "movie 2.mrc"]
    assert fetch("--pattern", "*4.mrc").status == 0
    assert sorted(path.name for path in FOLDER.rglob("movie*.mrc")) == ["movie 0.mrc", "movie 2.mrc", "movie 4.mrc"]
    assert fetch("--imageset", 1, "--dry-run").out.splitlines()[1].startswith("* 1. particles")
    assert spread("abcdefgh", 4) == ["a", "c", "e", "g"]
    result = fetch("--pattern", "*.eer")
    assert result.last_error == "cryoden: None of 7 files of EMPIAR-10025 in 'data/movies' matches '*.eer'."


def test_broken_connections_are_gone_on_with(archive: FakeArchive, fetch: Any) -> None:
    for number in range(N_MOVIES):
        archive.break_at[movie(number)] = 700  # of 1984 bytes
    assert fetch().status == 0
    assert_all_here(archive, *range(N_MOVIES))
    assert (movie(0), "bytes=700-") in archive.ranges
    assert (movie(0), "bytes=1400-") in archive.ranges


def test_a_server_without_ranges_starts_again(archive: FakeArchive, fetch: Any) -> None:
    archive.no_ranges = True
    part = FOLDER / (movie(1) + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 500)
    assert fetch().status == 0
    assert_all_here(archive, *range(N_MOVIES))


def test_what_an_earlier_run_left_is_gone_on_with(archive: FakeArchive, fetch: Any) -> None:
    archive.dead.update(movie(number) for number in range(N_MOVIES))
    archive.files[movie(3)], whole = archive.files[movie(3)][:900], archive.files[movie(3)]
    archive.lie[movie(3)] = len(whole) - 900
    archive.dead.remove(movie(3))
    result = fetch()
    assert result.status == 2
    assert "None of 5 movies could be fetched; the first reason: http" in result.last_error
    assert (FOLDER / (movie(3) + ".part")).stat().st_size == 900
    archive.dead.clear()
    archive.lie.clear()
    archive.files[movie(3)] = whole
    assert fetch().status == 0
    assert_all_here(archive, *range(N_MOVIES))
    assert (movie(3), "bytes=900-") in archive.ranges


def test_a_server_that_lies_about_sizes(archive: FakeArchive, fetch: Any) -> None:
    """Less than it said: half the file is kept for another try. More: nothing is kept. The others arrive."""
    archive.lie[movie(1)] = 50
    archive.lie[movie(2)] = -50
    result = fetch()
    assert result.status == 1
    lines = {line.split(": ")[2]: line for line in result.err.splitlines() if line.startswith("cryoden: failed: ")}
    assert "stopped after 1984 of 2034 bytes" in lines[movie(1)]
    assert "Give the same command again to go on; what is finished is kept." in lines[movie(1)]
    assert "should have 1934 bytes, as the server said, but it sent more; nothing of it is kept." in lines[movie(2)]
    assert not (FOLDER / movie(1)).exists()
    assert not (FOLDER / (movie(2) + ".part")).exists()
    assert_here = [number for number in range(N_MOVIES) if (FOLDER / movie(number)).exists()]
    assert assert_here == [0, 3, 4]
    assert json.loads((FOLDER / "entry.json").read_text())["movies"] == [movie(n) for n in (0, 3, 4)]
    failures = FOLDER / "failures.json"
    assert set(json.loads(failures.read_text())) == {movie(1), movie(2)}
    assert list(Path("empiar").iterdir()) == [FOLDER]
    assert fetch("--dry-run").status == 0
    assert json.loads(failures.read_text())


def test_checksums_of_the_archive_are_obeyed(archive: FakeArchive, fetch: Any) -> None:
    lines = [f"{hashlib.md5(archive.files[movie(n)]).hexdigest()}  grid/movie {n}.mrc" for n in range(4)]
    lines.append(f"{hashlib.sha256(b'else').hexdigest()} *grid/movie 4.mrc")
    archive.files["data/movies/md5sums.txt"] = "\n".join(lines).encode()
    result = fetch()
    assert result.status == 1
    assert "; 5 with checksums" in result.out.replace("GiB", "")
    assert "came with sha256" in result.last_error
    assert "it was damaged on the way and is not kept. Give the same command again" in result.last_error
    assert_all_here(archive, *range(4))
    assert not (FOLDER / movie(4)).exists()


def test_a_movie_that_is_none(archive: FakeArchive, fetch: Any) -> None:
    archive.files[movie(2)] = b"<html>not found, but 200</html>" * 100
    result = fetch()
    assert result.status == 1
    assert "is no MRC file: its header does not make sense." in result.last_error
    assert "The archive sent it so; it is kept as movie 2.mrc.bad." in result.last_error


def test_limit_of_files_side_by_side(archive: FakeArchive, fetch: Any) -> None:
    answer = archive.answer_file

    def slowly(*words: Any) -> None:
        time.sleep(0.05)
        answer(*words)

    archive.answer_file = slowly  # type: ignore[method-assign]
    fetch("--jobs", 2)
    assert archive.most_together == 2


def test_a_disk_that_is_too_small(archive: FakeArchive, fetch: Any) -> None:
    with mock.patch.object(shutil, "disk_usage", return_value=mock.Mock(free=5000)):
        result = fetch()
    assert result.status == 2
    assert "The files need 0.00 GiB more in empiar/EMPIAR-10025, but 0.00 GiB are free there." in result.last_error
    assert not Path("empiar").exists()


def test_an_entry_that_does_not_exist(archive: FakeArchive, fetch: Any) -> None:
    archive.entry = None
    result = fetch()
    assert result.status == 2
    assert result.last_error == (
        "cryoden: EMPIAR has no entry 10025; look for its number at https://www.ebi.ac.uk/empiar."
    )
    assert not Path("empiar").exists()


@pytest.mark.parametrize("answer", [b"<html>", b"{}", b"[]", b'{"EMPIAR-10025": {"title": "x"}}'])
def test_an_answer_that_makes_no_sense(archive: FakeArchive, fetch: Any, answer: bytes) -> None:
    archive.entry = answer
    result = fetch()
    assert result.status == 2
    assert "gives an answer that is no EMPIAR entry (" in result.last_error


def test_an_entry_without_movies_or_without_a_microscope(archive: FakeArchive, fetch: Any) -> None:
    archive.map_entry = {"nothing": 1}
    result = fetch("--dry-run")
    assert "1.5 Å/px, 3 frames, ? kV, ? mm Cs, ? e/Å²" in result.out
    archive.entry = entry(category="micrographs - single frame")
    assert fetch("--dry-run").last_error == (
        "cryoden: EMPIAR-10025 holds no movies, but micrographs - single frame, picked particles - single frame. "
        "Give --imageset."
    )
    assert (
        fetch("--imageset", 3).last_error == "cryoden: EMPIAR-10025 has 2 image sets, not 3. Choose another --imageset."
    )


def test_a_server_that_is_away(archive: FakeArchive, fetch: Any) -> None:
    fetch("--subset", 1)
    address = archive.address
    with mock.patch.object(FakeArchive, "address", "http://127.0.0.1:9", create=True):
        archive.__dict__.pop("address")
        result = fetch()
    archive.address = address
    assert result.status == 2
    assert result.last_error.startswith("cryoden: 127.0.0.1:9 cannot be reached (Connection refused); nothing that is")
    assert (FOLDER / movie(0)).is_file()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["empiar", "12"], "Option --entry is '12'; it must be the digits of an EMPIAR entry: 10025."),
        (["empiar", "10025", "--jobs", "9"], "Option --jobs is 9; it must be between 1 and 8."),
        (["empiar", "10025", "--api", "http://example.org"], "Option --api is 'http://example.org'; it must be an"),
        (["empiar", "10025", "--subset", "0"], "Option --subset is 0; it must be at least 1."),
    ],
)
def test_what_cannot_be_fetched(cryoden: Any, words: list, reason: str) -> None:
    result = cryoden("fetch", *words)
    assert result.status == 2
    assert result.last_error.startswith(f"cryoden: {reason}")
