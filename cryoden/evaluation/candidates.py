"""Denoisers, and baselines that they must beat, with what was measured of each on every micrograph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Sequence, Tuple

import numpy as np

from cryoden.config import EvaluateConfig
from cryoden.metrics.linear_filters import best_gaussian_width, gaussian_transfer, wiener_transfer
from cryoden.metrics.measurement import Measurement
from cryoden.metrics.psnr_ssim import ssim_and_ceiling
from cryoden.metrics.ring_covariance import FA, FB, A, B, RingCovariance, pool

MAX_FOLDS = 5
"""Without training micrographs, a baseline's filter comes from the other micrographs, in so many groups at most."""


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


def measured(measurements: Sequence[Measurement], denoisers: Sequence[Candidate]) -> List[Candidate]:
    """Return denoisers with what was measured of them; they come in the order in which the measurements hold them."""
    return [
        Candidate(
            row.key, row.label, row.kind, row.note,
            [m.of_denoiser(number) for m in measurements],
            [m.noise_rings[number] for m in measurements],
            np.array([m.ssim[number] for m in measurements]),
            number=number,
        )
        for number, row in enumerate(denoisers)
    ]  # fmt: skip


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
