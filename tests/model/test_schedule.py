from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Optional

import numpy as np
import pytest

from cryoden.config import TrainConfig
from cryoden.model.schedule import (
    Stopwatch,
    TrainingProgress,
    expected_pixels,
    has_lost_patience,
    learning_rate_factor,
    share_done,
)


def config_of(**options: Any) -> TrainConfig:
    return TrainConfig(odd="odd", even="even", output="out", **options)


def test_learning_rate_warms_up_then_falls_along_a_cosine_to_zero() -> None:
    shares = np.linspace(0, 1, 201)
    factors = np.array([learning_rate_factor(share) for share in shares])
    peak = int(np.argmax(factors))
    assert shares[peak] == pytest.approx(0.05)
    assert factors[peak] == pytest.approx(1)
    assert np.all(np.diff(factors[: peak + 1]) > 0)
    assert np.all(np.diff(factors[peak:]) < 0)
    assert factors[0] > 0
    assert learning_rate_factor(1.0) == pytest.approx(0)
    assert learning_rate_factor(0.525) == pytest.approx(0.5)  # half-way through the cosine
    assert learning_rate_factor(1.5) == pytest.approx(0)


@pytest.mark.parametrize(
    ("options", "epochs", "seconds", "share"),
    [
        ({"epochs": 20}, 5.0, 1e9, 0.25),
        ({"epochs": 20}, 5.5, 0.0, 0.275),
        ({"minutes": 2.0}, 1e9, 30.0, 0.25),
        ({"minutes": 2.0, "epochs": 1}, 0.0, 180.0, 1.5),
    ],
)
def test_minutes_where_there_are_such_else_epochs_say_how_much_is_done(
    options: dict, epochs: float, seconds: float, share: float
) -> None:
    assert share_done(config_of(**options), epochs, seconds) == pytest.approx(share)


@pytest.mark.parametrize(
    ("options", "n_batches"),
    [
        # two micrographs of 1024 x 1024 have 4 x 16 crops of 256 px each, in batches of 8
        ({}, 100),
        ({"min_batches": 1}, 16),
        ({"min_batches": 1, "max_batches": 3}, 3),
        ({"max_batches": 1000}, 100),
    ],
)
def test_pixels_that_a_training_learns_from(options: dict, n_batches: int) -> None:
    config = config_of(epochs=3, **options)
    assert expected_pixels(config, [(1024, 1024)] * 2, 256) == 3 * n_batches * 8 * 256**2


def test_best_epoch_is_the_first_of_the_highest_r2() -> None:
    progress = TrainingProgress()
    bests = []
    for number, r2 in enumerate((-0.2, 0.1, 0.5, 0.4, 0.5), 1):
        progress.batch, progress.loss_sum, progress.step = 7, 1.5, 10 * number
        assert progress.steps_of_epoch == 10
        record = {"epoch": number, "r2": r2, "seconds": 2.0 * number, "step": progress.step}
        bests.append(progress.end_epoch(record))
        assert (progress.epoch, progress.batch, progress.loss_sum, progress.seconds) == (number, 0, 0.0, 2.0 * number)
        assert progress.steps_of_epoch == 0
    assert bests == [True, True, True, False, False]
    assert (progress.best_r2, progress.best_epoch) == (0.5, 3)
    assert [record["r2"] for record in progress.records] == [-0.2, 0.1, 0.5, 0.4, 0.5]


def test_progress_comes_back_from_a_checkpoint() -> None:
    progress = TrainingProgress(2, 3, 40, 5.5, 1.25, 0.5, 1, [{"epoch": 1}])
    assert TrainingProgress.from_dict(asdict(progress)) == progress
    assert TrainingProgress.from_dict(asdict(TrainingProgress())).best_r2 == -math.inf


@pytest.mark.parametrize(
    "change", [{"epoch": "1"}, {"epoch": True}, {"seconds": 1}, {"records": None}, {"speed": 1.0}, {"batch": None}]
)
def test_progress_of_another_form_is_refused(change: dict) -> None:
    with pytest.raises(TypeError):
        TrainingProgress.from_dict({**asdict(TrainingProgress()), **change})
    without = asdict(TrainingProgress())
    del without["step"]
    with pytest.raises(TypeError):
        TrainingProgress.from_dict(without)


def test_stopwatch_counts_what_was_trained_before() -> None:
    times = iter([100.0, 103.0, 110.0])
    stopwatch = Stopwatch(50.0, lambda: next(times))
    assert [stopwatch.seconds, stopwatch.seconds] == [53.0, 60.0]


@pytest.mark.parametrize(
    ("patience", "epoch", "best_epoch", "is_over"),
    [
        (None, 12, 3, False),
        (None, 13, 3, True),
        (None, 40, 21, False),
        (None, 42, 21, True),
        (0, 90, 1, False),
        (4, 7, 3, True),
    ],
)
def test_patience_grows_with_the_best_epoch(
    patience: Optional[int], epoch: int, best_epoch: int, is_over: bool
) -> None:
    """Without a number, a training may go on for as long as it took to reach the best, at least 10 epochs."""
    progress = TrainingProgress(epoch=epoch, best_epoch=best_epoch)
    assert has_lost_patience(config_of(patience=patience), progress) == is_over
