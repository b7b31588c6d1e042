from __future__ import annotations

from pathlib import Path
from typing import Callable

import numpy as np
import pytest

from cryoden.errors import FileError
from cryoden.formats.images import open_movie_stack
from cryoden.movies.gain_orientation import require_orientation
from tests.helpers import Result, write_mrc, write_raw_mrc

Run = Callable[..., Result]
FLIPS = ("none", "up-down", "left-right")


def oriented(image: np.ndarray, turns: int, flip: str) -> np.ndarray:
    image = np.rot90(image, turns)
    return {"none": image, "up-down": image[::-1], "left-right": image[:, ::-1]}[flip]


def detector(path: Path, shape: tuple = (128, 128), spread: float = 0.05) -> np.ndarray:
    """Write a movie of 1 electron per pixel and frame of a detector with 5 % differences; return its gain."""
    rng = np.random.default_rng(1)
    gain = rng.normal(1, spread, shape)
    write_raw_mrc(path, rng.poisson(1 / gain, (12, *shape)), 6)
    return gain


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", FLIPS)
def test_options_that_fit_are_named_and_do_fit(tmp_path: Path, cryoden: Run, turns: int, flip: str) -> None:
    """Whatever was done to the reference, following the advice undoes it."""
    gain = detector(tmp_path / "m.mrc")
    write_mrc(tmp_path / "gain.mrc", oriented(gain, turns, flip))
    words = ["halves", "m.mrc", "--output", "out", "--gain", "gain.mrc"]
    result = cryoden(*words)
    if (turns, flip) == (0, "none"):
        assert result.status == 0
        return
    assert result.status == 2
    assert result.last_error.startswith("cryoden: Gain reference gain.mrc does not lie as the frames do: its pattern")
    options = result.last_error.split("It fits with ")[1].split(";")[0].split()
    assert cryoden(*words, *options).status == 0


def test_swapped_sides_name_both_sizes_and_the_rotation(tmp_path: Path) -> None:
    gain = detector(tmp_path / "m.mrc", (96, 160))
    write_mrc(tmp_path / "gain.mrc", np.rot90(gain, 3))
    with pytest.raises(FileError) as caught:
        require_orientation(open_movie_stack(tmp_path / "m.mrc"), "gain.mrc", (0, "none"))
    assert str(caught.value) == (
        "Gain reference gain.mrc is 96 x 160 px but the frames are 160 x 96 px (m.mrc). It fits with --gain-rotation "
        "90 --gain-flip none; give these options."
    )


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_frames_that_say_nothing_are_let_pass(tmp_path: Path, spread: float) -> None:
    """Corrected before, or a reference that is even: no orientation fits better."""
    detector(tmp_path / "m.mrc", spread=0.0)
    write_mrc(tmp_path / "gain.mrc", np.random.default_rng(5).normal(1, spread, (128, 128)))
    require_orientation(open_movie_stack(tmp_path / "m.mrc"), "gain.mrc", (1, "none"))


def test_reference_of_another_size_is_left_to_the_movies(tmp_path: Path) -> None:
    detector(tmp_path / "m.mrc")
    write_mrc(tmp_path / "gain.mrc", np.ones((64, 65)))
    require_orientation(open_movie_stack(tmp_path / "m.mrc"), "gain.mrc", (0, "none"))
