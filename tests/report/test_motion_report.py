"""How well movies were aligned: the table, the sentences, the pictures and the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure

from cryoden.formats.relion_job import read_movie_correction
from cryoden.movies.motion.local_motion import LocalMotionModel
from cryoden.report.alignment_table import (
    AlignedMovie,
    doubt_lines,
    drift_sentence,
    headline,
    read_alignments,
)
from cryoden.report.motion_figures import local_tracks, plot_motion, plot_overview
from cryoden.report.motion_report import write_motion_report
from tests.helpers import Result, write_raw_mrc
from tests.moving import BENT, N_FRAMES, RATE, SHAPE, drift, field_of, moving_frames

Run = Callable[..., Result]

GOOD = AlignedMovie(
    "good", "good.mrcs", "local", [], 0.1, 0.3, {"unaligned": [0.2, 0.0], "global": [0.4, 0.1], "local": [0.5, 0.1]},
    0.2, [(0.0, 0.0), (2.0, 1.0), (3.0, 1.5)], 3.4, 2.2, 1.2, 0.1,
)  # fmt: skip
WEAK = replace(GOOD, name="weak", applied="global", frc_before=0.05, frc_after=0.1, drift=9.0)
JUMPS = replace(GOOD, name="jumps", doubts=["frame 3 lies 30 Å from the one before it"], frc_after=0.9)
ICE = replace(GOOD, name="ice", applied="unaligned", doubts=["its frames have nothing in common"], frc_after=0.1)


def test_the_worst_movie_is_first(tmp_path: Path) -> None:
    assert sorted([GOOD, WEAK, JUMPS, ICE], key=lambda movie: movie.badness) == [ICE, JUMPS, WEAK, GOOD]


def test_what_is_said_of_them() -> None:
    movies = [ICE, JUMPS, WEAK, GOOD]
    assert (
        headline(movies) == "Aligned 3 of 4 movies; the FRC of their halves to 8 Å rose from 0.100 to 0.300 (median)."
    )
    assert drift_sentence(movies).startswith("Median drift 3.4 Å, of which 2.2 Å in the first quarter")
    assert drift_sentence(movies).endswith("local motion was applied to 2 of 3.")
    assert (headline([ICE]), drift_sentence([ICE])) == ("Aligned 0 of 1 movie.", "")
    assert doubt_lines(movies, 1) == ["ice: its frames have nothing in common; it was summed unaligned.", "and 1 more."]
    assert doubt_lines(movies, 2)[1] == "jumps: frame 3 lies 30 Å from the one before it."


def test_a_movie_that_was_split_again_is_known_by_its_last_time(tmp_path: Path) -> None:
    facts = {
        "applied": "global", "doubts": [], "frc_to_8A": {"unaligned": 0.1, "global": 0.2}, "frc_rings": {},
        "frc_rings_end_per_A": 0.2, "path_A": [[0, 0], [1, 1]], "drift_A": 1, "early_A": 1, "late_A": 0,
        "uncertainty_A": 0.1,
    }  # fmt: skip
    lines = [
        {"movie": "a/m.mrcs", "alignment": facts},
        {"movie": "a/other.mrcs", "status": "kept"},
        {"movie": "a/m.mrcs", "alignment": {**facts, "frc_to_8A": {"unaligned": 0.1, "global": 0.5}}},
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (movie,) = read_alignments(tmp_path)
    assert (movie.name, movie.frc_before, movie.frc_after) == ("m", 0.1, 0.5)
    assert read_alignments(tmp_path / "none") == []


def test_tracks_go_where_the_specimen_went() -> None:
    """Against the way that frames are moved, from the first frame on."""
    places, tracks = local_tracks(BENT, N_FRAMES, SHAPE)
    assert tracks.shape == (len(places), N_FRAMES, 2)
    last = field_of(BENT, N_FRAMES)
    for (x, y), track in zip(places, tracks):
        np.testing.assert_allclose(track[0], 0, atol=1e-12)
        np.testing.assert_allclose(track[-1], -last[:, int(y), int(x)], atol=0.1)


def test_curves_and_ways_are_drawn(tmp_path: Path) -> None:
    figure = Figure()
    plot_overview(figure, [ICE, JUMPS, WEAK, GOOD])
    helped, moved = figure.axes
    assert [text.get_text() for text in helped.texts] == ["ice", "jumps"]
    assert [text.get_text() for text in moved.texts] == ["jumps"]  # the motion of others is that of noise
    legend = helped.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["aligned (2)", "doubtful (1)", "kept unaligned (1)"]


@pytest.mark.parametrize("ending", [".mrcs", ".tif"])
def test_command_writes_the_report(cryoden: Run, ending: str) -> None:
    import tifffile

    frames = np.stack(list(moving_frames(drift(), 4.0, 1, BENT))).astype(np.uint8)
    ice = np.random.default_rng(1).poisson(3, (6, *SHAPE)).astype(np.uint8)
    for name, movie in (("m<1>", frames), ("ice", ice)):
        if ending == ".tif":
            tifffile.imwrite(f"{name}{ending}", movie)
        else:
            write_raw_mrc(Path(f"{name}{ending}"), movie, 0)
    arguments = ("--align", "--align-patches", 4, "--sampling-rate", RATE, "--hot-pixels", "off", "--row-order", "top")
    result = cryoden("halves", f"m<1>{ending}", f"ice{ending}", "--output", "out", *arguments)
    assert result.status == 0
    assert "Aligned 1 of 2 movies; the FRC of their halves to 8 Å rose from" in result.out
    assert "out/motion.html" in result.out

    page = Path("out/motion.html").read_text(encoding="utf-8")
    names = re.findall(r"<tr[^>]*><td>([^<]*)</td><td>([a-z]*)</td>", page)
    assert names == [("ice", "unaligned"), ("m&lt;1&gt;", "local")]  # the worst first
    assert page.count("data:image/png;base64,") == 3
    assert "it was summed unaligned." in page

    # In the rows of the micrograph, which of these TIFF files are not RELION's.
    (movie,) = [movie for movie in read_alignments("out") if movie.is_aligned]
    figure = Figure()
    plot_motion(figure, "out", movie)
    written = LocalMotionModel.of(read_movie_correction("out/motion/m<1>.star"))
    model = written.upside_down(SHAPE[0]) if ending == ".tif" else written
    places, tracks = local_tracks(model, N_FRAMES, SHAPE)
    ends = np.array([line.get_xydata()[0] for line in figure.axes[0].lines if line.get_marker() == "o"])
    factor = float(re.search(r"drawn ([\d.]+) times", figure.axes[0].get_title())[1])  # type: ignore[index]
    np.testing.assert_allclose(ends, (places + factor * tracks[:, -1]) * RATE / 10, rtol=1e-5)

    drawn = Path("out/motion/m<1>.png").stat().st_mtime_ns
    Path("out/motion/ice.star").unlink()
    write_motion_report("out")
    assert Path("out/motion/m<1>.png").stat().st_mtime_ns == drawn
    assert "ice.star" in Path("out/motion.html").read_text(encoding="utf-8")  # said, and the others are there
