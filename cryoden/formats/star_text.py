"""STAR files as tables of text: blocks called `data_NAME`, each a loop of rows or a list of single values.

The tokens are RELION's (src/strings.cpp, nextTokenInSTAR): one that begins with a quotation mark ends at the same mark
before a blank, so that `o'b.mrc` is a name like others, and `#` begins a comment only where a token could begin. Names
of files need not be UTF-8. No other reader of STAR files that we know returns such names as they were written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping

import numpy as np
import pandas as pd

from cryoden.errors import FileError
from cryoden.formats.file_errors import PathLike, reading_errors, require_file
from cryoden.formats.files import whole_file
from cryoden.wording import counted

_TOKEN = re.compile(
    r"""
    [ \t]* (?:
        \#.*
        | ' (?P<single> (?: [^'] | '(?![ \t]|$) )* ) ' (?=[ \t]|$)
        | " (?P<double> (?: [^"] | "(?![ \t]|$) )* ) " (?=[ \t]|$)
        | (?P<bare> [^ \t]+ )
    )
    """,
    re.VERBOSE,
)

_NEEDS_QUOTES = re.compile(r"""$|['"#_;]|.*[ \t]|data_|loop_""", re.IGNORECASE)
"""How text begins that would be read as something else."""


@dataclass
class _Block:
    is_loop: bool = False
    columns: List[str] = field(default_factory=list)
    rows: List[List[str]] = field(default_factory=list)
    values: List[str] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """Return the table; single values make one row."""
        return pd.DataFrame(self.rows if self.is_loop else [self.values], columns=self.columns, dtype=str)


def read_blocks(path: PathLike, only_first: bool = False) -> Dict[str, pd.DataFrame]:
    """Read every block as a table of text; single values make a table of one row.

    Parameters
    ----------
    path
        The file.
    only_first
        Leave all blocks but the first unread, which for long files takes a fraction of the time.

    Raises
    ------
    FileError
        If the file cannot be read or is no text, a row has not one value for each column, or a column is there twice.
    """
    require_file(path)
    with reading_errors(path):
        content = Path(path).read_bytes()
    if b"\0" in content:
        raise FileError(f"{path} is no STAR file: it is no text. Check what it is.", subject=str(path))

    blocks: Dict[str, _Block] = {}
    block = _Block()
    for number, line in enumerate(content.decode("utf-8", "surrogateescape").lstrip("\ufeff").split("\n"), 1):
        text = line.strip(" \t\r")
        words = _tokens(text)
        if text.startswith("data_"):
            if blocks and only_first:
                break
            block = blocks[words[0][5:]] = _Block()
        elif text.startswith("loop_"):
            block.is_loop, block.columns, block.rows = True, [], []
        elif text.startswith("_") and not (block.is_loop and block.rows):
            block.columns.append(words[0][1:])
            if not block.is_loop:
                block.values.append(" ".join(words[1:]))
        elif words and block.is_loop:
            if len(words) != len(block.columns):
                raise FileError(
                    f"{path}, line {number}: {counted(len(words), 'value')} in a table of "
                    f"{counted(len(block.columns), 'column')}. Mend this line; text with blanks is written in "
                    "quotation marks.",
                    subject=str(path),
                )
            block.rows.append(words)

    for name, block in blocks.items():
        if len(set(block.columns)) < len(block.columns):
            raise FileError(f"{path}: block {name!r} has a column twice; check what wrote it.", subject=str(path))
    return {name: block.table() for name, block in blocks.items()}


def _tokens(line: str) -> List[str]:
    """Return the tokens of a line, without quotation marks and comments."""
    return [match[match.lastgroup] for match in _TOKEN.finditer(line) if match.lastgroup]


def write_blocks(path: PathLike, blocks: Mapping[str, pd.DataFrame], comment: str = "") -> None:
    """Write every table as a loop; text is quoted where needed, numbers that are not whole have six decimals.

    Parameters
    ----------
    path
        The file.
    blocks
        Name -> table.
    comment
        One line for people, at the top.

    Raises
    ------
    FileError
        If a text cannot stand in a STAR file, or as `whole_file`.
    """
    lines = [f"# {comment}"] if comment else []
    for name, table in blocks.items():
        lines += ["", f"data_{name}", "", "loop_"]
        lines += [f"_{column} #{number}" for number, column in enumerate(table.columns, 1)]
        lines += ["\t".join(map(_written, row)) for row in table.itertuples(index=False)]
        lines += [""]
    with whole_file(path) as temporary:
        temporary.write_bytes(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))


def _written(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return f"{value:.6f}" if np.isfinite(value) else "<NA>"
    return quoted(str(value))


def quoted(text: str) -> str:
    """Return a text as a token; raises FileError for a text that cannot be one."""
    if not re.search(r"[\n\r\0]", text):
        if not _NEEDS_QUOTES.match(text):
            return text
        for mark in "\"'":
            if not re.search(mark + r"[ \t]", text):
                return f"{mark}{text}{mark}"
    raise FileError(
        f"The name {text!r} cannot stand in a STAR file: it has a line break, or both quotation marks before blanks. "
        "Rename it.",
        subject=ascii(text),
    )
