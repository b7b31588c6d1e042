"""Commands whose disk fills up at any moment: one line says so, nothing half-written stays, and the rest is kept."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import pytest

from tests.helpers import Result, leftovers, write_halves, write_mrc, write_raw_mrc

Run = Callable[..., Result]


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Give a disk with room for so many kB, or (if negative) for so many files."""
    room = request.param
    options = f"size={room}k" if room > 0 else f"size=8m,nr_inodes={-room}"
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


ROOMS = [4, 8, 12, 32, 48, -2, -4, -5, -7, -9]
MORE_ROOMS = [*range(16, 32, 4), *range(36, 128, 4), -3, -6, -8, *range(-20, -9)]

COMMANDS = {
    "halves": "halves a.mrcs b.mrcs --sampling-rate 1.5",
    "denoise": "denoise full --model blur.safetensors",
    "patches": "patches export --odd odd --even even --patch 32",
    "simulate": "simulate movies --movies 1 --size 64 64 --frames 2 --particles 2",
}


@pytest.mark.parametrize(
    "disk", [*ROOMS, *(pytest.param(room, marks=pytest.mark.long) for room in MORE_ROOMS)], indirect=True
)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.filterwarnings("error")
def test_disk_that_fills_up(tmp_path: Path, disk: Path, cryoden: Run, blur_model: Path, command: str) -> None:
    rng = np.random.default_rng(1)
    write_halves(tmp_path, 2, (64, 64), mean=20.0)
    for name in ("a.mrc", "b.mrc"):
        write_mrc(tmp_path / "full" / name, rng.normal(size=(64, 64)))
        write_raw_mrc(tmp_path / f"{name}s", rng.integers(0, 60, (4, 40, 48)), 6)
    result = cryoden(*COMMANDS[command].split(), "--output", disk / "out")
    assert leftovers(disk) == [] or command == "patches"  # those are continued
    assert "Exception ignored" not in result.err
    assert "should not have happened" not in result.err
    assert "Traceback" not in result.err
    if result.status:
        said = [line for line in result.err.splitlines() if line.startswith("cryoden: ")]
        assert any("The disk is full: " in line or "are free there" in line for line in said), result.err
