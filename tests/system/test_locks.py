"""Locks of folders: real processes that hold, die, and race; files of other machines, made up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, List

import psutil
import pytest

from cryoden.errors import FileError, FullDiskError, LockedError, Remedy
from cryoden.system import locks
from cryoden.system.locks import LOCK_NAME, FolderLock
from tests.helpers import ROOT

FOLDER = Path("out")
LOCK = FOLDER / LOCK_NAME

HOLD = """
import sys, time
from cryoden.errors import LockedError
from cryoden.system.locks import FolderLock
try:
    with FolderLock("out", "cryoden denoise"):
        print("held", flush=True)
        sys.stdin.read()
except LockedError as error:
    print("locked", flush=True)
    print(error)
print("ended")
"""


def start(script: str = HOLD) -> subprocess.Popen[str]:
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    words = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def word(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.close()
        return process.stdout.read()


def names() -> List[str]:
    return sorted(path.name for path in FOLDER.iterdir())


def write_lock(age_s: float, **changes: Any) -> Dict[str, Any]:
    """Write what another machine would, touched some seconds ago."""
    holder = {
        "token": "t", "host": "alpha", "machine": "alpha 1234 pid:[1]", "pid": 4711, "started_s": 77.0,
        "command": "cryoden denoise", "since": "2024-05-03 12:03", **changes,
    }  # fmt: skip
    FOLDER.mkdir(exist_ok=True)
    LOCK.write_text(json.dumps(holder))
    os.utime(LOCK, (time.time() - age_s, time.time() - age_s))
    return holder


def is_free() -> bool:
    try:
        with FolderLock(FOLDER):
            return True
    except LockedError:
        return False


def test_held_by_a_process_that_is_named() -> None:
    holder = start()
    assert word(holder) == "held"
    with pytest.raises(LockedError) as refused, FolderLock(FOLDER):
        pytest.fail("taken twice")
    problem = refused.value.problem
    assert problem.message.startswith(f"out is being filled by process {holder.pid} on host ")
    assert "(cryoden denoise, since 20" in problem.message
    assert problem.message.endswith("); one command at a time can fill a folder.")
    assert (problem.kind, problem.subject, problem.remedy) == ("locked", "out", Remedy("other_folder"))
    (FOLDER / "result").touch()
    assert end(holder) == "ended\n"
    assert names() == ["result"]
    assert is_free()


def test_a_killed_holder_blocks_nobody() -> None:
    holder = start()
    assert word(holder) == "held"
    holder.send_signal(signal.SIGKILL)
    while psutil.Process(holder.pid).status() != psutil.STATUS_ZOMBIE:  # dead, and nobody has looked after it
        time.sleep(0.01)
    assert LOCK.exists()
    assert is_free()
    end(holder)
    assert names() == []


def test_a_number_that_another_process_has_got() -> None:
    with FolderLock(FOLDER):
        mine = json.loads(LOCK.read_text())
    assert not FOLDER.exists()
    write_lock(0, **mine)
    assert not is_free()
    write_lock(0, **{**mine, "started_s": mine["started_s"] - 60})
    assert is_free()
    write_lock(0, **{**mine, "pid": 1 << 22})
    assert is_free()


@pytest.mark.parametrize(("age_s", "expected"), [(0, False), (200, False), (400, True), (-400, True), (1e9, True)])
def test_a_holder_elsewhere_lives_as_long_as_its_heart_beats(age_s: float, expected: bool) -> None:
    write_lock(age_s)
    assert is_free() == expected


def test_what_is_said_of_a_holder_elsewhere() -> None:
    write_lock(100, host="al\x1b[2Jpha")
    with pytest.raises(LockedError) as refused, FolderLock(FOLDER):
        pytest.fail("taken")
    assert refused.value.problem.message == (
        "out is being filled by process 4711 on host al[2Jpha (cryoden denoise, since 2024-05-03 12:03); one command "
        "at a time can fill a folder. Its last sign of life is 100 s old; if it was killed, the folder is free after 5 "
        "minutes."
    )


def test_the_clock_of_the_file_system_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock is an hour fast, or slow, judges as all others do."""
    for offset in (-3600, 3600):
        write_lock(100)
        now = time.time() + offset
        with monkeypatch.context() as clock:
            clock.setattr(time, "time", lambda now=now: now)
            assert not is_free()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"7", b'{"pid": "x"}', b"\xff\xfe", b'{"pid": 1e400}', b"[" * 60000]
)
def test_a_lock_file_that_was_cut_off(content: bytes) -> None:
    write_lock(0)
    LOCK.write_bytes(content)
    with pytest.raises(LockedError, match="is being filled by another process;"), FolderLock(FOLDER):
        pytest.fail("taken")
    os.utime(LOCK, (time.time() - 400, time.time() - 400))
    assert is_free()


