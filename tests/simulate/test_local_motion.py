"""Local motion of simulated movies: where a place has gone, there its image is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.optimize

from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.simulate.facts import Facts
from cryoden.simulate.local_motion import LocalMotion
from cryoden.simulate.movies import simulate_movies
from tests.helpers import read_mrc

SHAPE, MARGIN, N_FRAMES = (384, 640), 24, 5


def field(length: float = 6.0) -> LocalMotion:
    return LocalMotion.draw(N_FRAMES, 4.0, length, np.random.default_rng(3))


def pattern(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.sin(y / 5.0 + 0.3) * np.cos(x / 7.0) + 0.5 * np.sin((x + 2 * y) / 9.0)


def test_the_place_that_moves_most_goes_as_far_as_asked_for_and_nothing_moves_in_the_first_frame() -> None:
    places = np.linspace(-0.5, 0.5, 33)
    last = field().displacement(N_FRAMES - 1, places[:, None], places[None])
    assert np.hypot(*(last - last.mean(axis=(1, 2), keepdims=True))).max() == pytest.approx(6.0)
    assert not field().displacement(0, places[:, None], places[None]).any()


def test_a_frame_shows_every_place_where_it_has_gone() -> None:
    """Found by solving for the place that came to each pixel, one by one."""
    shift, motion = (3.25, -2.5), field()
    y, x = np.mgrid[: SHAPE[0] + 2 * MARGIN, : SHAPE[1] + 2 * MARGIN] - float(MARGIN)
    drifted = pattern(y - shift[0], x - shift[1]).astype(np.float32)
    warped = motion.warp(drifted, (MARGIN, MARGIN), SHAPE, N_FRAMES - 1, shift)
    assert warped.shape == SHAPE

    def gone_to(place: np.ndarray) -> np.ndarray:
        relative = place / SHAPE - 0.5
        return place + shift + motion.displacement(N_FRAMES - 1, relative[:1, None], relative[1:])[:, 0, 0]

    for pixel in ((0, 0), (10, 630), (200, 311), (383, 3), (383, 639)):
        origin = scipy.optimize.root(lambda place: gone_to(place) - pixel, np.array(pixel, float), tol=1e-10).x  # noqa: B023
        assert warped[pixel] == pytest.approx(pattern(*origin), abs=2e-3)


def test_the_field_is_recorded_and_moves_the_movie() -> None:
    options = {"movies": 1, "size": (128, 192), "frames": 4, "sampling_rate": 3.0, "particles": 8, "shape": "rod"}
    still = simulate_movies(SimulateMoviesConfig(output="still", **options))["movie_0001"]  # type: ignore[arg-type]
    moved = simulate_movies(SimulateMoviesConfig(output="moved", local_motion=30.0, **options))["movie_0001"]  # type: ignore[arg-type]
    assert still.local_motion is None
    assert moved.local_motion is not None
    read = Facts.read(Path("moved/truth/movie_0001.json"))
    places = np.linspace(-0.5, 0.5, 9)
    again = LocalMotion.from_dict(read.local_motion or {}).displacement(3, places[:, None], places[None])
    assert np.hypot(*again).max() > 5
    assert not np.array_equal(
        read_mrc(Path("still/movies/movie_0001.mrcs")), read_mrc(Path("moved/movies/movie_0001.mrcs"))
    )


def test_facts_of_older_simulations_are_read(tmp_path: Path) -> None:
    facts = Facts(1.0, [[0.0, 0.0]], [], 1.0, 0.1, 0.2, 30.0)
    facts.write(tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text()
    assert '"local_motion": null' in text
    (tmp_path / "a.json").write_text(
        text.replace(', "local_motion": null', "").replace(',\n  "local_motion": null', "")
    )
    assert "local_motion" not in (tmp_path / "a.json").read_text()
    assert Facts.read(tmp_path / "a.json") == facts
