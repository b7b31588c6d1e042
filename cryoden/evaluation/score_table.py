"""From measured micrographs to the table: every denoiser and every baseline, overall and for each micrograph."""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Sequence, Union

import numpy as np

from cryoden.config import EvaluateConfig
from cryoden.evaluation.candidates import FittedFilters, linear_baselines, measured
from cryoden.evaluation.contenders import Contender
from cryoden.evaluation.score_row import N_CURVE_RINGS, Scoring, band_name, score_bands, score_row
from cryoden.metrics import sanity_checks as checks
from cryoden.metrics.bootstrap import resamplings
from cryoden.metrics.measurement import Measurement
from cryoden.metrics.psnr_ssim import psnr_rows, verdicts
from cryoden.metrics.ring_covariance import A, B, RingCovariance, frc, pool, score
from cryoden.report.evaluation_table import (
    EvaluationTable,
    Number,
    Pattern,
    PsnrReference,
    Reference,
    Row,
    SsimReference,
    TableCurves,
    finite,
)


def scored_micrographs(measurements: Sequence[Measurement], config: EvaluateConfig) -> List[int]:
    """Return the places of those that count: not trained on, unless all were or the options say so."""
    unseen = [i for i, measurement in enumerate(measurements) if not measurement.is_seen]
    return unseen if unseen and config.scored == "held-out" else list(range(len(measurements)))


def first_model(rows: Sequence[Row]) -> Row:
    """Return the row of the first model that was given; without any, that of the Wiener filter."""
    return next((row for row in rows if row.is_model), next(row for row in rows if row.key == "wiener"))


def tabulate(
    measurements: Sequence[Measurement],
    contenders: Sequence[Contender],
    config: EvaluateConfig,
    filters: Optional[FittedFilters] = None,
    leading: Callable[[Sequence[Row]], Row] = first_model,
) -> EvaluationTable:
    """Return everything that the report says of micrographs and denoisers.

    Parameters
    ----------
    measurements
        One for each micrograph.
    contenders
        In the order in which the measurements hold them.
    config
        The options.
    filters
        Linear filters that were fitted on other micrographs; None: they are fitted on these.
    leading
        Returns the row that the report is about.

    Raises
    ------
    PairError
        If a truth does not belong to its micrograph.
    """
    scored = scored_micrographs(measurements, config)
    chosen = [measurements[i] for i in scored]
    has_range = all(measurement.has_range for measurement in chosen)
    data_range = float(np.mean([measurement.data_range for measurement in chosen])) if has_range else None

    draws = resamplings(len(scored), config.bootstrap, config.seed)
    scoring = Scoring(measurements, scored, draws, config.band, data_range)
    baselines = linear_baselines(measurements, scored[0], config, filters)
    candidates = [*baselines, *measured(measurements, contenders)]
    rows = [score_row(candidate, scoring) for candidate in candidates]
    leader = leading(rows)

    halves = pool([measurement.rings.of(A, B, A, B) for measurement in chosen])
    curves = halves.of(A, B).coarser(N_CURVE_RINGS)
    in_band = score(halves.in_band(config.band))
    reference = _reference(chosen, halves, data_range)
    correlation = _half_correlations(measurements)
    share, error = checks.common_pattern(correlation)
    return EvaluationTable(
        band_A=(config.band[0], config.band[1]),
        bands=[band_name(band) for band in score_bands(config.band)],
        sampling_rate=chosen[0].sampling_rate,
        n_micrographs=len(measurements),
        scored=[measurement.name for measurement in chosen],
        seen=[measurement.name for measurement in measurements if measurement.is_seen],
        signal_to_noise=finite(in_band.signal_variance / in_band.noise_variance),
        data_range=data_range,
        rows=rows,
        leader=leader.key,
        reference=reference,
        verdicts=verdicts(
            _verdict_rows(reference.psnr, leader.psnr, None),
            _verdict_rows(reference.ssim, leader.ssim, leader.ssim_ceiling),
        ),
        curves=TableCurves(
            frequency=curves.frequency,
            frc_halves=frc(curves),
            half_power=(curves.matrices[:, A, A] + curves.matrices[:, B, B]) / 2,
            signal_power=curves.matrices[:, A, B],
        ),
        pattern=Pattern(finite(share), finite(error)),
        warnings=_warnings(measurements, chosen, config, correlation),
        order=_by_quality(leader, chosen),
    )


def _reference(chosen: Sequence[Measurement], halves: RingCovariance, data_range: Optional[float]) -> Reference:
    """Return what stands beside PSNR and SSIM: ceiling, constant image, unprocessed half."""
    if data_range is None:
        return Reference(None, None)
    psnr = psnr_rows(halves.total(), data_range)
    constant, identity = np.mean([m.ssim_reference for m in chosen], axis=0)
    return Reference(
        PsnrReference(finite(psnr["ceiling"]), finite(psnr["constant"]), finite(psnr["identity"])),
        SsimReference(finite(constant), finite(identity)),
    )


def _verdict_rows(
    reference: Union[PsnrReference, SsimReference, None], value: Optional[Number], ceiling: Optional[Number]
) -> Optional[Dict[str, float]]:
    """Return the rows that verdicts are made of, None where one is no number."""
    if reference is None or value is None:
        return None
    rows = {**vars(reference), "denoised": value.value, **({"ceiling": ceiling.value} if ceiling else {})}
    known = {name: number for name, number in rows.items() if number is not None}
    return known if len(known) == len(rows) else None


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
            "Evaluate on micrographs that were held out."
        )
    if len(chosen) == 1:
        warnings.append(
            "One micrograph is scored: the error of R2 comes from its noise alone, and says nothing of other "
            "micrographs."
        )

    nyquist = 2 * chosen[0].sampling_rate
    if nyquist > config.band[1] * 1.01:
        warnings.append(
            f"At {chosen[0].sampling_rate:.3g} Å/px the images end at {nyquist:.3g} Å, before the band's "
            f"{config.band[1]:g} Å: numbers are over what there is."
        )
    return warnings


def _by_quality(leader: Row, chosen: Sequence[Measurement]) -> List[str]:
    """Return the scored micrographs, those without a number last."""

    def badness(name: str) -> float:
        r2 = leader.micrographs[name].r2
        return np.inf if r2 is None else -r2

    return sorted((m.name for m in chosen), key=badness)
