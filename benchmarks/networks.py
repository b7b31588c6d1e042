"""Which network learns most in the same time: candidates x data sets x seeds, each trained for an equal time.

Equal time means an equal number of seconds of optimisation: how long a step takes (loader included, compiled where
there is a GPU) is measured first, of one candidate after the other with nothing beside it, and every training gets as
many steps as fit into the seconds. So trainings may run side by side on one GPU (`--jobs`) and are compared fairly. On
CPUs, and with the quadrants of the demo, `--minutes` trains by the clock instead, as `cryoden train --minutes`.

Data: the demo's exposure (demo/thinned_frames.py) at full resolution and at 3.4 A/px, rows above 2816 trained on and
the others held out, as in exposure.py; its quadrants as in the demo; and simulated sets: the true images of `cryoden
simulate movies` with the noise of `cryoden simulate pairs`. Of these, N micrographs are given to the training, which
holds out some as always, and three more, which no training sees, are scored.

Prints for every candidate R2_corr (300-8 A) and its difference from the first candidate, paired by data set and seed,
with standard errors; how long a step takes, compiled and not, and the denoising of a megapixel; and the lattice: the
largest power of the denoised images at multiples of 1/2, 1/4 and 1/8 of the sampling frequency, over the median of the
ring around it (by chance 5 to 8; where the ring has structure, as at coarse pixels, more). The last line is one JSON
object.

Usage: python benchmarks/networks.py [--candidates NAME...] [--data NAME...] [--seeds 1 2] [--seconds 20] [--jobs 3]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from network_candidates import CANDIDATES, Candidate
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "demo"))
from thinned_frames import SAMPLING_RATE, electron_counts, quadrants, thin

from cryoden.config import SCORE_BAND_A, TrainConfig, shared
from cryoden.config.simulate import SimulateMoviesConfig, SimulatePairsConfig
from cryoden.data.pair_reader import load_pair
from cryoden.data.pairs import HalfPair, find_pairs
from cryoden.formats import outputs
from cryoden.formats.mrc import write_image
from cryoden.metrics.ring_covariance import pool, score
from cryoden.model import training_setup
from cryoden.model.devices import pick_device
from cryoden.model.predictor import Predictor, load_weights
from cryoden.model.schedule import Stopwatch
from cryoden.model.training import fit, score_epoch, train_epoch, validate
from cryoden.model.training_data import TrainingData
from cryoden.model.training_setup import TrainingSetup, set_up
from cryoden.model.training_state import OptimizationStep
from cryoden.model.training_writer import TrainingWriter
from cryoden.model.validation import measure_covariance
from cryoden.simulate.movies import simulate_movies
from cryoden.simulate.pairs import simulate_pairs

FIRST_HELD_OUT_ROW = 2816
COARSE_RATE_A = 3.4
SIMULATED_RATE_A = 2.0
N_SCORED = 3

FALLING_EPOCHS = 2
"""Epochs without a better R2 after which a training goes back, where its candidate does that."""

SIMULATED = {
    "6 barrels": ("barrel", 6, 0.5, 1, COARSE_RATE_A),
    "6 barrels, 2 A/px": ("barrel", 6, 0.5, 1, None),
    "6 globules": ("globule", 6, 0.4, 2, COARSE_RATE_A),
    "6 rods": ("rod", 6, 0.3, 3, COARSE_RATE_A),
    "20 globules": ("globule", 20, 0.4, 4, COARSE_RATE_A),
    "60 rods": ("rod", 60, 0.3, 5, COARSE_RATE_A),
}
"""Name of a set -> its particle, micrographs to train on, noise (the clean image has the range 0-1), seed, A/px."""

DATA = ("K2", "K2, 3.4 A/px", "demo", *SIMULATED)


# ---------------------------------------------------------------------- data
@dataclass(frozen=True)
class DataSet:
    """Where the halves are, and what differs in training on them.

    Attributes
    ----------
    odd, even
        Folders of the halves.
    rate
        A/px to train at; None: that of the files.
    training
        What is trained on, where the scored pairs are what is held out; None: as the training chooses.
    scored
        Pairs that are scored; empty: what the training held out.
    options
        Of the training.
    """

    odd: str
    even: str
    rate: Optional[float]
    training: Optional[HalfPair] = None
    scored: Tuple[HalfPair, ...] = ()
    options: Dict[str, Any] = field(default_factory=dict)

    def data(self, config: TrainConfig) -> TrainingData:
        """Return what a training learns from."""
        return TrainingData([self.training], list(self.scored), {}) if self.training else TrainingData.find(config)


def write_thinned(micrograph: Path, folder: Path, parts: Callable[[Any], Dict[str, Any]]) -> Tuple[str, str]:
    """Write both halves of an exposure in parts (name -> place in the image), and return their folders."""
    folders = (folder / "odd", folder / "even")
    if not folder.exists():
        for half, image in zip(folders, thin(electron_counts(micrograph), 2, np.random.default_rng(1))):
            half.mkdir(parents=True)
            for name, place in parts(image.shape).items():
                write_image(half / f"{name}.mrc", image[place].astype(np.float32), SAMPLING_RATE)
    return str(folders[0]), str(folders[1])


def exposure(folder: Path, micrograph: Path, rate: Optional[float]) -> DataSet:
    """Return the exposure, of which the last rows are held out."""
    odd, even = write_thinned(micrograph, folder, lambda _: {"exposure": slice(None)})
    pair = find_pairs(odd, even, rate)[0][0]
    row = round(FIRST_HELD_OUT_ROW * pair.shape[0] / pair.file_shape[0])
    training, held_out = (
        replace(pair, name=f"rows {a} to {b}", rows=(a, b)) for a, b in ((0, row), (row, pair.shape[0]))
    )
    return DataSet(odd, even, rate, training, (held_out,))


def demo(folder: Path, micrograph: Path) -> DataSet:
    """Return the quadrants, trained on as in the demo."""
    odd, even = write_thinned(
        micrograph, folder, lambda shape: {f"quadrant_{n}": place for n, place in enumerate(quadrants(shape), 1)}
    )
    return DataSet(odd, even, COARSE_RATE_A, options={"crop": 128, "batch_size": 4})


def simulated(folder: Path, shape: str, n: int, sigma: float, seed: int, rate: Optional[float]) -> DataSet:
    """Return simulated micrographs: N to train on, and others that are scored."""
    if not folder.exists():
        movies = SimulateMoviesConfig(
            output=str(folder / "movies"), movies=n + N_SCORED, size=(1024, 1024), frames=2, drift=0.0, shape=shape,
            sampling_rate=SIMULATED_RATE_A, dose_per_frame=20.0, seed=seed,
        )  # fmt: skip
        simulate_movies(movies)
        truths = sorted(str(path) for path in (folder / "movies" / outputs.TRUTH).glob("*.mrc"))
        for name, images in (("train", truths[:n]), ("test", truths[n:])):
            pairs = SimulatePairsConfig(
                images=tuple(images), output=str(folder / name), sigma=sigma, sampling_rate=SIMULATED_RATE_A, seed=seed
            )
            simulate_pairs(pairs)
    (odd, even), test = ([str(folder / name / half) for half in ("odd", "even")] for name in ("train", "test"))
    return DataSet(odd, even, rate, scored=tuple(find_pairs(*test, rate)[0]))


def make_data(name: str, folder: Path, micrograph: Path) -> DataSet:
    """Return a data set; what several of them need is made once."""
    if name == "demo":
        return demo(folder / "demo", micrograph)
    if name not in SIMULATED:
        return exposure(folder / "K2", micrograph, None if name == "K2" else COARSE_RATE_A)
    shape, n, *_ = SIMULATED[name]
    return simulated(folder / f"{n}_{shape}", *SIMULATED[name])


# ---------------------------------------------------------------------- trainings
class TrialStep(OptimizationStep):
    """A step with decay of the weights, and with a rate of its own where the training went back."""

    decay = 0.0
    rate: Optional[Callable[[], float]] = None

    def __call__(self, inputs: torch.Tensor, targets: torch.Tensor, learning_rate: float) -> torch.Tensor:
        """Learn from one batch; the weights shrink first."""
        learning_rate = self.rate() if self.rate else learning_rate
        if self.decay:
            with torch.no_grad():
                torch._foreach_mul_(list(self.state.network.parameters()), 1 - self.decay * learning_rate)
        return super().__call__(inputs, targets, learning_rate)


def set_up_candidate(
    candidate: Candidate, data: DataSet, output: Path, seed: int, options: argparse.Namespace, **changes: Any
) -> TrainingSetup:
    """Make a training of a candidate."""
    output.mkdir(parents=True)
    device = pick_device(options.device)
    base = TrainConfig(
        odd=data.odd, even=data.even, output=str(output), seed=seed, sampling_rate=data.rate or shared.FULL,
        channels=tuple(options.channels or candidate.channels), compile="yes" if device.type == "cuda" else "no",
        checkpoint_minutes=60.0,
    )  # fmt: skip
    if options.crop:
        base = replace(base, crop=options.crop)
    config = replace(base, **{**data.options, **candidate.options, **changes})
    training_setup.build_network = lambda name, channels, seed: candidate.build(channels, seed)
    step = type("Step", (TrialStep,), {"decay": candidate.decay})
    return set_up(config, data.data(config), device, step_class=step)


def fit_and_go_back(setup: TrainingSetup) -> None:
    """Train until R2 has not risen for some epochs, then go on from the best while the rate falls to zero."""
    progress, kept = setup.state.progress, None
    while progress.epoch < setup.config.epochs and progress.epoch - progress.best_epoch < FALLING_EPOCHS:
        one_epoch(setup)
        if progress.best_epoch == progress.epoch:
            kept = copy.deepcopy(setup.state.state_dict())
    if progress.epoch == setup.config.epochs or kept is None:
        return

    setup.state.load_state_dict(kept)
    progress = setup.state.progress
    n_epochs = max(2, progress.epoch // 2)
    first, n_steps, rate = progress.step, n_epochs * setup.config.min_batches, progress.records[-1]["learning_rate"]
    setup.step.rate = lambda: rate * max(0.0, 1 - (progress.step - first) / n_steps)
    for _ in range(n_epochs):
        one_epoch(setup)


def one_epoch(setup: TrainingSetup) -> None:
    """Train for one epoch, validate, write."""
    stopwatch = Stopwatch(setup.state.progress.seconds)
    writer = TrainingWriter(setup, stopwatch)
    record = train_epoch(setup, writer, stopwatch)
    compared = validate(setup)
    writer.write_epoch({**record, **score_epoch(compared), "seconds": stopwatch.seconds}, compared)


def scored(setup: TrainingSetup, pairs: Sequence[HalfPair]) -> Dict[str, float]:
    """Return R2_corr, with 1 view and with 8, and the lattice of the best model on pairs."""
    path = str(Path(setup.config.output) / outputs.MODEL)
    network = setup.state.averaged_network
    load_weights(network, load_file(path), path)
    covariances: Dict[int, List[Any]] = {1: [], 8: []}
    peaks = []
    for pair in pairs:
        halves = load_pair(pair).halves.to(setup.device).float()
        for views, found in covariances.items():
            predictor = Predictor(network, setup.device, views=views)
            predictions = torch.stack([predictor(half) for half in halves])
            found.append(measure_covariance(halves, predictions, pair.sampling_rate))
            if views == 1:
                peaks.append(lattice_peak(predictions))
    values = [float(score(pool(found).in_band(SCORE_BAND_A)).r2_corr) for found in covariances.values()]
    r2_corr, with_8_views = (value if math.isfinite(value) else 0.0 for value in values)  # of a constant it is NaN
    return {"r2_corr": r2_corr, "r2_corr_8_views": with_8_views, "lattice": statistics.median(peaks)}


def lattice_peak(images: torch.Tensor) -> float:
    """Return the largest power at multiples of 1/2, 1/4 and 1/8 of the sampling frequency over its ring's median.

    Parameters
    ----------
    images
        Denoised, `(n, y, x)`; their power is averaged.
    """
    shape = [side // 8 * 8 for side in images.shape[-2:]]
    cut = images[:, : shape[0], : shape[1]].double()
    rows, columns = (torch.hann_window(n, dtype=cut.dtype, device=cut.device) for n in shape)
    windowed = (cut - cut.mean((1, 2), keepdim=True)) * rows[:, None] * columns
    power = torch.fft.rfft2(windowed).abs().square().mean(0).cpu().numpy()
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])

    places = [(i * shape[0] // 8, j * shape[1] // 8) for i in range(8) for j in range(5) if i or j]
    medians = [np.median(power[np.abs(radius - radius[place]) < 4 / min(shape)]) for place in places]
    return float(max(power[place] / median if median else 0.0 for place, median in zip(places, medians)))


# ---------------------------------------------------------------------- one candidate
def worker(name: str, *arguments: Any) -> None:
    """Call `work`; whatever becomes of it, nobody waits for this process afterwards."""
    common = arguments[-1]
    try:
        work(name, *arguments)
    except Exception:
        traceback.print_exc()
        common["compiled"].abort()
        common["measured"].abort()
    finally:
        common["results"].put(("end", name))


def work(
    name: str, sets: Dict[str, DataSet], folder: Path, options: argparse.Namespace, common: Dict[str, Any]
) -> None:
    """Measure and train one candidate in a process of its own, which puts its results into the common queue."""
    candidate = CANDIDATES[name]
    torch.set_num_threads(options.threads)
    figures = measure(candidate, next(iter(sets.values())), folder / f"{name} measured", options, common)
    common["results"].put(("figures", name, figures))
    common["measured"].wait()

    n_epochs = max(2, round(1e3 * options.seconds / figures["step_ms"] / options.batches))
    length: Dict[str, Any] = {"epochs": n_epochs, "min_batches": options.batches, "max_batches": options.batches}
    if options.minutes:
        length = {"minutes": options.minutes}
    for seed in options.seeds:
        for data in sets:
            with common["jobs"]:
                if time.time() > options.deadline:
                    continue
                torch._dynamo.reset()
                setup = set_up_candidate(
                    candidate, sets[data], folder / f"{name} {data} {seed}", seed, options, **length
                )
                (fit_and_go_back if candidate.goes_back else fit)(setup)
                progress = setup.state.progress
                result = {
                    **scored(setup, sets[data].scored or setup.data.held_out),
                    "steps": progress.step, "epochs": progress.epoch, "best_epoch": progress.best_epoch,
                    "best_r2": progress.best_r2, "last_r2": progress.records[-1]["r2"],
                }  # fmt: skip
                common["results"].put(("training", name, data, seed, result))


def measure(
    candidate: Candidate, data: DataSet, output: Path, options: argparse.Namespace, common: Dict[str, Any]
) -> Dict[str, float]:
    """Return how long steps and denoising take; all compile side by side, and then are alone."""
    begun = time.monotonic()
    length = {"min_batches": options.steps, "max_batches": options.steps, "epochs": 1000}
    setup = set_up_candidate(candidate, data, output, 1, options, **length)
    writer = TrainingWriter(setup, Stopwatch())

    def step_ms() -> float:
        setup.state.progress.batch = 0
        begun = time.monotonic()
        record = train_epoch(setup, writer, Stopwatch())
        setup.state.progress.epoch += 1
        assert math.isfinite(record["loss"])
        return 1e3 * (time.monotonic() - begun) / options.steps

    step_ms()
    figures = {"compile_s": time.monotonic() - begun}
    common["compiled"].wait()
    with common["alone"]:
        figures["step_ms"] = min(step_ms(), step_ms())
        setup.step.forward = setup.state.network
        step_ms()
        figures["eager_ms"] = step_ms()
        predictor = Predictor(setup.state.averaged_network, setup.device)
        image = torch.randn(options.side, options.side)
        times = []
        for _ in range(4):
            begun = time.monotonic()
            predictor(image).cpu()
            times.append(time.monotonic() - begun)
    figures["denoising_Mpx_s"] = options.side**2 / 1e6 / min(times[1:])
    figures["n_weights"] = sum(weight.numel() for weight in setup.state.network.parameters())
    return figures


# ---------------------------------------------------------------------- table
def with_error(values: Sequence[float]) -> str:
    """Return mean and standard error of differences."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return f"{statistics.mean(values):+.4f} ± {error:.4f}"


