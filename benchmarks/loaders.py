"""How fast micrographs come from disk: streaming against keeping everything, start-up against the disk, host memory.

Writes pairs of made-up float32 halves (one noise image, shifted, plus a common signal) and measures, each in a process
of its own and after the page cache was emptied:

- start-up of the loader that keeps everything against reading the same bytes plainly with as many threads,
- where the time of loading goes: one pair in one thread, reading alone, and loading from the page cache,
- one epoch of the U-Net's training (compiled on a GPU) with either loader: crops per second,
- the peak of host memory of a streamed epoch above a process that did everything but load, for two numbers of pairs;
  the larger one is made of hard links to the same files.

The last line is one JSON object.

Usage: python benchmarks/loaders.py [--pairs 20] [--many 200] [--shape 7420 7676] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np
import torch

from cryoden.config import TrainConfig, shared
from cryoden.data.crops import Crop, EpochPlan
from cryoden.data.loaders import ManagedLoader, StreamingLoader, augment
from cryoden.data.pair_reader import N_READERS, load_pair
from cryoden.data.pairs import find_pairs, hold_out
from cryoden.formats.images import open_micrograph
from cryoden.formats.mrc import MrcWriter
from cryoden.model.devices import pick_device
from cryoden.model.schedule import Stopwatch
from cryoden.model.training import train_epoch
from cryoden.model.training_data import TrainingData
from cryoden.model.training_setup import TrainingSetup, set_up
from cryoden.model.training_writer import TrainingWriter

GIB = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--many", type=int, default=200, help="number of pairs for the second reading of host memory")
    parser.add_argument("--shape", type=int, nargs=2, default=(7420, 7676))
    parser.add_argument("--crop", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--many-batches", type=int, help="batches of that reading (default: one epoch)")
    parser.add_argument("--window", type=float, default=TrainConfig.default_of("window"), help="GiB")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", help="on the disk to measure; its pairs are kept (default: a temporary folder)")
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=list(STEPS))
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step](options)))
        return
    with tempfile.TemporaryDirectory() as name:
        options.folder = options.folder or name
        print(json.dumps(compare(options)))


def compare(options: argparse.Namespace) -> Dict[str, Any]:
    begun = time.monotonic()
    n_bytes = write_pairs(options)
    print(
        f"{options.pairs} pairs of {options.shape}, {n_bytes / 1e9:.2f} GB, written in {time.monotonic() - begun:.0f} s"
    )
    result: Dict[str, Any] = {"bytes": n_bytes, "pairs": options.pairs, "shape": list(options.shape)}
    for step in options.steps:
        result[step] = run_step(step, options)
        print(f"  {step:16} " + ", ".join(f"{k} {v:.4g}" for k, v in result[step].items()), flush=True)

    def share(name: str, of: str, key: str) -> None:
        if name in result and of in result:
            result[f"{name} / {of}"] = ratio = result[name][key] / result[of][key]
            print(f"{name} / {of:24} {ratio:8.3f} of {result[of][key]:.4g} {key}")

    share("start", "plain", "gb_per_s")
    share("streaming", "managed", "crops_per_second")
    for step, count in (("streaming", options.pairs), ("many", options.many)):
        if step in result and "bare" in result:
            result[f"{step}_above_bare_gib"] = above = result[step]["peak_gib"] - result["bare"]["peak_gib"]
            print(f"memory with {count:4} pairs    {above:8.3f} GiB above the bare process")
    return result


def run_step(step: str, options: argparse.Namespace) -> Dict[str, float]:
    """Run one measurement in a process of its own, with a cold page cache; return what it printed."""
    if step != "cached":
        drop_cache(Path(options.folder))
    command = [sys.executable, __file__, "--step", step, "--folder", options.folder, "--device", options.device]
    for name in ("pairs", "many", "crop", "batch", "window", "many_batches"):
        if getattr(options, name) is not None:
            command += ["--" + name.replace("_", "-"), str(getattr(options, name))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------------- steps, each in its own process
def plain_read(options: argparse.Namespace) -> Dict[str, float]:
    """Read every file in pieces of 4 MiB into one buffer, with as many threads as the loaders have."""

    def read(path: Path) -> None:
        buffer = bytearray(4 << 20)
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    files = sorted(Path(options.folder).glob("few/*/*.mrc"))
    begun = time.monotonic()
    with ThreadPoolExecutor(N_READERS) as pool:
        list(pool.map(read, files))
    return rate(files, time.monotonic() - begun)


def load_one(options: argparse.Namespace) -> Dict[str, float]:
    """Read one pair's rows in one thread, then load the same pair from the page cache, then another from the disk."""
    pairs, _ = find_pairs(*halves_of(options, "few"))
    begun = time.monotonic()
    for path in (pairs[0].odd, pairs[0].even):
        stack = open_micrograph(path)
        for row in range(0, stack.shape[0], stack.band_rows):
            stack.read_rows(0, row, min(row + stack.band_rows, stack.shape[0]))
    read = time.monotonic()
    load_pair(pairs[0])
    cached = time.monotonic()
    load_pair(pairs[1])
    return {"read": read - begun, "load_cached": cached - read, "load_cold": time.monotonic() - cached}


