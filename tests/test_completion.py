"""What bash and zsh complete, asked of the shells themselves."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Callable, List

import pytest

from cryoden.command_line import COMMANDS, GROUPS
from cryoden.completion import completion_script
from tests.helpers import Result, python

KINDS = {command: kind for command, (kind, _) in COMMANDS.items()}

NEITHER = "<no files>"
"""Stands for values of which a shell knows nothing."""

Complete = Callable[..., List[str]]


@pytest.fixture(params=["bash", "zsh"])
def complete(request: pytest.FixtureRequest, tmp_path: Path) -> Complete:
    """Return what gives the words that a shell offers for the last of some words; nothing where it takes files."""
    shell = shutil.which(request.param)
    if shell is None:
        pytest.skip(f"there is no {request.param} here")
    (tmp_path / "script").write_text(completion_script(request.param, KINDS, GROUPS))
    asked = {"bash": BASH, "zsh": ZSH}[request.param]

    def ask(*words: str) -> List[str]:
        command = [shell, *(["-f"] if request.param == "zsh" else []), "-c", asked, "ask", *words]
        result = subprocess.run(command, cwd=str(tmp_path), capture_output=True, text=True, timeout=20)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        lines = result.stdout.split("\n")[:-1]
        return lines if request.param == "bash" else offered_by_zsh(lines, *words[-2:])

    return ask


BASH = """
source ./script
compopt() { [[ "$1" == +o ]] && files=no; }
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); files=yes
_cryoden
(( ${#COMPREPLY[@]} )) && printf '%s\\n' "${COMPREPLY[@]}"
[[ $files == no && ${#COMPREPLY[@]} == 0 ]] && echo '<no files>'
true
"""

# The two functions that zsh's own completion is made of; here, they say what they are told.
ZSH = """
compdef() { true; }
_describe() { local -a given; given=("${(@P)2}"); print -rl -- $given; }
_arguments() { print -rl -- "$@"; }
source ./script
words=("$@") CURRENT=$#
_cryoden
"""


def offered_by_zsh(told: List[str], previous: str, current: str) -> List[str]:
    """Return what zsh makes of what its functions were told: `word:help`, or `--option[help]:value:action`."""
    options = dict(
        re.match(r"(--[\w-]+)\[.*?(?<!\\)\](.*)", line).groups()
        for line in told
        if line.startswith("--") and "[" in line
    )
    if options.get(previous):
        action = options[previous].rsplit(":", 1)[1]
        if action == "_files":
            return []
        return [word for word in action.strip("() ").split() if word.startswith(current)] or [NEITHER]
    words = list(options) if options else [line.split(":")[0] for line in told if not line.startswith("-s")]
    return [word for word in words if word.startswith(current)] if current.startswith("-") or not options else []


def test_commands_of_one_word_and_of_two(complete: Complete) -> None:
    assert complete("cryoden", "tr") == ["train"]
    assert set(complete("cryoden", "")) == {"--help", "--version", *(command.split()[0] for command in KINDS)}
    assert sorted(complete("cryoden", "simulate", "")) == ["movies", "pairs"]
    assert complete("cryoden", "patches", "v") == ["verify"]


def test_options_and_their_values(complete: Complete) -> None:
    assert complete("cryoden", "train", "--ne") == ["--network"]
    assert complete("cryoden", "train", "--network", "") == ["unet", "cnn3", "resunet"]
    assert complete("cryoden", "halves", "--hot-pixels", "o") == ["off"]
    assert complete("cryoden", "simulate", "movies", "--shape", "g") == ["globule"]
    assert complete("cryoden", "train", "--fr") == ["--from"]
    assert complete("cryoden", "halves", "a.mrc", "--gain-") == ["--gain-rotation", "--gain-flip"]
    assert complete("cryoden", "denoise", "--out") == ["--output", "--outcome"]


def test_files_are_offered_where_a_file_is_wanted(complete: Complete) -> None:
    for words in (["train", "--odd", "ha"], ["halves", "mo"], ["train", "--config", ""], ["simulate", "pairs", "a"]):
        assert complete("cryoden", *words) == [], words
    for words in (["train", "--epochs", ""], ["simulate", "movies", "--movies", ""]):
        assert complete("cryoden", *words) == [NEITHER], words


def test_bash_takes_an_equals_sign_for_a_word(tmp_path: Path) -> None:
    script = completion_script("bash", KINDS, GROUPS)
    ask = 'COMP_WORDS=(cryoden train --network = c); COMP_CWORD=4; _cryoden; echo "${COMPREPLY[@]}"'
    result = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True)
    assert result.stdout == "cnn3\n"


def test_script_comes_from_the_command_without_its_libraries(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    for name in ("torch", "pandas", "tyro", "matplotlib"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text(f"raise ImportError('{name} is blocked')\n")
    result = python(["-m", "cryoden", "--print-completion", "zsh"], tmp_path, blocked)
    assert result.returncode == 0, result.stderr
    assert result.stdout == completion_script("zsh", KINDS, GROUPS)


def test_other_shells_are_refused(cryoden: Callable[..., Result]) -> None:
    result = cryoden("--print-completion", "fish")
    assert result.status == 2
    assert result.last_error == "cryoden: Option --print-completion is 'fish'; it must be bash or zsh."
