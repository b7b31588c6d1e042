"""TIFF stacks in strips or tiles; tifffile finds the segments, imagecodecs decodes LZW and deflate."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np
import tifffile

from cryoden.errors import FileError
from cryoden.formats.file_errors import PathLike, decoding_errors, reading_errors, reason, require_file, require_memory
from cryoden.formats.stack import LONGEST_SIDE, rows_of_band


class TiffStack:
    """A TIFF file as a stack of images; attributes as in `cryoden.formats.stack.Stack`.

    Only the strips or tiles that hold the wanted rows are decoded. The pixel size is not read: TIFF movies keep it
    nowhere that two programs agree on.

    Parameters
    ----------
    path
        The file, whatever its ending.
    is_flipped
        Whether the last row of the file is the first one of the image, as RELION, MotionCor2 and IMOD read TIFF
        (https://relion.readthedocs.io, "Conventions").

    Raises
    ------
    FileError
        If the file is missing, is no TIFF file, or its pages differ in shape.
    """

    sampling_rate: Optional[float] = None
    is_sequential = False

    def __init__(self, path: PathLike, is_flipped: bool = False) -> None:
        self.path, self._is_flipped = Path(path), is_flipped
        self._pages = read_pages(self.path)
        with decoding_errors(self.path, "TIFF"):
            page = self._pages[0]
            if len(page.shape) != 2:
                raise FileError(
                    f"{self.path} has pages of shape {page.shape}; a movie has one grey value per pixel.",
                    subject=str(self.path),
                )
            require_sides(self.path, page.shape)

            dtype = page.dtype
            if dtype is None or dtype.kind not in "uif" or (dtype.kind != "f" and dtype.itemsize > 4):
                raise FileError(
                    f"{self.path} has pixels of type {dtype}; it must be real, integers of up to 32 bits.",
                    subject=str(self.path),
                )

            self.n_frames = len(self._pages)
            self.shape: Tuple[int, int] = page.shape
            self.dtype = np.dtype(dtype)

            # Bands are whole strips or tiles, so that none is decoded twice.
            self._segment_rows = int(page.chunks[0])
            rows = rows_of_band(self.shape[1], self.dtype.itemsize)
            self.band_rows = min(self.shape[0], -(-rows // self._segment_rows) * self._segment_rows)
        self._file = SegmentFile(self.path)
        self._decoded: Tuple[int, int, int, np.ndarray] = (-1, 0, 0, np.empty(0))

    def read_rows(self, frame: int, first: int, last: int) -> np.ndarray:
        """Return rows of one image; what was decoded last is kept, for readers of a few rows.

        Raises
        ------
        FileError
            If the page cannot be decoded or has another shape than the first.
        """
        if self._is_flipped:
            first, last = self.shape[0] - last, self.shape[0] - first
        start = first // self._segment_rows * self._segment_rows
        stop = min(self.shape[0], -(-last // self._segment_rows) * self._segment_rows)
        kept_frame, kept_start, kept_stop, rows = self._decoded
        if kept_frame != frame or first < kept_start or last > kept_stop:
            self._decoded = (-1, 0, 0, np.empty(0))  # free before the next rows are decoded
            del rows
            rows, kept_start = self._decode(frame, start, stop), start
            self._decoded = (frame, start, stop, rows)
        wanted = rows[first - kept_start : last - kept_start]
        return wanted[::-1] if self._is_flipped else wanted

    def _decode(self, frame: int, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop`, which are edges of segments."""
        page = self._pages[frame]
        with decoding_errors(self.path, "TIFF"):
            if page.shape != self.shape or page.dtype != self.dtype or page.chunks[0] != self._segment_rows:
                raise FileError(
                    f"{self.path}: frame {frame + 1} has {page.shape} pixels, the first has {self.shape}, and of type "
                    f"{page.dtype} and {self.dtype}, or other strips; all frames of a movie must be alike. Write it "
                    "again.",
                    subject=str(self.path),
                )
            n_across = page.chunked[1]
            n_pixels = (stop - start) * self.shape[1] + page.chunks[0] * page.chunks[1]
        require_memory(self.path, n_pixels * self.dtype.itemsize)
        segments = range(start // self._segment_rows * n_across, -(-stop // self._segment_rows) * n_across)
        try:
            rows = np.zeros((stop - start, self.shape[1]), self.dtype)  # costs nothing until it is touched
            for segment in segments:
                content = self._file.read(page.dataoffsets[segment], page.databytecounts[segment])
                image, (_, _, y, x, _), _ = page.decode(content or None, segment)
                if image is None:  # an empty segment means zeros
                    continue
                part = image[0, : stop - y, : self.shape[1] - x, 0]  # tiles reach beyond the image
                if part.shape == rows.shape:
                    return part
                rows[y - start : y - start + part.shape[0], x : x + part.shape[1]] = part
        except Exception as error:  # decoders raise many kinds; all mean a damaged page
            raise FileError(
                f"{self.path}: frame {frame + 1} cannot be decoded ({reason(error)}). Copy it again.",
                subject=str(self.path),
            ) from error
        return rows

    def verify(self) -> None:
        """Do nothing: strips and tiles are verified one by one; see `cryoden.formats.stack.Stack`."""


class SegmentFile:
    """The bytes of a TIFF file, read piece by piece by several threads; raises FileError if it cannot be opened."""

    def __init__(self, path: Path) -> None:
        with reading_errors(path):
            self._file = os.open(str(path), os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return bytes; raises ValueError if the file does not have them, OSError if it cannot be read."""
        n_missing = offset + n_bytes - os.fstat(self._file).st_size
        if n_missing > 0:  # before they are allocated
            raise ValueError(f"{n_missing} bytes are missing")
        content = os.pread(self._file, n_bytes, offset)
        if len(content) < n_bytes:
            raise ValueError(f"{n_bytes - len(content)} bytes are missing")
        return content


def require_sides(path: Path, shape: Tuple[int, int]) -> None:
    """Refuse pages with more rows or columns than any image has, or none; raises FileError."""
    if not all(0 < side < LONGEST_SIDE for side in shape):
        raise FileError(
            f"{path} has pages of {shape[1]} x {shape[0]} px; it is damaged. Copy it again.", subject=str(path)
        )


def read_pages(path: Path) -> List[tifffile.TiffPage]:
    """Return the directories of all pages, without pixels.

    Raises
    ------
    FileError
        If the file is missing, no TIFF file, or its chain of pages breaks off.
    """
    require_file(path)
    # Opened here, because tifffile leaves a file open that it cannot read.
    with decoding_errors(path, "TIFF"), open(str(path), "rb") as file, tifffile.TiffFile(file) as tiff:
        tiff.pages.useframes = False
        pages = [tiff.pages[number] for number in range(len(tiff.pages))]
        is_whole = _has_last_page(tiff)
    if not pages:
        raise FileError(f"{path} has no image; check what it is.", subject=str(path))
    if not is_whole:
        raise FileError(
            f"{path} is truncated: it ends before the last frame that it names. Copy it again.", subject=str(path)
        )
    return pages


def _has_last_page(tiff: tifffile.TiffFile) -> bool:
    """Return whether the chain of pages ends where it should: at a page that names no next one."""
    file, size = tiff.filehandle, tiff.tiff.offsetsize
    file.seek(tiff.pages.next_page_offset)
    return file.read(size) == bytes(size)
