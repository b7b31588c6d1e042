"""Whole commands that are stopped by a signal and continued, or whose output nobody reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Sequence

import numpy as np
import pytest

from cryoden.formats import outputs
from cryoden.formats.outcome import STOPPED, read_ending
from cryoden.system.locks import LOCK_NAME
from cryoden.system.signals import STOPPED_LINE
from tests.helpers import ROOT, Result, leftovers, python, write_halves, write_raw_mrc

Run = Callable[..., Result]

# A command whose every step takes a while: finished files, and steps of a training.
SLOWLY = """
import os, pathlib, sys, time
from cryoden.__main__ import main
if sys.argv[1] in ("train", "denoise", "evaluate"):
    import torch
    from cryoden.model import devices
    torch.set_num_threads(1)
    devices.CPU_INFO = pathlib.Path("no-such-file")  # as in conftest
    backward = torch.Tensor.backward
    def slow_backward(*words, **more):
        pathlib.Path("step").touch()
        time.sleep(0.1)
        backward(*words, **more)
    torch.Tensor.backward = slow_backward
replace = os.replace
def slow_replace(source, target):
    time.sleep(0.1)
    replace(source, target)
os.replace = slow_replace
sys.exit(main())
"""


def start(words: Sequence[object], **settings: str) -> subprocess.Popen[str]:
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", **settings)
    line = [sys.executable, "-c", SLOWLY, *map(str, words)]
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stop(words: Sequence[object], number: int, is_due: Callable[[], bool]) -> None:
    """Start a command, stop it as soon as it is due, and look at what it says and leaves."""
    process = start([*words, "--output", "out"])
    while not is_due() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, err
    assert err.splitlines()[-1] == f"cryoden: {STOPPED_LINE}"
    assert err.count("Stopped") == 1
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert leftovers(Path("out")) == []
    assert not (Path("out") / LOCK_NAME).exists()
    ending = read_ending(Path("out") / outputs.OUTCOME)
    assert ending is not None
    assert ending.status == STOPPED


def has_lines(n: int) -> Callable[[], bool]:
    """Return what says whether so many items are finished."""
    log = Path("out") / outputs.LOG
    return lambda: log.exists() and log.read_text().count("\n") >= n


RESULTS = {".mrc", ".star", ".npz", ".safetensors", ".csv", ".png"}
"""Endings of what says nothing of when it was made."""


def contents(folder: str) -> Dict[str, bytes]:
    """Return the results in a folder."""
    paths = [path for path in Path(folder).rglob("*") if path.suffix in RESULTS]
    return {str(path.relative_to(folder)): without_time(path) for path in paths}


def without_time(path: Path) -> bytes:
    """Return the content of a file without the seconds that it took, and in one order what chance orders in it."""
    content = path.read_bytes()
    if path.suffix != ".safetensors":
        return content
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    card = json.loads(header["__metadata__"]["card"])
    del card["training"]["seconds"]
    header["__metadata__"]["card"] = card
    return json.dumps(header, sort_keys=True).encode() + content[end:]


def assert_continues(run: Run, words: List[object]) -> None:
    """Continue a command that was stopped with the same words, and compare with one that was never stopped."""
    for folder in ("whole", "out"):
        result = run(*words, "--output", folder)
        assert result.status == 0, result.err
    expected = {name: content.replace(b"whole/", b"out/") for name, content in contents("whole").items()}
    assert contents("out") == expected


@pytest.fixture
def movies(tmp_path: Path) -> Path:
    (tmp_path / "movies").mkdir()
    for number in range(6):
        frames = np.random.default_rng(number).poisson(4, (4, 40, 48)).astype(np.int8)
        write_raw_mrc(tmp_path / "movies" / f"m{number}.mrc", frames, 0)
    return tmp_path / "movies"


@pytest.fixture
def halves() -> None:
    write_halves(Path(), n=5)


def test_halves(cryoden: Run, movies: Path) -> None:
    words = ["halves", *sorted(movies.iterdir()), "--jobs", 1]
    stop(words, signal.SIGTERM, has_lines(2))
    assert_continues(cryoden, words)


def test_denoising(cryoden: Run, halves: None, make_model: Callable[..., Path]) -> None:
    words = ["denoise", "odd", "--model", make_model()]
    stop(words, signal.SIGINT, has_lines(2))
    assert_continues(cryoden, words)


def test_evaluation(
    cryoden: Run, halves: None, make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryoden.report.html_report.write_report", lambda folder: Path(folder))  # it takes long
    words = ["evaluate", "--odd", "odd", "--even", "even", "--model", make_model(), "--bootstrap", 10]
    measured = Path("out") / outputs.MEASUREMENTS
    stop(words, signal.SIGTERM, lambda: len(list(measured.glob("*.npz"))) >= 2)
    assert_continues(cryoden, words)


def test_training(cryoden: Run, halves: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped in its first epoch, and continued; in its second, and continued."""
    monkeypatch.setattr("cryoden.report.training_figures.draw_training", lambda *words: None)  # it takes long
    words = ["train", "--odd", "odd", "--even", "even", "--network", "cnn3", "--epochs", 2, "--crop", 32,
             "--max-batches", 6, "--min-batches", 6, "--resume"]  # fmt: skip
    stop(words, signal.SIGTERM, Path("step").exists)
    assert (Path("out") / outputs.CHECKPOINT).exists()
    assert not (Path("out") / outputs.MODEL).exists()
    stop(words, signal.SIGINT, has_lines(1))
    assert_continues(cryoden, words)


