"""What must be installed, and is not."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import Iterator

from cryoden.errors import CryodenError


@contextmanager
def needing_torch() -> Iterator[None]:
    """Make a PyTorch that is missing, or cannot be loaded, an error that says what to install.

    Raises
    ------
    CryodenError
        If the block imports torch in vain.
    """
    try:
        yield
    except (ImportError, OSError) as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == "torch"
        if not is_missing and not _arose_in_import_of_torch(error):
            raise
        if is_missing:
            what = f"is not installed in {sys.prefix}. Install it with '{sys.executable} -m pip install torch'."
        else:
            reason = " ".join(str(error).split())
            what = f"cannot be loaded in {sys.prefix} ({reason}). Install the build for this computer's driver."
        raise CryodenError(f"PyTorch, which trains and denoises, {what}", subject="torch") from error


def _arose_in_import_of_torch(error: BaseException) -> bool:
    """Return whether an error was raised while torch itself was being loaded, such as of a library that it lacks."""
    place = error.__traceback__
    while place is not None:
        frame = place.tb_frame
        if frame.f_globals.get("__name__") == "torch" and frame.f_code.co_name == "<module>":
            return True
        place = place.tb_next
    return False


@contextmanager
def needing_cryosparc_tools() -> Iterator[None]:
    """Make missing cryosparc-tools an error that says what to install.

    Raises
    ------
    CryodenError
        If the block imports it and it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "cryosparc":
            raise
        raise CryodenError(
            f"cryosparc-tools, which reads .cs files, is not installed in {sys.prefix}. Install it there with pip: "
            "cryosparc-tools, or this package with [cryosparc] after its name.",
            subject="cryosparc-tools",
        ) from error
