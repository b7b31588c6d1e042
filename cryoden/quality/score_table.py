"""From measured micrographs to the table: every denoiser and every baseline, overall and for each micrograph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from skimage.metrics import structural_similarity

from cryoden.config import EvaluateConfig
from cryoden.quality import checks
from cryoden.quality.baselines import best_gaussian_width, gaussian_transfer, wiener_transfer
from cryoden.quality.bootstrap import bootstrap_errors, coefficients_in_band, formula_error, resamplings
from cryoden.quality.measurement import Measurement, hallucination
from cryoden.quality.metrics import FA, FB, A, B, RingCovariance, frc, frc_clean, pool, psnr, score
from cryoden.quality.noisy_reference import psnr_rows, ssim_and_ceiling, verdicts
from cryoden.quality.truth import true_correlation, true_numbers, truth_scale

SPLIT_A = 20.0
"""Period at which the score band is split: below lie shape and position of particles, above their inner structure."""

N_CURVE_RINGS = 64
MAX_FOLDS = 5
"""Without training micrographs, a baseline's filter comes from the other micrographs, in so many groups at most."""

Band = Tuple[float, float]


@dataclass(frozen=True)
class Candidate:
    """A row of the table: a denoiser or a baseline with what was measured of it.

    Attributes
    ----------
    key, label, kind
        Short name; name for people; `baseline`, `network` or `external`.
    note
        What one should know, or why it is not there.
    rings, noise_rings
        For each micrograph; empty where the candidate is not there. As in `Measurement`.
    ssim
        SSIM and its ceiling of each micrograph, `(n, 2)`.
    transfers
        Gain in each ring for each micrograph, of linear filters.
    number
        Place among the denoisers of the measurements, of the others.
    """

    key: str
    label: str
    kind: str
    note: str = ""
    rings: Sequence[RingCovariance] = ()
    noise_rings: Sequence[RingCovariance] = ()
    ssim: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    transfers: Sequence[np.ndarray] = ()
    number: int = 0

    def denoised_cuts(self, measurement: Measurement, i: int) -> np.ndarray:
        """Return both halves' cut-outs as this candidate denoises them, float32 `(2, y, x)`."""
        if self.transfers:
            return measurement.filtered_cuts(self.transfers[i])
        return measurement.cuts[2 + 2 * self.number : 4 + 2 * self.number].astype(np.float32)


def band_name(band_A: Band) -> str:
    """Return how a band is called in tables: `300-8`."""
    return f"{band_A[0]:g}-{band_A[1]:g}"


def score_bands(band_A: Band) -> List[Band]:
    """Return the score band and its two parts below and above 20 A, where it contains that period."""
    low, high = band_A
    return [band_A, (low, SPLIT_A), (SPLIT_A, high)] if low > SPLIT_A > high else [band_A]


def scored_micrographs(measurements: Sequence[Measurement], config: EvaluateConfig) -> List[int]:
    """Return the places of those that count: not trained on, unless all were or the options say so."""
    unseen = [i for i, measurement in enumerate(measurements) if not measurement.is_seen]
    return unseen if unseen and config.scored == "held-out" else list(range(len(measurements)))


