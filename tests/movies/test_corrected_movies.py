"""Halves of a finished motion correction: everything is found, and what cannot be used is refused by name."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest
import tifffile

from cryoden.formats.outcome import read_failures
from cryoden.formats.relion_job import read_movie_correction
from cryoden.formats.star import read_table
from cryoden.movies.calibration import Calibration, Reference
from cryoden.movies.dose_weighting import DoseWeighting, doses_at_end
from cryoden.movies.motion.aligned_sums import aligned_half_bands
from cryoden.movies.motion.local_motion import LocalMotionModel
from cryoden.movies.motion.motion import Motion
from cryoden.movies.movie import Movie
from tests.eer import random_events, write_eer
from tests.helpers import Result, read_mrc, write_mrc, write_raw_mrc
from tests.relion_job import NOT_USED, MovieStar, some_coefficients, write_job

Run = Callable[..., Result]
SHAPE, N = (64, 96), 6
SHIFTS = [NOT_USED, (0.0, 0.0), (1.5, -2.25), (2.0, -3.0), (2.5, -3.5), NOT_USED]
TABLE = "project/MotionCorr/job002/corrected_micrographs.star"
GAIN = np.random.default_rng(1).uniform(0.8, 1.2, SHAPE).astype(np.float32)


def frames(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(np.float32(30) / GAIN, (N, *SHAPE))


def star(movie: str, **changes: Any) -> MovieStar:
    values = {"rlnMicrographGainName": "gain.mrc", **changes.pop("values", {})}
    return MovieStar(movie, SHAPE, SHIFTS, some_coefficients(), values=values, **changes)


def write_project(movies: Dict[str, MovieStar], **options: Any) -> None:
    """Write MRC movies and the gain reference of a job into the project."""
    for number, movie in enumerate(movies.values()):
        path = Path("project") / movie.movie
        path.parent.mkdir(parents=True, exist_ok=True)
        write_raw_mrc(path, frames(number), 6)
    write_mrc(Path("project/gain.mrc"), GAIN)
    write_job(Path("project"), movies, **options)


def full(name: str = "m_1.mrc", output: str = "out") -> np.ndarray:
    return read_mrc(Path(output, "full", name))


def expected(movie: str = "project/Movies/a.b/m.1.mrcs", binning: float = 1.0, **options: Any) -> np.ndarray:
    """Return the full sum, from the parts that tests of their own compare with independent computations."""
    found = read_movie_correction("project/MotionCorr/job002/Movies/a_b/m_1.star")
    opened = Movie(movie, Calibration(Reference("Gain", "project/gain.mrc"), hot_pixels="auto"), "2-5")
    model = LocalMotionModel.of(found)
    fields = [model.fields(frame) for frame in range(2, 6)]
    motion = Motion([found.shifts[frame] for frame in range(2, 6)], fields, binning)
    bands = aligned_half_bands(opened.corrected_frames, SHAPE, motion, **options)
    return np.concatenate([odd + even for odd, even in bands])


@pytest.fixture
def one() -> MovieStar:
    """Write a project with one movie, in a folder and under a name with dots."""
    movie = star("Movies/a.b/m.1.mrcs")
    write_project({"Movies/a_b/m_1": movie})
    return movie


@pytest.mark.usefixtures("one")
def test_everything_that_the_job_found_is_used(cryoden: Run) -> None:
    result = cryoden("halves", TABLE, "--output", "out")
    assert result.status == 0, result.err
    np.testing.assert_allclose(full(), expected(), atol=1e-3)
    np.testing.assert_array_equal(full(), read_mrc(Path("out/odd/m_1.mrc")) + read_mrc(Path("out/even/m_1.mrc")))
    assert '"n_odd": 2, "n_even": 2' in Path("out/log.jsonl").read_text()
    table = read_table("out/micrographs.star")
    assert table.paths == ["out/full/m_1.mrc"]
    assert (table.sampling_rate(0), table.voltage(0)) == (1.5, 300.0)
    assert list(table.images["rlnAccumMotionTotal"]) == ["12.5"]

    again = cryoden("halves", TABLE, "--output", "out")
    assert again.status == 0
    assert '"status": "kept"' in Path("out/log.jsonl").read_text()


@pytest.mark.usefixtures("one")
def test_local_motion_as_relion_or_none_gives_other_sums(cryoden: Run) -> None:
    sums = {}
    for word in ("auto", "middle", "relion", "none"):
        assert cryoden("halves", TABLE, "--output", word, "--local-motion", word).status == 0
        sums[word] = full(output=word)
    np.testing.assert_array_equal(sums["auto"], sums["middle"])
    for one_word, other in (("middle", "relion"), ("middle", "none"), ("relion", "none")):
        assert np.abs(sums[one_word] - sums[other]).max() > 1
    refused = cryoden("halves", TABLE, "--output", "auto", "--local-motion", "none")
    assert refused.status == 2
    assert "--local-motion (was auto, is now none)" in refused.last_error


def test_sums_are_binned_as_the_job_binned_its_own(cryoden: Run) -> None:
    write_project({"Movies/a_b/m_1": star("Movies/a.b/m.1.mrcs", binning=2.0)})
    assert cryoden("halves", TABLE, "--output", "out").status == 0
    assert full().shape == (32, 48)
    np.testing.assert_allclose(full(), expected(binning=2.0), atol=1e-3)
    assert read_table("out/micrographs.star").sampling_rate(0) == 3.0


@pytest.mark.parametrize(
    ("unweighted", "words", "is_weighted"),
    [(False, (), False), (True, (), True), (False, ("--dose-weighting", "on"), True),
     (True, ("--dose-weighting", "off"), False), (False, ("--dose-per-frame", 1), True)],
)  # fmt: skip
def test_the_dose_weighting_is_that_of_the_job(
    cryoden: Run, unweighted: bool, words: Tuple[object, ...], is_weighted: bool
) -> None:
    write_project({"Movies/a_b/m_1": star("Movies/a.b/m.1.mrcs")}, unweighted=unweighted)
    assert cryoden("halves", TABLE, "--output", "out", *words).status == 0
    weighting = DoseWeighting(doses_at_end(range(1, 5), 1.0), 1.5) if is_weighted else None
    np.testing.assert_allclose(full(), expected(weighting=weighting), atol=2e-3)
    assert "rlnMicrographNameNoDW" not in read_table("out/micrographs.star").images


def test_hot_pixels_of_the_job_are_replaced_even_where_none_are_looked_for(cryoden: Run) -> None:
    write_project({"Movies/a_b/m_1": star("Movies/a.b/m.1.mrcs", hot=[(10, 20)])})
    assert cryoden("halves", TABLE, "--output", "out", "--hot-pixels", "off").status == 0
    assert '"n_bad_pixels": 1' in Path("out/log.jsonl").read_text()


def test_sub_folders_optics_groups_and_another_current_folder(
    cryoden: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two movies of one name, the second one's sums get its folder's name; each keeps its optics group."""
    second = star("Movies/b/m.1.mrcs", rate=1.2, values={"rlnVoltage": 200.0})
    write_project({"Movies/a_b/m_1": star("Movies/a.b/m.1.mrcs"), "Movies/b/m_1": second}, groups=[1, 2])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cryoden("halves", Path("..", TABLE), "--output", "out").status == 0
    table = read_table("out/micrographs.star")
    assert table.paths == ["out/full/m_1.mrc", "out/full/b_m_1.mrc"]
    assert [table.sampling_rate(row) for row in range(2)] == [1.5, 1.2]
    assert [table.voltage(row) for row in range(2)] == [300.0, 200.0]
    assert np.abs(full("m_1.mrc") - full("b_m_1.mrc")).max() > 10


