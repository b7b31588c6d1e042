"""What speaks against a model: said by the training that made it, before it denoises, and in its evaluation.

The rules stand here once. They need what a model file says of its training; files of version 0.1 say less, so of them
less is known, and nothing is guessed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, List, Mapping, Optional

from cryoden.config.shared import NOTHING
from cryoden.errors import Problem, Remedy
from cryoden.formats.model_file import ModelCard
from cryoden.wording import counted

KIND = "weak_model"
"""Of these problems."""

NOT_MEASURED = Problem(
    "not_measured",
    "How good it is on these micrographs is not measured: that takes their halves.",
    remedy=Remedy("measure"),
)
"""What is to be said of the general model where it denoises."""

FEWEST_STEPS = 200
"""Twice what the moving average of the weights remembers by default: with fewer, random first weights shine through."""


@dataclass(frozen=True)
class TrainingFacts:
    """What is known of the training that a model came from; None where its file does not say it.

    Attributes
    ----------
    n_steps
        Optimisation steps until this model.
    is_fine_tuned
        Whether it began with the weights of another model.
    is_of_last_epoch
        Whether the training was over with the epoch of this model.
    r2, r2_error
        On held-out micrographs, with its standard error.
    r2_before
        That of the epoch before.
    wiener_r2
        What a Wiener filter reaches on the same micrographs.
    pattern_share
        Share of the fine detail common to halves that all micrographs share, where that is a fixed pattern.
    """

    n_steps: Optional[float] = None
    is_fine_tuned: bool = False
    is_of_last_epoch: bool = False
    r2: Optional[float] = None
    r2_error: Optional[float] = None
    r2_before: Optional[float] = None
    wiener_r2: Optional[float] = None
    pattern_share: Optional[float] = None

    @classmethod
    def of_card(cls, card: ModelCard) -> TrainingFacts:
        """Return what a model file says, of any version and from whatever hand."""
        training = card.training
        options = training.get("options")
        options = options if isinstance(options, dict) else {}
        epoch, seconds = _number(training, "epoch"), _number(training, "seconds")
        n_epochs, minutes = _number(options, "epochs"), _number(options, "minutes")
        if minutes is not None:
            is_last = seconds is not None and seconds >= 60 * minutes
        else:
            is_last = epoch is not None and n_epochs is not None and epoch >= n_epochs
        return cls(
            n_steps=_number(training, "step"),
            is_fine_tuned=options.get("from_model") not in (None, NOTHING),
            is_of_last_epoch=is_last,
            pattern_share=_number(training, "pattern_share"),
            **{name: _number(training, name) for name in ("r2", "r2_error", "r2_before", "wiener_r2")},
        )


def weaknesses(card: ModelCard) -> List[Problem]:
    """Return everything that speaks against a model, in sentences; nothing for a linear filter."""
    facts = TrainingFacts.of_card(card)
    return training_weaknesses(card) + worse_than_filter("This model", facts.r2, facts.wiener_r2)


def training_weaknesses(card: ModelCard, what: str = "This model") -> List[Problem]:
    """Return what speaks against the training of a model, whatever was measured of it since.

    Parameters
    ----------
    card
        Of the model.
    what
        How it is called.
    """
    facts = TrainingFacts.of_card(card)
    found: List[str] = []
    if facts.n_steps is not None and facts.n_steps < FEWEST_STEPS and not facts.is_fine_tuned:
        found.append(f"{what} is hardly trained ({counted(int(facts.n_steps), 'step')}): train longer.")

    if facts.is_of_last_epoch and None not in (facts.r2, facts.r2_error, facts.r2_before):
        rise = (facts.r2 or 0.0) - (facts.r2_before or 0.0)
        if rise > (facts.r2_error or 0.0):
            found.append(
                f"{what} was still becoming better when its training ended: R2 rose by {rise:.3f} in the last epoch, "
                f"more than its standard error of {facts.r2_error:.3f}. Train longer."
            )

    if facts.pattern_share is not None:
        found.append(f"{what} was trained on halves with a fixed pattern. {pattern_sentence(facts.pattern_share)}")
    return [Problem(KIND, message) for message in found]


def worse_than_filter(what: str, r2: Optional[float], wiener_r2: Optional[float]) -> List[Problem]:
    """Return a sentence where a model explains less of the signal than a Wiener filter on the same micrographs."""
    if r2 is None or wiener_r2 is None or r2 >= wiener_r2:
        return []
    return [
        Problem(
            KIND, f"{what} is worse than a linear filter (R2 {r2:.3f}, a Wiener filter {wiener_r2:.3f}): train longer."
        )
    ]


def pattern_sentence(share: float) -> str:
    """Return what a fixed pattern of halves means for a model that learns from them."""
    return (
        f"{share:.0%} of the fine detail that halves have in common is the same in all micrographs, such as hot pixels "
        "or a wrong gain. A network learns it as signal, and R2 counts it. Split the movies again with the right gain "
        "reference and with hot pixels replaced."
    )


def _number(values: Mapping[str, Any], name: str) -> Optional[float]:
    """Return a number of a file, None where it is none."""
    value = values.get(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None
