from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoden.config import HalvesConfig
from cryoden.errors import FileError, Remedy
from cryoden.formats.stack import BAND_BYTES
from cryoden.formats.star import write_global_shifts
from cryoden.movies import parallel_jobs, preprocessing
from cryoden.movies.calibration import Calibration
from cryoden.movies.motion.stored_shifts import NOT_OBSERVED
from cryoden.movies.preprocessing import (
    affordable_jobs,
    bytes_needed,
    open_calibration,
    prepare_movie,
    preprocessed_halves,
)
from tests.helpers import write_mrc, write_raw_mrc

SHAPE = (30, 40)
GIB = 1 << 30


def config(**options: Any) -> HalvesConfig:
    return HalvesConfig(movies=("m.mrc",), output="out", **options)


def write_movie(path: Path, n_frames: int = 6) -> str:
    return str(write_raw_mrc(path, np.random.default_rng(1).integers(0, 99, (n_frames, *SHAPE)), 6))


def test_references_are_oriented_as_the_options_say(tmp_path: Path) -> None:
    image = np.arange(1200.0).reshape(SHAPE)
    write_mrc(tmp_path / "gain.mrc", image)
    calibration = open_calibration(config(gain="gain.mrc", gain_rotation="90", gain_flip="up-down", hot_pixels=7.0))
    np.testing.assert_array_equal(calibration.gain.rows(0, 40), np.rot90(image)[::-1])
    assert calibration.dark is None
    assert calibration.hot_pixels == 7.0


def test_frames_are_those_of_the_option(tmp_path: Path) -> None:
    prepared = prepare_movie(write_movie(tmp_path / "m.mrc"), config(frames="2-5"), Calibration())
    assert prepared.movie.frame_indices == [1, 2, 3, 4]
    assert prepared.motion is None


@pytest.mark.parametrize(("frames", "used"), [(None, [1, 2, 3]), ("3-4", [2, 3])])
def test_frames_are_those_that_the_motion_correction_used(tmp_path: Path, frames: str, used: list) -> None:
    path = write_movie(tmp_path / "m.mrc", 5)
    (tmp_path / "shifts").mkdir()
    listed = {frame: (float(frame), -float(frame)) for frame in range(1, 6)}
    listed.update(dict.fromkeys((1, 5), (NOT_OBSERVED, NOT_OBSERVED)))
    write_global_shifts("shifts/m.star", listed)
    prepared = prepare_movie(path, config(shifts="shifts", frames=frames), Calibration())
    assert prepared.movie.frame_indices == used
    assert prepared.motion.shifts == [(index + 1.0, -index - 1.0) for index in used]


def test_dose_of_eer_frames_needs_the_pixel_size() -> None:
    with pytest.raises(FileError) as caught:
        prepare_movie("m.EER", config(eer_dose=1.0), Calibration())
    assert caught.value.problem.remedy == Remedy("set", "sampling_rate")


@pytest.mark.parametrize(("sampling", "expected"), [("4K", 1.5 * 2.0**2), ("8K", 1.5 * 4.0**2)])
def test_electrons_of_an_eer_frame_are_counted_per_pixel_of_the_detector(sampling: str, expected: float) -> None:
    """The pixel size is that of the rendered frames: a pixel of the detector is twice as wide as one of 8K."""
    rendering = preprocessing._rendering("m.eer", config(eer_dose=1.5, eer_sampling=sampling), 2.0)
    assert rendering.electrons_per_px == expected
    assert rendering.is_super_resolution == (sampling == "8K")


@pytest.mark.parametrize("options", [{}, {"dose_per_frame": 1e-9}])
def test_halves_come_from_one_pass_or_from_the_frames(tmp_path: Path, options: dict) -> None:
    """Weights of no dose change nothing, in another way of summing."""
    path = write_movie(tmp_path / "m.mrc")
    prepared = prepare_movie(path, config(**options), Calibration())
    bands = list(preprocessed_halves(prepared, config(**options), 1.5, 300.0))
    plain = list(prepare_movie(path, config(), Calibration()).movie.half_bands())
    np.testing.assert_allclose(np.concatenate(bands), np.concatenate(plain), atol=2e-3)


@pytest.mark.parametrize(
    ("jobs", "memory", "expected"), [(1, 0.001, 1), (3, 0.001, 1), (3, 0.4, 2), (3, 5.0, 3), (9, 5.0, 4)]
)
def test_jobs_are_as_many_as_the_memory_allows(tmp_path: Path, jobs: int, memory: float, expected: int) -> None:
    paths = [write_movie(tmp_path / f"{name}.mrc") for name in "abcd"]
    assert affordable_jobs(config(jobs=jobs, memory=memory), paths, Calibration()) == expected


def test_half_of_the_free_memory_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_movie(tmp_path / f"{name}.mrc") for name in "abcd"]
    monkeypatch.setattr(parallel_jobs, "free_host_bytes", lambda: GIB)
    assert affordable_jobs(config(jobs=4), paths, Calibration()) == 2


def test_the_size_is_that_of_the_first_movie_that_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a damaged one raises is its own failure, later."""
    good = write_movie(tmp_path / "c.mrc")
    prepare = preprocessing.prepare_movie

    def fail_or_prepare(path: str, *arguments: Any) -> Any:
        if path == "b.mrc":
            raise ZeroDivisionError
        return prepare(path, *arguments)

    monkeypatch.setattr(preprocessing, "prepare_movie", fail_or_prepare)
    assert affordable_jobs(config(jobs=3, memory=0.4), ["none.mrc", "b.mrc", good], Calibration()) == 2
    assert affordable_jobs(config(jobs=3, memory=0.4), ["none.mrc", "b.mrc"], Calibration()) == 2


def test_shifts_and_weights_need_the_memory_of_whole_frames(tmp_path: Path) -> None:
    movie = prepare_movie(write_movie(tmp_path / "m.mrc"), config(), Calibration()).movie
    n_pixels = SHAPE[0] * SHAPE[1]
    needed = [bytes_needed(movie, config(**options)) - 44 * BAND_BYTES for options in ({}, {"dose_per_frame": 1.0})]
    assert needed[0] == 0
    assert needed[1] == 20 * n_pixels  # two spectra, a padded frame, its own spectrum, weights; and uint16 counts
    movie.stack.band_rows = SHAPE[0]  # as of files that are decoded as a whole
    assert bytes_needed(movie, config()) - 44 * BAND_BYTES == 12 * n_pixels
