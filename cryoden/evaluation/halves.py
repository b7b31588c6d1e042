"""Both halves of a micrograph in memory, at every pixel size at which a denoiser wants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Sequence, Tuple

import numpy as np

from cryoden.data.normalize import STANDARD, GreyScale, measure_scale
from cryoden.data.pairs import HalfPair, too_small
from cryoden.data.rescale import fourier_crop, rescaled_rate, rescaled_shape
from cryoden.errors import PixelError
from cryoden.formats.pixels import file_context
from cryoden.metrics.measurement import NOISE_SIDE
from cryoden.metrics.psnr_ssim import centre
from cryoden.model.denoiser import Denoiser

Rows = Optional[Tuple[float, float]]
"""Part of a micrograph, from one share of its height to another; None: no row."""


@dataclass(frozen=True, eq=False)
class SizedHalves:
    """Both halves at one pixel size.

    Attributes
    ----------
    images
        Odd and even, float32 `(y, x)`, each in its own grey scale.
    scales
        These grey scales.
    noise
        (a - b) / sqrt(2) of a central cut-out, which has no signal, in the grey scale of the odd half.
    sampling_rate
        A/px.
    """

    images: Tuple[np.ndarray, np.ndarray]
    scales: Tuple[GreyScale, GreyScale]
    noise: np.ndarray
    sampling_rate: float

    def scales_for(self, denoiser: Denoiser) -> Sequence[GreyScale]:
        """Return the grey scales as a denoiser measures them, which most do as it is done here; raises PixelError."""
        if denoiser.normalization == STANDARD:
            return self.scales
        return [denoiser.measure_scale(image) for image in self.images]

    def by_name(self, name: str) -> Dict[str, Tuple[np.ndarray, float]]:
        """Return the three images of a micrograph under names of their own, with their sampling rate."""
        images = {"odd": self.images[0], "even": self.images[1], "noise": self.noise}
        return {f"{name}_{kind}": (image, self.sampling_rate) for kind, image in images.items()}


class Halves:
    """Both halves of a micrograph.

    Parameters
    ----------
    pair
        Where they come from.
    images
        Odd and even, float32, as in the files.
    truth
        The clean image at the working sampling rate, None where it is not known.
    rows
        Those that count; None if a model was trained on all of them.
    """

    def __init__(
        self, pair: HalfPair, images: Tuple[np.ndarray, np.ndarray], truth: Optional[np.ndarray], rows: Rows
    ) -> None:
        self.pair, self.truth, self.rows = pair, truth, rows
        self._images = images
        self._sized: Dict[Tuple[int, int], SizedHalves] = {}

    def compared(self) -> SizedHalves:
        """Return the halves at the pixel size at which all predictions are compared; raises as `given_to`."""
        return self._at(self.pair.shape)

    def given_to(self, denoiser: Denoiser) -> SizedHalves:
        """Return the halves as a denoiser wants them: at its own pixel size, where it has one.

        Raises
        ------
        PixelError
            If a half holds no image, or a very small one.
        """
        pair = self.pair
        if denoiser.sampling_rate is None:
            return self.compared()
        return self._at(rescaled_shape(pair.file_shape, pair.file_rate, denoiser.rate_for(pair.file_rate)))

    def _at(self, shape: Tuple[int, int]) -> SizedHalves:
        """Return the halves with so many pixels: the same object whenever it is asked for."""
        if shape not in self._sized:
            self._sized[shape] = self._resized(shape)
        return self._sized[shape]

    def _resized(self, shape: Tuple[int, int]) -> SizedHalves:
        pair = self.pair
        small = too_small(f"'{pair.name}'", shape)
        if small:
            raise PixelError(f"{small} Leave it out.", subject=pair.name)
        odd, even = (fourier_crop(image, shape) for image in self._images)
        scales = []
        for path, image in ((pair.odd, odd), (pair.even, even)):
            with file_context(path):
                scales.append(measure_scale(image, STANDARD))

        # Halves of unequal dose have unequal scales: only on one scale does their difference hold no signal.
        side = min(NOISE_SIDE, *shape)
        a, b = (scale.standardize(centre(image, side)) for scale, image in zip(scales, (odd, even)))
        noise = (a - b) / np.float32(np.sqrt(2))
        noise += a.mean() - noise.mean()
        rate = rescaled_rate(pair.file_shape, pair.file_rate, shape)
        return SizedHalves((odd, even), (scales[0], scales[1]), scales[0].restore(noise).astype(np.float32), rate)
