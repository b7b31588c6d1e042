"""Stopping on SIGINT and SIGTERM: an exception that runs through the context managers, one line, and a way to wait.

However signals, alarms and swallowed exceptions meet, the process ends within `seconds + CLEANING_SECONDS` of the first
signal (0 + `CLEANING_SECONDS` outside of `deferring_stop`).

The command line is to be wrapped so, around everything it does and with heavy imports inside::

    with forgiving_streams():
        try:
            with stop_on_signals():
                return run(...)
        except Stopped as stopped:
            if rank() == 0:
                print(f"cryoden: {STOPPED_LINE}", file=sys.stderr)
            return stopped.status
        except CryodenError as error:
            ...

`stop_on_signals` raises `Stopped` whenever a signal came, also in place of an exception that it caused elsewhere; so
handlers of other exceptions belong around it, not inside it. `Stopped` is no `Exception`: what records the failure of
one item and goes on must catch `Exception`, never `BaseException`.

Thread pools: leaving a pool waits for every job, also for those that have not begun. `StoppablePool` drops these when
an exception leaves it; a running job is waited for, at most `CLEANING_SECONDS`.

Training asks for a flag instead, to finish its step and to write a checkpoint::

    with deferring_stop() as should_stop:
        for step in steps:
            ...
            if should_stop():
                write_checkpoint()
                break

At the end of the block `Stopped` is raised if a signal came. Ranks are signalled at different moments, so they must
agree on the flag (a reduction by maximum) before they leave a loop with collective operations.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Callable, Iterator, NoReturn, Optional, Type, TypeVar

from cryoden.errors import CryodenError
from cryoden.system.ranks import rank

Result = TypeVar("Result")

STOPPED_LINE = "Stopped; the same command goes on from here."

SIGNALS = (signal.SIGINT, signal.SIGTERM)

CLEANING_SECONDS = 10.0
"""After this long the process ends even if a job still runs; its temporary files and lock fall to the next run."""

SAME_REQUEST_SECONDS = 1.0
"""Signals that come so soon after the first mean the same: a terminal and a launcher, or `timeout`, both send one."""

SWALLOWED_SECONDS = 0.05
"""How soon it is raised again where Python ignores exceptions, as in finalizers."""


class Stopped(BaseException):
    """A signal asks the process to end.

    Parameters
    ----------
    number
        Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number

    @property
    def status(self) -> int:
        """The exit status that shells give to it: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


class _Stop:
    """What is known of a request to stop. All methods run in the main thread, between two of its instructions."""

    def __init__(self) -> None:
        self.number: Optional[int] = None
        self.deferred_seconds: Optional[float] = None
        self._time = 0.0
        self._is_raised = False

    def on_signal(self, number: int, frame: Optional[FrameType]) -> None:
        """Raise, or begin to wait; a second request ends the waiting, or the process."""
        if self.number is None:
            self._time = time.monotonic()  # first: the other signal's call may interrupt this one anywhere
            self.number = number
            if self.deferred_seconds is None:
                self.throw()
            signal.setitimer(signal.ITIMER_REAL, self.deferred_seconds)
        elif time.monotonic() - self._time > SAME_REQUEST_SECONDS:
            self.on_alarm(number, frame)

    def on_alarm(self, number: int, frame: Optional[FrameType]) -> None:
        """Raise what was deferred or swallowed; where cleaning up hangs, end."""
        if self._is_raised:
            self._end()
        self.throw()

    def throw(self) -> NoReturn:
        """Raise `Stopped`, and see to it that cleaning up does not take long."""
        self._is_raised = True
        signal.setitimer(signal.ITIMER_REAL, CLEANING_SECONDS)
        raise Stopped(self.number or 0)

    def on_ignored(self) -> None:
        """Have the exception raised again that Python could only report."""
        self._is_raised = False
        signal.setitimer(signal.ITIMER_REAL, SWALLOWED_SECONDS)

    def on_late_signal(self, number: int, frame: Optional[FrameType]) -> None:
        """End at once where the interpreter is shutting down, without its traceback."""
        if time.monotonic() - self._time > SAME_REQUEST_SECONDS:
            os._exit(128 + (self.number or number))

    def _end(self) -> NoReturn:
        try:
            if rank() == 0:
                os.write(2, f"cryoden: {STOPPED_LINE}\n".encode())
        finally:
            os._exit(128 + (self.number or 0))


_current: Optional[_Stop] = None
"""Of the `stop_on_signals` around; None outside."""


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Stopped` in the main thread; without effect in others and inside itself.

    A signal that the process was started to ignore, as by `nohup`, stays ignored. A second signal, more than a second
    after the first, ends the process at once.

    Raises
    ------
    Stopped
        If a signal came, also where its exception was caught or turned into another on the way.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    stop = _current = _Stop()
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    unraisable_before = sys.unraisablehook

    def on_unraisable(args: Any) -> None:
        if isinstance(args.exc_value, Stopped):
            stop.on_ignored()
        else:
            unraisable_before(args)

    try:
        sys.unraisablehook = on_unraisable
        signal.signal(signal.SIGALRM, stop.on_alarm)
        for number in SIGNALS:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, stop.on_signal)
        yield
    except BaseException as error:
        if stop.number is None or isinstance(error, (Stopped, CryodenError)):
            raise
        raise Stopped(stop.number) from error  # as where an import of C code was interrupted
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            is_late = stop.number is not None and number in SIGNALS and handler is not signal.SIG_IGN
            signal.signal(number, stop.on_late_signal if is_late else handler or signal.SIG_DFL)
            if is_late:
                # Python's last steps give handlers back to the system, but leave signals ignored that are.
                atexit.register(signal.signal, number, signal.SIG_IGN)
        sys.unraisablehook = unraisable_before
        _current = None
    if stop.number is not None:
        raise Stopped(stop.number)


@contextmanager
def deferring_stop(seconds: float = 10.0) -> Iterator[Callable[[], bool]]:
    """Let a signal set a flag instead of raising; give the function that asks for the flag.

    Parameters
    ----------
    seconds
        From the signal on; then `Stopped` is raised all the same, as at a second signal.

    Raises
    ------
    Stopped
        At the end of the block at the latest, if a signal came.

    Notes
    -----
    Outside of `stop_on_signals` nothing is deferred.
    """
    stop = _current
    if stop is None or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    stop.deferred_seconds = seconds
    try:
        yield lambda: stop.number is not None
    finally:
        stop.deferred_seconds = None
    if stop.number is not None:
        stop.throw()


class StoppablePool(ThreadPoolExecutor):
    """Threads whose jobs that have not begun are dropped when an exception leaves the context."""

    def __init__(self, n_threads: int) -> None:
        super().__init__(n_threads)
        self._lock = threading.Lock()
        self._futures: weakref.WeakSet[Future] = weakref.WeakSet()

    def submit(self, job: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Schedule a job, as every executor does."""
        with self._lock:
            future = super().submit(job, *args, **kwargs)
            self._futures.add(future)
        return future

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> Optional[bool]:
        if kind is not None:
            self.shutdown(wait=False)  # what still runs cannot add to it
            self.cancel_pending()
        return super().__exit__(kind, value, trace)

    def cancel_pending(self) -> None:
        """Drop the jobs that have not begun (`shutdown(cancel_futures=True)` is new in Python 3.9)."""
        with self._lock:
            futures = list(self._futures)
        for future in futures:
            future.cancel()