def start_up(options: argparse.Namespace) -> Dict[str, float]:
    """Load every pair into memory, on the GPU where there is one."""
    device = pick_device(options.device)
    torch.zeros(1, device=device)
    pairs, _ = find_pairs(*halves_of(options, "few"))
    begun = time.monotonic()
    ManagedLoader(pairs, [], options.crop, device, keep=device)
    return rate([Path(path) for pair in pairs for path in (pair.odd, pair.even)], time.monotonic() - begun)


def rate(files: Sequence[Path], seconds: float) -> Dict[str, float]:
    """Return the seconds and how many GB of the files that is in a second."""
    return {"seconds": seconds, "gb_per_s": sum(path.stat().st_size for path in files) / seconds / 1e9}


def train_managed(options: argparse.Namespace) -> Dict[str, float]:
    return measure_epoch(options, "few", [])


def train_streaming(options: argparse.Namespace) -> Dict[str, float]:
    return measure_epoch(options, "few", ["stream", "force"])


def train_many(options: argparse.Namespace) -> Dict[str, float]:
    return measure_epoch(options, "many", ["stream", "force"])


def do_bare(options: argparse.Namespace) -> Dict[str, float]:
    """Train on batches that were made once: everything but loading."""
    setup = make_setup(options, "few", ["stream", "force"])
    warm_up(setup, options)
    return {"peak_gib": peak_gib()}


