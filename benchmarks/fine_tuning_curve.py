"""How R2_corr rises, and falls again, while a training goes on from a model: step by step, on a CPU too.

On the demo's exposure the rows below 2816 are trained on and the others are scored, as in `general.py exposure`. There,
what is scored also chooses the best epoch. Here a third part chooses: the last quarter of the rows that are trained on,
as `cryoden train` does with a single micrograph; with `--all-rows` these are trained on too, and nothing chooses.
Of a simulated set of 1, 6 or 20 micrographs, validation is what `cryoden train` holds out, and three more are scored.

Prints R2_corr (300-8 A) of the averaged weights on both after every few steps. A small crop and bfloat16 make a step
of the general model's network take 5 s on one core.

Usage: python benchmarks/fine_tuning_curve.py exposure|1|6|20 [--rate 2e-4] [--steps 120] [--every 15] [--all-rows]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import List, Sequence, Tuple

import torch
from fine_tuning import SETS
from networks import COARSE_RATE_A, exposure, simulated

from cryoden.config import TrainConfig
from cryoden.data.pair_reader import load_pair
from cryoden.data.pairs import VALIDATION_ROWS, HalfPair
from cryoden.formats.model_file import read_card
from cryoden.metrics.ring_covariance import pool, score
from cryoden.model.devices import pick_device
from cryoden.model.predictor import Predictor
from cryoden.model.schedule import learning_rate_factor
from cryoden.model.training_data import TrainingData
from cryoden.model.training_setup import TrainingSetup, set_up
from cryoden.model.validation import measure_covariance

ROOT = Path(__file__).resolve().parent.parent

GENERAL_RATE_A = 4.0


def quality(setup: TrainingSetup, pairs: Sequence[HalfPair]) -> float:
    """Return R2_corr of the averaged weights."""
    predictor = Predictor(setup.state.averaged_network, setup.device, precision=setup.config.precision)
    covariances = []
    for pair in pairs:
        halves = load_pair(pair).halves.to(setup.device).float()
        predictions = torch.stack([predictor(half) for half in halves])
        covariances.append(measure_covariance(halves, predictions, pair.sampling_rate))
    return float(score(pool(covariances).in_band()).r2_corr)


def find(folder: Path, options: argparse.Namespace) -> Tuple[TrainConfig, TrainingData, List[HalfPair]]:
    """Return options, data and scored pairs of a training."""
    if options.data == "exposure":
        found = exposure(folder / "halves", options.micrograph, options.sampling_rate)
    else:
        shape, sigma, seed = SETS[int(options.data)]
        found = simulated(folder / "halves", shape, int(options.data), sigma, seed, COARSE_RATE_A)
    card = read_card("general")
    config = TrainConfig(
        odd=found.odd, even=found.even, output=str(folder / "training"), sampling_rate=found.rate or "full",
        seed=options.seed, network=card.network, channels=card.channels, from_model=options.start, lr=options.rate,
        crop=options.crop, batch_size=options.batch, epochs=max(1, options.steps // options.every), compile="no",
        min_batches=options.every, max_batches=options.every, precision=options.precision, device=options.device,
    )  # fmt: skip
    if found.training is None:
        return config, TrainingData.find(config), list(found.scored)

    rows = found.training.rows
    assert rows is not None
    cut = rows[1] if options.all_rows else round(rows[1] * (1 - VALIDATION_ROWS))
    learned = replace(found.training, name="training rows", rows=(0, cut))
    chosen_by = list(found.scored) if options.all_rows else [replace(learned, name="validation", rows=(cut, rows[1]))]
    return config, TrainingData([learned], chosen_by, {}), list(found.scored)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=("exposure", *map(str, SETS)))
    parser.add_argument("--micrograph", type=Path, default=ROOT / "demo" / "data" / "fei-extended.mrc")
    parser.add_argument("--sampling-rate", type=float, default=GENERAL_RATE_A, help="of the exposure, A/px")
    parser.add_argument("--all-rows", action="store_true", help="of the exposure: validation and scored rows are one")
    parser.add_argument("--start", default="general", help="model to start from, or none")
    parser.add_argument("--rate", type=float, default=2e-4, help="highest learning rate")
    parser.add_argument("--steps", type=int, default=120, help="after which the rate would be zero")
    parser.add_argument("--stop", type=int, help="stop after so many steps")
    parser.add_argument("--every", type=int, default=15, help="steps between two measurements")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="bfloat16", choices=("auto", "bfloat16", "float32"))
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    with tempfile.TemporaryDirectory() as temporary:
        config, data, scored = find(Path(temporary), options)
        setup = set_up(config, data, pick_device(options.device))
        begun = time.monotonic()
        print("| step | loss | validation | scored | s |\n|---|---|---|---|---|")

        def report(step: int, losses: List[float]) -> None:
            loss = f"{sum(losses) / len(losses):.4f}" if losses else ""
            values = " | ".join(f"{quality(setup, pairs):.4f}" for pairs in (data.held_out, scored))
            print(f"| {step} | {loss} | {values} | {time.monotonic() - begun:.0f} |", flush=True)

        report(0, [])
        step = 0
        for epoch in range(config.n_epochs):
            losses = []
            for batch in setup.loader.batches(setup.plan(epoch)):
                assert batch is not None
                rate = config.peak_lr * learning_rate_factor(step / options.steps)
                losses.append(float(setup.step(*batch, rate)))
                step += 1
            report(step, losses)
            if options.stop and step >= options.stop:
                break


if __name__ == "__main__":
    main()
