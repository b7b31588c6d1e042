"""Files over HTTPS that arrive whole or not at all, however often the connection breaks."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional, Tuple
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from cryoden import __version__
from cryoden.errors import FileError, NetworkError
from cryoden.formats.files import digest

log = logging.getLogger(__name__)

TIMEOUT = (10, 60)
"""Seconds to connect, and without a byte."""

TRIES = 8
"""Connections in a row that may bring no single byte before a file is given up."""

PAUSE = 1.0
"""Seconds before the second try; doubled for each one after."""

PIECE_BYTES = 1 << 16
"""Read at once; what came of a piece when the connection breaks is lost."""


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


def open_session() -> requests.Session:
    """Return a session that names itself and asks again when a server is busy."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # what failed is said once, at the end
    session = requests.Session()
    session.headers["User-Agent"] = f"cryoden/{__version__}"
    session.headers["Accept-Encoding"] = "identity"  # sizes and ranges are those of the file itself
    retry = Retry(total=3, backoff_factor=PAUSE / 2, status_forcelist=(429, 502, 503, 504), raise_on_status=False)
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=16))
    return session


def get(session: requests.Session, url: str, **options: Any) -> requests.Response:
    """Return the answer to a request, whatever its status.

    Raises
    ------
    NetworkError
        If the server cannot be reached.
    """
    try:
        return session.request(options.pop("method", "GET"), url, timeout=TIMEOUT, **options)
    except requests.RequestException as error:
        raise NetworkError(
            f"{urlsplit(url).netloc} cannot be reached ({_reason(error)}); nothing that is here already is lost. Check "
            "the network, or try again later."
        ) from error


def remote_size(session: requests.Session, url: str) -> int:
    """Return how many bytes the server says that a file has.

    Raises
    ------
    NetworkError
        If the server is away, does not know the file or does not say its size.
    """
    answer = get(session, url, method="HEAD", allow_redirects=True)
    if answer.status_code != 200:
        raise NetworkError(f"{url}: the server answers {answer.status_code} {answer.reason}. Try again later.")
    if not answer.headers.get("Content-Length", "").isdigit():
        raise NetworkError(f"{url}: the server does not say how large the file is.")
    return int(answer.headers["Content-Length"])


def download(
    session: requests.Session, file: RemoteFile, target: Path, on_bytes: Callable[[int], object] = lambda n: None
) -> None:
    """Download a file; what an earlier try left beside the target is gone on with.

    Parameters
    ----------
    session
        Of `open_session`.
    file
        What to download.
    target
        Where it gets its name when it is whole; before, it is NAME.part.
    on_bytes
        Is told how many bytes have come, bytes that were there before included.

    Raises
    ------
    NetworkError
        If the server goes away for good, or sends another number of bytes than it said, or other bytes.
    FileError
        If the target cannot be written.
    """
    if target.is_file() and target.stat().st_size == file.size:
        on_bytes(file.size)
        return
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.is_file() else 0
    if have > file.size:
        part.unlink()
        have = 0
    on_bytes(have)
    failed = 0
    while have < file.size:
        try:
            got = _fetch_from(session, file, part, have, on_bytes)
            reason = "the connection ended early"
        except requests.RequestException as error:
            got, reason = part.stat().st_size if part.is_file() else 0, _reason(error)
        except OSError as error:
            raise FileError(
                f"{part} cannot be written ({error.strerror or error}); free or change the folder."
            ) from error
        failed = 0 if got > have else failed + 1
        have = got
        if have < file.size:
            if failed >= TRIES:
                raise NetworkError(
                    f"{file.url} stopped after {have} of {file.size} bytes ({reason}); they are kept. Start the same "
                    "command again to go on."
                )
            log.debug("%s: %s after %d bytes; going on.", file.name, reason, have)
            time.sleep(PAUSE * 2 ** min(failed, 5) if failed else 0)
    if have > file.size:
        part.unlink()
        raise NetworkError(
            f"{file.url} should have {file.size} bytes, as the server said, but it sent more; nothing of it is kept. "
            "Try again later, or tell the archive."
        )
    _check_sum(file, part)
    os.replace(str(part), str(target))


def _fetch_from(
    session: requests.Session, file: RemoteFile, part: Path, have: int, on_bytes: Callable[[int], object]
) -> int:
    """Append what the server sends from byte `have` on; return the size of the part then."""
    headers = {"Range": f"bytes={have}-"} if have else {}
    with session.get(file.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code not in (200, 206):
            raise requests.ConnectionError(f"the server answers {answer.status_code} {answer.reason}")
        if answer.status_code == 200 and have:  # the server does not know ranges: from the start again
            on_bytes(-have)
            have = 0
        elif answer.status_code == 206:
            first = answer.headers.get("Content-Range", f"bytes {have}-").split(" ")[-1].split("-")[0]
            if first != str(have):
                raise requests.ConnectionError(f"the server sends from byte {first} instead of {have}")
        with open(str(part), "ab" if have else "wb") as output:
            for piece in answer.iter_content(PIECE_BYTES):
                output.write(piece)
                have += len(piece)
                on_bytes(len(piece))
                if have > file.size:
                    break
    return have


def _check_sum(file: RemoteFile, part: Path) -> None:
    if not file.checksum:
        return
    algorithm, expected = file.checksum
    found = digest(part, algorithm).hexdigest()
    if found != expected.lower():
        part.unlink()
        raise NetworkError(
            f"{file.url} came with {algorithm} {found}, but the archive says {expected}; it was damaged on "
            "the way and is not kept. Start the same command again."
        )


def _reason(error: BaseException) -> str:
    """Return the innermost reason of a chain of network errors, in a few words."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
