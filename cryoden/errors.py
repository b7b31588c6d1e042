"""Errors that a user can mend, as data: what kind, what about, what happened, what to do.

A sentence here names no option and no button. Whoever shows an error (the command line, a form of Scipion) puts what to
do into its own words: see `Words`.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any, Callable, ClassVar, Dict, Mapping, Optional, Sequence, Tuple, Type, TypeVar

from cryoden.wording import counted


@dataclass(frozen=True)
class Remedy:
    """What to do about a problem.

    Attributes
    ----------
    action
        A key of `COMMAND_LINE.actions`; every front end has words for each.
    option
        Field of the command's configuration that it concerns.
    value
        What the option should be.
    """

    action: str
    option: Optional[str] = None
    value: Optional[str] = None


@dataclass(frozen=True)
class Words:
    """How a front end speaks of options and of what to do.

    Attributes
    ----------
    option
        Returns what an option is called, from its field's name.
    subject
        How a sentence about an option begins; `{option}` stands for its name.
    difference
        Sentence about options that had other values, named in `{changes}`.
    actions
        Action of a remedy -> sentence, with `{option}` and `{value}`.
    """

    option: Callable[[str], str]
    subject: str
    difference: str
    actions: Mapping[str, str]

    def change(self, difference: Tuple[str, Tuple[Any, Any]]) -> str:
        """Return in a few words how an option differs; of values that are long or paths, only that they do."""
        name, values = difference
        then, now = map(said_value, values)
        return f"{self.option(name)} (was {then}, is now {now})" if then and now else self.option(name)

    def remedy(self, remedy: Remedy) -> str:
        """Return what to do, as a sentence."""
        option = self.option(remedy.option) if remedy.option else ""
        return self.actions[remedy.action].format(option=option, value=remedy.value)


def one_line(text: str) -> str:
    """Return a text without line breaks and whatever else moves a cursor, which names of files may have."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def said_value(value: Any) -> str:
    """Return an option's value as people write it; empty where that says nothing: of a path, or of many parts."""
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "Yes", False: "No"}[value]
    if isinstance(value, (list, tuple)):
        return "" if any(isinstance(item, dict) for item in value) else " ".join(map(str, value))
    return "" if isinstance(value, dict) or os.sep in str(value) else str(value)


def option_name(field: str) -> str:
    """Return an option as it is typed: `batch_size` is `--batch-size`."""
    return OTHER_NAMES.get(field) or "--" + field.replace("_", "-")


OTHER_NAMES = {"from_model": "--from"}
"""Options that are not called like their field."""


COMMAND_LINE = Words(
    option_name,
    "Option {option}",
    "These options differ: {changes}.",
    {
        "set": "Give {option}.",
        "set_to": "Give {option} {value}.",
        "change": "Choose another {option}.",
        "leave_out": "Leave out {option}.",
        "other_folder": "Choose another --output folder.",
        "overwrite": "Choose another --output folder, or give --overwrite.",
        "resume": "Go on with --resume, or choose another --output folder.",
        "continue": "Give the same command again to go on; what is finished is kept.",
        "measure": "To measure it, give both halves to cryoden evaluate, or to cryoden choose.",
        "free_disk": "Free some space and give the same command again; what is finished is kept.",
    },
)


@dataclass(frozen=True)
class Problem:
    """Why something could not be done.

    Attributes
    ----------
    kind
        The `kind` of an error class.
    message
        Sentences that hold for every front end. Of the kind `option`: what is said of the option, without its name.
    subject
        What it is about: a file, a micrograph, an option's field.
    remedy
        What to do, where front ends have different words for it.
    differences
        Option -> (value then, value now), where results were made with others.
    """

    kind: str
    message: str
    subject: str = ""
    remedy: Optional[Remedy] = None
    differences: Mapping[str, Tuple[Any, Any]] = field(default_factory=dict)

    def text(self, words: Words = COMMAND_LINE) -> str:
        """Return the whole in the words of a front end, in one line."""
        sentences = [self.message] if self.message else []
        if self.kind == OptionError.kind:
            sentences[0] = f"{words.subject.format(option=words.option(self.subject))} {self.message}"
        if self.differences:
            sentences.append(words.difference.format(changes=" and ".join(map(words.change, self.differences.items()))))
        if self.remedy:
            sentences.append(words.remedy(self.remedy))
        return one_line(" ".join(sentences))

    def __str__(self) -> str:
        return self.text()

    def to_dict(self) -> Dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Problem:
        """Return what `to_dict` made a dictionary of; a text is a sentence of version 0.1."""
        if isinstance(values, str):
            return cls(CryodenError.kind, values)
        remedy = values.get("remedy")
        differences = {name: (then, now) for name, (then, now) in values.get("differences", {}).items()}
        return cls(
            values["kind"],
            values["message"],
            values.get("subject", ""),
            Remedy(**remedy) if remedy else None,
            differences,
        )