def test_of_several_processes_one_says_that_they_are_stopped(movies: Path) -> None:
    words = ["halves", *sorted(movies.iterdir()), "--jobs", 1, "--output", "out"]
    processes = [start(words, WORLD_SIZE="2", RANK=str(rank)) for rank in range(2)]
    while not has_lines(1)() and all(process.poll() is None for process in processes):
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=30)[1] for process in processes]
    assert [process.returncode for process in processes] == [143, 143]
    assert ["Stopped" in error for error in errors] == [True, False]


def shell(redirection: str, words: str) -> int:
    """Run a command, whose stderr goes into a file where it goes nowhere else; return its exit status."""
    line = f"set -o pipefail; {sys.executable} -m cryoden {words} {redirection}"
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    return subprocess.run(["bash", "-c", line], env=environment, timeout=60).returncode


@pytest.mark.parametrize(
    "redirection",
    ["2>err | head -n 1 >first", ">&- 2>err", "2>&-", ">&- 2>&-", ">/dev/full 2>err", ">/dev/full 2>/dev/full",
     "2>&1 | true"],
)  # fmt: skip
def test_the_work_goes_on_though_nobody_reads(cryoden: Run, movies: Path, redirection: str) -> None:
    assert cryoden("halves", *sorted(movies.iterdir()), "--output", "whole").status == 0
    assert shell(redirection, "halves movies/*.mrc --output out") == 0
    names = {name for name in contents("whole") if name.endswith(".mrc")}
    assert len(names) == 18
    assert all(contents("out")[name] == contents("whole")[name] for name in names)
    err = Path("err").read_text() if Path("err").exists() else ""
    assert "Traceback" not in err
    assert "Broken pipe" not in err


def test_failures_are_told_by_the_status_though_nobody_reads(movies: Path) -> None:
    (movies / "m1.mrc").write_bytes(b"damaged")
    assert shell(">/dev/full 2>/dev/full", "halves movies/*.mrc --output out") == 1
    assert shell(">&- 2>&-", "halves movies/m1.mrc --output none") == 2
    assert shell(">/dev/full", "--help 2>err") == 0
    assert shell(">&-", "--version 2>err") == 0
    assert shell(">/dev/full", "halves 2>/dev/full") == 2


def test_libraries_are_heard_when_they_warn(tmp_path: Path) -> None:
    script = """
import logging
from cryoden.__main__ import main
main(["halves", "none.mrc", "--output", "out"])
for name in ("cryoden.movies", "torch"):
    logging.getLogger(name).info("news of %s", name)
    logging.getLogger(name).warning("warning of %s", name)
"""
    said = python(["-c", script], tmp_path).stderr.splitlines()[-3:]
    assert said == ["news of cryoden.movies", "warning of cryoden.movies", "warning of torch"]


# Libraries whose loading takes a while.
LOADING_SLOWLY = """
import pathlib, sys, time
class Slow:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            pathlib.Path("loading").touch()
            time.sleep(20)
sys.meta_path.insert(0, Slow())
from cryoden.__main__ import main
sys.exit(main(["halves", "none.mrc", "--output", "out"]))
"""


@pytest.mark.parametrize(("module", "said"), [("tyro", f"cryoden: {STOPPED_LINE}\n"), ("cryoden.system.signals", "")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_libraries_are_loaded(tmp_path: Path, module: str, said: str, number: int) -> None:
    """Before the modules of signals are there, the system ends the process; nobody sees a traceback."""
    line = [sys.executable, "-c", LOADING_SLOWLY.format(module=module)]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not Path("loading").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == (128 + number if said else -number)
    assert (out, err) == ("", said)


def test_a_command_that_is_called_leaves_the_handlers_as_they_were(cryoden: Run) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert cryoden("--version").status == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
