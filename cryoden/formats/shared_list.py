"""One list, several processes of a job: who does which items, and what came of all of them.

The output folder is all that the processes share. The first one holds the folder's lock, looks at what is finished, and
deals what is to be done (`DEALT`); each other one shows there that it lives (`rank_lock`). At its end each leaves its
part of the results (`part_name`) and waits until all others have done so or have died; of those that are left, the one
with the lowest number goes on with all parts::

    with SharedList(output, "cryoden denoise") as shared:
        mine = shared.share(names_of_all_that_is_to_be_done)
        ...
        gathered = shared.gather(part)
        if gathered is None:
            return  # another process writes the tables

One process alone goes the same way, without files.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Optional, Sequence, Tuple, Type

from cryoden.errors import FileError, LockedError, LostProcessError, Problem, Remedy
from cryoden.formats.file_errors import reading_errors
from cryoden.formats.files import PathLike, read_json, write_json
from cryoden.system.locks import STALE_SECONDS, LockWatch, held_token, rank_lock
from cryoden.system.ranks import job_name, n_ranks, rank

DEALT = ".cryoden.shares.json"
"""What is to be done, as the first process of a job dealt it; in the output folder while the job runs."""

LOOK_SECONDS = 0.1
"""Between two looks at what the others do."""

FIRST_SECONDS = STALE_SECONDS
"""A process that shows no sign of life for so long is not waited for."""

FOREIGN_SECONDS = 10.0
"""How long another command's lock may last until it counts for all processes of a job."""

LEAVING_SECONDS = 30.0
"""How long the process that goes on waits for the others to end, so that the folder is free when it ends."""


PARTS = ".cryoden.part_*.json"
"""Pattern of what the processes leave; see `part_name`."""


def part_name(number: int) -> str:
    """Return the file in which a process leaves its part of the results."""
    return f".cryoden.part_{number}.json"


@dataclass(frozen=True)
class Gathered:
    """What all processes made.

    Attributes
    ----------
    parts
        What each process gave that came to its end.
    lost
        Item that was dealt to a process which did not -> what became of that process.
    """

    parts: List[Any]
    lost: Dict[str, Problem]


