"""Trains the general model on micrographs that are simulated while it learns (micrographs.py), in one go on one GPU.

Two steps, both with fixed seeds:

    python training_sets/specimens.py --output specimens.npz
    python training_sets/train_general.py specimens.npz --output cryoden/model/general.safetensors

The target is the image without noise, not another noisy half: of a simulation it is known, and the network's weights
wander less for it. Each image counts by the share of its signal that is missed, as R2 does: otherwise the few with the
highest dose would be all that is learned. Images of held-out specimens, which no training image shows, are scored now
and then; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
import torch
from micrographs import RATES, Batch, Beads, Micrographs, frequencies
from specimens import Specimen, density, load, smallest_box

from cryoden.config.shared import RESUNET_CHANNELS
from cryoden.data.normalize import STANDARD
from cryoden.formats.model_file import ModelCard, write_model
from cryoden.model.devices import compile_network, fast_arithmetic
from cryoden.model.networks import build_network

NETWORK = "resunet"
SAMPLING_RATE = 4.0
VOXEL, COARSE_VOXEL, SMALL_DIAMETER = 3.0, 4.5, 350.0
"""A: of specimens up to a diameter, and beyond it: such have beads enough."""

PEAK_RATE, WARM_UP_STEPS = 1e-3, 500
EMA = 0.999
BATCH = 16
VERSION = 1

SCORED_WAVELENGTH = 600.0
"""Errors of much longer waves hardly count: what is scored begins at 300 A."""

LEAST_POWER = 0.005
"""Power of a signal, relative to the image's, below which its errors are not weighted up any more."""

SCORE_BAND = (300.0, 8.0)
N_SCORED_BATCHES = 8


def beads_of(specimen: Specimen, device: torch.device) -> Beads:
    """Return a specimen as the simulation wants it."""
    voxel = VOXEL if specimen.diameter_A < SMALL_DIAMETER else COARSE_VOXEL
    return Beads.of_density(density(specimen, voxel, smallest_box(specimen, voxel)), voxel, device)


