"""RELION's own motion correction on simulated movies: it finds the drift that was put in, and the hot pixels."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import starfile

from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.simulate.movies import simulate_movies

PROGRAM = shutil.which("relion_run_motioncorr")


@pytest.mark.relion
@pytest.mark.skipif(PROGRAM is None, reason="RELION is not installed")
def test_relion_finds_the_drift_and_the_hot_pixels(tmp_path: Path) -> None:
    config = SimulateMoviesConfig(
        output="sim", movies=1, size=(512, 640), frames=12, sampling_rate=2.0, dose_per_frame=3.0, particles=30,
        drift=30.0, dead_pixels=0, hot_pixels=5,
    )  # fmt: skip
    facts = simulate_movies(config)["movie_0001"]
    words = "--i sim/movies.star --o mc/ --first_frame_sum 1 --last_frame_sum 0 --use_own --j 2 --bin_factor 1"
    words += " --bfactor 150 --dose_per_frame 3 --preexposure 0 --patch_x 1 --patch_y 1 --gainref sim/gain.mrc"
    subprocess.run([str(PROGRAM), *words.split(), "--gain_rot", "0", "--gain_flip", "0"], check=True, timeout=60)
    found = starfile.read("mc/sim/movies/movie_0001.star")
    shifts = found["global_shift"][["rlnMicrographShiftY", "rlnMicrographShiftX"]].to_numpy()
    # RELION writes by how much a frame is to be moved back.
    np.testing.assert_allclose(-shifts, facts.shifts, atol=0.8)
    hot = found["hot_pixels"][["rlnCoordinateX", "rlnCoordinateY"]].to_numpy().astype(int)
    assert sorted(map(tuple, hot)) == sorted(map(tuple, np.loadtxt("sim/defects.txt", dtype=int)[:, :2]))
