"""How good a network is on held-out micrographs: one record for the log, and samples to look at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Dict, Iterable, List, Optional, Sequence

import numpy as np
import torch

from cryoden.config import SCORE_BAND_A
from cryoden.data.pair_reader import LoadedPair
from cryoden.metrics.bootstrap import (
    bootstrap_errors,
    coefficients_in_band,
    formula_error,
    resampled_means,
    resamplings,
)
from cryoden.metrics.linear_filters import wiener_transfer
from cryoden.metrics.psnr_ssim import SSIM_SIDE, centre, psnr_rows, ssim_rows
from cryoden.metrics.ring_covariance import RingCovariance, pool, ring_covariance, score
from cryoden.model.predictor import Predictor

N_RESAMPLINGS = 200
"""Of the held-out micrographs, from which the error of R2 is estimated in every epoch."""

SAMPLE_SIDE, MAX_SAMPLES = 384, 4
"""Side in pixels of the central cut-outs that are kept to look at, and of how many micrographs."""


@dataclass(frozen=True)
class Comparison:
    """What one held-out micrograph says of the denoiser.

    Attributes
    ----------
    name
        Of the micrograph.
    covariance
        Of (a, b, f(a), f(b)) per ring.
    data_range
        95th percentile of the positive values, standardised units.
    loss
        Mean squared error of both directions.
    ssim
        Rows of `cryoden.metrics.psnr_ssim.ssim_rows`.
    sample
        Central cut-outs (input, output, target), float16 `(3, y, x)`.
    n_coefficients
        Independent Fourier coefficients in the score band.
    """

    name: str
    covariance: RingCovariance
    data_range: float
    loss: float
    ssim: Dict[str, float]
    sample: np.ndarray
    n_coefficients: float


def compare(held_out: LoadedPair, predictor: Predictor) -> Comparison:
    """Denoise both halves of a held-out micrograph and compare each with the other half."""
    halves = held_out.halves.to(predictor.device).float()
    predictions = torch.stack([predictor(half) for half in halves])
    loss = float(torch.mean((predictions - halves.flip(0)) ** 2))  # odd predicts even, and even odd
    covariance = measure_covariance(halves, predictions, held_out.pair.sampling_rate)

    shown = [centre(image, max(SSIM_SIDE, SAMPLE_SIDE)).cpu().numpy() for image in (*halves, predictions[0])]
    odd, even, denoised = shown
    ssim = ssim_rows(odd, even, denoised, held_out.data_range)
    sample = np.stack([centre(image, SAMPLE_SIDE) for image in (odd, denoised, even)]).astype(np.float16)
    rate, shape = held_out.pair.sampling_rate, (int(halves.shape[1]), int(halves.shape[2]))
    n_coefficients = coefficients_in_band(shape, rate, SCORE_BAND_A)
    return Comparison(held_out.pair.name, covariance, held_out.data_range, loss, ssim, sample, n_coefficients)


def measure_covariance(halves: torch.Tensor, predictions: torch.Tensor, sampling_rate: float) -> RingCovariance:
    """Return the ring covariances of halves and predictions, each `(2, y, x)`, computed where they are."""
    images = [*halves, *predictions]
    if halves.device.type == "cpu":
        return ring_covariance([image.numpy() for image in images], sampling_rate)

    def histogram(rings: np.ndarray, values: torch.Tensor, n_rings: int) -> np.ndarray:
        numbers = torch.from_numpy(rings).to(values.device)
        return torch.bincount(numbers.ravel(), values.double().ravel(), n_rings).cpu().numpy()

    return ring_covariance(images, sampling_rate, torch.fft.rfft2, histogram)


def summarize(comparisons: Iterable[Comparison]) -> Dict[str, Any]:
    """Return the log's record of one validation: losses, quality in the score band, PSNR and SSIM with their rows."""
    compared: List[Comparison] = sorted(comparisons, key=lambda item: item.name)
    pooled = pool([item.covariance for item in compared])

    loss = float(np.mean([item.loss for item in compared]))
    record: Dict[str, Any] = {"validation_loss": loss, "validation_rmse": float(np.sqrt(loss))}
    record.update(asdict(score(pooled.in_band())))
    record["r2_error"] = r2_error(compared)
    record["wiener_r2"] = wiener_r2(compared)
    data_range = float(np.mean([item.data_range for item in compared]))
    record["psnr"] = psnr_rows(pooled.total(), data_range) if data_range > 0 else None
    record["ssim"] = {row: float(np.mean([item.ssim[row] for item in compared])) for row in compared[0].ssim}
    record["r2_per_micrograph"] = {item.name: score(item.covariance.in_band()).r2 for item in compared}
    return record


def r2_error(compared: Sequence[Comparison]) -> Optional[float]:
    """Return the standard error of R2: over micrographs, or of one from its noise alone; None where it has none."""
    in_band = np.array([item.covariance.in_band() for item in compared])
    if len(in_band) == 1:
        error: Optional[float] = formula_error(score(in_band[0]), compared[0].n_coefficients)
    else:
        means = resampled_means(in_band, resamplings(len(in_band), N_RESAMPLINGS, seed=0))
        error = bootstrap_errors(len(in_band), [{"r2": score(mean).r2} for mean in means])["r2"]
    return error if error is not None and np.isfinite(error) else None


def wiener_r2(compared: Sequence[Comparison]) -> float:
    """Return R2 of the ring-wise Wiener filter, fitted on every second micrograph for the others.

    A single micrograph is filtered by its own, which flatters the filter a little.
    """
    folds = [compared[::2], compared[1::2]] if len(compared) > 1 else [compared, compared]
    filtered = []
    for scored, fitted in zip(folds, reversed(folds)):
        training = pool([item.covariance for item in fitted])
        filtered += [item.covariance.filtered(wiener_transfer(training, item.covariance.frequency)) for item in scored]
    return score(pool(filtered).in_band()).r2


def samples(comparisons: Iterable[Comparison]) -> Dict[str, np.ndarray]:
    """Return cut-outs (input, output, target) of the first held-out micrographs by name."""
    return {item.name: item.sample for item in sorted(comparisons, key=lambda item: item.name)[:MAX_SAMPLES]}
