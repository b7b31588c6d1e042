"""Small pictures of micrographs for the eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryoden.formats.files import PathLike, make_folder, whole_file

THUMBNAIL_FOLDER = "thumbnails"
ENDINGS = {"png": ".png", "jpeg": ".jpg"}

MOST_PIXELS = 1024
"""Longest side of a thumbnail."""

PERCENTILES = (0.5, 99.5)
"""Grey values that become black and white."""


def thumbnail_path(micrograph: PathLike, kind: str) -> Path:
    """Return where the thumbnail (`png` or `jpeg`) of a micrograph stands: in a folder beside it."""
    micrograph = Path(micrograph)
    return micrograph.parent / THUMBNAIL_FOLDER / (micrograph.stem + ENDINGS[kind])


def write_thumbnail(path: PathLike, image: np.ndarray) -> None:
    """Write an image `(y, x)` as an 8-bit picture, first row at the bottom as all cryo-EM programs show it.

    Whole squares of pixels are averaged, so that nothing is invented and nothing skipped.
    """
    from PIL import Image  # when it is asked for

    factor = -(-max(image.shape) // MOST_PIXELS)
    rows, columns = (n // factor * factor for n in image.shape)
    small = image[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor).mean(axis=(1, 3))
    black, white = np.percentile(small, PERCENTILES)
    grey = np.clip((small - black) * (255 / max(white - black, 1e-30)), 0, 255).astype(np.uint8)
    make_folder(Path(path).parent)
    with whole_file(path) as temporary:
        Image.fromarray(grey[::-1]).save(str(temporary), format=Path(path).suffix[1:].replace("jpg", "jpeg"))
