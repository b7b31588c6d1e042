"""Weights that fade out at the edges."""

from __future__ import annotations

import numpy as np
import pytest

from cryoden.movies.taper import taper


@pytest.mark.parametrize("size", [1, 2, 7, 96])
@pytest.mark.parametrize("share", [1 / 24, 1 / 8, 1 / 2])
def test_weights_rise_from_the_edges_to_1(size: int, share: float) -> None:
    weights = taper(size, share)
    np.testing.assert_array_equal(weights, weights[::-1])
    half = weights[: (size + 1) // 2]
    assert (np.diff(half) >= 0).all()
    assert 0 < half[0] <= half[-1] <= 1


def test_only_a_share_is_less_than_1() -> None:
    np.testing.assert_array_equal(taper(96, 1 / 8) < 1, np.minimum(np.arange(96), np.arange(96)[::-1]) < 12)
