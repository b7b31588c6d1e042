"""How a command ends: one line, a status, and an outcome, whatever happens."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Callable

import numpy as np
import pytest

from cryoden.formats import outputs
from cryoden.formats.outcome import read_ending
from cryoden.model import denoising, training
from cryoden.system.signals import Stopped
from tests.helpers import Result, write_mrc

Run = Callable[..., Result]


@pytest.fixture
def words(tmp_path: Path, make_model: Callable) -> list:
    write_mrc(tmp_path / "mic.mrc", np.random.default_rng(1).normal(size=(60, 70)))
    return ["denoise", "mic.mrc", "--model", make_model(), "--output", "out"]


def test_the_outcome_is_said_where_it_is_asked_for(cryoden: Run, words: list) -> None:
    assert cryoden(*words, "--outcome", "ended.json").status == 0
    assert json.loads(Path("ended.json").read_text())["status"] == "done"
    assert cryoden(*words, "--quality", "best", "--outcome", "ended.json").status == 2
    ending = read_ending("ended.json")
    assert ending is not None
    assert ending.problems[0].differences == {"quality": ("fast", "best")}


def test_broken_options_are_problems_of_the_outcome(cryoden: Run) -> None:
    Path("options.json").write_text(json.dumps({"micrographs": ["m"], "model": "m", "output": "o", "tile": 1}))
    assert cryoden("denoise", "--config", "options.json", "--outcome", "ended.json").status == 2
    content = json.loads(Path("ended.json").read_text())
    assert (content["kind"], content["subject"]) == ("option", "tile")
    assert content["message"] == "is 1; it must be at least 64."


def test_commands_without_a_folder_say_their_outcome_too(cryoden: Run) -> None:
    assert cryoden("patches", "verify", "nowhere", "--outcome", "ended.json").status == 2
    assert json.loads(Path("ended.json").read_text())["kind"] == "file"


def test_an_outcome_that_cannot_be_written_changes_nothing_else(cryoden: Run, words: list) -> None:
    result = cryoden(*words, "--outcome", "nowhere/ended.json")
    assert result.status == 0
    assert result.last_error.startswith("cryoden: warning: nowhere/ended.json cannot be written")


def test_an_error_that_nobody_foresaw_is_one_line(cryoden: Run, words: list, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(denoising, "list_micrographs", fail)
    Path("out").mkdir()
    result = cryoden(*words, "--outcome", "ended.json")
    assert result.status == 2
    path = Path("out") / outputs.TRACEBACK
    expected = f"cryoden: This should not have happened (ZeroDivisionError: division by zero); see {path}."
    assert result.last_error == expected
    assert "Traceback" not in result.err
    assert "in fail" in path.read_text()
    assert json.loads(Path("ended.json").read_text())["kind"] == "unexpected"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")])
def test_lack_of_memory_is_foreseen(
    cryoden: Run, words: list, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(denoising, "list_micrographs", fail)
    Path("out").mkdir()
    result = cryoden(*words)
    assert result.status == 2
    assert result.last_error == (
        "cryoden: The memory that is free does not suffice; free some, or compute where there is more; see "
        "out/traceback.txt."
    )


@pytest.mark.parametrize("name", ["", "  "])
def test_a_folder_has_a_name(cryoden: Run, words: list, name: str) -> None:
    before = sorted(path.name for path in Path().iterdir())
    result = cryoden(*words[:-1], name)
    assert result.status == 2
    assert result.last_error == "cryoden: Option --output is empty; it must name a folder."
    assert sorted(path.name for path in Path().iterdir()) == before


def test_names_have_no_nul(cryoden: Run, words: list) -> None:
    assert "Option --output is 'o\\x00ut'; no name has" in cryoden(*words[:-1], "o\0ut").last_error
    assert "Option --output is 'o\\ud800'; no name has" in cryoden(*words[:-1], "o\ud800").last_error
    assert "is 'r\\x00aw'; no name has" in cryoden("denoise", "r\0aw", *words[2:]).last_error


@pytest.mark.parametrize(("resume", "way_on"), [([], "with --resume "), (["--resume"], "")])
def test_a_stopped_training_says_what_goes_on(
    cryoden: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: list, way_on: str
) -> None:
    def stop(config: object) -> None:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(training, "train", stop)
    result = cryoden("train", "--odd", "odd", "--even", "even", "--output", "out", *resume, "--outcome", "ended.json")
    assert result.status == 143
    assert result.last_error == f"cryoden: Stopped; the same command {way_on}goes on from here."
    assert json.loads(Path("ended.json").read_text())["status"] == "stopped"
