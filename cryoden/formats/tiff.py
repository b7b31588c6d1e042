"""TIFF stacks; tifffile decodes, with imagecodecs for LZW and deflate."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Optional, Tuple

import numpy as np
import tifffile

from cryoden.errors import FileError
from cryoden.formats.files import PathLike


class TiffStack:
    """A TIFF file as a stack of images `(n, y, x)`; attributes as in `cryoden.formats.mrc.MrcStack`.

    The pixel size is not read: TIFF movies keep it nowhere that two programs agree on.

    Raises
    ------
    FileError
        If the file is missing, is no TIFF file, or its pages differ in shape.
    """

    sampling_rate: Optional[float] = None

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileError(f"{self.path} does not exist or is no file; check the path.")
        try:
            self._tiff = tifffile.TiffFile(str(self.path))
            weakref.finalize(self, self._tiff.close)
            page = self._tiff.pages[0]
            self.n_frames = len(self._tiff.pages)
            is_whole = self._has_last_page()
        except (OSError, ValueError, IndexError, tifffile.TiffFileError) as error:
            raise FileError(f"{self.path} cannot be read as TIFF ({error}); check what it is.") from error
        if len(page.shape) != 2:
            raise FileError(f"{self.path} has pages of shape {page.shape}; a movie has one grey value per pixel.")
        if page.dtype is None or page.dtype.kind not in "uif" or (page.dtype.kind != "f" and page.dtype.itemsize > 4):
            raise FileError(f"{self.path} has pixels of type {page.dtype}; it must be real, integers of up to 32 bits.")
        if not is_whole:
            raise FileError(f"{self.path} is truncated: it ends before the last frame that it names. Copy it again.")
        self.shape: Tuple[int, int] = page.shape
        self.dtype = np.dtype(page.dtype)
        self.band_rows = self.shape[0]
        self._decoded: Optional[int] = None
        self._image = np.empty(0)

    def _has_last_page(self) -> bool:
        """Return whether the chain of pages ends where it should: at a page that names no next one."""
        file, size = self._tiff.filehandle, self._tiff.tiff.offsetsize
        file.seek(self._tiff.pages.next_page_offset)
        return file.read(size) == bytes(size)

    def read_rows(self, frame: int, first: int, last: int) -> np.ndarray:
        """Return rows `first` to `last` (excluded) of one image; a page is decoded once and kept until the next.

        Raises
        ------
        FileError
            If the page cannot be decoded or has another shape than the first.
        """
        if self._decoded != frame:
            try:
                self._image = self._tiff.pages[frame].asarray()
            except Exception as error:  # decoders raise many kinds; all mean a damaged page
                raise FileError(
                    f"{self.path}: frame {frame + 1} cannot be decoded ({error}). Copy it again."
                ) from error
            if self._image.shape != self.shape:
                raise FileError(
                    f"{self.path}: frame {frame + 1} has {self._image.shape} pixels, the first has {self.shape}."
                )
            self._decoded = frame
        return self._image[first:last]
