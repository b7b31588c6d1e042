"""Pixels that are no numbers, or of a size that none has, are refused wherever they are read."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

import numpy as np

from cryoden.config.shared import PIXEL_SIZES_A
from cryoden.errors import FileError, PixelError
from cryoden.formats.file_errors import PathLike


def is_pixel_size(sampling_rate: float) -> bool:
    """Return whether a pixel can have this size in A."""
    return PIXEL_SIZES_A[0] <= sampling_rate <= PIXEL_SIZES_A[1]


def require_pixel_size(sampling_rate: float) -> None:
    """Refuse to write a pixel size (A/px) that none has, or that is no number; raises FileError."""
    if not is_pixel_size(sampling_rate):
        smallest, largest = PIXEL_SIZES_A
        raise FileError(f"The pixel size is {sampling_rate:g} Å/px; it must be from {smallest:g} to {largest:g}.")


def require_finite(pixels: np.ndarray) -> None:
    """Refuse pixels that are no numbers; raises PixelError."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = pixels.sum(dtype=np.float32)  # not finite if any pixel is not, or if it overflows
    if not np.isfinite(total) and not np.isfinite(pixels).all():
        raise PixelError("it has pixels that are NaN or infinite; every pixel must be a number. Remake it.")


def require_image(low: float, high: float) -> None:
    """Refuse an image by its smallest and largest pixel: if one is no number, or all are equal; raises PixelError."""
    require_finite(np.array([low, high]))
    if low == high:
        raise PixelError(f"it is constant: every pixel is {low:g}. It holds no image; leave it out.")


@contextmanager
def file_context(path: PathLike) -> Iterator[None]:
    """Say of which file the pixels are that cannot be used."""
    try:
        yield
    except PixelError as error:
        reason = f"{path} cannot be used: {error.problem.message}"
        raise PixelError(reason, subject=str(path), remedy=error.problem.remedy) from error
