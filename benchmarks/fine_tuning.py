"""How fast a training should learn that starts from a model, and what it gains over one from random weights.

Simulated sets of 1, 6 and 20 micrographs, each of another specimen, with three more that no training sees and that are
scored. On each, a training from random weights and trainings from the model are given equally many steps: they are of
one network, so that is equal time. What differs is the highest learning rate, and the share of the training in which it
rises. Trainings may run side by side on one GPU (`--jobs`).

Prints for every set the R2_corr (300-8 A) of the model itself and of the training from random weights, and the
differences of the others from the latter, paired by seed, with standard errors; a * for each training that kept its
start. The last line is one JSON object.

Usage: python benchmarks/fine_tuning.py [--model general] [--steps 400] [--seeds 1 2] [--jobs 4] [--limit 100]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import multiprocessing
import statistics
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch
from networks import COARSE_RATE_A, DataSet, scored, simulated

from cryoden.config import TrainConfig
from cryoden.config.shared import NOTHING
from cryoden.data.pair_reader import load_pair
from cryoden.formats.model_file import read_card
from cryoden.metrics.ring_covariance import pool, score
from cryoden.model import schedule
from cryoden.model.denoiser import Denoiser
from cryoden.model.devices import pick_device
from cryoden.model.training import fit
from cryoden.model.training_data import TrainingData
from cryoden.model.training_setup import set_up
from cryoden.model.validation import measure_covariance

SETS = {1: ("barrel", 0.5, 11), 6: ("globule", 0.4, 12), 20: ("rod", 0.3, 13)}
"""Number of micrographs -> their specimen, noise (the clean image has the range 0-1) and seed."""

SCRATCH = "from nothing"

Variant = Tuple[float, float]
"""Highest learning rate, and share of the training in which it rises."""

Task = Tuple[int, int, str]
"""Seed, number of micrographs, name of the variant."""


def variants(options: argparse.Namespace) -> Dict[str, Optional[Variant]]:
    """Return name -> variant; None from random weights."""
    found: Dict[str, Optional[Variant]] = {SCRATCH: None}
    found.update({f"{rate:g}": (rate, schedule.WARM_UP) for rate in options.rates})
    found.update(
        {f"{rate:g}, rises for {share:g}": (rate, share) for rate in options.rates[1:3] for share in options.warm_up}
    )
    return found


def trained(
    data: DataSet, seed: int, variant: Optional[Variant], output: Path, options: argparse.Namespace
) -> Dict[str, Any]:
    """Train once; return how good the model is on the micrographs that no training saw."""
    output.mkdir(parents=True)
    card = read_card(options.model)
    rate, schedule.WARM_UP = variant or (1e-3, options.usual_warm_up)
    config = TrainConfig(
        odd=data.odd, even=data.even, output=str(output), seed=seed, sampling_rate=data.rate or "full",
        network=card.network, channels=card.channels, from_model=options.model if variant else NOTHING, lr=rate,
        crop=options.crop, batch_size=options.batch, epochs=max(1, options.steps // options.batches), compile="no",
        min_batches=options.batches, max_batches=options.batches, checkpoint_minutes=60.0,
    )  # fmt: skip
    begun = time.monotonic()
    setup = set_up(config, TrainingData.find(config), pick_device(options.device))
    fit(setup)
    progress = setup.state.progress
    return {
        "r2_corr": scored(setup, data.scored)["r2_corr"], "best_epoch": progress.best_epoch, "steps": progress.step,
        "is_start_kept": progress.is_start_best and variant is not None, "seconds": time.monotonic() - begun,
    }  # fmt: skip


def quality(model: str, data: DataSet, device: str) -> float:
    """Return R2_corr of a model as it is."""
    denoiser = Denoiser.load(model, device)
    covariances = []
    for pair in data.scored:
        halves = load_pair(pair).halves.to(denoiser.predictor.device).float()
        predictions = torch.stack([denoiser.predictor(half) for half in halves])
        covariances.append(measure_covariance(halves, predictions, pair.sampling_rate))
    value = float(score(pool(covariances).in_band()).r2_corr)
    return value if math.isfinite(value) else 0.0  # of a constant it is NaN


# ---------------------------------------------------------------------- side by side
def make_set(n: int, folder: Path, options: argparse.Namespace) -> DataSet:
    """Simulate a set."""
    shape, sigma, seed = SETS[n]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return simulated(folder, shape, n, sigma, seed, COARSE_RATE_A)


def simulate(n: int, folder: Path, options: argparse.Namespace, results: Any) -> None:
    """Simulate a set in a process of its own."""
    torch.set_num_threads(1)
    try:
        results.put((n, make_set(n, folder, options)))
    except Exception:
        traceback.print_exc()
        results.put((n, None))


def work(tasks: Any, sets: Dict[int, DataSet], folder: Path, options: argparse.Namespace, results: Any) -> None:
    """Train one task after the other, until none is left or the time is over."""
    torch.set_num_threads(options.threads)
    while True:
        task: Optional[Task] = tasks.get()
        if task is None or time.time() > options.deadline:
            break
        seed, n, name = task
        try:
            place = folder / f"{n} {seed} {name}".replace(" ", "_")
            results.put((task, trained(sets[n], seed, variants(options)[name], place, options)))
        except Exception:
            traceback.print_exc()
    results.put(None)


def processes(target: Any, arguments: List[Tuple[Any, ...]]) -> List[Any]:
    """Return what processes put into their queue, each one result, or many and None in the end."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    running = [context.Process(target=target, args=(*given, results)) for given in arguments]
    for process in running:
        process.start()
    found: List[Any] = []
    n_left = len(running)
    while n_left:
        result = results.get()
        if result is None or target is simulate:
            n_left -= 1
        if result is not None:
            found.append(result)
            if target is work:
                print(*result, flush=True)
    for process in running:
        process.join()
    return found


