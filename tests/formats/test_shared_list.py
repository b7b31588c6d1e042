"""One list by several processes: dealt once, gathered by one, whoever of them dies."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import psutil
import pytest

from cryoden.__main__ import main
from cryoden.errors import LockedError, LostProcessError
from cryoden.formats import shared_list
from cryoden.formats.outcome import read_ending
from cryoden.formats.shared_list import DEALT, SharedList
from cryoden.formats.star import read_table
from cryoden.system.locks import LOCK_NAME, FolderLock
from tests.helpers import ROOT, read_mrc, slowly, write_raw_mrc

N_MOVIES = 6
NAMES = [f"m{number}.mrc" for number in range(N_MOVIES)]

# Movies take a while, so that a process can be killed between two of them.
SLOWLY = slowly(0.1)


@pytest.fixture
def movies(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    (tmp_path / "movies").mkdir()
    for name in NAMES:
        write_raw_mrc(tmp_path / "movies" / name, rng.poisson(5, (4, 64, 64)).astype(np.int16), 1)
    return tmp_path / "movies"


def words(output: str) -> List[str]:
    return ["halves", *(f"movies/{name}" for name in NAMES), "--output", output, "--jobs", "1"]


def halves(output: str, environment: Dict[str, str], launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
    settings = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", **environment)
    line = [sys.executable, *(launcher or ["-c", SLOWLY]), *words(output)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, env=settings, text=True, start_new_session=True, **streams)


def of_srun(rank: int, n: int = 2) -> Dict[str, str]:
    step = {"SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": n, "SLURM_JOB_ID": 7, "SLURM_STEP_ID": 0}
    return {name: str(value) for name, value in step.items()}


def n_lines(file: Path) -> int:
    return file.read_text().count("\n") if file.exists() else 0


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(3000):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("it never was so")


def finish_alone(output: str) -> None:
    """The same command by one process goes on: all results are those of a run without interruption."""
    assert main(words(output)) == 0
    assert read_table(f"{output}/micrographs.star").paths == [f"{output}/full/{name}" for name in NAMES]


def hidden_files(folder: str) -> List[str]:
    return sorted(path.name for path in Path(folder).iterdir() if path.name.startswith("."))


def test_processes_of_srun_split_their_shares(movies: Path) -> None:
    """Each movie is split once, one process writes what is said of all, and nothing of the job is left."""
    processes = [halves("two", of_srun(rank)) for rank in (0, 1)]
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert [out.count("6 of 6 movies are split") for out, _ in said] == [1, 0]
    assert [n_lines(Path("two") / name) for name in ("log.jsonl", "log_1.jsonl")] == [3, 3]
    assert hidden_files("two") == []

    finish_alone("one")
    for kind in ("full", "odd", "even"):
        tables = [
            read_table(Path(folder) / ("" if kind == "full" else kind) / "micrographs.star")
            for folder in ("one", "two")
        ]
        assert tables[1].paths == [path.replace("one", "two", 1) for path in tables[0].paths]
        for name in NAMES:
            np.testing.assert_array_equal(read_mrc(Path("two", kind, name)), read_mrc(Path("one", kind, name)))
    found = [json.loads(Path(folder, "sanity.json").read_text()) for folder in ("one", "two")]
    assert found[1]["n_micrographs"] == N_MOVIES
    assert found[1]["own_covariance"] == pytest.approx(found[0]["own_covariance"])


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_is_missed_in_one_line(movies: Path, killed: int) -> None:
    """The other goes on to its end and lists what is there; status 1; the same command does the rest."""
    processes = [halves("two", of_srun(rank)) for rank in (0, 1)]
    log = Path("two") / ("log_1.jsonl" if killed else "log.jsonl")
    wait_until(lambda: n_lines(log) == 1)
    processes[killed].kill()
    processes[killed].communicate(timeout=60)
    out, err = processes[1 - killed].communicate(timeout=60)
    assert processes[1 - killed].returncode == 1, err
    assert "4 of 6 movies are split" in out
    lines = [line for line in err.splitlines() if "failed" in line]
    named = f"movies/{NAMES[2 + killed]} and 1 more"
    assert lines == [
        f"cryoden: failed: {named}: Process {killed + 1} of 2 ended before this was done. "
        "Give the same command again to go on; what is finished is kept."
    ]
    ending = read_ending("two/outcome.json")
    assert ending is not None
    assert {problem.kind for problem in ending.items.values()} == {LostProcessError.kind}
    assert len(read_table("two/micrographs.star").paths) == 4
    finish_alone("two")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_machines_of_torchrun_and_one_is_killed(movies: Path, tmp_path: Path) -> None:
    """Two rendezvous groups on the loopback address stand for two machines."""
    (tmp_path / "slowly.py").write_text(SLOWLY)
    launcher = [
        "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "test", "--local-addr", "127.0.0.1",
    ]  # fmt: skip
    # The second machine dies: the one at which they meet takes all others with it, by torchrun's own doing.
    hosts = [["--rdzv-conf", f"is_host={is_host}"] for is_host in (1, 0)]
    groups = [halves("two", {}, [*launcher, *host, "--", "slowly.py"]) for host in hosts]
    wait_until(lambda: n_lines(Path("two/log.jsonl")) > 0 and n_lines(Path("two/log_1.jsonl")) > 0)
    machine = psutil.Process(groups[1].pid)
    for process in [machine, *machine.children(recursive=True)]:
        process.kill()
    groups[1].communicate(timeout=60)
    wait_until(lambda: not psutil.Process(groups[0].pid).children())
    groups[0].terminate()  # torchrun waits for the other machine
    out, err = groups[0].communicate(timeout=60)
    assert "movies are split" in out
    assert err.count("of 2 ended before this was done") == 1
    finish_alone("two")


# ---------------------------------------------------------------------- in one process
@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Callable[[Optional[int]], None]:
    def set_environment(number: Optional[int]) -> None:
        for name, value in of_srun(number or 0).items():
            monkeypatch.delenv(name, raising=False) if number is None else monkeypatch.setenv(name, value)

    return set_environment


AsRank = Callable[[Optional[int]], None]


def test_a_process_alone_leaves_no_files(tmp_path: Path, as_rank: AsRank) -> None:
    as_rank(None)
    with SharedList(tmp_path, "x") as shared:
        assert shared.share(["a", "b"]) == ["a", "b"]
        gathered = shared.gather({"a": 1})
    assert gathered is not None
    assert (gathered.parts, gathered.lost) == ([{"a": 1}], {})
    assert list(tmp_path.iterdir()) == []


def test_what_the_first_found_to_be_done_counts(tmp_path: Path, as_rank: AsRank) -> None:
    as_rank(0)
    with FolderLock(tmp_path), SharedList(tmp_path, "x") as first:
        assert first.share(list("abcde")) == ["a", "c", "e"]
        as_rank(1)
        with SharedList(tmp_path, "x") as second:
            assert second.share(["e"]) == ["b", "d"]
            got: List[Any] = []
            thread = threading.Thread(target=lambda: got.append(second.gather("of second")))
            thread.start()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(shared_list, "LEAVING_SECONDS", 0.0)  # both are this process
                gathered = first.gather("of first")
            assert gathered is not None
            assert gathered.parts == ["of first", "of second"]
            thread.join()
        as_rank(0)
    assert got == [None]
    assert list(tmp_path.iterdir()) == []


def test_another_commands_lock_refuses_every_process(
    tmp_path: Path, as_rank: AsRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_list, "FOREIGN_SECONDS", 0.2)
    as_rank(None)
    with FolderLock(tmp_path, "cryoden evaluate"):
        as_rank(1)
        with SharedList(tmp_path, "x") as shared, pytest.raises(LockedError, match="cryoden evaluate"):
            shared.share(["a"])
        as_rank(None)


def test_a_first_process_that_ends_early_is_not_waited_for(tmp_path: Path, as_rank: AsRank) -> None:
    as_rank(0)
    lock = FolderLock(tmp_path).__enter__()
    Path(tmp_path, "log.jsonl").touch()
    threading.Timer(0.3, lambda: lock.__exit__(None, None, None)).start()
    as_rank(1)
    with SharedList(tmp_path, "x") as shared, pytest.raises(
        LostProcessError, match="first process of this job has ended"
    ):
        shared.share(["a"])


def test_a_first_process_that_never_begins(tmp_path: Path, as_rank: AsRank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_list, "FIRST_SECONDS", 0.2)
    as_rank(1)
    (tmp_path / DEALT).write_text('{"token": "of a job that died", "names": []}')
    with SharedList(tmp_path, "x") as shared, pytest.raises(LockedError, match="has not begun to fill"):
        shared.share(["a"])


def test_the_folder_is_not_free_while_any_process_of_a_job_lives(tmp_path: Path, as_rank: AsRank) -> None:
    """Though the first one, which held the lock for all, has died."""
    as_rank(0)
    with FolderLock(tmp_path), SharedList(tmp_path, "x") as first:
        first.share(["a", "b"])
        as_rank(1)
        second = SharedList(tmp_path, "cryoden halves")
        second.share([])
        as_rank(0)
    as_rank(None)
    with pytest.raises(LockedError, match="cryoden halves"):
        FolderLock(tmp_path).__enter__()
    assert not (tmp_path / LOCK_NAME).exists()
    second.__exit__(None, None, None)
    with FolderLock(tmp_path):
        assert (tmp_path / LOCK_NAME).exists()
