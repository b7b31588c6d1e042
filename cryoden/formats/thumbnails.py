"""Small pictures of micrographs for the eye."""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

import numpy as np

from cryoden.formats import outputs
from cryoden.formats.files import PathLike, make_folder, whole_file

ENDINGS = {"png": ".png", "jpeg": ".jpg"}

MOST_PIXELS = 1024
"""Longest side of a thumbnail."""

PERCENTILES = (0.5, 99.5)
"""Grey values that become black and white."""


def thumbnail_path(micrograph: PathLike, kind: str) -> Path:
    """Return where the thumbnail (`png` or `jpeg`) of a micrograph stands: in a folder beside it."""
    micrograph = Path(micrograph)
    return micrograph.parent / outputs.THUMBNAILS / (micrograph.stem + ENDINGS[kind])


def thumbnail_factor(shape: Tuple[int, int]) -> int:
    """Return the side of the squares of pixels that become one pixel of a thumbnail.

    Of a strip that is narrower than that, the thumbnail keeps one row and is longer than `MOST_PIXELS`.
    """
    return min(-(-max(shape) // MOST_PIXELS), *shape)


def write_thumbnail(path: PathLike, image: np.ndarray) -> None:
    """Write an image `(y, x)` as an 8-bit picture, first row at the bottom as all cryo-EM programs show it.

    Average squares of `thumbnail_factor` pixels before: so nothing is invented and nothing skipped.
    """
    from PIL import Image  # when it is asked for

    black, white = np.percentile(image, PERCENTILES)
    grey = np.clip((image - black) * (255 / max(white - black, 1e-30)), 0, 255).astype(np.uint8)
    make_folder(Path(path).parent)
    with whole_file(path) as temporary:
        Image.fromarray(grey[::-1]).save(str(temporary), format=Path(path).suffix[1:].replace("jpg", "jpeg"))
