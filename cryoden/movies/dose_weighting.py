"""Exposure weighting: frames lose their fine detail to radiation damage and are weighted down accordingly.

Source: Grant & Grigorieff (2015) eLife 4:e06980, equations 3 and 5: the critical exposure at 300 kV is
0.245 k^-1.665 + 2.81 electrons per square Angstrom at the spatial frequency k (1/A).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

ELECTRON_REST_KEV = 510.99895
"""CODATA 2018."""


@dataclass(frozen=True)
class DoseWeighting:
    """What the weights of a movie's frames follow from.

    Attributes
    ----------
    doses
        Dose at the end of each summed frame, e/A^2.
    sampling_rate
        A/px.
    voltage
        kV.
    """

    doses: np.ndarray
    sampling_rate: float
    voltage: float = 300.0


def doses_at_end(frame_indices: Sequence[int], dose_per_frame: float, initial_dose: float = 0.0) -> np.ndarray:
    """Return the dose at the end of each frame (counted from 0 in the movie), e/A^2.

    Parameters
    ----------
    frame_indices
        Frames that are summed; those before them were exposed too.
    dose_per_frame
        e/A^2.
    initial_dose
        e/A^2 before the first frame of the movie.
    """
    return initial_dose + dose_per_frame * (np.asarray(frame_indices) + 1.0)


def critical_exposure(frequency: np.ndarray, voltage: float = 300.0) -> np.ndarray:
    """Return the dose in e/A^2 after which the signal's power at a frequency (1/A) is down to 1/e; infinite at 0.

    Other voltages are rescaled with the inelastic cross-section, which goes with 1 / v^2 of the electron: 0.80 at
    200 kV, as in the paper's program, 0.50 at 100 kV.
    """
    with np.errstate(divide="ignore"):
        at_300_kv = 0.245 * np.power(frequency, -1.665, where=frequency > 0, out=np.full_like(frequency, np.inf)) + 2.81
    return at_300_kv * (_squared_speed(voltage) / _squared_speed(300.0))


def exposure_weight(critical: np.ndarray, dose: float) -> np.ndarray:
    """Return the optimal weight of a frame, exp(-dose / (2 critical)), for each critical exposure."""
    return np.exp(np.float32(-0.5 * dose) / critical)


def _squared_speed(voltage: float) -> float:
    """Return (v / c)^2 of an electron accelerated by a voltage in kV."""
    gamma = 1 + voltage / ELECTRON_REST_KEV
    return 1 - 1 / gamma**2
