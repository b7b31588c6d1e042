"""Denoisers, and baselines that they must beat, with what was measured of each on every micrograph."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from cryoden.config import EvaluateConfig
from cryoden.evaluation.contenders import Contender
from cryoden.metrics.measurement import Measurement, Response
from cryoden.metrics.ring_covariance import A, B, pool
from cryoden.model.filters import GaussianFilter, WienerFilter
from cryoden.report.evaluation_table import TransferCurve

MAX_FOLDS = 5
"""Without training micrographs, a baseline's filter comes from the other micrographs, in so many groups at most."""


@dataclass(frozen=True)
class Candidate:
    """A row of the table before its numbers: a denoiser or a baseline with what was measured of it.

    Attributes
    ----------
    key, label, kind, note
        As in `Row` of the table.
    responses
        For each micrograph.
    number
        Place among the denoisers of the measurements, None of a filter.
    filter
        Of the first scored micrograph, None of anything else.
    """

    key: str
    label: str
    kind: str
    note: str
    responses: Sequence[Response]
    number: Optional[int] = None
    filter: Optional[TransferCurve] = None


def measured(measurements: Sequence[Measurement], contenders: Sequence[Contender]) -> List[Candidate]:
    """Return contenders with what was measured of them; they come in the order in which the measurements hold them."""
    return [
        Candidate(c.key, c.label, c.kind, c.note, [m.of_denoiser(number) for m in measurements], number)
        for number, c in enumerate(contenders)
    ]


@dataclass(frozen=True)
class FittedFilters:
    """Both linear filters, fitted on micrographs of which none is scored, and what these are called."""

    gaussian: GaussianFilter
    wiener: WienerFilter
    source: str


def linear_baselines(
    measurements: Sequence[Measurement],
    first_scored: int,
    config: EvaluateConfig,
    fitted_elsewhere: Optional[FittedFilters] = None,
) -> List[Candidate]:
    """Return raw, best Gaussian and Wiener filter, fitted on other micrographs than they are scored on.

    That is, from those that a denoiser was trained on; without any, from the other micrographs in up to 5 groups.

    Parameters
    ----------
    measurements
        One for each micrograph.
    first_scored
        Place of the one whose filters are kept to be drawn.
    config
        The options.
    fitted_elsewhere
        The filters, where they are not to be fitted here.
    """
    seen = [i for i, measurement in enumerate(measurements) if measurement.is_seen]
    n = len(measurements)
    folds = [i * min(n, MAX_FOLDS) // n for i in range(n)]
    fitted: Dict[Tuple[int, ...], Tuple[GaussianFilter, WienerFilter]] = {}
    filters = []
    for i in range(n):
        training = tuple(seen or [j for j in range(n) if folds[j] != folds[i]] or [i])
        if fitted_elsewhere is not None:
            training, fitted[()] = (), (fitted_elsewhere.gaussian, fitted_elsewhere.wiener)
        elif training not in fitted:
            fitted[training] = _fitted([measurements[j] for j in training], config)
        filters.append(fitted[training])

    source = (
        "the training micrographs" if seen else "other micrographs" if n > 1 else "this micrograph itself (flattering)"
    )
    if fitted_elsewhere is not None:
        source = fitted_elsewhere.source
    width = float(np.median([gaussian.card.training["width_A"] for gaussian, _ in fitted.values()]))
    labels = {
        "raw": ("raw (unprocessed half)", ""),
        "gaussian": ("best Gaussian", f"deviation {width:.1f} Å, chosen on {source}"),
        "wiener": ("ring-wise Wiener", f"SSNR from the FRC of {source}"),
    }
    gains = {
        "raw": [np.ones(len(m.rings.frequency)) for m in measurements],
        "gaussian": [gaussian.gain_at(m.rings.frequency) for (gaussian, _), m in zip(filters, measurements)],
        "wiener": [wiener.gain_at(m.rings.frequency) for (_, wiener), m in zip(filters, measurements)],
    }
    candidates = []
    with ThreadPoolExecutor() as threads:  # most of it is SSIM, in which threads do not wait for each other
        found = {key: list(threads.map(Measurement.of_filter, measurements, gains[key])) for key in labels}
    for key, (label, note) in labels.items():
        frequency, gain = measurements[first_scored].rings.frequency, gains[key][first_scored]
        curve = TransferCurve(frequency[:-1], gain[:-1])  # the last ring is all beyond Nyquist
        candidates.append(Candidate(key, label, "baseline", note, found[key], filter=curve))
    return candidates


def _fitted(training: Sequence[Measurement], config: EvaluateConfig) -> Tuple[GaussianFilter, WienerFilter]:
    """Return both filters that suit some micrographs."""
    covariance = pool([m.rings.of(A, B) for m in training])
    rate = training[0].sampling_rate
    gaussian = GaussianFilter.fit_covariance(covariance, rate, config.band)
    return gaussian, WienerFilter.fit_covariance(covariance, rate, config.band)
