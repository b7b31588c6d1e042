"""The rule of an election."""

from __future__ import annotations

import numpy as np
import pytest

from cryoden.metrics.electing import elect, paired_error

ORDER = ("gaussian", "wiener", "general", "own1", "fine_tuned")


@pytest.mark.parametrize(
    ("r2", "elected", "best"),
    [
        ({"gaussian": 0.20, "wiener": 0.30, "general": 0.40}, "general", "general"),
        ({"gaussian": 0.20, "wiener": 0.396, "general": 0.40}, "wiener", "general"),
        ({"gaussian": 0.20, "wiener": 0.394, "general": 0.40}, "general", "general"),
        ({"gaussian": 0.397, "wiener": 0.396, "fine_tuned": 0.40}, "gaussian", "fine_tuned"),
        ({"gaussian": None, "wiener": float("nan"), "general": -0.2}, "general", "general"),
        ({"own1": 0.4, "fine_tuned": 0.404, "general": 0.39}, "own1", "fine_tuned"),
    ],
)
def test_of_equally_good_ones_the_simplest_is_elected(r2: dict, elected: str, best: str) -> None:
    assert elect(r2, ORDER, 0.005) == (elected, best)


def test_without_a_margin_the_best_is_elected_and_of_equal_ones_the_simplest() -> None:
    assert elect({"gaussian": 0.3999, "wiener": 0.4, "general": 0.4}, ORDER, 0.0) == ("wiener", "wiener")


def test_nobody_is_elected_without_a_number_nor_who_is_not_in_the_order() -> None:
    assert elect({"gaussian": None, "wiener": float("nan"), "topaz": 0.5}, ORDER, 0.005) is None


def test_the_error_of_a_difference_is_that_of_pairs() -> None:
    rng = np.random.default_rng(1)
    first, common = rng.normal(size=50) * 0.01, rng.normal(size=50)
    error = paired_error(list(common + first), list(common))
    assert error == pytest.approx(first.std(ddof=1) / np.sqrt(50))
    assert paired_error([0.3], [0.2]) is None
    assert paired_error([0.3, None, 0.4], [0.2, 0.1, None]) is None
