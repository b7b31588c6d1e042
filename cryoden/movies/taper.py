"""Images whose edges fade out, so that opposite ones need not fit in a Fourier transform."""

from __future__ import annotations

import numpy as np


def taper(size: int, share: float) -> np.ndarray:
    """Return weights of 1 along an axis that fall to 0 along a cosine at either end, float32 `(size,)`.

    Parameters
    ----------
    size
        Pixels.
    share
        Of the axis in which they fall, at either end; above 0, at most 1/2.
    """
    distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 0.5
    return (0.5 - 0.5 * np.cos(np.pi * np.minimum(distance / (share * size), 1))).astype(np.float32)