def stream_alone(options: argparse.Namespace) -> Dict[str, float]:
    """Stream one epoch and throw the batches away: the loader's own speed."""
    device = pick_device(options.device)
    torch.zeros(1, device=device)
    pairs, _ = find_pairs(*halves_of(options, "few"))
    trainer_window = max(1, min(16, int(options.window * GIB) // pairs[0].n_bytes - 2))
    plan = EpochPlan.draw([pair.used_shape for pair in pairs], options.crop, options.batch, 1, 0, trainer_window)
    loader = StreamingLoader(pairs, [], options.crop, device, budget_bytes=int(options.window * GIB))
    begun = time.monotonic()
    for batch in loader.batches(plan):
        assert batch is not None
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.monotonic() - begun
    return {
        "seconds": seconds,
        "crops_per_second": len(plan.batches) * options.batch / seconds,
        "gb_per_s": 8 * sum(pair.shape[0] * pair.shape[1] for pair in pairs) / seconds / 1e9,
    }


def measure_epoch(options: argparse.Namespace, which: str, flags: List[str]) -> Dict[str, float]:
    setup = make_setup(options, which, flags, options.many_batches if which == "many" else None)
    warm_up(setup, options)
    stopwatch = Stopwatch()
    record = train_epoch(setup, TrainingWriter(setup, stopwatch), stopwatch)
    return {
        "crops_per_second": record["crops_per_second"],
        "seconds": record["training_seconds"],
        "peak_gib": peak_gib(),
    }


def make_setup(options: argparse.Namespace, which: str, flags: List[str], max_batches: Any = None) -> TrainingSetup:
    """Return a training whose one epoch has as many crops as the half-overlapping grid."""
    device = pick_device(options.device)
    odd, even = halves_of(options, which)
    config = TrainConfig(
        odd=odd, even=even, output=str(Path(options.folder) / "out"), crop=options.crop, batch_size=options.batch,
        compile="yes" if device.type == "cuda" else "no", epochs=1000, min_batches=1, max_batches=max_batches,
        window=options.window, memory=1000.0,
        network="unet", channels=shared.UNET_CHANNELS if device.type == "cuda" else (4, 8),
        **dict.fromkeys(flags, True),
    )  # fmt: skip
    pairs, failures = find_pairs(odd, even)
    training, held_out = hold_out(pairs, 0.5 / len(pairs), np.random.default_rng(1))
    return set_up(config, TrainingData(training, held_out, failures), device)


def warm_up(setup: TrainingSetup, options: argparse.Namespace) -> None:
    """Take three steps on noise, so that compiling and the choice of kernels are over."""
    crops = [Crop(0, 0, 0, view % 8, view % 3 == 0) for view in range(options.batch)]
    pixels = torch.randn((options.batch, 2, setup.crop, setup.crop), device=setup.device)
    inputs, targets = augment(pixels, crops)
    for _ in range(3):
        setup.step(inputs, targets, 1e-6).item()


STEPS = {
    "plain": plain_read, "cached": plain_read, "one pair": load_one, "start": start_up, "managed": train_managed,
    "streaming": train_streaming, "streaming alone": stream_alone, "bare": do_bare, "many": train_many,
}  # fmt: skip
"""Each in a process of its own; before all but `cached` the page cache is emptied."""


# ---------------------------------------------------------------------- files and memory
def halves_of(options: argparse.Namespace, which: str) -> List[str]:
    return [str(Path(options.folder) / which / half) for half in ("odd", "even")]


def write_pairs(options: argparse.Namespace) -> int:
    """Write the pairs, and hard links to them as the larger set; return the bytes of the pairs' files."""
    n_rows, n_columns = options.shape
    written = list(Path(options.folder).glob("few/*/*.mrc"))
    if written:
        return sum(path.stat().st_size for path in written)
    rng = np.random.default_rng(1)
    noise = 100 + 3 * rng.standard_normal((n_rows, n_columns), np.float32)
    signal = np.repeat(rng.standard_normal((n_rows, -(-n_columns // 4)), np.float32), 4, axis=1)[:, :n_columns]
    folder = Path(options.folder)

    def write(job: int) -> int:
        number, half = divmod(job, 2)
        path = folder / "few" / ("odd", "even")[half] / f"micrograph_{number:03}.mrc"
        image = np.roll(noise, (17 * job + 1, 31 * job + 1), (0, 1)) + np.roll(signal, 97 * number, 0)
        with MrcWriter(path, (n_rows, n_columns), 1.0) as writer:
            writer._n = image.size
            writer._file.write(image.data)
        return path.stat().st_size

    for which in ("few", "many"):
        for half in ("odd", "even"):
            (folder / which / half).mkdir(parents=True)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        n_bytes = sum(pool.map(write, range(2 * options.pairs)))
    for number in range(options.many):
        for half in ("odd", "even"):
            source = folder / "few" / half / f"micrograph_{number % options.pairs:03}.mrc"
            os.link(source, folder / "many" / half / f"micrograph_{number:03}.mrc")
    os.sync()
    return n_bytes


def drop_cache(folder: Path) -> None:
    """Write what waits for the disk, and empty the page cache of the files that are to be read.

    That of everything else stays: a program whose libraries came from a cold disk would be measured by their size.
    """
    os.sync()
    for path in folder.glob("few/**/*.mrc"):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def peak_gib() -> float:
    """Return the largest resident size that this process had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / (1 << 20)


if __name__ == "__main__":
    main()
