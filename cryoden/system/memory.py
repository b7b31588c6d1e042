"""How much memory this process may still take: of the host, of its control groups, and of its own limits."""

from __future__ import annotations

import resource
from pathlib import Path, PurePosixPath
from typing import Iterator, Optional, Union

OUT_OF_MEMORY = (
    "DefaultCPUAllocator", "not enough memory", "can't allocate memory", "bad_alloc", "could not create a primitive",
)  # fmt: skip
"""What the errors say that PyTorch, and oneDNN under it, raise where host memory does not suffice."""

V1_FOLDERS = ("sys/fs/cgroup/memory",)
"""Where the memory controller of version 1 is mounted."""

V2_FOLDERS = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
"""Where version 2 is mounted; beside controllers of version 1 it has a folder of its own."""


def free_host_bytes(root: Union[str, Path] = "/") -> int:
    """Return how many bytes this process can still allocate before it fails or is killed.

    Parameters
    ----------
    root
        Folder of `proc/self/cgroup` and `sys/fs/cgroup`.

    Notes
    -----
    Nothing is kept between calls: limits change while a job runs, and other processes come and go.
    """
    import psutil  # here: the command line starts without it

    bounds = [psutil.virtual_memory().available, *_group_bounds(Path(root)), *_process_bounds()]
    return max(0, int(min(bounds)))


def lacks_host_memory(error: BaseException) -> bool:
    """Return whether an exception says that host memory does not suffice."""
    if isinstance(error, MemoryError):
        return True
    # PyTorch has no class of its own for this: only its allocators' words tell.
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def _group_bounds(root: Path) -> Iterator[int]:
    """Yield what each control group of the process leaves it, from its own group up to the outermost."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, _, controllers_and_path = line.partition(":")
        controllers, _, path = controllers_and_path.partition(":")
        is_v2 = controllers == ""
        if not is_v2 and "memory" not in controllers.split(","):
            continue

        # A container may see its own group as the outermost one, and still be told the path on its host. The folders of
        # that path are then missing, and the walk ends at the group that counts.
        inside = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for folder in V2_FOLDERS if is_v2 else V1_FOLDERS:
            for depth in range(len(inside), -1, -1):
                group = root.joinpath(folder, *inside[:depth])
                left = _v2_bound(group) if is_v2 else _v1_bound(group)
                if left is not None:
                    yield left


def _v2_bound(group: Path) -> Optional[int]:
    """Return what a group of version 2 leaves; above `memory.high` it is slowed down until it hardly moves."""
    limits = [_number(_text(group / name)) for name in ("memory.max", "memory.high")]
    return _left(min((limit for limit in limits if limit is not None), default=None), group, "memory.current", "")


def _v1_bound(group: Path) -> Optional[int]:
    """Return what a group of version 1 leaves; one without a limit has the largest number that a page counter holds."""
    return _left(_number(_text(group / "memory.limit_in_bytes")), group, "memory.usage_in_bytes", "total_")


def _left(limit: Optional[int], group: Path, usage_name: str, prefix: str) -> Optional[int]:
    """Return a limit less what is used, without the cached files that the kernel drops before it kills."""
    if limit is None:
        return None
    used = _number(_text(group / usage_name)) or 0
    statistics = dict(line.partition(" ")[::2] for line in (_text(group / "memory.stat") or "").splitlines())
    cached = _number(statistics.get(f"{prefix}inactive_file")) or 0
    return limit - used + min(used, cached)


def _process_bounds() -> Iterator[int]:
    """Yield what the limits of the process itself (`ulimit -v`, `ulimit -d`) leave it."""
    import psutil

    used = psutil.Process().memory_info()
    for kind, n_bytes in ((resource.RLIMIT_AS, used.vms), (resource.RLIMIT_DATA, getattr(used, "data", 0))):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY:
            yield limit - n_bytes


def _number(text: Optional[str]) -> Optional[int]:
    """Return a number of bytes; None for `max`, for what is no such number, and where there is none."""
    try:
        number = int(text or "")
    except ValueError:
        return None
    return number if number >= 0 else None


def _text(path: Path) -> Optional[str]:
    """Return what a file of the kernel says; None where there is none, as on other systems."""
    try:
        return path.read_text(errors="replace")
    except (OSError, ValueError):  # ValueError: a path with a null character
        return None
