"""Which micrographs an election is decided on, and which ones its candidates may learn from: without a common pixel."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from cryoden.data.pair_reader import load_pair
from cryoden.data.pairs import HalfPair, hold_out, too_small
from cryoden.errors import PairError, Problem, because, problem_of
from cryoden.evaluation.contenders import unseen_rows
from cryoden.formats.model_file import ModelCard
from cryoden.formats.progress_log import write_above_bar
from cryoden.metrics.ring_covariance import RingCovariance, ring_covariance
from cryoden.system.progress import ProgressDisplay
from cryoden.wording import counted

log = logging.getLogger(__name__)

WHOLE = (0.0, 1.0)

FEWEST_FOR_ERRORS = 2
"""Micrographs from which an error can be estimated."""


@dataclass(frozen=True)
class Division:
    """The micrographs of an election.

    Attributes
    ----------
    fitting
        What candidates may learn from; the rows of a single micrograph.
    held_out
        What they are measured on; the other rows of a single micrograph.
    """

    fitting: List[HalfPair]
    held_out: List[HalfPair]

    @property
    def is_of_rows(self) -> bool:
        """Whether one micrograph was divided."""
        return self.fitting[0].name == self.held_out[0].name

    @property
    def unseen(self) -> Dict[str, Tuple[float, float]]:
        """Rows that nothing was fitted on, as a model's card says them: shares of the height."""
        return {pair.name: pair.rows_share for pair in self.held_out}


def ignorant_models(pairs: Sequence[HalfPair], cards: Sequence[ModelCard]) -> List[bool]:
    """Return of each model whether it can be elected by these micrographs: it, and those before it, know not all rows.

    Parameters
    ----------
    pairs
        All micrographs.
    cards
        Of the models, which say what they were trained on.
    """
    kept: List[ModelCard] = []
    verdicts = []
    for card in cards:
        verdicts.append(any(_has_rows(unseen_rows([*kept, card], pair.name)) for pair in pairs))
        if verdicts[-1]:
            kept.append(card)
    return verdicts


def divide(
    pairs: Sequence[HalfPair], cards: Sequence[ModelCard], fraction: float, at_most: int, rng: np.random.Generator
) -> Division:
    """Divide micrographs at random, so that nothing is held out that a model was trained on.

    Parameters
    ----------
    pairs
        Usable ones.
    cards
        Of the models that are candidates.
    fraction
        Of the micrographs to hold out; at least one, of four or more at least two.
    at_most
        So many are held out.
    rng
        Chooses them.

    Raises
    ------
    PairError
        If nothing is left to be held out, or it is too small.
    """
    if len(pairs) == 1:
        division = Division(*hold_out(list(pairs), fraction, rng))
        known = unseen_rows(cards, pairs[0].name) or (1.0, 1.0)
        first, last = max(known[0], division.held_out[0].rows_share[0]), known[1]
        rows = round(first * pairs[0].shape[0]), round(last * pairs[0].shape[0])
        division = Division(division.fitting, [replace(pairs[0], rows=rows)])
        _require_room(division)
        return division

    unseen = {pair.name: unseen_rows(cards, pair.name) for pair in pairs}
    whole = [pair for pair in pairs if unseen[pair.name] == WHOLE]
    eligible = whole or [pair for pair in pairs if _has_rows(unseen[pair.name])]
    if not eligible:
        raise PairError(
            f"The models were trained on all of these {counted(len(pairs), 'micrograph')}: nothing is left to measure "
            "them on. Give more micrographs, or leave out a model.",
            subject=pairs[0].name,
        )
    # One micrograph says nothing of how much micrographs differ: of four or more, two are the least.
    least = min(FEWEST_FOR_ERRORS, len(pairs) // 2)
    n_held_out = min(len(pairs) - 1, len(eligible), at_most, max(least, round(fraction * len(pairs))))
    chosen = {eligible[i].name for i in rng.choice(len(eligible), n_held_out, replace=False)}
    division = Division(
        [pair for pair in pairs if pair.name not in chosen], [pair for pair in pairs if pair.name in chosen]
    )
    _require_room(division)
    return division


def divided_as_before(pairs: Sequence[HalfPair], fitting: Sequence[str], held_out: Sequence[str]) -> Division:
    """Return the division that an election began with, by the names of its micrographs; those that are gone are not in.

    Raises
    ------
    PairError
        If nothing of one part is left.
    """
    parts = [[pair for pair in pairs if pair.name in set(names)] for names in (fitting, held_out)]
    if not all(parts):
        raise PairError("The micrographs with which this election began are gone; elect anew.")
    if list(fitting) == list(held_out):
        return Division(*hold_out(parts[0], 0.5, np.random.default_rng()))
    return Division(*parts)


def read_covariances(
    pairs: Sequence[HalfPair], n_wanted: Optional[int], failures: Dict[str, Problem], title: str
) -> Dict[str, RingCovariance]:
    """Return micrograph -> covariances per ring of its halves, of the first ones that can be used.

    Parameters
    ----------
    pairs
        In the order in which they are tried.
    n_wanted
        So many are enough.
    failures
        Gets those that cannot be used, and why.
    title
        Of what is shown.
    """
    covariances: Dict[str, RingCovariance] = {}
    n_wanted = min(len(pairs), n_wanted or len(pairs))
    with ProgressDisplay(title) as display:
        for pair in pairs:
            if len(covariances) >= n_wanted:
                break
            display.update(len(covariances) / n_wanted, f"{len(covariances)} of {counted(n_wanted, 'micrograph')}")
            try:
                small = too_small(f"'{pair.name}'", pair.used_shape)
                if small:
                    raise PairError(f"{small} Leave it out.", subject=pair.name)
                halves = load_pair(pair).halves.float().numpy()
                covariances[pair.name] = ring_covariance(list(halves), pair.sampling_rate)
            except Exception as error:  # one bad micrograph never ends a list
                failures[pair.name] = problem_of(error, pair.name)
                write_above_bar(f"Left out: {failures[pair.name]}")
    return covariances


def require_some(covariances: Dict[str, RingCovariance], failures: Dict[str, Problem]) -> None:
    """Refuse to elect by nothing; raises PairError."""
    if not covariances:
        raise because(PairError, "No micrograph can be used to elect by", next(iter(failures.values())))


def _require_room(division: Division) -> None:
    for what, pairs in (("the part that is held out", division.held_out), ("the rest", division.fitting)):
        for pair in pairs if division.is_of_rows else ():
            small = too_small(f"'{pair.name}' is too small to elect by: {what}", pair.used_shape)
            if small:
                raise PairError(f"{small} Give more or larger micrographs.", subject=pair.name)


def _has_rows(rows: Optional[Tuple[float, float]]) -> bool:
    return rows is not None and rows[1] > rows[0]
