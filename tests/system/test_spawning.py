"""Processes that a command starts itself: what they are told, how they end, and what is said of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from cryoden.errors import LostProcessError, Remedy
from cryoden.system import spawning
from cryoden.system.signals import Stopped, stop_on_signals

RESUME = Remedy("resume")

BEGIN = """
import os, pathlib, signal, sys, time
rank = int(os.environ["RANK"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
pathlib.Path(f"there_{rank}").touch()
while not (pathlib.Path("there_0").exists() and pathlib.Path("there_1").exists()):
    time.sleep(0.01)
"""


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(monkeypatch: pytest.MonkeyPatch, script: str, needs_all: bool = True) -> int:
    monkeypatch.setattr(spawning, "PROGRAM", ("-c", BEGIN + script))
    try:
        return spawning.run_in_processes(["a word"], 2, needs_all, RESUME)
    finally:
        assert psutil.Process().children() == []


def test_each_process_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID OMP_NUM_THREADS"
    said = f"open(str(rank), 'w').write(' '.join([*sys.argv[1:], *(os.environ[n] for n in {names.split()})]))"
    assert run(monkeypatch, said) == 0
    first, second = (Path(str(number)).read_text().split() for number in (0, 1))
    assert first[:7] == ["a", "word", "0", "2", "0", "2", "127.0.0.1"]
    assert second[:7] == ["a", "word", "1", "2", "1", "2", "127.0.0.1"]
    assert first[7:] == second[7:]
    assert int(first[-1]) == max(1, len(os.sched_getaffinity(0)) // 2)


@pytest.mark.parametrize(("ends", "status"), [((0, 0), 0), ((1, 0), 1), ((0, 1), 0), ((2, 2), 2)])
def test_the_status_is_that_of_the_first(monkeypatch: pytest.MonkeyPatch, ends: tuple, status: int) -> None:
    assert run(monkeypatch, f"sys.exit({ends}[rank])") == status


@pytest.mark.parametrize("killed", [0, 1])
def test_who_lives_says_how_it_ended(monkeypatch: pytest.MonkeyPatch, killed: int) -> None:
    script = f"os.kill(os.getpid(), signal.SIGKILL) if rank == {killed} else sys.exit(2)"
    assert run(monkeypatch, script) == 2


def test_nobody_is_left_to_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "os.kill(os.getpid(), signal.SIGKILL) if rank == 0 else sys.exit(0)"
    with pytest.raises(LostProcessError, match="Process 1 of 2 was killed by signal 9") as caught:
        run(monkeypatch, script)
    assert caught.value.problem.remedy == RESUME


@pytest.mark.parametrize("failed", [0, 1])
def test_who_waits_for_one_that_failed_is_ended(monkeypatch: pytest.MonkeyPatch, failed: int) -> None:
    """As where they look for each other, and one was refused; it has said so itself."""
    monkeypatch.setattr(spawning, "HANGING_SECONDS", 0.1)
    assert run(monkeypatch, f"sys.exit(2) if rank == {failed} else time.sleep(60)") == 2


def test_who_waits_for_a_dead_one_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an operation on GPUs, in which no signal is heard."""
    monkeypatch.setattr(spawning, "HANGING_SECONDS", 0.1)
    with pytest.raises(LostProcessError, match="Process 2 of 2 was killed by signal 9"):
        run(monkeypatch, "os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(60)")


def test_who_shares_a_list_goes_on_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawning, "HANGING_SECONDS", 0.0)
    script = "sys.exit(2) if rank == 1 else time.sleep(0.3); sys.exit(1)"
    assert run(monkeypatch, script, needs_all=False) == 1


def test_a_signal_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def send() -> None:
        while not (Path("there_0").exists() and Path("there_1").exists()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(Stopped), stop_on_signals():
        run(monkeypatch, "time.sleep(60)")
    thread.join()
