"""What goes wrong with one movie, or with the files around the movies, ends no list and loses no halves."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest

from cryoden.errors import Problem
from cryoden.formats import outputs
from cryoden.formats.files import read_json
from cryoden.formats.mrc import MrcStack, MrcWriter
from cryoden.formats.outcome import read_failures
from cryoden.formats.progress_log import ProgressLog
from cryoden.formats.star import read_table, write_global_shifts
from cryoden.movies.motion.stored_shifts import NOT_OBSERVED
from tests.helpers import Result, leftovers, read_mrc, write_mrc, write_raw_mrc

Run = Callable[..., Result]
NAMES = ("a.mrc", "b.mrc", "c.mrc")


@pytest.fixture
def movies(tmp_path: Path) -> List[str]:
    """Write three movies of six frames."""
    for seed, name in enumerate(NAMES):
        frames = np.random.default_rng(seed).integers(0, 120, (6, 30, 40))
        write_raw_mrc(tmp_path / name, frames, 6)
    return list(NAMES)


def fail_on_b(method: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """Return a method of a stack that fails for the second movie."""

    def failing(self: Any, *arguments: Any) -> Any:
        if self.path.name == "b.mrc":
            raise error
        return method(self, *arguments)

    return failing


def only_b_failed(result: Result) -> Problem:
    """Check that the others are split and listed; return why b is not."""
    assert result.status == 1
    assert result.out.startswith("2 of 3 movies are split")
    assert "Traceback" not in result.err
    assert read_table("out/micrographs.star").paths == ["out/full/a.mrc", "out/full/c.mrc"]
    assert leftovers(Path("out")) == []
    failures = read_failures("out")
    assert list(failures) == ["b.mrc"]
    return failures["b.mrc"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_disk_that_fails_while_a_movie_is_read(
    movies: List[str], cryoden: Run, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    preadv = os.preadv

    def read_or_fail(file: int, buffers: List[memoryview], offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{file}").endswith("/b.mrc"):
            raise OSError(number, os.strerror(number))
        return preadv(file, buffers, offset)

    monkeypatch.setattr(os, "preadv", read_or_fail)
    problem = only_b_failed(cryoden("halves", *movies, "--output", "out"))
    assert (problem.kind, problem.subject) == ("file", "b.mrc")
    assert problem.message.startswith(f"b.mrc cannot be read ({os.strerror(number)})")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO])
def test_a_movie_that_cannot_be_opened(
    movies: List[str], cryoden: Run, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    open_file = os.open

    def open_or_fail(path: str, *arguments: Any) -> int:
        if os.path.basename(path) == "b.mrc":
            raise OSError(number, os.strerror(number), path)
        return open_file(path, *arguments)

    monkeypatch.setattr(os, "open", open_or_fail)
    problem = only_b_failed(cryoden("halves", *movies, "--output", "out", "--jobs", 2))
    assert (problem.kind, problem.subject) == ("file", "b.mrc")
    assert problem.message.startswith(f"b.mrc cannot be read ({os.strerror(number)})")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OverflowError("much\n too large"),
            "b.mrc failed unexpectedly (OverflowError: much too large); see the log file.",
        ),
        (MemoryError("Unable to allocate 64 GiB"), "b.mrc does not fit into the memory that is free."),
    ],
)
def test_an_unexpected_error_is_that_movies_and_its_traceback_is_in_the_log(
    movies: List[str], cryoden: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    monkeypatch.setattr(MrcStack, "read_rows", fail_on_b(MrcStack.read_rows, error))
    problem = only_b_failed(cryoden("halves", *movies, "--output", "out"))
    assert (problem.kind, problem.message) == ("unexpected", message)
    line = log_lines()[1]
    assert (line["movie"], line["status"]) == ("b.mrc", "failed")
    assert "in failing\n    raise error" in line["traceback"]


def log_lines() -> List[Dict[str, Any]]:
    """Return what the log file says of every movie."""
    return [json.loads(line) for line in Path("out", outputs.LOG).read_text().splitlines()]


def test_a_gain_reference_that_cannot_be_read_for_a_while(
    movies: List[str], tmp_path: Path, cryoden: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale handle between the check of the reference and its last use is the failure of the movie that met it."""
    write_mrc(tmp_path / "gain.mrc", np.ones((30, 40)))
    read: List[str] = []
    preadv = os.preadv

    def read_or_fail(file: int, buffers: List[memoryview], offset: int) -> int:
        read.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}")))
        if read[-1] == "gain.mrc" and "b.mrc" in read and "c.mrc" not in read:
            raise OSError(errno.ESTALE, "Stale file handle")
        return preadv(file, buffers, offset)

    monkeypatch.setattr(os, "preadv", read_or_fail)
    problem = only_b_failed(cryoden("halves", *movies, "--output", "out", "--gain", "gain.mrc"))
    assert (problem.kind, problem.subject) == ("file", "gain.mrc")
    assert problem.message.startswith("gain.mrc cannot be read (Stale file handle)")


@pytest.mark.parametrize("size", ["-4", "nan", "inf", "1e-9", "words"])
def test_a_pixel_size_that_none_has_is_that_movies(movies: List[str], cryoden: Run, size: str) -> None:
    Path("movies.star").write_text(
        f"data_optics\nloop_\n_rlnOpticsGroup\n_rlnMicrographOriginalPixelSize\n1 0.8\n2 {size}\n"
        "data_movies\nloop_\n_rlnMicrographMovieName\n_rlnOpticsGroup\na.mrc 1\nb.mrc 2\nc.mrc 1\n"
    )
    problem = only_b_failed(cryoden("halves", "movies.star", "--output", "out"))
    assert (problem.kind, problem.subject) == ("file", "movies.star")
    assert problem.message.startswith(f"movies.star: optics group 2 has rlnMicrographOriginalPixelSize {size};")


