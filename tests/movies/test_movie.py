from __future__ import annotations

import bz2
import gzip
import tempfile
from pathlib import Path
from typing import Optional, Tuple

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoden.errors import CryodenError, FileError, PixelError
from cryoden.formats.tiff import TiffStack
from cryoden.movies.calibration import Calibration
from cryoden.movies.movie import Movie
from tests.helpers import write_raw_mrc

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
    frames = np.full((9, *SHAPE), -16384)
    odd, even = sums(Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 1)))
    assert np.all(odd == 5 * -16384)
    assert np.all(even == 4 * -16384)


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
    assert str(caught.value) == f"Movie {path} has 6 frames, not the range {text}. Choose another --frames."


def test_frame_that_is_not_finite_is_named(tmp_path: Path) -> None:
    frames = counts(4).astype(np.float32)
    frames[2, 0, 0] = np.nan
    path = write_raw_mrc(tmp_path / "m.mrc", frames, 2)
    with pytest.raises(PixelError) as caught:
        sums(Movie(path))
    assert str(caught.value) == f"Movie {path} has NaN or infinite pixels in frame 3. Copy it again."


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


FORMATS = st.sampled_from(
    [
        "mrc0",
        "mrc1",
        "mrc2",
        "mrc6",
        "mrc12",
        "mrc6.gz",
        "mrc1.bz2",
        "tif-u1",
        "tif-u2",
        "tif-f4",
        "tif-u1-lzw",
        "tif-u2-tiles",
    ]
)


@settings(deadline=None, max_examples=80, derandomize=True)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(2, 23),
    FORMATS,
    st.sampled_from("<>"),
    st.integers(1, 50),
    st.data(),
)
def test_halves_of_any_movie(
    shape: Tuple[int, int], n_frames: int, kind: str, byteorder: str, band_rows: int, data: st.DataObject
) -> None:
    """Any size, number of frames, type, byte order, range and band: exact, disjoint, odd + even = full."""
    first = data.draw(st.integers(1, n_frames - 1))
    last = data.draw(st.integers(first + 1, n_frames))
    frames = np.random.default_rng(n_frames).integers(0, 120, (n_frames, *shape))
    with tempfile.TemporaryDirectory() as folder:
        movie = Movie(write_any(Path(folder), frames, kind, byteorder), frames=f"{first}-{last}")
        if movie.stack.band_rows < shape[0]:
            movie.stack.band_rows = band_rows
        odd, even = sums(movie)
    used = frames[first - 1 : last]
    np.testing.assert_array_equal(odd, used[0::2].sum(axis=0))
    np.testing.assert_array_equal(even, used[1::2].sum(axis=0))
    np.testing.assert_array_equal(odd + even, used.sum(axis=0))
    assert [len(half) for half in movie.halves] == [len(used[0::2]), len(used[1::2])]


def write_any(folder: Path, frames: np.ndarray, kind: str, byteorder: str) -> Path:
    """Write a movie of a kind: MRC mode and packing, or TIFF type, compression and layout."""
    if kind.startswith("mrc"):
        mode, _, packing = kind[3:].partition(".")
        path = write_raw_mrc(folder / "m.mrc", frames, int(mode), byteorder)
        if packing:
            packed = path.with_name(f"m.mrc.{packing}")
            packed.write_bytes({"gz": gzip, "bz2": bz2}[packing].compress(path.read_bytes()))
            path = packed
        return path
    _, dtype, *layout = kind.split("-")
    with tifffile.TiffWriter(str(folder / "m.tif"), byteorder=byteorder) as tiff:
        for frame in frames:
            tiff.write(
                frame.astype(dtype),
                compression="lzw" if "lzw" in layout else None,
                tile=(16, 16) if "tiles" in layout else None,
                rowsperstrip=None if "tiles" in layout else 7,
                contiguous=False,
                metadata=None,
            )
    return folder / "m.tif"


def test_movie_of_another_number_of_frames(tmp_path: Path) -> None:
    path = write_raw_mrc(tmp_path / "m.mrc", counts(6), 6)
    with pytest.raises(FileError) as caught:
        Movie(path, n_expected=8)
    assert str(caught.value) == (
        f"Movie {path} has 6 frames, but every movie must have 8; its exposure or its copy was "
        "interrupted. Leave it out, or copy it again."
    )


@pytest.mark.parametrize(("mode", "value"), [(6, 65535), (1, 32767), (1, -30000)])
def test_counts_beyond_16_bits_are_named(tmp_path: Path, mode: int, value: int) -> None:
    """Saturated counts, and counts above 32767 that were written as signed numbers and wrapped."""
    frames = counts(6)
    frames[2, :10] = value
    path = write_raw_mrc(tmp_path / "m.mrc", frames, mode)
    with pytest.raises(PixelError) as caught:
        sums(Movie(path))
    assert str(caught.value) == (
        f"Movie {path}: 27% of the pixels of frame 3 are at the limit of 16 bits or wrapped beyond it; counts "
        "overflowed when it was written. Write it again with 32 bits."
    )


def test_one_saturated_pixel_is_no_overflow(tmp_path: Path) -> None:
    frames = counts(6, shape=(64, 64))
    frames[:, 5, 5] = 65535
    odd, _ = sums(Movie(write_raw_mrc(tmp_path / "m.mrc", frames, 6)))
    assert odd[5, 5] == 3 * 65535


@pytest.mark.parametrize(("most_bytes", "n_passes"), [(6 * 64 * 80, 1), (6 * 64 * 80 - 1, 3)])
def test_frames_that_fit_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_bytes: int, n_passes: int
) -> None:
    frames = np.random.default_rng(1).poisson(20, (6, 64, 80)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "m.tif", frames, compression="lzw", rowsperstrip=64)
    expected = list(Movie(tmp_path / "m.tif", Calibration(hot_pixels=8.0)).corrected_frames())

    read, read_rows = [], TiffStack.read_rows
    monkeypatch.setattr(TiffStack, "read_rows", lambda self, *words: read.append(words) or read_rows(self, *words))
    movie = Movie(tmp_path / "m.tif", Calibration(hot_pixels=8.0))
    movie.decode_once(3, most_bytes)
    for _ in range(2):
        np.testing.assert_array_equal(list(movie.corrected_frames()), expected)
    assert len(read) == n_passes * len(frames)
