"""The grey scale of a micrograph: to what the network sees, and back.

Every micrograph is standardised as a whole, never by tile, with its own mean and deviation. Unlike a percentile of the
positive values this also holds for background-subtracted (zero-mean) and for dose-doubled images: the full sum, whose
counts are twice those of a half, comes to the network with the same mean and noise deviation as the halves it was
trained on. The specification's scale, the 95th percentile of the positive values with clipping to [0, 1], is there too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterator, Tuple, TypeVar

import numpy as np

from cryoden.errors import PixelError, Remedy
from cryoden.formats.pixels import file_context, require_finite
from cryoden.formats.stack import Stack

SAMPLE_PIXELS = 1 << 19
"""Pixels from which a grey scale is estimated: the error of mean and deviation is about 1e-3 deviations."""

OUTLIER_DEVIATIONS = 20.0
"""Pixels further out (X-ray hits, hot pixels) are clamped before the network sees them."""

MAX_SATURATED_SHARE = 0.05
"""Noise has few pixels at its largest value, even counts of single electrons."""

PERCENTILE = 95.0
ZERO_MEAN_SHARE = 0.75
"""A micrograph of counts is positive nearly everywhere; where fewer pixels are, a scale of positive values is wrong."""


@dataclass(frozen=True)
class Normalization:
    """How micrographs are standardised; stored with a model.

    Attributes
    ----------
    kind
        `standard`: by the micrograph's own mean and deviation. `p95`: divided by the 95th percentile of the positive
        values, clipped to [0, 1], then standardised with the fixed `mean` and `deviation` below.
    mean, deviation
        Of the clipped values of the training micrographs; used by `p95` only.
    """

    kind: str = "standard"
    mean: float = 0.0
    deviation: float = 1.0


STANDARD = Normalization()


Pixels = TypeVar("Pixels", bound=Any)
"""A NumPy array or a PyTorch tensor: both have the few methods that are used."""


@dataclass(frozen=True)
class GreyScale:
    """Where a micrograph's values lie: `mean` goes to 0, `mean + deviation` to 1, beyond `limits` they are clamped.

    Attributes
    ----------
    mean, deviation
        In the micrograph's own units.
    limits
        Lowest and highest value that the network may see, in the same units.
    percentile
        95th percentile of the positive values: the data range of PSNR and SSIM (METRICS: scaled by it, range 1).
    """

    mean: float
    deviation: float
    limits: Tuple[float, float]
    percentile: float

    def standardize(self, image: Pixels) -> Pixels:
        """Return float32 with the grey scale taken out; `image` is float32, or a NumPy array of integers."""
        pixels: Any = image.astype(np.float32, copy=False) if isinstance(image, np.ndarray) else image
        clipped = pixels.clip(*self.limits)
        clipped -= self.mean
        clipped *= 1.0 / self.deviation
        return clipped

    def restore(self, image: Pixels) -> Pixels:
        """Return a prediction in the micrograph's own grey scale."""
        return image * self.deviation + self.mean

    @property
    def data_range(self) -> float:
        """Data range of PSNR and SSIM in standardised units."""
        return self.percentile / self.deviation


def sample_rows(shape: Tuple[int, int], n_pixels: int = SAMPLE_PIXELS) -> range:
    """Return rows, spread evenly, that hold about `n_pixels`: from them a grey scale is measured."""
    return range(0, shape[0], max(1, shape[0] * shape[1] // n_pixels))


def measure_scale(image: np.ndarray, normalization: Normalization = STANDARD) -> GreyScale:
    """Measure the grey scale of a whole micrograph `(y, x)`, or of its `sample_rows`.

    Two rounds leave out what lies more than 6 deviations from the mean, so that one hot pixel cannot stretch it.

    Raises
    ------
    PixelError
        If nearly all pixels are equal, many are saturated, one is not finite, or (for `p95`) they are no counts.
    """
    rows = sample_rows((image.shape[0], image.shape[1]))
    sample = image[:: rows.step].astype(np.float32, copy=False).ravel()
    require_finite(sample)

    for _ in range(2):
        mean = sample.mean(dtype=np.float64)
        deviation = sample.std(dtype=np.float64)
        sample = sample[np.abs(sample - mean) <= 6 * deviation]
    mean = float(sample.mean(dtype=np.float64))
    deviation = float(sample.std(dtype=np.float64))
    if not deviation > 1e-6 * abs(mean):
        raise PixelError(f"nearly all pixels are {mean:g}; it holds no image. Leave it out.")

    # Continuous noise has one pixel at its highest value; many say that the values above were cut off.
    highest = sample.max()
    share = float((sample == highest).mean())
    if share > MAX_SATURATED_SHARE:
        raise PixelError(
            f"{100 * share:.0f} % of its pixels have the largest value, {highest:g}: it is saturated. "
            "Give the image before it was clipped."
        )

    positive = sample[sample > 0]
    percentile = float(np.percentile(positive, PERCENTILE)) if positive.size else 0.0
    if normalization.kind == "standard":
        reach = OUTLIER_DEVIATIONS * deviation
        return GreyScale(mean, deviation, (mean - reach, mean + reach), percentile)

    if positive.size < ZERO_MEAN_SHARE * sample.size:
        raise PixelError(
            f"only {100 * positive.size / sample.size:.0f} % of its pixels are positive: its background was "
            "subtracted, and the p95 normalisation needs counts.",
            remedy=Remedy("set_to", "normalization", "standard"),
        )
    return GreyScale(
        normalization.mean * percentile, normalization.deviation * percentile, (0.0, percentile), percentile
    )


def measure_file(
    stack: Stack, normalization: Normalization = STANDARD, run: Callable[..., Iterator[np.ndarray]] = map
) -> GreyScale:
    """Measure the grey scale of a micrograph on disk, of which only the `sample_rows` are read.

    Parameters
    ----------
    stack
        The opened file.
    normalization
        As for `measure_scale`, which says what is raised; here it names the file.
    run
        How the rows are read: `map`, or that of a pool of threads.
    """
    rows = run(lambda row: stack.read_rows(0, row, row + 1), sample_rows(stack.shape))
    with file_context(stack.path):
        return measure_scale(np.concatenate(list(rows)), normalization)


def p95_normalization(image: np.ndarray) -> Normalization:
    """Return the fixed standardiser of `p95`, measured on one training micrograph."""
    scale = measure_scale(image, Normalization("p95"))
    clipped = scale.standardize(image.astype(np.float32))
    return Normalization("p95", float(clipped.mean(dtype=np.float64)), float(clipped.std(dtype=np.float64)))
