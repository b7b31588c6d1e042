from __future__ import annotations

from pathlib import Path
from typing import Callable, Optional

import numpy as np
import pytest

from cryoden.errors import FileError, Problem, Remedy, option_name
from cryoden.formats.images import open_movie_stack
from cryoden.formats.outcome import read_ending
from cryoden.movies.gain_orientation import Orientation, require_orientation, summed_middle
from tests.helpers import Result, write_mrc, write_raw_mrc

Run = Callable[..., Result]
FLIPS = ("none", "up-down", "left-right")


def oriented(image: np.ndarray, quarter_turns: int, flip: str) -> np.ndarray:
    image = np.rot90(image, quarter_turns)
    return {"none": image, "up-down": image[::-1], "left-right": image[:, ::-1]}[flip]


def detector(path: Path, shape: tuple = (128, 128), spread: float = 0.05) -> np.ndarray:
    """Write a movie of 1 electron per pixel and frame of a detector with 5 % differences; return its gain."""
    rng = np.random.default_rng(1)
    gain = rng.normal(1, spread, shape)
    write_raw_mrc(path, rng.poisson(1 / gain, (12, *shape)), 6)
    return gain


def check(movie: Path, gain: Path, given: Orientation = (0, "none")) -> Optional[Problem]:
    """Return what is wrong with the orientation of a reference."""
    stack = open_movie_stack(movie)
    try:
        require_orientation(summed_middle(stack), stack.shape, movie.name, str(gain), given)
    except FileError as error:
        return error.problem
    return None


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", FLIPS)
def test_following_the_advice_undoes_what_was_done(tmp_path: Path, cryoden: Run, quarter_turns: int, flip: str) -> None:
    """Whatever was done to the reference; the advice sets one option, then perhaps the other."""
    gain = detector(tmp_path / "m.mrc")
    write_mrc(tmp_path / "gain.mrc", oriented(gain, quarter_turns, flip))
    words = ["halves", "m.mrc", "--output", "out", "--gain", "gain.mrc", "--outcome", "outcome.json"]
    n_refused = 0
    while cryoden(*words).status != 0:
        n_refused += 1
        assert n_refused <= 2
        problem = read_ending("outcome.json").problems[0]
        assert problem.message.startswith("Gain reference gain.mrc does not have the orientation of the frames")
        words += [option_name(problem.remedy.option), problem.remedy.value]
    assert (n_refused > 0) == ((quarter_turns, flip) != (0, "none"))


def test_swapped_sides_name_both_sizes_and_the_rotation(tmp_path: Path) -> None:
    gain = detector(tmp_path / "m.mrc", (96, 160))
    path = write_mrc(tmp_path / "gain.mrc", np.rot90(gain, 3))
    problem = check(tmp_path / "m.mrc", path)
    assert problem.message == (
        f"Gain reference {path} is 96 x 160 px but the frames of m.mrc are 160 x 96 px. It matches rotated by 90 "
        "degrees counter-clockwise and without a flip."
    )
    assert problem.remedy == Remedy("set_to", "gain_rotation", "90")


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_frames_that_say_nothing_are_accepted(tmp_path: Path, spread: float) -> None:
    """Corrected before, or a reference that is even: no orientation matches better."""
    detector(tmp_path / "m.mrc", spread=0.0)
    path = write_mrc(tmp_path / "gain.mrc", np.random.default_rng(5).normal(1, spread, (128, 128)))
    assert check(tmp_path / "m.mrc", path, (1, "none")) is None


def test_reference_of_another_size_is_left_to_the_movies(tmp_path: Path) -> None:
    detector(tmp_path / "m.mrc")
    assert check(tmp_path / "m.mrc", write_mrc(tmp_path / "gain.mrc", np.ones((64, 65)))) is None


def test_a_first_movie_that_cannot_be_read_leaves_the_question_to_the_next(tmp_path: Path, cryoden: Run) -> None:
    gain = detector(tmp_path / "b.mrc")
    detector(tmp_path / "a.mrc")
    (tmp_path / "a.mrc").write_bytes((tmp_path / "a.mrc").read_bytes()[:5000])
    write_mrc(tmp_path / "gain.mrc", np.rot90(gain))
    result = cryoden("halves", "a.mrc", "b.mrc", "--output", "out", "--gain", "gain.mrc")
    assert "does not have the orientation of the frames of b.mrc" in result.last_error
