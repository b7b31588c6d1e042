"""Movies that are not as they should be: what is found of their motion, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Callable, List, Optional, cast

import numpy as np
import pytest
import scipy.ndimage
import tifffile

from cryoden.formats.relion_job import read_movie_correction
from cryoden.movies.motion import alignment as alignment_module
from cryoden.movies.motion.alignment import Alignment, align_movie
from cryoden.movies.motion.arrays import Arrays
from cryoden.movies.motion.estimation import GLOBAL, NULL, UNALIGNED, MotionEstimate, estimate_motion
from cryoden.movies.movie import Movie
from tests.eer import write_eer
from tests.helpers import Result, write_raw_mrc
from tests.moving import rms

SHAPE = (288, 320)
RATE = 2.0
FAR = 120
"""Pixels of the specimen around the frames."""


def drift(n_frames: int = 12) -> np.ndarray:
    """Return whole numbers of pixels, x and y, by which frames must be moved."""
    time = np.arange(n_frames) / (n_frames - 1)
    return np.rint(8 * np.stack([np.sqrt(time), -0.6 * time], axis=1))


def frames_of(shifts: np.ndarray, seed: int = 1, contrast: float = 0.15, gain: Optional[np.ndarray] = None) -> list:
    """Return frames of 1.5 electrons per pixel, which must be moved by the shifts."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((SHAPE[0] + 2 * FAR, SHAPE[1] + 2 * FAR))
    image = scipy.ndimage.gaussian_filter(image, 1.5) - scipy.ndimage.gaussian_filter(image, 8)
    image = 1 + contrast * image / image.std()
    frames = []
    for x, y in shifts.astype(int):
        seen = np.maximum(image[FAR + y : FAR + y + SHAPE[0], FAR + x : FAR + x + SHAPE[1]], 0)
        frames.append(rng.poisson(1.5 * seen / (1 if gain is None else gain)).astype(np.float32))
    return frames


def estimate(frames: List[np.ndarray], n_patches: int = 1) -> MotionEstimate:
    return estimate_motion(iter(frames), len(frames), frames[0].shape, RATE, n_patches)


def aligned(frames: List[np.ndarray]) -> Alignment:
    write_raw_mrc(Path("m.mrcs"), np.stack(frames).astype(np.uint8), 0)
    return align_movie(Movie("m.mrcs"), RATE, 1, Arrays())


@pytest.mark.parametrize(
    ("first", "last"),
    [(7, 8), (6, 12), (3, 12)],
    ids=["one frame", "from the middle on", "most frames"],
)
def test_jumps_are_found_however_far(first: int, last: int) -> None:
    shifts = drift()
    shifts[first:last] += (75, -40)
    assert rms(estimate(frames_of(shifts)).shifts, shifts) < 0.3


def test_jump_is_said() -> None:
    shifts = drift()
    shifts[6:] += (75, -40)
    assert any("frame 7 lies 17" in doubt for doubt in aligned(frames_of(shifts)).doubts)


@pytest.mark.parametrize(("contrast", "seed"), [(0.034, 8), (0.034, 26), (0.037, 19), (0.03, 27)])
def test_frames_that_show_little_stay_with_their_neighbours(contrast: float, seed: int) -> None:
    """Of each movie a frame or two correlate best with the others at a place of noise, far away."""
    found = estimate(frames_of(drift(16), seed, contrast))
    assert len(found.scores) == 16  # frames are not grouped
    assert rms(found.shifts, drift(16)) < 1.5


def test_shifts_of_faint_frames_settle() -> None:
    found = estimate(frames_of(drift(), contrast=0.04))
    assert found.is_converged
    assert rms(found.shifts, drift()) < 0.5


@pytest.mark.parametrize("electrons", [0.0, 1.5, 20.0], ids=["blank", "of nothing", "overexposed"])
def test_frame_that_shows_nothing_lies_between_its_neighbours(electrons: float) -> None:
    frames = frames_of(drift())
    frames[5] = np.random.default_rng(9).poisson(electrons, SHAPE).astype(np.float32)
    found = estimate(frames)
    assert found.strangers.tolist() == [5]
    assert rms(found.shifts, drift()) < 0.5


def test_frames_that_show_nothing_are_named() -> None:
    frames = frames_of(drift())
    frames[4] = frames[5] = np.zeros_like(frames[5])
    found = aligned(frames)
    assert found.applied == GLOBAL
    assert found.doubts == [
        "frames 5, 6 have nothing in common with the others; leave out what is blank or overexposed"
    ]


def test_beam_that_was_blanked_halfway_is_said_once() -> None:
    frames = frames_of(drift())
    frames[6:] = [np.zeros_like(frames[0])] * 6
    found = aligned(frames)
    assert [doubt[:27] for doubt in found.doubts] == ["frames 7, 8, 9, 10, 11, 12 "]
    assert found.uncertainty < 1.0
    assert rms(found.estimate.shifts[:6], drift()[:6]) < 0.3


def test_two_movies_one_after_the_other_are_said() -> None:
    frames = [*frames_of(drift(6)), *frames_of(drift(6), seed=2)]
    assert "its frames from about frame 7 on have nothing in common with those before" in aligned(frames).doubts


@pytest.mark.parametrize("n_frames", [2, 3])
def test_few_frames_settle_and_have_no_local_motion(n_frames: int) -> None:
    shifts = drift()[: 2 * n_frames : 2]
    found = estimate(frames_of(shifts, contrast=0.25), n_patches=5)
    assert found.is_converged
    assert rms(found.shifts, shifts) < 0.2
    assert found.coefficients is None


