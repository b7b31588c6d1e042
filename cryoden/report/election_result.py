"""What an election found: every candidate with its R2, which one was elected, and why (election.json, election.txt)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Mapping, Optional, Tuple

from cryoden.errors import COMMAND_LINE, FileError, Problem, Words
from cryoden.formats import outputs
from cryoden.formats.files import PathLike, read_json, whole_file, write_json
from cryoden.formats.typed_json import of_json, to_json
from cryoden.report.evaluation_table import Number
from cryoden.report.tables import with_error
from cryoden.wording import counted

HOW_SIMPLE = "Gaussian, Wiener, the general model, your own models, the fine-tuned model"
"""Candidates from the simplest to the one that takes most."""

DIGITS = 3
"""Of R2 in sentences and tables."""


@dataclass(frozen=True)
class CandidateResult:
    """One candidate.

    Attributes
    ----------
    key, label
        Short name, as in the table of the evaluation; name for people.
    place
        Among all that can be elected, from 1, the simplest; None of another program's, which cannot.
    r2, r2_corr
        On the held-out halves, in the score band; None where it was not measured.
    behind
        By how much its R2 is below the best one's; the error is that of the differences micrograph by micrograph.
    problem
        Why it did not take part.
    """

    key: str
    label: str
    place: Optional[int]
    r2: Optional[Number] = None
    r2_corr: Optional[Number] = None
    behind: Optional[Number] = None
    problem: Optional[Problem] = None

    @property
    def value(self) -> Optional[float]:
        """R2; None where there is no number."""
        return self.r2.value if self.r2 is not None else None


@dataclass(frozen=True)
class Election:
    """An election and what it rests on.

    Attributes
    ----------
    band
        Name of the score band, in A.
    sampling_rate
        A/px at which the candidates were compared.
    margin
        Difference of R2 below which candidates count as equally good.
    held_out, fitted_on
        Names of the micrographs that the candidates were measured on, and of those that the filters were fitted on. A
        single one is in both: its rows were divided.
    candidates
        The simplest first; then those of other programs.
    elected, best
        Keys of the elected one, and of the one of ours with the highest R2.
    outsider
        Key of another program's denoiser that is better than ours; None where there is none.
    failures
        Micrographs and models that were left out, and why.
    warnings
        What limits the numbers, in sentences.
    """

    band: str
    sampling_rate: float
    margin: float
    held_out: Tuple[str, ...]
    fitted_on: Tuple[str, ...]
    candidates: Tuple[CandidateResult, ...]
    elected: str
    best: str
    outsider: Optional[str] = None
    failures: Mapping[str, Problem] = field(default_factory=dict)
    warnings: Tuple[str, ...] = ()

    def candidate(self, key: str) -> CandidateResult:
        """Return the candidate of a key."""
        return next(candidate for candidate in self.candidates if candidate.key == key)

    @property
    def winner(self) -> CandidateResult:
        """The elected candidate."""
        return self.candidate(self.elected)

    def headline(self) -> str:
        """Return who was elected, with its R2 and that of all others, the best first."""
        others = [c for c in self.candidates if c.value is not None and c.key != self.elected]
        others.sort(key=lambda candidate: -(candidate.value or 0.0))
        said = "; ".join(f"{candidate.label} {with_error(candidate.r2, DIGITS)}" for candidate in others)
        first = f"{_capital(self.winner.label)} elected: R2 {with_error(self.winner.r2, DIGITS)}"
        return f"{first}; {said}." if said else f"{first}."

    def reasons(self) -> List[str]:
        """Return in sentences why it is this one, where it is not simply the best."""
        sentences = []
        if self.elected != self.best:
            best = self.candidate(self.best)
            sentences.append(
                f"{_capital(best.label)} has R2 {with_error(best.r2, DIGITS)}, but less than {self.margin:g} more: of "
                "equally good ones the simplest is taken."
            )
        if self.outsider is not None:
            other = self.candidate(self.outsider)
            sentences.append(
                f"{other.label} is better on these micrographs (R2 {with_error(other.r2, DIGITS)}), but is another "
                "program's and cannot be written as a model: the best of the others is."
            )
        return sentences

    def basis(self) -> str:
        """Return in a sentence what the numbers rest on."""
        if self.held_out == self.fitted_on:
            where = f"on the last rows of '{self.held_out[0]}', the others of which the filters were fitted on"
        else:
            where = (
                f"on {counted(len(self.held_out), 'micrograph')} that no candidate was trained or fitted on; the "
                f"filters come from {counted(len(self.fitted_on), 'other')}"
            )
        return f"R2 between {self.band.replace('-', ' and ')} Å at {self.sampling_rate:.3g} Å/px {where}."

    def lines(self, words: Words = COMMAND_LINE) -> List[str]:
        """Return the table as text, the simplest candidate first; and why others are not in it."""
        rows: List[Tuple[str, ...]] = [("", "R2", "R2_corr", "below the best")]
        for candidate in self.candidates:
            if candidate.problem is None:
                mark = "* " if candidate.key == self.elected else "  "
                numbers = [candidate.r2, candidate.r2_corr, candidate.behind]
                rows.append((mark + candidate.label, *(with_error(number, DIGITS) for number in numbers)))
        width = max(len(row[0]) for row in rows)
        lines = [f"{row[0]:{width}}{row[1]:>18}{row[2]:>18}{row[3]:>18}".rstrip() for row in rows]
        left_out = [candidate for candidate in self.candidates if candidate.problem is not None]
        return lines + [f"  {c.label} took no part: {c.problem.text(words)}" for c in left_out if c.problem]

    def to_dict(self) -> Mapping[str, Any]:
        """Return the content of election.json."""
        return to_json(self)


def write_election(folder: PathLike, election: Election) -> None:
    """Write election.json, and the same to read in election.txt."""
    write_json(Path(folder) / outputs.ELECTION, election.to_dict())
    lines = [
        election.headline(), *election.reasons(), "", *election.lines(), "", election.basis(),
        f"Of candidates whose R2 is less than {election.margin:g} below the best one's the simplest is elected, in "
        f"this order: {HOW_SIMPLE}.",
        *(f"Warning: {warning}" for warning in election.warnings),
    ]  # fmt: skip
    with whole_file(Path(folder) / outputs.ELECTION_TEXT) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_election(folder: PathLike) -> Election:
    """Read the election.json of a folder.

    Raises
    ------
    FileError
        If it is missing or damaged.
    """
    path = Path(folder) / outputs.ELECTION
    try:
        return of_json(Election, read_json(path))
    except ValueError as error:
        raise FileError(f"{path} is no result of an election ({error}). Elect again.", subject=str(path)) from error


def _capital(label: str) -> str:
    return label[:1].upper() + label[1:]