class SharedList:
    """The part of one process in a list; a context manager.

    Parameters
    ----------
    folder
        Which the command fills. The first process holds its lock.
    command
        What other commands are told which want the folder.
    """

    def __init__(self, folder: PathLike, command: str) -> None:
        self._folder, self._command = Path(folder), command
        self._rank, self._n_ranks, self._job = rank(), n_ranks(), job_name()
        self._dealt: Optional[Dict[str, Any]] = None
        self._begun_s = time.monotonic()
        self._stack = ExitStack()

    def __enter__(self) -> SharedList:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._stack.close()

    # ------------------------------------------------------------------ who does what
    def share(self, names: Sequence[str]) -> List[str]:
        """Return what this process is to do of all that the first one found to be done.

        Parameters
        ----------
        names
            What this process finds to be done; those of the first one count.

        Raises
        ------
        LockedError
            If another command fills the folder.
        CryodenError
            If the first process ended before it dealt the list, or never began.
        """
        if self._rank == 0:
            self._clean()
        if self._n_ranks == 1:
            return list(names)
        if self._rank == 0:
            token = held_token(self._folder)
            self._dealt = {"job": self._job, "token": token, "n_ranks": self._n_ranks, "names": list(names)}
            write_json(self._folder / DEALT, self._dealt)
        else:
            with reading_errors(self._folder):
                self._dealt = self._wait_for_deal()
            self._stack.enter_context(rank_lock(self._folder, self._rank, self._command))
        self._begun_s = time.monotonic()
        return self._share_of(self._rank)

    def _share_of(self, number: int) -> List[str]:
        assert self._dealt is not None
        return self._dealt["names"][number :: self._n_ranks]

    def _wait_for_deal(self) -> Dict[str, Any]:
        """Return what the first process dealt. Raises as `share`."""
        watch = LockWatch(self._folder)
        begun_s = foreign_s = time.monotonic()
        was_there = False
        while True:
            sign, now_s = watch.look(), time.monotonic()
            if sign is not None and sign.is_alive and sign.job == self._job:
                was_there, foreign_s, begun_s = True, now_s, now_s
                dealt = self._read(DEALT)
                if dealt is not None and dealt.get("token") == sign.token:
                    return dealt
            elif was_there:
                raise LostProcessError(
                    "The first process of this job has ended before the others could begin; what it said tells why.",
                    subject=str(self._folder),
                )
            elif sign is None or not sign.is_alive:
                foreign_s = now_s
            elif now_s - foreign_s > FOREIGN_SECONDS:
                raise sign.error
            if now_s - begun_s > FIRST_SECONDS:
                raise LockedError(
                    f"The first of the {self._n_ranks} processes of this job has not begun to fill {self._folder} "
                    f"within {FIRST_SECONDS / 60:g} minutes; all of them must see this folder.",
                    subject=str(self._folder),
                    remedy=Remedy("continue"),
                )
            time.sleep(LOOK_SECONDS)

    # ------------------------------------------------------------------ what came of it
    def gather(self, part: Any) -> Optional[Gathered]:
        """Leave this process's part of the results and wait for the others; return all parts to the one that goes on.

        Parameters
        ----------
        part
            JSON types.

        Returns
        -------
        gathered
            None in the processes whose part another one goes on with.
        """
        if self._n_ranks == 1:
            return Gathered([part], {})
        assert self._dealt is not None
        write_json(self._folder / part_name(self._rank), {"token": self._dealt["token"], "part": part})

        parts, lost = self._wait_for_parts()
        if not parts or min(parts) != self._rank:
            return None
        self._wait_for_leaving([number for number in parts if number != self._rank])
        self._clean()
        problems = {number: self._lost_problem(number) for number in lost}
        return Gathered(
            [parts[number] for number in sorted(parts)],
            {name: problems[number] for number in lost for name in self._share_of(number)},
        )

    def _wait_for_parts(self) -> Tuple[Dict[int, Any], List[int]]:
        """Return the part of each process that left one, and the numbers of those that never will.

        Nothing is returned where another process has gone on already and cleaned up.
        """
        assert self._dealt is not None
        watches = {number: LockWatch(self._folder, number) for number in range(self._n_ranks)}
        was_there = {0}  # it dealt
        parts: Dict[int, Any] = {}
        lost: List[int] = []
        while True:
            for number in range(self._n_ranks):
                if number in parts or number in lost:
                    continue
                sign = watches[number].look()
                is_there = sign is not None and sign.is_alive and sign.job == self._job
                left = self._read(part_name(number))  # after the look: who ends well leaves it before its lock goes
                if left is not None and left.get("token") == self._dealt["token"]:
                    parts[number] = left["part"]
                elif is_there:
                    was_there.add(number)
                elif number in was_there or sign is not None or time.monotonic() - self._begun_s > FIRST_SECONDS:
                    lost.append(number)
            if len(parts) + len(lost) == self._n_ranks:
                return parts, lost
            if (self._read(DEALT) or {}).get("token") != self._dealt["token"]:
                return {}, []
            time.sleep(LOOK_SECONDS)

    def _wait_for_leaving(self, numbers: Sequence[int]) -> None:
        """Wait until the others' signs of life are gone: they would keep the next command from the folder."""
        watches = [LockWatch(self._folder, number) for number in numbers]
        begun_s = time.monotonic()
        while time.monotonic() - begun_s < LEAVING_SECONDS:
            signs = [watch.look() for watch in watches]
            if not any(sign is not None and sign.is_alive for sign in signs):
                return
            time.sleep(LOOK_SECONDS)

    def _lost_problem(self, number: int) -> Problem:
        message = f"Process {number + 1} of {self._n_ranks} ended before this was done."
        return LostProcessError(message, remedy=Remedy("continue")).problem

    def _read(self, name: str) -> Optional[Dict[str, Any]]:
        """Return the content of a file of the job; None where it is not there, or none of ours."""
        path = self._folder / name
        if not path.is_file():
            return None
        try:
            content = read_json(path)
        except FileError:  # removed meanwhile
            return None
        return content if isinstance(content, dict) else None

    def _clean(self) -> None:
        """Remove the files of this job, or of one that died here."""
        for path in (self._folder / DEALT, *self._folder.glob(PARTS)):
            with suppress(OSError):  # not there, or in the way of nobody
                path.unlink()
