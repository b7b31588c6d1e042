"""Signals to real processes: what runs, what is removed, and with which status they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Iterator, List

import pytest

from cryoden.errors import FileError
from cryoden.system import signals
from cryoden.system.signals import STOPPED_LINE, StoppablePool, Stopped, deferring_stop, stop_on_signals
from tests.helpers import ROOT

BEFORE = """
import os, signal, sys, time, threading, warnings
from cryoden.system import signals
from cryoden.system.signals import *
from cryoden.system.signals import STOPPED_LINE

def ready():
    print("ready", flush=True)

def main():
    try:
        with stop_on_signals():
            work()
    except Stopped as stopped:
        print(f"cryoden: {STOPPED_LINE}", file=sys.stderr)
        return stopped.status
    return 0

"""


class Process:
    """A script that says `ready` on stdout."""

    def __init__(self, script: str, *words: str) -> None:
        self.process = subprocess.Popen(
            [*words, sys.executable, "-c", BEFORE + script + "\nsys.exit(main())\n"],
            env=dict(os.environ, PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", self.process.communicate()

    def end(self, *numbers: int) -> subprocess.CompletedProcess:
        for number in numbers:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return subprocess.CompletedProcess([], self.process.returncode, out, err)


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (*signals.SIGNALS, signal.SIGALRM)}
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


WAITING = """
def work():
    try:
        ready()
        time.sleep(60)
    finally:
        print("cleaned up")
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_line_and_status(number: int, status: int) -> None:
    result = Process(WAITING).end(number)
    assert (result.returncode, result.stdout, result.stderr) == (status, "cleaned up\n", f"cryoden: {STOPPED_LINE}\n")


def test_signals_in_quick_succession_are_one_request() -> None:
    result = Process(WAITING).end(signal.SIGTERM, signal.SIGINT, signal.SIGTERM)
    assert (result.stdout, result.stderr) == ("cleaned up\n", f"cryoden: {STOPPED_LINE}\n")
    assert result.returncode in (130, 143)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    script = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
def work():
    ready()
    time.sleep(60)
"""
    process = Process(script)
    process.process.send_signal(signal.SIGINT)
    assert process.end(signal.SIGTERM).returncode == 143


def test_pending_jobs_are_dropped_and_the_running_ones_finished() -> None:
    script = """
def work():
    def job(number):
        if number == 1:
            ready()
        time.sleep(0.3)
        print("job", number, flush=True)
    with StoppablePool(2) as pool:
        for future in [pool.submit(job, number) for number in range(200)]:
            future.result()
"""
    result = Process(script).end(signal.SIGTERM)
    assert result.returncode == 143
    assert 1 <= len(result.stdout.splitlines()) <= 6


def test_a_job_that_hangs_ends_with_the_process() -> None:
    script = """
signals.CLEANING_SECONDS = 0.2
def work():
    with StoppablePool(1) as pool:
        pool.submit(threading.Event().wait)
        ready()
        time.sleep(60)
"""
    result = Process(script).end(signal.SIGTERM)
    assert (result.returncode, result.stderr) == (143, f"cryoden: {STOPPED_LINE}\n")


def test_a_second_request_ends_what_hangs() -> None:
    script = """
signals.SAME_REQUEST_SECONDS = 0.0
def work():
    with StoppablePool(1) as pool:
        pool.submit(threading.Event().wait)
        try:
            ready()
            time.sleep(60)
        finally:
            ready()
"""
    process = Process(script)
    process.process.send_signal(signal.SIGINT)
    process.wait_until_ready()
    result = process.end(signal.SIGTERM)
    assert (result.returncode, result.stderr) == (130, f"cryoden: {STOPPED_LINE}\n")


SWALLOWING = {
    "finalizer": """
class Waiting:
    def __del__(self):
        ready()
        time.sleep(60)
def work():
    Waiting()
    time.sleep(60)
""",
    "handler of everything": """
def work():
    try:
        ready()
        time.sleep(60)
    except BaseException:
        pass
