"""The training loop: set the rate, step, validate, keep the best, stop, resume."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Tuple, cast

import numpy as np
import psutil
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from cryoden.config import SCORE_BAND_A, TrainConfig
from cryoden.data.crops import EpochPlan, fitting_crop
from cryoden.data.loaders import Loader, ManagedLoader, StreamingLoader
from cryoden.data.pairs import HalfPair, find_pairs, hold_out
from cryoden.errors import ModelError, TrainingError
from cryoden.formats.files import make_folder, whole_file
from cryoden.formats.model_file import ModelCard, read_model, write_model
from cryoden.model.denoising import Predictor, load_weights
from cryoden.model.devices import fast_arithmetic, pick_device
from cryoden.model.networks import Network, build_network
from cryoden.quality.metrics import RingCovariance, Score, pool, ring_covariance, score

log = logging.getLogger(__name__)

WARM_UP = 0.05
"""Share of the training in which the learning rate rises."""

MAX_FAILED_SHARE = 0.5
"""Training stops when a larger share of the micrographs cannot be used."""

GIB = 1 << 30

MODEL_NAME, LOG_NAME, CHECKPOINT_NAME, CURVES_NAME = (
    "model.safetensors",
    "log.jsonl",
    "checkpoint.pt",
    "curves.png",
)


@dataclass
class Progress:
    """How far a training is; everything that a checkpoint needs beside the tensors."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best_r2: float = -math.inf
    best_epoch: int = 0
    records: List[Dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Training:
    """What a training left behind.

    Attributes
    ----------
    model : pathlib.Path
        The best model.
    r2
        Its held-out explained signal in the score band.
    failures
        Micrographs left out, with the reason.
    """

    model: Path
    r2: float
    best_epoch: int
    n_pairs: int
    failures: Dict[str, str]


def learning_rate_factor(progress: float) -> float:
    """Return the learning rate's share of its highest value at a progress between 0 and 1: warm-up, then a cosine."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min((progress - WARM_UP) / (1 - WARM_UP), 1.0)))


def train(config: TrainConfig) -> Training:
    """Train a denoiser; the best model is always on disk, and a stopped training goes on with `resume`.

    Raises
    ------
    CryodenError
        If halves, options or device cannot be used, or the loss stops being a number.
    """
    device = pick_device(config.device)
    output = make_folder(config.output)
    if (output / CHECKPOINT_NAME).exists() and not config.resume:
        raise TrainingError(
            f"{output} holds a training already; go on with --resume, or choose another --output folder."
        )
    pairs, failures = find_pairs(config.odd, config.even, config.sampling_rate)
    for reason in failures.values():
        log.error("Left out: %s", reason)
    trainer = Trainer(config, pairs, failures, device, output)
    if config.resume and (output / CHECKPOINT_NAME).exists():
        trainer.restore()
    trainer.run()
    return trainer.result()


class Trainer:
    """One training: network, optimiser, loader and progress.

    Parameters
    ----------
    config
        The options.
    pairs
        Halves of all micrographs.
    failures
        Micrographs left out so far, with the reason; grows when pixels turn out unusable.
    device
        Where to compute.
    output
        Folder of the results.
    """

    def __init__(
        self,
        config: TrainConfig,
        pairs: List[HalfPair],
        failures: Dict[str, str],
        device: torch.device,
        output: Path,
    ) -> None:
        self.config, self.device, self.output = config, device, output
        self.failures, self.n_pairs = failures, len(pairs)
        self.network = build_network(config.network, config.channels, config.seed).to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.sampling_rate = pairs[0].sampling_rate
        if config.from_model:
            self._start_from(config.from_model)
        training, held_out = hold_out(pairs, config.validation, np.random.default_rng(config.seed))
        self.shapes = [pair.used_shape for pair in training]
        self.crop = fitting_crop(self.shapes, config.crop, self.network.step)
        if self.crop == 0:
            raise TrainingError(
                f"The smallest micrograph is {min(map(min, self.shapes))} px wide, less than the network's step of "
                f"{self.network.step} px; train at a finer sampling rate."
            )
        if self.crop < config.crop:
            log.info("Crops are %d px: the smallest micrograph, or the network's step, allows no more.", self.crop)
        largest = max(pair.n_bytes for pair in training)
        self.window = max(2, min(16, int(config.window * GIB / largest) - 1))
        self.loader = make_loader(config, training, held_out, self.crop, device)
        self.averaged = AveragedModel(self.network, multi_avg_fn=self._average)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.lr)
        self.progress = Progress()

    def run(self) -> None:
        """Train until the epochs or the minutes are over, or the held-out R2 has stopped rising."""
        self._check_failures()
        while not self._is_over():
            started = time.monotonic()
            loss, n_crops = self._train_epoch(started)
            seconds = time.monotonic() - started
            self.progress.epoch += 1
            record = {
                "epoch": self.progress.epoch,
                "step": self.progress.step,
                "loss": loss,
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "crops_per_second": n_crops / seconds,
            }
            self._check_failures()
            record.update(self._validate())
            self.progress.seconds += time.monotonic() - started
            record["seconds"] = self.progress.seconds
            self._keep(record)

    def result(self) -> Training:
        """Return the summary of a finished training."""
        return Training(
            self.output / MODEL_NAME,
            self.progress.best_r2,
            self.progress.best_epoch,
            self.n_pairs,
            self.failures,
        )

    def restore(self) -> None:
        """Go on from the last checkpoint.

        Raises
        ------
        TrainingError
            If the checkpoint was made with other options or cannot be read.
        """
        path = self.output / CHECKPOINT_NAME
        try:
            state = torch.load(str(path), map_location=self.device, weights_only=True)
            saved = state["config"]
        except Exception as error:  # torch raises many kinds; all mean a damaged file
            raise TrainingError(f"{path} cannot be read ({error}); remove it to train from the start.") from error
        changed = [key for key, value in _lasting_options(self.config).items() if saved.get(key) != value]
        if changed:
            raise TrainingError(
                f"The training in {self.output} was started with other values of {', '.join(changed)}; "
                "resume with the same options, or choose another --output folder."
            )
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        log.info("Resumed after epoch %d.", self.progress.epoch)

    def _start_from(self, path: str) -> None:
        card, weights = read_model(path)
        if card.network != self.config.network or (card.channels and card.channels != self.config.channels):
            raise ModelError(
                f"{path} is a {card.network} with channels {card.channels}, not the {self.config.network} asked for; "
                "choose the same network and channels."
            )
        load_weights(self.network, weights, path)

    def _is_over(self) -> bool:
        patience = self.config.patience
        if patience and self.progress.epoch - self.progress.best_epoch >= patience:
            log.info("Stopped: the held-out R2 has not risen for %d epochs.", patience)
            return True
        return self._share_done(self.progress.seconds, 0, 1) >= 1

    def _share_done(self, seconds: float, batch: int, n_batches: int) -> float:
        if self.config.minutes is not None:
            return seconds / (60 * self.config.minutes)
        return (self.progress.epoch + batch / n_batches) / self.config.epochs

    def _train_epoch(self, started: float) -> Tuple[float, int]:
        config = self.config
        plan = EpochPlan(self.shapes, self.crop, config.batch_size, config.seed, self.progress.epoch, self.window)
        plan.batches = plan.batches[: config.max_batches]
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        n_batches = n_crops = 0
        self.network.train()
        bar = tqdm(self.loader.batches(plan), total=len(plan.batches), unit="batch", leave=False, disable=None)
        bar.set_description(f"Epoch {self.progress.epoch + 1}")
        for inputs, targets in bar:
            seconds = self.progress.seconds + time.monotonic() - started
            share = self._share_done(seconds, n_batches, len(plan.batches))
            if share >= 1 and n_batches:
                break
            total += self._step(inputs, targets, learning_rate_factor(share))
            n_batches, n_crops = n_batches + 1, n_crops + len(inputs)
        bar.close()
        if not n_batches:
            raise TrainingError("No micrograph of the training set could be used; the reasons are above.")
        loss = float(total) / n_batches
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss became {loss} in epoch {self.progress.epoch + 1}; the model of epoch "
                f"{self.progress.best_epoch} is kept. Train with a lower --lr than {config.lr:g}."
            )
        return loss, n_crops

    def _step(self, inputs: torch.Tensor, targets: torch.Tensor, factor: float) -> torch.Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * factor
        with fast_arithmetic(self.device):
            predictions = self.network(inputs.contiguous(memory_format=torch.channels_last))
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

    def _validate(self) -> Dict[str, Any]:
        predictor = Predictor(cast(Network, self.averaged.module), self.device)
        covariances, per_micrograph, losses = [], {}, []
        for pair, halves in self.loader.held_out():
            covariance, loss = _compare(pair, halves, predictor, self.sampling_rate)
            covariances.append(covariance)
            losses.append(loss)
            per_micrograph[pair.name] = score(covariance.in_band()).r2
        if not covariances:
            raise TrainingError("No held-out micrograph could be used; the reasons are above.")
        result = score(pool(covariances).in_band())
        _check_score(result)
        record = {"validation_loss": float(np.mean(losses)), "r2_per_micrograph": per_micrograph}
        record.update(asdict(result))
        return record

    def _check_failures(self) -> None:
        self.failures.update(self.loader.failures)
        n_all = self.n_pairs + sum(1 for name in self.failures if name not in self.loader.failures)
        if len(self.failures) > MAX_FAILED_SHARE * n_all:
            reason = next(iter(self.failures.values()))
            raise TrainingError(
                f"{len(self.failures)} of {n_all} micrographs cannot be used, too many to go on; the first reason: "
                f"{reason}"
            )

    def _keep(self, record: Dict[str, Any]) -> None:
        """Write what an epoch brought: model first if it is the best, then log and curves, then the checkpoint."""
        progress = self.progress
        if record["r2"] > progress.best_r2:
            progress.best_r2, progress.best_epoch = record["r2"], progress.epoch
            self._write_model(record)
        progress.records.append(record)
        log.info(
            "Epoch %d: loss %.5f, held-out loss %.5f, R2 %.4f%s", progress.epoch, record["loss"],
            record["validation_loss"], record["r2"], " (best)" if progress.best_epoch == progress.epoch else "",
        )  # fmt: skip
        with whole_file(self.output / LOG_NAME) as temporary:
            temporary.write_text("".join(json.dumps(r) + "\n" for r in progress.records))
        state = {
            "config": _lasting_options(self.config),
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(progress),
        }
        with whole_file(self.output / CHECKPOINT_NAME) as temporary:
            torch.save(state, str(temporary))

    def _write_model(self, record: Dict[str, Any]) -> None:
        config = self.config
        weights = {
            name: tensor.detach().float().cpu().numpy() for name, tensor in self.averaged.module.state_dict().items()
        }
        summary = {key: record[key] for key in ("r2", "r2_corr", "epoch", "step", "loss", "validation_loss")}
        summary.update(
            score_band_A=list(SCORE_BAND_A), n_pairs=self.n_pairs, n_left_out=len(self.failures), crop=self.crop,
            batch_size=config.batch_size, lr=config.lr, seed=config.seed, from_model=config.from_model,
        )  # fmt: skip
        channels = config.channels if config.network == "unet" else ()
        write_model(
            self.output / MODEL_NAME,
            weights,
            ModelCard(config.network, channels, self.sampling_rate, summary),
        )


def make_loader(
    config: TrainConfig, training: List[HalfPair], held_out: List[HalfPair], crop: int, device: torch.device
) -> Loader:
    """Choose between keeping everything in memory (GPU if it fits, else host) and streaming, and say which and why."""
    needed = sum(pair.n_bytes for pair in [*training, *held_out])
    window = int(config.window * GIB)
    fits_window = needed <= window
    if config.stream and (config.force or not fits_window):
        log.info("Streaming %.2f GiB of halves through a window of %.2f GiB.", needed / GIB, config.window)
        return StreamingLoader(training, held_out, crop, device, window)
    if config.stream:
        log.info(
            "Not streaming: all %.2f GiB of halves fit into the window (--force streams anyway).",
            needed / GIB,
        )
    resident = torch.device("cpu")
    if device.type == "cuda" and needed <= _budget(config, torch.cuda.mem_get_info(device)[0]):
        resident = device
    if resident.type == "cpu" and needed > _budget(config, psutil.virtual_memory().available):
        log.info("Streaming: %.2f GiB of halves are more than memory may hold.", needed / GIB)
        return StreamingLoader(training, held_out, crop, device, window)
    log.info(
        "Keeping all %.2f GiB of halves in %s memory.",
        needed / GIB,
        "GPU" if resident.type == "cuda" else "host",
    )
    return ManagedLoader(training, held_out, crop, device, resident)


def _budget(config: TrainConfig, free_bytes: int) -> float:
    return config.memory * GIB if config.memory else free_bytes / 2


def _compare(
    pair: HalfPair, halves: torch.Tensor, predictor: Predictor, sampling_rate: float
) -> Tuple[RingCovariance, float]:
    predictions = torch.stack([predictor(half) for half in halves]).cpu()
    halves = halves.cpu()
    loss = float(nn.functional.mse_loss(predictions, halves.flip(0)))
    images = [image.numpy() for image in (*halves, *predictions)]
    return ring_covariance(images[0], images[1], images[2], images[3], sampling_rate), loss


def _check_score(result: Score) -> None:
    if not result.signal_variance > 0:
        raise TrainingError(
            f"The held-out halves have no common signal between {SCORE_BAND_A[0]:g} and {SCORE_BAND_A[1]:g} A "
            f"(covariance {result.signal_variance:.3g}); check that the halves belong together and the pixel size."
        )


def _lasting_options(config: TrainConfig) -> Dict[str, Any]:
    """Return the options that must not change when a training is resumed."""
    free = ("resume", "device", "memory", "stream", "force", "output")
    return {key: value for key, value in config.to_dict().items() if key not in free}
