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


def with_tag(path: Path, tag: int, value: int, code: int = 4) -> Path:
    """Give a tag of the first page another type and value."""
    with tifffile.TiffFile(str(path)) as tiff:
        place = tiff.pages[0].tags[tag].offset
    content = bytearray(path.read_bytes())
    content[place + 2 : place + 4] = code.to_bytes(2, "little")
    content[place + 4 : place + 8] = (1).to_bytes(4, "little")
    content[place + 8 : place + 12] = value.to_bytes(4, "little")
    path.write_bytes(bytes(content))
    return path


HUGE = (1 << 32) - 1
TAGS = {"width": 256, "length": 257, "bits": 258, "compression": 259, "samples": 277, "strip": 278, "offset": 273,
        "count": 279, "photometric": 262}  # fmt: skip


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("value", [0, 1, 3, 7, 65535, 1 << 20, 1 << 31, HUGE])
@pytest.mark.parametrize("tag", TAGS)
def test_tags_of_any_value(tmp_path: Path, tag: str, value: int, compression: object) -> None:
    """A width of 0, a strip of 0 rows, 64 GiB of pixels, unknown compressions: named, or read as far as it can be."""
    frames = np.random.default_rng(1).integers(0, 250, (2, 20, 31)).astype(np.uint8)
    path = with_tag(write_pages(tmp_path / "a.tif", frames, compression), TAGS[tag], value)
    try:
        stack = TiffStack(path)
        pixels = stack.read_rows(0, 0, min(20, stack.shape[0]))
    except FileError as error:
        assert "a.tif" in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert pixels.shape == (min(20, stack.shape[0]), stack.shape[1])


@pytest.mark.parametrize("code", [1, 2, 5, 7, 11, 12, 13, 16, 99])
@pytest.mark.parametrize("tag", TAGS)
def test_tags_of_any_type(tmp_path: Path, tag: str, code: int) -> None:
    frames = np.ones((2, 20, 31), np.uint8)
    path = with_tag(write_pages(tmp_path / "a.tif", frames), TAGS[tag], 20, code)
    try:
        stack = TiffStack(path)
        stack.read_rows(0, 0, stack.shape[0])
    except FileError as error:
        assert "a.tif" in str(error)  # noqa: PT017


def test_pages_in_a_circle(tmp_path: Path) -> None:
    path = write_pages(tmp_path / "a.tif", np.ones((3, 20, 31), np.uint8))
    with tifffile.TiffFile(str(path)) as tiff:
        first, place = tiff.pages[0].offset, tiff.pages.next_page_offset
        assert tiff.pages[2]
        place = tiff.pages.next_page_offset
    content = bytearray(path.read_bytes())
    content[place : place + 4] = first.to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(FileError, match=r"a\.tif"):
        TiffStack(path)


def test_page_of_other_strips_is_refused(tmp_path: Path) -> None:
    """Its rows were read from the places of the first page's strips."""
    with tifffile.TiffWriter(str(tmp_path / "a.tif")) as tiff:
        for rows in (5, 7):
            tiff.write(np.ones((20, 31), np.uint8), rowsperstrip=rows, compression="lzw", metadata=None)
    with pytest.raises(FileError, match=r"frame 2 .* or other strips; all frames of a movie must be alike"):
        TiffStack(tmp_path / "a.tif").read_rows(1, 0, 20)


def test_frame_larger_than_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pages(tmp_path / "a.tif", np.ones((1, 20, 31), np.uint8), "lzw")
    for tag, value in ((256, 1 << 18), (257, 1 << 18), (278, 1 << 18)):
        with_tag(path, tag, value)
    monkeypatch.setattr("cryoden.formats.file_errors.free_host_bytes", lambda: 1 << 30)
    with pytest.raises(FileError, match=r"a\.tif needs 128\.00 GiB of memory at once, but 1\.00 GiB are free"):
        TiffStack(path).read_rows(0, 0, 5)
