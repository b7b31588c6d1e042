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
