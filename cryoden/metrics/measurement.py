"""What an evaluation keeps of one micrograph: covariances, central cut-outs, small copies; one file each, no pickle."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ContextManager, Dict, Optional, Sequence, Tuple

import numpy as np

from cryoden.data.normalize import ZERO_MEAN_SHARE
from cryoden.formats.arrays import opened_arrays, write_arrays
from cryoden.formats.files import PathLike
from cryoden.metrics.linear_filters import filter_image
from cryoden.metrics.psnr_ssim import SSIM_SIDE, centre, ssim_and_ceiling, ssim_of_constant_and_identity
from cryoden.metrics.ring_covariance import A, B, RingCovariance, ring_covariance
from cryoden.metrics.sanity_checks import thumbnail

FOLDER = "measurements"
"""Sub-folder of an evaluation with one file for each micrograph."""

NOISE_SIDE = 320
"""Side in pixels of the central cut-out on which the hallucination is tested."""

NOISE, PREDICTION = 0, 1
"""Order of the images in the covariances of the hallucination test."""


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
        Covariances per ring of (a, b, f1(a), f1(b), f2(a), f2(b), ...), and of the truth as the last image.
    noise_rings
        For each denoiser, covariances per ring of (f((a - b) / sqrt(2)), f(a)) on a cut-out.
    thumbnails
        Small copies of both halves, float16 `(2, y, x)`.
    ssim
        For each denoiser SSIM and its ceiling, `(n_denoisers, 2)`.
    ssim_reference
        SSIM of a constant image and of the other half.
    has_truth
        Whether the last image is the truth.
    kept_cuts
        Central cut-outs of the same images as in `rings`, float16 `(n, y, x)`; None where they are still on disk.
    path
        File from which the cut-outs are read when they are needed: those of all micrographs would fill the memory.
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
    kept_cuts: Optional[np.ndarray] = None
    path: str = ""

    @property
    def cuts(self) -> np.ndarray:
        """Central cut-outs of the same images as in `rings`, float16 `(n, y, x)`."""
        if self.kept_cuts is not None:
            return self.kept_cuts
        with _opened(self.path) as file:
            return file["cuts"]

    @property
    def has_range(self) -> bool:
        """Whether these are counts, so that PSNR and SSIM have a data range."""
        return self.positive_share >= ZERO_MEAN_SHARE and self.data_range > 0

    def of_denoiser(self, number: int) -> RingCovariance:
        """Return the covariances of (a, b, f(a), f(b)) of one denoiser, and of the truth, if known, as a fifth."""
        images = [A, B, 2 + 2 * number, 3 + 2 * number]
        return self.rings.of(*images, *([self.rings.matrices.shape[1] - 1] if self.has_truth else []))

    def of_filter(self, transfer: np.ndarray) -> RingCovariance:
        """Return the covariances of a linear filter, given by its gain in each ring of `rings`."""
        if not self.has_truth:
            return self.rings.filtered(transfer)
        truth = self.rings.matrices.shape[1] - 1
        filtered = self.rings.filtered(transfer).matrices
        matrices = np.zeros((len(filtered), 5, 5))
        matrices[:, :4, :4] = filtered
        with_truth = self.rings.matrices[:, [A, B], truth]
        gain = np.asarray(transfer)[:, None]
        matrices[:, :4, 4] = matrices[:, 4, :4] = np.concatenate([with_truth, gain * with_truth], axis=1)
        matrices[:, 4, 4] = self.rings.matrices[:, truth, truth]
        return RingCovariance(self.rings.frequency, matrices)

    def noise_of_filter(self, transfer: np.ndarray) -> RingCovariance:
        """Return what `noise_rings` would hold for a linear filter."""
        c = self.rings.matrices
        noise = (c[:, A, A] + c[:, B, B] - 2 * c[:, A, B]) / 2
        matrices = np.zeros((len(c), 2, 2))
        matrices[:, NOISE, NOISE] = transfer**2 * noise
        matrices[:, PREDICTION, PREDICTION] = transfer**2 * (c[:, A, A] + c[:, B, B]) / 2
        return RingCovariance(self.rings.frequency, matrices)

    def filtered_cuts(self, transfer: np.ndarray) -> np.ndarray:
        """Return both halves' cut-outs after a linear filter, float32 `(2, y, x)`."""
        rings = self.rings.frequency
        return np.stack([filter_image(cut, self.sampling_rate, rings, transfer) for cut in self.cuts[:2]])


