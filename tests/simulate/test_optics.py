"""Optics against published numbers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate

from cryoden.movies.dose_weighting import critical_exposure
from cryoden.simulate.optics import Optics, fading, interaction_parameter, wavelength


@pytest.mark.parametrize(("voltage", "expected"), [(100.0, 0.037014), (200.0, 0.025079), (300.0, 0.019687)])
def test_wavelengths_of_the_textbooks(voltage: float, expected: float) -> None:
    assert wavelength(voltage) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("voltage", "expected"), [(100.0, 0.9244e-3), (200.0, 0.7288e-3), (300.0, 0.6526e-3)])
def test_interaction_parameters_of_kirkland(voltage: float, expected: float) -> None:
    assert interaction_parameter(voltage) == pytest.approx(expected, rel=2e-4)


def test_ctf_is_dark_protein_at_low_frequencies_and_zero_where_it_must_be() -> None:
    optics = Optics(300.0, 0.0, 0.0, 15000.0)
    zeros = np.sqrt(np.arange(1, 8) / (wavelength(300.0) * 15000.0))  # pi lambda z k^2 = n pi without Cs
    np.testing.assert_allclose(optics.ctf(zeros), 0, atol=1e-9)
    assert optics.ctf(np.array(0.3 * zeros[0])) < 0
    assert Optics(300.0, 2.7, 0.1, 15000.0).ctf(np.array(0.0)) == pytest.approx(-0.1)


def test_spherical_aberration_works_against_underfocus() -> None:
    k = np.array(0.2)
    lam = wavelength(300.0)
    phase = np.pi * lam * 0.04 * 15000 - np.pi / 2 * 2.7e7 * lam**3 * 0.2**4
    assert Optics(300.0, 2.7, 0.0, 15000.0).ctf(k) == pytest.approx(-np.sin(phase), rel=1e-9)


def test_fading_is_the_mean_over_the_frame() -> None:
    k = np.array([0.05, 0.3])
    expected = [
        scipy.integrate.quad(lambda n, r=rate: np.exp(-n * r), 5.0, 7.0)[0] / 2
        for rate in 0.5 / critical_exposure(k, 300.0)
    ]
    np.testing.assert_allclose(fading(k, 300.0, 5.0, 2.0), expected, rtol=1e-9)
    assert fading(np.zeros(1), 300.0, 5.0, 2.0) == pytest.approx(1)
