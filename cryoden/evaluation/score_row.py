"""One row of an evaluation's table: a candidate's numbers in every band with their errors, its curves, its truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from skimage.metrics import structural_similarity

from cryoden.evaluation.candidates import Candidate
from cryoden.metrics.bootstrap import bootstrap_errors, coefficients_in_band, formula_error
from cryoden.metrics.ground_truth import true_correlation, true_numbers, truth_scale
from cryoden.metrics.measurement import Measurement, hallucination
from cryoden.metrics.psnr_ssim import psnr_rows
from cryoden.metrics.ring_covariance import FA, FB, A, B, RingCovariance, frc_clean, pool, psnr, score

SPLIT_A = 20.0
"""Period at which the score band is split: below lie shape and position of particles, above their inner structure."""

N_CURVE_RINGS = 64
"""Rings of the curves over spatial frequency."""

CURVE_DRAWS = 200
"""Resamplings from which errors of the curves are estimated, at most."""

Band = Tuple[float, float]


def band_name(band_A: Band) -> str:
    """Return how a band is called in tables: `300-8`."""
    return f"{band_A[0]:g}-{band_A[1]:g}"


def score_bands(band_A: Band) -> List[Band]:
    """Return the score band and its two parts below and above 20 A, where it contains that period."""
    low, high = band_A
    return [band_A, (low, SPLIT_A), (SPLIT_A, high)] if low > SPLIT_A > high else [band_A]


@dataclass(frozen=True)
class Scoring:
    """What all rows of one table have in common.

    Attributes
    ----------
    measurements
        One for each micrograph.
    scored
        Places of those that count.
    draws
        Resamplings of the scored ones, of `cryoden.metrics.bootstrap.resamplings`.
    band
        The score band in A.
    data_range
        For PSNR and SSIM, in deviations of a half; None where the halves are no counts.
    """

    measurements: Sequence[Measurement]
    scored: Sequence[int]
    draws: np.ndarray
    band: Band
    data_range: Optional[float]

    @property
    def chosen(self) -> List[Measurement]:
        """The scored micrographs."""
        return [self.measurements[i] for i in self.scored]


def table_row(candidate: Candidate, scoring: Scoring) -> Dict[str, Any]:
    """Return one row: numbers in every band with their errors, curves, and numbers of each micrograph.

    Raises
    ------
    PairError
        If a truth does not belong to its micrograph.
    """
    row: Dict[str, Any] = {
        "key": candidate.key,
        "label": candidate.label,
        "kind": candidate.kind,
        "note": candidate.note,
        "number": None if candidate.transfers else candidate.number,
        "bands": {},
        "curves": _curves([candidate.rings[i].coarser(N_CURVE_RINGS) for i in scoring.scored], scoring.draws),
    }
    for band in score_bands(scoring.band):
        is_main = band == scoring.band
        data_range = scoring.data_range if is_main else None
        vectors = np.array([_vector(candidate, i, band) for i in range(len(scoring.measurements))])
        entries = _with_errors(vectors, scoring, band, data_range)
        if is_main:
            row.update({name: entries.pop(name) for name in ("psnr", "ssim", "ssim_ceiling") if name in entries})
            row["micrographs"] = {
                m.name: {**_numbers(vector, data_range), "r2_error": _formula(m, vector, band)}
                for m, vector in zip(scoring.measurements, vectors)
            }
        row["bands"][band_name(band)] = entries
    if candidate.transfers:
        first = scoring.scored[0]
        row["filter"] = {"frequency": candidate.rings[first].frequency[:-1], "gain": candidate.transfers[first][:-1]}
    if all(measurement.has_truth for measurement in scoring.chosen):
        row["truth"] = _against_truth(candidate, scoring)
    return row


def absent_row(candidate: Candidate) -> Dict[str, Any]:
    """Return the row of a candidate that is not there; its note says why."""
    names = {"key": candidate.key, "label": candidate.label, "kind": candidate.kind, "note": candidate.note}
    return {**names, "bands": None, "micrographs": {}}


def _with_errors(
    vectors: np.ndarray, scoring: Scoring, band: Band, data_range: Optional[float]
) -> Dict[str, Dict[str, Optional[float]]]:
    """Return numbers over the scored micrographs with their errors; of one micrograph, those that its noise leaves."""

    def numbers(vector: np.ndarray) -> Dict[str, float]:
        return _numbers(vector, data_range)

    scored = vectors[list(scoring.scored)]
    values, errors = numbers(scored.mean(axis=0)), bootstrap_errors(scored, scoring.draws, numbers)
    if len(scored) == 1:
        only = scoring.chosen[0]
        n = coefficients_in_band(only.shape, only.sampling_rate, band)
        errors["r2"] = _formula(only, scored[0], band)
        errors["mse_clean"] = values["noise_variance"] / np.sqrt(max(n, 1.0))
    return {name: {"value": values[name], "error": errors[name]} for name in values}


def _vector(candidate: Candidate, i: int, band: Band) -> np.ndarray:
    """Return all that is averaged over micrographs, flat: in-band and whole covariances, noise response, SSIM."""
    rings, noise = candidate.rings[i].of(A, B, FA, FB), candidate.noise_rings[i]
    return np.concatenate(
        [rings.in_band(band).ravel(), rings.total().ravel(), noise.in_band(band).ravel(), candidate.ssim[i]]
    )


def _numbers(vector: np.ndarray, data_range: Optional[float]) -> Dict[str, float]:
    """Return the named numbers of one averaged `_vector`; PSNR and SSIM where there is a data range."""
    in_band, total, noise = vector[:16].reshape(4, 4), vector[16:32].reshape(4, 4), vector[32:36].reshape(2, 2)
    quality = score(in_band)
    mean_error = quality.bias2 + quality.variance / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        r2_of_mean = float(1 - np.float64(mean_error) / quality.signal_variance)
    numbers = {
        "r2": quality.r2,
        "r2_corr": quality.r2_corr,
        "r2_of_mean": r2_of_mean,
        "mse_clean": quality.mse_clean,
        "bias2": quality.bias2,
        "variance": quality.variance,
        "signal_variance": quality.signal_variance,
        "noise_variance": quality.noise_variance,
        "hallucination": hallucination(noise),
    }
    if data_range is not None:
        numbers["psnr_clean"] = psnr(quality.mse_clean, data_range)
        numbers["psnr"] = psnr_rows(total, data_range)["denoised"]
        numbers["ssim"], numbers["ssim_ceiling"] = vector[36:38]
    return numbers


def _formula(measurement: Measurement, vector: np.ndarray, band: Band) -> float:
    n = coefficients_in_band(measurement.shape, measurement.sampling_rate, band)
    return formula_error(score(vector[:16].reshape(4, 4)), n)


def _curves(rings: Sequence[RingCovariance], draws: np.ndarray) -> Dict[str, Any]:
    """Return fidelity per ring with its error, power of the prediction, and power of the residual a - f(b)."""
    frequency = rings[0].frequency
    matrices = np.array([ring.on_rings(np.append(frequency, np.inf)).matrices[:-1] for ring in rings])
    mean = matrices.mean(axis=0)
    n = len(rings)
    error = None
    if n > 1:
        flat = draws[:CURVE_DRAWS] @ matrices.reshape(n, -1) / n
        samples = [frc_clean(RingCovariance(frequency, sample.reshape(mean.shape))) for sample in flat]
        valid = np.sum(np.isfinite(samples), axis=0) > 1
        error = np.where(valid, np.nanstd(np.where(valid, samples, 0.0), axis=0) * np.sqrt(n / (n - 1)), np.nan)
    residual = (
        mean[:, A, A] + mean[:, FB, FB] - 2 * mean[:, A, FB] + mean[:, B, B] + mean[:, FA, FA] - 2 * mean[:, B, FA]
    )
    noise = (mean[:, A, A] + mean[:, B, B] - 2 * mean[:, A, B]) / 2
    return {
        "frc_clean": frc_clean(RingCovariance(frequency, mean)),
        "frc_clean_error": error,
        "power": (mean[:, FA, FA] + mean[:, FB, FB]) / 2,
        "residual_over_noise": residual / 2 / noise,
    }


def _against_truth(candidate: Candidate, scoring: Scoring) -> Dict[str, Any]:
    """Return true R2, R2_corr, PSNR and the correlation per ring; each truth is first brought to its halves' scale."""
    band = scoring.band
    scales = [truth_scale(m.name, candidate.rings[i].in_band(band)) for i, m in zip(scoring.scored, scoring.chosen)]
    scaled = []
    for i, scale in zip(scoring.scored, scales):
        rings, unit = candidate.rings[i], np.append(np.ones(4), scale)
        scaled.append(RingCovariance(rings.frequency, rings.matrices * unit[:, None] * unit[None, :]))
    vectors = np.array([[ring.in_band(band), ring.total()] for ring in scaled])
    # Zero-mean images have no data range: six deviations of the truth.
    data_range = scoring.data_range or 6 * float(np.sqrt(vectors[:, 1, 4, 4].mean()))

    def numbers(mean: np.ndarray) -> Dict[str, float]:
        return true_numbers(mean[0], mean[1], 1.0, data_range)

    values, errors = numbers(vectors.mean(axis=0)), bootstrap_errors(vectors, scoring.draws, numbers)
    ssim = [_true_ssim(candidate, scoring, i, scale, data_range) for i, scale in zip(scoring.scored, scales)]
    return {
        **{name: {"value": values[name], "error": errors[name]} for name in values},
        "correlation": true_correlation(pool(scaled).coarser(N_CURVE_RINGS)),
        "data_range": data_range,
        "ssim": float(np.mean(ssim)),
        "micrographs": {m.name: numbers(vector) for m, vector in zip(scoring.chosen, vectors)},
    }


def _true_ssim(candidate: Candidate, scoring: Scoring, i: int, scale: float, data_range: float) -> float:
    measurement = scoring.measurements[i]
    truth = measurement.cuts[-1].astype(np.float32) * np.float32(scale)
    prediction = candidate.denoised_cuts(measurement, i)[0]
    return float(structural_similarity(prediction - prediction.mean(), truth - truth.mean(), data_range=data_range))
