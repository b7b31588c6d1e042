"""What a long command says while it runs (a bar in a terminal, else a JSON line for each item), and what it did."""

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


def write_above_bar(reason: str) -> None:
    """Say in a terminal, above its bar, why an input fails; elsewhere the last lines of the command say it once."""
    if sys.stderr.isatty():
        tqdm.write(reason, file=sys.stderr)


class ProgressLog:
    """Counts finished items; use it as a context manager.

    Every item becomes a JSON line of a log file, and of stderr where that is no terminal, there without the reason of a
    failure, see `write_above_bar`; in a terminal there is a bar.

    Parameters
    ----------
    log
        File to which lines are added.
    n_items
        How many there are.
    unit, title
        Words of the bar.
    """

    def __init__(self, log: Path, n_items: int, unit: str, title: str) -> None:
        self._log, self._n_items, self._n_done = log, n_items, 0
        self._lock = threading.Lock()
        self._bar = tqdm(total=n_items, unit=unit, desc=title, disable=None)

    def __enter__(self) -> ProgressLog:
        with writing_errors(self._log):
            self._log.touch()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._bar.close()

    def report(self, **facts: Any) -> None:
        """Say what became of one item; may be called from several threads. Raises as `append_line`."""
        with self._lock:
            self._n_done += 1
            now = time.strftime("%Y-%m-%dT%H:%M:%S")
            counted = {"time": now, "done": self._n_done, "of": self._n_items}
            append_line(self._log, json.dumps({**counted, **facts}))
            self._bar.update()
            facts.pop("traceback", None)
            reason = facts.pop("reason", None)
            if reason:
                write_above_bar(reason)
            if self._bar.disable:
                print(json.dumps({**counted, **facts}), file=sys.stderr, flush=True)

    def report_failure(self, problem: Problem, error: Exception, **facts: Any) -> None:
        """Say why one item failed; the log file also gets the traceback of an error that nobody expected.

        Parameters
        ----------
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
        self.report(**facts, status="failed", reason=str(problem))


def read_progress_logs(folder: PathLike) -> Iterator[Dict[str, Any]]:
    """Yield what was reported of every item, by all processes; a line that a kill cut off is skipped."""
    for path in sorted(Path(folder).glob(outputs.LOGS)):
        with reading_errors(path), open(str(path), errors="replace") as log:
            for line in log:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue
