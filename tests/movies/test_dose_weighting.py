from __future__ import annotations

import numpy as np
import pytest

from cryoden.movies.dose_weighting import critical_exposure, doses_at_end, exposure_weight


@pytest.mark.parametrize(("resolution_A", "expected"), [(3.0, 4.3357), (10.0, 14.1388), (20.0, 38.7331)])
def test_published_formula_at_300_kv(resolution_A: float, expected: float) -> None:
    """0.245 k^-1.665 + 2.81, calculated independently (Grant & Grigorieff 2015, equation 3)."""
    assert critical_exposure(np.array([1 / resolution_A]))[0] == pytest.approx(expected, rel=1e-3)


def test_low_frequencies_never_fade() -> None:
    critical = critical_exposure(np.array([0.0]))
    assert critical[0] == np.inf
    assert exposure_weight(critical, 100.0)[0] == 1.0


def test_voltages_are_rescaled() -> None:
    k = np.array([0.1])
    # 0.8 at 200 kV is the published program's factor
    assert critical_exposure(k, 200.0)[0] / critical_exposure(k, 300.0)[0] == pytest.approx(0.80, abs=0.005)
    assert critical_exposure(k, 100.0)[0] / critical_exposure(k, 300.0)[0] == pytest.approx(0.50, abs=0.005)


def test_weight_is_the_amplitude_left_by_half_the_critical_exposure() -> None:
    assert exposure_weight(np.array([5.0], np.float32), 10.0)[0] == pytest.approx(np.exp(-1.0), rel=1e-6)


def test_doses_are_those_at_the_end_of_each_frame() -> None:
    np.testing.assert_allclose(doses_at_end([0, 1, 4], 1.5, initial_dose=2.0), [3.5, 5.0, 9.5])
