"""EER movies: electrons counted one by one in hardware frames, summed here to the frames of a movie.

Source: EER file format documentation 3.0, Thermo Fisher Scientific (2023); a TIFF file whose pages hold run lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

import imagecodecs
import numpy as np
import tifffile

from cryoden.errors import FileError, Remedy
from cryoden.formats.file_errors import PathLike, decoding_errors, reason, require_memory
from cryoden.formats.tiff import SegmentFile, read_pages, require_sides

_BITS = {65000: (8, 2, 2), 65001: (7, 2, 2)}
"""TIFF compression -> bits of a run length, of a sub-pixel column and of a sub-pixel row."""

_VARIABLE_BITS, _BIT_TAGS = 65002, {65007: 7, 65008: 2, 65009: 2}
"""The compression of which tags say these numbers of bits, and the numbers if they do not."""

_NEEDED_CODEC = (2025, 11, 11)
"""The first imagecodecs that adds electrons to an array of counts and places them rightly on the finer grid."""


@dataclass(frozen=True)
class EerRendering:
    """How electron events become frames.

    Attributes
    ----------
    n_frames
        Frames of the movie; the hardware frames are shared out evenly.
    electrons_per_px
        Counted electrons per detector pixel and frame, from which the number of frames follows; used if `n_frames`
        is None.
    is_super_resolution
        8K (each detector pixel as 2 x 2) instead of 4K.
    grouping
        Hardware frames in each frame, those left over at the end are not used; used if it is not None.
    """

    n_frames: Optional[int] = None
    electrons_per_px: Optional[float] = None
    is_super_resolution: bool = False
    grouping: Optional[int] = None


class EerStack:
    """An EER movie as a stack of frames; attributes as in `cryoden.formats.stack.Stack`.

    Raises
    ------
    FileError
        If the file has no frame of electron events, or fewer than are wanted, if nothing says into how many frames
        the events are summed, or no decoder is installed.
    """

    dtype = np.dtype(np.uint16)
    sampling_rate: Optional[float] = None
    is_sequential = False

    def __init__(self, path: PathLike, rendering: EerRendering = EerRendering()) -> None:
        self.path, self._rendering = Path(path), rendering
        _require_codec(self.path)
        known = (*_BITS, _VARIABLE_BITS)
        pages = read_pages(self.path)
        with decoding_errors(self.path, "EER"):
            self._pages = [page for page in pages if int(page.compression) in known]
            if not self._pages:
                raise FileError(
                    f"{self.path} has no EER frames: no page holds electron events. Check what it is.",
                    subject=str(self.path),
                )
            rows, columns = self._pages[0].shape[:2]
            require_sides(self.path, (rows, columns))
        self._file = SegmentFile(self.path)
        scale = 2 if rendering.is_super_resolution else 1
        self.shape: Tuple[int, int] = (scale * rows, scale * columns)
        self.band_rows = self.shape[0]
        self.n_frames = self._count_frames()
        self._decoded: Tuple[int, np.ndarray] = (-1, np.empty(0))

    def _count_frames(self) -> int:
        n_hardware, wanted = len(self._pages), self._rendering.n_frames
        if self._rendering.grouping is not None:
            wanted = n_hardware // self._rendering.grouping
            if not wanted:
                raise FileError(
                    f"{self.path} has {n_hardware} EER hardware frames, fewer than the {self._rendering.grouping} "
                    "of one frame; group fewer.",
                    subject=str(self.path),
                )
        if wanted is None and self._rendering.electrons_per_px is None:
            raise FileError(
                f"{self.path} is an EER movie of {n_hardware} hardware frames; into how many frames are they summed?",
                subject=str(self.path),
                remedy=Remedy("set", "eer_frames"),
            )
        if wanted is None:
            wanted = max(2, round(self.count_electrons_per_px() / self._rendering.electrons_per_px))  # type: ignore[operator]
        if wanted > n_hardware:
            raise FileError(
                f"{self.path} has {n_hardware} EER hardware frames, which cannot make {wanted} frames; ask for fewer.",
                subject=str(self.path),
            )
        return wanted

    def count_electrons_per_px(self) -> float:
        """Return the counted electrons per detector pixel of the whole movie, from up to 16 hardware frames."""
        sample = np.unique(np.linspace(0, len(self._pages) - 1, 16).astype(int))
        counts = self._no_counts(self._pages[0].shape[:2])
        for number in sample:
            self._add_events(number, counts, super_resolution=0)
        return float(counts.mean(dtype=np.float64)) * len(self._pages) / len(sample)

    def hardware_frames(self, frame: int) -> range:
        """Return the hardware frames of one frame: every one is used once, their numbers differ by 1 at most.

        With a grouping all frames have as many, and the last ones may be left over.
        """
        grouping = self._rendering.grouping
        if grouping is not None:
            return range(frame * grouping, (frame + 1) * grouping)
        n = len(self._pages)
        return range(frame * n // self.n_frames, (frame + 1) * n // self.n_frames)

    def read_rows(self, frame: int, first: int, last: int) -> np.ndarray:
        """Return rows of the counts of one frame; the frame that was rendered last is kept.

        Raises
        ------
        FileError
            If a hardware frame cannot be decoded.
        """
        number, counts = self._decoded
        if number != frame:
            self._decoded = (-1, np.empty(0))  # free before the next one is rendered
            del counts
            counts = self._no_counts(self.shape)
            for hardware_frame in self.hardware_frames(frame):
                self._add_events(hardware_frame, counts, int(self._rendering.is_super_resolution))
            self._decoded = (frame, counts)
        return counts[first:last]

    def _no_counts(self, shape: Tuple[int, int]) -> np.ndarray:
        require_memory(self.path, 2 * shape[0] * shape[1])
        with decoding_errors(self.path, "EER"):
            return np.zeros(shape, np.uint16)

    def _add_events(self, number: int, counts: np.ndarray, super_resolution: int) -> None:
        page = self._pages[number]
        try:
            if page.shape != self._pages[0].shape:
                raise ValueError(f"it has {page.shape} pixels, the first one {self._pages[0].shape}")
            content = b"".join(map(self._file.read, page.dataoffsets, page.databytecounts))
            content += b"\0" * (len(content) % 2)
            shape = (counts.shape[0], counts.shape[1])
            imagecodecs.eer_decode(content, shape, *_bits_of(page), superres=super_resolution, out=counts)
        except Exception as error:  # decoders raise many kinds; all mean a damaged page
            raise FileError(
                f"{self.path}: EER hardware frame {number + 1} cannot be decoded ({reason(error)}). Copy it again.",
                subject=str(self.path),
            ) from error

    def verify(self) -> None:
        """Do nothing: EER has no checksums; see `cryoden.formats.stack.Stack`."""


def _bits_of(page: tifffile.TiffPage) -> Tuple[int, int, int]:
    if int(page.compression) == _VARIABLE_BITS:
        skip, horizontal, vertical = (int(page.tags.valueof(tag, default)) for tag, default in _BIT_TAGS.items())
        return skip, horizontal, vertical
    return _BITS[int(page.compression)]


def _require_codec(path: Path) -> None:
    if tuple(int(part) for part in imagecodecs.__version__.split(".")[:3]) < _NEEDED_CODEC:
        raise FileError(
            f"{path} is an EER movie; it needs imagecodecs {'.'.join(map(str, _NEEDED_CODEC))} or newer (Python 3.11 "
            f"or newer), but {imagecodecs.__version__} is installed. Install cryoden in such an environment.",
            subject=str(path),
        )
