"""RELION reads what we write: it picks particles on a denoised set, from our STAR file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import starfile

from cryoden.__main__ import main
from cryoden.formats.mrc import write_image
from cryoden.formats.star import new_table, write_table

SAMPLING_RATE, DIAMETER_A, SIDE, N_PARTICLES = 4.0, 160.0, 512, 12


def particles(rng: np.random.Generator) -> np.ndarray:
    """Return centres (y, x) of particles that do not overlap."""
    places: list = []
    while len(places) < N_PARTICLES:
        place = rng.uniform(60, SIDE - 60, 2)
        if all(np.hypot(*(place - other)) > 70 for other in places):
            places.append(place)
    return np.array(places)


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_autopick") is None, reason="RELION (relion_autopick) is not installed")
def test_autopick_finds_the_particles_of_a_denoised_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:SIDE, :SIDE]
    centres = {}
    for kind in ("full", "odd", "even"):
        (tmp_path / kind).mkdir()
    for number in range(3):
        name = f"mic_{number}.mrc"
        centres[f"mic_{number}"] = particles(rng)
        clean = np.full((SIDE, SIDE), 20.0)
        for cy, cx in centres[f"mic_{number}"]:
            clean -= 4.0 / (1 + np.exp((np.hypot(y - cy, x - cx) - DIAMETER_A / 2 / SAMPLING_RATE) / 2))
        odd, even = (rng.poisson(clean).astype(np.float32) for _ in range(2))
        for kind, image in (("odd", odd), ("even", even), ("full", odd + even)):
            write_image(tmp_path / kind / name, image, SAMPLING_RATE)
    names = [f"full/{name}.mrc" for name in centres]
    write_table("full.star", new_table(names, SAMPLING_RATE, 300.0, 2.7, 0.1))
    train = ["train", "--odd", "odd", "--even", "even", "--output", "model", "--channels", "8", "16", "--crop", "128"]
    assert main([*train, "--epochs", "3", "--min-batches", "40", "--lr", "5e-3", "--device", "cpu"]) == 0
    assert main(["denoise", "full.star", "--model", "model/model.safetensors", "--output", "out"]) == 0

    command = ["relion_autopick", "--i", "out/micrographs.star", "--odir", "picks/", "--LoG", "--shrink", "0"]
    command += ["--LoG_diam_min", "150", "--LoG_diam_max", "200", "--lowpass", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, places in centres.items():
        picks = starfile.read(tmp_path / "picks" / "out" / f"{name}_autopick.star")
        found = picks[["rlnCoordinateY", "rlnCoordinateX"]].to_numpy()
        distances = np.hypot(*(places[:, None] - found[None]).transpose(2, 0, 1))
        assert np.mean(distances.min(axis=1) < 10) >= 0.9
