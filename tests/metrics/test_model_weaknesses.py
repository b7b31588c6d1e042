"""What speaks against a model, rule by rule, from what its file says of its training."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

import pytest

from cryoden.formats.model_file import ModelCard
from cryoden.metrics.model_weaknesses import FEWEST_STEPS, weaknesses, worse_than_filter

GOOD: Dict[str, Any] = {
    "r2": 0.4, "r2_error": 0.02, "r2_before": 0.395, "wiener_r2": 0.3, "epoch": 20, "step": 2000, "seconds": 600.0,
    "pattern_share": None, "options": {"epochs": 20, "minutes": None, "from_model": None},
}  # fmt: skip


def said(options: Optional[Dict[str, Any]] = None, network: str = "unet", **training: Any) -> List[str]:
    """Return the sentences about a good model of which something is otherwise."""
    facts = {**GOOD, **training, "options": {**GOOD["options"], **(options or {})}}
    return [problem.text() for problem in weaknesses(ModelCard(network, (8, 16), 4.0, {}, facts))]


def test_a_good_model_has_none() -> None:
    assert said() == []


def test_hardly_trained() -> None:
    assert said(step=24) == ["This model is hardly trained (24 steps): train longer."]
    assert said(step=1) == ["This model is hardly trained (1 step): train longer."]
    assert said(step=FEWEST_STEPS) == []
    assert said({"from_model": "old.safetensors"}, step=24) == []  # what it knew before is not counted


def test_worse_than_a_filter() -> None:
    assert said(r2=0.2, r2_before=0.2) == [
        "This model is worse than a linear filter (R2 0.200, a Wiener filter 0.300): train longer."
    ]
    assert said(r2=0.3, r2_before=0.3) == []
    assert worse_than_filter("It", None, 0.3) == worse_than_filter("It", 0.3, None) == []


@pytest.mark.parametrize(
    ("options", "training", "is_last"),
    [
        ({}, {}, True),
        ({"epochs": 30}, {}, False),  # the best epoch was not the last, or the training was stopped
        ({"minutes": 10.0}, {}, True),
        ({"minutes": 11.0}, {}, False),
    ],
)
def test_still_rising_at_the_end(options: Dict[str, Any], training: Dict[str, Any], is_last: bool) -> None:
    sentences = [
        "This model was still becoming better when its training ended: R2 rose by 0.050 in the last epoch, more than "
        "its standard error of 0.020. Train longer."
    ]
    assert said(options, r2_before=0.35, **training) == (sentences if is_last else [])
    assert said(options, r2_before=0.39) == []  # by less than the error
    assert said(options, r2_before=None) == []  # the only epoch


def test_fixed_pattern() -> None:
    (sentence,) = said(pattern_share=0.31)
    assert sentence.startswith("This model was trained on halves with a fixed pattern. 31% of the fine detail")


def test_each_is_said() -> None:
    assert len(said(r2=0.2, r2_before=0.1, step=24, pattern_share=0.5)) == 4


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"step": 2000, "epoch": 20, "r2": 0.1, "seconds": 3.0, "options": {"epochs": 20}},  # as of 0.1
        {"width_A": 12.0},
        {"step": "24", "r2": True, "wiener_r2": "0.9", "options": [], "pattern_share": float("nan")},
    ],
)
def test_what_a_file_does_not_say_is_not_guessed(training: Dict[str, Any]) -> None:
    assert weaknesses(ModelCard("unet", (8, 16), 4.0, {}, training)) == []


def test_a_model_of_0_1_that_is_hardly_trained() -> None:
    card = ModelCard("cnn3", (), 4.0, {}, {"step": 24, "epoch": 3, "r2": 0.1, "options": {"epochs": 3}}, "0.1.0")
    assert [problem.text() for problem in weaknesses(card)] == [
        "This model is hardly trained (24 steps): train longer."
    ]
