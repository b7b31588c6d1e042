"""Every movie format, read from a file that another library wrote."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Optional

import mrcfile
import numpy as np
import pytest
import tifffile

from cryoden.errors import FileError
from cryoden.formats.images import open_movie_stack, open_stack
from cryoden.formats.mrc import CompressedMrcStack
from cryoden.formats.stack import Stack

SHAPE = (5, 43, 61)
DTYPES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}


def frames_of(dtype: type, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 120, SHAPE).astype(dtype)


def write_with_mrcfile(path: Path, frames: np.ndarray, byteorder: str = "<", compression: Optional[str] = None) -> None:
    with mrcfile.new(str(path), compression=compression, overwrite=True) as mrc:
        mrc.set_data(frames.astype(frames.dtype.newbyteorder(byteorder)))
        mrc.set_image_stack()
        mrc.voxel_size = 1.25


def check(stack: Stack, frames: np.ndarray) -> None:
    """Read every frame, in and out of order, whole and in part."""
    assert (stack.n_frames, stack.shape) == (len(frames), frames.shape[1:])
    for number in (0, 1, 2, 3, 4, 2, 0):
        np.testing.assert_array_equal(stack.read_rows(number, 0, 43), frames[number])
        np.testing.assert_array_equal(stack.read_rows(number, 11, 30), frames[number, 11:30])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("ending", [".mrc", ".mrcs"])
@pytest.mark.parametrize("mode", DTYPES)
def test_mrc_of_mrcfile(tmp_path: Path, mode: int, ending: str, byteorder: str) -> None:
    frames = frames_of(DTYPES[mode])
    write_with_mrcfile(tmp_path / f"m{ending}", frames, byteorder)
    stack = open_stack(tmp_path / f"m{ending}")
    check(stack, frames)
    assert stack.sampling_rate == pytest.approx(1.25)


@pytest.mark.parametrize(("packing", "ending"), [("gzip", ".gz"), ("bzip2", ".bz2")])
@pytest.mark.parametrize("mode", DTYPES)
def test_packed_mrc_of_mrcfile(tmp_path: Path, mode: int, packing: str, ending: str) -> None:
    frames = frames_of(DTYPES[mode])
    write_with_mrcfile(tmp_path / f"m.mrc{ending}", frames, compression=packing)
    stack = open_stack(tmp_path / f"m.mrc{ending}")
    check(stack, frames)
    assert stack.sampling_rate == pytest.approx(1.25)


@pytest.mark.parametrize(("packing", "ending"), [("gzip", ".gz"), ("bzip2", ".bz2")])
@pytest.mark.parametrize("n_bytes", [3, 100, -500])
def test_truncated_packed_mrc(tmp_path: Path, packing: str, ending: str, n_bytes: int) -> None:
    path = tmp_path / f"m.mrcs{ending}"
    write_with_mrcfile(path, frames_of(np.uint16), compression=packing)
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(FileError, match=rf"m\.mrcs\{ending} is (damaged or )?truncated|is no MRC file"):  # noqa: PT012
        stack = open_stack(path)
        for number in range(stack.n_frames):
            stack.read_rows(number, 0, 43)


def test_packed_mrc_shorter_than_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "m.mrc"
    write_with_mrcfile(path, frames_of(np.uint16))
    packed = tmp_path / "m.mrc.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()[:-10]))
    with pytest.raises(FileError) as caught:
        CompressedMrcStack(packed).read_rows(4, 0, 43)
    assert str(caught.value) == (
        f"{packed} is truncated: its header promises 27254 bytes but it has 27244. Copy it again."
    )


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "adobe_deflate"])
@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 10}, {"rowsperstrip": 43}, {"tile": (16, 32)}], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int16])
def test_tiff_of_tifffile(
    tmp_path: Path, dtype: type, layout: dict, compression: Optional[str], byteorder: str
) -> None:
    frames = frames_of(dtype)
    with tifffile.TiffWriter(str(tmp_path / "m.tif"), byteorder=byteorder) as tiff:
        for frame in frames:
            tiff.write(frame, compression=compression, contiguous=False, metadata=None, **layout)
    check(open_stack(tmp_path / "m.tif"), frames)


@pytest.mark.parametrize("options", [{"bigtiff": True}, {"imagej": True}, {"ome": True}], ids=str)
def test_tiff_dialects(tmp_path: Path, options: dict) -> None:
    frames = frames_of(np.uint16)
    tifffile.imwrite(str(tmp_path / "m.tif"), frames, photometric="minisblack", **options)
    check(open_stack(tmp_path / "m.tif"), frames)


@pytest.mark.parametrize("predictor", [True, False])
def test_tiff_with_predictor(tmp_path: Path, predictor: bool) -> None:
    frames = frames_of(np.uint8)
    with tifffile.TiffWriter(str(tmp_path / "m.tif")) as tiff:
        for frame in frames:
            tiff.write(frame, compression="lzw", predictor=predictor, contiguous=False, metadata=None)
    check(open_stack(tmp_path / "m.tif"), frames)


@pytest.mark.parametrize("rows_per_strip", [10, 43])
def test_tiff_whose_rows_count_from_the_bottom(tmp_path: Path, rows_per_strip: int) -> None:
    frames = frames_of(np.uint8)
    with tifffile.TiffWriter(str(tmp_path / "m.tif")) as tiff:
        for frame in frames:
            tiff.write(frame, compression="lzw", contiguous=False, metadata=None, rowsperstrip=rows_per_strip)
    check(open_movie_stack(tmp_path / "m.tif", is_tiff_flipped=True), frames[:, ::-1])


def test_only_the_strips_of_the_wanted_rows_are_decoded(tmp_path: Path) -> None:
    """Damage elsewhere in the frame does not matter: memory follows the band, not the frame."""
    frames = frames_of(np.uint8)
    with tifffile.TiffWriter(str(tmp_path / "m.tif")) as tiff:
        for frame in frames:
            tiff.write(frame, compression="deflate", contiguous=False, metadata=None, rowsperstrip=10)
    with tifffile.TiffFile(str(tmp_path / "m.tif")) as tiff:
        offset, n_bytes = tiff.pages[0].dataoffsets[4], tiff.pages[0].databytecounts[4]
    content = bytearray((tmp_path / "m.tif").read_bytes())
    content[offset : offset + n_bytes] = b"\xff" * n_bytes
    (tmp_path / "m.tif").write_bytes(bytes(content))
    stack = open_stack(tmp_path / "m.tif")
    np.testing.assert_array_equal(stack.read_rows(0, 0, 40), frames[0, :40])
    with pytest.raises(FileError, match="frame 1 cannot be decoded"):
        stack.read_rows(0, 0, 43)


def test_rows_of_one_strip_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads a micrograph row by row must not decode it for each row."""
    image = np.random.default_rng(2).normal(size=(50, 40)).astype(np.float32)
    tifffile.imwrite(str(tmp_path / "m.tif"), image, compression="lzw", rowsperstrip=50)
    stack = open_stack(tmp_path / "m.tif")
    read, calls = os.pread, []

    def counted(*words: int) -> bytes:
        calls.append(words)
        return read(*words)

    monkeypatch.setattr(os, "pread", counted)
    for row in range(50):
        np.testing.assert_array_equal(stack.read_rows(0, row, row + 1)[0], image[row])
    assert len(calls) == 1