# ---------------------------------------------------------------------- table
def print_table(result: Dict[str, Any], names: List[str]) -> None:
    """Print the rows of the table, for benchmarks/README.md."""
    counts = list(result["model"])
    rows = {(row["seed"], row["n"], row["variant"]): row for row in result["trainings"]}
    print(
        "\n| highest rate | "
        + " | ".join(f"{n} micrographs" for n in counts)
        + " | all |\n"
        + "|---" * (len(counts) + 2)
        + "|"
    )
    print("| the model itself | " + " | ".join(f"{result['model'][n]:.3f}" for n in counts) + " | |")
    for name in names:
        cells, every = [], []
        for n in counts:
            found = {key[0]: row for key, row in rows.items() if key[1:] == (n, name)}
            if name == SCRATCH:
                cells.append(f"{statistics.mean(row['r2_corr'] for row in found.values()):.3f}" if found else "")
                continue
            bases = {seed: rows.get((seed, n, SCRATCH)) for seed in found}
            paired = [row["r2_corr"] - base["r2_corr"] for seed, row in found.items() for base in [bases[seed]] if base]
            every += paired
            cells.append(with_error(paired) + " " + "*" * sum(row["is_start_kept"] for row in found.values()))
        print("| " + " | ".join([name, *cells, with_error(every)]) + " |")


def with_error(values: List[float]) -> str:
    """Return mean and standard error of differences; nothing of none."""
    if not values:
        return ""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return f"{statistics.mean(values):+.4f} ± {error:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="general", help="to start from")
    parser.add_argument("--micrographs", type=int, nargs="*", choices=SETS, default=list(SETS), help="of the sets")
    parser.add_argument("--rates", type=float, nargs="*", default=[1e-3, 5e-4, 2e-4, 1e-4], help="highest ones")
    parser.add_argument("--warm-up", type=float, nargs="*", default=[0.2], help="other shares in which the rate rises")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1])
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--batches", type=int, default=50, help="of an epoch")
    parser.add_argument("--crop", type=int, default=256, help="side of the crops in pixels")
    parser.add_argument("--batch", type=int, default=8, help="crops in a step")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--threads", type=int, default=1, help="of each of them")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which no more training is begun")
    options = parser.parse_args()
    options.deadline, options.usual_warm_up = time.time() + options.limit, schedule.WARM_UP

    is_gpu = options.device != "cpu" and torch.cuda.is_available()
    where = torch.cuda.get_device_name() if is_gpu else f"{options.threads} CPU threads"
    result: Dict[str, Any] = {"device": where, "torch": torch.__version__, "steps": options.steps, "trainings": []}
    names = list(variants(options))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = processes(simulate, [(n, folder / f"set{n}", options) for n in options.micrographs])
        sets = {n: data for n, data in sorted(made) if data is not None}
        print(f"Simulated {len(sets)} sets; {options.deadline - time.time():.0f} s are left.", flush=True)

        tasks = multiprocessing.get_context("spawn").Queue()
        for seed in options.seeds:
            for variant in names:  # whatever is cut off, every set is there
                for n in sets:
                    tasks.put((seed, n, variant))
        for _ in range(options.jobs):
            tasks.put(None)
        common = (tasks, sets, folder / "trainings", options)
        result["model"] = {n: quality(options.model, data, options.device) for n, data in sets.items()}
        for (seed, n, variant), row in processes(work, [common] * options.jobs):
            result["trainings"].append({"seed": seed, "n": n, "variant": variant, **row})
    print_table(result, names)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