def errors(difference: torch.Tensor, targets: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
    """Return the share of the signal that is missed, of each image.

    Waves far longer than those that are scored hardly count, neither as error nor as signal.
    """
    shape = (targets.shape[-2], targets.shape[-1])
    ky, kx = frequencies(shape, rates)
    k4 = (ky.square() + kx.square()).square()
    weight = 0.02 + 0.98 * k4 / (k4 + SCORED_WAVELENGTH**-4)
    twice = torch.full((shape[1] // 2 + 1,), 2.0, device=targets.device)
    twice[0] = twice[-1] = 1.0

    missed, signal = (
        (torch.fft.rfft2(image[:, 0], norm="ortho").abs().square() * weight * twice).sum((-2, -1)) / targets[0].numel()
        for image in (difference, targets)
    )
    return missed / (signal + LEAST_POWER)


def r2_corr(predictions: torch.Tensor, targets: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
    """Return R2_corr against the truth of each image, from 300 to 8 A."""
    shape = (targets.shape[-2], targets.shape[-1])
    ky, kx = frequencies(shape, rates)
    k = (ky.square() + kx.square()).sqrt()
    band = ((k >= 1 / SCORE_BAND[0]) & (k <= 1 / SCORE_BAND[1])).float()
    predicted, true = (torch.fft.rfft2(image[:, 0]) * band for image in (predictions, targets))
    covariance = (predicted * true.conj()).real.sum((-2, -1))
    powers = [image.abs().square().sum((-2, -1)) for image in (predicted, true)]
    return covariance.square() / (powers[0] * powers[1])


def score(network: torch.nn.Module, batches: Sequence[Batch], precision: torch.dtype) -> float:
    """Return the mean R2_corr over batches of held-out images."""
    scores: List[torch.Tensor] = []
    for batch in batches:
        with torch.no_grad(), fast_arithmetic(batch.inputs.device, precision):
            predictions = network(batch.inputs.contiguous(memory_format=torch.channels_last))
        scores.append(r2_corr(predictions.float(), batch.targets, batch.rates))
    return float(torch.cat(scores).mean())


def rate_at(share: float, step: int) -> float:
    """Return the learning rate when a share of the time has passed: warm-up, then a cosine down to zero."""
    return PEAK_RATE * min(1.0, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def train(
    training: Micrographs, scored: Sequence[Batch], args: argparse.Namespace
) -> Tuple[torch.nn.Module, Dict[str, float]]:
    """Train until the time is over; return the network with averaged weights, and what it came to."""
    torch.manual_seed(args.seed)
    network = build_network(NETWORK, RESUNET_CHANNELS).to(args.device, memory_format=torch.channels_last)
    averaged = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=PEAK_RATE, weight_decay=0.01, fused=args.device.type == "cuda"
    )
    forward = compile_network(network) if args.device.type == "cuda" else network

    begun, step, shown = time.monotonic(), 0, 0.0
    curve: List[Tuple[int, float, float]] = []
    while True:
        share = (time.monotonic() - begun) / (60 * args.minutes)
        if share >= 1:
            break
        batch = training.batch(args.batch)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(share, step)

        with fast_arithmetic(args.device, args.precision):
            predictions = forward(batch.inputs.contiguous(memory_format=torch.channels_last))
        loss = errors(predictions.float() - batch.targets, batch.targets, batch.rates).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(EMA, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - decay)
        step += 1
        if share >= shown:
            r2 = score(averaged, scored, args.precision)
            curve.append((step, float(loss.detach()), r2))
            print(
                f"{time.monotonic() - begun:5.0f} s, step {step}: loss {curve[-1][1]:.4f}, held-out R2_corr {r2:.4f}",
                flush=True,
            )
            shown += 1 / args.scores
    r2 = score(averaged, scored, args.precision)
    return averaged, {"steps": step, "seconds": time.monotonic() - begun, "held_out_r2_corr": r2}


def write_general(path: Path, network: torch.nn.Module, specimens: Sequence[str], facts: Dict[str, float]) -> None:
    """Write the model file, weights in 16 bits."""
    general = {"version": VERSION, "rates": list(RATES), "specimens": sorted(specimens), **facts}
    card = ModelCard(NETWORK, RESUNET_CHANNELS, SAMPLING_RATE, asdict(STANDARD), {"general": general})
    weights = {name: tensor.detach().cpu().numpy().astype(np.float16) for name, tensor in network.state_dict().items()}
    write_model(path, weights, card)


def main() -> None:
    """Read the options, train and write the model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("specimens", type=Path, help="what specimens.py wrote")
    parser.add_argument("--output", type=Path, required=True, help="model file to write")
    parser.add_argument("--minutes", type=float, default=9.0, help="of training")
    parser.add_argument("--batch", type=int, default=BATCH, help="images per step")
    parser.add_argument("--scores", type=int, default=20, help="times that held-out images are scored on the way")
    parser.add_argument("--scenes", type=int, default=512, help="kept at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )
    args = parser.parse_args()
    args.precision = torch.bfloat16 if args.device.type == "cuda" else torch.float32

    specimens = load(args.specimens)
    with ThreadPoolExecutor() as pool:
        beads = dict(
            zip((each.name for each in specimens), pool.map(lambda each: beads_of(each, args.device), specimens))
        )
    seen = [specimen.name for specimen in specimens if not specimen.held_out]
    unseen = [specimen.name for specimen in specimens if specimen.held_out]
    print(f"{len(seen)} specimens to learn from, {len(unseen)} held out", flush=True)

    held_out = Micrographs(
        [beads[name] for name in unseen], args.device, args.seed + 1, n_scenes=args.batch * N_SCORED_BATCHES
    )
    scored = [held_out.batch(args.batch, n_new_scenes=args.batch) for _ in range(N_SCORED_BATCHES)]
    training = Micrographs([beads[name] for name in seen], args.device, args.seed, args.scenes)

    network, facts = train(training, scored, args)
    write_general(args.output, network, seen, facts)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
