"""What a training has learned so far, and one step of learning."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Dict, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cryoden.config import TrainConfig
from cryoden.data.loaders import Shard
from cryoden.model.devices import compile_network, compiling_pays, fast_arithmetic
from cryoden.model.networks import Network
from cryoden.model.schedule import TrainingProgress


class TrainingState:
    """The weights, their moving average, the optimiser and the progress: all that a checkpoint holds.

    Parameters
    ----------
    network
        On its device, with the weights to start from.
    learning_rate
        The highest one.
    ema
        Decay per step of the moving average.
    """

    def __init__(self, network: Network, learning_rate: float, ema: float) -> None:
        is_on_gpu = next(network.parameters()).is_cuda
        self.network = network
        self.averaged = AveragedModel(network, multi_avg_fn=self._average)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=is_on_gpu)
        self.progress = TrainingProgress()
        self._ema = ema

    @property
    def averaged_network(self) -> Network:
        """The network with the averaged weights: the one that is validated and saved."""
        return cast(Network, self.averaged.module)

    def state_dict(self) -> Dict[str, Any]:
        """Return everything as tensors, numbers and texts, in the form of version 0.1."""
        return {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises
        ------
        KeyError, RuntimeError, TypeError, ValueError
            If a part is missing or does not fit.
        """
        progress = TrainingProgress.from_dict(state["progress"])
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = progress

    def _average(self, averaged: Any, current: Any, _: Any) -> None:
        # The decay grows with the steps, so that the random first weights do not linger in a short training.
        decay = min(self._ema, (1 + self.progress.step) / (10 + self.progress.step))
        get_ema_multi_avg_fn(decay)(averaged, current, _)


class OptimizationStep:
    """One step: prediction, loss, gradients, new weights and their average.

    Parameters
    ----------
    state
        What it changes.
    forward
        Makes predictions: the state's network, or that compiled or spread over processes.
    precision
        Arithmetic of the prediction; weights and loss are float32.
    """

    def __init__(self, state: TrainingState, forward: nn.Module, precision: torch.dtype) -> None:
        self.state, self.forward, self.precision = state, forward, precision

    def __call__(self, inputs: torch.Tensor, targets: torch.Tensor, learning_rate: float) -> torch.Tensor:
        """Learn from one batch, inputs and targets `(batch, 1, y, x)`; return its loss, float64, on the device."""
        state = self.state
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate

        with fast_arithmetic(inputs.device, self.precision):
            predictions = self.forward(inputs.contiguous(memory_format=torch.channels_last))
        loss = self.loss(predictions.float(), targets)

        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.optimizer.step()
        state.averaged.update_parameters(state.network)
        state.progress.step += 1
        return loss.detach().double()

    def leave_others(self) -> None:
        """Let go of the other processes: from now on the network predicts alone, and nothing here keeps their group."""
        self.forward = self.state.network

    def loss(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error."""
        return nn.functional.mse_loss(predictions, targets)


def prepare_forward(
    network: Network, config: TrainConfig, device: torch.device, shard: Shard, n_pixels: int
) -> nn.Module:
    """Return what predicts in training: the network, compiled where that pays, one of several where there are more.

    Parameters
    ----------
    network
        Whose weights are learned.
    config
        The options.
    device
        Where it is.
    shard
        This process among those that train together.
    n_pixels
        About how many pixels it is going to learn from.
    """
    forward: nn.Module = network
    is_worth_it = config.compile == "auto" and compiling_pays(device, config.minutes, n_pixels)
    if config.compile == "yes" or is_worth_it:
        forward = compile_network(network)
    if shard.n_ranks > 1:
        forward = DistributedDataParallel(forward, device_ids=[device] if device.type == "cuda" else None)
    return forward
