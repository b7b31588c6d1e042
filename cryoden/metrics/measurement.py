"""What is measured of one micrograph: covariances of its halves and of all predictions, central cut-outs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Callable, Optional, Sequence, Tuple

import numpy as np

from cryoden.data.normalize import ZERO_MEAN_SHARE
from cryoden.metrics.linear_filters import filter_image
from cryoden.metrics.psnr_ssim import SSIM_SIDE, centre, ssim_and_ceiling, ssim_of_constant_and_identity
from cryoden.metrics.ring_covariance import A, B, RingCovariance, ring_covariance
from cryoden.metrics.sanity_checks import thumbnail

NOISE_SIDE = 320
"""Side in pixels of the central cut-out on which the hallucination is tested."""

NOISE, PREDICTION = 0, 1
"""Order of the images in the covariances of the hallucination test."""


@dataclass(frozen=True)
class ImageOrder:
    """Where the images of a micrograph stand in its covariances and cut-outs: a, b, f1(a), f1(b), f2(a)..., truth.

    Attributes
    ----------
    n_denoisers
        Denoisers whose predictions are there.
    has_truth
        Whether the clean image is the last one.
    """

    n_denoisers: int
    has_truth: bool

    def denoised(self, number: int) -> Tuple[int, int]:
        """Return the places of the predictions of both halves by one denoiser."""
        return 2 + 2 * number, 3 + 2 * number

    @property
    def truth(self) -> Optional[int]:
        """The place of the clean image, None where it is not known."""
        return 2 + 2 * self.n_denoisers if self.has_truth else None

    def covered(self, number: int) -> Tuple[int, ...]:
        """Return the places of a, b, f(a), f(b) of one denoiser, and of the truth where it is known."""
        images = (A, B, *self.denoised(number))
        return images if self.truth is None else (*images, self.truth)


@dataclass(frozen=True)
class Response:
    """What was measured of one denoiser on one micrograph.

    Attributes
    ----------
    rings
        Covariances per ring of (a, b, f(a), f(b)), and of the truth, where it is known, as a fifth.
    noise_rings
        Covariances per ring of (f((a - b) / sqrt(2)), f(a)) on a cut-out.
    ssim, ssim_ceiling
        Against the other half; NaN where there is no data range.
    denoised_cuts
        Returns the central cut-outs of f(a) and f(b), float32 `(2, y, x)`; they are on disk, or made when asked for.
    """

    rings: RingCovariance
    noise_rings: RingCovariance
    ssim: float
    ssim_ceiling: float
    denoised_cuts: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Measurement:
    """One micrograph, measured with every denoiser; images are standardised by their half's mean and deviation.

    Attributes
    ----------
    name
        Of the micrograph.
    is_seen
        Whether a denoiser was trained on it.
    shape
        Rows and columns that were measured.
    sampling_rate
        A/px.
    data_range
        95th percentile of the positive values; the range of PSNR and SSIM.
    positive_share
        Share of positive pixels, which tells counts from background-subtracted images.
    rings
        Covariances per ring of the images in `order`.
    noise_rings
        For each denoiser, as in `Response`.
    thumbnails
        Small copies of both halves, float16 `(2, y, x)`.
    ssim
        For each denoiser SSIM and its ceiling, `(n_denoisers, 2)`.
    ssim_reference
        SSIM of a constant image and of the other half.
    has_truth
        Whether the last image is the truth.
    load_cuts
        Returns central cut-outs of the images in `order`, float16 `(n, y, x)`: those of all micrographs would fill the
        memory.
    """

    name: str
    is_seen: bool
    shape: Tuple[int, int]
    sampling_rate: float
    data_range: float
    positive_share: float
    rings: RingCovariance
    noise_rings: Tuple[RingCovariance, ...]
    thumbnails: np.ndarray
    ssim: np.ndarray
    ssim_reference: Tuple[float, float]
    has_truth: bool
    load_cuts: Callable[[], np.ndarray]

    @property
    def order(self) -> ImageOrder:
        """Where the images stand."""
        return ImageOrder(len(self.noise_rings), self.has_truth)

    @property
    def has_range(self) -> bool:
        """Whether these are counts, so that PSNR and SSIM have a data range."""
        return self.positive_share >= ZERO_MEAN_SHARE and self.data_range > 0

    def half_cuts(self) -> np.ndarray:
        """Return the central cut-outs of both halves, float32 `(2, y, x)`."""
        return self.load_cuts()[[A, B]].astype(np.float32)

    def denoised_cuts(self, number: int) -> np.ndarray:
        """Return the central cut-outs of both halves as one denoiser leaves them, float32 `(2, y, x)`."""
        return self.load_cuts()[list(self.order.denoised(number))].astype(np.float32)

    def filtered_cuts(self, frequency: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """Return the central cut-outs of both halves after a linear filter, float32 `(2, y, x)`."""
        return np.stack([filter_image(cut, self.sampling_rate, frequency, gain) for cut in self.half_cuts()])

    def truth_cut(self) -> np.ndarray:
        """Return the central cut-out of the truth, float32 `(y, x)`, where it is known."""
        assert self.order.truth is not None
        return self.load_cuts()[self.order.truth].astype(np.float32)

    def of_denoiser(self, number: int) -> Response:
        """Return what was measured of the denoiser of a place."""
        ssim, ceiling = self.ssim[number]
        return Response(
            self.rings.of(*self.order.covered(number)), self.noise_rings[number], float(ssim), float(ceiling),
            partial(self.denoised_cuts, number),
        )  # fmt: skip

    def of_filter(self, gain: np.ndarray) -> Response:
        """Return what would be measured of a linear filter, given by its gain in each ring: no image is needed.

        Parameters
        ----------
        gain
            Shape `(rings,)`; all ones is the unprocessed half.
        """
        is_identity = bool((np.asarray(gain) == 1).all())
        cuts = self.half_cuts if is_identity else partial(self.filtered_cuts, self.rings.frequency, gain)
        ssim = ceiling = np.nan
        if self.has_range:
            a, b = self.half_cuts()
            filtered = a if is_identity else filter_image(a, self.sampling_rate, self.rings.frequency, gain)
            ssim, ceiling = ssim_and_ceiling(a, b, filtered, self.data_range)
        return Response(self._filtered_rings(gain), self._filtered_noise(gain), ssim, ceiling, cuts)

    def _filtered_rings(self, gain: np.ndarray) -> RingCovariance:
        filtered = self.rings.filtered(gain)
        truth = self.order.truth
        if truth is None:
            return filtered
        matrices = np.zeros((len(filtered.matrices), 5, 5))
        matrices[:, :4, :4] = filtered.matrices
        with_truth = self.rings.matrices[:, [A, B], truth]
        factor = np.asarray(gain)[:, None]
        matrices[:, :4, 4] = matrices[:, 4, :4] = np.concatenate([with_truth, factor * with_truth], axis=1)
        matrices[:, 4, 4] = self.rings.matrices[:, truth, truth]
        return RingCovariance(self.rings.frequency, matrices)

    def _filtered_noise(self, gain: np.ndarray) -> RingCovariance:
        c = self.rings.matrices
        noise = (c[:, A, A] + c[:, B, B] - 2 * c[:, A, B]) / 2
        matrices = np.zeros((len(c), 2, 2))
        matrices[:, NOISE, NOISE] = gain**2 * noise
        matrices[:, PREDICTION, PREDICTION] = gain**2 * (c[:, A, A] + c[:, B, B]) / 2
        return RingCovariance(self.rings.frequency, matrices)


@dataclass(frozen=True)
class NoiseResponse:
    """What a denoiser makes of noise alone: (a - b) / sqrt(2), of which a cut-out is denoised beside one of a.

    Attributes
    ----------
    noise, prediction
        f((a - b) / sqrt(2)) and f(a) of one place, in one scale, `(y, x)`.
    sampling_rate
        A/px.
    """

    noise: np.ndarray
    prediction: np.ndarray
    sampling_rate: float


def measure(
    name: str,
    halves: Sequence[np.ndarray],
    predictions: Sequence[Sequence[np.ndarray]],
    noise_responses: Sequence[NoiseResponse],
    data_range: float,
    positive_share: float,
    sampling_rate: float,
    is_seen: bool = False,
    truth: Optional[np.ndarray] = None,
) -> Measurement:
    """Measure one micrograph.

    Parameters
    ----------
    name
        Of the micrograph.
    halves
        Odd and even, standardised, `(y, x)`.
    predictions
        For each denoiser f(a) and f(b), of the same shape.
    noise_responses
        For each denoiser.
    data_range
        95th percentile of the positive values, standardised; 0 where there is none.
    positive_share
        Of the pixels of the halves.
    sampling_rate
        A/px.
    is_seen
        Whether a denoiser was trained on this micrograph.
    truth
        The clean image, of any scale.
    """
    order = ImageOrder(len(predictions), truth is not None)
    images = [*halves, *(image for pair in predictions for image in pair)]
    if truth is not None:
        images.append((truth - truth.mean()) / truth.std())
    cuts = [centre(image, SSIM_SIDE).astype(np.float32) for image in images]

    ssim = np.full((len(predictions), 2), np.nan)
    reference = (np.nan, np.nan)
    if positive_share >= ZERO_MEAN_SHARE and data_range > 0:
        reference = ssim_of_constant_and_identity(cuts[A], cuts[B], data_range)
        for number in range(len(ssim)):
            denoised_odd = cuts[order.denoised(number)[0]]
            ssim[number] = ssim_and_ceiling(cuts[A], cuts[B], denoised_odd, data_range)

    kept_cuts = np.stack(cuts).astype(np.float16)
    return Measurement(
        name=name,
        is_seen=is_seen,
        shape=(int(halves[0].shape[0]), int(halves[0].shape[1])),
        sampling_rate=sampling_rate,
        data_range=data_range,
        positive_share=positive_share,
        rings=ring_covariance(images, sampling_rate),
        noise_rings=tuple(ring_covariance([r.noise, r.prediction], r.sampling_rate) for r in noise_responses),
        thumbnails=np.stack([thumbnail(half, sampling_rate) for half in halves]).astype(np.float16),
        ssim=ssim,
        ssim_reference=reference,
        has_truth=order.has_truth,
        load_cuts=lambda: kept_cuts,
    )


def hallucination(in_band: np.ndarray) -> float:
    """Return var f(noise) / var f(image) of an in-band covariance matrix of (f(noise), f(image)): near 0 is good."""
    prediction = in_band[PREDICTION, PREDICTION]
    return float(in_band[NOISE, NOISE] / prediction) if prediction > 0 else np.nan
