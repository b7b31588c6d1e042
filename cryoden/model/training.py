"""The training loop: set the rate, step, validate, keep the best, stop, resume."""

from __future__ import annotations

import logging
import math
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Tuple

import numpy as np
import torch

from cryoden.config import SCORE_BAND_A, TrainConfig
from cryoden.data.loaders import Shard
from cryoden.errors import OptionError, Problem, Remedy, TrainingError, option_problem
from cryoden.formats import outputs
from cryoden.formats.files import make_folder
from cryoden.formats.model_file import KEPT_START, read_card
from cryoden.formats.output_folder import failures_of, fills_folder
from cryoden.formats.progress_log import write_above_bar
from cryoden.metrics.model_weaknesses import pattern_sentence, weaknesses
from cryoden.model.checkpoints import restore
from cryoden.model.devices import own_device, pick_device
from cryoden.model.predictor import Predictor
from cryoden.model.processes import all_gather, any_of, broadcast, process_group
from cryoden.model.schedule import Stopwatch, has_lost_patience, learning_rate_factor, share_done
from cryoden.model.trained_model import settle_start, start_facts
from cryoden.model.training_data import TrainingData, settle_working_rate
from cryoden.model.training_reporter import TrainingReporter
from cryoden.model.training_setup import TrainingSetup, set_up
from cryoden.model.training_writer import TrainingWriter, as_begun, require_own_training
from cryoden.model.validation import Comparison, compare, summarize
from cryoden.system.ranks import local_rank
from cryoden.system.signals import deferring_stop

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """What a training left behind: the best model, its held-out R2 and epoch, failures, what speaks against it.

    `is_reported` is False in the processes of several that say nothing of it.
    """

    model: Path
    r2: float
    best_epoch: int
    failures: Mapping[str, Problem]
    warnings: Tuple[Problem, ...] = ()
    is_reported: bool = True


class TrainingStoppedError(TrainingError):
    """A training was asked to stop; its checkpoint is written.

    Parameters
    ----------
    folder
        Of the training.
    """

    kind = "stopped"

    def __init__(self, folder: str) -> None:
        super().__init__(f"The training in {folder} was stopped.", subject=folder, remedy=Remedy("resume"))


@fills_folder("train", failures_of, is_shared=True)
def train(config: TrainConfig) -> Training:
    """Train a denoiser; the best model is always on disk, and a stopped training goes on with `resume`.

    Under torchrun every process takes its share of each batch; the first one writes the files. A signal to stop is
    obeyed after a checkpoint was written.

    Raises
    ------
    CryodenError
        If halves, options or device cannot be used, or the loss stops being a number.
    """
    with deferring_stop() as should_stop, suppress(TrainingStoppedError):
        return run_training(config, should_stop)
    raise TrainingStoppedError(config.output)  # by the signal of another process; that of this one is raised above


