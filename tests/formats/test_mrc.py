from __future__ import annotations

import io
import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryoden.errors import FileError
from cryoden.formats.mrc import MrcStack, MrcWriter, write_image
from tests.helpers import write_mrc, write_raw_mrc


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).normal(100, 20, (33, 50)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_written_image_is_read_back_by_mrcfile(tmp_path: Path, image: np.ndarray, dtype: str) -> None:
    write_image(tmp_path / "a.mrc", image, 1.25, dtype)
    with mrcfile.open(str(tmp_path / "a.mrc")) as mrc:
        assert mrc.data.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(mrc.data, image.astype(dtype))
        assert float(mrc.voxel_size.x) == pytest.approx(1.25)
        assert float(mrc.voxel_size.y) == pytest.approx(1.25)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_written_image_is_read_back_by_cryoden(tmp_path: Path, image: np.ndarray, dtype: str) -> None:
    write_image(tmp_path / "a.mrc", image, 1.25, dtype)
    stack = MrcStack(tmp_path / "a.mrc")
    np.testing.assert_array_equal(stack.read_rows(0, 0, 33), image.astype(dtype))
    assert stack.sampling_rate == pytest.approx(1.25)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_written_file_is_valid_mrc2014(tmp_path: Path, image: np.ndarray, dtype: str) -> None:
    write_image(tmp_path / "a.mrc", image / 200, 1.25, dtype)  # mrcfile's own float16 sums overflow at 65504
    report = io.StringIO()
    assert mrcfile.validate(str(tmp_path / "a.mrc"), print_file=report), report.getvalue()


def test_header_statistics_are_those_of_the_pixels(tmp_path: Path, image: np.ndarray) -> None:
    write_image(tmp_path / "a.mrc", image, 1.0)
    with mrcfile.open(str(tmp_path / "a.mrc")) as mrc:
        found = [float(mrc.header[key]) for key in ("dmin", "dmax", "dmean", "rms")]
    wide = image.astype(np.float64)
    # the header keeps float32; rms from sums of squares loses (mean/rms)^2 times 1e-16
    assert found == pytest.approx([wide.min(), wide.max(), wide.mean(), wide.std()], rel=1e-6)


def test_bands_of_rows_give_the_same_file_as_one_write(tmp_path: Path, image: np.ndarray) -> None:
    write_image(tmp_path / "whole.mrc", image, 2.0)
    with MrcWriter(tmp_path / "bands.mrc", (33, 50), 2.0) as writer:
        for first in range(0, 33, 10):
            writer.write_rows(image[first : first + 10])
    whole, bands = MrcStack(tmp_path / "whole.mrc"), MrcStack(tmp_path / "bands.mrc")
    np.testing.assert_array_equal(whole.read_rows(0, 0, 33), bands.read_rows(0, 0, 33))


def test_unknown_pixel_size_stays_unknown(tmp_path: Path, image: np.ndarray) -> None:
    write_image(tmp_path / "a.mrc", image, None)
    assert MrcStack(tmp_path / "a.mrc").sampling_rate is None


def test_too_few_rows_are_not_accepted_as_an_image(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="500 pixels were written"):  # noqa: SIM117
        with MrcWriter(tmp_path / "a.mrc", (33, 50), 1.0) as writer:
            writer.write_rows(image[:10])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("mode", [0, 1, 2, 6, 12])
def test_every_mode_is_read_in_both_byte_orders(tmp_path: Path, mode: int, byteorder: str) -> None:
    low = -100 if mode in (0, 1) else 0
    frames = np.random.default_rng(mode).integers(low, 120, (3, 7, 9))
    stack = MrcStack(write_raw_mrc(tmp_path / "m.mrcs", frames, mode, byteorder))
    assert (stack.n_frames, stack.shape, stack.sampling_rate) == (3, (7, 9), pytest.approx(1.5))
    for number in range(3):
        np.testing.assert_array_equal(stack.read_rows(number, 2, 6), frames[number, 2:6])


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_bytes_are_unsigned_where_imod_says_so(tmp_path: Path, byteorder: str) -> None:
    frames = np.arange(200, 256).reshape(2, 4, 7)
    stack = MrcStack(write_raw_mrc(tmp_path / "m.mrc", frames, 0, byteorder, unsigned_bytes=True))
    np.testing.assert_array_equal(stack.read_rows(1, 0, 4), frames[1])


def test_extended_header_is_skipped(tmp_path: Path) -> None:
    frames = np.arange(24).reshape(2, 3, 4)
    stack = MrcStack(write_raw_mrc(tmp_path / "m.mrc", frames, 1, extended=b"\x07" * 1536))
    np.testing.assert_array_equal(stack.read_rows(1, 0, 3), frames[1])


def test_truncated_file_says_how_much_is_missing(tmp_path: Path) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.ones((20, 30), np.float32))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileError) as caught:
        MrcStack(path)
    assert str(caught.value) == f"{path} is truncated: its header promises 3424 bytes but it has 3324. Copy it again."


