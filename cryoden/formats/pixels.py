"""Pixels that are no numbers are refused wherever they are read, and the message names their file."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

import numpy as np

from cryoden.errors import PixelError
from cryoden.formats.files import PathLike


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
        raise PixelError(f"{path} cannot be used: {error}") from error
