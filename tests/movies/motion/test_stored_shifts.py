from __future__ import annotations

from pathlib import Path
from typing import Dict, List

import pytest

from cryoden.errors import FileError, Remedy
from cryoden.formats.star import write_global_shifts
from cryoden.movies.motion.stored_shifts import NOT_OBSERVED, Shift, Shifts

UNUSED = (NOT_OBSERVED, NOT_OBSERVED)


def shifts_of(path: Path, used: range, n_frames: int) -> Shifts:
    """Write and read what RELION leaves of a movie of which it used some frames."""
    listed: Dict[int, Shift] = dict.fromkeys(range(1, n_frames + 1), UNUSED)
    listed.update({frame: (0.5 * frame, -0.25 * frame) for frame in used})
    write_global_shifts(path, listed)
    return Shifts.read(path)


def indices(first: int, last: int) -> List[int]:
    """Return frames of a range that counts from 1, counted from 0."""
    return list(range(first - 1, last))


def test_unused_frames_have_no_shift(tmp_path: Path) -> None:
    shifts = shifts_of(tmp_path / "m.star", range(3, 8), 9)
    assert shifts.used_range == "3-7"
    assert shifts.unused == {1, 2, 8, 9}
    assert shifts.of_frames(indices(3, 7), 9) == [(0.5 * frame, -0.25 * frame) for frame in range(3, 8)]


def test_a_range_inside_the_used_one_is_taken(tmp_path: Path) -> None:
    shifts = shifts_of(tmp_path / "m.star", range(3, 8), 9)
    assert shifts.of_frames(indices(4, 6), 9) == [(0.5 * frame, -0.25 * frame) for frame in range(4, 7)]


def test_movie_of_which_all_frames_were_used_has_no_range_of_its_own(tmp_path: Path) -> None:
    assert shifts_of(tmp_path / "m.star", range(1, 10), 9).used_range is None


@pytest.mark.parametrize(("first", "last", "frame"), [(1, 7, 1), (2, 6, 2), (3, 9, 8)])
def test_unused_frame_that_is_to_be_summed_is_named(tmp_path: Path, first: int, last: int, frame: int) -> None:
    path = tmp_path / "m.star"
    with pytest.raises(FileError) as caught:
        shifts_of(path, range(3, 8), 9).of_frames(indices(first, last), 9)
    assert caught.value.problem.message == (
        f"{path} has no shift of frame {frame}: the motion correction did not use it. Every used frame needs one."
    )
    assert caught.value.problem.remedy == Remedy("set_to", "frames", "3-7")


def test_movie_of_which_no_frame_was_used(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="has no shift of any frame: none was used"):
        shifts_of(tmp_path / "m.star", range(0), 6)


@pytest.mark.parametrize(
    ("first", "last", "given", "text"),
    [
        (1, 6, range(1, 6), "shifts of 5 frames, but 6 of the movie's 6 frames are used; frame 6 has none."),
        (1, 6, range(1, 8), "shifts of 7 frames, but 6 of the movie's 6 frames are used."),
        (2, 5, range(1, 5), "shifts of 4 frames, but 4 of the movie's 6 frames are used; frame 5 has none."),
    ],
)
def test_shifts_of_another_number_of_frames(first: int, last: int, given: range, text: str) -> None:
    with pytest.raises(FileError) as caught:
        Shifts("s.star", dict.fromkeys(given, (0.0, 0.0))).of_frames(indices(first, last), 6)
    assert caught.value.problem.message == (
        f"s.star has {text} Every used frame needs one shift: take the frame range of the motion correction."
    )


@pytest.mark.parametrize("given", [range(1, 7), range(2, 6)])
def test_shifts_of_all_or_of_the_used_frames_fit(given: range) -> None:
    assert Shifts("s.star", dict.fromkeys(given, (1.0, 0.0))).of_frames(indices(2, 5), 6) == [(1.0, 0.0)] * 4
