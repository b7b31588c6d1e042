"""Picks on coarser micrographs, for the original ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Callable, Dict, List

import numpy as np
import pandas as pd
import pytest
import starfile

from cryoden.formats.star import new_table, write_table
from tests.helpers import Result, clean_signal, write_mrc

Run = Callable[..., Result]

ORIGINALS = ["MotionCorr/job002/movies/a.mrc", "MotionCorr/job002/movies/b.mrc"]
PICKED = ["denoised/a.mrc", "denoised/b.mrc"]
WORDS = ("--picked", "denoised.star", "--micrographs", "originals.star", "--output", "out")

# 100 x 121 px are cropped to 25 x 30: the two scales differ by rounding.
SCALE = {"rlnCoordinateX": 121 / 30, "rlnCoordinateY": 4.0}
PICKS = {"rlnCoordinateX": [3.0, 20.5], "rlnCoordinateY": [7.25, 24.0]}


@pytest.fixture(autouse=True)
def _micrographs() -> None:
    for number, (original, picked) in enumerate(zip(ORIGINALS, PICKED)):
        write_mrc(Path(original), clean_signal((100, 121), number), 1.0)
        write_mrc(Path(picked), clean_signal((25, 30), number), 4.0)
    write_table("originals.star", new_table(ORIGINALS, 1.0, 300.0, 2.7, 0.1))
    write_table("denoised.star", new_table(PICKED, 4.0, 300.0, 2.7, 0.1))


def write_picks(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    starfile.write(pd.DataFrame({**PICKS, "rlnClassNumber": [1, 2]}), path)


def require_rescaled(path: str) -> None:
    table = starfile.read(path)
    for label, values in PICKS.items():
        np.testing.assert_allclose(table[label], np.array(values) * SCALE[label], rtol=1e-6)
    assert table["rlnClassNumber"].tolist() == [1, 2]


def write_job() -> None:
    """Write what a picking job of RELION 3.1 leaves."""
    for name in ("a", "b"):
        write_picks(f"AutoPick/job006/denoised/{name}_autopick.star")
    Path("AutoPick/job006/coords_suffix_autopick.star").write_text("denoised.star\n")


@pytest.mark.parametrize("picks", ["AutoPick/job006/", "AutoPick/job006/coords_suffix_autopick.star"])
def test_picks_of_relion_3(cryoden: Run, picks: str) -> None:
    write_job()
    result = cryoden("relion", "coordinates", picks, *WORDS)
    assert result.status == 0, result.err
    for name in ("a", "b"):  # where RELION 3.1 looks for the picks of the originals
        require_rescaled(f"out/movies/{name}_autopick.star")
    assert Path("out/coords_suffix_autopick.star").read_text() == "originals.star\n"


def test_picks_of_relion_4(cryoden: Run) -> None:
    write_picks("Select/a_picks.star")
    table = {"rlnMicrographName": PICKED[:1], "rlnMicrographCoordinates": ["Select/a_picks.star"]}
    starfile.write({"coordinate_files": pd.DataFrame(table)}, "autopick.star")
    result = cryoden("relion", "coordinates", "autopick.star", *WORDS)
    assert result.status == 0, result.err
    listed = starfile.read("out/coordinates.star", always_dict=True)["coordinate_files"]
    assert listed["rlnMicrographName"].tolist() == ORIGINALS[:1]
    assert listed["rlnMicrographCoordinates"].tolist() == ["out/movies/a_picks.star"]
    require_rescaled("out/movies/a_picks.star")


def test_particles_of_several_micrographs(cryoden: Run) -> None:
    optics = new_table(["-"], 4.0, 300.0, 2.7, 0.1).optics
    names = [PICKED[0], PICKED[1]]
    table = pd.DataFrame({**PICKS, "rlnMicrographName": names, "rlnClassNumber": [1, 2], "rlnOpticsGroup": 1})
    starfile.write({"optics": optics, "particles": table}, "particles.star")
    assert cryoden("relion", "coordinates", "particles.star", *WORDS).status == 0
    written = starfile.read("out/coordinates.star")
    assert written["particles"]["rlnMicrographName"].tolist() == ORIGINALS
    np.testing.assert_allclose(written["particles"]["rlnCoordinateX"], np.array([3.0, 20.5]) * 121 / 30, rtol=1e-6)
    assert written["particles"]["rlnClassNumber"].tolist() == [1, 2]


def test_again_makes_what_is_new_only(cryoden: Run) -> None:
    write_job()
    cryoden("relion", "coordinates", "AutoPick/job006", *WORDS)
    kept, changed = (Path(f"out/movies/{name}_autopick.star") for name in ("a", "b"))
    times = [path.stat().st_mtime_ns for path in (kept, changed)]
    table = pd.DataFrame({"rlnCoordinateX": [1.0], "rlnCoordinateY": [2.0]})
    starfile.write(table, "AutoPick/job006/denoised/b_autopick.star", overwrite=True)
    assert cryoden("relion", "coordinates", "AutoPick/job006", *WORDS).status == 0
    assert kept.stat().st_mtime_ns == times[0]
    assert starfile.read(changed)["rlnCoordinateY"].tolist() == [8.0]


def test_what_cannot_be_matched_is_named(cryoden: Run) -> None:
    write_job()
    write_table("originals.star", new_table(ORIGINALS[:1], 1.0, 300.0, 2.7, 0.1))
    result = cryoden("relion", "coordinates", "AutoPick/job006", *WORDS)
    assert result.status == 1
    assert result.last_error == (
        "cryoden: failed: denoised/b.mrc: denoised/b.mrc cannot be matched: no original has its name."
    )
    require_rescaled("out/movies/a_autopick.star")


def of_another_area() -> None:
    write_mrc(Path(ORIGINALS[0]), clean_signal((100, 100), 1), 1.0)


def of_two_days() -> None:
    names = ["MotionCorr/job002/day1/a.mrc", "MotionCorr/job002/day2/a.mrc"]
    write_table("originals.star", new_table(names, 1.0, 300.0, 2.7, 0.1))


def without_numbers() -> None:
    table = pd.DataFrame({"rlnCoordinateX": [1.0], "rlnCoordinateZ": [2.0]})
    starfile.write(table, "AutoPick/job006/denoised/a_autopick.star", overwrite=True)


def without_picks() -> None:
    shutil.rmtree("AutoPick/job006/denoised")


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (of_another_area, "denoised/a.mrc has 30 x 25 px and MotionCorr/job002/movies/a.mrc 100 x 100 px: they cannot"),
        (of_two_days, "denoised/a.mrc cannot be matched: several originals are called a."),
        (without_numbers, "AutoPick/job006/denoised/a_autopick.star has no rlnCoordinateY, or one that is no number."),
        (without_picks, "AutoPick/job006 has no picks on the micrographs of denoised.star; give the set on which was"),
    ],
)
def test_what_cannot_be_rescaled(cryoden: Run, harm: Callable[[], None], line: str) -> None:
    write_job()
    Path("AutoPick/job006/denoised/b_autopick.star").unlink()
    harm()
    result = cryoden("relion", "coordinates", "AutoPick/job006", *WORDS)
    assert result.status == 2
    assert line in result.last_error
    assert result.err.count("\n") == 1


def comments_of(path: str) -> List[str]:
    return [line for line in Path(path).read_text().splitlines() if line.startswith("#")]


def test_the_star_file_of_denoised_micrographs_says_the_scale(cryoden: Run, make_model: Callable[..., Path]) -> None:
    model = make_model(rate=4.0)
    said: Dict[str, List[str]] = {}
    for folder, more in (("coarse", []), ("full", ["--full-size"])):
        words = ("denoise", "originals.star", "--model", model, "--output", folder, "--device", "cpu", *more)
        assert cryoden(*words).status == 0
        said[folder] = comments_of(f"{folder}/micrographs.star")
        assert len(starfile.read(f"{folder}/micrographs.star")["micrographs"]) == 2
    assert said["coarse"][0].endswith("coordinates are to be multiplied by 4.0333 for these.")
    assert said["full"][0].endswith("coordinates hold for both.")
