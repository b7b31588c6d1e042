"""One command fills a folder at a time: a lock that outlives no process and no machine.

The file system is all that the machines of a cluster share, so the lock is a file, and its time of change shows that
its holder lives. Every command that fills a folder holds the lock for as long as it runs::

    with FolderLock(config.filled_folder, "cryoden denoise"):
        ...
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Callable, Dict, Iterator, List, Optional, Tuple, Type, Union

import psutil

from cryoden.errors import FileError, FullDiskError, LockedError, Remedy
from cryoden.system.host import host_name, is_alive
from cryoden.system.ranks import job_name, rank

LOCK_NAME = ".cryoden.lock"
"""In the folder that a command fills, while it does."""

HEARTBEAT_SECONDS = 30.0
"""The holder touches its lock so often."""

STALE_SECONDS = 300.0
"""A lock that was not touched for so long is nobody's, where its holder cannot be looked for."""

START_TOLERANCE_SECONDS = 2.0
"""The start of a process, in seconds after that of its machine, is known up to rounding."""

NO_HARD_LINKS = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""What file systems without hard links answer when they are asked for one."""


RANK_LOCK = re.compile(re.escape(LOCK_NAME) + r"\.rank_\d+$")
"""Names of the signs of life of the other processes of a job, beside the lock that its first one holds for all."""

TRIES = 100
"""As often a lock is tried to be taken that is neither there nor can be made, as where its name is a broken link."""


class FolderLock:
    """Hold a folder, as a context manager; a folder that was made for it and stays empty is removed again.

    Of the ranks of one job the first holds it for all; as long as another of them lives (`rank_lock`), nobody else gets
    it either. Within one process it can be taken several times. A process that was forked from the holder does not give
    it back.

    Parameters
    ----------
    folder
        Made where it is missing.
    command
        What another command is told that is refused.

    Raises
    ------
    LockedError
        On entering, if another process holds it. On leaving, if another process took it over because this one stood
        still for minutes: both have written.
    FileError
        If the folder cannot be made or written.
    """

    def __init__(self, folder: Union[str, Path], command: str = "cryoden") -> None:
        self._folder = Path(folder)
        self._command = command
        self._key: Optional[Tuple[int, int]] = None

    def __enter__(self) -> FolderLock:
        if rank() != 0:
            return self
        with _guard, _one_line(self._folder):
            if not self._folder.exists() or _key(self._folder) not in _held:
                lock = _HeldLock(self._folder, self._command)
                _held[_key(self._folder)] = lock
            self._key = _key(self._folder)
            _held[self._key].n_users += 1
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._key is None:
            return
        with _guard:
            lock = _held[self._key]
            lock.n_users -= 1
            if lock.n_users:
                return
            del _held[self._key]
        other = lock.give_back()
        if other is not None and kind is None:
            raise LockedError(
                f"{self._folder} was taken over by {other} while this process stood still; both have written there.",
                subject=str(self._folder),
                remedy=Remedy("overwrite"),
            )


@dataclass(frozen=True)
class _Holder:
    """Who holds a lock, as its file says; what it does not say is empty.

    Attributes
    ----------
    token
        Unlike any other holder's.
    host
        Name of the machine.
    machine
        What tells whether a process can be looked for: the machine since its start, and the container.
    pid, started_s
        Process, and its start in seconds after the machine's, which no correction of a clock moves: a process that has
        got the same number later is another one.
    command, since
        For people.
    job
        Of which it is one of several processes; see `cryoden.system.ranks.job_name`.
    """

    token: str = ""
    host: str = ""
    machine: str = ""
    pid: int = 0
    started_s: float = 0.0
    command: str = ""
    since: str = ""
    job: str = ""

    def __str__(self) -> str:
        if not self.pid:
            return "another process"
        return f"process {self.pid} on host {self.host} ({self.command}, since {self.since})"

    @classmethod
    def myself(cls, command: str) -> _Holder:
        """Return this process."""
        return cls(
            uuid.uuid4().hex,
            socket.gethostname(),
            _machine(),
            os.getpid(),
            _started_s(psutil.Process()),
            command,
            time.strftime("%Y-%m-%d %H:%M"),
            job_name(),
        )

    @classmethod
    def from_json(cls, text: bytes) -> _Holder:
        """Return who wrote a lock file; nobody in particular where it is cut off."""
        try:
            values = json.loads(text.decode())
            words = (values[name] for name in ("token", "host", "machine"))
            token, host, machine = (_printable(word) for word in words)
            pid, started_s = int(values["pid"]), float(values["started_s"])
            command, since = _printable(values["command"]), _printable(values["since"])
            return cls(token, host, machine, pid, started_s, command, since, _printable(values.get("job", "")))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return cls()

    def is_running(self) -> Optional[bool]:
        """Return whether its process lives; None where that cannot be known from here."""
        if self.machine != _machine() or not 0 < self.pid < 1 << 31:
            return None
        try:
            process = psutil.Process(self.pid)
            is_same = abs(_started_s(process) - self.started_s) < START_TOLERANCE_SECONDS
            return is_same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None if is_alive(self.pid) else False  # alive: another user's, of which nothing is told
        except psutil.AccessDenied:
            return None


@dataclass(frozen=True)
class _LockFile:
    """A lock as it was found: its holder, and when it was touched last, by the clock of the file system."""

    holder: _Holder
    touched_s: float

    @classmethod
    def read(cls, path: Path) -> Optional[_LockFile]:
        """Read a lock file; None where there is none."""
        try:
            with open(str(path), "rb") as file:
                return cls(_Holder.from_json(file.read(1 << 16)), os.fstat(file.fileno()).st_mtime)
        except FileNotFoundError:
            return None
        except PermissionError:  # another user's, who keeps what is in it for himself
            return cls(_Holder(), path.stat().st_mtime)

    def is_stale(self, now_s: float) -> bool:
        """Return whether its holder is gone; a time that is far off in the future is no sign of life either."""
        is_running = self.holder.is_running()
        return abs(now_s - self.touched_s) > STALE_SECONDS if is_running is None else not is_running


class _HeldLock:
    """The lock of a folder that this process holds, and the thread that shows that it lives."""

    def __init__(self, folder: Path, command: str, name: str = LOCK_NAME) -> None:
        self.n_users = 0
        self._folder = folder
        self._path = folder / name
        self._me = _Holder.myself(command)
        self._made = _make_folder(folder)
        try:
            _acquire(self._path, self._me, folder)
            if name == LOCK_NAME:
                self._require_no_rank()
        except BaseException:
            self._remove_empty()
            raise
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        """Unlike any other lock's."""
        return self._me.token

    def _require_no_rank(self) -> None:
        """Give the lock back if a process of another job is alive whose first one, the holder, has died.

        Raises
        ------
        LockedError
            If there is one.
        """
        for name in filter(RANK_LOCK.match, os.listdir(str(self._folder))):
            path = self._folder / name
            found = _LockFile.read(path)
            if found is None:
                continue
            now_s = _now_s(self._path)
            if found.is_stale(now_s):
                with suppress(FileNotFoundError):
                    path.unlink()
            elif not self._me.job or found.holder.job != self._me.job:
                _release(self._path, self._me)
                raise _locked(self._folder, found, now_s)

    def _beat(self) -> None:
        while not self._has_ended.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # the next beat may succeed; ten are needed to be taken for dead
                found = _LockFile.read(self._path)
                if found and found.holder.token == self._me.token:
                    os.utime(str(self._path))

    def give_back(self) -> Optional[_Holder]:
        """Remove the lock, in the process that took it; return who else holds it now."""
        if os.getpid() != self._me.pid:
            return None
        self._has_ended.set()
        self._thread.join()
        try:
            other = _release(self._path, self._me)
        except OSError:  # its holder is dead soon: it blocks nobody
            other = None
        self._remove_empty()
        return other

    def _remove_empty(self) -> None:
        for folder in self._made:
            with suppress(OSError):  # it has been filled
                folder.rmdir()


