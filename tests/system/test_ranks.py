"""The environments that launchers set."""

from __future__ import annotations

from typing import Dict

import pytest

from cryoden.system.ranks import LAUNCHERS, n_ranks, rank


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "4"}, (1, 4)),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}, (2, 3)),
        ({"PMI_RANK": "2", "PMI_SIZE": "3"}, (2, 3)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}, (3, 4)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, (0, 1)),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, (1, 2)),
        ({"RANK": "0", "WORLD_SIZE": "1", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, (1, 2)),
        ({"WORLD_SIZE": "2"}, (0, 1)),
        ({"RANK": "1"}, (0, 1)),
        ({"RANK": "5", "WORLD_SIZE": "2"}, (0, 1)),
        ({"RANK": "-1", "WORLD_SIZE": "two"}, (0, 1)),
        ({"RANK": "\u00b2", "WORLD_SIZE": "4"}, (0, 1)),
    ],
)
def test_rank_and_number(monkeypatch: pytest.MonkeyPatch, environment: Dict[str, str], expected: tuple) -> None:
    for launcher in LAUNCHERS:
        for name in (launcher.rank, launcher.n_ranks):
            monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (rank(), n_ranks()) == expected
