"""The help: groups of options, and what stands for their values."""

from __future__ import annotations

import dataclasses
import re
from typing import Callable, Dict, Type, get_type_hints

import pytest

from cryoden.command_line import COMMANDS
from cryoden.config import Options
from cryoden.config.metavars import TEXTS, UNITS, metavar_of
from cryoden.errors import option_name
from tests.helpers import Result

Run = Callable[..., Result]
KINDS: Dict[str, Type[Options]] = {command: kind for command, (kind, _) in COMMANDS.items()}


def help_of(cryoden: Run, command: str) -> str:
    return cryoden(*command.split(), "--help").out


def sections_of(help_text: str) -> Dict[str, str]:
    """Return heading -> what stands under it."""
    parts = re.split(r"^ ([a-z ]*options|[a-z ]*arguments) +\n -+ *$", help_text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


@pytest.mark.parametrize("command", KINDS)
def test_every_option_stands_under_one_heading(cryoden: Run, command: str) -> None:
    kind = KINDS[command]
    grouped = [name for names in kind.grouped().values() for name in names]
    assert sorted(grouped) == sorted(field.name for field in dataclasses.fields(kind))

    shown = sections_of(help_of(cryoden, command))
    positional = {field.name for field in dataclasses.fields(kind) if field.metadata["positional"]}
    for title, names in kind.grouped().items():
        for name in names:
            if name not in positional:
                assert re.search(rf"^ +{option_name(name)}\b", shown[f"{title} options"], re.MULTILINE), name
    assert "--config FILE.json" in shown["common options"]


def test_training_is_asked_in_the_order_of_its_questions(cryoden: Run) -> None:
    text = help_of(cryoden, "train")
    assert list(sections_of(text)) == [
        "options", "input and output options", "network options", "schedule options", "memory options",
        "advanced options", "common options",
    ]  # fmt: skip
    assert "Train a denoiser on odd and even micrographs" in text


def test_files_and_units_stand_for_values(cryoden: Run) -> None:
    text = help_of(cryoden, "train")
    for words in ("--odd DIR|STAR", "--output DIR", "--from auto|general|none|MODEL", "--minutes MIN", "--memory GiB"):
        assert words in text
    assert "usage: cryoden halves [-h] [HALVES OPTIONS] MOVIE|STAR|CS [MOVIE|STAR|CS ...]" in help_of(cryoden, "halves")
    assert "[IMAGE ...]" in help_of(cryoden, "simulate pairs").splitlines()[0]
    assert "--dose-per-frame e/Å²" in help_of(cryoden, "simulate movies")
    assert "(default: False)" not in text


def test_a_name_of_a_file_is_never_said_of_a_number() -> None:
    words = {
        (name, metavar_of(name, hint))
        for kind in KINDS.values()
        for name, hint in get_type_hints(kind).items()
        if name != "groups"
    }
    assert {("movies", "MOVIE|STAR|CS"), ("movies", "INT"), ("frames", "FIRST-LAST"), ("frames", "INT")} <= words
    names = {name for name, _ in words}
    assert not {*TEXTS, *UNITS} - names


def test_version_is_in_the_help(cryoden: Run) -> None:
    assert re.search(r"^ *cryoden --version +which version", cryoden("--help").out, re.MULTILINE)
