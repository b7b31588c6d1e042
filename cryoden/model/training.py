"""The training loop: set the rate, step, validate, keep the best, stop, resume."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from cryoden.config import SCORE_BAND_A, TrainConfig
from cryoden.data.crops import EpochPlan, fitting_crop
from cryoden.data.loaders import Share
from cryoden.data.memory import make_loader
from cryoden.data.normalize import STANDARD, Normalization, p95_normalization
from cryoden.data.pairs import HalfPair, find_pairs, hold_out
from cryoden.data.patch_pairs import PatchPair, find_patch_pairs
from cryoden.data.rescale import SAME_RATE_TOLERANCE, fourier_crop
from cryoden.errors import ModelError, TrainingError
from cryoden.formats.files import make_folder
from cryoden.formats.images import read_micrograph
from cryoden.formats.model_file import ModelCard, read_model, write_model
from cryoden.model import checkpoints
from cryoden.model.devices import compile_network, compiling_pays, fast_arithmetic, pick_device
from cryoden.model.networks import Network, build_network
from cryoden.model.predictor import Predictor, load_weights
from cryoden.model.processes import from_first, gathered, joined, local_rank
from cryoden.model.validation import Comparison, compare, samples, summarize

log = logging.getLogger(__name__)

WARM_UP = 0.05
"""Share of the training in which the learning rate rises."""

LEAST_PATIENCE = 10
"""Epochs without a better model that a training always goes on, unless told otherwise."""

MAX_FAILED_SHARE = 0.5
"""Training stops when a larger share of the micrographs cannot be used."""


@dataclass
class Progress:
    """How far a training is; what a checkpoint needs beside the tensors.

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


@dataclass(frozen=True)
class Training:
    """What a training left behind: the best model, its held-out R2 and epoch, and micrographs left out."""

    model: Path
    r2: float
    best_epoch: int
    failures: Dict[str, str]


