from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoden.data.movies import Calibration, Movie, _sum_type
from cryoden.errors import CryodenError, FileError, PixelError
from tests.helpers import write_mrc, write_raw_mrc

SHAPE = (37, 23)


def counts(n_frames: int, high: int = 120, shape: Tuple[int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(n_frames).integers(0, high, (n_frames, *shape))


def sums(movie: Movie) -> Tuple[np.ndarray, np.ndarray]:
    bands = list(movie.half_bands())
    return np.concatenate([odd for odd, _ in bands]), np.concatenate([even for _, even in bands])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("mode", [0, 1, 2, 6, 12])
def test_halves_of_mrc_movies_are_exact(tmp_path: Path, mode: int, byteorder: str) -> None:
    frames = counts(6)
    odd, even = sums(Movie(write_raw_mrc(tmp_path / "m.mrc", frames, mode, byteorder)))
    np.testing.assert_array_equal(odd, frames[0::2].sum(axis=0))
    np.testing.assert_array_equal(even, frames[1::2].sum(axis=0))


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_unsigned_bytes_do_not_overflow(tmp_path: Path, byteorder: str) -> None:
    frames = np.full((40, *SHAPE), 255)
    movie = Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 0, byteorder, unsigned_bytes=True))
    odd, even = sums(movie)
    assert np.all(odd == 20 * 255)
    assert np.all(even == 20 * 255)


def test_signed_extremes_do_not_overflow(tmp_path: Path) -> None:
    frames = np.full((9, *SHAPE), -32768)
    odd, even = sums(Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 1)))
    assert np.all(odd == 5 * -32768)
    assert np.all(even == 4 * -32768)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_halves_of_tiff_movies_are_exact(tmp_path: Path, dtype: str, compression: Optional[str]) -> None:
    frames = counts(5, 250)
    tifffile.imwrite(str(tmp_path / "m.tif"), frames.astype(dtype), compression=compression)
    odd, even = sums(Movie(tmp_path / "m.tif"))
    np.testing.assert_array_equal(odd, frames[0::2].sum(axis=0))
    np.testing.assert_array_equal(even, frames[1::2].sum(axis=0))


def test_movie_of_several_bands_equals_one_of_one_band(tmp_path: Path) -> None:
    frames = counts(4)
    movie = Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 6))
    movie.stack.band_rows = 5
    odd, even = sums(movie)
    np.testing.assert_array_equal(odd, frames[0::2].sum(axis=0))
    np.testing.assert_array_equal(even, frames[1::2].sum(axis=0))


def test_first_frame_is_odd_and_an_odd_number_gives_odd_one_more(tmp_path: Path) -> None:
    frames = np.ones((7, *SHAPE))
    odd, even = sums(Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 1)))
    assert (odd.mean(), even.mean()) == (4, 3)


@pytest.mark.parametrize(("text", "used"), [("3-6", range(2, 6)), ("4-", range(3, 9)), (None, range(9))])
def test_frame_range_takes_these_frames(tmp_path: Path, text: Optional[str], used: range) -> None:
    frames = counts(9)
    odd, even = sums(Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 6), frames=text))
    np.testing.assert_array_equal(odd, frames[list(used)[0::2]].sum(axis=0))
    np.testing.assert_array_equal(even, frames[list(used)[1::2]].sum(axis=0))


@pytest.mark.parametrize("gained", [True, False])
@pytest.mark.parametrize("darkened", [True, False])
def test_gain_and_dark_against_plain_numpy(tmp_path: Path, gained: bool, darkened: bool) -> None:
    rng = np.random.default_rng(2)
    frames = counts(5)
    gain, dark = rng.normal(1, 0.1, SHAPE).astype(np.float32), rng.normal(3, 1, SHAPE).astype(np.float32)
    calibration = Calibration(
        write_mrc(tmp_path / "gain.mrc", gain) if gained else None,
        write_mrc(tmp_path / "dark.mrc", dark) if darkened else None,
    )
    movie = Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 6), calibration)
    movie.stack.band_rows = 10
    odd, even = sums(movie)
    corrected = (frames - dark.astype(np.float64) * darkened) * (gain.astype(np.float64) if gained else 1.0)
    # float32 arithmetic on sums of some hundred counts: rounding of 1e-7, a few times over
    np.testing.assert_allclose(odd, corrected[0::2].sum(axis=0), rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(even, corrected[1::2].sum(axis=0), rtol=1e-6, atol=1e-4)


def test_integer_gain_in_a_tiff_multiplies(tmp_path: Path) -> None:
    frames = counts(4)
    tifffile.imwrite(str(tmp_path / "gain.tif"), np.full(SHAPE, 3, np.uint8))
    odd, _ = sums(Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 6), Calibration(tmp_path / "gain.tif")))
    np.testing.assert_array_equal(odd, 3 * frames[0::2].sum(axis=0))


