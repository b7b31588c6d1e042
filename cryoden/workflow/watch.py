"""New files of a running microscope: which of them are whole, and whether more are to be expected."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Callable, Dict, Iterator, Sequence

from cryoden.formats.outcome import FileState, file_state

SECONDS_PER_MINUTE = 60.0

Look = Dict[str, FileState]
"""File -> its state."""


def settled_files(before: Look, now: Look) -> Look:
    """Return the files that did not change between two looks and are not empty, in the order of the second."""
    return {path: state for path, state in now.items() if state[0] and before.get(path) == state}


def look_at(files: Sequence[str]) -> Look:
    """Return the state of the files that are there."""
    seen: Look = {}
    for path in files:
        with suppress(OSError):  # renamed or removed meanwhile
            seen[path] = file_state(path)
    return seen


def rounds(
    list_files: Callable[[], Sequence[str]],
    poll_seconds: float,
    patience_seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    is_over: Callable[[], bool] = lambda: False,
) -> Iterator[Look]:
    """Yield all settled files whenever there are new or changed ones; end when none came for long enough.

    Parameters
    ----------
    list_files
        Returns the files that are there.
    poll_seconds
        Between two looks.
    patience_seconds
        Without news, after which no more are expected; a file that still grows is news.
    clock, sleep
        Say the time in seconds, and wait.
    is_over
        Returns whether no more are to be looked for.
    """
    before: Look = {}
    used: Look = {}
    last_news = clock()
    while not is_over():
        now = look_at(list_files())
        if now != before:
            last_news = clock()
        settled = settled_files(before, now)
        before = now
        if any(used.get(path) != state for path, state in settled.items()):
            used.update(settled)
            yield settled
            last_news = clock()  # what a round takes is no time without news
        elif clock() - last_news >= patience_seconds:
            return
        sleep(poll_seconds)
