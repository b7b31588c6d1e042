"""Motion in RELION's form: as RELION 3.1.3 writes it of the same movie, and read by both programs.

`relion_3.1.3.star` is what `relion_run_motioncorr --use_own --patch_x 4 --patch_y 4 --bfactor 150` wrote of the movie
that `movie` makes.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Callable

import numpy as np
import pandas as pd
import pytest

from cryoden.formats.relion_job import MovieCorrection, read_movie_correction, write_movie_correction
from cryoden.formats.star_text import read_blocks
from cryoden.movies.motion.local_motion import LocalMotionModel
from tests.helpers import Result, read_mrc, write_raw_mrc
from tests.moving import BENT, N_FRAMES, RATE, SHAPE, drift, field_of, moving_frames, rms

Run = Callable[..., Result]
THEIRS = Path(__file__).with_name("relion_3.1.3.star")

MOVIES_STAR = f"""
data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographOriginalPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
opticsGroup1 1 {RATE} 300 2.7 0.1

data_movies

loop_
_rlnMicrographMovieName #1
_rlnOpticsGroup #2
movies/m.mrcs 1
"""


@pytest.fixture
def movie() -> None:
    frames = np.stack(list(moving_frames(drift(), 12.0, 1, BENT))).astype(np.uint8)
    frames[:, 50, 60] = 200
    frames[:, 200, 300] = 180
    Path("movies").mkdir()
    write_raw_mrc(Path("movies/m.mrcs"), frames, 0)
    Path("movies.star").write_text(MOVIES_STAR)


@pytest.fixture
def ours(movie: None, cryoden: Run) -> Path:
    words = ("--align", "--align-patches", 4, "--dose-per-frame", 1)
    assert cryoden("halves", "movies.star", "--output", "out", *words).status == 0
    return Path("out/motion/m.star")


def motion_of(correction: MovieCorrection) -> np.ndarray:
    """Return the motion `(frames, y, x, 2)` in some places."""
    model = LocalMotionModel.of(correction)
    fields = np.array([field_of(model, frame)[:, 16::32, 16::32] for frame in range(1, N_FRAMES + 1)])
    shifts = np.array([correction.shifts[frame] for frame in range(1, N_FRAMES + 1)])
    return np.moveaxis(fields, 1, 3) + shifts[:, None, None]


def test_tables_labels_and_values_are_relions(ours: Path) -> None:
    here, there = read_blocks(ours), read_blocks(THEIRS)
    assert [name for name in here if name != "hot_pixels"] == [name for name in there if name != "local_shift"]
    for name in ("general", "global_shift", "local_motion_model"):
        assert list(here[name]) == list(there[name])

    of_movie = [label for label in here["general"] if label != "rlnMicrographMovieName"]
    numbers = [block["general"][of_movie].astype(float).iloc[0].tolist() for block in (here, there)]
    assert numbers[0] == numbers[1]
    assert here["general"]["rlnMicrographMovieName"][0] == there["general"]["rlnMicrographMovieName"][0]
    assert here["global_shift"]["rlnMicrographFrameNumber"].astype(int).tolist() == list(range(1, N_FRAMES + 1))
    assert here["hot_pixels"].astype(float).to_numpy().tolist() == [[60, 50], [300, 200]]  # x, y from 0, as RELION's


def test_motion_is_relions(ours: Path) -> None:
    here, there = read_movie_correction(ours), read_movie_correction(THEIRS)
    assert here.shifts[1] == there.shifts[1] == (0, 0)
    one, other = motion_of(here), motion_of(there)
    assert rms(one.mean(axis=(1, 2)), other.mean(axis=(1, 2))) < 0.15

    local = one - one.mean(axis=(1, 2), keepdims=True)
    assert np.sqrt((local**2).sum(axis=-1).mean()) > 1.2
    difference = local - (other - other.mean(axis=(1, 2), keepdims=True))
    assert np.sqrt((difference**2).sum(axis=-1).mean()) < 0.35  # RELION's error, mostly: 0.27 px, ours 0.11


def test_relions_file_and_the_same_written_here_give_the_same_sums(movie: None, cryoden: Run) -> None:
    correction = read_movie_correction(THEIRS)
    for folder in ("theirs", "again"):
        Path(folder).mkdir()
    shutil.copy(THEIRS, "theirs/m.star")
    coefficients = LocalMotionModel.of(correction).coefficients
    write_movie_correction(Path("again/m.star"), replace(correction, coefficients=coefficients))

    for folder in ("theirs", "again"):
        words = ("--shifts", folder, "--local-motion", "middle", "--output", f"of_{folder}", "--hot-pixels", "off")
        assert cryoden("halves", "movies.star", *words).status == 0
    for kind in ("odd", "even", "full"):
        one, other = (read_mrc(Path(f"of_{folder}", kind, "m.mrc")) for folder in ("theirs", "again"))
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_what_is_not_known_is_not_written(movie: None, cryoden: Run) -> None:
    assert cryoden("halves", "movies.star", "--output", "out", "--align", "--align-patches", 1).status == 0
    written = read_blocks("out/motion/m.star")
    assert not {"rlnMicrographDoseRate", "rlnMicrographPreExposure", "rlnMicrographGainName"} & set(written["general"])
    assert "local_motion_model" not in written


@pytest.mark.parametrize(("turn", "is_named"), [((), True), (("--gain-rotation", "180"), False)])
def test_gain_is_named_where_relion_could_apply_it(movie: None, cryoden: Run, turn: tuple, is_named: bool) -> None:
    write_raw_mrc(Path("gain.mrc"), np.ones((1, *SHAPE), np.float32), 2)
    words = ("--output", "out", "--align", "--align-patches", 1, "--gain", "gain.mrc", *turn)
    assert cryoden("halves", "movies.star", *words).status == 0
    assert read_movie_correction("out/motion/m.star").gain == ("gain.mrc" if is_named else None)


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_run_motioncorr") is None, reason="RELION (relion_run_motioncorr) is missing")
def test_relion_reads_it(ours: Path) -> None:
    """A job that finds every movie corrected reads the files about them, and sums up their motion."""
    Path("MC/movies").mkdir(parents=True)
    shutil.copy(ours, "MC/movies")
    shutil.copy("out/full/m.mrc", "MC/movies")
    words = "--i movies.star --o MC/ --use_own --only_do_unfinished"
    subprocess.run(["relion_run_motioncorr", *words.split()], check=True, capture_output=True, timeout=60)
    row = read_blocks("MC/corrected_micrographs.star")["micrographs"].iloc[0]

    shifts = np.array(list(read_movie_correction(ours).shifts.values()))
    steps = np.hypot(*np.diff(shifts, axis=0).T)
    of_relion = pd.to_numeric(row[["rlnAccumMotionTotal", "rlnAccumMotionEarly", "rlnAccumMotionLate"]]).to_numpy(float)
    assert of_relion[0] == pytest.approx(steps.sum(), rel=1e-4)
    assert of_relion[1] == pytest.approx(steps[:3].sum(), rel=1e-4)  # the first 4 e/A^2
    assert of_relion[1] + of_relion[2] == pytest.approx(of_relion[0], rel=1e-4)
