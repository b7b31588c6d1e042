"""What a training says of itself while it runs: a bar or lines, and a file in its folder for whoever started it."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Callable, Optional, Tuple, Type

from cryoden.config import TrainConfig
from cryoden.errors import CryodenError
from cryoden.formats import outputs
from cryoden.formats.training_folder import TrainingStatus, remove_status, write_status
from cryoden.model.schedule import TrainingProgress
from cryoden.system.progress import Clock, ProgressDisplay, RemainingTime
from cryoden.wording import counted

log = logging.getLogger(__name__)

SHOW_SECONDS = 1.0
"""Between two looks at the loss, for which a GPU is waited for."""

WRITE_SECONDS = 10.0
"""Between two versions of the file."""


class TrainingReporter:
    """Says how far a training is; use it as a context manager. It changes nothing of what is learned.

    Parameters
    ----------
    config
        The options; None: nothing is said, by a process beside the first.
    is_new
        False where a checkpoint lies in the folder, in which nothing is written before `begin`: it may turn out to be
        that of another training.
    clock
        Says the time in seconds. It is none of the training's own.
    """

    def __init__(
        self, config: Optional[TrainConfig] = None, is_new: bool = True, clock: Clock = time.monotonic
    ) -> None:
        self._config, self._clock = config, clock
        self._display = ProgressDisplay("Training", is_shown=config is not None, clock=clock)
        self._remaining: Optional[RemainingTime] = None
        self._share_begun = 0.0
        self._status = TrainingStatus()
        self._warnings: Tuple[str, ...] = ()
        self._is_writing = is_new
        self._shown_at = self._written_at = float("-inf")

    def __enter__(self) -> TrainingReporter:
        self._display.__enter__()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if kind is None:
            self._display.update(1.0, self._status.place, facts=self._status.facts)
        self._display.__exit__(kind, value, trace)
        if self._config is None or not self._is_writing:
            return
        # What is over needs no status, nor does what leaves nothing to go on from.
        if kind is None or not (Path(self._config.output) / outputs.CHECKPOINT).exists():
            remove_status(self._config.output)
        else:
            self._write()

    def warn(self, text: str) -> None:
        """Say something that is wrong with the data, and go on saying it in the folder."""
        log.warning("cryoden: warning: %s", text)
        self._warnings = (*self._warnings, text)

    def begin(self, progress: TrainingProgress, done: float, config: Optional[TrainConfig] = None) -> None:
        """Say where the training starts, or is resumed.

        Parameters
        ----------
        progress
            How far it is.
        done
            The share of it that is over, 0 to 1.
        config
            The options, where some of them were settled since.
        """
        if self._config is None:
            return
        self._config = config or self._config
        self._is_writing = True
        self._remaining, self._share_begun = RemainingTime(self._clock), done
        self._say(self._at(progress, done, None))

    def step(self, progress: TrainingProgress, n_batches: int, done: float, loss: Callable[[], float]) -> None:
        """Say where the training is, if the last time is long enough ago.

        Parameters
        ----------
        progress
            How far it is.
        n_batches
            Of this epoch.
        done
            The share of the training that is over, 0 to 1.
        loss
            Returns the sum of the epoch's losses until now.
        """
        if self._config is None or self._clock() < self._shown_at + SHOW_SECONDS:
            return
        n_steps = progress.steps_of_epoch
        status = self._at(progress, done, n_batches)
        self._say(replace(status, loss=loss() / n_steps if n_steps else None))

    def counting(self, words: str, n_micrographs: int) -> Callable[[], None]:
        """Return what is to be called for each of some micrographs of which, until the next step, `words` are said."""
        if self._config is None:
            return lambda: None
        numbers = itertools.count()
        lock = threading.Lock()

        def say() -> None:
            with lock:  # those who read are several threads
                done = f"{next(numbers)} of {counted(n_micrographs, 'micrograph')}"
                self._say(replace(self._status, activity=f"{words}, {done}"))

        say()
        return say

    def _at(self, progress: TrainingProgress, done: float, n_batches: Optional[int]) -> TrainingStatus:
        config = self._config
        assert config is not None
        is_timed = config.minutes is not None
        if config.minutes is not None:
            seconds_left: Optional[float] = max(1 - done, 0.0) * 60 * config.minutes
        else:
            seconds_left = self._remaining.seconds(done - self._share_begun, 1 - done) if self._remaining else None
        return TrainingStatus(
            epoch=progress.epoch + 1,
            n_epochs=None if is_timed else config.n_epochs,
            step=progress.step,
            n_steps=None if is_timed or n_batches is None else n_batches * config.n_epochs,
            share=done,
            seconds_left=seconds_left,
            r2=progress.records[-1]["r2"] if progress.records else None,
            warnings=self._warnings,
        )

    def _say(self, status: TrainingStatus) -> None:
        self._status = status
        self._display.update(status.share, status.place, status.seconds_left, status.facts)
        now = self._shown_at = self._clock()
        if self._is_writing and now >= self._written_at + WRITE_SECONDS:
            self._written_at = now
            self._write()

    def _write(self) -> None:
        assert self._config is not None
        try:
            write_status(self._config.output, self._status)
        except CryodenError as error:  # the training itself goes on
            self._written_at = float("inf")
            log.warning("How far the training is cannot be written: %s", error)
