"""What must be installed, and is not."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import Iterator

from cryoden.errors import CryodenError


@contextmanager
def needing_torch() -> Iterator[None]:
    """Make a missing PyTorch an error that says what to install.

    Raises
    ------
    CryodenError
        If the block imports torch and it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise CryodenError(
            f"PyTorch, which trains and denoises, is not installed in {sys.prefix}. Install it there with pip: torch, "
            "or this package with [torch] after its name.",
            subject="torch",
        ) from error


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
