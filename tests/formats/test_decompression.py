"""Compressed movies: every checksum is verified, nothing is believed that cannot be there."""

from __future__ import annotations

import bz2
import gzip
import struct
from pathlib import Path
from typing import Callable

import numpy as np
import pytest

from cryoden.errors import FileError
from cryoden.formats import file_errors
from cryoden.formats.images import open_stack, read_micrograph
from tests.helpers import Result, write_raw_mrc

Run = Callable[..., Result]
PACK = {".gz": lambda content: gzip.compress(content, mtime=0), ".bz2": bz2.compress}
SHAPE = (4, 30, 40)
FRAMES = np.random.default_rng(1).integers(0, 60, SHAPE)

every_packing = pytest.mark.parametrize("ending", PACK)


def plain(tmp_path: Path, frames: np.ndarray = FRAMES) -> bytes:
    return write_raw_mrc(tmp_path / "plain.mrc", frames, 6).read_bytes()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def all_frames(path: Path) -> np.ndarray:
    stack = open_stack(path)
    return np.stack([stack.read_rows(frame, 0, stack.shape[0]) for frame in range(stack.n_frames)])


@every_packing
def test_no_flipped_bit_changes_pixels_unseen(tmp_path: Path, ending: str) -> None:
    """Only bits that mean nothing (a time, the name of a system, padding) may be flipped without a word."""
    content = PACK[ending](plain(tmp_path))
    n_refused = 0
    for bit in np.random.default_rng(2).choice(8 * len(content), 60, replace=False):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path = write(tmp_path / f"m.mrcs{ending}", bytes(damaged))
        try:
            found = all_frames(path)
        except FileError as error:
            assert str(path) in str(error)  # noqa: PT017
            n_refused += 1
        else:
            np.testing.assert_array_equal(found, FRAMES)
    assert n_refused >= 57


@every_packing
def test_damage_behind_the_last_frame_that_is_used_is_found(tmp_path: Path, ending: str) -> None:
    content = bytearray(PACK[ending](plain(tmp_path, np.random.default_rng(3).integers(0, 60, (9, 400, 400)))))
    content[-4] ^= 1
    stack = open_stack(write(tmp_path / f"m.mrcs{ending}", bytes(content)))
    stack.read_rows(0, 0, 400)
    with pytest.raises(FileError, match=rf"m\.mrcs\{ending} is damaged or truncated"):
        stack.verify()


@every_packing
def test_halves_of_some_frames_of_a_damaged_movie(tmp_path: Path, cryoden: Run, ending: str) -> None:
    content = bytearray(PACK[ending](plain(tmp_path)))
    write(tmp_path / f"good.mrcs{ending}", bytes(content))
    content[-3 if ending == ".gz" else -6] ^= 4
    write(tmp_path / f"bad.mrcs{ending}", bytes(content))
    names = [f"bad.mrcs{ending}", f"good.mrcs{ending}"]
    result = cryoden("halves", *names, "--frames", "1-2", "--sampling-rate", 1, "--output", "out")
    assert result.status == 1
    assert f"cryoden: failed: bad.mrcs{ending}: bad.mrcs{ending} is damaged or truncated" in result.err
    assert [path.name for path in sorted(Path("out/full").glob("*.mrc"))] == ["good.mrc"]


@every_packing
def test_undamaged_movie_is_verified_and_still_read(tmp_path: Path, ending: str) -> None:
    stack = open_stack(write(tmp_path / f"m.mrcs{ending}", PACK[ending](plain(tmp_path))))
    np.testing.assert_array_equal(stack.read_rows(1, 0, 30), FRAMES[1])
    stack.verify()
    np.testing.assert_array_equal(stack.read_rows(3, 0, 30), FRAMES[3])
    np.testing.assert_array_equal(stack.read_rows(0, 2, 5), FRAMES[0, 2:5])


@every_packing
@pytest.mark.parametrize(
    "behind", [b"\0" * 700, b"what a tape adds", b"\0\0\x1f"], ids=["zeros", "words", "half a member"]
)
def test_what_gzip_and_bzip2_ignore_is_ignored(tmp_path: Path, ending: str, behind: bytes) -> None:
    path = write(tmp_path / f"m.mrcs{ending}", PACK[ending](plain(tmp_path)) + behind)
    np.testing.assert_array_equal(all_frames(path), FRAMES)


@every_packing
def test_members_are_concatenated(tmp_path: Path, ending: str) -> None:
    content = plain(tmp_path)
    cuts = (0, 700, 1500, 1501, len(content))
    parts = [PACK[ending](content[first:last]) for first, last in zip(cuts, cuts[1:])]
    separator = b"\0" * 3 if ending == ".gz" else b""
    path = write(tmp_path / f"m.mrcs{ending}", separator.join(parts))
    np.testing.assert_array_equal(all_frames(path), FRAMES)


@every_packing
def test_a_missing_member_is_a_truncated_file(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"m.mrcs{ending}", PACK[ending](plain(tmp_path)[:2000]))
    with pytest.raises(FileError, match="is truncated: its header promises 10624 bytes but it has 2000"):
        all_frames(path)


def promise(path: Path, columns: int, rows: int, frames: int) -> bytes:
    """Return an MRC header that promises a stack of float32."""
    header = bytearray(write_raw_mrc(path, np.zeros((1, 1, 1)), 2).read_bytes()[:1024])
    struct.pack_into("<3i", header, 0, columns, rows, frames)
    return bytes(header)


@every_packing
def test_header_that_promises_terabytes(tmp_path: Path, ending: str) -> None:
    """Refused by the size of the file, before any memory is taken."""
    path = write(tmp_path / f"m.mrc{ending}", PACK[ending](promise(tmp_path / "p.mrc", 900_000, 900_000, 1)))
    with pytest.raises(FileError, match=r"its header promises 3240000001024 bytes, more than it can hold"):
        open_stack(path)


def test_image_larger_than_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_errors, "free_host_bytes", lambda: 1 << 30)
    header = promise(tmp_path / "p.mrc", 20_000, 20_000, 1)
    path = write(tmp_path / "m.mrc.gz", gzip.compress(header + bytes(1_700_000_000), 1))
    with pytest.raises(FileError, match=r"m\.mrc\.gz needs 1\.49 GiB of memory at once, but 1\.00 GiB are free"):
        read_micrograph(path)


def test_stream_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six bytes of bzip2 can become megabytes: what follows the images is not read for ever."""
    monkeypatch.setattr("cryoden.formats.mrc.SURPLUS_BYTES", 1 << 20)
    path = write(tmp_path / "m.mrcs.bz2", bz2.compress(plain(tmp_path)) + 3 * bz2.compress(bytes(1 << 24)))
    with pytest.raises(FileError, match="is far longer than it says"):
        all_frames(path)
