"""What the system or a decoder says of a file becomes one line that names it; whoever reads or writes uses this."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

from cryoden.config import GIB
from cryoden.config.options import can_be_a_name
from cryoden.errors import CryodenError, FileError, FullDiskError, Remedy
from cryoden.system.memory import free_host_bytes

PathLike = Union[str, Path]

SMALL_BYTES = 64 << 20
"""Not worth asking the system whether they are free."""

LONGEST_REASON = 200
"""Characters of what a decoder says; some quote what they cannot read."""


@contextmanager
def reading_errors(path: PathLike) -> Iterator[None]:
    """Turn what the system says of a file that cannot be read into one line.

    Raises
    ------
    FileError
        If the system refuses (missing, not permitted, damaged disk, stale handle, too long a name, a circle of links),
        the name can be none of a file, or the memory does not suffice.
    """
    _require_name(path)
    try:
        yield
    except OSError as error:
        raise FileError(
            f"{path} cannot be read ({reason(error)}); check path, permissions and disk.", subject=str(path)
        ) from error
    except MemoryError as error:
        raise FileError(f"{path} needs more memory than is free. Check what it is.", subject=str(path)) from error


@contextmanager
def decoding_errors(path: PathLike, what: str) -> Iterator[None]:
    """Turn whatever a decoder of foreign files raises into one line; they raise many kinds, and all mean damage.

    Parameters
    ----------
    path
        The file.
    what
        It should be: `TIFF`, `STAR`.

    Raises
    ------
    FileError
        If anything is raised, other than errors of ours.
    """
    with reading_errors(path):
        try:
            yield
        except (CryodenError, OSError, MemoryError):
            raise
        except Exception as error:
            raise FileError(
                f"{path} cannot be read as {what} ({reason(error)}); check what it is.", subject=str(path)
            ) from error


@contextmanager
def writing_errors(path: PathLike, what: str = "") -> Iterator[None]:
    """Turn what the system says of a file that cannot be written into one line.

    Parameters
    ----------
    path
        The file.
    what
        It is; stands before its name.

    Raises
    ------
    FullDiskError
        If the disk is full.
    FileError
        If the folder cannot be written.
    """
    _require_name(path)
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FullDiskError(
                f"The disk is full: {what}{path} cannot be written.", subject=str(path), remedy=Remedy("free_disk")
            ) from error
        raise FileError(f"{what}{path} cannot be written ({reason(error)}).", subject=str(path)) from error


def require_file(path: PathLike) -> Path:
    """Return the path of a file that is there; raises FileError, also for folders, devices and pipes."""
    try:
        with reading_errors(path):
            is_file = stat.S_ISREG(os.stat(str(path)).st_mode)
    except FileError as error:
        if not isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
            raise
        is_file = False
    if not is_file:
        raise FileError(f"{path} does not exist or is no file; check the path.", subject=str(path))
    return Path(path)


def require_memory(path: PathLike, n_bytes: int) -> None:
    """Refuse to read what the free memory cannot hold: a few damaged bytes may promise terabytes.

    Raises
    ------
    FileError
        If fewer bytes are free.
    """
    if n_bytes < SMALL_BYTES:
        return
    free = free_host_bytes()
    if n_bytes > free:
        raise FileError(
            f"{path} needs {n_bytes / GIB:.2f} GiB of memory at once, but {free / GIB:.2f} GiB are free. Check what it "
            "is; if it is right, more memory is needed.",
            subject=str(path),
        )


def _require_name(path: PathLike) -> None:
    """Refuse what no file can be called; raises FileError."""
    if not str(path) or not can_be_a_name(str(path)):
        raise FileError(f"{str(path)!r} is no name of a file; check the path.", subject=ascii(str(path)))


def reason(error: BaseException) -> str:
    """Return what an error says, in one line of sensible length."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join(words.split()) or type(error).__name__
    return line if len(line) <= LONGEST_REASON else line[:LONGEST_REASON] + "..."
