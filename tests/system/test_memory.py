"""Free memory on made-up control groups, and under the limits of a real process."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any, Dict

import pytest

from cryoden.config import GIB
from cryoden.system.memory import free_host_bytes
from tests.helpers import python

MIB = 1 << 20
NO_LIMIT = "9223372036854771712\n"
"""What version 1 says of a group without a limit."""


@pytest.fixture(autouse=True)
def _roomy_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the host have 64 GiB and the process no limit of its own, so that the control groups decide."""
    memory = type("Memory", (), {"available": 64 * GIB})()
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture
def tree(tmp_path: Path) -> Any:
    """Write files below a made-up root; return it."""

    def make(files: Dict[str, Any]) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
        return tmp_path

    return make


def v2(group: str, limit: Any, used: int, cached: int = 0) -> Dict[str, Any]:
    folder = f"sys/fs/cgroup/{group}"
    stat = f"anon 1\ninactive_file {cached}\nactive_file 77\n"
    return {f"{folder}/memory.max": limit, f"{folder}/memory.current": f"{used}\n", f"{folder}/memory.stat": stat}


def v1(group: str, limit: Any, used: int, cached: int = 0) -> Dict[str, Any]:
    folder = f"sys/fs/cgroup/memory/{group}"
    stat = f"inactive_file 1\ntotal_inactive_file {cached}\n"
    names = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": f"{used}\n", "memory.stat": stat}
    return {f"{folder}/{name}": content for name, content in names.items()}


def test_version_2_counts_what_is_used_and_what_can_be_dropped(tree: Any) -> None:
    root = tree({"proc/self/cgroup": "0::/job\n", **v2("job", f"{8 * GIB}\n", 3 * GIB, GIB)})
    assert free_host_bytes(root) == 6 * GIB


def test_version_1_counts_what_is_used_and_what_can_be_dropped(tree: Any) -> None:
    groups = "5:cpu,cpuacct:/else\n4:hugetlb,memory:/slurm/job\n"
    root = tree({"proc/self/cgroup": groups, **v1("slurm/job", f"{8 * GIB}\n", 3 * GIB, GIB)})
    assert free_host_bytes(root) == 6 * GIB


@pytest.mark.parametrize("tightest", [0, 1, 2, 3])
@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_of_nested_groups_decides(tree: Any, version: int, tightest: int) -> None:
    group, none, line = (v1, NO_LIMIT, "4:memory:") if version == 1 else (v2, "max\n", "0::")
    files: Dict[str, Any] = {"proc/self/cgroup": f"{line}/slurm/job/step\n"}
    for depth, path in enumerate(("", "slurm", "slurm/job", "slurm/job/step")):
        files.update(group(path, GIB if depth == tightest else none, 24 * MIB))
    assert free_host_bytes(tree(files)) == 1000 * MIB


def test_memory_controller_of_version_1_beside_version_2(tree: Any) -> None:
    files = {"proc/self/cgroup": "0::/user.slice\n4:memory:/job\n", **v1("job", 2 * GIB, GIB)}
    assert free_host_bytes(tree({**files, "sys/fs/cgroup/unified/user.slice/cgroup.procs": "1\n"})) == GIB


def test_version_2_in_its_own_folder(tree: Any) -> None:
    assert free_host_bytes(tree({"proc/self/cgroup": "0::/job\n", **v2("unified/job", 2 * GIB, GIB)})) == GIB


@pytest.mark.parametrize("group", ["/docker/4f2a", "/../../system.slice", "/"])
def test_a_container_sees_its_group_as_the_outermost(tree: Any, group: str) -> None:
    assert free_host_bytes(tree({"proc/self/cgroup": f"0::{group}\n", **v2("", 2 * GIB, GIB)})) == GIB


def test_a_group_that_is_slowed_down_before_its_limit(tree: Any) -> None:
    files = {"proc/self/cgroup": "0::/job\n", **v2("job", 8 * GIB, GIB), "sys/fs/cgroup/job/memory.high": 2 * GIB}
    assert free_host_bytes(tree(files)) == GIB


def test_limits_are_read_again(tree: Any) -> None:
    root = tree({"proc/self/cgroup": "0::/job\n", **v2("job", 8 * GIB, GIB)})
    assert free_host_bytes(root) == 7 * GIB
    tree(v2("job", 4 * GIB, GIB))
    assert free_host_bytes(root) == 3 * GIB


def test_a_group_that_is_over_its_limit_leaves_nothing(tree: Any) -> None:
    assert free_host_bytes(tree({"proc/self/cgroup": "0::/job\n", **v2("job", GIB, 2 * GIB)})) == 0


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": ""},
        {"proc/self/cgroup": b"0::/a\0b\n\xff\xfe\nwords\n::\n0:\n"},
        {"proc/self/cgroup": "0::/job\n"},
        {"proc/self/cgroup": "0::/job\n", **v2("job", "max\n", GIB)},
        {"proc/self/cgroup": "0::/job\n", **v2("job", "-1\n", GIB)},
        {"proc/self/cgroup": "0::/job\n", **v2("job", "\u00b2", GIB)},
        {"proc/self/cgroup": "0::/job\n", **v2("job", "9" * 5000, GIB)},
        {"proc/self/cgroup": "0::/job\n", "sys/fs/cgroup/job/memory.max/folder": "1\n"},
        {"proc/self/cgroup": "4:memory:/job\n", **v1("job", NO_LIMIT, GIB)},
        {"proc/self/cgroup": "4:cpu:/job\n", **v1("job", GIB, 0)},
    ],
)
def test_without_a_limit_that_can_be_read_the_host_decides(tree: Any, files: Dict[str, Any]) -> None:
    assert free_host_bytes(tree(files)) == 64 * GIB


def test_a_limit_bounds_also_where_the_usage_cannot_be_read(tree: Any) -> None:
    files = {"proc/self/cgroup": "0::/job\n", "sys/fs/cgroup/job/memory.max": GIB}
    assert free_host_bytes(tree({**files, "sys/fs/cgroup/job/memory.stat": b"\xff\xfe words\ninactive_file\n"})) == GIB


@pytest.mark.parametrize(("option", "kind"), [("-v", "RLIMIT_AS"), ("-d", "RLIMIT_DATA")])
def test_limits_of_the_process(tmp_path: Path, option: str, kind: str) -> None:
    """What is left under a limit of 2 GiB is less than it, becomes less by what is allocated, and is the truth."""
    script = f"""
import resource
import numpy as np
from cryoden.system.memory import free_host_bytes
resource.setrlimit(resource.{kind}, (2 << 30, 2 << 30))
before = free_host_bytes()
taken = np.ones(512 << 20, np.uint8)
after = free_host_bytes()
try:
    np.empty(after + (64 << 20), np.uint8)
    print("allocated more")
except MemoryError:
    print(before < 2 << 30, 500 << 20 < before - after < 530 << 20, len(np.empty(int(0.9 * after), np.uint8)) > 0)
"""
    result = python(["-c", script], tmp_path)
    assert result.stdout == "True True True\n", result.stderr


def test_ulimit_of_the_shell(tmp_path: Path) -> None:
    words = "import subprocess, sys; sys.exit(subprocess.call(['bash', '-c', 'ulimit -v 1000000; exec $0 -c \"$1\"', "
    words += "sys.executable, 'from cryoden.system.memory import free_host_bytes; print(free_host_bytes())']))"
    assert 0 < int(python(["-c", words], tmp_path).stdout) < 1000000 * 1024