def run_training(
    config: TrainConfig,
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Training:
    """Train in a folder that is this process's own.

    Parameters
    ----------
    config
        The options.
    should_stop
        Asked before every step whether to write a checkpoint and stop.
    clock
        Says the time in seconds.

    Raises
    ------
    TrainingStoppedError
        If `should_stop` returned True, in whatever process.
    CryodenError
        As `train`.
    """
    # What is wrong with options, device or folder is said before a micrograph is opened.
    device = pick_device(own_device(config.device, config.gpus), local_rank())
    output = make_folder(config.output)
    config = as_begun(output, config)
    require_own_training(output, config)

    is_new = not (output / outputs.CHECKPOINT).exists()
    with process_group(device) as shard, TrainingReporter(config if shard.rank == 0 else None, is_new) as reporter:
        require_even_batches(config.batch_size, shard)
        config = settle_working_rate(config, shard)
        data = TrainingData.find(config)
        for problem in data.failures.values():
            write_above_bar(f"Left out: {problem}")

        if shard.rank == 0:
            data.look_for_pattern()
            if data.pattern_share is not None:
                reporter.warn(f"The halves have a fixed pattern. {pattern_sentence(data.pattern_share)}")

        if is_new:
            config = settle_start(config, data)
        n_micrographs = len(data.training) + len(data.held_out)
        setup = set_up(config, data, device, shard, on_read=reporter.counting("reading", n_micrographs))
        try:
            if (output / outputs.CHECKPOINT).exists():
                restore(output, setup.state, setup.lasting_options)
            elif config.resume:
                log.info("There is no training in %s yet: starting one.", output)
            fit(setup, should_stop, clock, reporter)
        finally:
            setup.step.leave_others()

        progress = setup.state.progress
        model = output / outputs.MODEL
        found = tuple(weaknesses(read_card(model))) if shard.rank == 0 else ()
        return Training(model, progress.best_r2, progress.best_epoch, data.failures, found, shard.rank == 0)


def require_even_batches(batch_size: int, shard: Shard) -> None:
    """Refuse batches that the processes cannot share.

    Raises
    ------
    OptionError
        If the size is no multiple of their number.
    """
    if batch_size % shard.n_ranks:
        n = shard.n_ranks
        uneven = f"is {batch_size}, which {n} processes cannot share evenly; choose a multiple of {n}."
        raise OptionError([option_problem("batch_size", uneven)])


def fit(
    setup: TrainingSetup,
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    reporter: TrainingReporter = TrainingReporter(),
) -> None:
    """Train until the epochs or the minutes are over, or the held-out R2 has stopped rising.

    Parameters
    ----------
    setup
        What to train; its state may be that of a checkpoint.
    should_stop, clock
        As for `run_training`, whose errors it raises.
    reporter
        Says how far the training is.
    """
    config, progress, shard = setup.config, setup.state.progress, setup.shard
    stopwatch = Stopwatch(progress.seconds, clock)
    writer = TrainingWriter(setup, stopwatch)

    leave_out_failed(setup)
    reporter.begin(progress, _share_done(setup, progress.seconds), config)
    if config.is_fine_tuning and not progress.step and not progress.records:
        _validate_start(setup, writer, stopwatch, reporter)
    while not has_lost_patience(config, progress) and _share_done(setup, progress.seconds) < 1:
        record = train_epoch(setup, writer, stopwatch, should_stop, reporter)
        compared = validate(setup, reporter)
        record.update(score_epoch(compared))
        record["seconds"] = broadcast(stopwatch.seconds, shard)
        writer.write_epoch(record, compared)
    if progress.is_start_best and shard.rank == 0:
        log.info("%s", KEPT_START)


def _validate_start(
    setup: TrainingSetup, writer: TrainingWriter, stopwatch: Stopwatch, reporter: TrainingReporter
) -> None:
    """Measure the model that the training starts from: as epoch 0 it is kept unless a later one is better."""
    compared = validate(setup, reporter)
    record: Dict[str, Any] = {"epoch": 0, "step": 0, "loss": None, "start": start_facts(setup.config.from_model)}
    record.update(score_epoch(compared))
    record["seconds"] = broadcast(stopwatch.seconds, setup.shard)
    writer.write_epoch(record, compared)


def train_epoch(
    setup: TrainingSetup,
    writer: TrainingWriter,
    stopwatch: Stopwatch,
    should_stop: Callable[[], bool] = lambda: False,
    reporter: TrainingReporter = TrainingReporter(),
) -> Dict[str, Any]:
    """Train to the end of the epoch that runs, or of the training's time; return the log's record of it.

    Raises
    ------
    TrainingStoppedError
        If it is to stop.
    TrainingError
        If no micrograph could be used, or the loss is no number.
    """
    config, progress, shard = setup.config, setup.state.progress, setup.shard
    plan = setup.plan(progress.epoch)
    first = progress.batch
    loss = torch.full((), progress.loss_sum, dtype=torch.float64, device=setup.device)

    begun = stopwatch.seconds
    with closing(setup.loader.batches(plan.part(first))) as batches:
        for batch in batches:
            if any_of(should_stop(), shard):
                _stop(setup, writer, loss)
            done = _share_done(setup, stopwatch.seconds, progress.batch / len(plan.batches))
            if done >= 1 and progress.batch:
                break
            progress.batch += 1
            if batch is None:  # none of its micrographs can be used
                continue
            inputs, targets = batch
            loss += setup.step(inputs, targets, config.peak_lr * learning_rate_factor(done))
            if writer.is_checkpoint_due:
                writer.write_checkpoint(float(loss))
            reporter.step(progress, len(plan.batches), done, loss.item)
    if any_of(should_stop(), shard):
        _stop(setup, writer, loss)

    if not progress.steps_of_epoch:
        reason = next(iter(setup.loader.failures.values()))
        raise TrainingError(
            f"No micrograph of the training set could be used; the first reason: {reason.message}",
            subject=reason.subject,
        )
    mean_loss = float(np.mean(all_gather([float(loss) / progress.steps_of_epoch], shard)))
    _require_finite(mean_loss, setup)

    seconds = stopwatch.seconds - begun
    return {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        "loss": mean_loss,
        "rmse": math.sqrt(mean_loss),
        "learning_rate": setup.state.optimizer.param_groups[0]["lr"],
        "crops_per_second": (progress.batch - first) * config.batch_size / seconds,
        "training_seconds": seconds,
    }


def validate(setup: TrainingSetup, reporter: TrainingReporter = TrainingReporter()) -> List[Comparison]:
    """Compare the averaged network's predictions with all held-out micrographs, in every process.

    Raises
    ------
    TrainingError
        If too few micrographs can be used.
    """
    predictor = Predictor(setup.state.averaged_network, setup.device, precision=setup.config.precision)
    count = reporter.counting("validating", setup.loader.n_held_out)
    own: List[Comparison] = []
    for item in setup.loader.held_out():
        own.append(compare(item, predictor))
        count()
    compared = all_gather(own, setup.shard)
    leave_out_failed(setup)
    return compared


def leave_out_failed(setup: TrainingSetup) -> None:
    """Note in every process which micrographs the loaders could not use; raises as `TrainingData.leave_out`."""
    setup.data.leave_out(all_gather([setup.loader.failures], setup.shard))


def score_epoch(compared: List[Comparison]) -> Dict[str, Any]:
    """Return the log's record of a validation.

    Raises
    ------
    TrainingError
        If the halves have no common signal.
    """
    record = summarize(compared)
    if not record["signal_variance"] > 0:
        raise TrainingError(
            f"The held-out halves have no common signal between {SCORE_BAND_A[0]:g} and {SCORE_BAND_A[1]:g} Å "
            f"(covariance {record['signal_variance']:.3g}); check the halves and their pixel size."
        )
    return record


def _share_done(setup: TrainingSetup, seconds: float, share_of_epoch: float = 0.0) -> float:
    """Return how much of the training is over, the same in every process."""
    config = setup.config
    if config.minutes is not None:  # every process has its own clock
        seconds = broadcast(seconds, setup.shard)
    return share_done(config, setup.state.progress.epoch + share_of_epoch, seconds)


def _stop(setup: TrainingSetup, writer: TrainingWriter, loss: torch.Tensor) -> None:
    """Write a checkpoint and end the training."""
    writer.write_checkpoint(float(loss))
    raise TrainingStoppedError(setup.config.output)


def _require_finite(loss: float, setup: TrainingSetup) -> None:
    if math.isfinite(loss):
        return
    progress = setup.state.progress
    kept = f"the model of epoch {progress.best_epoch} is kept" if progress.best_epoch else "there is no model yet"
    if progress.is_start_best:
        kept = "the model that it started from is kept"
    raise TrainingError(
        f"The loss became {loss} in epoch {progress.epoch + 1}; {kept}. The learning rate {setup.config.peak_lr:g} is "
        "too high for these micrographs.",
        subject="lr",
        remedy=Remedy("change", "lr"),
    )
