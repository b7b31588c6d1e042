"""A finished evaluation, opened for those who draw it: its table, and what was measured on each micrograph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from cryoden.formats.files import PathLike, read_json
from cryoden.metrics.linear_filters import filter_image
from cryoden.metrics.measurement import Measurement, load_measurement, measurement_path
from cryoden.metrics.ring_covariance import A
from cryoden.report.tables import METRICS_NAME

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
        Content of its metrics.json.
    """

    folder: Path
    table: Dict[str, Any]

    def rows(self) -> List[Dict[str, Any]]:
        """Return the rows of denoisers that took part."""
        return [row for row in self.table["rows"] if row["bands"]]

    def leader(self) -> Dict[str, Any]:
        """Return the row that the report is about."""
        return next(row for row in self.rows() if row["key"] == self.table["leader"])

    def measurement(self, name: str) -> Measurement:
        """Return what was measured on one micrograph."""
        return load_measurement(measurement_path(self.folder, name))

    def colour(self, row: Dict[str, Any]) -> str:
        """Return the colour in which a row is drawn everywhere."""
        return COLOURS.get(row["key"]) or NETWORK_COLOURS[(row["number"] or 0) % len(NETWORK_COLOURS)]


def read_evaluation(folder: PathLike) -> Evaluated:
    """Open the folder of an evaluation.

    Raises
    ------
    FileError
        If there is none.
    """
    return Evaluated(Path(folder), read_json(Path(folder) / METRICS_NAME))


def denoised_cut(row: Dict[str, Any], measurement: Measurement, half: int = A) -> np.ndarray:
    """Return the central cut-out of one half as a denoiser leaves it, float32."""
    if row["number"] is not None:
        return measurement.cuts[2 + 2 * row["number"] + half].astype(np.float32)
    cut = measurement.cuts[half].astype(np.float32)
    if row["key"] == "raw":
        return cut
    frequency, gain = (np.array(row["filter"][key]) for key in ("frequency", "gain"))
    return filter_image(cut, measurement.sampling_rate, frequency, gain)
