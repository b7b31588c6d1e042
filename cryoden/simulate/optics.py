"""How a microscope turns a specimen into expected electrons: wavelength, contrast transfer, damage, blur.

Frequencies `k` are in 1/A, lengths in A, angles in radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.constants as nature

from cryoden.movies.dose_weighting import critical_exposure


def wavelength(voltage: float) -> float:
    """Return the wavelength in A of electrons of `voltage` kV, relativistic: h / sqrt(2 m e U (1 + e U / 2 m c^2))."""
    energy = nature.e * voltage * 1e3
    momentum = np.sqrt(2 * nature.m_e * energy * (1 + energy / (2 * nature.m_e * nature.c**2)))
    return float(nature.h / momentum * 1e10)


def interaction_parameter(voltage: float) -> float:
    """Return the phase shift in rad per V A of projected potential: 2 pi m e lambda / h^2 with the relativistic mass.

    Source: Kirkland, Advanced Computing in Electron Microscopy (2010), eq. 5.6; 0.6526 mrad/(V A) at 300 kV.
    """
    mass = nature.m_e * (1 + nature.e * voltage * 1e3 / (nature.m_e * nature.c**2))
    return float(2 * np.pi * mass * nature.e * wavelength(voltage) * 1e-10 / nature.h**2 * 1e-10)


@dataclass(frozen=True)
class Optics:
    """The objective lens and its focus.

    Attributes
    ----------
    voltage
        kV.
    spherical_aberration
        mm.
    amplitude_contrast
        0 to 1.
    defocus
        Underfocus in A.
    """

    voltage: float
    spherical_aberration: float
    amplitude_contrast: float
    defocus: float

    def ctf(self, k: np.ndarray) -> np.ndarray:
        """Return the contrast transfer at frequencies `k`; negative at low ones in underfocus: protein is dark.

        Source: Rohou & Grigorieff (2015) J. Struct. Biol. 192, 216-221, eqs. 2-3, without astigmatism.
        """
        lam = wavelength(self.voltage)
        k2 = np.square(k)
        phase = np.pi * lam * k2 * (self.defocus - 0.5 * lam**2 * k2 * self.spherical_aberration * 1e7)
        return -np.sin(phase + np.arcsin(self.amplitude_contrast))


def detection_blur(k: np.ndarray, deviation_A: float) -> np.ndarray:
    """Return the transfer of a detector that counts electrons near the place that they hit.

    The transform of a two-dimensional Gaussian, exp(-2 (pi s k)^2).

    Parameters
    ----------
    k
        1/A.
    deviation_A
        Standard deviation s of the distance along each axis.
    """
    return np.exp(-2 * np.square(np.pi * deviation_A * k))


def fading(k: np.ndarray, voltage: float, before: float, exposure: float) -> np.ndarray:
    """Return the mean of exp(-N / 2 Nc(k)) while the exposure N goes from `before` on by `exposure` (e/A^2).

    Source: Grant & Grigorieff (2015) eLife 4, e06980, eqs. 3 and 5; Nc is the critical exposure.
    """
    rate = np.maximum(1 / (2 * critical_exposure(k, voltage)), 1e-12)  # nothing fades at k = 0
    return np.exp(-rate * before) * -np.expm1(-rate * exposure) / (rate * exposure)
