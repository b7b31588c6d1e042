"""How strong the noise of an image is, and whether it is white: its power where the specimen has next to none."""

from __future__ import annotations

from typing import Tuple

import numpy as np

TILE_SIDE = 128
"""Pixels; spectra of tiles are averaged, so that gradients over the image stay below the bands."""

BANDS = ((0.25, 0.35), (0.35, 0.5), (0.5, 0.71))
"""Cycles per pixel, from the middle to the corners of the spectrum."""

MAX_TILES = 1024
"""Tiles that are looked at, spread over the image."""


def band_powers(image: np.ndarray) -> Tuple[np.ndarray, float]:
    """Return the noise power in `BANDS`, and how far chance alone may move one of them (relative, one deviation).

    Parameters
    ----------
    image
        Any grey scale, shape `(y, x)`. White noise of variance v has the power v in every band.
    """
    side = min(TILE_SIDE, *image.shape)
    rows, columns = image.shape[0] // side, image.shape[1] // side
    chosen = np.unique(np.linspace(0, rows * columns - 1, min(MAX_TILES, rows * columns)).round().astype(int))

    power = np.zeros((side, side // 2 + 1))
    for tile in chosen:
        y, x = (tile // columns) * side, (tile % columns) * side
        values = image[y : y + side, x : x + side].astype(np.float64)
        power += np.abs(np.fft.rfft2(values - values.mean())) ** 2 / values.size
    power /= len(chosen)

    # Edges of tiles leak low frequencies along the axes; the axes are left out.
    fy, fx = np.abs(np.fft.fftfreq(side))[:, None], np.fft.rfftfreq(side)[None, :]
    radius = np.where((fy == 0) | (fx == 0), 0.0, np.hypot(fy, fx))
    inside = [(radius >= low) & (radius < high) for low, high in BANDS]
    fewest = min(int(band.sum()) for band in inside)
    return np.array([power[band].mean() for band in inside]), float(1 / np.sqrt(fewest * len(chosen)))
