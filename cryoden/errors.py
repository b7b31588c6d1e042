"""The errors that a user can mend: each says which thing, what it is, what it must be, and what to do."""

from __future__ import annotations

from typing import Sequence


class CryodenError(Exception):
    """Base of every error that cryoden raises on purpose; its text is one line made for the user."""


class OptionError(CryodenError):
    """One or several options break their rule.

    Parameters
    ----------
    problems
        One sentence for each broken rule.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__(" ".join(self.problems))


class FileError(CryodenError):
    """A file or folder is missing, truncated, unwritable, or not what its name promises."""


class FullDiskError(FileError):
    """A file could not be written because the disk, or the user's share of it, is full: nothing else can be either."""

    BEGINNING = "The disk is full: "
    """How its sentence begins, and that of every input that therefore had no turn; the protocols know it by that."""


class PixelError(CryodenError):
    """The pixels of an image cannot be used: constant, not finite, too few."""


class PairError(CryodenError):
    """Two halves do not belong together, or one of them is missing."""


class ModelError(CryodenError):
    """A model file was not written by cryoden, or not for this purpose."""


class DeviceError(CryodenError):
    """The asked for processor (GPU or CPU) is not there or too small."""


class NetworkError(CryodenError):
    """A server is away, does not know what is asked, or sends something else than it said."""


class TrainingError(CryodenError):
    """Training cannot start or cannot go on."""
