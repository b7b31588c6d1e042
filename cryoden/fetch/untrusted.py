"""What a server says, before it is believed: text for a terminal, numbers, parts of JSON, names of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional, Union

from cryoden.errors import FileError, NetworkError, one_line

MOST_LETTERS = 300
"""Of a text that is shown."""

MOST_OF_ANYTHING = 1e12
"""No number of an entry is larger: images, pixels, volts."""


class BadAnswerError(NetworkError):
    """A server answers, but something else than what it was asked for; other questions may be answered well."""

    kind = "answer"


def printable(text: str) -> str:
    """Return a text in one line without anything that moves a cursor, colours, or turns the direction of writing."""
    shown = one_line(text[:MOST_LETTERS])
    return shown if len(text) <= MOST_LETTERS else f"{shown}..."


def part_of(value: Any, *keys: Union[str, int]) -> Any:
    """Return a part of nested JSON; None where a key is missing or something else stands on the way to it."""
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def positive_number(value: Any) -> Optional[float]:
    """Return a number above 0 that is given as number, text or {valueOf_: ...}; None where there is none."""
    given = part_of(value, "valueOf_") if isinstance(value, dict) else value
    if isinstance(given, bool):
        return None
    try:
        number = float(given)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 < number <= MOST_OF_ANYTHING else None


def path_below(text: str) -> str:
    """Return a path relative to the folder of an entry, in its plain form; archives begin it with a slash or not.

    Raises
    ------
    BadAnswerError
        If it leads out of that folder, or would not be the same on every system and in every terminal.
    """
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if any(part == ".." or "\\" in part or not part.isprintable() for part in parts):
        raise BadAnswerError(f"The archive names '{printable(text)}', which is no path inside the entry.")
    return "/".join(parts)


def place_below(folder: Path, name: str, *endings: str) -> Path:
    """Return where a file of an archive is written.

    Parameters
    ----------
    folder
        Of the entry.
    name
        The file's path below it, as the server says.
    endings
        Added to its name while it is incomplete or damaged.

    Raises
    ------
    BadAnswerError
        If the name leads out of the folder.
    FileError
        If a link in the folder leads out of it.
    """
    target = folder / path_below(name)
    try:
        inside = folder.resolve()
        places = [target.with_name(target.name + ending).resolve() for ending in ("", *endings)]
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        raise FileError(f"{target} cannot be written ({error}).", subject=name) from error
    if not all(inside in place.parents for place in places):
        raise FileError(f"{target} is not written: a link leads from there out of {folder}.", subject=name)
    return target
