from __future__ import annotations

from pathlib import Path
from typing import Tuple

import numpy as np
import pytest
import tifffile

from cryoden.errors import FileError, PixelError
from cryoden.movies.calibration import Calibration, Reference
from cryoden.movies.movie import Movie
from tests.helpers import write_mrc, write_raw_mrc

SHAPE = (37, 23)


def counts(n_frames: int) -> np.ndarray:
    return np.random.default_rng(n_frames).integers(0, 120, (n_frames, *SHAPE))


def sums(movie: Movie) -> Tuple[np.ndarray, np.ndarray]:
    bands = list(movie.half_bands())
    return np.concatenate([odd for odd, _ in bands]), np.concatenate([even for _, even in bands])


def write_gain(path: Path, shape: Tuple[int, int] = SHAPE) -> np.ndarray:
    gain = np.random.default_rng(2).normal(1, 0.1, shape).astype(np.float32)
    write_mrc(path, gain)
    return gain


@pytest.mark.parametrize("gained", [True, False])
@pytest.mark.parametrize("darkened", [True, False])
def test_gain_and_dark_against_plain_numpy(tmp_path: Path, gained: bool, darkened: bool) -> None:
    frames, gain = counts(5), write_gain(tmp_path / "gain.mrc")
    dark = np.random.default_rng(3).normal(3, 1, SHAPE).astype(np.float32)
    write_mrc(tmp_path / "dark.mrc", dark)
    calibration = Calibration(
        Reference("Gain", tmp_path / "gain.mrc") if gained else None,
        Reference("Dark", tmp_path / "dark.mrc") if darkened else None,
    )
    movie = Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 6), calibration)
    movie.stack.band_rows = 10
    odd, even = sums(movie)
    corrected = (frames - dark.astype(np.float64) * darkened) * (gain.astype(np.float64) if gained else 1.0)
    # float32 arithmetic on sums of some hundred counts: rounding of 1e-7, a few times over
    np.testing.assert_allclose(odd, corrected[0::2].sum(axis=0), rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(even, corrected[1::2].sum(axis=0), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("ending", [".tif", ".gain"])
def test_integer_gain_in_a_tiff_multiplies(tmp_path: Path, ending: str) -> None:
    frames = counts(4)
    tifffile.imwrite(str(tmp_path / "gain.tif"), np.full(SHAPE, 3, np.uint8))
    path = (tmp_path / "gain.tif").rename(tmp_path / f"gain{ending}")
    movie = Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 6), Calibration(Reference("Gain", path)))
    np.testing.assert_array_equal(sums(movie)[0], 3 * frames[0::2].sum(axis=0))


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", ["none", "up-down", "left-right"])
def test_rotated_and_flipped_rows_are_those_of_numpy(tmp_path: Path, quarter_turns: int, flip: str) -> None:
    gain = write_gain(tmp_path / "gain.mrc")
    expected = np.rot90(gain, quarter_turns)
    expected = {"none": expected, "up-down": expected[::-1], "left-right": expected[:, ::-1]}[flip]
    reference = Reference("Gain", tmp_path / "gain.mrc", quarter_turns, flip)
    assert reference.shape == expected.shape
    np.testing.assert_array_equal(reference.rows(3, 17), expected[3:17])