def test_a_full_disk_keeps_what_is_split_and_the_rest_has_no_turn(
    movies: List[str], cryoden: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_written: List[int] = []
    write_rows = MrcWriter.write_rows

    def write_or_fail(self: MrcWriter, rows: np.ndarray) -> None:
        n_written.append(1)
        if len(n_written) > 3:  # the first movie's three sums fit
            raise OSError(errno.ENOSPC, "No space left on device")
        write_rows(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(MrcWriter, "write_rows", write_or_fail)
        result = cryoden("halves", *movies, "--output", "out")
    assert result.status == 1
    assert read_table("out/micrographs.star").paths == ["out/full/a.mrc"]
    failures = read_failures("out")
    assert {name: problem.kind for name, problem in failures.items()} == {"b.mrc": "full_disk", "c.mrc": "full_disk"}
    assert failures["c.mrc"].message == "The disk is full: it had no turn."
    assert failures["c.mrc"].remedy.action == "free_disk"
    assert leftovers(Path("out")) == []

    before = Path("out/full/a.mrc").stat().st_mtime_ns
    assert cryoden("halves", *movies, "--output", "out").status == 0
    assert Path("out/full/a.mrc").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", [outputs.PATTERN, outputs.SANITY])
def test_halves_count_where_their_sanity_check_cannot_be_saved(movies: List[str], cryoden: Run, name: str) -> None:
    assert cryoden("halves", *movies[:2], "--output", "out").status == 0
    Path("out", name).unlink()
    Path("out", name, "in the way").mkdir(parents=True)
    result = cryoden("halves", *movies, "--output", "out")
    assert result.status == 0
    assert "cryoden: warning: What the halves have in common was not saved: " in result.err
    assert len(read_table("out/micrographs.star").paths) == 3


def test_a_damaged_sanity_check_is_made_again(movies: List[str], cryoden: Run) -> None:
    assert cryoden("halves", *movies[:2], "--output", "out").status == 0
    Path("out", outputs.PATTERN).write_bytes(b"words")
    assert cryoden("halves", *movies, "--output", "out").status == 0
    assert read_json(Path("out", outputs.SANITY))["n_micrographs"] == 3


def test_sums_that_are_deleted_while_the_command_runs_are_in_no_star_file(
    movies: List[str], cryoden: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = ProgressLog.report

    def report_and_delete(self: ProgressLog, item: str, **facts: Any) -> None:
        report(self, item, **facts)
        if facts["movie"] == "b.mrc":
            Path("out/even/b.mrc").unlink()

    monkeypatch.setattr(ProgressLog, "report", report_and_delete)
    problem = only_b_failed(cryoden("halves", *movies, "--output", "out"))
    assert (problem.kind, problem.message) == ("file", "out/even/b.mrc was deleted while the command ran.")
    assert problem.remedy.action == "continue"


@pytest.mark.parametrize("kind", outputs.SUMS)
def test_files_that_this_command_did_not_make_are_not_overwritten(
    movies: List[str], tmp_path: Path, cryoden: Run, kind: str
) -> None:
    path = write_mrc(tmp_path / "out" / kind / "b.mrc", np.ones((30, 40)))
    before = path.read_bytes()
    result = cryoden("halves", *movies, "--output", "out")
    assert result.status == 2
    assert result.last_error == (
        f"cryoden: out/{kind}/b.mrc is there, and was not made by this command. Choose another --output folder."
    )
    assert path.read_bytes() == before
    assert not Path("out", outputs.HALVES_RECORD).exists()


def test_a_list_of_movies_is_not_overwritten_by_that_of_their_sums(movies: List[str], cryoden: Run) -> None:
    star = Path("micrographs.star")
    star.write_text("data_movies\nloop_\n_rlnMicrographMovieName\n_rlnOpticsGroup\na.mrc 1\n")
    before = star.read_text()
    result = cryoden("halves", "micrographs.star", "--output", ".")
    assert result.status == 2
    assert result.last_error.startswith("cryoden: micrographs.star would be overwritten by a result.")
    assert star.read_text() == before


def test_frames_that_the_motion_correction_did_not_use_are_not_summed(movies: List[str], cryoden: Run) -> None:
    used = {frame: (0.7 * frame, -0.4 * frame) for frame in range(2, 6)}
    unused = dict.fromkeys((1, 6), (NOT_OBSERVED, NOT_OBSERVED))
    Path("shifts").mkdir()
    write_global_shifts("shifts/a.star", {**unused, **used})
    words = ["halves", "a.mrc", "--shifts", "shifts", "--output"]
    assert cryoden(*words, "used").status == 0
    assert cryoden(*words, "asked", "--frames", "2-5").status == 0
    assert read_mrc(Path("used/full/a.mrc")).sum() < 5e5
    for kind in outputs.SUMS:
        assert Path("used", kind, "a.mrc").read_bytes() == Path("asked", kind, "a.mrc").read_bytes()

    result = cryoden(*words, "more", "--frames", "2-6")
    assert result.status == 2
    assert result.last_error.endswith(
        "shifts/a.star has no shift of frame 6: the motion correction did not use it. Every used frame needs one. "
        "Give --frames 2-5."
    )