""",
    "another exception": """
def work():
    try:
        ready()
        time.sleep(60)
    except Stopped:
        raise SystemError("error return without exception set")
""",
}


@pytest.mark.parametrize("script", SWALLOWING.values(), ids=SWALLOWING)
def test_what_is_swallowed_stops_all_the_same(script: str) -> None:
    result = Process(script).end(signal.SIGTERM)
    assert (result.returncode, result.stderr) == (143, f"cryoden: {STOPPED_LINE}\n")


def test_a_signal_while_the_interpreter_ends() -> None:
    script = """
signals.SAME_REQUEST_SECONDS = 0.0
def late():
    threading.main_thread().join()
    time.sleep(0.3)  # until the main thread waits for this one
    ready()
    time.sleep(60)
def work():
    threading.Thread(target=late).start()
    ready()
    time.sleep(60)
"""
    process = Process(script)
    process.process.send_signal(signal.SIGINT)
    process.wait_until_ready()
    result = process.end(signal.SIGTERM)
    assert (result.returncode, result.stderr) == (130, f"cryoden: {STOPPED_LINE}\n")


DEFERRED = """
def work():
    with deferring_stop({seconds}) as should_stop:
        assert not should_stop()
        ready()
        while not ({asks} and should_stop()):
            time.sleep(0.01)
        print("checkpoint")
    print("never")
"""


def test_a_loop_that_asks_ends_by_itself() -> None:
    result = Process(DEFERRED.format(seconds=60, asks=True)).end(signal.SIGTERM)
    assert (result.returncode, result.stdout, result.stderr) == (143, "checkpoint\n", f"cryoden: {STOPPED_LINE}\n")


def test_a_loop_that_does_not_ask_is_interrupted_later() -> None:
    result = Process(DEFERRED.format(seconds=0.2, asks=False)).end(signal.SIGTERM)
    assert (result.returncode, result.stdout, result.stderr) == (143, "", f"cryoden: {STOPPED_LINE}\n")


def test_a_second_request_interrupts_the_loop_at_once() -> None:
    script = "signals.SAME_REQUEST_SECONDS = 0.0\n" + DEFERRED.format(seconds=60, asks=False)
    process = Process(script.replace("print", "ready() if should_stop() else print").replace("True", "False"))
    process.process.send_signal(signal.SIGINT)
    result = process.end(signal.SIGTERM)
    assert (result.returncode, result.stderr) == (130, f"cryoden: {STOPPED_LINE}\n")


def test_what_goes_wrong_while_stopping_is_said() -> None:
    """That a checkpoint cannot be written is not hidden by the stop that asked for it."""

    def train() -> None:
        with stop_on_signals(), deferring_stop() as should_stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert should_stop()
            raise FileError("The disk is full.")

    with pytest.raises(FileError, match="full"):
        train()


def test_stopped_is_raised_in_this_process_and_handlers_return() -> None:
    handlers = [signal.getsignal(number) for number in signals.SIGNALS]
    with stop_on_signals(), stop_on_signals():
        assert [signal.getsignal(number) for number in signals.SIGNALS] != handlers
    assert [signal.getsignal(number) for number in signals.SIGNALS] == handlers

    def wait() -> None:
        with stop_on_signals():
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()

    with pytest.raises(Stopped) as stopped:
        wait()
    assert stopped.value.status == 130
    assert not issubclass(Stopped, Exception)


def test_outside_of_the_main_thread_nothing_is_changed() -> None:
    seen: List[object] = []

    def run() -> None:
        with stop_on_signals(), deferring_stop() as should_stop:
            seen.extend([signal.getsignal(signal.SIGTERM), should_stop()])

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before, False]


def test_a_pool_without_an_exception_does_everything() -> None:
    done: List[int] = []
    with StoppablePool(2) as pool:
        futures = [pool.submit(done.append, number) for number in range(20)]
    assert sorted(done) == list(range(20))
    assert all(future.done() for future in futures)
