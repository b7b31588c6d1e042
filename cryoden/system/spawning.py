"""One command by several processes of this machine, which the command itself starts: no launcher is needed.

The processes get the environment that torchrun would give them, and tell one another the rest. The process that starts
them waits, passes on signals, and ends those that hang because another one died.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from typing import Callable, Dict, List, Optional, Sequence

from cryoden.errors import LostProcessError, Remedy
from cryoden.system.host import n_cpus
from cryoden.system.signals import deferring_stop

PROGRAM = ("-m", "cryoden")
"""What Python runs."""

LOOK_SECONDS = 0.05
"""Between two looks at the processes."""

HANGING_SECONDS = 10.0
"""After the death of one, the others that depend on it have so long to end by themselves."""

STOPPING_SECONDS = 25.0
"""How long processes may take to end after a signal: longer than each of them gives itself."""

ALIVE = (None, 0, 1)
"""What is known of the exit status of a process that works, or came to its end."""

PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl: the signal that a process gets when the one that started it dies (linux/prctl.h)."""


def run_in_processes(words: Sequence[str], n: int, needs_all: bool, remedy: Remedy) -> int:
    """Run a command by several processes; return its exit status: that of the first process, if it lived to say one.

    Parameters
    ----------
    words
        After `cryoden`.
    n
        How many processes.
    needs_all
        Whether the death of one ends the others.
    remedy
        What to do if the death of one ended all without a word.

    Raises
    ------
    Stopped
        If a signal came: after all processes have ended.
    LostProcessError
        If processes died, and none was left to say so.
    """
    libc = ctypes.CDLL(None)

    def end_with_parent() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # no other is heard while they look for each other

    line = [sys.executable, *PROGRAM, *words]
    with deferring_stop(STOPPING_SECONDS) as should_stop:
        children = [
            subprocess.Popen(line, env=environment, preexec_fn=end_with_parent) for environment in _environments(n)
        ]
        try:
            death = _wait(children, should_stop, needs_all)
        finally:
            for child in children:
                child.kill()
                child.wait()

    statuses = [child.returncode for child in children]
    status = statuses[0] if statuses[0] >= 0 else max(statuses)
    if status < 0 or (status == 0 and statuses[0] < 0):
        death = death or _death(children)
    if death is not None:
        raise LostProcessError(f"{death}; the others cannot go on without it.", remedy=remedy)
    return status


def _death(children: Sequence[subprocess.Popen[bytes]]) -> Optional[str]:
    """Return which process was killed, and how; None where one has ended with an error, which it said itself."""
    statuses = [child.returncode for child in children]
    if any(status is not None and status > 1 for status in statuses):
        return None
    number, status = next((i, status) for i, status in enumerate(statuses) if status not in ALIVE)
    return f"Process {number + 1} of {len(children)} was killed by signal {-status}"


def _wait(
    children: Sequence[subprocess.Popen[bytes]], should_stop: Callable[[], bool], needs_all: bool
) -> Optional[str]:
    """Wait until all have ended; pass a stop on, and end what hangs; return which death it waited for, if any."""
    has_told = False
    failed_s: Optional[float] = None
    while None in [child.poll() for child in children]:
        if should_stop() and not has_told:
            has_told = True
            _tell(children, signal.SIGTERM)
        if needs_all and failed_s is None and any(child.returncode not in ALIVE for child in children):
            failed_s = time.monotonic()
        if failed_s is not None and time.monotonic() - failed_s > HANGING_SECONDS:
            death = _death(children)
            _tell(children, signal.SIGKILL)  # in a collective operation on GPUs, no other signal is heard
            return death
        time.sleep(LOOK_SECONDS)
    return None


def _tell(children: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def _environments(n: int) -> List[Dict[str, str]]:
    """Return the environment of each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = dict(
        os.environ, WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID=uuid.uuid4().hex,
    )  # fmt: skip
    common.setdefault("OMP_NUM_THREADS", str(max(1, n_cpus() // n)))
    return [dict(common, RANK=str(number), LOCAL_RANK=str(number)) for number in range(n)]
