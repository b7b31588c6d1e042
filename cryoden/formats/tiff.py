"""TIFF stacks in strips or tiles; tifffile finds the segments, imagecodecs decodes LZW and deflate."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np
import tifffile

from cryoden.errors import FileError
from cryoden.formats.files import PathLike
from cryoden.formats.stack import rows_of_band


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
        page = self._pages[0]
        if len(page.shape) != 2:
            raise FileError(f"{self.path} has pages of shape {page.shape}; a movie has one grey value per pixel.")
        if page.dtype is None or page.dtype.kind not in "uif" or (page.dtype.kind != "f" and page.dtype.itemsize > 4):
            raise FileError(f"{self.path} has pixels of type {page.dtype}; it must be real, integers of up to 32 bits.")
        self.n_frames = len(self._pages)
        self.shape: Tuple[int, int] = page.shape
        self.dtype = np.dtype(page.dtype)
        self._segment_rows = int(page.chunks[0])
        rows = rows_of_band(self.shape[1], self.dtype.itemsize)
        self.band_rows = min(self.shape[0], -(-rows // self._segment_rows) * self._segment_rows)
        self._file = os.open(str(self.path), os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
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
        if page.shape != self.shape or page.dtype != self.dtype:
            raise FileError(
                f"{self.path}: frame {frame + 1} has {page.shape} pixels, the first has {self.shape}, and of type "
                f"{page.dtype} and {self.dtype}; all frames of a movie must be alike. Write it again."
            )
        n_across = page.chunked[1]
        segments = range(start // self._segment_rows * n_across, -(-stop // self._segment_rows) * n_across)
        rows = np.zeros((stop - start, self.shape[1]), self.dtype)  # costs nothing until it is touched
        try:
            for segment in segments:
                image, (_, _, y, x, _), _ = page.decode(self._read_segment(page, segment), segment)
                if image is None:  # an empty segment means zeros
                    continue
                part = image[0, : stop - y, : self.shape[1] - x, 0]  # tiles reach beyond the image
                if part.shape == rows.shape:
                    return part
                rows[y - start : y - start + part.shape[0], x : x + part.shape[1]] = part
        except Exception as error:  # decoders raise many kinds; all mean a damaged page
            raise FileError(f"{self.path}: frame {frame + 1} cannot be decoded ({error}). Copy it again.") from error
        return rows

    def _read_segment(self, page: tifffile.TiffPage, segment: int) -> Optional[bytes]:
        n_bytes = page.databytecounts[segment]
        content = os.pread(self._file, n_bytes, page.dataoffsets[segment])
        if len(content) < n_bytes:
            raise ValueError(f"{n_bytes - len(content)} bytes are missing")
        return content or None


def read_pages(path: Path) -> List[tifffile.TiffPage]:
    """Return the directories of all pages, without pixels.

    Raises
    ------
    FileError
        If the file is missing, no TIFF file, or its chain of pages breaks off.
    """
    if not path.is_file():
        raise FileError(f"{path} does not exist or is no file; check the path.")
    try:
        with tifffile.TiffFile(str(path)) as tiff:
            tiff.pages.useframes = False
            pages = [tiff.pages[number] for number in range(len(tiff.pages))]
            is_whole = _has_last_page(tiff)
    except (OSError, ValueError, IndexError, tifffile.TiffFileError) as error:
        raise FileError(f"{path} cannot be read as TIFF ({error}); check what it is.") from error
    if not pages:
        raise FileError(f"{path} has no image; check what it is.")
    if not is_whole:
        raise FileError(f"{path} is truncated: it ends before the last frame that it names. Copy it again.")
    return pages


def _has_last_page(tiff: tifffile.TiffFile) -> bool:
    """Return whether the chain of pages ends where it should: at a page that names no next one."""
    file, size = tiff.filehandle, tiff.tiff.offsetsize
    file.seek(tiff.pages.next_page_offset)
    return file.read(size) == bytes(size)