def linear_baselines(measurements: Sequence[Measurement], config: EvaluateConfig) -> List[Candidate]:
    """Return raw, best Gaussian and Wiener filter, fitted on other micrographs than they are scored on.

    That is, from those that a denoiser was trained on; without any, from the other micrographs in up to 5 groups.
    """
    raw = [measurement.of_filter(np.ones(len(measurement.rings.frequency))) for measurement in measurements]
    seen = [i for i, measurement in enumerate(measurements) if measurement.is_seen]
    n = len(measurements)
    fold = [i * min(n, MAX_FOLDS) // n for i in range(n)]
    widths: Dict[Tuple[int, ...], float] = {}
    gaussian, wiener = [], []
    for i, measurement in enumerate(measurements):
        training = tuple(seen or [j for j in range(n) if fold[j] != fold[i]] or [i])
        pooled = pool([raw[j].of(A, B, FA, FB) for j in training])
        if training not in widths:
            widths[training] = best_gaussian_width(pooled, config.band)
        gaussian.append(gaussian_transfer(measurement.rings.frequency, widths[training]))
        wiener.append(wiener_transfer(pooled, measurement.rings.frequency))
    source = (
        "the training micrographs" if seen else "other micrographs" if n > 1 else "this micrograph itself (flattering)"
    )
    width = float(np.median(list(widths.values())))
    return [
        _filtered("raw", "raw (unprocessed half)", "", measurements, [np.ones_like(gain) for gain in gaussian]),
        _filtered("gaussian", "best Gaussian", f"deviation {width:.1f} A, chosen on {source}", measurements, gaussian),
        _filtered("wiener", "ring-wise Wiener", f"SSNR from the FRC of {source}", measurements, wiener),
    ]


def tabulate(
    measurements: Sequence[Measurement],
    networks: Sequence[Candidate],
    absent: Sequence[Candidate],
    config: EvaluateConfig,
) -> Dict[str, Any]:
    """Return everything that the report says, as JSON types.

    Parameters
    ----------
    measurements
        One for each micrograph.
    networks
        Candidates in the order in which the measurements hold them, without their numbers.
    absent
        Candidates that are not there; their note says why.
    config
        The options.

    Raises
    ------
    PairError
        If a truth does not belong to its micrograph.
    """
    scored = scored_micrographs(measurements, config)
    present = [*linear_baselines(measurements, config), *_measured(measurements, networks)]
    draws = resamplings(len(scored), config.bootstrap, config.seed)
    chosen = [measurements[i] for i in scored]
    data_range = float(np.mean([measurement.data_range for measurement in chosen]))
    has_range = all(measurement.has_range for measurement in chosen)
    curves = pool([measurement.rings.of(A, B) for measurement in chosen]).coarser(N_CURVE_RINGS)
    rows = [_row(candidate, measurements, scored, draws, config, data_range, has_range) for candidate in present]
    rows += [
        {"key": c.key, "label": c.label, "kind": c.kind, "note": c.note, "bands": None, "micrographs": {}}
        for c in absent
    ]
    leader = next((row for row in rows if row["kind"] == "network" and row["bands"]), rows[2])
    reference = _reference(chosen, data_range) if has_range else {"psnr": None, "ssim": None}
    correlation = _half_correlations(measurements)
    return _jsonable(
        {
            "band_A": list(config.band),
            "bands": [band_name(band) for band in score_bands(config.band)],
            "sampling_rate": chosen[0].sampling_rate,
            "n_micrographs": len(measurements),
            "scored": [measurement.name for measurement in chosen],
            "seen": [measurement.name for measurement in measurements if measurement.is_seen],
            "signal_to_noise": score(
                pool([m.rings.of(A, B, A, B) for m in chosen]).in_band(config.band)
            ).signal_variance
            / score(pool([m.rings.of(A, B, A, B) for m in chosen]).in_band(config.band)).noise_variance,
            "data_range": data_range if has_range else None,
            "rows": rows,
            "leader": leader["key"],
            "reference": reference,
            "verdicts": verdicts(
                _verdict_rows(reference["psnr"], leader.get("psnr"), None),
                _verdict_rows(reference["ssim"], leader.get("ssim"), leader.get("ssim_ceiling")),
            ),
            "curves": {
                "frequency": curves.frequency,
                "frc_halves": frc(curves),
                "half_power": (curves.matrices[:, A, A] + curves.matrices[:, B, B]) / 2,
                "signal_power": curves.matrices[:, A, B],
            },
            "pattern": dict(zip(("share", "error"), checks.common_pattern(correlation))),
            "warnings": _warnings(measurements, chosen, config, correlation),
            "order": _by_quality(leader, chosen),
        }
    )


def _measured(measurements: Sequence[Measurement], networks: Sequence[Candidate]) -> List[Candidate]:
    return [
        Candidate(
            row.key, row.label, row.kind, row.note,
            [m.of_denoiser(number) for m in measurements],
            [m.noise_rings[number] for m in measurements],
            np.array([m.ssim[number] for m in measurements]),
            number=number,
        )
        for number, row in enumerate(networks)
    ]  # fmt: skip


def _filtered(
    key: str, label: str, note: str, measurements: Sequence[Measurement], gains: List[np.ndarray]
) -> Candidate:
    ssim = np.full((len(measurements), 2), np.nan)
    for i, (measurement, gain) in enumerate(zip(measurements, gains)):
        if measurement.has_range:
            a, b = measurement.cuts[:2].astype(np.float32)
            denoised = a if key == "raw" else measurement.filtered_cuts(gain)[0]
            ssim[i] = ssim_and_ceiling(a, b, denoised, measurement.data_range)
    rings = [m.of_filter(gain) for m, gain in zip(measurements, gains)]
    noise = [m.noise_of_filter(gain) for m, gain in zip(measurements, gains)]
    return Candidate(key, label, "baseline", note, rings, noise, ssim, gains)


def _row(
    candidate: Candidate,
    measurements: Sequence[Measurement],
    scored: Sequence[int],
    draws: np.ndarray,
    config: EvaluateConfig,
    data_range: float,
    has_range: bool,
) -> Dict[str, Any]:
    """Return one row: numbers in every band with their errors, curves, and numbers of each micrograph."""
    row: Dict[str, Any] = {
        "key": candidate.key,
        "label": candidate.label,
        "kind": candidate.kind,
        "note": candidate.note,
    }
    has_truth = all(measurements[i].has_truth for i in scored)
    row["bands"] = {}
    for band in score_bands(config.band):
        vectors = np.array([_vector(candidate, i, band) for i in range(len(measurements))])

        def numbers(vector: np.ndarray, is_main: bool = band == config.band) -> Dict[str, float]:
            return _numbers(vector, data_range if is_main and has_range else None)

        values = numbers(vectors[scored].mean(axis=0))
        errors = bootstrap_errors(vectors[scored], draws, numbers)
        if len(scored) == 1:
            errors["r2"] = _formula(measurements[scored[0]], vectors[scored[0]], band)
            n = coefficients_in_band(measurements[scored[0]].shape, measurements[scored[0]].sampling_rate, band)
            errors["mse_clean"] = values["noise_variance"] / np.sqrt(max(n, 1.0))
        entries = {name: {"value": values[name], "error": errors[name]} for name in values}
        if band == config.band:
            row.update({name: entries.pop(name) for name in ("psnr", "ssim", "ssim_ceiling") if name in entries})
            row["micrographs"] = {
                m.name: {**numbers(vectors[i]), "r2_error": _formula(m, vectors[i], band)}
                for i, m in enumerate(measurements)
            }
        row["bands"][band_name(band)] = entries
    coarse = [candidate.rings[i].coarser(N_CURVE_RINGS) for i in scored]
    row["curves"] = _curves(coarse, draws)
    if candidate.transfers:
        first = scored[0]
        row["filter"] = {"frequency": candidate.rings[first].frequency[:-1], "gain": candidate.transfers[first][:-1]}
    row["number"] = None if candidate.transfers else candidate.number
    if has_truth:
        row["truth"] = _against_truth(candidate, measurements, scored, draws, config, data_range if has_range else 0.0)
    return row


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
        flat = draws[:200] @ matrices.reshape(n, -1) / n
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


def _against_truth(
    candidate: Candidate,
    measurements: Sequence[Measurement],
    scored: Sequence[int],
    draws: np.ndarray,
    config: EvaluateConfig,
    data_range: float,
) -> Dict[str, Any]:
    """Return true R2, R2_corr, PSNR and the correlation per ring; each truth is first brought to its halves' scale."""
    scaled = []
    for i in scored:
        rings = candidate.rings[i]
        unit = np.append(np.ones(4), truth_scale(measurements[i].name, rings.in_band(config.band)))
        scaled.append(RingCovariance(rings.frequency, rings.matrices * unit[:, None] * unit[None, :]))
    vectors = np.array([[ring.in_band(config.band), ring.total()] for ring in scaled])
    if not data_range > 0:  # zero-mean images: six deviations of the truth
        data_range = 6 * float(np.sqrt(vectors[:, 1, 4, 4].mean()))

    def numbers(mean: np.ndarray) -> Dict[str, float]:
        return true_numbers(mean[0], mean[1], 1.0, data_range)

    values, errors = numbers(vectors.mean(axis=0)), bootstrap_errors(vectors, draws, numbers)
    result: Dict[str, Any] = {name: {"value": values[name], "error": errors[name]} for name in values}
    result["correlation"] = true_correlation(pool(scaled).coarser(N_CURVE_RINGS))
    result["data_range"] = data_range
    result["ssim"] = float(np.mean([_true_ssim(candidate, measurements[i], i, data_range, config) for i in scored]))
    result["micrographs"] = {measurements[i].name: numbers(vector) for i, vector in zip(scored, vectors)}
    return result


def _true_ssim(
    candidate: Candidate, measurement: Measurement, i: int, data_range: float, config: EvaluateConfig
) -> float:
    rings = candidate.rings[i]
    scale = truth_scale(measurement.name, rings.in_band(config.band))
    truth = measurement.cuts[-1].astype(np.float32) * np.float32(scale)
    prediction = candidate.denoised_cuts(measurement, i)[0]
    return float(structural_similarity(prediction - prediction.mean(), truth - truth.mean(), data_range=data_range))


def _reference(chosen: Sequence[Measurement], data_range: float) -> Dict[str, Any]:
    """Return the rows that stand beside PSNR and SSIM: ceiling, constant image, unprocessed half."""
    total = pool([m.rings.of(A, B, A, B) for m in chosen]).total()
    rows = psnr_rows(total, data_range)
    constant, identity = np.mean([m.ssim_reference for m in chosen], axis=0)
    return {
        "psnr": {name: rows[name] for name in ("ceiling", "constant", "identity")},
        "ssim": {"constant": constant, "identity": identity},
    }


def _verdict_rows(
    reference: Optional[Dict[str, float]], value: Optional[Dict[str, float]], ceiling: Optional[Dict[str, float]]
) -> Optional[Dict[str, float]]:
    if reference is None or value is None:
        return None
    rows = {**reference, "denoised": value["value"]}
    return {**rows, "ceiling": ceiling["value"]} if ceiling else rows


def _half_correlations(measurements: Sequence[Measurement]) -> np.ndarray:
    alike = [m.thumbnails for m in measurements if m.thumbnails.shape == measurements[0].thumbnails.shape]
    return checks.correlations([images.astype(np.float32) for images in alike[: checks.MAX_COMPARED]])


def _warnings(
    measurements: Sequence[Measurement], chosen: Sequence[Measurement], config: EvaluateConfig, correlation: np.ndarray
) -> List[str]:
    """Return sentences about everything that limits what the numbers mean."""
    warnings = checks.zero_mean_warnings({m.name: m.positive_share for m in measurements})
    warnings += checks.pattern_warnings(correlation)
    seen = [m.name for m in chosen if m.is_seen]
    if seen:
        warnings.append(
            f"{len(seen)} of the {len(chosen)} scored micrographs were trained on: the numbers flatter the networks. "
            "Evaluate "
            "on micrographs that were held out."
        )
    if len(chosen) == 1:
        warnings.append(
            "One micrograph is scored: the error of R2 comes from its noise alone, and says nothing of other "
            "micrographs."
        )
    nyquist = 2 * chosen[0].sampling_rate
    if nyquist > config.band[1] * 1.01:
        warnings.append(
            f"At {chosen[0].sampling_rate:.3g} A/px the images end at {nyquist:.3g} A, before the band's "
            f"{config.band[1]:g} A: "
            "numbers are over what there is."
        )
    return warnings


def _by_quality(leader: Dict[str, Any], chosen: Sequence[Measurement]) -> List[str]:
    quality = leader["micrographs"]
    return sorted((m.name for m in chosen), key=lambda name: -np.nan_to_num(quality[name]["r2"], nan=-np.inf))


def _jsonable(value: Any) -> Any:
    """Return JSON types; what is not a number becomes null."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_jsonable(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value
