"""Where something may be kept between runs that can be made again: a folder that belongs to the user alone."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=None)
def private_cache(name: str) -> Path:
    """Return a folder of the user's cache (`XDG_CACHE_HOME`, else `~/.cache`) that nobody else can write into.

    Where there can be none (no home, a read-only disk, the folder of another user) it is a temporary folder that is
    removed at the end of the process: nothing is kept, and nothing else is lost.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # The XDG specification says that a path that is not absolute is to be ignored.
        base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
        folder = base / "cryoden" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_kept = _is_private(folder)
    except (OSError, RuntimeError):  # RuntimeError: no home is known
        is_kept = False

    if not is_kept:
        folder = Path(tempfile.mkdtemp(prefix="cryoden-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _is_private(folder: Path) -> bool:
    """Return whether the folder is this user's, others may not write into it, and this process may."""
    status = folder.stat()
    is_own = status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return is_own and os.access(folder, os.W_OK | os.X_OK)