def test_movies_that_were_moved_are_found_by_name_or_refused(cryoden: Run, one: MovieStar) -> None:
    os.renames(Path("project", one.movie), "store/m.1.mrcs")
    result = cryoden("halves", TABLE, "--output", "out")
    assert result.status == 2
    assert "Movies/a.b/m.1.mrcs" in result.last_error
    assert "--movie-folder" in result.last_error
    assert cryoden("halves", TABLE, "--output", "out", "--movie-folder", "store").status == 0
    np.testing.assert_allclose(full(), expected("store/m.1.mrcs"), atol=1e-3)


def swap_gain(value: object) -> Callable[[MovieStar], MovieStar]:
    return lambda movie: replace(movie, values={**movie.values, "rlnMicrographGainName": value})


def other_gain(image: np.ndarray) -> Callable[[MovieStar], MovieStar]:
    def change(movie: MovieStar) -> MovieStar:
        write_mrc(Path("project/gain.mrc"), image)
        return movie

    return change


def other_movie(image: np.ndarray) -> Callable[[MovieStar], MovieStar]:
    def change(movie: MovieStar) -> MovieStar:
        write_raw_mrc(Path("project", movie.movie), image, 6)
        return movie

    return change


BAD: Dict[str, Tuple[Callable[[MovieStar], MovieStar], str]] = {
    "a gain that is an option": (swap_gain("--gain_rot"), "names '--gain_rot' as gain reference, which is no name"),
    "a gain that is gone": (swap_gain("lost.mrc"), "Gain reference lost.mrc, which .* names, is not there"),
    "a gain of NaN": (other_gain(GAIN * np.nan), "has 6144 NaN or infinite pixels"),
    "a gain of another size": (other_gain(GAIN[:60]), "is 96 x 60 px, but the frames of m.1.mrcs are 96 x 64 px"),
    "fewer frames": (other_movie(frames()[:5]), "has 5 frames of 96 x 64 px, but the motion correction"),
    "smaller frames": (
        lambda movie: replace(other_movie(frames()[:, :60])(movie), values={"rlnMicrographGainName": None}),
        "has 6 frames of 96 x 60 px, but the motion correction .* is of 6 frames of 96 x 64 px",
    ),
    "another binning": (lambda movie: replace(movie, binning=2.0, observed_scale=2.0), "at binning 2 cannot be"),
    "shifts of other frames": (lambda movie: replace(movie, shifts=SHIFTS[:4], values={
        **movie.values, "rlnImageSizeZ": 6}), "has shifts of 4 frames, but the movie had 6"),
    "a list of defects that is gone": (lambda movie: replace(movie, values={
        **movie.values, "rlnMicrographDefectFile": "d.txt"}), "Defects d.txt, which .* names, is not there"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_one_bad_movie_is_named_and_the_others_are_split(cryoden: Run, case: str) -> None:
    good, bad = star("Movies/good.mrcs"), star("Movies/a.b/m.1.mrcs")
    write_project({"Movies/good": good, "Movies/a_b/m_1": bad})
    if "gain of" in case:  # the good one has none
        good = replace(good, values={"rlnMicrographGainName": None})
    change, message = BAD[case]
    write_job(Path("project"), {"Movies/good": good, "Movies/a_b/m_1": change(bad)})

    result = cryoden("halves", TABLE, "--output", "out")
    assert result.status == 1, result.err
    assert read_table("out/micrographs.star").paths == ["out/full/good.mrc"]
    (failure,) = read_failures("out").values()
    assert str(failure).endswith(".")
    assert "Traceback" not in result.err
    import re

    assert re.search(message, failure.message), failure.message
    if "gain that" in case:
        assert str(failure).endswith("Give --gain.")


def test_a_motion_file_that_is_gone_or_damaged_ends_no_list(cryoden: Run) -> None:
    names = {f"Movies/{letter}": star(f"Movies/{letter}.mrcs") for letter in "abc"}
    write_project(names)
    Path("project/MotionCorr/job002/Movies/a.star").unlink()
    Path("project/MotionCorr/job002/Movies/b.star").write_text("data_general\n\n_rlnImageSizeX 96\n")
    assert cryoden("halves", TABLE, "--output", "out").status == 1
    failures = read_failures("out")
    assert list(failures) == ["MotionCorr/job002/Movies/a.mrc", "MotionCorr/job002/Movies/b.mrc"]
    assert "a.star" in failures["MotionCorr/job002/Movies/a.mrc"].message
    assert "rlnMicrographMovieName" in failures["MotionCorr/job002/Movies/b.mrc"].message


def test_a_job_that_failed_half_way_is_said_to_have(cryoden: Run) -> None:
    write_project({"Movies/a": star("Movies/a.mrcs")})
    Path(TABLE).unlink()
    Path(TABLE).with_name("RELION_JOB_EXIT_FAILURE").touch()
    result = cryoden("halves", TABLE, "--output", "out")
    assert result.status == 2
    assert "did not finish; it ended with RELION_JOB_EXIT_FAILURE" in result.last_error


def test_a_movie_without_a_model_gets_global_shifts(cryoden: Run) -> None:
    write_project({"Movies/a_b/m_1": replace(star("Movies/a.b/m.1.mrcs"), coefficients=None)})
    assert cryoden("halves", TABLE, "--output", "out").status == 0
    assert cryoden("halves", TABLE, "--output", "none", "--local-motion", "none").status == 0
    np.testing.assert_array_equal(full(), full(output="none"))


@pytest.mark.usefixtures("one")
@pytest.mark.parametrize(
    ("words", "message"),
    [(("--shifts", "s"), "--shifts has no meaning with a finished motion correction"),
     (("--frames", "1-5"), "has no shift of frame 1: the motion correction did not use it")],
)  # fmt: skip
def test_options_that_contradict_the_job(cryoden: Run, words: Tuple[str, ...], message: str) -> None:
    result = cryoden("halves", TABLE, "--output", "out", *words)
    assert result.status == 2
    assert message in result.last_error


@pytest.mark.usefixtures("one")
def test_a_gain_that_is_given_counts_instead(cryoden: Run) -> None:
    shutil.move("project/gain.mrc", "flipped.mrc")
    write_mrc(Path("flipped.mrc"), GAIN[::-1])
    words = ("--gain", "flipped.mrc", "--gain-flip", "up-down")
    assert cryoden("halves", TABLE, "--output", "out", *words).status == 0
    write_mrc(Path("project/gain.mrc"), GAIN)
    np.testing.assert_allclose(full(), expected(), atol=1e-3)


# ---------------------------------------------------------------------- which row is the first
def write_tiff_project(order: int) -> None:
    """Write a project whose movie is a TIFF file, gain and motion in the frame of RELION, which reads it from below."""
    movie = replace(star("Movies/a.b/m.1.tif"))
    write_project({"Movies/a_b/m_1": movie})
    tifffile.imwrite("project/Movies/a.b/m.1.tif", frames()[:, ::order].astype(np.uint8), compression="lzw")
    write_raw_mrc(Path("upright.mrcs"), frames(), 6)


def test_tiff_rows_count_from_the_bottom_by_themselves(cryoden: Run) -> None:
    write_tiff_project(-1)
    assert cryoden("halves", TABLE, "--output", "out").status == 0
    np.testing.assert_allclose(full(), expected("upright.mrcs"), atol=1e-3)


def test_the_row_order_can_be_given_and_a_wrong_one_shows_in_the_gain(cryoden: Run) -> None:
    write_tiff_project(1)
    assert cryoden("halves", TABLE, "--output", "out", "--row-order", "top").status == 0
    np.testing.assert_allclose(full(), expected("upright.mrcs"), atol=1e-3)
    assert cryoden("halves", TABLE, "--output", "other").status == 2


def test_shifts_in_a_folder_are_of_rows_from_the_bottom_too(cryoden: Run) -> None:
    """The same shifts of the same content: as an MRC file, and as a TIFF file with the rows the other way."""
    write_tiff_project(-1)
    Path("shifts").mkdir()
    for name in ("m.1", "upright"):
        shutil.copy("project/MotionCorr/job002/Movies/a_b/m_1.star", f"shifts/{name}.star")
    words = ("--shifts", "shifts", "--sampling-rate", 1.5)
    for output, movie in (("a", "project/Movies/a.b/m.1.tif"), ("b", "upright.mrcs")):
        assert cryoden("halves", movie, "--output", output, *words, "--local-motion", "middle").status == 0
    np.testing.assert_allclose(full("m.1.mrc", "a"), full("upright.mrc", "b"), atol=1e-4)
    result = cryoden("halves", "project/Movies/a.b/m.1.tif", "--output", "c", *words)
    assert result.status == 0
    assert np.abs(full("m.1.mrc", "a") - full("m.1.mrc", "c")).max() > 1


@pytest.mark.parametrize("gain_name", ["gain.mrc", "gain.gain"])
def test_eer_movies_are_grouped_and_divided_by_gain_as_in_relion(cryoden: Run, gain_name: str) -> None:
    """Seven hardware frames in groups of three make two frames; rows are those of the file; a .gain file multiplies."""
    pytest.importorskip("imagecodecs", "2025.11.11")
    rng = np.random.default_rng(2)
    events: List[Tuple[np.ndarray, np.ndarray]] = [random_events(rng, SHAPE, 800) for _ in range(7)]
    movie = MovieStar("m.eer", SHAPE, [(0.0, 0.0)] * 2, values={
        "rlnMicrographGainName": gain_name, "rlnEERGrouping": 3, "rlnEERUpsampling": 1})  # fmt: skip
    write_job(Path("project"), {"m": movie})
    write_eer(Path("project/m.eer"), SHAPE, events)
    if gain_name.endswith("mrc"):
        write_mrc(Path("project/gain.mrc"), GAIN)
    else:
        tifffile.imwrite("project/gain.gain.tif", GAIN)
        shutil.move("project/gain.gain.tif", "project/gain.gain")
    assert cryoden("halves", TABLE, "--output", "out", "--hot-pixels", "off").status == 0

    counts = np.zeros(SHAPE)
    for pixels, _ in events[:6]:
        np.add.at(counts.reshape(-1), pixels, 1)
    factor = GAIN if gain_name.endswith("gain") else GAIN.mean(dtype=float) / GAIN
    np.testing.assert_allclose(full("m.mrc"), counts * factor, atol=1e-3)
