"""MRC images and stacks, read and written by rows so that a large micrograph need not be in memory.

Source: MRC2014, Cheng et al. (2015) J. Struct. Biol. 192, 146-150; modes 0, 1, 2, 6 and 12.
"""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from cryoden.errors import FileError
from cryoden.formats.decompression import CompressedFile
from cryoden.formats.file_errors import PathLike, reading_errors, require_file, require_memory
from cryoden.formats.pixels import is_pixel_size, require_pixel_size
from cryoden.formats.stack import LONGEST_SIDE, rows_of_band

HEADER_BYTES = 1024
IMOD_STAMP = 1146047817
"""Marks a file of IMOD, whose flags at byte 156 say whether mode 0 is signed (https://bio3d.colorado.edu/imod)."""

SURPLUS_BYTES = 1 << 30
"""Accepted behind the images, for some programs pad files, or as many as the images have; more mean another file."""

_STATISTICS_PIXELS = 1 << 16
"""Pixels turned into float64 at once for the header's statistics: few enough to stay in the processor's cache."""

_MODES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}


class MrcStack:
    """An MRC file as a stack of images; attributes as in `cryoden.formats.stack.Stack`.

    Raises
    ------
    FileError
        If the file is missing, is no MRC file, or is shorter than its header says.
    """

    is_sequential = False

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        header, byte_order = _read_header(self.path, self._read_start())
        mode = int(header["mode"])
        if mode not in _MODES:
            raise FileError(
                f"{self.path} has MRC mode {mode}; cryoden reads modes {', '.join(map(str, _MODES))}. Convert it "
                "first.",
                subject=str(self.path),
            )
        self.n_frames = int(header["nz"])
        self.shape: Tuple[int, int] = (int(header["ny"]), int(header["nx"]))
        is_unsigned_byte = mode == 0 and _has_unsigned_bytes(header, byte_order)
        self.dtype = np.dtype(np.uint8 if is_unsigned_byte else _MODES[mode]).newbyteorder(byte_order)  # type: ignore[arg-type]
        self.sampling_rate = _sampling_rate(header)
        self._offset = HEADER_BYTES + int(header["nsymbt"])
        self._row_bytes = self.shape[1] * self.dtype.itemsize
        self._n_bytes = self._offset + self.n_frames * self.shape[0] * self._row_bytes
        self._prepare()

    def _read_start(self) -> bytes:
        require_file(self.path)
        with reading_errors(self.path), open(str(self.path), "rb") as file:
            return file.read(HEADER_BYTES)

    def _prepare(self) -> None:
        self.band_rows = rows_of_band(self.shape[1], self.dtype.itemsize)
        with reading_errors(self.path):
            self._file = os.open(str(self.path), os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._require_bytes(self._n_bytes_there())

    def _n_bytes_there(self) -> int:
        with reading_errors(self.path):
            return os.fstat(self._file).st_size

    def _require_bytes(self, actual: int) -> None:
        if actual < self._n_bytes:
            raise FileError(
                f"{self.path} is truncated: its header promises {self._n_bytes} bytes but it has {actual}. "
                "Copy it again.",
                subject=str(self.path),
            )

    def read_rows(self, frame: int, first: int, last: int) -> np.ndarray:
        """Return rows `first` to `last` (excluded) of one image; see `cryoden.formats.stack.Stack`."""
        require_memory(self.path, (last - first) * self._row_bytes)
        with reading_errors(self.path):
            rows = np.empty((last - first, self.shape[1]), self.dtype)
            offset = self._offset + (frame * self.shape[0] + first) * self._row_bytes
            unread = rows.reshape(-1).view(np.uint8).data
            while unread:  # one call reads at most 2 GiB
                n_read = os.preadv(self._file, [unread], offset)
                if not n_read:
                    self._require_bytes(self._n_bytes_there())
                    raise FileError(f"{self.path} ended while it was read; copy it again.", subject=str(self.path))
                unread, offset = unread[n_read:], offset + n_read
        return rows

    def verify(self) -> None:
        """Do nothing: an MRC file has no checksum; see `cryoden.formats.stack.Stack`."""


class CompressedMrcStack(MrcStack):
    """An MRC file compressed as a whole by gzip or bzip2; read from front to back, one image in memory."""

    is_sequential = True

    def _read_start(self) -> bytes:
        self._frame, self._image = -1, np.empty(0)
        self._lock = threading.Lock()
        self._is_verified = False
        self._restart()
        start = bytearray(HEADER_BYTES)
        return bytes(start[: self._stream.read_into(memoryview(start))])

    def _restart(self) -> None:
        self._stream = CompressedFile(self.path)
        weakref.finalize(self, self._stream.close)

    def _prepare(self) -> None:
        self.band_rows = self.shape[0]
        if self._n_bytes > self._stream.most_bytes:
            raise FileError(
                f"{self.path} is damaged or truncated: its header promises {self._n_bytes} bytes, more than it can "
                "hold. Copy it again.",
                subject=str(self.path),
            )

    def read_rows(self, frame: int, first: int, last: int) -> np.ndarray:
        """Return rows of one image; an earlier image than the last one read starts again at the front.

        Raises
        ------
        FileError
            If the file is truncated or damaged.
        """
        with self._lock:
            if frame != self._frame:
                self._image = np.empty(0)  # free before the next one is decoded
                self._image, self._frame = self._decode(frame), frame
            return self._image[first:last]

    def _decode(self, frame: int) -> np.ndarray:
        begin = self._offset + frame * self.shape[0] * self._row_bytes
        require_memory(self.path, self.shape[0] * self._row_bytes)
        if begin < self._stream.position:
            self._stream.close()
            self._restart()
        self._stream.skip(begin - self._stream.position)
        with reading_errors(self.path):
            image = np.empty(self.shape, self.dtype)
            n_read = self._stream.read_into(image.reshape(-1).view(np.uint8).data)
        if n_read < image.nbytes:
            self._require_bytes(self._stream.position)
        if frame == self.n_frames - 1:
            self._verify()
        return image

    def verify(self) -> None:
        """Read the stream to its end, where its checksum stands.

        Raises
        ------
        FileError
            If the file is truncated or damaged.
        """
        with self._lock:
            self._verify()

    def _verify(self) -> None:
        if self._is_verified:
            return
        self._stream.skip(max(0, self._n_bytes - self._stream.position))
        self._require_bytes(self._stream.position)
        self._stream.verify(max(SURPLUS_BYTES, self._n_bytes))
        self._is_verified = True


@dataclass(frozen=True)
class PixelStatistics:
    """Smallest and largest pixel, mean and standard deviation, as MRC headers tell them."""

    low: float
    high: float
    mean: float
    deviation: float


class MrcWriter:
    """Write one image, or a stack of images, by rows, with statistics and pixel size in the header.

    Use it as a context manager on a temporary path; the header is written last.

    Parameters
    ----------
    shape
        Rows and columns of an image.
    sampling_rate
        A/px; None is written as an unknown (zero) cell.
    dtype
        `float32` (mode 2) or `float16` (mode 12); for the frames of movies also `int8` (mode 0) or `uint16` (mode 6).
    n_images
        Images in the stack, written one after the other.
    statistics
        Of all pixels, where they are known; else they are measured while rows are written.

    Raises
    ------
    FileError
        If the sampling rate can be none of an image.
    """

    def __init__(
        self,
        path: PathLike,
        shape: Tuple[int, int],
        sampling_rate: Optional[float],
        dtype: str = "float32",
        n_images: int = 1,
        statistics: Optional[PixelStatistics] = None,
    ) -> None:
        self.path, self.shape, self.sampling_rate, self.dtype = Path(path), shape, sampling_rate, np.dtype(dtype)
        self.n_images, self._statistics = n_images, statistics
        if sampling_rate is not None:
            require_pixel_size(sampling_rate)
        self._n = 0
        self._sum = self._sum_of_squares = 0.0
        self._min, self._max = np.inf, -np.inf

    def __enter__(self) -> MrcWriter:
        self._file = open(str(self.path), "wb")
        self._file.write(b"\0" * HEADER_BYTES)
        return self

    def write_rows(self, rows: np.ndarray) -> None:
        """Append rows of shape `(any, x)`."""
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        self._file.write(rows.data)
        self._n += rows.size
        if self._statistics is None:
            self._measure(rows.reshape(-1))

    def _measure(self, pixels: np.ndarray) -> None:
        for first in range(0, pixels.size, _STATISTICS_PIXELS):
            piece = pixels[first : first + _STATISTICS_PIXELS].astype(np.float64)
            self._sum += float(piece.sum())
            self._sum_of_squares += float(piece @ piece)
            self._min, self._max = min(self._min, float(piece.min())), max(self._max, float(piece.max()))

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        try:
            if kind is None:
                self._file.seek(0)
                self._file.write(self._header().tobytes())
        finally:
            self._file.close()

    def _measured(self) -> PixelStatistics:
        mean = self._sum / self._n
        variance = self._sum_of_squares / self._n - mean * mean
        return PixelStatistics(self._min, self._max, mean, max(variance, 0.0) ** 0.5)

    def _header(self) -> np.ndarray:
        n_rows, n_columns = self.shape
        if self._n != self.n_images * n_rows * n_columns:
            raise ValueError(f"{self._n} pixels were written to {self.n_images} image(s) of {n_rows} x {n_columns}")

        header = np.zeros((), dtype=HEADER_DTYPE)
        header["nx"], header["ny"], header["nz"] = n_columns, n_rows, self.n_images
        header["mode"] = next(mode for mode, kind in _MODES.items() if self.dtype == kind)
        header["mx"], header["my"], header["mz"] = n_columns, n_rows, 1

        # A stack of images, not a volume: the cell is one pixel deep, whatever their number.
        pixel = self.sampling_rate or 0.0
        header["cella"] = (n_columns * pixel, n_rows * pixel, pixel)
        header["cellb"] = (90, 90, 90)
        header["mapc"], header["mapr"], header["maps"] = 1, 2, 3

        known = self._statistics or self._measured()
        header["dmin"], header["dmax"], header["dmean"], header["rms"] = (
            known.low,
            known.high,
            known.mean,
            known.deviation,
        )
        header["nversion"] = 20141
        header["map"] = b"MAP "
        header["machst"] = (0x44, 0x44, 0, 0)
        return header


def write_image(path: PathLike, image: np.ndarray, sampling_rate: Optional[float], dtype: str = "float32") -> None:
    """Write one image `(y, x)` in one go; see `MrcWriter`."""
    shape = (int(image.shape[0]), int(image.shape[1]))
    with MrcWriter(path, shape, sampling_rate, dtype) as writer:
        writer.write_rows(image)


def _read_header(path: Path, start: bytes) -> Tuple[np.void, str]:
    if len(start) < HEADER_BYTES:
        raise FileError(
            f"{path} is no MRC file: it has {len(start)} bytes, a header alone has {HEADER_BYTES}.", subject=str(path)
        )
    for byte_order in "<>":
        header = np.frombuffer(start, HEADER_DTYPE.newbyteorder(byte_order))[0]
        if _makes_sense(header):
            return header, byte_order
    raise FileError(f"{path} is no MRC file: its header does not make sense. Check what it is.", subject=str(path))


def _makes_sense(header: np.void) -> bool:
    sides = (int(header["nx"]), int(header["ny"]), int(header["nz"]))
    return (
        all(0 < side < LONGEST_SIDE for side in sides)
        and 0 <= int(header["mode"]) < 1 << 10
        and 0 <= int(header["nsymbt"]) < 1 << 30
        and bytes(header["map"]).rstrip(b"\0 ") in (b"MAP", b"")
    )


def _sampling_rate(header: np.void) -> Optional[float]:
    """Return A/px, None where the header says nothing that can be: many programs leave zeros or whatever there.

    It is not refused: the pixels are good, and who reads them is told elsewhere how large they are, or asks.
    """
    cell, intervals = float(header["cella"]["x"]), int(header["mx"])
    rate = cell / intervals if intervals > 0 else 0.0
    return rate if is_pixel_size(rate) else None


def _has_unsigned_bytes(header: np.void, byte_order: str) -> bool:
    stamp, flags = np.frombuffer(header.tobytes()[152:160], dtype=f"{byte_order}i4")
    return bool(stamp == IMOD_STAMP and not flags & 1)