class CryodenError(Exception):
    """Base of every error that cryoden raises on purpose.

    Parameters
    ----------
    message, subject, remedy, differences
        As in `Problem`.

    Attributes
    ----------
    problem
        What is wrong.
    problems
        All that is wrong, where one error says several things; `problem` is the first.
    """

    kind: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        subject: str = "",
        remedy: Optional[Remedy] = None,
        differences: Mapping[str, Tuple[Any, Any]] = {},
    ) -> None:
        super().__init__(message)
        self.problem = Problem(self.kind, message, subject, remedy, dict(differences))
        self.problems = [self.problem]

    def __str__(self) -> str:
        return " ".join(problem.text() for problem in self.problems)


Kind = TypeVar("Kind", bound=CryodenError)


def because(kind: Type[Kind], what: str, reason: Problem) -> Kind:
    """Return an error of a plain kind that says what could not be done, and of its reasons the first."""
    return kind(f"{what}; the first reason: {reason.message}", subject=reason.subject, remedy=reason.remedy)


class OptionError(CryodenError):
    """One or several options break their rule.

    Parameters
    ----------
    problems
        One for each broken rule.
    """

    kind = "option"

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        super().__init__(first.message, subject=first.subject, remedy=first.remedy)
        self.problems = list(problems)


def option_problem(option: str, message: str, remedy: Optional[Remedy] = None) -> Problem:
    """Return what is wrong with an option; `message` goes on after its name, such as `is -1; it must be...`."""
    return Problem(OptionError.kind, message, option, remedy)


class FileError(CryodenError):
    """A file or folder is missing, truncated, unwritable, or not what its name promises."""

    kind = "file"


class FullDiskError(FileError):
    """A file could not be written because the disk, or the user's share of it, is full: nothing else can be either."""

    kind = "full_disk"


NOT_REACHED = FullDiskError("The disk is full: it had no turn.", remedy=Remedy("free_disk")).problem
"""Why an input was left out that came after the one which found the disk full."""


class ExistingResultsError(FileError):
    """The output folder holds what other options, another input, or another program made."""

    kind = "existing_results"


class LockedError(FileError):
    """Another run fills the output folder at this moment."""

    kind = "locked"


class NothingDoneError(CryodenError):
    """None of the inputs could be processed.

    Parameters
    ----------
    noun, done
        What one of them is, and what was to be done with it: `micrograph`, `denoised`.
    n_inputs
        How many there are.
    failures
        Input -> why.
    """

    kind = "nothing_done"

    def __init__(self, noun: str, done: str, n_inputs: int, failures: Mapping[str, Problem]) -> None:
        self.failures = dict(failures)
        first = next(iter(self.failures.values()), Problem("file", "the list is empty."))
        if n_inputs == 1:
            message = f"The only {noun} could not be {done}: {first.message}"
        else:
            message = f"None of {counted(n_inputs, noun)} could be {done}; the first reason: {first.message}"
        super().__init__(message, subject=first.subject, remedy=first.remedy)


class PixelError(CryodenError):
    """The pixels of an image cannot be used: constant, not finite, too few."""

    kind = "pixel"


class PairError(CryodenError):
    """Two halves do not belong together, or one of them is missing."""

    kind = "pair"


class ModelError(CryodenError):
    """A model file was not written by cryoden, or not for this purpose."""

    kind = "model"


class DeviceError(CryodenError):
    """The asked for processor (GPU or CPU) is not there or too small."""

    kind = "device"


class LostProcessError(CryodenError):
    """Another of the processes that do a command together has died, or ended with an error of its own."""

    kind = "lost_process"

    @classmethod
    def of_training(cls, n_processes: int) -> LostProcessError:
        """Return what is said by those of so many processes that are left of a training."""
        return cls(
            f"One of the {n_processes} processes of this training ended early; the others cannot go on without it.",
            remedy=Remedy("resume"),
        )


class NetworkError(CryodenError):
    """A server is away, does not know what is asked, or sends something else than it said."""

    kind = "network"


class TrainingError(CryodenError):
    """Training cannot start or cannot go on."""

    kind = "training"


UNEXPECTED = "unexpected"
"""Kind of a problem that no class above is made for: a mistake of the program, or of a library, with one input."""


def problem_of(error: Exception, subject: str) -> Problem:
    """Return why an input failed, whatever was raised, so that one input never ends a list.

    Parameters
    ----------
    error
        What was raised.
    subject
        The input.
    """
    if isinstance(error, CryodenError):
        return error.problem
    if isinstance(error, OSError):
        what = error.filename or subject
        return Problem(FileError.kind, f"{what} cannot be read ({error.strerror or error}).", subject)
    if isinstance(error, MemoryError):
        return Problem(UNEXPECTED, f"{subject} does not fit into the memory that is free.", subject)
    said = " ".join(str(error).split())
    message = f"{subject} failed unexpectedly ({type(error).__name__}{f': {said}' if said else ''}); see the log file."
    return Problem(UNEXPECTED, message, subject)
