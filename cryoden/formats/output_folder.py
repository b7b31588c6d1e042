"""The folder that a command fills: its own while it runs, and at the end it says how the command ended."""

from __future__ import annotations

import fnmatch
import functools
import os
import re
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, TypeVar, cast

from cryoden.config.options import Options
from cryoden.errors import CryodenError, ExistingResultsError, FileError, LockedError, Problem, Remedy
from cryoden.formats import outputs
from cryoden.formats.file_errors import reading_errors, writing_errors
from cryoden.formats.files import PathLike, remove_dead_temporaries
from cryoden.formats.outcome import STOPPED, Ending, read_ending, write_ending, write_failures
from cryoden.system.locks import LOCK_NAME, FolderLock
from cryoden.system.ranks import n_ranks, rank
from cryoden.system.signals import Stopped

Command = TypeVar("Command", bound=Callable[..., Any])

OPENED = (
    f"{LOCK_NAME}*", outputs.OUTCOME, outputs.FAILURES, outputs.LOGS, "*.results*.jsonl", outputs.TRAINING_STATUS,
    outputs.RUN_RECORD, *outputs.RECORDS,
)  # fmt: skip
"""Files in an output folder that are opened as they are found: who opens a pipe waits for ever."""


_IS_OPENED = re.compile("|".join(map(fnmatch.translate, OPENED))).match
"""Matches their names, of which a folder has tens of thousands beside it."""


def fills_folder(
    command: str, failures: Callable[[Any], Optional[Mapping[str, Problem]]], is_shared: bool = False
) -> Callable[[Command], Command]:
    """Decorate the function of a command that is called with its options: its output folder is its own while it runs.

    Nobody else may fill it, what dead processes left there is removed, and how the command ended is left in
    `failures.json` and `outcome.json`. A folder that is made for a command which does nothing is removed again.

    Parameters
    ----------
    command
        What another command is told that wants the folder at the same time.
    failures
        Returns, from what the function returns, which inputs were left out; None where another process says it.
    is_shared
        Whether several processes of a job can do the command together.

    Raises
    ------
    CryodenError
        If several are to do it that cannot.
    FileError
        If nothing can be written there.
    LockedError
        If another command fills it.
    """

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def run(config: Options) -> Any:
            if n_ranks() > 1 and not is_shared:
                raise CryodenError(
                    f"{n_ranks()} processes were started for cryoden {command}, which one does; start one."
                )
            if config.filled_folder is None:
                return function(config)
            with _filling(Path(config.filled_folder), command) as finish:
                result = function(config)
                finish(failures(result))
            return result

        return cast(Command, run)

    return decorate


def no_failures(result: Any) -> Mapping[str, Problem]:
    """Return that nothing was left out, of a command that does all or nothing."""
    return {}


def failures_of(result: Any) -> Optional[Mapping[str, Problem]]:
    """Return the failures of an outcome; None where another process says them."""
    return result.failures if result.is_reported else None


@contextmanager
def own_folder(path: Path, command: str) -> Iterator[None]:
    """Own a folder for longer than one command takes; raises as `fills_folder`."""
    _require_plain_files(path)
    with FolderLock(path, f"cryoden {command}"):
        yield


@contextmanager
def _filling(path: Path, command: str) -> Iterator[Callable[[Optional[Mapping[str, Problem]]], None]]:
    """Own a folder; give what is to be called with the failures when the command is done."""
    with own_folder(path, command):
        if rank() == 0:
            _remove_ending(path / outputs.OUTCOME)
            remove_dead_temporaries(path)

        def finish(failures: Optional[Mapping[str, Problem]]) -> None:
            if failures is not None:
                write_failures(path, failures)
                write_ending(path / outputs.OUTCOME, Ending.of(failures))

        try:
            yield finish
        except (ExistingResultsError, LockedError):
            raise  # what is there is not to be touched
        except CryodenError as error:
            _record(path, Ending.of_error(error))
            raise
        except Stopped:
            _record(path, Ending(STOPPED))
            raise


def _require_plain_files(folder: Path) -> None:
    """Refuse folders, pipes and devices in the place of the files that are opened.

    Raises
    ------
    FileError
        If there is one.
    """
    if not folder.is_dir():
        return
    with reading_errors(folder):
        names = sorted(filter(_IS_OPENED, os.listdir(str(folder))))
    for path in (folder / name for name in names):
        with suppress(OSError):  # gone meanwhile, or a link to nothing
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode):
                what = "folder" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device"
                raise FileError(
                    f"{path} is a {what}, where a file of this command belongs.",
                    subject=str(path),
                    remedy=Remedy("other_folder"),
                )


def _remove_ending(path: Path) -> None:
    """Remove what the command before left; refuse a file of this name that no command of ours wrote."""
    if not os.path.lexists(str(path)):
        return
    try:
        read_ending(path)
        is_ours = path.is_file()
    except FileError:
        is_ours = False
    if not is_ours:
        raise _foreign(path)
    with writing_errors(path):
        path.unlink()


def _record(path: Path, ending: Ending) -> None:
    """Leave word of how a command ended, unless it did nothing here at all, or the disk does not allow it."""
    has_begun = path.is_dir() and any(file.name != LOCK_NAME for file in path.iterdir())
    if has_begun:
        with suppress(FileError):  # the error that ended the command is what counts
            write_ending(path / outputs.OUTCOME, ending, is_first_wins=True)
            if ending.items and (path / outputs.FAILURES).exists():  # what the run before left out
                write_failures(path, ending.items)


def require_own_folder(folder: PathLike, record: str, files: Iterable[str], patterns: Iterable[str] = ()) -> None:
    """Refuse a folder that holds what this command did not make.

    Parameters
    ----------
    folder
        The output folder.
    record
        Name of this command's record; where it is there, the folder is its own.
    files, patterns
        Of what the command writes in the folder, beside its log, its failures and the lines of its record.

    Raises
    ------
    ExistingResultsError
        If another command filled the folder, or one of the files is there.
    """
    path = Path(folder)
    if (path / record).exists():
        return
    named = [path / name for name in (*outputs.RECORDS, outputs.FAILURES, *files)]
    there = [file for file in named if os.path.lexists(str(file))]
    for pattern in (outputs.LOGS, f"{Path(record).stem}.results*.jsonl", *patterns):
        there += sorted(path.glob(pattern))
    if there and not (path / record).exists():  # the first of several processes may have begun meanwhile
        raise _foreign(there[0])


def _foreign(path: Path) -> ExistingResultsError:
    return ExistingResultsError(
        f"{path} is there, and was not made by this command.", subject=str(path), remedy=Remedy("other_folder")
    )
