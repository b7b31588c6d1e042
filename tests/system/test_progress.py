"""What is said of long work: durations, the time that is left, lines and bars."""

from __future__ import annotations

import io
import sys
import threading
import time
from pathlib import Path
from typing import List

import pytest

from cryoden.errors import PixelError
from cryoden.formats.progress_log import ProgressLog
from cryoden.system import progress
from cryoden.system.progress import ProgressDisplay, RemainingTime, part_of, said_duration


class HandClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(1, "1 second"), (40.4, "40 seconds"), (89, "89 seconds"), (91, "2 minutes"), (12 * 60, "12 minutes"),
     (3.5 * 3600, "3.5 hours"), (72 * 3600, "3.0 days")],
)  # fmt: skip
def test_durations_are_said_in_fitting_units(seconds: float, said: str) -> None:
    assert said_duration(seconds) == said


def test_the_pace_of_late_counts() -> None:
    clock = HandClock()
    remaining = RemainingTime(clock)
    assert remaining.seconds(0, 1000) is None
    for done in range(1, 101):  # one a second
        clock.now += 1
        seconds = remaining.seconds(done, 1000 - done)
    assert seconds == pytest.approx(900)

    for done in range(101, 151):  # then one in ten seconds
        clock.now += 10
        seconds = remaining.seconds(done, 1000 - done)
    assert seconds == pytest.approx(8500, rel=0.02)


def test_samples_of_the_pace_are_bounded() -> None:
    clock = HandClock()
    remaining = RemainingTime(clock)
    for done in range(20000):
        clock.now += 1
        remaining.seconds(done, 1)
    assert len(remaining._samples) < 250


def test_parts_of_a_share_follow_each_other() -> None:
    said: List[float] = []
    for number in range(2):
        part_of(said.append, number, 2)(0.5)
    assert said == [0.25, 0.75]


def test_quick_work_says_nothing(capsys: pytest.CaptureFixture) -> None:
    with ProgressDisplay("Cutting") as display:
        display.update(0.5, "1 of 2 crops")
    assert capsys.readouterr() == ("", "")


def lines_of(log: ProgressLog, capsys: pytest.CaptureFixture, n_lines: int) -> List[str]:
    """Return the lines that are said, the first of them after what the log knows now."""
    lines: List[str] = []
    while len(lines) < n_lines:
        time.sleep(0.01)
        lines += capsys.readouterr().out.splitlines()
    return lines


def test_lines_say_how_far_a_list_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Also within an item; an item that failed is named with its reason, in as many lines as there are without it."""
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.05)
    with ProgressLog(tmp_path / "log.jsonl", 4, "movie", "Splitting") as log:
        assert lines_of(log, capsys, 1)[0].startswith("Splitting: 0 of 4 movies (0%), running for 0 seconds")
        log.report("a", is_kept=True, status="kept")
        log.part("b", 0.5)
        line = lines_of(log, capsys, 2)[-1]
        assert line.startswith("Splitting: 1 of 4 movies (38%), ")
        assert line.endswith(" left")
        error = PixelError("c is constant.", subject="c")
        log.report_failure("c", error.problem, error, movie="c")
        assert lines_of(log, capsys, 2)[-1].endswith(", 1 failed, the last because: c is constant.")
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 2


def test_time_left_is_that_of_new_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand items that are kept take no time, and say nothing of the next ones."""
    clock = HandClock()
    monkeypatch.setattr(time, "monotonic", clock)
    log = ProgressLog(tmp_path / "log.jsonl", 1100, "movie", "Splitting")
    log._remaining = RemainingTime(clock)
    for number in range(1000):
        log.report(str(number), is_kept=True)
    clock.now += 10
    log.report("new")
    assert log._display._shown.seconds_left == pytest.approx(99 * 10)


@pytest.mark.parametrize("n_columns", [70, 200])
def test_a_terminal_gets_a_bar_that_fits(monkeypatch: pytest.MonkeyPatch, n_columns: int) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda file: (n_columns, 24))
    with ProgressDisplay("Denoising") as display:
        display.update(0.5, "1 of 2 micrographs", 100.0, "1 failed", "the last because: it is constant.")
    shown = terminal.getvalue().split("\r")[-1].rstrip()
    assert "1 of 2 micrographs, 2 minutes left, 1 failed" in shown
    assert "constant" not in shown  # it stands above the bar
    assert len(shown) <= n_columns
    assert "progress" not in [thread.name for thread in threading.enumerate()]
