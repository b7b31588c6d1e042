"""A process ends with the program that started it: at work as by SIGTERM, otherwise when it looks."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from cryoden.system import lifeline as lifeline_module
from cryoden.system.lifeline import Lifeline
from cryoden.system.signals import Stopped, stop_on_signals
from tests.helpers import ROOT

DEAF = """
import signal, time
from cryoden.system import lifeline
signal.signal(signal.SIGTERM, signal.SIG_IGN)
lifeline.GRACE_SECONDS = 0.1
with lifeline.Lifeline().working():
    print("at work", flush=True)
    time.sleep(60)
"""


def test_between_two_tasks_it_is_only_said() -> None:
    reading, writing = os.pipe()
    lifeline = Lifeline(reading)
    os.write(writing, b"means nothing")
    lifeline.sleep(0.01)
    assert not lifeline.is_cut()
    with lifeline.working():
        pass
    os.close(writing)
    lifeline.sleep(60)
    assert lifeline.is_cut()
    os.close(reading)


@pytest.mark.parametrize("is_at_work", [True, False])
def test_work_is_ended(is_at_work: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also work that begins after the pipe was closed, before anybody has looked; what comes after it is not."""
    monkeypatch.setattr(lifeline_module, "GRACE_SECONDS", 0.1)
    reading, writing = os.pipe()
    lifeline = Lifeline(reading)
    if not is_at_work:
        os.close(writing)
        lifeline.sleep(60)

    def work() -> None:
        with stop_on_signals(), lifeline.working():
            if is_at_work:
                os.close(writing)
            time.sleep(60)

    with pytest.raises(Stopped):
        work()
    time.sleep(0.3)
    os.close(reading)


def test_who_does_not_hear_is_ended_all_the_same() -> None:
    line = [sys.executable, "-c", DEAF]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    with subprocess.Popen(line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"at work\n"
        process.communicate()
    assert process.returncode == 143
