"""Open any image file that cryoden knows, by its name's ending."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Callable, Dict, Mapping, Optional, Tuple

import numpy as np

from cryoden.errors import FileError
from cryoden.formats.decompression import ENDINGS as COMPRESSED_ENDINGS
from cryoden.formats.eer import EerRendering, EerStack
from cryoden.formats.file_errors import PathLike, reading_errors
from cryoden.formats.mrc import CompressedMrcStack, MrcStack
from cryoden.formats.pixels import file_context, require_image
from cryoden.formats.stack import Stack
from cryoden.formats.star_text import quoted
from cryoden.formats.tiff import TiffStack

_MRC_ENDINGS = (".mrc", ".mrcs", ".map")
TIFF_ENDINGS = (".tif", ".tiff")
ENDINGS = (*_MRC_ENDINGS, *TIFF_ENDINGS)
"""What counts as an image where a folder is searched."""

GAIN_ENDING = ".gain"
"""Of Thermo Fisher's software: a TIFF file."""

EER_ENDING = ".eer"

_READERS: Dict[str, Callable[[PathLike], Stack]] = {
    **dict.fromkeys(_MRC_ENDINGS, MrcStack),
    **dict.fromkeys(TIFF_ENDINGS, TiffStack),
    **{image + packing: CompressedMrcStack for image in _MRC_ENDINGS for packing in COMPRESSED_ENDINGS},
    GAIN_ENDING: TiffStack,
}


def image_ending(path: PathLike) -> str:
    """Return the ending that says what a file is, in lower case: `.mrc`, `.mrc.gz`, `.tif`..."""
    name = Path(path).name.lower()
    return next(
        (ending for ending in sorted(_READERS, key=len, reverse=True) if name.endswith(ending)), Path(name).suffix
    )


def open_stack(path: PathLike) -> Stack:
    """Open an image or a stack of images without reading its pixels.

    Raises
    ------
    FileError
        If the ending is unknown, the file is not what its ending promises, or no STAR file could name it.
    """
    return _open(path, _READERS)


def open_movie_stack(path: PathLike, rendering: EerRendering = EerRendering(), is_tiff_flipped: bool = False) -> Stack:
    """Open a movie, or a reference that belongs to movies; raises as `open_stack`.

    Parameters
    ----------
    path
        As for `open_stack`, or an EER movie.
    rendering
        How the electron events of an EER movie become frames.
    is_tiff_flipped
        Whether the rows of TIFF files count from the bottom.
    """
    readers = {**_READERS, EER_ENDING: lambda path: EerStack(path, rendering)}
    if is_tiff_flipped:
        readers.update(dict.fromkeys(TIFF_ENDINGS, lambda path: TiffStack(path, is_flipped=True)))
    return _open(path, readers)


def _open(path: PathLike, readers: Mapping[str, Callable[[PathLike], Stack]]) -> Stack:
    ending = image_ending(path)
    quoted(str(path))  # what is made of it is listed in a STAR file
    if ending in readers:
        return readers[ending](path)

    with reading_errors(path):
        is_folder = stat.S_ISDIR(os.stat(str(path)).st_mode)
    if is_folder:
        raise FileError(f"{path} is a folder; name the files in it, such as {Path(path) / '*.mrc'}.", subject=str(path))
    raise FileError(
        f"{path} has the unknown ending {ending!r}; cryoden reads {', '.join((*_READERS, EER_ENDING))}.",
        subject=str(path),
    )


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
            f"{path} holds {stack.n_frames} images; a micrograph is one. Movies are split into halves first.",
            subject=str(path),
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
    image = stack.read_rows(0, 0, stack.shape[0]).astype(np.float32, copy=False)
    with file_context(path):
        require_image(float(image.min()), float(image.max()))
    return image, stack.sampling_rate
