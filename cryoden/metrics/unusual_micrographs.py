"""What a denoiser that never saw a kind of micrograph may see in it: bright particles, stain, gradients, few pixels.

The general model learned dark particles in ice. What is here says where micrographs are others, and only where that is
evident: it is measured at about 20 A/px, where noise is weak, and of bright particles only after several micrographs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Sequence, Tuple

import numpy as np
import scipy.ndimage

from cryoden.errors import Problem

KIND = "unusual_micrograph"
"""Of these problems."""

COARSE_A = 20.0
"""A/px at which a micrograph is looked at."""

WIDEST_A = 64.0
"""Deviation in A of the Gaussian that is subtracted: ice and carbon vary over more."""

BRIGHT_SKEWNESS = 0.2
"""Of dark particles in ice the smaller skewness of both images is at most 0.0; of bright ones that can be judged,
0.39 and more, but 0.26 of a real micrograph of crowded ferritin, for which the bound was lowered
(benchmarks/unusual.py)."""

LEAST_SIGNAL = 0.01
"""Of a micrograph's variance, in what was denoised, by which its skewness is judged."""

STAIN_SIGNAL = 0.4
"""Beside a gradient: more is in ice only where there are gold or thick carbon, which are dark."""

GRADIENT_SHARE = 0.25
"""Of the variance of a micrograph's pixels: a gradient of that much is seen at once, and makes particles faint."""

SMOOTH_SHARE = 0.91
"""Of what varies slowly, in the fitted surface: of an edge, as that of carbon, at most 0.90, of a plane all, of a beam
that is bright in the middle 0.93."""

SLOW_PARTS = 16
"""What varies slowly: over more than this part of the shorter edge."""

SMALLEST_SIDE_PX = 128
"""At the model's pixel size; of a smaller micrograph most pixels see a mirrored edge."""

N_LOOKS = 5
"""Micrographs that are looked at before bright particles are spoken of, where there are so many."""

BRIGHT = (
    "The particles are bright in these micrographs; the general model learned dark ones, as in ice under focus. If "
    "their contrast is inverted, invert it and denoise again."
)
STAIN = (
    "These micrographs have bright particles of strong contrast, as in negative stain; the general model learned dark "
    "ones in ice. Train a denoiser on them; or, if they are of ice and their contrast is inverted, invert it."
)
GRADIENT = (
    "A gradient (of illumination, ice, or a tilted specimen) makes more than a quarter of the variance of some "
    "micrographs, where the general model therefore sees particles too faint. Subtract it first."
)
TINY = (
    f"Some micrographs are less than {SMALLEST_SIDE_PX} px wide at the pixel size of the general model: most of what "
    "it sees there is mirrored edge. Denoise whole micrographs."
)


@dataclass(frozen=True)
class Look:
    """What was measured of one micrograph.

    Attributes
    ----------
    skewness
        Band-passed, of what was denoised or of the micrograph, whichever is smaller: negative where particles are dark.
        The network prefers dark ones, hot pixels are bright: only both together say that particles are bright.
    signal_share
        Of the micrograph's variance that is in what was denoised.
    gradient_share
        The same of a gradient: a plane, or what is bright in the middle; 0 where an edge is steeper than that.
    side
        Of its shorter edge, in pixels of the model.
    """

    skewness: float
    signal_share: float
    gradient_share: float
    side: int


def block_size(sampling_rate: float) -> int:
    """Return how many pixels of so many A become one of those that are looked at."""
    return max(1, round(COARSE_A / sampling_rate))


def look_at(coarse: np.ndarray, denoised: np.ndarray, sampling_rate: float, shares: Tuple[float, float]) -> Look:
    """Measure a micrograph.

    Parameters
    ----------
    coarse, denoised
        Means of blocks of `block_size` pixels `(y, x)` of a micrograph and of what was denoised of it, standardised.
    sampling_rate
        A/px of the images before.
    shares
        Variance of what was denoised, and of the micrograph, before the means of blocks.
    """
    block = block_size(sampling_rate)
    width = WIDEST_A / (sampling_rate * block)
    skewness = min(_skewness(image - scipy.ndimage.gaussian_filter(image, width)) for image in (denoised, coarse))
    signal, total = shares
    return Look(skewness, signal / total, _gradient(coarse.astype(np.float64)) / total, min(coarse.shape) * block)


def _skewness(values: np.ndarray) -> float:
    centred = values.astype(np.float64) - values.mean(dtype=np.float64)
    variance = float((centred**2).mean())
    return float((centred**3).mean()) / variance**1.5 if variance > 0 else 0.0


def _gradient(image: np.ndarray) -> float:
    """Return the variance of the surface of second order that fits an image best; 0 where it is not smooth."""
    slow = scipy.ndimage.gaussian_filter(image, min(image.shape) / SLOW_PARTS)
    rows, columns = (np.linspace(-1, 1, n) for n in image.shape)
    y, x = (part.ravel() for part in np.meshgrid(rows, columns, indexing="ij"))
    terms = np.stack([np.ones_like(x), y, x, x * y, y**2, x**2], axis=1)
    both = np.stack([image.ravel(), slow.ravel()], axis=1)
    share, slow_share = (terms @ np.linalg.lstsq(terms, both, rcond=None)[0]).var(axis=0)
    return float(share) if slow_share > SMOOTH_SHARE * slow.var() else 0.0


class Looks:
    """What was seen of the micrographs of a list, one after the other.

    Parameters
    ----------
    n_expected
        How many there will be.
    """

    def __init__(self, n_expected: int) -> None:
        self._n_before_verdict = min(n_expected, N_LOOKS)
        self._looks: List[Look] = []
        self._said: List[str] = []

    def add(self, look: Look) -> List[Problem]:
        """Take note of a micrograph; return what is to be said now, each thing once."""
        self._looks.append(look)
        sentences = []
        if look.side < SMALLEST_SIDE_PX:
            sentences.append(TINY)
        if look.gradient_share > GRADIENT_SHARE:
            sentences.append(GRADIENT)
        if len(self._looks) >= self._n_before_verdict:
            sentences += _of_contrast(self._looks)
        new = [sentence for sentence in sentences if sentence not in self._said]
        self._said += new
        return [Problem(KIND, sentence) for sentence in new]


def _of_contrast(looks: Sequence[Look]) -> List[str]:
    """Return what is evident of the contrast of some micrographs: nothing where most of them do not show it."""
    clear = [look for look in looks if look.signal_share > LEAST_SIGNAL and look.side >= SMALLEST_SIDE_PX]
    if 2 * len(clear) <= len(looks) or float(np.median([look.skewness for look in clear])) < BRIGHT_SKEWNESS:
        return []
    return [STAIN if _median_signal(clear) > STAIN_SIGNAL else BRIGHT]


def _median_signal(looks: Sequence[Look]) -> float:
    return float(np.median([look.signal_share - look.gradient_share for look in looks]))