def measure(
    name: str,
    halves: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    noise_predictions: Sequence[Tuple[np.ndarray, np.ndarray, float]],
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
        f1(a), f1(b), f2(a), f2(b), ... of the same shape.
    noise_predictions
        For each denoiser f((a - b) / sqrt(2)) and f(a) on one cut-out, and its sampling rate in A/px.
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
    images = [*halves, *predictions, *([(truth - truth.mean()) / truth.std()] if truth is not None else [])]
    cuts = [centre(image, SSIM_SIDE).astype(np.float32) for image in images]
    ssim = np.full((len(predictions) // 2, 2), np.nan)
    reference = (np.nan, np.nan)
    if positive_share >= ZERO_MEAN_SHARE and data_range > 0:
        reference = ssim_of_constant_and_identity(cuts[A], cuts[B], data_range)
        for number in range(len(ssim)):
            ssim[number] = ssim_and_ceiling(cuts[A], cuts[B], cuts[2 + 2 * number], data_range)
    return Measurement(
        name=name,
        is_seen=is_seen,
        shape=(int(halves[0].shape[0]), int(halves[0].shape[1])),
        sampling_rate=sampling_rate,
        data_range=data_range,
        positive_share=positive_share,
        rings=ring_covariance(images, sampling_rate),
        noise_rings=tuple(ring_covariance([noise, image], rate) for noise, image, rate in noise_predictions),
        kept_cuts=np.stack(cuts).astype(np.float16),
        thumbnails=np.stack([thumbnail(half, sampling_rate) for half in halves]).astype(np.float16),
        ssim=ssim,
        ssim_reference=reference,
        has_truth=truth is not None,
    )


def save_measurement(path: PathLike, measurement: Measurement) -> None:
    """Write a measurement as an npz file, whole or not at all."""
    arrays: Dict[str, Any] = {}
    for field in fields(measurement):
        value = getattr(measurement, field.name)
        if field.name == "rings":
            arrays.update(ring_frequency=value.frequency, ring_matrices=value.matrices)
        elif field.name == "noise_rings":
            for number, rings in enumerate(value):
                arrays[f"noise{number}_frequency"], arrays[f"noise{number}_matrices"] = rings.frequency, rings.matrices
            arrays["n_noise_rings"] = len(value)
        elif field.name == "kept_cuts":
            arrays["cuts"] = measurement.cuts
        elif field.name != "path":
            arrays[field.name] = value
    write_arrays(path, arrays)


def load_measurement(path: PathLike) -> Measurement:
    """Read what `save_measurement` wrote.

    Raises
    ------
    FileError
        If the file is missing or damaged.
    """
    with _opened(path) as file:
        noise_rings = tuple(
            RingCovariance(file[f"noise{number}_frequency"], file[f"noise{number}_matrices"])
            for number in range(int(file["n_noise_rings"]))
        )
        return Measurement(
            name=str(file["name"]),
            is_seen=bool(file["is_seen"]),
            shape=(int(file["shape"][0]), int(file["shape"][1])),
            sampling_rate=float(file["sampling_rate"]),
            data_range=float(file["data_range"]),
            positive_share=float(file["positive_share"]),
            rings=RingCovariance(file["ring_frequency"], file["ring_matrices"]),
            noise_rings=noise_rings,
            thumbnails=file["thumbnails"],
            ssim=file["ssim"],
            ssim_reference=(float(file["ssim_reference"][0]), float(file["ssim_reference"][1])),
            has_truth=bool(file["has_truth"]),
            path=str(path),
        )


def _opened(path: PathLike) -> ContextManager[Any]:
    return opened_arrays(path, "evaluate again with --overwrite")


def measurement_path(folder: PathLike, name: str) -> Path:
    """Return where the measurement of a micrograph lies in an evaluation's folder."""
    return Path(folder) / FOLDER / f"{name}.npz"


def hallucination(rings: np.ndarray) -> float:
    """Return var f(noise) / var f(image) of an in-band covariance matrix of (f(noise), f(image)): near 0 is good."""
    return float(rings[NOISE, NOISE] / rings[PREDICTION, PREDICTION]) if rings[PREDICTION, PREDICTION] > 0 else np.nan