def print_table(result: Dict[str, Any], names: Sequence[str], sets: Sequence[str]) -> None:
    """Print the rows of the table, for benchmarks/README.md."""
    print(
        "\n| candidate | step, ms (eager) | denoising, Mpx/s | weights, M | lattice | " + " | ".join(sets) + " | all |"
    )
    print("|---" * (6 + len(sets)) + "|")
    r2 = {(row["candidate"], row["data"], row["seed"]): row["r2_corr"] for row in result["trainings"]}
    for name in (name for name in names if name in result["figures"]):
        figures = result["figures"][name]
        lattices = sorted(row["lattice"] for row in result["trainings"] if row["candidate"] == name)
        cells = [
            name, f"{figures['step_ms']:.1f} ({figures['eager_ms']:.1f})", f"{figures['denoising_Mpx_s']:.3g}",
            f"{figures['n_weights'] / 1e6:.2f}", f"{lattices[0]:.0f} to {lattices[-1]:.0f}" if lattices else "",
        ]  # fmt: skip
        every: List[float] = []
        for data in sets:
            mine = {key[2]: value for key, value in r2.items() if key[:2] == (name, data)}
            paired = [value - r2[names[0], data, seed] for seed, value in mine.items() if (names[0], data, seed) in r2]
            every += paired
            difference = f" ({with_error(paired)})" if paired and name != names[0] else ""
            cells.append(f"{statistics.mean(mine.values()):.3f}{difference}" if mine else "")
        cells.append(with_error(every) if every and name != names[0] else "")
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    here = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--micrograph", type=Path, default=here / "demo" / "data" / "fei-extended.mrc")
    parser.add_argument("--candidates", nargs="*", choices=CANDIDATES, default=["unet", "resunet"])
    parser.add_argument("--data", nargs="*", choices=DATA, default=["K2", "6 barrels"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=20.0, help="of optimisation for each training")
    parser.add_argument("--minutes", type=float, help="train for so long by the clock instead, with nothing beside it")
    parser.add_argument("--channels", type=int, nargs="*", help="of all candidates")
    parser.add_argument("--crop", type=int, help="side of the crops in pixels")
    parser.add_argument("--batches", type=int, default=100, help="of an epoch")
    parser.add_argument("--steps", type=int, default=60, help="by which the time of a step is measured")
    parser.add_argument("--side", type=int, default=4096, help="of the image by which denoising is measured")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, each of another candidate")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each candidate's process")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which no more training is begun")
    options = parser.parse_args()
    options.deadline = time.time() + options.limit

    is_gpu = options.device != "cpu" and torch.cuda.is_available()
    where = torch.cuda.get_device_name() if is_gpu else f"{options.threads} CPU threads"
    result: Dict[str, Any] = {"device": where, "torch": torch.__version__, "figures": {}, "trainings": []}
    context = multiprocessing.get_context("spawn")
    n_running = len(options.candidates)
    with tempfile.TemporaryDirectory() as name:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            sets = {data: make_data(data, Path(name) / "data", options.micrograph) for data in options.data}
        common = {
            "compiled": context.Barrier(n_running), "measured": context.Barrier(n_running), "alone": context.Lock(),
            "jobs": context.Semaphore(options.jobs), "results": context.Queue(),
        }  # fmt: skip
        processes = [
            context.Process(target=worker, args=(candidate, sets, Path(name), options, common))
            for candidate in options.candidates
        ]
        for process in processes:
            process.start()
        while n_running:
            kind, candidate, *values = common["results"].get()
            if kind == "end":
                n_running -= 1
                continue
            if kind == "figures":
                result["figures"][candidate] = values[0]
            else:
                row = {"candidate": candidate, "data": values[0], "seed": values[1], **values[2]}
                result["trainings"].append(row)
            print(candidate, *values[:-1], {key: round(value, 4) for key, value in values[-1].items()}, flush=True)
        for process in processes:
            process.join()
    print_table(result, options.candidates, options.data)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