@pytest.mark.parametrize(("contrast", "applied"), [(0.02, GLOBAL), (0.15, UNALIGNED)], ids=["faint", "strong"])
def test_pattern_of_the_detector_is_said(contrast: float, applied: str) -> None:
    gain = np.random.default_rng(5).normal(1, 0.2, SHAPE).clip(0.3)
    found = aligned(frames_of(drift(), contrast=contrast, gain=gain))
    assert found.applied == applied
    assert "check the gain reference" in " ".join(found.doubts)


def test_pattern_that_holds_frames_back_is_said() -> None:
    gain = np.random.default_rng(3).normal(1, 0.08, SHAPE)
    found = aligned(frames_of(drift(), contrast=0.1, gain=gain))
    assert found.applied == GLOBAL
    assert any("part of what its frames share does not move" in doubt for doubt in found.doubts)


def test_still_frames_that_agree_less_by_chance_raise_no_doubt() -> None:
    """What is found of their motion is less than its own error, and so is what it does to their agreement."""
    found = aligned(frames_of(np.zeros((12, 2)), seed=11, contrast=0.05))
    assert found.frc[GLOBAL] < found.frc[UNALIGNED]
    assert (found.applied, found.doubts) == (UNALIGNED, [])


@pytest.mark.parametrize("contrast", [0.06, 0.15, 0.5])
def test_frames_of_a_good_movie_raise_no_doubt(contrast: float) -> None:
    assert aligned(frames_of(drift(), contrast=contrast)).doubts == []


def test_lattice_does_not_catch_frames() -> None:
    """Its correlation has many peaks of nearly one height; half of the image is another specimen."""
    shifts = drift()
    frames = frames_of(shifts)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    rng = np.random.default_rng(3)
    for frame, (x, y) in zip(frames, shifts):
        lattice = 1 + 0.1 * (np.cos(0.5 * (columns + x)) + np.cos(0.5 * (rows + y)))
        frame[:, : SHAPE[1] // 2] = rng.poisson(1.5 * lattice[:, : SHAPE[1] // 2])
    assert rms(estimate(frames).shifts, shifts) < 0.5


@pytest.mark.parametrize("shape", [(64, 64), (48, 320)])
def test_small_and_long_frames(shape: tuple) -> None:
    shifts = drift()
    frames = [frame[: shape[0], : shape[1]] for frame in frames_of(shifts, contrast=0.4)]
    assert rms(estimate(frames, n_patches=5).shifts, shifts) < 0.5


def test_what_makes_different_things_agree_is_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    curves = {key: np.full(4, value) for key, value in ((UNALIGNED, 0.05), (GLOBAL, 0.1), (NULL, 0.09))}
    found = MotionEstimate(drift(), 0.1, np.full(12, 20.0), True, curves, 0.2)
    monkeypatch.setattr(alignment_module, "estimate_motion", lambda *_, **__: found)
    movie = SimpleNamespace(corrected_frames=dict, find_bad_pixels=id, frame_indices=list(range(12)), shape=SHAPE)
    alignment = align_movie(cast(Movie, movie), RATE, 1, Arrays())
    assert alignment.applied == UNALIGNED
    assert "frames that show different things" in alignment.doubts[0]


def damaged(kind: str) -> str:
    """Write a movie that cannot be aligned; return its name."""
    frames = np.stack(frames_of(drift(4)))
    if kind == "NaN":
        frames[2, 10:20, 10:20] = np.nan
        write_raw_mrc(Path("bad.mrcs"), frames, 2)
        return "bad.mrcs"
    if kind == "one frame":
        write_raw_mrc(Path("bad.mrcs"), frames[:1].astype(np.uint8), 0)
        return "bad.mrcs"
    with tifffile.TiffWriter("bad.tif") as tiff:
        for number, frame in enumerate(frames.astype(np.uint8)):
            tiff.write(frame[:200] if number == 2 else frame, contiguous=False)
    return "bad.tif"


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("NaN", "has NaN or infinite pixels in frame 3"),
        ("one frame", "has 1 frame; halves need at least 2"),
        ("pages of two sizes", "frame 3 has (200, 320) pixels, the first has (288, 320)"),
    ],
)
def test_what_cannot_be_aligned_is_refused_and_the_others_go_on(
    cryoden: Callable[..., Result], kind: str, sentence: str
) -> None:
    write_raw_mrc(Path("m.mrcs"), np.stack(frames_of(drift(4))).astype(np.uint8), 0)
    bad = damaged(kind)
    words = ("--align", "--align-patches", 1, "--sampling-rate", RATE, "--hot-pixels", "off")
    result = cryoden("halves", bad, "m.mrcs", "--output", "out", *words)
    assert result.status == 1
    assert sentence in result.err
    assert not list(Path("out").rglob("bad*"))
    assert Path("out/motion/m.star").exists()


def test_eer_is_aligned_in_the_frames_that_are_asked_for(cryoden: Callable[..., Result]) -> None:
    """Hardware frames hold single electrons; twelve groups of them are the frames."""
    rng = np.random.default_rng(2)
    shape = (144, 160)
    hardware = []
    for frame in frames_of(np.repeat(drift(), 2, axis=0), contrast=0.5):
        hits = np.flatnonzero(rng.random(shape).ravel() < 0.05 * frame[: shape[0], : shape[1]].ravel())
        hardware.append((hits, rng.integers(0, 16, len(hits))))
    write_eer(Path("m.eer"), shape, hardware)
    words = ("--eer-grouping", 2, "--align", "--align-patches", 1, "--sampling-rate", RATE)
    result = cryoden("halves", "m.eer", "--output", "out", *words)
    assert (result.status, "Alignment" in result.err) == (0, False)

    written = read_movie_correction("out/motion/m.star")
    assert (written.n_frames, written.eer_grouping, written.eer_upsampling) == (12, 2, 1)
    assert rms(np.array(list(written.shifts.values())), drift()) < 0.5
