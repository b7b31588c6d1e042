"""The table of an evaluation: every denoiser's numbers with their errors, and what they rest on (metrics.json)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from cryoden.errors import FileError, Problem
from cryoden.formats.files import PathLike, read_json
from cryoden.formats.typed_json import of_json, to_json
from cryoden.metrics.psnr_ssim import Verdict


@dataclass(frozen=True)
class Number:
    """A value with its standard error; None where there is none."""

    value: Optional[float]
    error: Optional[float]

    @classmethod
    def of(cls, value: float, error: Optional[float]) -> Number:
        """Return a number of floats that may be NaN or infinite."""
        return cls(finite(value), finite(error))


def finite(value: Optional[float]) -> Optional[float]:
    """Return a number as it is, and None of what is none."""
    return float(value) if value is not None and np.isfinite(value) else None


@dataclass(frozen=True)
class BandScores:
    """How good a denoiser is in one band, over all micrographs that count.

    Attributes
    ----------
    r2, r2_corr, r2_of_mean
        Explained signal; its scale-free form; of the mean of both predictions.
    mse_clean, bias2, variance
        Error against the unknown clean image, and its two parts.
    signal_variance, noise_variance
        Of one half.
    hallucination
        Variance made of noise alone, relative to that made of a half.
    psnr_clean
        In dB, against the unknown clean image; None where there is no data range.
    """

    r2: Number
    r2_corr: Number
    r2_of_mean: Number
    mse_clean: Number
    bias2: Number
    variance: Number
    signal_variance: Number
    noise_variance: Number
    hallucination: Number
    psnr_clean: Optional[Number] = None


@dataclass(frozen=True)
class MicrographScores:
    """The same of one micrograph, in the score band; `r2_error` comes from its noise alone."""

    r2: Optional[float]
    r2_corr: Optional[float]
    r2_of_mean: Optional[float]
    mse_clean: Optional[float]
    bias2: Optional[float]
    variance: Optional[float]
    signal_variance: Optional[float]
    noise_variance: Optional[float]
    hallucination: Optional[float]
    r2_error: Optional[float]
    psnr_clean: Optional[float] = None
    psnr: Optional[float] = None
    ssim: Optional[float] = None
    ssim_ceiling: Optional[float] = None


@dataclass(frozen=True, eq=False)
class RowCurves:
    """A denoiser ring by ring, at the frequencies of `TableCurves`; NaN where a ring says nothing.

    Attributes
    ----------
    frc_clean, frc_clean_error
        Correlation with the unknown clean image; its error is None of one micrograph alone.
    power
        Of the prediction.
    residual_over_noise
        Power of a - f(b), relative to that of the noise.
    """

    frc_clean: np.ndarray
    frc_clean_error: Optional[np.ndarray]
    power: np.ndarray
    residual_over_noise: np.ndarray


@dataclass(frozen=True, eq=False)
class TransferCurve:
    """A linear filter: its gain at frequencies in 1/A."""

    frequency: np.ndarray
    gain: np.ndarray


@dataclass(frozen=True)
class TrueMicrographScores:
    """What the truth of one micrograph says."""

    r2: Optional[float]
    r2_corr: Optional[float]
    mse: Optional[float]
    psnr: Optional[float]


@dataclass(frozen=True, eq=False)
class TrueScores:
    """What the truth says, where it is known.

    Attributes
    ----------
    r2, r2_corr, mse
        In the score band.
    psnr
        In dB, over all frequencies.
    correlation
        Of prediction and truth in each ring.
    data_range
        Of PSNR and SSIM.
    ssim
        With the truth, mean over micrographs.
    micrographs
        Each by its name.
    """

    r2: Number
    r2_corr: Number
    mse: Number
    psnr: Number
    correlation: np.ndarray
    data_range: float
    ssim: Optional[float]
    micrographs: Dict[str, TrueMicrographScores]


@dataclass(frozen=True, eq=False)
class Row:
    """One denoiser, or one of the baselines that it must beat.

    Attributes
    ----------
    key, label, kind
        Short name; name for people; `baseline`, `network`, `filter` (a linear one of a model file) or `external`.
    note
        What one should know.
    number
        Place of its cut-outs in the measurements; None of linear filters, which are applied when they are drawn.
    bands
        Name of a band -> numbers.
    curves
        Ring by ring.
    micrographs
        Each by its name.
    psnr, ssim, ssim_ceiling
        Against the noisy half; None where there is no data range.
    filter
        Of the first scored micrograph, where it is a linear filter.
    truth
        Where it is known.
    """

    key: str
    label: str
    kind: str
    note: str
    number: Optional[int]
    bands: Dict[str, BandScores]
    curves: RowCurves
    micrographs: Dict[str, MicrographScores]
    psnr: Optional[Number] = None
    ssim: Optional[Number] = None
    ssim_ceiling: Optional[Number] = None
    filter: Optional[TransferCurve] = None
    truth: Optional[TrueScores] = None

    @property
    def is_model(self) -> bool:
        """Whether it is a model that was given."""
        return self.kind in ("network", "filter")


@dataclass(frozen=True)
class Absent:
    """A denoiser that one would expect in the table, and why it is not there."""

    key: str
    label: str
    kind: str
    reason: Problem


@dataclass(frozen=True)
class PsnrReference:
    """PSNR in dB of a perfect denoiser, of a constant image, and of the unprocessed half."""

    ceiling: Optional[float]
    constant: Optional[float]
    identity: Optional[float]


@dataclass(frozen=True)
class SsimReference:
    """SSIM of a constant image, and of the unprocessed half."""

    constant: Optional[float]
    identity: Optional[float]


@dataclass(frozen=True)
class Reference:
    """What stands beside PSNR and SSIM; None where there is no data range."""

    psnr: Optional[PsnrReference]
    ssim: Optional[SsimReference]


@dataclass(frozen=True, eq=False)
class TableCurves:
    """The halves ring by ring: frequency in 1/A, their correlation, power of one half, and of the signal in it."""

    frequency: np.ndarray
    frc_halves: np.ndarray
    half_power: np.ndarray
    signal_power: np.ndarray


@dataclass(frozen=True)
class Pattern:
    """Share of the signal that is the same in all micrographs, and its standard error."""

    share: Optional[float]
    error: Optional[float]


@dataclass(frozen=True)
class ModelFacts:
    """What the report says of a model beside its quality."""

    path: str
    network: str
    sampling_rate: float
    n_weights: int
    channels: Tuple[int, ...]
    epoch: Optional[int]
    seconds: Optional[float]


@dataclass(frozen=True, eq=False)
class EvaluationTable:
    """Everything that an evaluation found.

    Attributes
    ----------
    band_A
        Longest and shortest period of the score band in A.
    bands
        Names of the bands, the score band first.
    sampling_rate
        A/px at which images were compared.
    n_micrographs
        Measured.
    scored, seen
        Names of those that count, and of those that a denoiser was trained on.
    signal_to_noise
        Of one half in the score band.
    data_range
        Of PSNR and SSIM, in deviations of a half; None where the halves are no counts.
    rows
        Denoisers and baselines.
    leader
        Key of the row that the report is about.
    reference
        What stands beside PSNR and SSIM.
    verdicts
        Of the specification.
    curves
        The halves ring by ring.
    pattern
        What all micrographs have in common.
    warnings
        What limits the numbers, in sentences.
    order
        Scored micrographs, the best of the leader first.
    absent
        Denoisers that did not take part.
    failures
        Micrographs that were left out, and why.
    models
        The models that took part.
    election
        Who was elected and why, in sentences, where the evaluation is that of an election.
    """

    band_A: Tuple[float, float]  # noqa: N815  its name in the file
    bands: List[str]
    sampling_rate: float
    n_micrographs: int
    scored: List[str]
    seen: List[str]
    signal_to_noise: Optional[float]
    data_range: Optional[float]
    rows: List[Row]
    leader: str
    reference: Reference
    verdicts: List[Verdict]
    curves: TableCurves
    pattern: Pattern
    warnings: List[str]
    order: List[str]
    absent: List[Absent] = field(default_factory=list)
    failures: Mapping[str, Problem] = field(default_factory=dict)
    models: List[ModelFacts] = field(default_factory=list)
    election: List[str] = field(default_factory=list)

    def row(self, key: str) -> Row:
        """Return the row of a key."""
        return next(row for row in self.rows if row.key == key)

    @property
    def leading_row(self) -> Row:
        """The row that the report is about."""
        return self.row(self.leader)

    def to_dict(self) -> Dict[str, Any]:
        """Return the content of metrics.json.

        Those that are absent stand among the rows, without numbers, as in version 0.1; problems are sentences there.
        """
        content = to_json(self)
        content["rows"] += [_absent_row(absent) for absent in self.absent]
        del content["absent"]
        content["failures"] = {name: problem.text() for name, problem in self.failures.items()}
        return content

    @classmethod
    def from_dict(cls, content: Any) -> EvaluationTable:
        """Return the table of what `to_dict` returned, in this version or 0.1; raises ValueError if it is none."""
        if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
            raise ValueError("it has no rows")
        rows = [row for row in content["rows"] if isinstance(row, dict)]
        absent = [_absent_of(row) for row in rows if not row.get("bands")]
        failures = {name: Problem.from_dict(reason) for name, reason in content.get("failures", {}).items()}
        present = [row for row in rows if row.get("bands")]
        table = of_json(cls, {**content, "rows": present, "absent": [], "failures": {}})
        return replace(table, absent=absent, failures=failures)


def _absent_row(absent: Absent) -> Dict[str, Any]:
    names = {"key": absent.key, "label": absent.label, "kind": absent.kind, "note": absent.reason.text()}
    return {**names, "bands": None, "micrographs": {}, "problem": absent.reason.to_dict()}


def _absent_of(row: Dict[str, Any]) -> Absent:
    return Absent(row["key"], row["label"], row["kind"], Problem.from_dict(row.get("problem", row["note"])))


def read_table(path: PathLike) -> EvaluationTable:
    """Read a metrics.json.

    Raises
    ------
    FileError
        If it is missing or damaged.
    """
    try:
        return EvaluationTable.from_dict(read_json(path))
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{path} is no table of an evaluation ({error}). Evaluate again; what was measured is kept.",
            subject=str(path),
        ) from error
