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

BRIGHT_SKEWNESS = 0.5
"""Of 39 simulated micrographs of many kinds, none of dark particles has more than 0.21; half of the bright ones do."""

LEAST_SIGNAL = 0.01
"""Of a micrograph's variance, in what was denoised, by which its skewness is judged."""

STAIN_SIGNAL = 0.4
"""Beside a gradient: more is in ice only where there are gold or thick carbon, which are dark."""

GRADIENT_SHARE = 0.25
"""Of the variance of a micrograph's pixels: a plane of that much is seen at once, and makes particles faint."""

SMALLEST_SIDE_PX = 128
"""At the model's pixel size; of a smaller micrograph most pixels see a mirrored edge."""

N_LOOKS = 5
"""Micrographs that are looked at before bright particles are spoken of, where there are so many."""

BRIGHT = (
    "The particles are bright in these micrographs; the general model learned dark ones, as in ice under focus. If "
    "their contrast is inverted, invert it and denoise again."
)
STAIN = (
    "These micrographs have bright particles of strong contrast, as in negative stain; the general model learned ice "
    "only. Train a denoiser on them."
)
GRADIENT = (
    "A gradient (of illumination, or of a tilted specimen) makes more than a quarter of the variance of some "
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
        Of what was denoised, band-passed: negative where particles are dark.
    signal_share
        Of the micrograph's variance that is in what was denoised.
    gradient_share
        The same of a plane.
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
    plane = _plane(coarse.astype(np.float64))
    band = denoised - scipy.ndimage.gaussian_filter(denoised, WIDEST_A / (sampling_rate * block))
    band = band - band.mean()
    variance = float((band**2).mean())
    skewness = float((band**3).mean()) / variance**1.5 if variance > 0 else 0.0
    signal, total = shares
    return Look(skewness, signal / total, float(plane.var()) / total, min(coarse.shape) * block)


def _plane(image: np.ndarray) -> np.ndarray:
    """Return the plane that fits an image best."""
    rows, columns = (np.linspace(-1, 1, n) if n > 1 else np.zeros(n) for n in image.shape)
    y = rows * (image.mean(axis=1) @ rows) / max(rows @ rows, 1e-9)
    x = columns * (image.mean(axis=0) @ columns) / max(columns @ columns, 1e-9)
    return y[:, None] + x[None, :]


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