_guard = threading.RLock()
_held: Dict[Tuple[int, int], _HeldLock] = {}
"""Device and inode of a folder -> the lock that this process holds on it."""


@contextmanager
def rank_lock(folder: Path, number: int, command: str) -> Iterator[None]:
    """Show for the time of the context that a process lives which works for a job, but is not its first one.

    Parameters
    ----------
    folder
        Whose lock the first process of the job holds.
    number
        Of the process, from 1.
    command
        As for `FolderLock`, whose errors it raises.
    """
    with _one_line(folder):
        lock = _HeldLock(folder, command, rank_lock_name(number))
    try:
        yield
    finally:
        lock.give_back()


def rank_lock_name(number: int) -> str:
    """Return the file that shows that a process of a job lives; that of the first one is the folder's lock."""
    return f"{LOCK_NAME}.rank_{number}" if number else LOCK_NAME


def held_token(folder: Path) -> str:
    """Return the token of the lock that this process holds on a folder."""
    with _guard:
        return _held[_key(folder)].token


@dataclass(frozen=True)
class Sign:
    """What is seen of another process's lock.

    Attributes
    ----------
    token, job
        Of its holder.
    is_alive
        Whether the holder may live.
    error
        What is to be said to whom it keeps from a folder.
    """

    token: str
    job: str
    is_alive: bool
    error: LockedError


