"""Which of the processes of one job this is: torchrun, mpirun and srun say it in the environment."""

from __future__ import annotations

import os
from typing import Tuple

LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
"""Rank and number of ranks as torchrun, Open MPI, MPICH and srun name them; the innermost launcher first.

SLURM also sets SLURM_PROCID in batch scripts and in interactive shells, for one process: only the number of tasks of
the step tells whether srun started several.
"""


def rank() -> int:
    """Return this process's number among those of its job, from 0."""
    return _rank_of_n()[0]


def n_ranks() -> int:
    """Return how many processes the job has; 1 where nothing started several."""
    return _rank_of_n()[1]


def _rank_of_n() -> Tuple[int, int]:
    for names in LAUNCHERS:
        texts = [os.environ.get(name, "") for name in names]
        if all(text.isdecimal() for text in texts):
            number, n = map(int, texts)
            if 0 <= number < n and n > 1:
                return number, n
    return 0, 1
