"""The words of Scipion's window for the denoiser's problems: fields and buttons instead of options."""

from cryoden.errors import Words

WAYS_ON = (
    "Set it back and Continue; or choose Restart, which deletes what this run has made and makes all again; or run a "
    "copy of it, which keeps both."
)

ACTIONS = {
    "set": "Fill in {option}.",
    "set_to": "Set {option} to {value}.",
    "change": "Change {option}.",
    "leave_out": "Leave {option} empty.",
    "other_folder": WAYS_ON,
    "overwrite": WAYS_ON,
    "resume": "Press Continue; or run a copy of it.",
    "continue": "Continue goes on from there; what is finished is kept.",
    "free_disk": "Free some space and Continue; what is finished is kept.",
}
"""What to do, for every action that a remedy of the denoiser can name."""


def formWords(labelOf):
    """Return how a form speaks of options and of what to do.

    Parameters
    ----------
    labelOf : callable
        Returns the label of an option's field, None where the form has no such field.
    """

    def called(option):
        label = labelOf(option)
        return f"*{label}*" if label else option.replace("_", " ")

    difference = "What this run has made so far was made with another value of {changes}."
    return Words(called, "{option}", difference, ACTIONS)
