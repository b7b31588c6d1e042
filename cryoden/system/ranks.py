"""Which of the processes of one job this is: torchrun, mpirun and srun say it in the environment."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Optional, Tuple


@dataclass(frozen=True)
class Launcher:
    """What a launcher tells its processes, by the names of environment variables.

    Attributes
    ----------
    rank, n_ranks
        Number of a process, and how many there are.
    local_rank, n_local
        The same among those of one machine.
    job
        What all processes of one job share, and other jobs do not.
    """

    rank: str
    n_ranks: str
    local_rank: str
    n_local: str
    job: Tuple[str, ...]


LAUNCHERS = (
    Launcher(
        "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
        ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID"),
    ),
    Launcher(
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
        ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID"),
    ),
    Launcher("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", ("PMI_JOBID", "SLURM_JOB_ID")),
    Launcher(
        "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE",
        ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
    ),
)  # fmt: skip
"""torchrun, Open MPI, MPICH and srun; the innermost launcher first.

SLURM also sets SLURM_PROCID in batch scripts and in interactive shells, for one process: only the number of tasks of
the step tells whether srun started several.
"""

TORCHRUN = LAUNCHERS[0]


def rank() -> int:
    """Return this process's number among those of its job, from 0."""
    return _place()[1]


def n_ranks() -> int:
    """Return how many processes the job has; 1 where nothing started several."""
    return _place()[2]


def local_rank() -> int:
    """Return this process's number among those of its job on this machine, from 0."""
    launcher = _place()[0]
    return (_number(launcher.local_rank) or 0) if launcher else 0


def n_local_ranks() -> int:
    """Return how many processes of the job share this machine; 1 where the launcher does not say it."""
    launcher = _place()[0]
    if launcher is None:
        return 1
    said = re.match(r"\d+", os.environ.get(launcher.n_local, ""))  # srun says 2(x3),1 for four machines
    return max(1, int(said.group())) if said else 1


def is_torchrun() -> bool:
    """Return whether the processes of the job can reach each other through torch.distributed."""
    return _place()[0] in (None, TORCHRUN)


def job_name() -> str:
    """Return what this job's processes have in common and those of other jobs do not; empty for one process alone."""
    launcher, _, n = _place()
    if launcher is None:
        return ""
    return " ".join([launcher.rank, str(n), *(os.environ.get(name, "") for name in launcher.job)])


def _place() -> Tuple[Optional[Launcher], int, int]:
    """Return who started this process with others, its number and theirs."""
    for launcher in LAUNCHERS:
        number, n = _number(launcher.rank), _number(launcher.n_ranks)
        if number is not None and n is not None and number < n and n > 1:
            return launcher, number, n
    return None, 0, 1


def _number(name: str) -> Optional[int]:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else None
