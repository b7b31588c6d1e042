"""The words of Scipion's window for the denoiser's problems: fields and buttons instead of options."""

from __future__ import annotations

from typing import Callable, Optional

from cryoden.errors import CryodenError, Words

RESTART_OR_COPY = (
    "Set it back and Continue; or choose Restart, which deletes the results of this run and computes all again; or run "
    "a copy of it, which keeps both."
)

ACTIONS = {
    "set": "Fill in {option}.",
    "set_to": "Set {option} to {value}.",
    "change": "Change {option}.",
    "leave_out": "Leave {option} empty.",
    "other_folder": RESTART_OR_COPY,
    "overwrite": RESTART_OR_COPY,
    "resume": "Press Continue; or run a copy of it.",
    "continue": "Continue resumes from there; what is finished is kept.",
    "measure": "To measure it, run *evaluate denoiser* or *choose denoiser* on both halves.",
    "free_disk": "Free some space and Continue; what is finished is kept.",
}
"""What to do, for every action that a remedy of the denoiser can name."""

DIFFERENCE = "The results of this run so far were computed with another value of {changes}."


def formWords(labelOf: Callable[[str], Optional[str]]) -> Words:
    """Return how a form speaks of options and of what to do.

    Parameters
    ----------
    labelOf
        Returns the label of an option's field, None where the form has no such field.
    """

    def fieldName(option: str) -> str:
        label = labelOf(option)
        return f"*{label}*" if label else option.replace("_", " ")

    return Words(fieldName, "{option}", DIFFERENCE, ACTIONS)


def errorText(error: CryodenError, words: Words) -> str:
    """Return an error of the denoiser in a form's words."""
    return " ".join(problem.text(words) for problem in error.problems)