class LockWatch:
    """Looks again and again whether the holder of a lock lives, by no clock but its own.

    Parameters
    ----------
    folder, number
        Whose lock: the folder's for 0, or that of another process of a job.
    clock
        Says the time in seconds.
    """

    def __init__(self, folder: Path, number: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._path, self._clock = folder, folder / rank_lock_name(number), clock
        self._touched_s, self._changed_s = 0.0, clock()

    def look(self) -> Optional[Sign]:
        """Return what is seen; None where there is no lock."""
        found = _LockFile.read(self._path)
        if found is None:
            return None
        now_s = self._clock()
        if found.touched_s != self._touched_s:
            self._touched_s, self._changed_s = found.touched_s, now_s
        is_running = found.holder.is_running()
        is_alive = now_s - self._changed_s <= STALE_SECONDS if is_running is None else is_running
        seen_s = found.touched_s + now_s - self._changed_s  # by the clock of the file system
        return Sign(found.holder.token, found.holder.job, is_alive, _locked(self._folder, found, seen_s))


def _acquire(path: Path, me: _Holder, folder: Path) -> None:
    """Write a lock file.

    Raises
    ------
    LockedError
        If somebody holds it who is alive, or is just taking it over.
    OSError
        If nothing can be written there.
    """
    with _candidate(path, me) as candidate:
        for _ in range(TRIES):
            if _place(candidate, path):
                return
            found = _LockFile.read(path)
            if found is None:  # its holder has just ended
                continue
            if found.holder.token == me.token:  # the answer to the first try was lost on its way from a file server
                return
            now_s = _now_s(candidate)
            if not found.is_stale(now_s):
                raise _locked(folder, found, now_s)

            # Two processes may have found the same stale lock. Only who holds the lock of taking over looks again, and
            # replaces it in one step: nobody can come in between, and a new holder's lock is never taken for the old.
            takeover = path.with_name(f"{path.name}.takeover")
            _acquire(takeover, me, folder)
            try:
                found = _LockFile.read(path)
                if found is not None and found.is_stale(_now_s(candidate)):
                    os.replace(str(candidate), str(path))
                    return
            finally:
                _release(takeover, me)
    raise FileExistsError(errno.EEXIST, f"{path.name} is in the way")


def _release(path: Path, me: _Holder) -> Optional[_Holder]:
    """Remove a lock file if it is this process's; return whose it is else."""
    found = _LockFile.read(path)
    if found is None:
        return None
    if found.holder.token != me.token:
        return found.holder
    with suppress(FileNotFoundError):
        path.unlink()
    return None


@contextmanager
def _candidate(path: Path, me: _Holder) -> Iterator[Path]:
    """Give a whole lock file under a name of its own; it becomes the lock by one step of the file system."""
    candidate = path.with_name(f"{path.name}.{host_name()}.{me.pid}.{threading.get_ident()}.part")
    try:
        candidate.write_text(json.dumps(asdict(me)))
        yield candidate
    finally:
        with suppress(OSError):  # it has become the lock, or the folder is gone
            candidate.unlink()


def _place(candidate: Path, path: Path) -> bool:
    """Make a candidate the lock, unless there is one."""
    try:
        os.link(str(candidate), str(path))
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
    try:
        with open(str(path), "xb") as file:
            file.write(candidate.read_bytes())
        return True
    except FileExistsError:
        return False


def _now_s(candidate: Path) -> float:
    """Return the time by the clock of the file system, which is not that of this machine."""
    os.utime(str(candidate))
    return candidate.stat().st_mtime


def _locked(folder: Path, found: _LockFile, now_s: float) -> LockedError:
    message = f"{folder} is being filled by {found.holder}; one command at a time can fill a folder."
    if not found.holder.is_running():
        message += (
            f" Its last sign of life is {max(0, round(now_s - found.touched_s))} s old; "
            f"if it was killed, the folder is free after {STALE_SECONDS / 60:g} minutes."
        )
    return LockedError(message, subject=str(folder), remedy=Remedy("other_folder"))


@contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    """Turn what the system says of a folder that cannot be locked into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FullDiskError(
                f"The disk is full: nothing can be written to {folder}.",
                subject=str(folder),
                remedy=Remedy("free_disk"),
            ) from error
        raise FileError(
            f"Output folder {folder} cannot be written ({error.strerror or error}).",
            subject=str(folder),
            remedy=Remedy("other_folder"),
        ) from error


def _make_folder(folder: Path) -> List[Path]:
    """Make a folder with its parents; return those that were missing, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _key(folder: Path) -> Tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _machine() -> str:
    """Return what two processes have in common that can look for each other by number."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # other systems than Linux
        start = ""
    return f"{host_name()} {start}"


def _started_s(process: psutil.Process) -> float:
    """Return when a process started, in seconds after its machine; psutil adds the same time that is taken off here."""
    boot_s = psutil.boot_time()
    return float(process.create_time() - boot_s)


def _printable(word: str) -> str:
    return "".join(letter for letter in word if letter.isprintable())
