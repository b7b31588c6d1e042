from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from cryoden.errors import CryodenError, FileError
from cryoden.formats.images import open_stack
from cryoden.formats.tiff import TiffStack

COMPRESSIONS = [None, "lzw", "deflate"]


def write_pages(path: Path, frames: np.ndarray, compression: object = None) -> Path:
    """Write each frame as a page of its own, as microscopes do."""
    with tifffile.TiffWriter(str(path)) as tiff:
        for frame in frames:
            tiff.write(frame, compression=compression, contiguous=False, metadata=None)
    return path


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_pages_are_read_as_written(tmp_path: Path, dtype: str, compression: object) -> None:
    frames = np.random.default_rng(1).integers(0, 250, (3, 20, 31)).astype(dtype)
    stack = TiffStack(write_pages(tmp_path / "a.tif", frames, compression))
    assert (stack.n_frames, stack.shape) == (3, (20, 31))
    for number in (2, 0, 1):
        np.testing.assert_array_equal(stack.read_rows(number, 5, 12), frames[number, 5:12])


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_movie_never_passes_for_a_shorter_one(tmp_path: Path, share: float, compression: object) -> None:
    """A copy that broke off must be refused: a movie of fewer frames would be split without a word."""
    frames = np.random.default_rng(1).integers(0, 60000, (10, 32, 32)).astype(np.uint16)
    path = write_pages(tmp_path / "a.tif", frames, compression)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileError, match=r"a\.tif"):  # noqa: PT012
        stack = TiffStack(path)
        for number in range(stack.n_frames):
            stack.read_rows(number, 0, 32)


def test_movie_cut_between_two_pages_never_passes_for_a_shorter_one(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).integers(0, 60000, (10, 32, 32)).astype(np.uint16)
    path = write_pages(tmp_path / "a.tif", frames)
    with tifffile.TiffFile(str(path)) as tiff:
        length = tiff.pages[6].offset  # tifffile writes a page's directory in front of its pixels
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FileError, match=r"a\.tif"):  # noqa: PT012
        stack = TiffStack(path)
        for number in range(stack.n_frames):
            stack.read_rows(number, 0, 32)


def test_truncated_movie_whose_directories_stand_at_the_end_is_refused(tmp_path: Path) -> None:
    """An uncompressed stack keeps one directory in front and the others behind the pixels: one page seems left."""
    frames = np.random.default_rng(1).integers(0, 60000, (10, 32, 32)).astype(np.uint16)
    tifffile.imwrite(str(tmp_path / "a.tif"), frames)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match=r"a\.tif"):
        TiffStack(tmp_path / "a.tif")


def test_text_file_is_no_tiff(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("not a TIFF at all")
    with pytest.raises(FileError, match=r"a\.tif cannot be read as TIFF \(.+\); check what it is\."):
        TiffStack(tmp_path / "a.tif")


def test_empty_file_is_no_tiff(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"")
    with pytest.raises(FileError, match="cannot be read as TIFF"):
        TiffStack(tmp_path / "a.tif")


def test_colour_pages_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(str(tmp_path / "a.tif"), np.zeros((8, 9, 3), np.uint8), photometric="rgb")
    with pytest.raises(FileError) as caught:
        TiffStack(tmp_path / "a.tif")
    assert str(caught.value) == (
        f"{tmp_path / 'a.tif'} has pages of shape (8, 9, 3); a movie has one grey value per pixel."
    )


def test_pages_of_other_shape_are_named(tmp_path: Path) -> None:
    with tifffile.TiffWriter(str(tmp_path / "a.tif")) as tiff:
        tiff.write(np.zeros((8, 8), np.uint8))
        tiff.write(np.zeros((8, 9), np.uint8))
    with pytest.raises(FileError, match=r"frame 2 has \(8, 9\) pixels, the first has \(8, 8\)"):
        TiffStack(tmp_path / "a.tif").read_rows(1, 0, 8)


def test_complex_pixels_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(str(tmp_path / "a.tif"), np.ones((8, 8), np.complex64), photometric="minisblack")
    with pytest.raises(CryodenError, match=r"a\.tif"):
        TiffStack(tmp_path / "a.tif")


def test_unknown_ending_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.dm4").write_bytes(b"1")
    with pytest.raises(FileError) as caught:
        open_stack(tmp_path / "a.dm4")
    assert str(caught.value).startswith(f"{tmp_path / 'a.dm4'} has the unknown ending '.dm4'; cryoden reads ")
