"""The sign that the program lives which started this one: its end of a pipe, our standard input, is open.

The system closes it however that program ends, also where a shell or a container stands between the two.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import Iterator

STDIN = 0

READ_BYTES = 4096
"""Of what is written there, and means nothing."""

GRACE_SECONDS = 20.0
"""A process that was told to end has so long: more than it gives itself (`signals.CLEANING_SECONDS`)."""


class Lifeline:
    """Watches a pipe until it is closed. At work, the process is then ended as by SIGTERM; otherwise `is_cut` says it.

    Parameters
    ----------
    file
        Number of the pipe's end that is read.
    """

    def __init__(self, file: int = STDIN) -> None:
        self._file = file
        self._cut = threading.Event()
        self._lock = threading.Lock()
        self._is_working = False
        threading.Thread(target=self._read, name="lifeline", daemon=True).start()

    def is_cut(self) -> bool:
        """Return whether the pipe is closed."""
        return self._cut.is_set()

    def sleep(self, seconds: float) -> None:
        """Wait for so long, or until the pipe is closed."""
        self._cut.wait(seconds)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Say for the time of the context that what is done is to be ended, where the pipe is closed."""
        with self._lock:
            self._is_working = True
            if self.is_cut():  # since the last look
                _end()
        try:
            yield
        finally:
            with self._lock:
                self._is_working = False

    def _read(self) -> None:
        while _reads(self._file):
            pass
        with self._lock:
            self._cut.set()
            if not self._is_working:
                return
            _end()
        time.sleep(GRACE_SECONDS)
        if self._is_working:  # in code that hears no signal, as where a GPU computes
            os._exit(128 + signal.SIGTERM)


def _reads(file: int) -> bool:
    """Wait for what is written into a pipe; return False at its end."""
    try:
        return bool(os.read(file, READ_BYTES))
    except OSError:  # there is no standard input
        return False


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