def test_rows_of_a_tiff_may_count_from_the_bottom(tmp_path: Path) -> None:
    image = np.arange(SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(SHAPE)
    tifffile.imwrite(str(tmp_path / "gain.tif"), image)
    np.testing.assert_array_equal(
        Reference("Gain", tmp_path / "gain.tif", is_tiff_flipped=True).rows(2, 9), image[::-1][2:9]
    )


def test_finer_frames_see_each_pixel_twice(tmp_path: Path) -> None:
    gain = write_gain(tmp_path / "gain.mrc")
    rows = Reference("Gain", tmp_path / "gain.mrc").rows(3, 10, (2 * SHAPE[0], 2 * SHAPE[1]))
    np.testing.assert_array_equal(rows, np.kron(gain, np.ones((2, 2)))[3:10])


def test_gain_of_another_size(tmp_path: Path) -> None:
    write_raw_mrc(tmp_path / "m.mrc", counts(4), 6)
    gain = write_mrc(tmp_path / "gain.mrc", np.ones((40, 41)))
    with pytest.raises(FileError) as caught:
        Movie(tmp_path / "m.mrc", Calibration(Reference("Gain", gain)))
    assert str(caught.value) == (
        f"Gain reference {gain} is 41 x 40 px, but the frames of m.mrc are 23 x 37 px; it must be of their size."
    )


def test_rotated_gain_gets_a_hint(tmp_path: Path) -> None:
    write_raw_mrc(tmp_path / "m.mrc", counts(4), 6)
    write_gain(tmp_path / "gain.mrc", SHAPE[::-1])
    with pytest.raises(FileError, match=r"swapped: rotate it by another quarter turn\. Give --gain-rotation 90\.$"):
        Movie(tmp_path / "m.mrc", Calibration(Reference("Gain", tmp_path / "gain.mrc")))
    Movie(tmp_path / "m.mrc", Calibration(Reference("Gain", tmp_path / "gain.mrc", 1)))


def test_gain_of_several_images(tmp_path: Path) -> None:
    path = write_raw_mrc(tmp_path / "gain.mrc", counts(2), 2)
    with pytest.raises(FileError) as caught:
        Reference("Gain", path)
    assert str(caught.value) == f"Gain reference {path} has 2 images; it must be one. Average them first."


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["Gain", "Dark"])
def test_reference_that_is_not_finite(tmp_path: Path, kind: str, bad: float) -> None:
    image = np.ones((1, *SHAPE))
    image[0, 3, 3] = bad
    path = write_raw_mrc(tmp_path / "ref.mrc", image, 2)
    with pytest.raises(PixelError) as caught:
        Calibration(**{kind.lower(): Reference(kind, path)}).require_usable()
    assert str(caught.value) == (
        f"{kind} reference {path} has 1 NaN or infinite pixel; every pixel must be a number. Make it again."
    )


def test_gain_with_zeros(tmp_path: Path) -> None:
    image = np.ones(SHAPE, np.float32)
    image[3, 4] = image[30, 20] = 0
    reference = Reference("Gain", write_mrc(tmp_path / "gain.mrc", image))
    with pytest.raises(PixelError) as caught:
        Calibration(reference).require_usable()
    assert str(caught.value) == (
        f"Gain reference {tmp_path / 'gain.mrc'} has 2 pixels of value 0, which would leave no image there; all must "
        "be above 0. Make it again, or have such pixels replaced by their neighbours. Leave out --hot-pixels."
    )
    Calibration(reference, hot_pixels="auto").require_usable()
    Calibration(dark=Reference("Dark", tmp_path / "gain.mrc")).require_usable()


def test_gain_with_too_many_zeros(tmp_path: Path) -> None:
    image = np.ones(SHAPE, np.float32)
    image[:, 4] = 0
    reference = Reference("Gain", write_mrc(tmp_path / "gain.mrc", image))
    with pytest.raises(PixelError, match="has 37 of 851 pixels at 0, too many to be replaced"):
        Calibration(reference, hot_pixels="auto").require_usable()


def test_dead_pixels_of_the_gain_are_replaced(tmp_path: Path) -> None:
    frames, image = counts(4), np.ones(SHAPE, np.float32)
    image[7, 8] = 0
    calibration = Calibration(Reference("Gain", write_mrc(tmp_path / "gain.mrc", image)), hot_pixels=1e6)
    movie = Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 6), calibration)
    odd, _ = sums(movie)
    expected = frames[0::2].sum(axis=0)
    assert movie.n_bad_pixels == 1
    assert odd[7, 8] == pytest.approx((expected[5:10, 6:11].sum() - expected[7, 8]) / 24)
    odd[7, 8] = expected[7, 8]
    np.testing.assert_array_equal(odd, expected)
