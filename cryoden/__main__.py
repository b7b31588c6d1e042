"""The entry of the command line: it is ready for signals, and for streams that nobody reads, before anything is loaded.

A Ctrl-C while the libraries are loaded, which takes most of a second, ends in one line like any other.
"""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterator, List, Optional

if TYPE_CHECKING:
    from cryoden.command_line import Command


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command and return its exit status."""
    with _without_traceback():
        from cryoden.system.ranks import rank
        from cryoden.system.signals import STOPPED_LINE, Stopped, stop_on_signals
        from cryoden.system.streams import forgiving_streams

        command: Optional[Command] = None
        with forgiving_streams():
            try:
                with stop_on_signals():
                    from cryoden.command_line import Command

                    command = Command(list(sys.argv[1:] if argv is None else argv))
                    failures = command.run()
            except (Stopped, Exception) as error:
                if command is not None:
                    return command.end({}, error)
                if not isinstance(error, Stopped):
                    raise  # a library is broken
                if rank() == 0:
                    print(f"cryoden: {STOPPED_LINE}", file=sys.stderr)
                return error.status
            return command.end(failures)


@contextmanager
def _without_traceback() -> Iterator[None]:
    """Let Ctrl-C end the process as the system does, where nothing else is set up yet."""
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