@pytest.mark.parametrize(
    ("left_behind", "n"), [("nothing", 6), ("dead holder", 20), ("silent holder", 6), ("dead while taking over", 10)]
)
def test_of_many_at_once_one_wins(left_behind: str, n: int) -> None:
    FOLDER.mkdir()
    (FOLDER / "earlier result").touch()
    if left_behind in ("dead holder", "dead while taking over"):
        holder = start()
        assert word(holder) == "held"
        holder.kill()
        end(holder)
    if left_behind == "dead while taking over":
        (FOLDER / f"{LOCK_NAME}.takeover").write_bytes(LOCK.read_bytes())
    if left_behind == "silent holder":
        write_lock(400)
    script = HOLD.replace("try:", "sys.stdin.readline()\ntry:", 1)
    processes = [start(script) for _ in range(n)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [word(process) for process in processes]
    rest = [end(process) for process in processes]
    assert sorted(said) == ["held"] + (n - 1) * ["locked"], rest
    assert [text for text in rest if not text.endswith("ended\n")] == []
    assert names() == ["earlier result"]


def test_a_stale_lock_that_another_process_has_just_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who judged the old lock looks again before it replaces anything."""
    write_lock(400)
    is_stale = locks._LockFile.is_stale
    answers: List[bool] = []

    def slowly(found: Any, now_s: float) -> bool:
        answers.append(is_stale(found, now_s))
        if len(answers) == 1:
            write_lock(0, token="its new holder")
        return answers[-1]

    monkeypatch.setattr(locks._LockFile, "is_stale", slowly)
    assert not is_free()
    assert answers == [True, False, False]
    assert json.loads(LOCK.read_text())["token"] == "its new holder"
    assert names() == [LOCK_NAME]


def test_without_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*words: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", link)
    with FolderLock(FOLDER):
        other = start()
        assert word(other) == "locked"
        end(other)
        assert names() == [LOCK_NAME]
    assert is_free()


def test_within_one_process_it_is_taken_once() -> None:
    (Path("link")).symlink_to("out")
    with FolderLock(FOLDER):
        with FolderLock(FOLDER.absolute()), FolderLock("link"):
            pass
        assert LOCK.exists()
    assert not FOLDER.exists()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # it is what is tested
def test_it_is_given_back_after_an_exception_and_kept_by_a_fork() -> None:
    lock = FolderLock(FOLDER)
    lock.__enter__()
    child = os.fork()
    if child == 0:
        lock.__exit__(None, None, None)
        os._exit(0 if LOCK.exists() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert LOCK.exists()
    lock.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert not FOLDER.exists()


def test_never_another_processs(monkeypatch: pytest.MonkeyPatch) -> None:
    """After minutes of standing still the folder was given to another: that is said, and its lock stays."""
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.01)
    with pytest.raises(LockedError) as lost, FolderLock(FOLDER):  # noqa: PT012
        write_lock(100)
        time.sleep(0.1)
    assert lost.value.problem.message == (
        "out was taken over by process 4711 on host alpha (cryoden denoise, since 2024-05-03 12:03) while this process "
        "stood still; both have written there."
    )
    assert 90 < time.time() - LOCK.stat().st_mtime < 110
    assert LOCK.exists()


def test_its_heart_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.01)
    with FolderLock(FOLDER):
        os.utime(LOCK, (1, 1))
        for _ in range(1000):
            if LOCK.stat().st_mtime > 1:
                break
            time.sleep(0.01)
        assert abs(LOCK.stat().st_mtime - time.time()) < 60
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


def test_the_first_rank_holds_it_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with FolderLock(FOLDER):
        assert not FOLDER.exists()
    monkeypatch.setenv("RANK", "0")
    with FolderLock(FOLDER):
        assert LOCK.exists()


def test_folders_that_stay_empty_are_removed() -> None:
    Path("there").mkdir()
    with FolderLock("there/a/b"):
        assert Path("there/a/b", LOCK_NAME).exists()
    assert list(Path("there").iterdir()) == []
    with FolderLock("there/a/b"):
        Path("there/a/result").touch()
    assert [path.name for path in Path("there/a").iterdir()] == ["result"]


def test_a_folder_that_was_deleted_meanwhile() -> None:
    with FolderLock(FOLDER):
        LOCK.unlink()
        FOLDER.rmdir()
    assert not FOLDER.exists()


@pytest.mark.parametrize("kind", ["file", "below a file", "link to nowhere", "lock is a folder", "name"])
def test_a_folder_that_cannot_be_locked(kind: str) -> None:
    folder = FOLDER
    if kind == "file":
        FOLDER.touch()
    elif kind == "below a file":
        FOLDER.touch()
        folder = FOLDER / "inside"
    elif kind == "link to nowhere":
        FOLDER.mkdir()
        LOCK.symlink_to("nowhere")
    elif kind == "lock is a folder":
        LOCK.mkdir(parents=True)
    else:
        folder = Path("n" * 300)
    with pytest.raises(FileError) as refused, FolderLock(folder):
        pytest.fail("taken")
    assert refused.value.problem.message.startswith(f"Output folder {folder} cannot be written (")
    assert refused.value.problem.remedy == Remedy("other_folder")


def test_a_folder_without_permission_or_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, kind, remedy in ((13, FileError, "other_folder"), (28, FullDiskError, "free_disk")):

        def refuse(*words: Any, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Path, "write_text", refuse)
        with pytest.raises(kind) as refused, FolderLock(FOLDER):
            pytest.fail("taken")
        assert type(refused.value) is kind
        assert refused.value.problem.remedy == Remedy(remedy)
        assert not FOLDER.exists()
