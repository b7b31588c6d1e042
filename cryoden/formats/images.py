"""Open any image file that cryoden knows, by its name's ending."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, Optional, Tuple, Union

import numpy as np

from cryoden.errors import FileError, PixelError
from cryoden.formats.files import PathLike
from cryoden.formats.mrc import MrcStack
from cryoden.formats.tiff import TiffStack

Stack = Union[MrcStack, TiffStack]

_READERS: Dict[str, Callable[[PathLike], Stack]] = {
    ".mrc": MrcStack,
    ".mrcs": MrcStack,
    ".map": MrcStack,
    ".tif": TiffStack,
    ".tiff": TiffStack,
}
ENDINGS = tuple(_READERS)


def open_stack(path: PathLike) -> Stack:
    """Open an image or a stack of images without reading its pixels.

    Raises
    ------
    FileError
        If the ending is unknown, or the file is not what its ending promises.
    """
    ending = Path(path).suffix.lower()
    if ending not in _READERS:
        raise FileError(f"{path} has the unknown ending {ending!r}; cryoden reads {', '.join(ENDINGS)}.")
    return _READERS[ending](path)


def open_micrograph(path: PathLike) -> Stack:
    """Open a file that holds one image.

    Raises
    ------
    FileError
        If the file cannot be read or holds more than one image.
    """
    stack = open_stack(path)
    if stack.n_frames != 1:
        raise FileError(
            f"{path} holds {stack.n_frames} images; a micrograph is one. Split movies with `cryoden halves`."
        )
    return stack


def read_micrograph(path: PathLike) -> Tuple[np.ndarray, Optional[float]]:
    """Return a micrograph as float32 `(y, x)` and its sampling rate in A/px (None where the file does not say).

    Raises
    ------
    FileError
        If the file cannot be read or holds more than one image.
    PixelError
        If pixels are not finite, or all are equal.
    """
    stack = open_micrograph(path)
    image = stack.read_rows(0, 0, stack.shape[0]).astype(np.float32)
    low, high = float(image.min()), float(image.max())
    if not np.isfinite(low) or not np.isfinite(high):
        n_bad = int(image.size - np.count_nonzero(np.isfinite(image)))
        raise PixelError(
            f"{path} has {n_bad} pixels that are NaN or infinite; every pixel must be a number. Remake it."
        )
    if low == high:
        raise PixelError(f"{path} is constant: every pixel is {low:g}. It holds no image; leave it out.")
    return image, stack.sampling_rate
