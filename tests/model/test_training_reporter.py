"""What a training says while it runs, in lines and in its folder; what it learns does not depend on that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, List

import pytest
import torch

from cryoden.errors import ExistingResultsError, FileError
from cryoden.formats import outputs
from cryoden.formats.training_folder import TrainingStatus, read_status, write_status
from cryoden.model import training_reporter
from cryoden.model.schedule import TrainingProgress
from cryoden.model.training import TrainingStoppedError, fit, run_training
from cryoden.model.training_data import TrainingData
from cryoden.model.training_reporter import TrainingReporter
from cryoden.model.training_setup import set_up
from tests.helpers import write_halves
from tests.model.test_training import QUICK, StopAt, assert_same_training
from tests.system.test_progress import HandClock

STATUS = Path("out") / outputs.TRAINING_STATUS


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> List[TrainingStatus]:
    """Have every status said and written at once; return all that are written."""
    written: List[TrainingStatus] = []

    def write(folder: str, status: TrainingStatus) -> None:
        write_status(folder, status)
        written.append(status)

    monkeypatch.setattr(training_reporter, "SHOW_SECONDS", 0.0)
    monkeypatch.setattr(training_reporter, "WRITE_SECONDS", 0.0)
    monkeypatch.setattr(training_reporter, "write_status", write)
    return written


def test_status_goes_with_the_training(tmp_path: Path, often: List[TrainingStatus]) -> None:
    """Reading, steps, validation, epoch by epoch; nothing is left of it at the end."""
    write_halves(tmp_path, 4, noise=1.0)
    run_training(QUICK)
    assert [status.activity for status in often[:5]] == [f"reading, {n} of 4 micrographs" for n in range(5)]

    steps = [status for status in often[6:] if not status.activity]
    assert [(status.epoch, status.step) for status in steps] == [(n // 5 + 1, n + 1) for n in range(15)]
    assert {status.n_steps for status in steps} == {15}
    assert [round(status.share, 3) for status in steps] == [round(n / 15, 3) for n in range(15)]
    assert all(status.loss is not None and 0 < status.loss < 10 for status in steps)
    assert [status.r2 is None for status in steps] == [True] * 5 + [False] * 10
    assert [status.activity for status in often if "validating" in status.activity][:2] == [
        "validating, 0 of 1 micrograph", "validating, 1 of 1 micrograph",
    ]  # fmt: skip
    records = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    assert steps[-1].r2 == records[1]["r2"]
    assert not STATUS.exists()


def test_a_silent_training_learns_the_same(tmp_path: Path, often: List[TrainingStatus]) -> None:
    write_halves(tmp_path, 4, noise=1.0)
    run_training(QUICK)
    silent = replace(QUICK, output="silent")
    Path("silent").mkdir()
    data = TrainingData.find(silent)
    fit(set_up(silent, data, torch.device("cpu")))
    assert_same_training("out", "silent")


def test_status_of_a_stopped_training_stays(tmp_path: Path, often: List[TrainingStatus]) -> None:
    write_halves(tmp_path, 4, noise=1.0)
    with pytest.raises(TrainingStoppedError):
        run_training(QUICK, StopAt(9))
    status = read_status("out")
    assert status is not None
    assert (status.epoch, status.r2 is None) == (2, False)
    assert status.sentence(is_running=False).startswith("Stopped in epoch 2 of 3, R2 ")

    # A refused one leaves it alone, a resumed one goes on with it.
    before = STATUS.read_bytes()
    with pytest.raises(ExistingResultsError):
        run_training(replace(QUICK, resume=True, lr=1e-2))
    assert STATUS.read_bytes() == before
    run_training(replace(QUICK, resume=True))
    assert not STATUS.exists()


def test_a_training_that_never_began_leaves_no_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_halves(tmp_path, 4, noise=1.0)
    monkeypatch.setattr("cryoden.model.training.validate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_training(QUICK)
    assert not STATUS.exists()


def test_status_that_cannot_be_written_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(folder: str, status: TrainingStatus) -> None:
        raise FileError("The disk is slow.")

    write_halves(tmp_path, 4, noise=1.0)
    monkeypatch.setattr(training_reporter, "write_status", full)
    monkeypatch.setattr(training_reporter, "WRITE_SECONDS", 0.0)
    run_training(QUICK)
    assert caplog.text.count("How far the training is cannot be written: The disk is slow.") == 1


def reporter_at(clock: HandClock, monkeypatch: pytest.MonkeyPatch, **options: Any) -> TrainingReporter:
    monkeypatch.setattr(training_reporter, "write_status", lambda *_: None)
    return TrainingReporter(replace(QUICK, **options), clock=clock)


def test_time_left_of_epochs_is_that_of_the_pace_since_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed training has its first half for nothing."""
    clock = HandClock()
    reporter = reporter_at(clock, monkeypatch, epochs=4)
    progress = TrainingProgress(epoch=2, step=200, records=[{"step": 200, "r2": 0.2134}] * 2)
    reporter.begin(progress, 0.5)
    clock.now += 60
    progress.step += 10
    reporter.step(progress, 100, 0.6, lambda: 5.0)
    assert reporter._status == TrainingStatus(3, 4, 210, 400, 0.6, pytest.approx(240.0), 0.5, 0.2134)
    assert reporter._status.sentence() == "Epoch 3 of 4, R2 0.21, 4 minutes left."
    assert f"{reporter._status.place}, {reporter._status.facts}" == (
        "epoch 3 of 4, step 210 of 400, R2 0.213, loss 0.5000"
    )

    # The loss, which a GPU is waited for, is asked for once a second at most.
    clock.now += 0.5
    reporter.step(progress, 100, 0.7, lambda: 1 / 0)


def test_time_left_of_minutes_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    reporter = reporter_at(HandClock(), monkeypatch, minutes=20.0)
    reporter.begin(TrainingProgress(), 0.25)
    assert reporter._status.sentence() == "Epoch 1, 15 minutes left."


def test_damaged_status_is_an_error(tmp_path: Path) -> None:
    for content in ("{", '{"epok": 1}', "[]"):
        (tmp_path / outputs.TRAINING_STATUS).write_text(content)
        with pytest.raises(FileError):
            read_status(tmp_path)


def test_options_are_needed_to_say_anything(tmp_path: Path) -> None:
    """One of several processes says nothing, and computes nothing for it."""
    reporter = TrainingReporter(None)
    with reporter:
        reporter.begin(TrainingProgress(), 0.0)
        reporter.step(TrainingProgress(), 1, 0.0, lambda: 1 / 0)
        reporter.counting("reading", 3)()
    assert list(tmp_path.iterdir()) == []
