"""Which of the machines that see the same folders this is, and the processes on it that numbers tell apart."""

from __future__ import annotations

import os
import platform
import re

from cryoden.system.ranks import n_local_ranks

FIRST_PROCESSES = 0xEFFFFFFC
"""Number of the PID namespace outside of all containers (Linux, include/linux/proc_ns.h, PROC_PID_INIT_INO)."""


def host_name() -> str:
    """Return what tells this host from others: a name without dots that may be part of a file's name.

    Containers that share the name of their host have processes of their own, so theirs carry the number of this world.
    """
    host = re.sub(r"[^A-Za-z0-9-]", "_", platform.node())[:64] or "_"
    try:
        world = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return host
    return host if world == FIRST_PROCESSES else f"{host}-{world}"


def n_cpus() -> int:
    """Return how many processors are this process's: those it is bound to, else its share among those of its job."""
    n_all = os.cpu_count() or 1
    n_bound = len(os.sched_getaffinity(0))
    return n_bound if n_bound < n_all else max(1, n_all // n_local_ranks())


def is_alive(process: int) -> bool:
    """Return whether there is a process of this number on this host; where that cannot be known, too."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # of another user; no number of a process
        return True
    return True
