"""What was measured of each micrograph, as a file of its own in the evaluation's folder; no pickle."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ContextManager, Dict

import numpy as np

from cryoden.formats import outputs
from cryoden.formats.arrays import opened_arrays, write_arrays
from cryoden.formats.files import PathLike
from cryoden.metrics.measurement import Measurement
from cryoden.metrics.ring_covariance import RingCovariance

PLAIN_FIELDS = (
    "name", "is_seen", "shape", "sampling_rate", "data_range", "positive_share", "thumbnails", "ssim", "ssim_reference",
    "has_truth",
)  # fmt: skip
"""Fields of a measurement that are written as they are."""


def measurement_path(folder: PathLike, name: str) -> Path:
    """Return where the measurement of a micrograph lies in an evaluation's folder."""
    return Path(folder) / outputs.MEASUREMENTS / f"{name}.npz"


def save_measurement(path: PathLike, measurement: Measurement) -> None:
    """Write a measurement as an npz file, whole or not at all."""
    arrays: Dict[str, Any] = {name: getattr(measurement, name) for name in PLAIN_FIELDS}
    arrays["ring_frequency"], arrays["ring_matrices"] = measurement.rings.frequency, measurement.rings.matrices
    arrays["n_noise_rings"] = len(measurement.noise_rings)
    for number, rings in enumerate(measurement.noise_rings):
        arrays[f"noise{number}_frequency"], arrays[f"noise{number}_matrices"] = rings.frequency, rings.matrices
    arrays["cuts"] = measurement.load_cuts()
    write_arrays(path, arrays)


def load_measurement(path: PathLike) -> Measurement:
    """Read what `save_measurement` wrote; the cut-outs are read when they are asked for.

    Raises
    ------
    FileError
        If the file is missing or damaged.
    """
    with _opened(path) as file:
        noise_rings = tuple(
            RingCovariance(file[f"noise{number}_frequency"], file[f"noise{number}_matrices"])
            for number in range(int(file["n_noise_rings"]))
        )

        return Measurement(
            name=str(file["name"]),
            is_seen=bool(file["is_seen"]),
            shape=(int(file["shape"][0]), int(file["shape"][1])),
            sampling_rate=float(file["sampling_rate"]),
            data_range=float(file["data_range"]),
            positive_share=float(file["positive_share"]),
            rings=RingCovariance(file["ring_frequency"], file["ring_matrices"]),
            noise_rings=noise_rings,
            thumbnails=file["thumbnails"],
            ssim=file["ssim"],
            ssim_reference=(float(file["ssim_reference"][0]), float(file["ssim_reference"][1])),
            has_truth=bool(file["has_truth"]),
            load_cuts=partial(_load_cuts, path),
        )


def _load_cuts(path: PathLike) -> np.ndarray:
    with _opened(path) as file:
        return file["cuts"]


def _opened(path: PathLike) -> ContextManager[Any]:
    return opened_arrays(path, "remove it and evaluate again, which keeps all others")
