"""Files over HTTPS that arrive whole or not at all, however often the connection breaks."""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Optional, Tuple

import requests

from cryoden.errors import NetworkError, Remedy
from cryoden.fetch.session import NETWORK_ERRORS, TIMEOUT, Session, ask, reason_of
from cryoden.fetch.untrusted import BadAnswerError, place_below, printable
from cryoden.formats.file_errors import writing_errors
from cryoden.formats.files import digest

log = logging.getLogger(__name__)

PART = ".part"
"""Added to the name of a file that is not whole yet."""

TRIES = 8
"""Connections in a row that may bring no single byte before a file is given up."""

PAUSE = 1.0
"""Seconds before the second try; doubled for each one after."""

PIECE_BYTES = 1 << 16
"""Read at once; what came of a piece when the connection breaks is lost."""

PASSING_STATUSES = (408, 416, 425, 429)
"""Of the statuses that blame the question, those which another try may change."""


class _InterruptedError(Exception):
    """The connection broke; what came before counts."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of an archive.

    Attributes
    ----------
    url
        Where it is.
    name
        Its path below the entry's folder, which it also gets here.
    size
        Bytes, as the server says.
    checksum
        Algorithm (`md5`, `sha1`, `sha256`) and hexadecimal digest, where the archive gives one.
    """

    url: str
    name: str
    size: int
    checksum: Optional[Tuple[str, str]] = None


def remote_size(session: Session, url: str) -> int:
    """Return how many bytes the server says that a file has.

    Raises
    ------
    NetworkError
        If the server cannot be reached.
    BadAnswerError
        If it does not know the file, does not say its size, or has nothing of it.
    """
    answer = ask(session, url, "HEAD")
    answer.require_success()
    length = answer.headers.get("Content-Length", "")
    if not re.fullmatch("[0-9]{1,18}", length):
        raise BadAnswerError(f"{url}: the server does not say how large the file is.", subject=url)
    if int(length) == 0:
        raise BadAnswerError(f"{url}: the file is empty in the archive.", subject=url)
    return int(length)


def bytes_here(folder: Path, file: RemoteFile) -> int:
    """Return how much of a file is here already; 0 where that cannot be known, which is said when its turn comes."""
    target = folder / file.name
    try:
        places = (target, target.with_name(target.name + PART))
        return sum(place.stat().st_size for place in places if place.is_file())
    except (OSError, ValueError):
        return 0


def download(
    session: Session, file: RemoteFile, folder: Path, on_bytes: Callable[[int], object] = lambda n: None
) -> Path:
    """Download a file, from where an earlier try stopped.

    Parameters
    ----------
    session
        Of `open_session`.
    file
        What to download.
    folder
        Of the entry. Until the file is whole, `.part` is added to its name.
    on_bytes
        Is told how many bytes have come, bytes that were there before included.

    Returns
    -------
    Path
        Where the file is.

    Raises
    ------
    NetworkError
        If the server goes away for good, or sends another number of bytes than it said, or other bytes.
    FileError
        If the file cannot be written.
    """
    target = place_below(folder, file.name, PART)
    part = target.with_name(target.name + PART)
    with writing_errors(target):
        if target.is_file() and target.stat().st_size == file.size:
            on_bytes(file.size)
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        have = _size(part)
        if have > file.size:
            part.unlink()
            have = 0
    on_bytes(have)

    n_vain = 0  # tries in a row that brought nothing
    while have < file.size:
        try:
            got = _fetch_from(session, file, part, have, on_bytes)
            reason = "the connection ended early"
        except _InterruptedError as error:
            got = _size(part)
            reason = str(error)
        n_vain = 0 if got > have else n_vain + 1
        have = got
        if have < file.size:
            if n_vain >= TRIES:
                raise NetworkError(
                    f"{file.url} stopped after {have} of {file.size} bytes ({reason}).",
                    subject=file.name,
                    remedy=Remedy("continue"),
                )
            log.debug("%s: %s after %d bytes; going on.", file.name, reason, have)
            time.sleep(PAUSE * 2 ** min(n_vain, 5) if n_vain else 0)

    if have > file.size:
        part.unlink()
        raise NetworkError(
            f"{file.url} should have {file.size} bytes, as the server said, but it sent more; nothing of it is kept. "
            "Try again later, or tell the archive.",
            subject=file.name,
        )
    _check_sum(file, part)
    with writing_errors(target):
        os.replace(str(part), str(target))
    return target


def _fetch_from(session: Session, file: RemoteFile, part: Path, have: int, on_bytes: Callable[[int], object]) -> int:
    """Append what the server sends from byte `have` on; return the size of the part then."""
    try:
        headers = {"Range": f"bytes={have}-"} if have else {}
        answer = session.get(file.url, headers=headers, stream=True, timeout=TIMEOUT)
    except NETWORK_ERRORS as error:
        raise _InterruptedError(reason_of(error)) from error
    with answer:
        said = f"the server answers {answer.status_code} {printable(answer.reason or '')}"
        if 400 <= answer.status_code < 500 and answer.status_code not in PASSING_STATUSES:
            raise BadAnswerError(f"{file.url}: {said}.", subject=file.name)
        if answer.status_code not in (200, 206):
            raise _InterruptedError(said)
        if answer.status_code == 200 and have:  # the server does not know ranges: from the start again
            on_bytes(-have)
            have = 0
        elif answer.status_code == 206:
            first = answer.headers.get("Content-Range", f"bytes {have}-").split(" ")[-1].split("-")[0]
            if first != str(have):
                raise _InterruptedError(f"the server sends from byte {printable(first)} instead of {have}")

        # A broken connection raises no OSError here, so whatever does is about the file.
        with writing_errors(part), open(str(part), "ab" if have else "wb") as output:
            for piece in _pieces(answer):
                output.write(piece)
                have += len(piece)
                on_bytes(len(piece))
                if have > file.size:
                    break
    return have


def _pieces(answer: requests.Response) -> Iterator[bytes]:
    """Yield the bytes of a file as they are sent, also where a server calls a compressed file a compressed answer."""
    try:
        yield from answer.raw.stream(PIECE_BYTES, decode_content=False)
    except NETWORK_ERRORS as error:
        raise _InterruptedError(reason_of(error)) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _check_sum(file: RemoteFile, part: Path) -> None:
    if not file.checksum:
        return
    algorithm, expected = file.checksum
    found = digest(part, algorithm).hexdigest()
    if found != expected.lower():
        part.unlink()
        raise NetworkError(
            f"{file.url} came with {algorithm} {found}, but the archive says {expected}; it was damaged on the way and "
            "is not kept.",
            subject=file.name,
            remedy=Remedy("continue"),
        )
