"""A finished evaluation, opened for those who draw it: its table, and what was measured on each micrograph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List

import numpy as np

from cryoden.formats import outputs
from cryoden.formats.files import PathLike
from cryoden.metrics.measurement import Measurement
from cryoden.metrics.ring_covariance import A
from cryoden.report.evaluation_table import EvaluationTable, Row, read_table
from cryoden.report.measurement_file import load_measurement, measurement_path

COLOURS = {"raw": "0.65", "gaussian": "tab:olive", "wiener": "tab:brown", "topaz": "tab:purple"}
NETWORK_COLOURS = ("tab:green", "tab:blue", "tab:orange", "tab:red", "tab:cyan", "tab:pink")


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation.

    Attributes
    ----------
    folder
        Where it lies.
    table
        Its metrics.json.
    """

    folder: Path
    table: EvaluationTable

    def rows(self) -> List[Row]:
        """Return the rows of denoisers that took part."""
        return self.table.rows

    def leader(self) -> Row:
        """Return the row that the report is about."""
        return self.table.leading_row

    def row_or_leader(self, key: str) -> Row:
        """Return the row of a key, and the one that the report is about where there is none."""
        return next((row for row in self.rows() if row.key == key), self.leader())

    def measurement(self, name: str) -> Measurement:
        """Return what was measured on one micrograph."""
        return load_measurement(measurement_path(self.folder, name))

    def colour(self, row: Row) -> str:
        """Return the colour in which a row is drawn everywhere."""
        return COLOURS.get(row.key) or NETWORK_COLOURS[(row.number or 0) % len(NETWORK_COLOURS)]


def read_evaluation(folder: PathLike) -> Evaluated:
    """Open the folder of an evaluation.

    Raises
    ------
    FileError
        If there is none.
    """
    return Evaluated(Path(folder), read_table(Path(folder) / outputs.METRICS))


def denoised_cut(row: Row, measurement: Measurement, half: int = A) -> np.ndarray:
    """Return the central cut-out of one half as a denoiser leaves it, float32."""
    if row.number is not None:
        return measurement.denoised_cuts(row.number)[half]
    assert row.filter is not None
    if (row.filter.gain == 1).all():
        return measurement.half_cuts()[half]
    return measurement.filtered_cuts(row.filter.frequency, row.filter.gain)[half]