def learning_rate_factor(progress: float) -> float:
    """Return the learning rate's share of its highest value at a progress between 0 and 1: warm-up, then a cosine."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min((progress - WARM_UP) / (1 - WARM_UP), 1.0)))


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
    if (output / checkpoints.CHECKPOINT_NAME).exists() and not config.resume:
        raise TrainingError(
            f"{output} holds a training already; go on with --resume, or choose another --output folder."
        )
    with joined(device) as share:
        if config.batch_size % share.n_ranks:
            raise TrainingError(
                f"Option --batch-size is {config.batch_size}, which {share.n_ranks} processes cannot share evenly; "
                f"choose a multiple of {share.n_ranks}."
            )
        training, held_out, failures = _find_data(config)
        for reason in failures.values():
            log.error("Left out: %s", reason)
        trainer = Trainer(config, training, held_out, failures, device, share)
        if (output / checkpoints.CHECKPOINT_NAME).exists():
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
    training, held_out
        Pairs of halves without a common pixel.
    failures
        Micrographs left out so far, with the reason; grows when pixels turn out unusable.
    device
        Where to compute.
    share
        This process among those that train together.
    """

    def __init__(
        self,
        config: TrainConfig,
        training: Sequence[HalfPair],
        held_out: Sequence[HalfPair],
        failures: Dict[str, str],
        device: torch.device,
        share: Share = Share(),
    ) -> None:
        self.config, self.device, self.share, self.output = config, device, share, Path(config.output)
        self.failures = failures
        self.held_out = {pair.name for pair in held_out}
        self.held_out_rows = {pair.micrograph: list(pair.rows_share) for pair in held_out}
        self.micrographs = {pair.name: pair.micrograph for pair in (*training, *held_out)}
        self.names = set(self.micrographs) | set(failures)
        self.shapes = [pair.used_shape for pair in training]
        self.sampling_rate = training[0].sampling_rate
        self.normalization = _normalization(config, training[0])
        self.network = build_network(config.network, config.channels, config.seed).to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.from_model:
            self._start_from(config.from_model)
        self.crop = self._fitting_crop()
        self.loader, self.window = make_loader(config, training, held_out, self.crop, device, share, self.normalization)
        self.averaged = AveragedModel(self.network, multi_avg_fn=self._average)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.lr, fused=device.type == "cuda")
        self.forward = self._prepare_forward()
        self.progress = Progress()
        self._saved = time.monotonic()

    # ------------------------------------------------------------------ the way of a training
    def run(self) -> None:
        """Train until the epochs or the minutes are over, or the held-out R2 has stopped rising."""
        self._check_failures()
        while not self._is_over():
            started = time.monotonic() - self.progress.seconds
            record = self._train_epoch(started)
            predictor = self._predictor()
            compared = gathered([compare(item, predictor) for item in self.loader.held_out()], self.share)
            self._check_failures()
            record.update(self._validate(compared))
            self.progress.seconds = record["seconds"] = from_first(time.monotonic() - started, self.share)
            self._keep(record, compared)

    def result(self) -> Training:
        """Return the summary of a finished training."""
        progress = self.progress
        return Training(self.output / checkpoints.MODEL_NAME, progress.best_r2, progress.best_epoch, self.failures)

    def restore(self) -> None:
        """Go on from the last checkpoint; raises as `checkpoints.load_state`."""
        state = checkpoints.load_state(self.output, self.device, self._lasting_options())
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        log.info("Resumed after epoch %d, batch %d.", self.progress.epoch, self.progress.batch)

    def _is_over(self) -> bool:
        patience = self.config.patience
        if patience is None:
            patience = max(LEAST_PATIENCE, self.progress.best_epoch)
        if patience and self.progress.epoch - self.progress.best_epoch >= patience:
            log.info("Stopped: the held-out R2 has not risen for %d epochs.", patience)
            return True
        return self._share_done(self.progress.seconds, 0.0) >= 1

    def _share_done(self, seconds: float, share_of_epoch: float) -> float:
        if self.config.minutes is not None:
            return from_first(seconds / (60 * self.config.minutes), self.share)
        return (self.progress.epoch + share_of_epoch) / self.config.epochs

    # ------------------------------------------------------------------ one epoch
    def _train_epoch(self, started: float) -> Dict[str, Any]:
        config, progress = self.config, self.progress
        plan = EpochPlan(
            self.shapes, self.crop, config.batch_size, config.seed, progress.epoch, self.window,
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
            share_done = self._share_done(time.monotonic() - started, progress.batch / n_batches)
            if share_done >= 1 and progress.batch:
                break
            progress.batch += 1
            if batch is None:  # none of its micrographs can be used
                continue
            inputs, targets = batch
            loss += self._step(inputs, targets, learning_rate_factor(share_done))
            n_steps += 1
            if time.monotonic() - self._saved > 60 * config.checkpoint_minutes:
                progress.seconds, progress.loss_sum = time.monotonic() - started, float(loss)
                self._save_state()
        bar.close()
        if not n_steps:
            raise TrainingError("No micrograph of the training set could be used; the reasons are above.")
        mean_loss = float(np.mean(gathered([float(loss) / n_steps], self.share)))
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
        with fast_arithmetic(self.device, self.config.precision):
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
        n_batches = sum(rows * columns for rows, columns in self.shapes) * 4 // (config.batch_size * self.crop**2)
        n_batches = min(max(n_batches, config.min_batches), config.max_batches or n_batches + config.min_batches)
        n_pixels = config.epochs * n_batches * config.batch_size * self.crop**2
        if config.compile == "yes" or (
            config.compile == "auto" and compiling_pays(self.device, config.minutes, n_pixels)
        ):
            forward = compile_network(self.network)
        if self.share.n_ranks > 1:
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

    def _check_failures(self) -> None:
        for failures in gathered([self.loader.failures], self.share):
            self.failures.update(failures)
        if self.held_out <= set(self.failures):
            reason = self.failures[min(self.held_out)]
            raise TrainingError(f"No held-out micrograph could be used; the first reason: {reason}")
        if len(self.failures) > MAX_FAILED_SHARE * len(self.names):
            reason = next(iter(self.failures.values()))
            raise TrainingError(
                f"{len(self.failures)} of {len(self.names)} micrographs cannot be used, too many to go on; the first "
                f"reason: {reason}"
            )

    # ------------------------------------------------------------------ what stays
    def _keep(self, record: Dict[str, Any], compared: List[Comparison]) -> None:
        """Write what an epoch brought: model first if it is the best, then the log, then the checkpoint."""
        progress = self.progress
        is_best = record["r2"] > progress.best_r2
        if is_best:
            progress.best_r2, progress.best_epoch = record["r2"], progress.epoch
        progress.records.append(record)
        if self.share.rank:
            return
        if is_best:
            self._write_model(self.output / checkpoints.MODEL_NAME, record)
            checkpoints.save_samples(self.output, *samples(compared))
        if self.config.keep == "all":
            folder = make_folder(self.output / checkpoints.EPOCH_FOLDER)
            self._write_model(folder / f"epoch_{progress.epoch:04d}.safetensors", record)
        log.info(
            "Epoch %d: loss %.5f, held-out loss %.5f, R2 %.4f%s, %.1f crops/s", progress.epoch, record["loss"],
            record["validation_loss"], record["r2"], " (best)" if is_best else "", record["crops_per_second"],
        )  # fmt: skip
        checkpoints.save_log(self.output, progress.records)
        self._save_state()

    def _save_state(self) -> None:
        self._saved = time.monotonic()
        if self.share.rank:
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
        return {**_lasting_options(self.config), "micrographs": sorted(self.names)}

    def _write_model(self, path: Path, record: Dict[str, Any]) -> None:
        config = self.config
        tensors = self.averaged.module.state_dict()
        weights = {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}
        summary = {key: record[key] for key in ("r2", "r2_corr", "epoch", "step", "loss", "validation_loss")}
        summary.update(
            score_band_A=list(SCORE_BAND_A), n_pairs=len(self.names) - len(self.failures), crop=self.crop,
            n_left_out=len(self.failures), seconds=self.progress.seconds, options=_lasting_options(config),
        )  # fmt: skip
        # Which micrographs the weights know, so that an evaluation can leave them out; rows as shares of the height.
        used = {micrograph for name, micrograph in self.micrographs.items() if name not in self.failures}
        trained = sorted(used - {name for name, rows in self.held_out_rows.items() if rows == [0, 1]})
        summary.update(trained_on=trained, held_out=self.held_out_rows)
        channels = config.channels if config.network == "unet" else ()
        card = ModelCard(config.network, channels, self.sampling_rate, asdict(self.normalization), summary)
        write_model(path, weights, card)

    def _start_from(self, path: str) -> None:
        card, weights = read_model(path)
        if card.network != self.config.network or (card.channels and card.channels != self.config.channels):
            raise ModelError(
                f"{path} is a {card.network} with channels {card.channels}, not the {self.config.network} asked for; "
                "choose the same network and channels."
            )
        if abs(card.sampling_rate / self.sampling_rate - 1) > SAME_RATE_TOLERANCE:
            log.warning(
                "%s was trained at %.3g A/px and goes on at %.3g A/px: what it knows has another size there.",
                path, card.sampling_rate, self.sampling_rate,
            )  # fmt: skip
        load_weights(self.network, weights, path)

    def _fitting_crop(self) -> int:
        if self.config.crop < self.network.step:
            raise TrainingError(
                f"Option --crop is {self.config.crop}, less than the network's step of {self.network.step} px; it must "
                "be at least that."
            )
        crop = fitting_crop(self.shapes, self.config.crop, self.network.step)
        if crop == 0:
            raise TrainingError(
                f"The smallest micrograph is {min(map(min, self.shapes))} px wide, less than the network's step of "
                f"{self.network.step} px; train at a finer sampling rate."
            )
        if crop < self.config.crop:
            log.info("Crops are %d px: the smallest micrograph, or the network's step, allows no more.", crop)
        return crop


def _find_data(config: TrainConfig) -> Tuple[Sequence[HalfPair], Sequence[HalfPair], Dict[str, str]]:
    """Return what to train on, what is held out, and micrographs left out: from halves, or from patch files."""
    if config.patches:
        training, held_out = find_patch_pairs(config.patches, config.patch, config.sampling_rate, config.validation)
        return training, held_out, {}
    pairs, failures = find_pairs(config.odd or "", config.even or "", config.sampling_rate)
    return (*hold_out(pairs, config.validation, np.random.default_rng(config.seed)), failures)


def _normalization(config: TrainConfig, pair: HalfPair) -> Normalization:
    if isinstance(pair, PatchPair):
        return pair.normalization
    if config.normalization == "standard":
        return STANDARD
    return p95_normalization(fourier_crop(read_micrograph(pair.odd)[0], pair.shape))


def _lasting_options(config: TrainConfig) -> Dict[str, Any]:
    """Return the options that must not change when a training is resumed."""
    free = ("resume", "device", "memory", "stream", "force", "output", "compile", "checkpoint_minutes", "keep")
    return {key: value for key, value in config.to_dict().items() if key not in free}
