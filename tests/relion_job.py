"""A finished motion correction as RELION 3.1.3 leaves it, written line by line without cryoden's own writers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

NOT_USED = (-9999.0, -9999.0)
TERMS = (lambda x, y: 1, lambda x, y: x, lambda x, y: x * x, lambda x, y: y, lambda x, y: y * y, lambda x, y: x * y)


def polynomial(coefficients: np.ndarray, z: float, x: np.ndarray, y: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return RELION's local shift in x and y, term by term; `coefficients` are its 36 numbers."""
    shifts = []
    for axis in coefficients.reshape(2, 6, 3):
        value = np.zeros(np.broadcast(x, y).shape)
        for (c0, c1, c2), term in zip(axis, TERMS):
            value = value + (c0 * z + c1 * z**2 + c2 * z**3) * term(x, y)
        shifts.append(value)
    return shifts[0], shifts[1]


def some_coefficients(seed: int = 5, size: float = 2.0, n_frames: int = 6) -> np.ndarray:
    """Return 36 numbers that move places by about `size` px until the last frame."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(2, 6, 3)) * size / np.array([n_frames, 3 * n_frames**2, 9 * n_frames**3])).ravel()


@dataclass
class MovieStar:
    """The STAR file about one movie.

    Attributes are named as in `cryoden.formats.relion_job.MovieCorrection`; shifts of all frames; `values` replaces or,
    as None, leaves out what stands in `data_general`.
    """

    movie: str
    shape: Tuple[int, int]
    shifts: Sequence[Tuple[float, float]]
    coefficients: Optional[np.ndarray] = None
    binning: float = 1.0
    rate: float = 1.5
    observed_scale: float = 1.0
    hot: Sequence[Tuple[int, int]] = ()
    values: Dict[str, Any] = field(default_factory=dict)
    has_observed: bool = True

    def text(self) -> str:
        """Return the file. `observed_scale` times the model is what the patches showed, in unbinned pixels."""
        used = [number for number, shift in enumerate(self.shifts, 1) if tuple(shift) != NOT_USED]
        general = {
            "rlnImageSizeX": self.shape[1], "rlnImageSizeY": self.shape[0], "rlnImageSizeZ": len(self.shifts),
            "rlnMicrographMovieName": self.movie, "rlnMicrographBinning": self.binning,
            "rlnMicrographOriginalPixelSize": self.rate, "rlnMicrographDoseRate": 1.0,
            "rlnMicrographPreExposure": 0.0, "rlnVoltage": 300.0, "rlnMicrographStartFrame": used[0] if used else 1,
            "rlnMotionModelVersion": 0 if self.coefficients is None else 1, **self.values,
        }  # fmt: skip
        lines = ["", "# version 30001", "", "data_general", ""]
        lines += [f"_{label}    {value}" for label, value in general.items() if value is not None]
        rows = [f"{number} {x:.6f} {y:.6f}" for number, (x, y) in enumerate(self.shifts, 1)]
        lines += _table(
            "global_shift", ["rlnMicrographFrameNumber", "rlnMicrographShiftX", "rlnMicrographShiftY"], rows
        )
        if self.coefficients is not None:
            rows = [f"{number} {value:.8g}" for number, value in enumerate(self.coefficients)]
            lines += _table("local_motion_model", ["rlnMotionModelCoeffsIdx", "rlnMotionModelCoeff"], rows)
        if self.hot:
            rows = [f"{column:.6f} {row:.6f}" for row, column in self.hot]
            lines += _table("hot_pixels", ["rlnCoordinateX", "rlnCoordinateY"], rows)
        if self.coefficients is not None and self.has_observed:
            lines += self._observed(used[0], used[-1], self.coefficients)
        return "\n".join(lines) + "\n"

    def _observed(self, first: int, last: int, coefficients: np.ndarray) -> List[str]:
        rows = []
        for y in np.linspace(0.1, 0.9, 5) * self.shape[0]:
            for x in np.linspace(0.1, 0.9, 5) * self.shape[1]:
                for frame in range(first, last + 1):
                    place = x / self.shape[1] - 0.5, y / self.shape[0] - 0.5
                    moved = polynomial(coefficients, frame - first + 0.5, *map(np.array, place))
                    shift_x, shift_y = (float(value) * self.binning * self.observed_scale for value in moved)
                    rows.append(f"{frame} {x:.6f} {y:.6f} {shift_x:.8f} {shift_y:.8f}")
        labels = ["rlnMicrographFrameNumber", "rlnCoordinateX", "rlnCoordinateY", "rlnMicrographShiftX",
                  "rlnMicrographShiftY"]  # fmt: skip
        return _table("local_shift", labels, rows)


def _table(name: str, labels: Sequence[str], rows: Sequence[str]) -> List[str]:
    return ["", f"data_{name}", "", "loop_", *(f"_{label} #{n}" for n, label in enumerate(labels, 1)), *rows, " "]


def write_job(
    project: Path, movies: Dict[str, MovieStar], groups: Sequence[int] = (), unweighted: bool = False
) -> Path:
    """Write a job into a project; return its table.

    Parameters
    ----------
    project
        Folder of the project.
    movies
        Name of the sum below the job's folder, without ending -> what is said of the movie.
    groups
        Optics group of each; by default, all are of one.
    unweighted
        Whether the job kept unweighted sums beside weighted ones.
    """
    job = project / "MotionCorr" / "job002"
    rows = []
    for number, (name, movie) in enumerate(movies.items()):
        path = job / f"{name}.star"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(movie.text())
        group = groups[number] if groups else 1
        row = f"MotionCorr/job002/{name}.mrc MotionCorr/job002/{name}.star {group} 12.5"
        rows.append(f"MotionCorr/job002/{name}_noDW.mrc {row}" if unweighted else row)
    labels = ["rlnMicrographName", "rlnMicrographMetadata", "rlnOpticsGroup", "rlnAccumMotionTotal"]
    optics = [f"group{n} {n} {1.5 if n == 1 else 1.2} {300.0 if n == 1 else 200.0} 2.7 0.1 3.0"
              for n in sorted(set(groups) or {1})]  # fmt: skip
    optics_labels = ["rlnOpticsGroupName", "rlnOpticsGroup", "rlnMicrographOriginalPixelSize", "rlnVoltage",
                     "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnMicrographPixelSize"]  # fmt: skip
    text = _table("optics", optics_labels, optics)
    text += _table("micrographs", (["rlnMicrographNameNoDW"] if unweighted else []) + labels, rows)
    job.mkdir(parents=True, exist_ok=True)
    (job / "corrected_micrographs.star").write_text("\n".join(text) + "\n")
    return job / "corrected_micrographs.star"
