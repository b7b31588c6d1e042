"""A command's folder is its own, and says how the command ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping, Optional

import numpy as np
import pytest

from cryoden.config.options import Config, option
from cryoden.errors import ExistingResultsError, FileError, LockedError, NothingDoneError, Problem, Remedy
from cryoden.formats import outputs
from cryoden.formats.outcome import read_ending, read_failures
from cryoden.formats.output_folder import fills_folder, require_own_folder
from cryoden.system.locks import LOCK_NAME
from tests.helpers import ROOT, Result, write_raw_mrc

FAILURES = {"a.mrc": Problem("pixel", "a.mrc is constant.", "a.mrc"), "b.mrc": Problem("file", "gone", "b.mrc")}


@dataclass(frozen=True)
class Job(Config):
    """A command that does what it is told."""

    output: str = option("out", help="Folder.")


def command(error: Optional[Exception] = None, failures: Mapping[str, Problem] = {}, is_writing: bool = True) -> None:
    """Run a command that writes a file, and then fails or leaves inputs out."""

    @fills_folder("try", dict)
    def run(config: Job) -> Mapping[str, Problem]:
        if is_writing:
            Path(config.output, "result").write_text("x")
        if error is not None:
            raise error
        return failures

    run(Job())


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_everything_was_done() -> None:
    command()
    ending = read_ending("out/outcome.json")
    assert ending is not None
    assert (ending.status, ending.problems, ending.items) == ("done", (), {})
    assert sorted(path.name for path in Path("out").iterdir()) == ["failures.json", "outcome.json", "result"]


def test_some_inputs_failed() -> None:
    command(failures=FAILURES)
    ending = read_ending("out/outcome.json")
    assert ending is not None
    assert ending.status == "some_failed"
    assert ending.items == FAILURES == read_failures("out")
    assert ending.has("pixel")
    assert not ending.has("full_disk")
    content = json.loads(Path("out/outcome.json").read_text())
    assert content["items"][0]["name"] == "a.mrc"
    assert set(content) >= {"status", "kind", "subject", "message", "remedy", "items"}


def test_nothing_could_be_done() -> None:
    with pytest.raises(NothingDoneError):
        command(NothingDoneError("micrograph", "tried", 2, FAILURES))
    ending = read_ending("out/outcome.json")
    assert ending is not None
    assert (ending.status, ending.problems[0].kind, ending.items) == ("failed", "nothing_done", FAILURES)
    assert not Path("out/failures.json").exists()


def test_nothing_could_be_done_after_a_run_that_left_out_others() -> None:
    command(failures={"other.mrc": FAILURES["a.mrc"]})
    with pytest.raises(NothingDoneError):
        command(NothingDoneError("micrograph", "tried", 2, FAILURES))
    assert read_failures("out") == FAILURES


def test_an_error_with_its_remedy() -> None:
    with pytest.raises(FileError):
        command(FileError("m.mrc has no pixel size.", subject="m.mrc", remedy=Remedy("set", "sampling_rate")))
    content = json.loads(Path("out/outcome.json").read_text())
    assert content["status"] == "failed"
    assert content["subject"] == "m.mrc"
    assert content["remedy"] == {"action": "set", "option": "sampling_rate", "value": None}


def test_the_last_ending_is_removed_at_the_start() -> None:
    command(failures=FAILURES)
    with pytest.raises(KeyboardInterrupt):
        command(KeyboardInterrupt())  # type: ignore[arg-type]
    assert read_ending("out/outcome.json") is None


def test_a_folder_in_which_nothing_was_done_is_not_left() -> None:
    with pytest.raises(FileError):
        command(FileError("no model"), is_writing=False)
    assert not Path("out").exists()


def test_what_is_there_is_not_touched() -> None:
    Path("out").mkdir()
    Path("out/mine").write_text("x")
    with pytest.raises(ExistingResultsError):
        command(ExistingResultsError("out/mine is there."), is_writing=False)
    assert [path.name for path in Path("out").iterdir()] == ["mine"]


HOLDER = """
import sys, time
from cryoden.system.locks import FolderLock
with FolderLock("out", "cryoden denoise"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_only_one_command_fills_a_folder() -> None:
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, env=environment)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=rf"out .*{holder.pid}.*cryoden denoise"):
            command()
        assert [path.name for path in Path("out").iterdir()] == [LOCK_NAME]
    finally:
        holder.kill()
        holder.communicate()
    command()
    assert Path("out/result").exists()


def test_errors_of_0_1_are_read() -> None:
    Path("out").mkdir()
    Path("out/failures.json").write_text('{"a.mrc": "a.mrc is constant."}')
    assert read_failures("out")["a.mrc"].text() == "a.mrc is constant."


@pytest.mark.parametrize("name", [outputs.HALVES_RECORD, outputs.CHECKPOINT, outputs.MANIFEST, "micrographs.star"])
def test_the_folder_of_another_command_is_refused(name: str) -> None:
    Path("out").mkdir()
    Path("out", name).write_text("{}")
    with pytest.raises(ExistingResultsError, match=f"out/{name} is there, and was not made by this command"):
        require_own_folder("out", outputs.DENOISE_RECORD, ["micrographs.star"])
    Path("out", outputs.DENOISE_RECORD).write_text("{}")
    require_own_folder("out", outputs.DENOISE_RECORD, ["micrographs.star"])


# ------------------------------------------------------------------ what is no file, in the place of one
@pytest.mark.parametrize(
    "name", [LOCK_NAME, "log.jsonl", "outcome.json", "halves.results.jsonl", "training_status.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_named_and_never_opened(name: str, kind: str) -> None:
    Path("out").mkdir()
    path = Path("out") / name
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda place: os.symlink("/dev/null", place)}[kind](str(path))
    with pytest.raises(FileError) as error:
        command()
    problem = error.value.problem
    assert problem.message == f"out/{name} is a {kind}, where a file of this command belongs."
    assert (problem.subject, problem.remedy) == (f"out/{name}", Remedy("other_folder"))
    assert os.listdir("out") == [name]


def test_a_command_ends_in_one_line_where_a_pipe_stands_for_its_log(cryoden: Callable[..., Result]) -> None:
    write_raw_mrc(Path("m.mrc"), np.arange(4 * 64).reshape(4, 8, 8), 1)
    assert cryoden("halves", "m.mrc", "--output", "out").status == 0  # the folder is its own
    Path("out/log.jsonl").unlink()
    os.mkfifo("out/log.jsonl")
    result = cryoden("halves", "m.mrc", "--output", "out")
    assert result.status == 2
    assert result.last_error == (
        "cryoden: out/log.jsonl is a pipe, where a file of this command belongs. Choose another --output folder."
    )
