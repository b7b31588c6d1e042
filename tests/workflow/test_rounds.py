"""A command that keeps looking for new files: one process, a round for what is new, an outcome for each."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Mapping

import numpy as np
import psutil
import pytest

from cryoden.command_line import perform
from cryoden.config import DenoiseConfig
from cryoden.errors import CryodenError, FileError, NothingDoneError, OptionError, Problem
from cryoden.formats import outputs
from cryoden.formats.outcome import DONE, FAILED, SOME_FAILED, STOPPED, Ending, file_state, read_ending
from cryoden.formats.run_record import recorded_options
from cryoden.formats.star import new_table, read_table, write_table
from cryoden.system.locks import LOCK_NAME
from cryoden.workflow.rounds import WatchingConfig, run_in_rounds
from tests.helpers import RATE, ROOT, leftovers, slowly, write_mrc
from tests.workflow.test_run import Microscope, write_movie

Failures = Mapping[str, Problem]


def write_micrograph(path: Path, seed: int = 1) -> Path:
    image = 10 + np.random.default_rng(seed).standard_normal((64, 72))
    return write_mrc(path, image.astype(np.float32))


class Rounds:
    """Runs the command, and notes what it was given and how each round ended."""

    def __init__(self, during: Callable[[], object] = lambda: None) -> None:
        self.given: List[WatchingConfig] = []
        self.endings: List[Ending] = []
        self._during = during

    def perform(self, config: WatchingConfig) -> Failures:
        self.given.append(config)
        self._during()
        return perform(config) or {}

    def run(self, config: WatchingConfig, events: Dict[float, Callable[[], object]]) -> Failures:
        microscope = Microscope(events)
        return run_in_rounds(config, self.perform, self.endings.append, microscope.clock, microscope.sleep)


def denoising(model: Path, source: str, **options: object) -> DenoiseConfig:
    config = DenoiseConfig(micrographs=(source,), model=str(model), output="out", device="cpu", watch=1.0)
    return dataclasses.replace(config, **options)  # type: ignore[arg-type]


def test_a_folder_of_micrographs_that_grows(blur_model: Path) -> None:
    """A file is used when it no longer changes; a bad one is named and tried again; each round says what it knew."""
    whole = write_micrograph(Path("elsewhere/b.mrc")).read_bytes()
    Path("mics").mkdir()
    (Path("mics") / "movie.eer").write_bytes(b"no micrograph")
    events: Dict[float, Callable[[], object]] = {
        10: lambda: write_micrograph(Path("mics/a.mrc")),
        20: lambda: Path("mics/b.mrc").write_bytes(whole[:2000]),
        60: lambda: Path("mics/b.mrc").write_bytes(whole),
        200: lambda: write_micrograph(Path("mics/too_late.mrc")),
    }
    rounds = Rounds()
    assert rounds.run(denoising(blur_model, "mics"), events) == {}
    assert [config.micrographs for config in rounds.given if isinstance(config, DenoiseConfig)] == [
        ("mics/a.mrc",), ("mics/a.mrc", "mics/b.mrc"), ("mics/a.mrc", "mics/b.mrc"),
    ]  # fmt: skip
    assert [ending.status for ending in rounds.endings] == [DONE, SOME_FAILED, DONE]
    assert [list(ending.items) for ending in rounds.endings] == [[], ["mics/b.mrc"], []]
    last = rounds.endings[-1].round
    assert last is not None
    assert (last.number, last.process) == (3, os.getpid())
    assert last.inputs == {path: file_state(path) for path in ("mics/a.mrc", "mics/b.mrc")}
    assert [Path(path).name for path in read_table("out/micrographs.star").paths] == ["a.mrc", "b.mrc"]


def test_a_list_that_grows_gives_what_one_round_gives(blur_model: Path) -> None:
    """Results, tables and records are those of the command that is given the whole list once."""
    paths = [str(write_micrograph(Path(f"mics/m{n}.mrc"), n)) for n in range(4)]

    def write_list(n: int) -> None:
        write_table("list.star", new_table(paths[:n], RATE, 300.0, 2.7, 0.1))

    write_list(2)
    rounds = Rounds()
    rounds.run(denoising(blur_model, "list.star"), {30: lambda: write_list(4)})
    assert [config.micrographs for config in rounds.given if isinstance(config, DenoiseConfig)] == [("list.star",)] * 2
    once = dataclasses.replace(denoising(blur_model, "list.star"), watch=None, output="once")
    perform(once)
    assert recorded_options("out/denoise.json") == recorded_options("once/denoise.json")
    assert (
        Path("out/micrographs.star").read_text().replace("out/", "once/") == Path("once/micrographs.star").read_text()
    )
    for number in range(4):
        assert Path(f"out/m{number}.mrc").read_bytes()[1024:] == Path(f"once/m{number}.mrc").read_bytes()[1024:]
    perform(dataclasses.replace(once, output="out"))  # nothing is made again
    assert (Path("out") / outputs.LOG).read_text().count("\n") == 4


def test_halves_that_come_after_their_micrograph(blur_model: Path) -> None:
    """While nothing can be done yet, it waits; what belongs to an input makes a round too."""
    path = write_micrograph(Path("mics/a.mrc"))
    halves = {half: write_micrograph(Path(f"{half}/a.mrc"), seed) for seed, half in enumerate(("odd", "even"))}
    write_micrograph(Path("odd/b.mrc")), write_micrograph(Path("even/b.mrc"))
    late = halves["even"].read_bytes()
    halves["even"].unlink()
    rounds = Rounds()
    config = denoising(blur_model, str(path), odd="odd", even="even")
    assert rounds.run(config, {30: lambda: halves["even"].write_bytes(late)}) == {}
    assert [ending.status for ending in rounds.endings] == [FAILED, DONE]
    assert rounds.endings[0].has(NothingDoneError.kind)
    assert rounds.endings[0].round is not None


def test_what_comes_in_a_round_makes_the_next_one(blur_model: Path) -> None:
    write_micrograph(Path("mics/a.mrc"))
    rounds = Rounds(lambda: Path("mics/b.mrc").exists() or write_micrograph(Path("mics/b.mrc")))
    rounds.run(denoising(blur_model, "mics"), {})
    assert [len(config.micrographs) for config in rounds.given if isinstance(config, DenoiseConfig)] == [1, 2]


def test_the_folder_is_its_own_also_between_rounds(blur_model: Path) -> None:
    write_micrograph(Path("mics/a.mrc"))
    said: List[str] = []

    def other() -> None:
        code = "from cryoden.system.locks import FolderLock\nwith FolderLock('out'): pass"
        environment = dict(os.environ, PYTHONPATH=str(ROOT))
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        said.append(done.stderr.splitlines()[-1])

    Rounds().run(denoising(blur_model, "mics"), {40: other})
    assert "cryoden denoise" in said[0]
    assert not (Path("out") / LOCK_NAME).exists()


def test_nothing_came_or_nothing_usable(blur_model: Path) -> None:
    Path("mics").mkdir()
    with pytest.raises(FileError, match="There is no image mics"):
        Rounds().run(denoising(blur_model, "mics"), {})
    assert not Path("out").exists()
    Path("mics/bad.mrc").write_bytes(b"no image")
    with pytest.raises(NothingDoneError):
        Rounds().run(denoising(blur_model, "mics"), {})


def test_an_error_that_is_not_an_inputs_ends_it(blur_model: Path) -> None:
    write_micrograph(Path("mics/a.mrc"))
    rounds = Rounds()
    with pytest.raises(CryodenError, match="missing"):
        rounds.run(denoising(Path("missing.safetensors"), "mics"), {})
    assert rounds.endings == []


def test_one_process_looks(blur_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="--watch and several GPUs exclude each other"):
        denoising(blur_model, "mics", gpus="0,1")
    with pytest.raises(OptionError, match="--end-with-stdin has no meaning alone"):
        denoising(blur_model, "mics", watch=None, end_with_stdin=True)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CryodenError, match="2 processes were started"):
        Rounds().run(denoising(blur_model, "mics"), {})


# ---------------------------------------------------------------------- the process, and who started it
WORDS = ("halves", "list.star", "--output", "out", "--watch", 10, "--poll-seconds", 0.1, "--outcome", "outcome.json")

SLOWLY = slowly(0.2)
"""A command that takes long over every image."""

PARENT = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1], shell=True, stdin=subprocess.PIPE)
time.sleep(60)
"""
"""A program that starts a command through a shell and keeps its standard input open."""


