"""How many movies or images are processed in parallel: what was asked for, as far as the memory reaches."""

from __future__ import annotations

import logging

from cryoden.config import GIB, HalvesConfig
from cryoden.system.memory import free_host_bytes
from cryoden.system.ranks import n_local_ranks

log = logging.getLogger(__name__)


def affordable(config: HalvesConfig, n_jobs: int, needed_bytes: int, items: str) -> int:
    """Return how many of some jobs fit into the memory that is allowed, at least 1.

    Parameters
    ----------
    config
        Memory that is allowed; where it says nothing, half of what is free, shared by the processes of this machine.
    n_jobs
        That are wanted.
    needed_bytes
        Of each; 0 = not known.
    items
        What they process, for the log: `movies` or `images`.
    """
    budget = config.memory * GIB if config.memory else free_host_bytes() / 2 / n_local_ranks()
    n_affordable = max(1, min(n_jobs, int(budget // needed_bytes))) if needed_bytes else n_jobs
    if n_affordable < n_jobs:
        log.info(
            "Processing %d %s in parallel, not %d: each needs about %.2f GiB of the %.2f GiB that are allowed.",
            n_affordable, items, n_jobs, needed_bytes / GIB, budget / GIB,
        )  # fmt: skip
    return n_affordable
