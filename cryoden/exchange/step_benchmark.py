"""How long the parts of one optimisation step take."""

from __future__ import annotations

import time
from typing import Dict, List

import numpy as np
import torch
from torch import nn

from cryoden.config.exchange import StepBenchmarkConfig
from cryoden.model.devices import fast_arithmetic, pick_device, resolve_precision
from cryoden.model.networks import build_network

PARTS = ("forward", "backward", "adam")
WARM_UP_STEPS = 3


def time_steps(config: StepBenchmarkConfig) -> Dict[str, float]:
    """Return the median seconds of `forward` (loss included), `backward` and `adam`, and `crops_per_second`.

    Raises
    ------
    DeviceError
        If the device is not there.
    """
    device = pick_device(config.device)
    dtype = resolve_precision(device, config.precision)
    network = build_network(config.network, config.channels).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=device.type == "cuda")
    side = max(config.size // network.step, 1) * network.step
    inputs, targets = torch.randn((2, config.batch_size, 1, side, side), device=device)
    times: Dict[str, List[float]] = {part: [] for part in PARTS}

    for step in range(WARM_UP_STEPS + config.steps):
        optimizer.zero_grad(set_to_none=True)

        # A GPU works on while Python plans the next steps: every part ends when the GPU is done with it.
        clock = [_now(device)]
        with fast_arithmetic(device, dtype):
            predictions = network(inputs)
        loss = nn.functional.mse_loss(predictions.float(), targets)
        clock.append(_now(device))
        loss.backward()
        clock.append(_now(device))
        optimizer.step()
        clock.append(_now(device))

        if step >= WARM_UP_STEPS:
            for part, begun, ended in zip(PARTS, clock, clock[1:]):
                times[part].append(ended - begun)
    result = {part: float(np.median(seconds)) for part, seconds in times.items()}
    return {**result, "crops_per_second": config.batch_size / sum(result.values())}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
