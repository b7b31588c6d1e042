"""How a command ended, as data for whoever started it: `outcome.json` and `failures.json`."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

from cryoden import __version__
from cryoden.errors import CryodenError, NothingDoneError, Problem
from cryoden.formats import outputs
from cryoden.formats.file_errors import decoding_errors
from cryoden.formats.files import PathLike, read_json, write_json

DONE, SOME_FAILED, FAILED, STOPPED = "done", "some_failed", "failed", "stopped"


@dataclass(frozen=True)
class Outcome:
    """What a command did with its inputs.

    Attributes
    ----------
    n_inputs
        How many there were.
    failures
        Input -> why it was left out.
    warnings
        What is suspicious, in sentences.
    is_reported
        False in a process of several whose part another one reports.
    """

    n_inputs: int
    failures: Mapping[str, Problem] = field(default_factory=dict)
    warnings: Tuple[Problem, ...] = ()
    is_reported: bool = True

    @property
    def n_done(self) -> int:
        """Inputs that were processed now or before."""
        return self.n_inputs - len(self.failures)


FileState = Tuple[int, int]
"""Size of a file in bytes, and its time of change (ns)."""


def file_state(path: PathLike) -> FileState:
    """Return the state of a file; raises OSError where it is not there."""
    status = os.stat(str(path))
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Round:
    """Of a command that goes on: for which of its rounds an ending is.

    Attributes
    ----------
    number
        Counted from 1.
    process
        Number of the process.
    inputs
        Files that were looked at -> their states when the round began: it is done with them, or with later ones.
    """

    number: int
    process: int
    inputs: Mapping[str, FileState]


@dataclass(frozen=True)
class Ending:
    """Content of `outcome.json`.

    Attributes
    ----------
    status
        `done`, `some_failed` (and the rest is done), `failed` (nothing could be done), `stopped` (by a signal).
    problems
        Why it failed: one, or one for each broken rule of the options.
    items
        Inputs that were left out, and why.
    round
        The round that ended, of a command that goes on; of one that has ended since, its last one.
    """

    status: str
    problems: Tuple[Problem, ...] = ()
    items: Mapping[str, Problem] = field(default_factory=dict)
    round: Optional[Round] = None

    @classmethod
    def of(cls, failures: Mapping[str, Problem], round: Optional[Round] = None) -> Ending:
        """Return the ending of a command, or of a round of it, that came to its end."""
        return cls(SOME_FAILED if failures else DONE, (), dict(failures), round)

    @classmethod
    def of_error(cls, error: CryodenError, status: str = FAILED) -> Ending:
        """Return the ending of a command that an error ended."""
        return cls(status, tuple(error.problems), error.failures if isinstance(error, NothingDoneError) else {})

    def has(self, kind: str) -> bool:
        """Return whether a problem of a kind ended the command, or left an input out."""
        return any(problem.kind == kind for problem in (*self.problems, *self.items.values()))

    def to_dict(self) -> Dict[str, Any]:
        """Return the content of the file."""
        first = self.problems[0].to_dict() if self.problems else asdict(Problem("", ""))
        return {
            "version": __version__,
            "status": self.status,
            **first,
            "problems": [problem.to_dict() for problem in self.problems],
            "items": [{"name": name, **problem.to_dict()} for name, problem in self.items.items()],
            **({"round": asdict(self.round)} if self.round else {}),
        }


def write_ending(path: PathLike, ending: Ending, is_first_wins: bool = False) -> None:
    """Write an ending; where several processes may, the first one's stays.

    Parameters
    ----------
    path
        The file.
    ending
        Its content.
    is_first_wins
        Whether a file that is there is kept.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    if not (is_first_wins and os.path.exists(str(path))):
        write_json(path, ending.to_dict())


def read_ending(path: PathLike) -> Optional[Ending]:
    """Return how a command ended; None where it was killed before it could say so, or could not write.

    Raises
    ------
    FileError
        If the file is damaged.
    """
    if not Path(path).is_file():
        return None
    content = read_json(path)
    with decoding_errors(path, "the outcome of a command"):
        items = {str(item["name"]): Problem.from_dict(item) for item in content["items"]}
        problems = tuple(map(Problem.from_dict, content["problems"]))
        return Ending(str(content["status"]), problems, items, _round_of(content.get("round")))


def _round_of(content: Optional[Mapping[str, Any]]) -> Optional[Round]:
    """Return the round that an ending is for; raises KeyError, TypeError or ValueError where it is none."""
    if content is None:
        return None
    inputs = {str(path): (int(size), int(changed_ns)) for path, (size, changed_ns) in content["inputs"].items()}
    return Round(int(content["number"]), int(content["process"]), inputs)


def write_failures(folder: PathLike, failures: Mapping[str, Problem]) -> None:
    """Write which inputs were left out of a folder's results, and why."""
    write_json(Path(folder) / outputs.FAILURES, {name: problem.to_dict() for name, problem in failures.items()})


def read_failures(folder: PathLike) -> Dict[str, Problem]:
    """Return what `write_failures` wrote, also by version 0.1; nothing where there is no such file.

    Raises
    ------
    FileError
        If the file is damaged.
    """
    path = Path(folder) / outputs.FAILURES
    if not path.is_file():
        return {}
    content = read_json(path)
    with decoding_errors(path, "a list of failures"):
        return {name: Problem.from_dict(problem) for name, problem in content.items()}
