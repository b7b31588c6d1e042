"""Files are whole or absent: they are written under a temporary name and renamed when finished."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Iterator, Optional, Union

from cryoden.config import GIB
from cryoden.errors import FileError, FullDiskError, Remedy

PathLike = Union[str, Path]

COMPRESSED_ENDINGS = (".gz", ".bz2")

PIECE_BYTES = 4 << 20
"""Read at once of a file whose size does not matter."""

LOG_NAME = "log.jsonl"
"""In the output folder of a long command: one JSON line for each finished item, or epoch."""


@contextmanager
def writing_errors(path: PathLike) -> Iterator[None]:
    """Turn what the system says of a file that cannot be written into one line.

    Raises
    ------
    FullDiskError
        If the disk is full.
    FileError
        If the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FullDiskError(
                f"The disk is full: {path} cannot be written.", subject=str(path), remedy=Remedy("free_disk")
            ) from error
        raise FileError(f"{path} cannot be written ({error.strerror or error}).", subject=str(path)) from error


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with writing_errors(path):
            yield temporary
            os.replace(str(temporary), str(path))
    finally:
        if temporary.exists():
            temporary.unlink()


def append_line(path: PathLike, line: str) -> None:
    """Add a line to a text file, in one write, so that lines of several writers do not mix.

    Raises
    ------
    FullDiskError
        If the disk is full.
    FileError
        If the file cannot be written.
    """
    with writing_errors(path), open(str(path), "ab", buffering=0) as file:
        file.write(f"{line}\n".encode())


def mrc_name(path: PathLike) -> str:
    """Return the name under which the result for an input file is written: its own, ending in .mrc."""
    path = Path(path)
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSED_ENDINGS else path).with_suffix(".mrc").name


def make_folder(path: PathLike) -> Path:
    """Create a folder with its parents and prove that files can be written there.

    Raises
    ------
    FileError
        If it is a file, or nothing can be written there.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=str(path)).close()
    except OSError as error:
        raise FileError(
            f"Output folder {path} cannot be written ({error.strerror}); choose a folder that you may write to."
        ) from error
    return path


def require_room(what: str, n_bytes: int, folder: PathLike, otherwise: str) -> None:
    """Refuse to begin what the disk cannot hold.

    Parameters
    ----------
    what
        Is to be written; the sentence begins with it.
    n_bytes
        That it still needs.
    folder
        Where; it need not be there yet.
    otherwise
        What needs less, an option.

    Raises
    ------
    FileError
        If fewer bytes are free.
    """
    place = next(parent for parent in (Path(folder).absolute(), *Path(folder).absolute().parents) if parent.exists())
    free = shutil.disk_usage(str(place)).free
    if n_bytes > free:
        raise FileError(
            f"{what} need {n_bytes / GIB:.2f} GiB more in {folder}, but {free / GIB:.2f} GiB are free there. "
            f"Free the disk, choose another --output, or {otherwise}."
        )


def digest(path: PathLike, algorithm: str = "sha256", n_bytes: Optional[int] = None) -> Any:
    """Return the `hashlib` object of a file's first bytes (all by default), read piece by piece.

    Raises
    ------
    FileError
        If the file is shorter.
    """
    result = hashlib.new(algorithm)
    left = Path(path).stat().st_size if n_bytes is None else n_bytes
    with open(str(path), "rb") as file:
        while left:
            piece = file.read(min(PIECE_BYTES, left))
            if not piece:
                raise FileError(f"{path} ends before byte {n_bytes}; it was cut off.")
            result.update(piece)
            left -= len(piece)
    return result


def write_json(path: PathLike, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: PathLike) -> Any:
    """Read a JSON file.

    Raises
    ------
    FileError
        If it is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except ValueError as error:
        raise FileError(f"{path} is not a JSON file ({error}); write it again with --save-config.") from error
