"""stdout and stderr that may be closed, full, or read by a program that ended: the work goes on, quietly.

This is the only place where errors of writing are swallowed, on purpose: what a command is for lies in its output
folder, and nobody is left who could read why a line cannot be written. To be entered first of all in `main`, around
everything that prints, logs or draws a bar: all of them write to `sys.stdout` and `sys.stderr`.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import Any, Iterator, List, Optional, TextIO, cast


class _ForgivingStream:
    """A text stream that writes as long as that is possible.

    Parameters
    ----------
    stream
        What it writes to; anything else is asked of this.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write as much as can be written; characters that the encoding lacks as backslash and number."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:
            self._give_up(error)
        return len(text)

    def writelines(self, lines: List[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Let the descriptor lead to nowhere: what is still buffered must not fail when the interpreter ends."""
        if isinstance(error, BlockingIOError):
            return  # the reader is slow, and is there
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError):
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


@contextmanager
def forgiving_streams() -> Iterator[None]:
    """Let what cannot be written to stdout and stderr be lost without an error."""
    _fill_closed_descriptors()
    before = sys.stdout, sys.stderr
    out, err = _forgiving(before[0], 1), _forgiving(before[1], 2)
    sys.stdout = out
    sys.stderr = err
    try:
        yield
    finally:
        out.flush()
        err.flush()
        # Streams that were not there stay replaced: the interpreter flushes and uses what it finds.
        sys.stdout = before[0] or out
        sys.stderr = before[1] or err


def _forgiving(stream: Optional[TextIO], descriptor: int) -> TextIO:
    if isinstance(stream, _ForgivingStream):
        return cast(TextIO, stream)
    return cast(TextIO, _ForgivingStream(stream or open(descriptor, "w", closefd=False)))


def _fill_closed_descriptors() -> None:
    """Open descriptors 0 to 2 where they are closed: else the next file gets the number that libraries print to."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
