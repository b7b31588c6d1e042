"""The picture of an election: R2 of every candidate, which one was elected, and by how much others are better."""

from __future__ import annotations

from typing import Any, List

import numpy as np
from matplotlib.figure import Figure

from cryoden.errors import COMMAND_LINE, Words
from cryoden.report.election_result import DIGITS, CandidateResult, Election
from cryoden.report.figures import plain
from cryoden.report.tables import with_error

ELECTION_INCHES = (11.0, 5.6)


def plot_election(figure: Figure, election: Election, words: Words = COMMAND_LINE) -> None:
    """Draw a bar for each candidate with its numbers beside it, the simplest on top; below, who took no part.

    Parameters
    ----------
    figure
        Empty.
    election
        What was found.
    words
        Of the front end, for what to do about those that took no part.
    """
    axes: Any = figure.subplots()
    shown = [candidate for candidate in election.candidates if candidate.value is not None]
    values = np.array([candidate.value for candidate in shown])
    errors = np.array([candidate.r2.error or 0.0 if candidate.r2 else 0.0 for candidate in shown])
    colours = ["tab:green" if c.key == election.elected else "0.6" if c.place else "tab:purple" for c in shown]
    rows = np.arange(len(shown))
    axes.barh(rows, values, 0.6, xerr=errors, color=colours, ecolor="0.2", capsize=3)
    axes.set_yticks(rows, [_name(candidate, election) for candidate in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)

    highest, lowest = max(0.0, float((values + errors).max())), min(0.0, float((values - errors).min()))
    for row, candidate in zip(rows, shown):
        axes.text(highest + 0.02 * (highest - lowest), row, _numbers(candidate, election), va="center", fontsize=9)
    axes.set_xlim(lowest * 1.05, highest + 0.75 * (highest - lowest))
    axes.axvline(0, color="k", lw=1)
    axes.set_xlabel(f"R2, {election.band} Å")
    axes.set_title(plain("\n".join([*election.reasons(), election.basis()])), fontsize=9, wrap=True)

    left_out: List[str] = [
        f"{candidate.label} took no part: {candidate.problem.text(words)}".replace("*", "")  # a window's bold
        for candidate in election.candidates
        if candidate.problem is not None
    ]
    figure.supxlabel(plain("\n".join(left_out)), fontsize=8, wrap=True)


def _name(candidate: CandidateResult, election: Election) -> str:
    return plain(f"{candidate.label} (elected)" if candidate.key == election.elected else candidate.label)


def _numbers(candidate: CandidateResult, election: Election) -> str:
    """Return R2 with its error, and how far below the best it is with the error of that difference."""
    r2 = with_error(candidate.r2, DIGITS)
    if candidate.key == election.best or candidate.behind is None:
        return r2
    return f"{r2}; below the best: {with_error(candidate.behind, DIGITS)}"
