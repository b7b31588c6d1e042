"""The folder that a command fills: its own while it runs, and at the end it says how the command ended."""

from __future__ import annotations

import functools
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping, TypeVar, cast

from cryoden.config.options import Options
from cryoden.errors import CryodenError, ExistingResultsError, FileError, Problem, Remedy
from cryoden.formats import outputs
from cryoden.formats.files import PathLike, remove_dead_temporaries
from cryoden.formats.outcome import STOPPED, Ending, write_ending, write_failures
from cryoden.system.locks import LOCK_NAME, FolderLock
from cryoden.system.ranks import rank
from cryoden.system.signals import Stopped

Command = TypeVar("Command", bound=Callable[..., Any])


def fills_folder(command: str, failures: Callable[[Any], Mapping[str, Problem]]) -> Callable[[Command], Command]:
    """Decorate the function of a command that is called with its options: its output folder is its own while it runs.

    Nobody else may fill it, what dead processes left there is removed, and how the command ended is left in
    `failures.json` and `outcome.json`. A folder that is made for a command which does nothing is removed again.

    Parameters
    ----------
    command
        What another command is told that wants the folder at the same time.
    failures
        Returns, from what the function returns, which inputs were left out.

    Raises
    ------
    FileError
        If nothing can be written there.
    LockedError
        If another command fills it.
    """

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def run(config: Options) -> Any:
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


def failures_of(result: Any) -> Mapping[str, Problem]:
    """Return the failures of an outcome."""
    return result.failures


@contextmanager
def _filling(path: Path, command: str) -> Iterator[Callable[[Mapping[str, Problem]], None]]:
    """Own a folder; give what is to be called with the failures when the command is done."""
    with FolderLock(path, f"cryoden {command}"):
        if rank() == 0:
            (path / outputs.OUTCOME).unlink(missing_ok=True)
            remove_dead_temporaries(path)

        def finish(failures: Mapping[str, Problem]) -> None:
            if rank() == 0:
                write_failures(path, failures)
                write_ending(path / outputs.OUTCOME, Ending.of(failures))

        try:
            yield finish
        except ExistingResultsError:
            raise  # what is there is not to be touched
        except CryodenError as error:
            _record(path, Ending.of_error(error))
            raise
        except Stopped:
            _record(path, Ending(STOPPED))
            raise


def _record(path: Path, ending: Ending) -> None:
    """Leave word of how a command ended, unless it did nothing here at all, or the disk does not allow it."""
    has_begun = any(file.name != LOCK_NAME for file in path.iterdir())
    if has_begun:
        with suppress(FileError):  # the error that ended the command is what counts
            write_ending(path / outputs.OUTCOME, ending, is_first_wins=True)


def require_own_folder(folder: PathLike, record: str, files: Iterable[PathLike] = ()) -> None:
    """Refuse a folder that holds what this command did not make.

    Parameters
    ----------
    folder
        The output folder.
    record
        Name of this command's record; where it is there, the folder is its own.
    files
        That the command will write, whatever its inputs are.

    Raises
    ------
    ExistingResultsError
        If another command filled the folder, or one of the files is there.
    """
    path = Path(folder)
    if (path / record).exists():
        return
    foreign = [path / other for other in outputs.RECORDS if (path / other).exists()]
    foreign += [Path(file) for file in files if Path(file).exists()]
    if foreign:
        raise ExistingResultsError(
            f"{foreign[0]} is there, and was not made by this command.",
            subject=str(foreign[0]),
            remedy=Remedy("other_folder"),
        )
