"""All that a training works with, made from its options and its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Type

import torch

from cryoden.config import TrainConfig
from cryoden.data.crops import EpochPlan
from cryoden.data.loader_choice import HOST, choose_loading, make_loader
from cryoden.data.loaders import Loader, Shard
from cryoden.data.normalize import Normalization
from cryoden.formats import outputs
from cryoden.model.devices import free_bytes, resolve_precision
from cryoden.model.networks import build_network
from cryoden.model.processes import all_gather
from cryoden.model.schedule import expected_pixels
from cryoden.model.trained_model import start_from
from cryoden.model.training_data import TrainingData
from cryoden.model.training_state import OptimizationStep, TrainingState, prepare_forward
from cryoden.system.ranks import n_local_ranks


@dataclass(frozen=True)
class TrainingSetup:
    """All that a training works with.

    Attributes
    ----------
    config
        The options.
    data
        What it learns from, and what is held out.
    device
        Where it computes.
    shard
        Which part of each batch, and of the held-out pairs, this process takes.
    normalization
        How the network sees grey values.
    crop
        Side of the crops in pixels.
    window
        Over how many micrographs crops are mixed.
    loader
        Yields the batches of a plan.
    state
        What is learned.
    step
        Learns from one batch.
    """

    config: TrainConfig
    data: TrainingData
    device: torch.device
    shard: Shard
    normalization: Normalization
    crop: int
    window: int
    loader: Loader
    state: TrainingState
    step: OptimizationStep

    @property
    def lasting_options(self) -> Dict[str, Any]:
        """What must not change when the training is resumed: its options and its micrographs."""
        return {**self.config.lasting_options(), "micrographs": sorted(self.data.names)}

    def plan(self, epoch: int) -> EpochPlan:
        """Return the crops of an epoch, counted from 0."""
        config = self.config
        plan = EpochPlan.draw(
            self.data.shapes,
            self.crop,
            config.batch_size,
            config.seed,
            epoch,
            window=self.window,
            on_grid=config.crops == "grid",
            min_batches=config.min_batches,
        )
        return plan.part(0, config.max_batches)


def set_up(
    config: TrainConfig,
    data: TrainingData,
    device: torch.device,
    shard: Shard = Shard(),
    step_class: Type[OptimizationStep] = OptimizationStep,
    on_read: Callable[[], None] = lambda: None,
) -> TrainingSetup:
    """Make the network, its optimiser and the loader of a training.

    Parameters
    ----------
    config, data, device, shard
        As in `TrainingSetup`.
    step_class
        How one step learns.
    on_read
        Is called for each pair that is read now, to be kept.

    Raises
    ------
    CryodenError
        If the first model, the crops or the micrographs cannot be used.
    """
    normalization = data.normalization(config)
    network = build_network(config.network, config.network_channels, config.seed).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.is_fine_tuning and not (Path(config.output) / outputs.CHECKPOINT).exists():
        start_from(config.from_model, network, config, data.sampling_rate)

    # Managed loaders read all micrographs here: what is wrong with them is known before the first step.
    crop = data.fitting_crop(config, network.step)
    free = {place: free_bytes(place) for place in {device, HOST}}
    free[HOST] //= n_local_ranks()  # each process keeps its own
    loading = choose_loading(config, data.training, data.held_out, crop, device, free)
    loader = make_loader(
        loading, data.training, data.held_out, crop, device, shard, normalization, on_read,
        exchange=lambda value: all_gather([value], shard),
    )  # fmt: skip

    state = TrainingState(network, config.peak_lr, config.ema)
    forward = prepare_forward(network, config, device, shard, expected_pixels(config, data.shapes, crop))
    step = step_class(state, forward, resolve_precision(device, config.precision))
    return TrainingSetup(config, data, device, shard, normalization, crop, loading.window, loader, state, step)