def test_movie_of_one_frame(tmp_path: Path) -> None:
    path = write_raw_mrc(tmp_path / "m.mrc", counts(1), 6)
    with pytest.raises(FileError) as caught:
        Movie(path)
    assert str(caught.value) == (f"Movie {path} has 1 frame; halves need at least 2. Give the movie, not its sum.")


@pytest.mark.parametrize("text", ["5-7", "2-100", "6-"])
def test_frames_outside_the_movie(tmp_path: Path, text: str) -> None:
    path = write_raw_mrc(tmp_path / "m.mrc", counts(6), 6)
    with pytest.raises(FileError) as caught:
        Movie(path, frames=text)
    assert str(caught.value) == f"Movie {path} has 6 frames, not the range {text}; choose frames inside it."


def test_gain_of_another_size(tmp_path: Path) -> None:
    path, gain = tmp_path / "m.mrc", tmp_path / "gain.mrc"
    write_raw_mrc(path, counts(4), 6)
    write_mrc(gain, np.ones((40, 41)))
    with pytest.raises(FileError) as caught:
        Movie(path, Calibration(gain))
    assert str(caught.value) == (
        f"Gain reference {gain} is 41 x 40 px with 1 image(s), but the frames of m.mrc are 23 x 37 px; "
        "it must be one image of that size."
    )


def test_rotated_gain_gets_a_hint(tmp_path: Path) -> None:
    write_raw_mrc(tmp_path / "m.mrc", counts(4), 6)
    write_mrc(tmp_path / "gain.mrc", np.ones(SHAPE[::-1]))
    with pytest.raises(FileError, match=r"Its sides are swapped: rotate it by 90 degrees\.$"):
        Movie(tmp_path / "m.mrc", Calibration(tmp_path / "gain.mrc"))


def test_gain_of_several_images(tmp_path: Path) -> None:
    write_raw_mrc(tmp_path / "m.mrc", counts(4), 6)
    write_raw_mrc(tmp_path / "gain.mrc", counts(2), 2)
    with pytest.raises(FileError, match=r"with 2 image\(s\)"):
        Movie(tmp_path / "m.mrc", Calibration(tmp_path / "gain.mrc"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["Gain", "Dark"])
def test_reference_that_is_not_finite(tmp_path: Path, kind: str, bad: float) -> None:
    write_raw_mrc(tmp_path / "m.mrc", counts(4), 6)
    reference = np.ones((1, *SHAPE))
    reference[0, 3, 3] = bad
    path = write_raw_mrc(tmp_path / "ref.mrc", reference, 2)
    movie = Movie(tmp_path / "m.mrc", Calibration(**{kind.lower(): path}))
    with pytest.raises(PixelError) as caught:
        sums(movie)
    assert str(caught.value) == f"{kind} reference {path} has NaN or infinite pixels; make it again."


def test_frame_that_is_not_finite_is_named(tmp_path: Path) -> None:
    frames = counts(4).astype(np.float32)
    frames[2, 0, 0] = np.nan
    path = write_raw_mrc(tmp_path / "m.mrc", frames, 2)
    with pytest.raises(PixelError) as caught:
        sums(Movie(path))
    assert str(caught.value) == f"Movie {path} has NaN or infinite pixels in frame 3; copy it again."


@pytest.mark.parametrize("dtype", [np.bool_, np.complex64, np.uint64])
def test_unusual_tiff_types_are_summed_or_refused(tmp_path: Path, dtype: type) -> None:
    frames = counts(4, 2)
    tifffile.imwrite(str(tmp_path / "m.tif"), frames.astype(dtype), photometric="minisblack")
    try:
        odd, _ = sums(Movie(tmp_path / "m.tif"))
    except CryodenError as error:
        assert "m.tif" in str(error)  # noqa: PT017
    else:
        np.testing.assert_array_equal(odd, frames[0::2].sum(axis=0))


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["int8", "uint8", "int16", "uint16", "int32", "uint32"]),
    st.integers(2, 5000),
    st.sampled_from([">", "<"]),
)
def test_sum_type_never_overflows(name: str, n_frames: int, byteorder: str) -> None:
    dtype = np.dtype(name).newbyteorder(byteorder)
    limits, sum_limits = np.iinfo(dtype), np.iinfo(_sum_type(dtype, n_frames))
    assert sum_limits.min <= n_frames * int(limits.min)
    assert sum_limits.max >= n_frames * int(limits.max)