def list_movies(n: int) -> None:
    for number in range(n):
        if not Path(f"movies/m{number}.mrcs").exists():
            write_movie(Path(f"movies/m{number}.mrcs"), number)
    write_table("list.star", new_table([f"movies/m{n}.mrcs" for n in range(n)], RATE, 300.0, 2.7, 0.1))


def environment() -> Dict[str, str]:
    return dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")


@contextmanager
def started(*words: object) -> Iterator[subprocess.Popen[str]]:
    """Start the command, and see that it is gone at the end."""
    line = [sys.executable, "-m", "cryoden", *map(str, (*WORDS, *words))]
    process = subprocess.Popen(
        line, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(is_due: Callable[[], bool]) -> None:
    begun = time.monotonic()
    while not is_due():
        assert time.monotonic() - begun < 60
        time.sleep(0.02)


def round_of_list() -> Ending:
    """Wait for the round that took the list as it is; return how it ended."""
    state = file_state("list.star")
    found: List[Ending] = []

    def has_come() -> bool:
        ending = read_ending("outcome.json")
        if ending is not None and ending.round is not None and ending.round.inputs.get("list.star") == state:
            found.append(ending)
        return bool(found)

    wait_until(has_come)
    return found[0]


def test_one_process_for_many_rounds() -> None:
    """The same process does them; a kill between two of them loses nothing; it ends with its standard input."""
    list_movies(2)
    with started("--end-with-stdin") as first:
        assert round_of_list().status == DONE
        Path("movies/m2.mrcs").write_bytes(b"no movie")
        list_movies(3)
        ending = round_of_list()
        assert (ending.status, list(ending.items)) == (SOME_FAILED, ["movies/m2.mrcs"])
        assert ending.round is not None
        assert (ending.round.number, ending.round.process) == (2, first.pid)
        first.send_signal(signal.SIGKILL)
        first.wait()

    times = {path: path.stat().st_mtime_ns for path in Path("out").rglob("m?.mrc")}
    list_movies(4)
    with started("--end-with-stdin") as second:
        ending = round_of_list()
        assert ending.round is not None
        assert (ending.status, ending.round.process) == (SOME_FAILED, second.pid)
        out, err = second.communicate()  # closes its standard input
        assert second.returncode == 1
        assert err.count("failed: movies/m2.mrcs") == 1  # by the round, and not once more at the end
        assert "3 of 4 movies are split" in out
    assert read_ending("outcome.json") == ending
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(list(Path("out").rglob("m?.mrc"))) == 9
    assert not (Path("out") / LOCK_NAME).exists()


def test_it_does_not_outlive_who_started_it() -> None:
    """Killed -9 in the middle of a round, behind a shell: what it started ends as stopped."""
    list_movies(40)
    words = [sys.executable, "-c", SLOWLY, *map(str, WORDS), "--end-with-stdin"]
    line = f"true && {shlex.join(words)}; exit $?"
    with subprocess.Popen([sys.executable, "-c", PARENT, line], env=environment()) as parent:
        wait_until(Path("out/full/m0.mrc").exists)
        (shell,) = psutil.Process(parent.pid).children()
        (command,) = shell.children()
        parent.kill()
    gone, alive = psutil.wait_procs([command], timeout=15)
    assert (gone, alive) == ([command], [])
    ending = read_ending("outcome.json")
    assert ending is not None
    assert (ending.status, ending.round) == (STOPPED, None)
    assert 0 < len(list(Path("out/full").glob("*.mrc"))) < 40
    assert leftovers(Path("out")) == []
    assert not (Path("out") / LOCK_NAME).exists()
