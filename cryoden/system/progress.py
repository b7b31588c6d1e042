"""What a long command says while it runs: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Callable, Deque, Dict, Optional, Tuple, Type

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cryoden.wording import counted

BAR_SECONDS, BAR_WIDTH = 0.5, 20
"""Between two looks at what a bar shows; its characters at most."""

FIRST_SECONDS, LONGEST_SECONDS = 10.0, 30.0
"""Between two lines where there is no terminal: at the beginning, and after ten minutes and more."""

PACE_SECONDS = 60.0
"""The pace is measured over the second half of the time so far, and over at least so much of it."""

Clock = Callable[[], float]
Tell = Callable[[float], None]
"""Is called with how much of something is done, 0 to 1."""


def tell_nobody(share: float) -> None:
    """Do nothing: a `Tell` for those who do not want to know."""


def part_of(tell: Tell, number: int, n_parts: int) -> Tell:
    """Return whom to tell of one of several equal parts, counted from 0, of what `tell` is told of."""
    return lambda share: tell((number + share) / n_parts)


def said_duration(seconds: float) -> str:
    """Return a duration in a unit that a person would use: `40 seconds`, `12 minutes`, `3.5 hours`."""
    if seconds < 90:
        return counted(round(seconds), "second")
    if seconds < 90 * 60:
        return counted(round(seconds / 60), "minute")
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 86400:.1f} days"


class RemainingTime:
    """Estimates how long work still takes from its pace of late: what came first may have been faster or slower.

    Parameters
    ----------
    clock
        Says the time in seconds.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._samples: Deque[Tuple[float, float]] = deque([(self._begun, 0.0)])

    def seconds(self, done: float, left: float) -> Optional[float]:
        """Return how long what is left takes; None where nothing shows the pace yet.

        Parameters
        ----------
        done, left
            Work, in one unit.
        """
        now = self._clock()
        elapsed = now - self._begun
        if now - self._samples[-1][0] >= elapsed / 200:  # about 100 of them, however long it takes
            self._samples.append((now, done))
        while len(self._samples) > 2 and self._samples[1][0] < now - max(PACE_SECONDS, elapsed / 2):
            self._samples.popleft()

        since, done_then = self._samples[0]
        if done <= done_then or now <= since:
            return None
        return left * (now - since) / (done - done_then)


@dataclass(frozen=True)
class Shown:
    """What is shown at one moment.

    Attributes
    ----------
    share
        How much is done, 0 to 1.
    place
        Where the work is: `3 of 20 micrographs`.
    seconds_left
        At the time of `updated`, None where that is not known.
    facts
        What follows: losses, failures.
    line_facts
        What follows in lines only: what a terminal has seen above its bar.
    updated
        When this was known.
    """

    share: float = 0.0
    place: str = ""
    seconds_left: Optional[float] = None
    facts: str = ""
    line_facts: str = ""
    updated: float = 0.0

    def text(self, now: float, begun: float, is_line: bool) -> str:
        """Return everything in one line, without the bar and its percentage."""
        parts = [f"{self.place} ({self.share:.0%})" if is_line else self.place]
        if self.seconds_left is not None and self.share < 1:
            parts.append(f"{said_duration(max(self.seconds_left - (now - self.updated), 1.0))} left")
        elif self.share < 1:
            parts.append(f"running for {said_duration(now - begun)}")
        parts += [self.facts, self.line_facts if is_line else ""]
        return ", ".join(filter(None, parts))


class _Bar(tqdm):
    """A bar whose text is ours; `ProgressDisplay` refreshes it."""

    monitor_interval = 0  # no thread of tqdm's own
    note = ""

    @property
    def format_dict(self) -> Dict[str, Any]:
        """What the format of the bar can name, and the format: in a narrow terminal the text stays, not the bar."""
        values = super().format_dict
        room = (values["ncols"] or 80) - len(f"{self.desc}100%|| {self.note}")
        width = max(1, min(BAR_WIDTH, room))
        bar_format = f"{{desc}}{{percentage:3.0f}}%|{{bar:{width}}}| {{note}}"
        return {**values, "note": self.note, "bar_format": bar_format}


class ProgressDisplay:
    """Shows how far a command is; use it as a context manager.

    A bar on stderr, where that is a terminal, else lines on stdout: what is read first of a queue's or of Scipion's
    log. A thread shows it, so that time goes on to be seen while one item takes long; `update` costs next to nothing.

    Parameters
    ----------
    title
        What is being done.
    is_shown
        False for the other ones of several processes.
    clock
        Says the time in seconds.
    """

    def __init__(self, title: str, is_shown: bool = True, clock: Clock = time.monotonic) -> None:
        self._title, self._is_shown, self._clock = title, is_shown, clock
        self._begun = clock()
        self._shown = Shown()
        self._stop = threading.Event()
        self._bar: Optional[_Bar] = None
        self._stack = ExitStack()
        self._thread: Optional[threading.Thread] = None

    def __enter__(self) -> ProgressDisplay:
        if not self._is_shown:
            return self
        if sys.stderr.isatty():
            self._bar = _Bar(total=1.0, desc=f"{self._title}: ", dynamic_ncols=True, file=sys.stderr)
            self._stack.callback(self._bar.close)
            self._stack.enter_context(logging_redirect_tqdm())  # what is logged stands above the bar
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._bar is not None:
            self._show()
        self._stack.close()

    def update(
        self, share: float, place: str, seconds_left: Optional[float] = None, facts: str = "", line_facts: str = ""
    ) -> None:
        """Take note of how far the command is; may be called from any thread, as often as one likes.

        Parameters
        ----------
        share, place, seconds_left, facts, line_facts
            As in `Shown`.
        """
        self._shown = Shown(min(share, 1.0), place, seconds_left, facts, line_facts, self._clock())

    def _run(self) -> None:
        while not self._stop.wait(self._pause()):
            self._show()

    def _pause(self) -> float:
        if self._bar is not None:
            return BAR_SECONDS
        return min(FIRST_SECONDS + (self._clock() - self._begun) / 30, LONGEST_SECONDS)

    def _show(self) -> None:
        shown = self._shown
        text = shown.text(self._clock(), self._begun, is_line=self._bar is None)
        if self._bar is None:
            print(f"{self._title}: {text}", flush=True)
            return
        self._bar.n, self._bar.note = shown.share, text
        self._bar.refresh()
