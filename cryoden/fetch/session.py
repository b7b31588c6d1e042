"""Connections to servers: busy ones are asked again, redirects stay encrypted, and every answer is bounded."""

from __future__ import annotations

import http.client
import json
import logging
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Mapping, Optional
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from cryoden import __version__
from cryoden.errors import NetworkError
from cryoden.fetch.untrusted import BadAnswerError, printable

TIMEOUT = (10, 60)
"""Seconds to connect, and without a byte."""

BACKOFF = 0.5
"""Seconds before a busy server is asked again; doubled each time."""

MOST_BYTES = 64 << 20
"""Of an answer that is no movie: a page that lists 100,000 files has a quarter of that."""

MOST_SECONDS = 300.0
"""For such an answer, however slowly it comes."""

PIECE_BYTES = 1 << 16

NETWORK_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
)
"""What requests and the libraries below it raise; ValueError: addresses, encodings and numbers that make no sense."""

KNOWN_ENCODINGS = ("", "identity", "gzip", "deflate")
"""Of answers: one compression inflates a piece a thousand times at most, two of them a million times."""


class Session(requests.Session):
    """A session that follows a redirect to any host by HTTPS, and without encryption only where it came from."""

    def get_redirect_target(self, resp: requests.Response) -> Optional[str]:
        """Return where an answer sends to.

        Raises
        ------
        BadAnswerError
            If that is not encrypted.
        """
        try:
            target = super().get_redirect_target(resp)
            if target is not None:
                _require_encryption(resp.url, urljoin(resp.url, target))
            return target
        except Exception:
            resp.close()
            raise


def _require_encryption(url: str, next_url: str) -> None:
    here, there = urlsplit(url), urlsplit(next_url)
    if there.scheme != "https" and (there.scheme, there.netloc) != (here.scheme, here.netloc):
        place = printable(f"{there.scheme}://{there.netloc}")
        raise BadAnswerError(f"{here.netloc} redirects to {place}, which is not encrypted; it is not followed.")


@dataclass(frozen=True)
class Answer:
    """A short answer, whole.

    Attributes
    ----------
    url
        Of the question.
    status, reason
        Of HTTP.
    headers
        Their names in any case.
    text
        The body.
    """

    url: str
    status: int
    reason: str
    headers: Mapping[str, str]
    text: str

    def require_success(self) -> None:
        """Raise BadAnswerError unless the status is 200."""
        if self.status != 200:
            raise BadAnswerError(
                f"{self.url}: the server answers {self.status} {self.reason}. Try again later.", subject=self.url
            )

    def json(self) -> Any:
        """Return the JSON that the body is; raises ValueError."""
        try:
            return json.loads(self.text)
        except RecursionError:
            raise ValueError("it is nested too deep") from None


def open_session() -> Session:
    """Return a session that names itself and asks again when a server is busy."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # what failed is said once, at the end
    session = Session()
    session.headers["User-Agent"] = f"cryoden/{__version__}"
    session.headers["Accept-Encoding"] = "identity"  # sizes and ranges are those of the file itself
    retry = Retry(
        total=3,
        backoff_factor=BACKOFF,
        status_forcelist=(429, 502, 503, 504),
        raise_on_status=False,
        respect_retry_after_header=False,  # which may say a year
    )
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=16))
    return session


def ask(session: Session, url: str, method: str = "GET") -> Answer:
    """Return the answer to a short question, whatever its status.

    Raises
    ------
    NetworkError
        If the server cannot be reached.
    BadAnswerError
        If its answer makes no sense, or has no end.
    """
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(_whole_answer(session, url, method))
        except BaseException as error:
            future.set_exception(error)

    # A socket's timeout begins anew with every byte, so only another thread can bound the whole.
    threading.Thread(target=run, name="question", daemon=True).start()
    host = urlsplit(url).netloc
    try:
        return future.result(MOST_SECONDS)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise NetworkError(
            f"{host} cannot be reached ({reason_of(error)}); nothing that is here already is lost. Check the network, "
            "or try again later.",
            subject=url,
        ) from error
    except FutureTimeoutError as error:
        message = f"{host} does not finish its answer within {MOST_SECONDS:g} s. Try again later."
        raise BadAnswerError(message, subject=url) from error
    except NETWORK_ERRORS as error:
        message = f"{host} gives an answer that makes no sense ({reason_of(error)}). Try again later."
        raise BadAnswerError(message, subject=url) from error


def _whole_answer(session: Session, url: str, method: str) -> Answer:
    with session.request(method, url, timeout=TIMEOUT, stream=True, allow_redirects=True) as answer:
        encoding = answer.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in KNOWN_ENCODINGS:
            raise BadAnswerError(f"{url}: the answer is compressed as '{printable(encoding)}'.", subject=url)
        body = bytearray()
        for piece in answer.iter_content(PIECE_BYTES):
            body += piece
            if len(body) > MOST_BYTES:
                message = f"{url}: the answer has more than {MOST_BYTES >> 20} MiB; no such list is so long."
                raise BadAnswerError(message, subject=url)
        text = body.decode(errors="replace")
        return Answer(url, answer.status_code, printable(answer.reason or ""), answer.headers, text)


def reason_of(error: BaseException) -> str:
    """Return the innermost reason of a chain of network errors, in a few words."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)
