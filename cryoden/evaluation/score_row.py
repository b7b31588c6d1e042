"""One row of an evaluation's table: a candidate's numbers in every band with their errors, its curves, its truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from skimage.metrics import structural_similarity

from cryoden.evaluation.candidates import Candidate
from cryoden.metrics.bootstrap import bootstrap_errors, coefficients_in_band, formula_error, resampled_means
from cryoden.metrics.ground_truth import TRUE, true_correlation, true_numbers, truth_scale
from cryoden.metrics.measurement import Measurement, Response, hallucination
from cryoden.metrics.psnr_ssim import psnr_rows
from cryoden.metrics.ring_covariance import FA, FB, A, B, RingCovariance, frc_clean, pool, psnr, score
from cryoden.report.evaluation_table import (
    BandScores,
    MicrographScores,
    Number,
    Row,
    RowCurves,
    TrueMicrographScores,
    TrueScores,
    finite,
)

SPLIT_A = 20.0
"""Period at which the score band is split: below lie shape and position of particles, above their inner structure."""

N_CURVE_RINGS = 64
"""Rings of the curves over spatial frequency."""

CURVE_DRAWS = 200
"""Resamplings from which errors of the curves are estimated, at most."""

AGAINST_THE_HALF = ("psnr", "ssim", "ssim_ceiling")
"""Numbers over all frequencies: a row has them once, not in every band."""

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


@dataclass(frozen=True)
class Moments:
    """What the numbers of one band are made of: covariances and similarities, of one micrograph or as means over many.

    Attributes
    ----------
    in_band, total
        Covariances of (a, b, f(a), f(b)) in the band, and over all frequencies, `(4, 4)`.
    noise
        Covariances of (f(noise), f(a)) in the band, `(2, 2)`.
    ssim, ssim_ceiling
        Against the other half; NaN where there is no data range.
    """

    in_band: np.ndarray
    total: np.ndarray
    noise: np.ndarray
    ssim: float
    ssim_ceiling: float

    @classmethod
    def of(cls, response: Response, band: Band) -> Moments:
        """Return the moments of one micrograph."""
        rings = response.rings.of(A, B, FA, FB)
        noise = response.noise_rings.in_band(band)
        return cls(rings.in_band(band), rings.total(), noise, response.ssim, response.ssim_ceiling)

    def numbers(self, data_range: Optional[float]) -> Dict[str, float]:
        """Return the numbers that these moments make; those against the half where there is a data range."""
        quality = score(self.in_band)
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
            "hallucination": hallucination(self.noise),
        }
        if data_range is not None:
            numbers["psnr_clean"] = psnr(quality.mse_clean, data_range)
            numbers["psnr"] = psnr_rows(self.total, data_range)["denoised"]
            numbers["ssim"], numbers["ssim_ceiling"] = self.ssim, self.ssim_ceiling
        return numbers


def mean_moments(moments: Sequence[Moments]) -> Moments:
    """Return the mean over micrographs."""
    return Moments(*(values.mean(axis=0) for values in _stacked(moments)))


def resampled_moments(moments: Sequence[Moments], draws: np.ndarray) -> Iterator[Moments]:
    """Yield the mean of every resampling of the micrographs."""
    for means in zip(*(resampled_means(values, draws) for values in _stacked(moments))):
        yield Moments(*means)


def _stacked(moments: Sequence[Moments]) -> List[np.ndarray]:
    """Return each part of all micrographs as one array, micrographs first."""
    return [
        np.array(values) for values in zip(*((m.in_band, m.total, m.noise, m.ssim, m.ssim_ceiling) for m in moments))
    ]


def score_row(candidate: Candidate, scoring: Scoring) -> Row:
    """Return one row: numbers in every band with their errors, curves, and numbers of each micrograph.

    Raises
    ------
    PairError
        If a truth does not belong to its micrograph.
    """
    main = [Moments.of(response, scoring.band) for response in candidate.responses]
    against_the_half = _with_errors(main, scoring, scoring.band, scoring.data_range)
    bands = {band_name(scoring.band): _band_scores(against_the_half)}
    for band in score_bands(scoring.band)[1:]:
        moments = [Moments.of(response, band) for response in candidate.responses]
        bands[band_name(band)] = _band_scores(_with_errors(moments, scoring, band, None))

    responses = [candidate.responses[i] for i in scoring.scored]
    has_truth = all(measurement.has_truth for measurement in scoring.chosen)
    return Row(
        key=candidate.key,
        label=candidate.label,
        kind=candidate.kind,
        note=candidate.note,
        number=candidate.number,
        bands=bands,
        curves=_curves([response.rings.coarser(N_CURVE_RINGS) for response in responses], scoring.draws),
        micrographs={m.name: _micrograph_scores(m, part, scoring) for m, part in zip(scoring.measurements, main)},
        filter=candidate.filter,
        truth=_against_truth(candidate, scoring) if has_truth else None,
        **{name: against_the_half.get(name) for name in AGAINST_THE_HALF},
    )


def _with_errors(
    moments: Sequence[Moments], scoring: Scoring, band: Band, data_range: Optional[float]
) -> Dict[str, Number]:
    """Return numbers over the scored micrographs with their errors; of one micrograph, those that its noise leaves."""
    scored = [moments[i] for i in scoring.scored]
    mean = mean_moments(scored)
    values = mean.numbers(data_range)

    if len(scored) > 1:
        samples = [sample.numbers(data_range) for sample in resampled_moments(scored, scoring.draws)]
        errors = bootstrap_errors(len(scored), samples)
    else:
        only = scoring.chosen[0]
        n = coefficients_in_band(only.shape, only.sampling_rate, band)
        errors = dict.fromkeys(values)
        errors["r2"] = _formula(only, mean, band)
        errors["mse_clean"] = values["noise_variance"] / float(np.sqrt(max(n, 1.0)))
    return {name: Number.of(values[name], errors[name]) for name in values}


def _band_scores(numbers: Dict[str, Number]) -> BandScores:
    return BandScores(**{name: number for name, number in numbers.items() if name not in AGAINST_THE_HALF})


def _micrograph_scores(measurement: Measurement, moments: Moments, scoring: Scoring) -> MicrographScores:
    numbers = {name: finite(value) for name, value in moments.numbers(scoring.data_range).items()}
    return MicrographScores(**numbers, r2_error=finite(_formula(measurement, moments, scoring.band)))


def _formula(measurement: Measurement, moments: Moments, band: Band) -> float:
    n = coefficients_in_band(measurement.shape, measurement.sampling_rate, band)
    return formula_error(score(moments.in_band), n)


def _curves(rings: Sequence[RingCovariance], draws: np.ndarray) -> RowCurves:
    """Return fidelity per ring with its error, power of the prediction, and power of the residual a - f(b)."""
    frequency = rings[0].frequency
    matrices = np.array([ring.on_rings(np.append(frequency, np.inf)).matrices[:-1] for ring in rings])
    mean = matrices.mean(axis=0)
    n = len(rings)

    error = None
    if n > 1:
        samples = [
            frc_clean(RingCovariance(frequency, sample)) for sample in resampled_means(matrices, draws[:CURVE_DRAWS])
        ]
        valid = np.sum(np.isfinite(samples), axis=0) > 1
        error = np.where(valid, np.nanstd(np.where(valid, samples, 0.0), axis=0) * np.sqrt(n / (n - 1)), np.nan)

    forward = mean[:, A, A] + mean[:, FB, FB] - 2 * mean[:, A, FB]
    backward = mean[:, B, B] + mean[:, FA, FA] - 2 * mean[:, B, FA]
    noise = (mean[:, A, A] + mean[:, B, B] - 2 * mean[:, A, B]) / 2
    return RowCurves(
        frc_clean=frc_clean(RingCovariance(frequency, mean)),
        frc_clean_error=error,
        power=(mean[:, FA, FA] + mean[:, FB, FB]) / 2,
        residual_over_noise=(forward + backward) / 2 / noise,
    )


def _against_truth(candidate: Candidate, scoring: Scoring) -> TrueScores:
    """Return true R2, R2_corr, PSNR and the correlation per ring; each truth is first brought to its halves' scale."""
    band = scoring.band
    responses = [candidate.responses[i] for i in scoring.scored]
    scales = [truth_scale(m.name, r.rings.in_band(band)) for r, m in zip(responses, scoring.chosen)]
    scaled = []
    for response, scale in zip(responses, scales):
        unit = np.ones(TRUE + 1)
        unit[TRUE] = scale
        scaled.append(RingCovariance(response.rings.frequency, response.rings.matrices * np.outer(unit, unit)))

    in_band, total = (np.array(part) for part in zip(*((rings.in_band(band), rings.total()) for rings in scaled)))
    # Zero-mean images have no data range: six deviations of the truth.
    data_range = scoring.data_range or 6 * float(np.sqrt(total[:, TRUE, TRUE].mean()))

    def numbers(in_band: np.ndarray, total: np.ndarray) -> Dict[str, float]:
        return true_numbers(in_band, total, 1.0, data_range)

    values = numbers(in_band.mean(axis=0), total.mean(axis=0))
    samples = [numbers(*means) for means in zip(*(resampled_means(part, scoring.draws) for part in (in_band, total)))]
    errors = bootstrap_errors(len(scaled), samples)
    ssim = [
        _true_ssim(response, measurement, scale, data_range)
        for response, measurement, scale in zip(responses, scoring.chosen, scales)
    ]
    micrographs = {
        m.name: TrueMicrographScores(**{name: finite(value) for name, value in numbers(*parts).items()})
        for m, parts in zip(scoring.chosen, zip(in_band, total))
    }
    return TrueScores(
        **{name: Number.of(values[name], errors[name]) for name in values},
        correlation=true_correlation(pool(scaled).coarser(N_CURVE_RINGS)),
        data_range=data_range,
        ssim=finite(float(np.mean(ssim))),
        micrographs=micrographs,
    )


def _true_ssim(response: Response, measurement: Measurement, scale: float, data_range: float) -> float:
    truth = measurement.truth_cut() * np.float32(scale)
    prediction = response.denoised_cuts()[0]
    return float(structural_similarity(prediction - prediction.mean(), truth - truth.mean(), data_range=data_range))
