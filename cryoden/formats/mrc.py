"""MRC images and stacks, read and written by rows so that a large micrograph need not be in memory.

Source: MRC2014, Cheng et al. (2015) J. Struct. Biol. 192, 146-150; modes 0, 1, 2, 6 and 12.
"""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from cryoden.errors import FileError
from cryoden.formats.files import PathLike

HEADER_BYTES = 1024
IMOD_STAMP = 1146047817
"""Marks a file of IMOD, whose flags at byte 156 say whether mode 0 is signed (https://bio3d.colorado.edu/imod)."""

_STATISTICS_PIXELS = 1 << 16
"""Pixels turned into float64 at once for the header's statistics: few enough to stay in the processor's cache."""

_MODES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}


class MrcStack:
    """An MRC file as a stack of images `(n, y, x)`, opened without reading pixels.

    Attributes
    ----------
    n_frames : int
    shape : (int, int)
        Rows and columns of one image.
    dtype : numpy.dtype
    sampling_rate : float or None
        A/px, None where the header says nothing.
    band_rows : int
        Rows that are best read at once.

    Raises
    ------
    FileError
        If the file is missing, is no MRC file, or is shorter than its header says.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        header, byte_order = _read_header(self.path)
        mode = int(header.mode)
        if mode not in _MODES:
            raise FileError(
                f"{self.path} has MRC mode {mode}; cryoden reads modes {', '.join(map(str, _MODES))}. Convert it first."
            )
        self.n_frames = int(header.nz)
        self.shape: Tuple[int, int] = (int(header.ny), int(header.nx))
        is_unsigned_byte = mode == 0 and _has_unsigned_bytes(header, byte_order)
        self.dtype = np.dtype(np.uint8 if is_unsigned_byte else _MODES[mode]).newbyteorder(byte_order)  # type: ignore[arg-type]
        self._offset = HEADER_BYTES + int(header.nsymbt)
        needed = self._offset + self.n_frames * self.shape[0] * self.shape[1] * self.dtype.itemsize
        actual = self.path.stat().st_size
        if actual < needed:
            raise FileError(
                f"{self.path} is truncated: its header promises {needed} bytes but it has {actual}. Copy it again."
            )
        cell, intervals = float(header.cella.x), int(header.mx)
        self.sampling_rate: Optional[float] = cell / intervals if 0 < cell < np.inf and intervals > 0 else None
        self.band_rows = max(1, (4 << 20) // (self.shape[1] * self.dtype.itemsize))

    def read_rows(self, frame: int, first: int, last: int) -> np.ndarray:
        """Return rows `first` to `last` (excluded) of one image, shape `(last - first, x)`, as stored."""
        n_rows, n_columns = self.shape
        offset = self._offset + (frame * n_rows + first) * n_columns * self.dtype.itemsize
        rows = np.fromfile(str(self.path), dtype=self.dtype, count=(last - first) * n_columns, offset=offset)
        return rows.reshape(last - first, n_columns)


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
    """

    def __init__(
        self,
        path: PathLike,
        shape: Tuple[int, int],
        sampling_rate: Optional[float],
        dtype: str = "float32",
        n_images: int = 1,
    ) -> None:
        self.path, self.shape, self.sampling_rate, self.dtype = (
            Path(path),
            shape,
            sampling_rate,
            np.dtype(dtype),
        )
        self.n_images = n_images
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
        flat = rows.reshape(-1)
        for first in range(0, flat.size, _STATISTICS_PIXELS):
            piece = flat[first : first + _STATISTICS_PIXELS].astype(np.float64)
            self._n += piece.size
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

    def _header(self) -> np.ndarray:
        n_rows, n_columns = self.shape
        if self._n != self.n_images * n_rows * n_columns:
            raise ValueError(f"{self._n} pixels were written to {self.n_images} image(s) of {n_rows} x {n_columns}")
        header = np.zeros((), dtype=HEADER_DTYPE)
        header["nx"], header["ny"], header["nz"] = n_columns, n_rows, self.n_images
        header["mode"] = next(mode for mode, kind in _MODES.items() if self.dtype == kind)
        header["mx"], header["my"], header["mz"] = n_columns, n_rows, 1
        pixel = self.sampling_rate or 0.0
        header["cella"] = (n_columns * pixel, n_rows * pixel, pixel)
        header["cellb"] = (90, 90, 90)
        header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
        mean = self._sum / self._n
        header["dmin"], header["dmax"], header["dmean"] = self._min, self._max, mean
        header["rms"] = np.sqrt(max(self._sum_of_squares / self._n - mean * mean, 0.0))
        header["nversion"] = 20141
        header["map"] = b"MAP "
        header["machst"] = (0x44, 0x44, 0, 0)
        return header


def write_image(path: PathLike, image: np.ndarray, sampling_rate: Optional[float], dtype: str = "float32") -> None:
    """Write one image `(y, x)` in one go; see `MrcWriter`."""
    shape = (int(image.shape[0]), int(image.shape[1]))
    with MrcWriter(path, shape, sampling_rate, dtype) as writer:
        writer.write_rows(image)


def _read_header(path: Path) -> Tuple[np.recarray, str]:
    if not path.is_file():
        raise FileError(f"{path} does not exist or is no file; check the path.")
    with open(str(path), "rb") as file:
        start = file.read(HEADER_BYTES)
    if len(start) < HEADER_BYTES:
        raise FileError(f"{path} is no MRC file: it has {len(start)} bytes, a header alone has {HEADER_BYTES}.")
    for byte_order in "<>":
        header = np.frombuffer(start, HEADER_DTYPE.newbyteorder(byte_order)).view(np.recarray)[0]
        if _makes_sense(header):
            return header, byte_order
    raise FileError(f"{path} is no MRC file: its header does not make sense. Check what it is.")


def _makes_sense(header: np.recarray) -> bool:
    sides = (int(header.nx), int(header.ny), int(header.nz))
    return (
        all(0 < side < 1 << 20 for side in sides)
        and 0 <= int(header.mode) < 1 << 10
        and 0 <= int(header.nsymbt) < 1 << 30
        and bytes(header.map).rstrip(b"\0 ") in (b"MAP", b"")
    )


def _has_unsigned_bytes(header: np.recarray, byte_order: str) -> bool:
    stamp, flags = np.frombuffer(header.tobytes()[152:160], dtype=f"{byte_order}i4")
    return bool(stamp == IMOD_STAMP and not flags & 1)
