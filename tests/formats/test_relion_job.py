"""What RELION's motion correction writes about a movie is read as it is written; whatever is wrong with it is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest

from cryoden.errors import FileError
from cryoden.formats.relion_job import (
    FinishedJob,
    finished_job,
    read_defects,
    read_movie_correction,
    read_movie_name,
    require_finished,
)
from cryoden.formats.star import read_table
from tests.helpers import write_mrc
from tests.relion_job import NOT_USED, MovieStar, some_coefficients, write_job

SHIFTS = [NOT_USED, (0.0, 0.0), (1.5, -2.25), (2.0, -3.0), NOT_USED]
STAR = MovieStar(
    "Movies/a.b/m.1.mrcs", (60, 80), SHIFTS, some_coefficients(), binning=2.0, hot=[(3, 70), (59, 0)],
    values={"rlnMicrographGainName": "gain.mrc", "rlnMicrographPreExposure": 4.0},
)  # fmt: skip


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "m.star"
    path.write_text(replace(STAR, **changes).text())
    return path


def test_everything_is_read(tmp_path: Path) -> None:
    path = written(tmp_path)
    found = read_movie_correction(path)
    assert (found.movie, found.shape, found.n_frames) == ("Movies/a.b/m.1.mrcs", (60, 80), 5)
    assert found.shifts == {2: (0.0, 0.0), 3: (1.5, -2.25), 4: (2.0, -3.0)}
    assert (found.binning, found.sampling_rate, found.gain, found.voltage) == (2.0, 1.5, "gain.mrc", 300.0)
    assert (found.dose_per_frame, found.initial_dose, found.eer_grouping) == (1.0, 4.0, None)
    assert found.coefficients is not None
    np.testing.assert_allclose(found.coefficients.ravel(), some_coefficients(), rtol=1e-6)
    assert found.observed is not None
    assert found.observed.shape == (75, 5)
    np.testing.assert_array_equal(found.hot_pixels, [[3, 59], [70, 0]])
    assert read_movie_name(path) == found.movie


def test_eer_movies_say_how_they_were_rendered(tmp_path: Path) -> None:
    found = read_movie_correction(written(tmp_path, values={"rlnEERGrouping": 32, "rlnEERUpsampling": 2}))
    assert (found.eer_grouping, found.eer_upsampling) == (32, 2)


BAD: Dict[str, Any] = {
    "of another number of frames": ({"values": {"rlnImageSizeZ": 7}}, "has shifts of 5 frames, but the movie had 7"),
    "without a name": ({"values": {"rlnMicrographMovieName": None}}, "does not say rlnMicrographMovieName"),
    "of no size": ({"values": {"rlnImageSizeX": 0}}, "has rlnImageSizeX 0; it must be a whole number of at least 1"),
    "of a binning that is none": ({"values": {"rlnMicrographBinning": "x"}}, "has rlnMicrographBinning x; it must be"),
    "of an unknown model": ({"values": {"rlnMotionModelVersion": 7}}, "has the unknown motion model 7"),
    "with a model too short": ({"coefficients": np.ones(18)}, "has a motion model of 18 coefficients; they must be 36"),
    "without its model": ({"coefficients": None, "values": {"rlnMotionModelVersion": 1}}, "local_motion_model has no"),
    "without used frames": ({"shifts": [NOT_USED] * 5, "coefficients": None}, "none was used"),
    "with a gap": ({"shifts": [(0, 0), NOT_USED, (1, 1)], "coefficients": None}, "no shift of frame 2, between"),
    "with shifts that are none": ({"shifts": [(0, 0), (float("nan"), 1)], "coefficients": None}, "are no numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, case: str) -> None:
    changes, message = BAD[case]
    if "coefficients" in changes and changes["coefficients"] is not None:
        changes = {**changes, "has_observed": False}
    path = written(tmp_path, **changes)
    with pytest.raises(FileError, match=message) as raised:
        read_movie_correction(path)
    assert raised.value.problem.subject == str(path)
    assert raised.value.problem.message.endswith(".")


def test_a_truncated_file_and_one_of_something_else(tmp_path: Path) -> None:
    text = STAR.text()
    (tmp_path / "m.star").write_text(text[: text.index("data_global_shift")])
    with pytest.raises(FileError, match="it has no table global_shift"):
        read_movie_correction(tmp_path / "m.star")
    (tmp_path / "m.star").write_text("data_other\n\n_rlnX 1\n")
    with pytest.raises(FileError, match="it has no block data_general"):
        read_movie_correction(tmp_path / "m.star")


def job_in(project: Path) -> FinishedJob:
    job = finished_job(read_table(write_job(project, {"a_b/m_1": STAR})))
    assert job is not None
    return job


def test_the_project_is_found_from_the_table_and_not_from_the_current_folder(tmp_path: Path) -> None:
    job = job_in(tmp_path / "far" / "project")
    assert job.project == tmp_path / "far" / "project"
    assert read_movie_name(job.metadata[0]) == STAR.movie


def test_a_job_without_its_project_is_refused(tmp_path: Path) -> None:
    table = write_job(tmp_path / "project", {"a_b/m_1": STAR})
    (tmp_path / "project/MotionCorr/job002/a_b/m_1.star").unlink()
    with pytest.raises(FileError, match=r"names MotionCorr/job002/a_b/m_1\.star, which is in no folder above it"):
        finished_job(read_table(table))


def test_a_table_of_something_else_is_no_job(tmp_path: Path) -> None:
    (tmp_path / "movies.star").write_text("data_movies\n\nloop_\n_rlnMicrographMovieName #1\nm.mrc\n\n")
    assert finished_job(read_table(tmp_path / "movies.star")) is None
    assert finished_job(None) is None


def test_moved_movies_are_found_by_the_longest_end_of_their_name(tmp_path: Path) -> None:
    job = job_in(tmp_path / "project")
    assert job.located(STAR.movie) is None
    (tmp_path / "project/Movies/a.b").mkdir(parents=True)
    (tmp_path / "project" / STAR.movie).touch()
    assert job.located(STAR.movie) == tmp_path / "project" / STAR.movie

    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "a.b").mkdir(parents=True)
    (elsewhere / "m.1.mrcs").touch()
    assert job.located(STAR.movie, str(elsewhere)) == elsewhere / "m.1.mrcs"
    (elsewhere / "a.b" / "m.1.mrcs").touch()
    assert job.located(STAR.movie, str(elsewhere)) == elsewhere / "a.b" / "m.1.mrcs"
    assert job.located("Movies/other.mrcs", str(elsewhere)) is None


def test_whether_the_sums_are_dose_weighted(tmp_path: Path) -> None:
    assert job_in(tmp_path).is_dose_weighted is None
    job_star = tmp_path / "MotionCorr/job002/job.star"
    for answer, expected in (("Yes", True), ("No", False)):
        rows = f"do_dose_weighting {answer}\nfn_gain_ref None"
        job_star.write_text(
            f"data_joboptions_values\n\nloop_\n_rlnJobOptionVariable #1\n_rlnJobOptionValue #2\n{rows}\n\n"
        )
        assert job_in(tmp_path).is_dose_weighted is expected
    job_star.unlink()
    job = finished_job(read_table(write_job(tmp_path, {"a_b/m_1": STAR}, unweighted=True)))
    assert job is not None
    assert job.is_dose_weighted is True


def test_a_job_that_did_not_finish_is_named(tmp_path: Path) -> None:
    table = write_job(tmp_path, {"a_b/m_1": STAR})
    require_finished(table)
    table.unlink()
    with pytest.raises(FileError, match=r"job002 did not finish\. Continue it in RELION"):
        require_finished(table)
    (table.parent / "RELION_JOB_EXIT_FAILURE").touch()
    with pytest.raises(FileError, match="did not finish; it ended with RELION_JOB_EXIT_FAILURE"):
        require_finished(table)


def test_defects_are_a_list_or_a_mask(tmp_path: Path) -> None:
    (tmp_path / "defects.txt").write_text("# x y width height\n3 1 2 1\n\n0 4 1 2\n9 9 5 5\n")
    expected = [[1, 1, 4, 5], [3, 4, 0, 0]]
    np.testing.assert_array_equal(read_defects(tmp_path / "defects.txt", (6, 8)), expected)
    mask = np.zeros((6, 8))
    mask[tuple(expected)] = 1
    np.testing.assert_array_equal(read_defects(write_mrc(tmp_path / "mask.mrc", mask), (6, 8)), expected)
    with pytest.raises(FileError, match="is 8 x 6 px, but the frames are 6 x 8 px"):
        read_defects(tmp_path / "mask.mrc", (8, 6))
    (tmp_path / "defects.txt").write_text("1 2 3\n")
    with pytest.raises(FileError, match="line 1: a defect must be four whole numbers"):
        read_defects(tmp_path / "defects.txt", (6, 8))
