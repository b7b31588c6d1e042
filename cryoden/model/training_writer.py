"""What a training leaves in its folder after every epoch: the best model, samples of it, the log, a checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Dict, List

from cryoden.config import TrainConfig
from cryoden.errors import ExistingResultsError, Remedy
from cryoden.formats import outputs
from cryoden.formats.files import make_folder
from cryoden.formats.output_folder import require_own_folder
from cryoden.formats.training_folder import write_log, write_samples
from cryoden.model.checkpoints import changed_options, options_of_model, recorded_options, save_state
from cryoden.model.schedule import Stopwatch
from cryoden.model.trained_model import training_card, write_trained
from cryoden.model.training_setup import TrainingSetup
from cryoden.model.validation import Comparison, samples

log = logging.getLogger(__name__)


class TrainingWriter:
    """Writes the files of a training; in all processes but the first it only counts.

    Parameters
    ----------
    setup
        What is trained.
    stopwatch
        Says how long, and when a checkpoint is due.
    """

    def __init__(self, setup: TrainingSetup, stopwatch: Stopwatch) -> None:
        self._setup, self._stopwatch = setup, stopwatch
        self._folder = Path(setup.config.output)
        self._is_first = setup.shard.rank == 0
        self._last_checkpoint = stopwatch.seconds

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether the last checkpoint is longer ago than the options allow."""
        return self._stopwatch.seconds - self._last_checkpoint > 60 * self._setup.config.checkpoint_minutes

    def write_epoch(self, record: Dict[str, Any], compared: List[Comparison]) -> None:
        """End an epoch, and write what it brought.

        The model comes first, if it is the best, then the log, then the checkpoint: what a kill leaves in between is
        made again.

        Parameters
        ----------
        record
            Its line of the log.
        compared
            Its validation.
        """
        progress = self._setup.state.progress
        is_best = progress.end_epoch(record)
        if self._is_first:
            if is_best:
                self._write_model(self._folder / outputs.MODEL, record)
                write_samples(self._folder, samples(compared))
            if self._setup.config.keep == "all":
                folder = make_folder(self._folder / outputs.EPOCHS)
                self._write_model(folder / outputs.model_of_epoch(progress.epoch), record)
            _log_epoch(record, is_best)
            write_log(self._folder, progress.records)
        self._write_state()

    def write_checkpoint(self, loss_sum: float) -> None:
        """Write the state inside an epoch.

        Parameters
        ----------
        loss_sum
            Sum of the losses of the epoch until now.
        """
        progress = self._setup.state.progress
        progress.seconds, progress.loss_sum = self._stopwatch.seconds, loss_sum
        self._write_state()

    def _write_state(self) -> None:
        self._last_checkpoint = self._stopwatch.seconds
        if self._is_first:
            setup = self._setup
            save_state(self._folder, {**setup.state.state_dict(), "options": setup.lasting_options})

    def _write_model(self, path: Path, record: Dict[str, Any]) -> None:
        setup = self._setup
        records = setup.state.progress.records
        r2_before = records[-2]["r2"] if len(records) > 1 else None
        start = records[0].get("start")
        card = training_card(setup.config, setup.data, setup.normalization, setup.crop, record, r2_before, start)
        write_trained(path, setup.state.averaged_network, card)


def _log_epoch(record: Dict[str, Any], is_best: bool) -> None:
    if not record["epoch"]:
        log.info(
            "Start: held-out loss %.5f, R2 %.4f (Wiener filter %.4f)",
            record["validation_loss"], record["r2"], record["wiener_r2"],
        )  # fmt: skip
        return
    log.info(
        "Epoch %d: loss %.5f, held-out loss %.5f, R2 %.4f%s (Wiener filter %.4f), %.1f crops/s",
        record["epoch"],
        record["loss"],
        record["validation_loss"],
        record["r2"],
        " (best)" if is_best else "",
        record["wiener_r2"],
        record["crops_per_second"],
    )


def as_begun(folder: Path, config: TrainConfig) -> TrainConfig:
    """Return the options with what the training that goes on has settled, where they leave it open.

    Raises
    ------
    FileError
        If the training's checkpoint cannot be read.
    """
    if not config.resume:
        return config
    recorded = recorded_options(folder)
    return config if recorded is None else config.begun_with(recorded)


def require_own_training(folder: Path, config: TrainConfig) -> None:
    """Refuse a folder that holds another training, or what this command did not make.

    Raises
    ------
    ExistingResultsError
        If it does.
    """
    if (folder / outputs.CHECKPOINT).exists() and not config.resume:
        raise ExistingResultsError(f"{folder} holds a training already.", subject=str(folder), remedy=Remedy("resume"))

    # Killed before its first checkpoint, a training leaves a model that says by which options it was made.
    if not (config.resume and _is_model_of(folder / outputs.MODEL, config)):
        files = (outputs.MODEL, outputs.SAMPLES, outputs.CURVES)
        require_own_folder(folder, outputs.CHECKPOINT, files, [f"{outputs.EPOCHS}/*"])


def _is_model_of(path: Path, config: TrainConfig) -> bool:
    options = options_of_model(path)
    return options is not None and not changed_options(options, config.lasting_options())
