"""What a command does with the items of a list: a JSON line for each in a file, and how far the list is."""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, Iterator, Optional, Type

from tqdm import tqdm

from cryoden.errors import CryodenError, Problem
from cryoden.formats import outputs
from cryoden.formats.file_errors import reading_errors, writing_errors
from cryoden.formats.files import PathLike, append_line
from cryoden.system.progress import ProgressDisplay, RemainingTime
from cryoden.wording import counted


def write_above_bar(reason: str) -> None:
    """Say in a terminal, above its bar, why an input fails; elsewhere the last lines of the command say it once."""
    if sys.stderr.isatty():
        tqdm.write(reason, file=sys.stderr)


class ProgressLog:
    """Counts finished items; use it as a context manager.

    Every item becomes a JSON line of a log file. How far the list is, within its items too, is shown, see
    `ProgressDisplay`.

    Parameters
    ----------
    log
        File to which lines are added.
    n_items
        How many there are.
    unit, title
        Words of what is shown.
    is_shown
        False for the other ones of several processes.
    is_made_at_once
        False where a folder is recorded as the command's own only when the first item is read: the log, which would be
        a foreign file in it, comes with the first line.
    """

    def __init__(
        self, log: Path, n_items: int, unit: str, title: str, is_shown: bool = True, is_made_at_once: bool = True
    ) -> None:
        self._log, self._n_items, self._is_made_at_once = log, n_items, is_made_at_once
        self._unit = unit
        self._n_done = self._n_kept = self._n_failed = 0
        self._parts: Dict[str, float] = {}  # item that is being worked on -> how much of it is done
        self._last_reason = ""
        self._lock = threading.Lock()
        self._display = ProgressDisplay(title, is_shown)
        self._remaining = RemainingTime()

    def __enter__(self) -> ProgressLog:
        if self._is_made_at_once:
            with writing_errors(self._log):
                self._log.touch()
        self._update()
        self._display.__enter__()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._display.__exit__(kind, value, trace)

    def part(self, item: str, share: float) -> None:
        """Say how much of an item is done, 0 to 1; may be called from several threads."""
        with self._lock:
            self._parts[item] = share
            self._update()

    def report(self, item: str, is_kept: bool = False, **facts: Any) -> None:
        """Say what became of one item; may be called from several threads. Raises as `append_line`.

        Parameters
        ----------
        item
            As in `part`.
        is_kept
            Whether it was finished before, and says nothing of the pace.
        facts
            The line of the log.
        """
        with self._lock:
            self._parts.pop(item, None)
            self._n_done += 1
            self._n_kept += is_kept
            counted = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "done": self._n_done, "of": self._n_items}
            append_line(self._log, json.dumps({**counted, **facts}))
            self._update()

    def report_failure(self, item: str, problem: Problem, error: Exception, **facts: Any) -> None:
        """Say why one item failed; the log file also gets the traceback of an error that nobody expected.

        Parameters
        ----------
        item
            As in `part`.
        problem
            Why.
        error
            What was raised.
        facts
            The item.
        """
        if not isinstance(error, CryodenError):
            lines = traceback.format_exception(type(error), error, error.__traceback__)
            facts["traceback"] = "".join(lines)
        with self._lock:
            self._n_failed += 1
            self._last_reason = str(problem)
        self.report(item, **facts, status="failed", reason=str(problem))
        write_above_bar(str(problem))

    def _update(self) -> None:
        """Show how far the list is."""
        done = self._n_done + sum(self._parts.values())
        left = self._n_items - done
        failed = f"{self._n_failed} failed" if self._n_failed else ""
        self._display.update(
            done / self._n_items if self._n_items else 1.0,
            f"{self._n_done} of {counted(self._n_items, self._unit)}",
            self._remaining.seconds(done - self._n_kept, left),
            failed,
            f"the last because: {self._last_reason}" if failed else "",
        )


def read_progress_logs(folder: PathLike) -> Iterator[Dict[str, Any]]:
    """Yield what was reported of every item, by all processes; a line that a kill cut off is skipped."""
    for path in sorted(Path(folder).glob(outputs.LOGS)):
        with reading_errors(path), open(str(path), errors="replace") as log:
            for line in log:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue
