"""The training loop: set the rate, step, validate, keep the best, stop, resume."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from cryoden.config import SCORE_BAND_A, TrainConfig
from cryoden.data.crops import EpochPlan
from cryoden.data.loader_choice import make_loader
from cryoden.data.loaders import Shard
from cryoden.errors import Problem, TrainingError
from cryoden.formats.files import make_folder
from cryoden.formats.model_file import MODEL_NAME
from cryoden.formats.output_folder import failures_of, fills_folder
from cryoden.formats.progress_log import write_above_bar
from cryoden.formats.training_folder import CHECKPOINT_NAME, EPOCH_FOLDER, write_log, write_samples
from cryoden.model import checkpoints
from cryoden.model.devices import compile_network, compiling_pays, fast_arithmetic, pick_device, resolve_precision
from cryoden.model.networks import Network, build_network
from cryoden.model.predictor import Predictor
from cryoden.model.processes import all_gather, broadcast, local_rank, process_group
from cryoden.model.schedule import (
    TrainingProgress,
    expected_pixels,
    has_lost_patience,
    learning_rate_factor,
    share_done,
)
from cryoden.model.trained_model import lasting_options, start_from, training_card, write_trained
from cryoden.model.training_data import TrainingData
from cryoden.model.validation import Comparison, compare, samples, summarize

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """What a training left behind: the best model, its held-out R2 and epoch, and micrographs left out."""

    model: Path
    r2: float
    best_epoch: int
    failures: Mapping[str, Problem]


@fills_folder("train", failures_of)
def train(config: TrainConfig) -> Training:
    """Train a denoiser; the best model is always on disk, and a stopped training goes on with `resume`.

    Under torchrun every process takes its share of each batch; the first one writes the files.

    Raises
    ------
    CryodenError
        If halves, options or device cannot be used, or the loss stops being a number.
    """
    device = pick_device(config.device, local_rank())
    output = make_folder(config.output)
    if (output / CHECKPOINT_NAME).exists() and not config.resume:
        raise TrainingError(
            f"{output} holds a training already; go on with --resume, or choose another --output folder."
        )
    with process_group(device) as shard:
        if config.batch_size % shard.n_ranks:
            raise TrainingError(
                f"Option --batch-size is {config.batch_size}, which {shard.n_ranks} processes cannot share evenly; "
                f"choose a multiple of {shard.n_ranks}."
            )
        data = TrainingData.find(config)
        for reason in data.failures.values():
            write_above_bar(f"Left out: {reason}")
        trainer = Trainer(config, data, device, shard)
        if (output / CHECKPOINT_NAME).exists():
            trainer.restore()
        elif config.resume:
            log.info("There is no training in %s yet: starting one.", output)
        trainer.run()
        return trainer.result()


class Trainer:
    """One training: network, optimiser, loader and progress.

    Parameters
    ----------
    config
        The options.
    data
        What it learns from, and what is held out.
    device
        Where to compute.
    shard
        Which part of each batch, and of the held-out pairs, this process takes.
    """

    def __init__(self, config: TrainConfig, data: TrainingData, device: torch.device, shard: Shard = Shard()) -> None:
        self.config, self.data, self.device, self.shard = config, data, device, shard
        self.output = Path(config.output)
        self.precision = resolve_precision(device, config.precision, is_training=True)
        self.normalization = data.normalization(config)
        self.network = build_network(config.network, config.channels, config.seed).to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.from_model:
            start_from(config.from_model, self.network, config, data.sampling_rate)
        self.crop = data.fitting_crop(config, self.network.step)
        self.loader, self.window = make_loader(
            config, data.training, data.held_out, self.crop, device, shard, self.normalization
        )
        self.averaged = AveragedModel(self.network, multi_avg_fn=self._average)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.lr, fused=device.type == "cuda")
        self.forward = self._prepare_forward()
        self.progress = TrainingProgress()
        self._saved = time.monotonic()

    # ------------------------------------------------------------------ the way of a training
    def run(self) -> None:
        """Train until the epochs or the minutes are over, or the held-out R2 has stopped rising."""
        self._leave_out_failed()
        while not self._is_over():
            started = time.monotonic() - self.progress.seconds
            record = self._train_epoch(started)
            predictor = self._predictor()
            compared = all_gather([compare(item, predictor) for item in self.loader.held_out()], self.shard)
            self._leave_out_failed()
            record.update(self._validate(compared))
            self.progress.seconds = record["seconds"] = broadcast(time.monotonic() - started, self.shard)
            self._keep(record, compared)

    def result(self) -> Training:
        """Return the summary of a finished training."""
        progress = self.progress
        return Training(self.output / MODEL_NAME, progress.best_r2, progress.best_epoch, self.data.failures)

    def restore(self) -> None:
        """Go on from the last checkpoint; raises as `checkpoints.load_state`."""
        state = checkpoints.load_state(self.output, self.device, self._lasting_options())
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = TrainingProgress(**state["progress"])
        log.info("Resumed after epoch %d, batch %d.", self.progress.epoch, self.progress.batch)

    def _is_over(self) -> bool:
        return has_lost_patience(self.config, self.progress) or self._share_done(self.progress.seconds) >= 1

    def _share_done(self, seconds: float, share_of_epoch: float = 0.0) -> float:
        """Return how much of the training is over, the same in every process."""
        if self.config.minutes is not None:  # every process has its own clock
            seconds = broadcast(seconds, self.shard)
        return share_done(self.config, self.progress.epoch + share_of_epoch, seconds)

    # ------------------------------------------------------------------ one epoch
    def _train_epoch(self, started: float) -> Dict[str, Any]:
        config, progress = self.config, self.progress
        plan = EpochPlan(
            self.data.shapes, self.crop, config.batch_size, config.seed, progress.epoch, self.window,
            config.crops == "grid", config.min_batches,
        )  # fmt: skip
        plan.batches = plan.batches[: config.max_batches]
        n_batches, n_before = len(plan.batches), progress.batch
        n_steps = n_before
        plan.batches = plan.batches[n_before:]
        loss = torch.full((), progress.loss_sum, dtype=torch.float64, device=self.device)
        begun = time.monotonic()
        bar = tqdm(self.loader.batches(plan), total=len(plan.batches), unit="batch", leave=False, disable=None)
        bar.set_description(f"Epoch {progress.epoch + 1}")
        for batch in bar:
            done = self._share_done(time.monotonic() - started, progress.batch / n_batches)
            if done >= 1 and progress.batch:
                break
            progress.batch += 1
            if batch is None:  # none of its micrographs can be used
                continue
            inputs, targets = batch
            loss += self._step(inputs, targets, learning_rate_factor(done))
            n_steps += 1
            if time.monotonic() - self._saved > 60 * config.checkpoint_minutes:
                progress.seconds, progress.loss_sum = time.monotonic() - started, float(loss)
                self._save_state()
        bar.close()
        if not n_steps:
            reason = next(iter(self.loader.failures.values()))
            raise TrainingError(f"No micrograph of the training set could be used; the first reason: {reason}")
        mean_loss = float(np.mean(all_gather([float(loss) / n_steps], self.shard)))
        self._check_loss(mean_loss)
        seconds = time.monotonic() - begun
        n_crops = (progress.batch - n_before) * config.batch_size
        progress.epoch, progress.batch, progress.loss_sum = progress.epoch + 1, 0, 0.0
        return {
            "epoch": progress.epoch,
            "step": progress.step,
            "loss": mean_loss,
            "rmse": math.sqrt(mean_loss),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "crops_per_second": n_crops / seconds,
            "training_seconds": seconds,
        }

    def _step(self, inputs: torch.Tensor, targets: torch.Tensor, factor: float) -> torch.Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * factor
        with fast_arithmetic(self.device, self.precision):
            predictions = self.forward(inputs.contiguous(memory_format=torch.channels_last))
        loss = nn.functional.mse_loss(predictions.float(), targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.averaged.update_parameters(self.network)
        self.progress.step += 1
        return loss.detach().double()

    def _average(self, averaged: Any, current: Any, _: Any) -> None:
        # The decay grows with the steps, so that the random first weights do not linger in a short training.
        decay = min(self.config.ema, (1 + self.progress.step) / (10 + self.progress.step))
        get_ema_multi_avg_fn(decay)(averaged, current, _)

    def _prepare_forward(self) -> nn.Module:
        config = self.config
        forward: nn.Module = self.network
        n_pixels = expected_pixels(config, self.data.shapes, self.crop)
        is_worth_it = config.compile == "auto" and compiling_pays(self.device, config.minutes, n_pixels)
        if config.compile == "yes" or is_worth_it:
            forward = compile_network(self.network)
        if self.shard.n_ranks > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            return DistributedDataParallel(forward, device_ids=devices)
        return forward

    # ------------------------------------------------------------------ validation
    def _predictor(self) -> Predictor:
        network = self.averaged.module
        assert isinstance(network, Network)
        return Predictor(network, self.device, precision=self.config.precision)

    def _validate(self, compared: List[Comparison]) -> Dict[str, Any]:
        record = summarize(compared)
        if not record["signal_variance"] > 0:
            raise TrainingError(
                f"The held-out halves have no common signal between {SCORE_BAND_A[0]:g} and {SCORE_BAND_A[1]:g} A "
                f"(covariance {record['signal_variance']:.3g}); check the halves and their pixel size."
            )
        return record

    def _check_loss(self, loss: float) -> None:
        if not math.isfinite(loss):
            best = self.progress.best_epoch
            kept = f"the model of epoch {best} is kept" if best else "there is no model yet"
            raise TrainingError(
                f"The loss became {loss} in epoch {self.progress.epoch + 1}; {kept}. "
                f"Train with a lower --lr than {self.config.lr:g}."
            )

    def _leave_out_failed(self) -> None:
        self.data.leave_out(all_gather([self.loader.failures], self.shard))

    # ------------------------------------------------------------------ what stays
    def _keep(self, record: Dict[str, Any], compared: List[Comparison]) -> None:
        """Write what an epoch brought: model first if it is the best, then the log, then the checkpoint."""
        progress = self.progress
        is_best = progress.add(record)
        if self.shard.rank:
            return
        if is_best:
            self._write_model(self.output / MODEL_NAME, record)
            write_samples(self.output, samples(compared))
        if self.config.keep == "all":
            folder = make_folder(self.output / EPOCH_FOLDER)
            self._write_model(folder / f"epoch_{progress.epoch:04d}.safetensors", record)
        log.info(
            "Epoch %d: loss %.5f, held-out loss %.5f, R2 %.4f%s, %.1f crops/s", progress.epoch, record["loss"],
            record["validation_loss"], record["r2"], " (best)" if is_best else "", record["crops_per_second"],
        )  # fmt: skip
        write_log(self.output, progress.records)
        self._save_state()

    def _save_state(self) -> None:
        self._saved = time.monotonic()
        if self.shard.rank:
            return
        state = {
            "options": self._lasting_options(),
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        checkpoints.save_state(self.output, state)

    def _lasting_options(self) -> Dict[str, Any]:
        """Return what must not change when a training is resumed: its options and its micrographs."""
        return {**lasting_options(self.config), "micrographs": sorted(self.data.names)}

    def _write_model(self, path: Path, record: Dict[str, Any]) -> None:
        seconds = self.progress.seconds
        card = training_card(self.config, self.data, self.normalization, self.crop, seconds, record)
        write_trained(path, self.averaged.module, card)
