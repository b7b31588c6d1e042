"""What crosses the border between the command line and a form: data and names of files, never prose of either."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Set, Tuple

from cryoden.command_line import COMMANDS
from cryoden.errors import COMMAND_LINE
from cryoden.formats import outputs
from tests.helpers import ROOT

COMMAND_LINE_WORDS = re.compile(r"(?<![\w-])--[a-z]|`cryoden ")
"""An option, or a command: words that only the command line has."""

SPEAKERS = {"command_line.py", "parser.py", "completion.py", "__main__.py", "errors.py"}
"""The command line itself, and the module with its words (`COMMAND_LINE`)."""

OTHER_PROGRAMS = {
    ("cryoden/model/topaz.py", "--arch"): "argument of topaz",
    ("cryoden/model/topaz.py", "--device"): "argument of topaz",
    ("cryoden/model/topaz.py", "--output"): "argument of topaz",
    ("cryoden/fetch/empiar.py", "globus transfer --recursive "): "a command of Globus",
}
"""Strings that belong to other programs' command lines, and why they are no messages of ours."""

PATH_CALLS = {"join", "joinpath", "with_name", "Path", "_getExtraPath", "_filePath", "_getLogsPath", "_getPath"}
"""Functions to which parts of a path are given."""


def modules(package: str) -> List[Path]:
    """Return the modules of a package, without its tests."""
    return [path for path in sorted((ROOT / package).rglob("*.py")) if "tests" not in path.relative_to(ROOT).parts]


def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(path.read_text())


def docstrings(tree: ast.Module) -> Set[ast.AST]:
    """Return the strings that stand alone: docstrings of modules, classes, functions and attributes."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def help_texts(tree: ast.Module) -> Set[ast.AST]:
    """Return what stands in `help=`."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    given = (keyword.value for call in calls for keyword in call.keywords if keyword.arg == "help")
    return {node for value in given for node in ast.walk(value)}


def spoken(tree: ast.Module) -> Iterator[Tuple[int, str]]:
    """Yield line and text of every string that can reach a user; of an f-string, its fixed parts."""
    silent = docstrings(tree) | help_texts(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in silent:
            yield node.lineno, node.value


def options_in_messages() -> Dict[str, List[str]]:
    """Return module -> its strings that name an option or a command."""
    found: Dict[str, List[str]] = {}
    for path in modules("cryoden"):
        if path.name in SPEAKERS:
            continue
        module = str(path.relative_to(ROOT))
        for line, text in spoken(parsed(path)):
            if COMMAND_LINE_WORDS.search(text) and (module, text) not in OTHER_PROGRAMS:
                found.setdefault(module, []).append(f"{line}: {text}")
    return found


def result_names() -> Tuple[Set[str], Set[str]]:
    """Return the names of the files and of the folders that commands leave."""
    constants = {name: value for name, value in vars(outputs).items() if name.isupper()}
    words = {value for value in constants.values() if isinstance(value, str)}
    files = {word for word in words if "." in word}
    return files, words - files


def path_parts(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield the literal parts of every path that is put together."""
    for node in ast.walk(tree):
        parts: List[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.left, node.right]
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            parts = list(node.args) if name in PATH_CALLS else []
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part


def literal_results() -> Dict[str, List[str]]:
    """Return module -> names of results that it writes out instead of taking them from `outputs`."""
    files, folders = result_names()
    found: Dict[str, List[str]] = {}
    for path in [*modules("cryoden"), *modules("cryoden_scipion")]:
        if path == Path(outputs.__file__):
            continue
        tree = parsed(path)
        literal = [(line, text) for line, text in spoken(tree) if text in files]
        literal += [(part.lineno, part.value) for part in path_parts(tree) if part.value in folders]
        if literal:
            found[str(path.relative_to(ROOT))] = [f"{line}: {text}" for line, text in sorted(set(literal))]
    return found


def test_messages_name_no_option_and_no_command() -> None:
    assert options_in_messages() == {}


def remedies() -> Iterator[Tuple[str, str, Optional[str]]]:
    """Yield where a remedy is named, its action and its option, as far as they are written out."""
    for path in modules("cryoden"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Remedy":
                action, option = [*node.args, None, None][:2]
                if isinstance(action, ast.Constant):
                    name = option.value if isinstance(option, ast.Constant) else None
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", str(action.value), name


def test_remedies_name_known_actions_and_options() -> None:
    options = {field.name for config, _ in COMMANDS.values() for field in dataclasses.fields(config)}
    found = list(remedies())
    assert len(found) > 20
    assert [place for place, action, _ in found if action not in COMMAND_LINE.actions] == []
    assert [place for place, _, option in found if option is not None and option not in options] == []


def test_names_of_results_stand_in_one_place() -> None:
    assert literal_results() == {}


def test_border_is_seen() -> None:
    """What the two tests above look for is found where it stands."""
    message = ast.parse('raise FileError(f"{path} is there; give --overwrite.")')
    assert [text for _, text in spoken(message) if COMMAND_LINE_WORDS.search(text)] == [" is there; give --overwrite."]
    assert not list(spoken(ast.parse('"""Of `cryoden train`."""\noption(help="With --stream: " + "more.")')))
    places = ast.parse('a = output / "odd" / name\nb = self._getExtraPath("full")\nc = {"even": 1}')
    assert sorted(str(part.value) for part in path_parts(places)) == ["full", "odd"]