@pytest.mark.parametrize("length", [10, 5000])
def test_text_file_is_no_mrc(tmp_path: Path, length: int) -> None:
    path = tmp_path / "notes.mrc"
    path.write_text(("what a day " * length)[:length])
    with pytest.raises(FileError, match="is no MRC file"):
        MrcStack(path)


@pytest.mark.parametrize("filling", [b"\0", b"\xff"])
def test_file_of_one_byte_value_is_no_mrc(tmp_path: Path, filling: bytes) -> None:
    path = tmp_path / "zeros.mrc"
    path.write_bytes(filling * 4096)
    with pytest.raises(FileError, match=r"is no MRC file|cannot be read as MRC"):
        MrcStack(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError) as caught:
        MrcStack(tmp_path / "none.mrc")
    assert str(caught.value) == f"{tmp_path / 'none.mrc'} does not exist or is no file; check the path."


def test_complex_mode_is_refused(tmp_path: Path) -> None:
    path = write_raw_mrc(tmp_path / "a.mrc", np.ones((1, 4, 4)), 2)
    content = bytearray(path.read_bytes())
    content[12:16] = (4).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(FileError) as caught:
        MrcStack(path)
    assert str(caught.value) == f"{path} has MRC mode 4; cryoden reads modes 0, 1, 2, 6, 12. Convert it first."


def test_negative_extended_header_is_refused(tmp_path: Path) -> None:
    path = write_raw_mrc(tmp_path / "a.mrc", np.ones((1, 40, 40)), 2)
    content = bytearray(path.read_bytes())
    struct.pack_into("<i", content, 92, -2048)
    path.write_bytes(bytes(content))
    with pytest.raises(FileError):
        MrcStack(path).read_rows(0, 0, 40)


@pytest.mark.parametrize("cell", [float("nan"), float("inf"), -5.0])
def test_senseless_cell_is_an_unknown_pixel_size(tmp_path: Path, cell: float) -> None:
    path = write_raw_mrc(tmp_path / "a.mrc", np.ones((1, 4, 4)), 2)
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 40, cell)
    path.write_bytes(bytes(content))
    assert MrcStack(path).sampling_rate is None


@pytest.mark.parametrize("rate", [1e-9, 0.001, 5000.0, 1e30])
def test_absurd_pixel_size_is_an_unknown_one(tmp_path: Path, rate: float) -> None:
    """Headers hold whatever a program left there; the pixels are good, and the size can be given."""
    assert MrcStack(write_raw_mrc(tmp_path / "a.mrc", np.ones((1, 4, 4)), 2, rate=rate)).sampling_rate is None


@pytest.mark.parametrize("rate", [0.0, -4.0, float("nan"), float("inf"), 1e-9, 5000.0])
def test_absurd_pixel_sizes_are_not_written(tmp_path: Path, image: np.ndarray, rate: float) -> None:
    with pytest.raises(FileError, match=r"The pixel size is .* Å/px; it must be from 0\.01 to 1000\."):
        write_image(tmp_path / "a.mrc", image, rate)
    assert not (tmp_path / "a.mrc").exists()


def test_image_larger_than_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_raw_mrc(tmp_path / "a.mrc", np.ones((1, 4, 4)), 2)
    with open(path, "r+b") as file:
        file.write(struct.pack("<2i", 20_000, 20_000))
        file.truncate(1024 + 4 * 20_000**2)  # a file with a hole takes no room
    monkeypatch.setattr("cryoden.formats.file_errors.free_host_bytes", lambda: 1 << 30)
    stack = MrcStack(path)
    assert stack.read_rows(0, 19_990, 20_000).shape == (10, 20_000)
    with pytest.raises(FileError, match=r"a\.mrc needs 1\.49 GiB of memory at once, but 1\.00 GiB are free"):
        stack.read_rows(0, 0, 20_000)
