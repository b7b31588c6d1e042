"""When a training ends, and how fast it learns on the way there."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Sequence, Tuple

from cryoden.config import TrainConfig
from cryoden.wording import counted

log = logging.getLogger(__name__)

WARM_UP = 0.05
"""Share of the training in which the learning rate rises."""

LEAST_PATIENCE = 10
"""Epochs without a better model that a training always goes on, unless told otherwise."""


@dataclass
class TrainingProgress:
    """How far a training is; what a checkpoint needs in addition to the tensors.

    Attributes
    ----------
    epoch, batch
        Finished epochs, and finished batches of the one that runs.
    step
        Optimisation steps so far.
    seconds
        Time trained, validation included.
    loss_sum
        Sum of the losses of the epoch that runs.
    best_r2, best_epoch
        The best validation so far.
    records
        The log.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    best_r2: float = -math.inf
    best_epoch: int = 0
    records: List[Dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Any) -> TrainingProgress:
        """Return what `dataclasses.asdict` made a dictionary of, also version 0.1.

        Raises
        ------
        TypeError
            If a field is unknown, missing, or of another type.
        """
        types = {field.name: type(getattr(cls(), field.name)) for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != set(types):
            raise TypeError(f"progress must have the fields {', '.join(types)}")
        wrong = [name for name, kind in types.items() if type(values[name]) is not kind]
        if wrong:
            raise TypeError(f"{wrong[0]} of the progress is {values[wrong[0]]!r}")
        return cls(**values)

    @property
    def steps_of_epoch(self) -> int:
        """Optimisation steps in the epoch that runs: a batch without a usable micrograph is none."""
        return self.step - (self.records[-1]["step"] if self.records else 0)

    @property
    def is_start_best(self) -> bool:
        """Whether no epoch was better than the model that the training started from."""
        return bool(self.records) and self.best_epoch == 0

    def end_epoch(self, record: Dict[str, Any]) -> bool:
        """Begin the next epoch and take the record of the finished one into the log; return whether it is the best."""
        self.epoch, self.batch, self.loss_sum = record["epoch"], 0, 0.0
        self.seconds = record["seconds"]
        self.records.append(record)

        is_best = record["r2"] > self.best_r2
        if is_best:
            self.best_r2, self.best_epoch = record["r2"], self.epoch
        return is_best


class Stopwatch:
    """Seconds of a training, those before it was resumed included.

    Parameters
    ----------
    seconds
        Trained before.
    clock
        Says the time in seconds.
    """

    def __init__(self, seconds: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock() - seconds

    @property
    def seconds(self) -> float:
        """Time trained until now."""
        return self._clock() - self._begun


def share_done(config: TrainConfig, epochs: float, seconds: float) -> float:
    """Return how much of a training is over, of its minutes if it has such, else of its epochs; 1 or more = all."""
    if config.minutes is not None:
        return seconds / (60 * config.minutes)
    return epochs / config.n_epochs


def expected_pixels(config: TrainConfig, shapes: Sequence[Tuple[int, int]], crop: int) -> int:
    """Return about how many pixels a training of all its epochs learns from.

    Parameters
    ----------
    config
        The options.
    shapes
        Rows and columns of the pairs: a half-overlapping grid has each pixel four times.
    crop
        Side of the crops in pixels.
    """
    n_batches = sum(rows * columns for rows, columns in shapes) * 4 // (config.batch_size * crop**2)
    n_batches = min(max(n_batches, config.min_batches), config.max_batches or n_batches + config.min_batches)
    return config.n_epochs * n_batches * config.batch_size * crop**2


def has_lost_patience(config: TrainConfig, progress: TrainingProgress) -> bool:
    """Return whether the held-out R2 has not risen for too long, and say so."""
    patience = config.patience
    if patience is None:
        patience = max(LEAST_PATIENCE, progress.best_epoch)
    if not patience or progress.epoch - progress.best_epoch < patience:
        return False
    log.info("Stopped: the held-out R2 has not improved for %s.", counted(patience, "epoch"))
    return True


def learning_rate_factor(progress: float) -> float:
    """Return the learning rate's share of its highest value at a progress between 0 and 1: warm-up, then a cosine."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min((progress - WARM_UP) / (1 - WARM_UP), 1.0)))
