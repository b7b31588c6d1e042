"""RELION's own motion correction on simulated movies: it finds the drift that was put in, and the hot pixels."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import starfile
import tifffile

from cryoden.config import HalvesConfig
from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.movies.split import split_movies
from cryoden.simulate.movies import simulate_movies
from tests.helpers import read_mrc, write_mrc

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


@pytest.mark.relion
@pytest.mark.skipif(PROGRAM is None, reason="RELION is not installed")
@pytest.mark.parametrize(("kind", "binning"), [("mrc", 1), ("lzw tiff", 2)])
def test_sums_of_a_finished_job_are_those_of_relion(kind: str, binning: int, tmp_path: Path) -> None:
    """With its time and interpolation; hot pixels, which it fills at random, are left to differ."""
    config = SimulateMoviesConfig(
        output="sim", movies=1, size=(512, 640), frames=10, sampling_rate=2.0, dose_per_frame=3.0, particles=30,
        drift=20.0, local_motion=12.0, dead_pixels=0, hot_pixels=5,
    )  # fmt: skip
    simulate_movies(config)
    if kind == "lzw tiff":  # RELION reads it from the bottom: the gain reference must be upside down
        movie, gain = read_mrc(Path("sim/movies/movie_0001.mrcs")), read_mrc(Path("sim/gain.mrc"))
        tifffile.imwrite("sim/movies/movie_0001.tif", movie.astype(np.uint8), compression="lzw")
        write_mrc(Path("sim/gain.mrc"), gain[::-1])
        table = Path("sim/movies.star")
        table.write_text(table.read_text().replace(".mrcs", ".tif"))

    words = "--i sim/movies.star --o mc/ --first_frame_sum 2 --last_frame_sum 0 --use_own --j 2 --dose_weighting"
    words += f" --bin_factor {binning} --bfactor 150 --dose_per_frame 3 --preexposure 0 --patch_x 3 --patch_y 3"
    words += " --save_noDW --gainref sim/gain.mrc --gain_rot 0 --gain_flip 0"
    subprocess.run([str(PROGRAM), *words.split()], check=True, timeout=60, capture_output=True)
    assert "local_motion_model" in starfile.read("mc/sim/movies/movie_0001.star")
    for output, weighting, name in (("weighted", "auto", ""), ("plain", "off", "_noDW")):
        halves = HalvesConfig(
            movies=("mc/corrected_micrographs.star",), output=output, local_motion="relion", dose_weighting=weighting
        )
        assert split_movies(halves).failures == {}
        ours, theirs = (
            read_mrc(Path(output, "full/movie_0001.mrc")),
            read_mrc(Path(f"mc/sim/movies/movie_0001{name}.mrc")),
        )
        assert ours.shape == theirs.shape == (512 // binning, 640 // binning)
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999
