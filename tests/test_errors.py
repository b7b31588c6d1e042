"""Problems as the command line words them: one sentence for every remedy, nothing lost on the way through JSON."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from pathlib import Path
from typing import List, Type

import pytest

import cryoden
from cryoden.command_line import COMMANDS
from cryoden.errors import (
    COMMAND_LINE,
    CryodenError,
    ExistingResultsError,
    FileError,
    NothingDoneError,
    OptionError,
    Problem,
    Remedy,
    option_problem,
)
from cryoden.formats.outcome import FAILED, Ending, read_ending, read_failures, write_ending, write_failures
from cryoden.formats.progress_log import read_progress_logs

REMEDY = Remedy("set_to", "hot_pixels", "8")


def families(root: Type[CryodenError] = CryodenError) -> List[Type[CryodenError]]:
    """Return an error class and all that derive from it."""
    return [root, *(child for direct in root.__subclasses__() for child in families(direct))]


@pytest.mark.parametrize("action", sorted(COMMAND_LINE.actions))
def test_every_remedy_is_one_sentence_of_the_command_line(action: str) -> None:
    sentence = COMMAND_LINE.remedy(Remedy(action, "batch_size", "4"))
    assert sentence.endswith(".")
    assert "{" not in sentence
    is_about_an_option = "{option}" in COMMAND_LINE.actions[action]
    assert ("--batch-size" in sentence) == is_about_an_option
    assert (" 4." in sentence) == (action == "set_to")


def test_options_are_called_as_they_are_typed() -> None:
    assert COMMAND_LINE.option("gain_rotation") == "--gain-rotation"
    assert COMMAND_LINE.option("from_model") == "--from"


@pytest.mark.parametrize("command", COMMANDS)
def test_names_of_options_are_those_that_the_command_line_knows(command: str) -> None:
    for field in dataclasses.fields(COMMANDS[command][0]):
        typed = (field.metadata["name"] or field.name).replace("_", "-")
        assert COMMAND_LINE.option(field.name) == f"--{typed}"


def test_whole_problem_in_one_line() -> None:
    differences = {
        "quality": ("fast", "best"),
        "full_size": (False, True),
        "model": ("/a/m", "/b/m"),
        "odd": (None, "x"),
    }
    error = ExistingResultsError("h holds halves.", subject="h", remedy=Remedy("overwrite"), differences=differences)
    assert str(error) == (
        "h holds halves. These options differ: --quality (was fast, is now best) and --full-size (was No, is "
        "now Yes) and --model and --odd (was empty, is now x). Choose another --output folder, or give --overwrite."
    )


def test_broken_rules_begin_with_the_option() -> None:
    problems = [
        option_problem("crop", "is 8; it must be at least 32."),
        option_problem("from_model", "is missing.", REMEDY),
    ]
    error = OptionError(problems)
    assert str(error) == "Option --crop is 8; it must be at least 32. Option --from is missing. Give --hot-pixels 8."
    assert Ending.of_error(error).problems == tuple(problems)


def test_every_error_has_a_kind_of_its_own() -> None:
    for module in pkgutil.walk_packages(cryoden.__path__, "cryoden."):
        importlib.import_module(module.name)
    kinds = [kind.kind for kind in families()]
    assert len(set(kinds)) == len(kinds)
    assert {"option", "file", "full_disk", "existing_results", "locked", "nothing_done"} < set(kinds)


@pytest.mark.parametrize(
    "problem",
    [
        Problem("file", "a is truncated.", "a"),
        Problem("option", "is 3.", "tile", REMEDY),
        ExistingResultsError("x", remedy=Remedy("overwrite"), differences={"tile": (None, 64)}).problem,
    ],
)
def test_problems_travel_as_json(problem: Problem) -> None:
    assert Problem.from_dict(json.loads(json.dumps(problem.to_dict()))) == problem


def test_sentences_of_version_0_1_are_problems() -> None:
    problem = Problem.from_dict("mic_1.mrc is truncated; copy it again.")
    assert problem == Problem("error", "mic_1.mrc is truncated; copy it again.")
    assert problem.text() == "mic_1.mrc is truncated; copy it again."


def test_endings_travel(tmp_path: Path) -> None:
    failures = {
        "a.mrc": Problem("file", "a.mrc is truncated.", "a.mrc"),
        "b.mrc": Problem("pixel", "b.mrc is constant."),
    }
    ending = Ending.of_error(NothingDoneError("micrograph", "denoised", 2, failures))
    write_ending(tmp_path / "outcome.json", ending)
    assert read_ending(tmp_path / "outcome.json") == ending
    assert ending.status == FAILED
    assert ending.has("nothing_done")
    assert ending.has("pixel")
    assert not ending.has("full_disk")
    assert ending.problems[0].message.endswith("a.mrc is truncated.")
    write_failures(tmp_path, failures)
    assert read_failures(tmp_path) == failures


def test_no_outcome_is_none(tmp_path: Path) -> None:
    assert read_ending(tmp_path / "outcome.json") is None
    assert read_failures(tmp_path) == {}


def test_progress_logs_of_all_processes_without_lines_that_a_kill_cut_off(tmp_path: Path) -> None:
    lines = {"log.jsonl": '{"a": 1}\n{"a": 2', "log_1.jsonl": '{"a": 3}\n', "other.jsonl": '{"a": 4}\n'}
    for name, text in lines.items():
        (tmp_path / name).write_text(text)
    assert [record["a"] for record in read_progress_logs(tmp_path)] == [1, 3]


def test_remedy_that_no_front_end_knows_is_a_mistake_of_the_program() -> None:
    with pytest.raises(KeyError):
        COMMAND_LINE.remedy(Remedy("pray"))


def test_names_of_files_cannot_break_a_line_or_colour_a_terminal() -> None:
    error = FileError("a\nb\x1b[31m\u202e\ud800.mrc cannot be read.")
    assert str(error) == r"a\nb\x1b[31m\u202e\ud800.mrc cannot be read."
    assert str(FileError("Å/px, e/Å², µm, ±: ümläut, 日本.")) == "Å/px, e/Å², µm, ±: ümläut, 日本."
