"""The grey scale of a micrograph: to what the network sees, and back.

Every micrograph is standardised with its own mean and deviation, as a whole, never by tile. Unlike a percentile of the
positive values this also holds for background-subtracted (zero-mean) and for dose-doubled images: the full sum, whose
counts are twice those of a half, comes to the network with the same mean and noise deviation as the halves it was
trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoden.errors import PixelError

SAMPLE_PIXELS = 1 << 22
"""Pixels from which mean and deviation are estimated: their relative error is below 1e-3."""

OUTLIER_DEVIATIONS = 20.0
"""Pixels further out (X-ray hits, hot pixels) are clamped before the network sees them."""


@dataclass(frozen=True)
class GreyScale:
    """Mean and deviation of the bulk of a micrograph's pixels, outliers left out."""

    mean: float
    deviation: float

    def standardize(self, image: np.ndarray) -> np.ndarray:
        """Return float32 with mean 0 and deviation 1, outliers clamped."""
        scaled = (image - np.float32(self.mean)) * np.float32(1.0 / self.deviation)
        return np.clip(scaled, -OUTLIER_DEVIATIONS, OUTLIER_DEVIATIONS, out=scaled)

    def restore(self, image: np.ndarray) -> np.ndarray:
        """Return a prediction in the micrograph's own grey scale."""
        return image * np.float32(self.deviation) + np.float32(self.mean)


def measure_scale(image: np.ndarray) -> GreyScale:
    """Measure the grey scale of a whole micrograph `(y, x)` on a regular sample of its pixels.

    Two rounds leave out what lies more than 6 deviations from the mean, so that one hot pixel cannot stretch it.

    Raises
    ------
    PixelError
        If nearly all pixels are equal.
    """
    stride = max(1, int(np.sqrt(image.size / SAMPLE_PIXELS)))
    sample = image[::stride, ::stride].astype(np.float64).ravel()
    for _ in range(2):
        mean, deviation = sample.mean(), sample.std()
        sample = sample[np.abs(sample - mean) <= 6 * deviation]
    mean, deviation = float(sample.mean()), float(sample.std())
    if not deviation > 1e-6 * abs(mean):
        raise PixelError(f"nearly all pixels are {mean:g}; there is no image to denoise.")
    return GreyScale(mean, deviation)
