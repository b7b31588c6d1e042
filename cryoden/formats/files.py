"""Files are whole or absent: they are written under a temporary name and renamed when finished."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Dict, Iterable, Iterator, List, Optional

from cryoden.config import GIB
from cryoden.errors import FileError, Remedy
from cryoden.formats.decompression import ENDINGS as COMPRESSED_ENDINGS
from cryoden.formats.file_errors import PathLike, reading_errors, reason, require_file, writing_errors
from cryoden.system.host import host_name, is_alive

PIECE_BYTES = 4 << 20
"""Read at once of a file whose size does not matter."""

TEMPORARY_ENDING = ".part"

_OWNER = re.compile(r"\.(?P<host>[A-Za-z0-9_-]+)\.(?P<process>\d+)\.\d+" + re.escape(TEMPORARY_ENDING) + "$")
"""End of a temporary name: host, process and thread that write the file."""


@contextmanager
def whole_file(path: PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    Raises
    ------
    FullDiskError
        If the disk is full.
    FileError
        If the folder cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise FileError(f"{str(path)!r} is no name of a file; check the path.", subject=str(path))
    with writing_errors(path):
        temporary = _temporary_beside(path)
        try:
            yield temporary
            os.replace(str(temporary), str(path))
        finally:
            with suppress(OSError):  # why it failed is worth more; `remove_dead_temporaries` finds what is left
                temporary.unlink()


def _temporary_beside(path: Path) -> Path:
    """Return where a file is written until it is whole: its name says which process does so."""
    ending = f".{host_name()}.{os.getpid()}.{threading.get_ident()}{TEMPORARY_ENDING}"
    name = path.name
    if len(os.fsencode(f".{name}{ending}")) > _longest_name(path.parent):
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return path.with_name(f".{name}{ending}")


def _longest_name(folder: Path) -> int:
    """Return how many bytes the name of a file may have."""
    try:
        return os.pathconf(str(folder), "PC_NAME_MAX")
    except (OSError, ValueError):  # the folder is not there, or a file system that does not say
        return 255


def remove_dead_temporaries(folder: PathLike) -> List[Path]:
    """Remove what killed processes of this host left in a folder and the folders in it; return what was removed.

    What processes write that are alive, or run on another host, stays.
    """
    removed = []
    for pattern in (f".*{TEMPORARY_ENDING}", f"*/.*{TEMPORARY_ENDING}"):
        for path in Path(folder).glob(pattern):
            owner = _OWNER.search(path.name)
            if owner and owner["host"] == host_name() and not is_alive(int(owner["process"])):
                with suppress(FileNotFoundError):  # another process looks after the same folder
                    path.unlink()
                    removed.append(path)
    return removed


def append_line(path: PathLike, line: str) -> None:
    """Add a line to a text file, in one write, so that lines of several writers do not mix.

    A line that was cut off before, by a kill or a full disk, is ended first, so that it spoils no other.

    Raises
    ------
    FullDiskError
        If the disk is full.
    FileError
        If the file cannot be written.
    """
    unwritten = f"{line}\n".encode("utf-8", "surrogateescape")
    with writing_errors(path), open(str(path), "a+b", buffering=0) as file:
        if file.tell() and _last_byte(file) != b"\n":
            unwritten = b"\n" + unwritten
        while unwritten:  # a disk that fills up takes a part first, and says so at the next try only
            unwritten = unwritten[file.write(unwritten) :]


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def list_folder(path: PathLike) -> List[Path]:
    """Return what is in a folder, sorted; raises FileError if it cannot be read."""
    with reading_errors(path):
        return [Path(path, name) for name in sorted(os.listdir(str(path)))]  # names are compared faster than paths


def real_path(path: PathLike) -> str:
    """Return where a file really is, links followed; of a circle of links, and of no name, what was given.

    Raises
    ------
    FileError
        If the working folder was deleted.
    """
    whole = os.path.join(working_folder(), str(path))
    try:
        return os.path.realpath(whole)
    except (OSError, ValueError):
        return whole


def real_paths(paths: Iterable[PathLike]) -> List[str]:
    """Return the same of many files: their folders, which are few, are followed once. Raises as `real_path`."""
    folders: Dict[str, str] = {}
    found = []
    for path in map(str, paths):
        folder, name = os.path.split(path)
        if name in ("", os.curdir, os.pardir) or os.path.islink(path):
            found.append(real_path(path))
            continue
        if folder not in folders:
            folders[folder] = real_path(folder)
        found.append(os.path.join(folders[folder], name))
    return found


def working_folder() -> str:
    """Return the working folder; raises FileError if it was deleted."""
    try:
        return os.getcwd()
    except OSError as error:
        raise FileError(f"The working folder is gone ({reason(error)}); change to one that is there.") from error


def mrc_name(path: PathLike) -> str:
    """Return the name under which the result for an input file is written: its own, ending in .mrc."""
    path = Path(path)
    name = (path.with_suffix("") if path.suffix.lower() in COMPRESSED_ENDINGS else path).name
    return os.path.splitext(name)[0] + ".mrc"


def make_folder(path: PathLike) -> Path:
    """Create a folder with its parents and prove that files can be written there.

    Raises
    ------
    FullDiskError
        If the disk is full.
    FileError
        If it has no name, is a file, or nothing can be written there.
    """
    if re.search("^$|[\n\r]", str(path)):
        raise FileError(f"The output folder is {str(path)!r}; name a folder, without line breaks.", subject=str(path))
    path = Path(path)
    with writing_errors(path, "Output folder "):
        path.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=str(path)).close()
    return path


def require_room(what: str, n_bytes: int, folder: PathLike, remedy: Remedy) -> None:
    """Refuse to begin what the disk cannot hold.

    Parameters
    ----------
    what
        Is to be written; the sentence begins with it.
    n_bytes
        That it still needs.
    folder
        Where; it need not be there yet.
    remedy
        What needs less.

    Raises
    ------
    FileError
        If fewer bytes are free.
    """
    whole = Path(working_folder(), folder)
    place = next(parent for parent in (whole, *whole.parents) if os.path.exists(str(parent)))
    with reading_errors(place):
        free = shutil.disk_usage(str(place)).free
    if n_bytes > free:
        raise FileError(
            f"{what} need {n_bytes / GIB:.2f} GiB more in {folder}, but {free / GIB:.2f} GiB are free there. "
            "Free the disk, choose another folder, or ask for less.",
            subject=str(folder),
            remedy=remedy,
        )


def digest(path: PathLike, algorithm: str = "sha256", n_bytes: Optional[int] = None) -> Any:
    """Return the `hashlib` object of a file's first bytes (all by default), read piece by piece.

    Raises
    ------
    FileError
        If the file cannot be read or is shorter.
    """
    result = hashlib.new(algorithm)
    with reading_errors(path), open(str(path), "rb") as file:
        n_read = 0
        while n_bytes is None or n_read < n_bytes:
            piece = file.read(PIECE_BYTES if n_bytes is None else min(PIECE_BYTES, n_bytes - n_read))
            if not piece:
                break
            result.update(piece)
            n_read += len(piece)
    if n_read < (n_bytes or 0):
        raise FileError(f"{path} ends before byte {n_bytes}; it was cut off.", subject=str(path))
    return result


def write_json(path: PathLike, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="ascii")


def read_json(path: PathLike) -> Any:
    """Read a JSON file.

    Raises
    ------
    FileError
        If it cannot be read or is not JSON.
    """
    require_file(path)
    with reading_errors(path):
        content = Path(path).read_bytes()
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is not a JSON file ({reason(error)}); check what it is.", subject=str(path)) from error
