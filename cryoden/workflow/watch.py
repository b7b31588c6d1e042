"""New files of a running microscope: which of them are whole, and whether more are to be expected."""

from __future__ import annotations

import os
import time
from typing import Callable, Dict, Iterator, List, Sequence, Tuple

Look = Dict[str, Tuple[int, int]]
"""File -> its size and its time of change (ns)."""


def settled_files(before: Look, now: Look) -> List[str]:
    """Return the files that did not change between two looks and are not empty, in the order of the second."""
    return [path for path, state in now.items() if state[0] and before.get(path) == state]


def look_at(files: Sequence[str]) -> Look:
    """Return the state of the files that are there."""
    seen: Look = {}
    for path in files:
        try:
            status = os.stat(path)
        except OSError:  # renamed or removed meanwhile
            continue
        seen[path] = (status.st_size, status.st_mtime_ns)
    return seen


def rounds(
    list_files: Callable[[], Sequence[str]],
    poll_seconds: float,
    patience_seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[List[str]]:
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
    """
    before: Look = {}
    used: Look = {}
    last_news = clock()
    while True:
        now = look_at(list_files())
        if now != before:
            last_news = clock()
        settled = settled_files(before, now)
        before = now
        if any(used.get(path) != now[path] for path in settled):
            used.update((path, now[path]) for path in settled)
            yield settled
            last_news = clock()  # what a round takes is no time without news
        elif clock() - last_news >= patience_seconds:
            return
        sleep(poll_seconds)
