"""Movies aligned by what they show: the command, what it writes, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable, Dict

import mrcfile
import numpy as np
import pytest
import tifffile

from cryoden.formats.relion_job import read_movie_correction
from tests.helpers import Result, python, read_mrc, write_raw_mrc
from tests.moving import BENT, N_FRAMES, RATE, drift, moving_frames, rms

Run = Callable[..., Result]


def movie(name: str = "m.mrcs", dose: float = 4.0, seed: int = 1, is_still: bool = False) -> np.ndarray:
    """Write a movie, and return its frames."""
    shifts = np.zeros_like(drift()) if is_still else drift()
    frames = np.stack(list(moving_frames(shifts, dose, seed, None if is_still else BENT))).astype(np.uint8)
    if name.endswith(".tif"):
        tifffile.imwrite(name, frames)
    else:
        write_raw_mrc(Path(name), frames, 0)
    return frames


def facts(output: str = "out") -> Dict[str, object]:
    return json.loads(Path(output, "log.jsonl").read_text().splitlines()[-1])["alignment"]


def agreement(output: str) -> float:
    """Return the correlation of the halves."""
    odd, even = (read_mrc(Path(output, half, "m.mrc"))[16:-16, 16:-16] for half in ("odd", "even"))
    return float(np.corrcoef(odd.ravel(), even.ravel())[0, 1])


ARGUMENTS = ("--sampling-rate", RATE, "--hot-pixels", "off")


def test_halves_agree_more_when_frames_are_aligned(cryoden: Run) -> None:
    movie()
    assert cryoden("halves", "m.mrcs", "--output", "plain", *ARGUMENTS).status == 0
    assert cryoden("halves", "m.mrcs", "--output", "global", "--align", "--align-patches", 1, *ARGUMENTS).status == 0
    assert cryoden("halves", "m.mrcs", "--output", "local", "--align", "--align-patches", 4, *ARGUMENTS).status == 0
    assert (facts("global")["applied"], facts("local")["applied"]) == ("global", "local")
    assert agreement("plain") + 0.05 < agreement("global") < agreement("local")

    found = facts("local")
    rings = found["frc_rings"]["local"]
    assert np.mean(rings) == pytest.approx(found["frc"]["local"], abs=1e-3)
    n_rings = round(len(rings) / (8 * found["frc_rings_end_per_A"]))
    assert np.mean(rings[:n_rings]) == pytest.approx(found["frc_to_8A"]["local"], abs=1e-3)
    assert found["frc_to_8A"]["unaligned"] < found["frc_to_8A"]["global"] < found["frc_to_8A"]["local"]

    full, odd, even = (read_mrc(Path("local", kind, "m.mrc")) for kind in ("full", "odd", "even"))
    np.testing.assert_allclose(odd + even, full, rtol=1e-6)


def test_weights_are_applied_beside(cryoden: Run) -> None:
    movie()
    command = ("halves", "m.mrcs", "--align", "--align-patches", 1, *ARGUMENTS)
    assert cryoden(*command, "--output", "plain").status == 0
    assert cryoden(*command, "--output", "weighted", "--dose-per-frame", 4).status == 0
    one, other = (read_mrc(Path(folder, "full", "m.mrc")) for folder in ("plain", "weighted"))
    assert np.abs(one - other).max() > 1


@pytest.mark.parametrize("name", ["m.mrcs", "m.tif"])
def test_motion_is_written_in_relions_form_and_gives_the_same_sums_again(cryoden: Run, name: str) -> None:
    movie(name)
    assert cryoden("halves", name, "--output", "out", "--align", "--align-patches", 4, *ARGUMENTS).status == 0
    written = read_movie_correction("out/motion/m.star")
    assert (written.movie, written.n_frames, written.sampling_rate) == (name, N_FRAMES, RATE)

    again = ("--shifts", "out/motion", "--local-motion", "middle", *ARGUMENTS)
    assert cryoden("halves", name, "--output", "again", *again).status == 0
    one, other = read_mrc(Path("out/full/m.mrc")), read_mrc(Path("again/full/m.mrc"))
    np.testing.assert_allclose(one, other, atol=1e-3 * one.std())


def test_rows_of_tiff_files_count_from_the_bottom_unless_it_is_said(cryoden: Run) -> None:
    movie("m.tif")
    command = ("halves", "m.tif", "--align", "--align-patches", 4, *ARGUMENTS)
    assert cryoden(*command, "--output", "bottom").status == 0
    assert cryoden(*command, "--output", "top", "--row-order", "top").status == 0
    bottom, top = (read_mrc(Path(folder, "full", "m.mrc")) for folder in ("bottom", "top"))

    # At the highest frequency, of one row of the transform, a shift by a part of a pixel depends on where rows begin.
    difference = (bottom - top[::-1])[20:-20, 20:-20]
    assert difference.std() < 0.06 * bottom.std()

    # What is written counts as RELION does, in both.
    one, other = (read_movie_correction(f"{folder}/motion/m.star") for folder in ("bottom", "top"))
    np.testing.assert_allclose(list(one.shifts.values()), list(other.shifts.values()), atol=0.02)
    np.testing.assert_allclose(one.coefficients, other.coefficients, atol=0.02)


def test_two_processes_align_their_shares_of_one_list(cryoden: Run) -> None:
    """The sums are those of one process, and the report has all movies."""
    names = ["m0.mrcs", "m1.mrcs"]
    for number, name in enumerate(names):
        movie(name, seed=number)
    words = ["halves", *names, "--align", "--align-patches", "1", *map(str, ARGUMENTS)]
    assert cryoden(*words, "--output", "one").status == 0
    two = python(["-m", "cryoden", *words, "--gpus", "cpu,cpu", "--output", "two"], Path())
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("Aligned 2 of 2 movies;") == 1  # the first process speaks
    for number in range(2):
        one, other = (read_mrc(Path(folder, "odd", f"m{number}.mrc")) for folder in ("one", "two"))
        np.testing.assert_allclose(other, one, atol=1e-4 * one.std())
    logs = [Path("two", name).read_text().splitlines() for name in ("log.jsonl", "log_1.jsonl")]
    assert [len(lines) for lines in logs] == [1, 1]
    assert all(f"<td>m{number}</td>" in Path("two/motion.html").read_text(encoding="utf-8") for number in range(2))


def test_frames_of_a_range_are_counted_in_the_movie(cryoden: Run) -> None:
    movie()
    arguments = ("--frames", "3-12", "--align", "--align-patches", 1, *ARGUMENTS)
    assert cryoden("halves", "m.mrcs", "--output", "out", *arguments).status == 0
    shifts = read_movie_correction("out/motion/m.star").shifts
    assert sorted(shifts) == list(range(3, 13))
    assert rms(np.array([shifts[frame] for frame in sorted(shifts)]), drift()[2:]) < 0.5


def test_what_has_nothing_in_common_stays_unaligned_and_is_said(cryoden: Run) -> None:
    movie()
    write_raw_mrc(Path("ice.mrcs"), np.random.default_rng(1).poisson(3, (8, 320, 384)).astype(np.uint8), 0)
    result = cryoden("halves", "m.mrcs", "ice.mrcs", "--output", "out", "--align", *ARGUMENTS)
    assert result.status == 0
    assert "Alignment of ice.mrc: its frames have nothing in common by which they could be aligned" in result.err
    assert "Alignment of m.mrc" not in result.err

    with mrcfile.open("ice.mrcs") as ice:
        np.testing.assert_array_equal(read_mrc(Path("out/full/ice.mrc")), ice.data.sum(axis=0))
    assert set(read_movie_correction("out/motion/ice.star").shifts.values()) == {(0.0, 0.0)}


def test_frame_that_jumps_is_named(cryoden: Run) -> None:
    shifts = drift()
    shifts[6] += (15.0, 10.0)
    frames = np.stack(list(moving_frames(shifts, 4.0))).astype(np.uint8)
    write_raw_mrc(Path("m.mrcs"), frames, 0)
    result = cryoden("halves", "m.mrcs", "--output", "out", "--align", "--align-patches", 1, *ARGUMENTS)
    assert result.status == 0
    assert "Alignment of m.mrc: frame 7 lies 3" in result.err  # 36 A
    assert facts()["applied"] == "global"


def test_deleted_motion_is_made_again(cryoden: Run) -> None:
    movie()
    command = ("halves", "m.mrcs", "--output", "out", "--align", "--align-patches", 1, *ARGUMENTS)
    assert cryoden(*command).status == 0
    Path("out/motion/m.star").unlink()
    assert cryoden(*command).status == 0
    assert Path("out/motion/m.star").exists()


@pytest.mark.parametrize(
    ("before", "now"),
    [((), ("--align",)), (("--align",), ()), (("--align",), ("--align", "--align-patches", 1))],
)
def test_folder_with_other_halves_is_refused(cryoden: Run, before: tuple, now: tuple) -> None:
    movie()
    assert cryoden("halves", "m.mrcs", "--output", "out", *before, *ARGUMENTS).status == 0
    result = cryoden("halves", "m.mrcs", "--output", "out", *now, *ARGUMENTS)
    assert result.status == 2
    assert "align" in result.last_error or "patches" in result.last_error


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--align", "--shifts", "motion"), "--align and stored shifts exclude each other"),
        (("--align-patches", 3), "--align-patches has no meaning alone"),
        (("--align", "--align-patches", 0), "--align-patches is 0"),
    ],
)
def test_options_that_contradict(cryoden: Run, words: tuple, sentence: str) -> None:
    result = cryoden("halves", "m.mrcs", "--output", "out", *words)
    assert result.status == 2
    assert sentence in result.last_error


def test_replaced_pixels_are_counted_once_where_nothing_is_aligned(cryoden: Run) -> None:
    frames = np.random.default_rng(1).poisson(3, (8, 320, 384)).astype(np.uint8)
    frames[:, 100, 50] = 60
    write_raw_mrc(Path("ice.mrcs"), frames, 0)
    assert cryoden("halves", "ice.mrcs", "--output", "plain", "--sampling-rate", RATE).status == 0
    assert cryoden("halves", "ice.mrcs", "--output", "out", "--align", "--sampling-rate", RATE).status == 0
    plain, aligned = (json.loads(Path(output, "log.jsonl").read_text().splitlines()[-1]) for output in ("plain", "out"))
    assert plain["n_bad_pixels"] == aligned["n_bad_pixels"] > 0
