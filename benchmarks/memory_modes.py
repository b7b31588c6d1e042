"""Managed against streaming, in the specification's table: start-up, batch time, samples per second, GPU use, memory.

Writes pairs of made-up halves, trains on them twice (all pairs kept in memory; a window streamed from disk), each in a
process of its own and after the page cache was emptied, and puts the table into a page, between its two marks. Beside
each stands the same in plain PyTorch: the textbook's network in eager float32 with default Adam, fed from one tensor on
the device, or by a DataLoader whose two workers cut crops out of memory-mapped files. The last line is one JSON object.

Usage: python benchmarks/memory_modes.py [--page docs/managed-against-streaming.md] [--pairs 10] [--shape 2048 2048]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Tuple

import mrcfile
import numpy as np
import torch
from loaders import drop_cache, halves_of, peak_gib, write_pairs
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from training import plain

from cryoden.config import TrainConfig
from cryoden.config.shared import FULL
from cryoden.model.devices import pick_device
from cryoden.model.training_data import TrainingData
from cryoden.model.training_setup import set_up

MODES: Dict[str, List[str]] = {"managed": [], "streaming": ["stream", "force"]}
PLAIN_MODES = ("plain managed", "plain streaming")
N_WORKERS = 2

ROWS = {
    "startup_s": ("start-up until the first step is done", "{:.2f} s"),
    "batch_ms": ("time of a step with its batch, median", "{:.1f} ms"),
    "wait_ms": ("of that, until the batch is there", "{:.1f} ms"),
    "samples_per_s": ("samples per second", "{:.2f}"),
    "gpu_use": ("GPU use", "{:.0f} %"),
    "gpu_gib": ("GPU memory, peak", "{:.2f} GiB"),
    "host_gib": ("host memory, peak", "{:.2f} GiB"),
}
MARKS = ("<!-- measured -->", "<!-- end -->")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", help="Markdown page whose part between the marks is replaced")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--shape", type=int, nargs=2, default=(2048, 2048))
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--network", default="cnn3")
    parser.add_argument("--channels", type=int, nargs="+", default=(32, 64, 128, 256))
    parser.add_argument("--window", type=float, default=0.17, help="GiB")
    parser.add_argument("--steps", type=int, help="end after so many batches (default: one epoch)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", help="on the disk to measure; its pairs are kept (default: a temporary folder)")
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.many = 0
    if options.mode:
        print(json.dumps((measure_plain if options.mode in PLAIN_MODES else measure)(options)))
        return
    with tempfile.TemporaryDirectory() as name:
        options.folder = options.folder or name
        write_pairs(options)
        results = {mode: run_alone(mode, options) for mode in (*MODES, *PLAIN_MODES)}
    table = markdown(results, options)
    print(table)
    if options.page:
        fill(Path(options.page), table)
    print(json.dumps(results))


def run_alone(mode: str, options: argparse.Namespace) -> Dict[str, float]:
    """Measure one mode in a process of its own, with a cold page cache."""
    drop_cache(Path(options.folder))
    words = [sys.executable, __file__, "--mode", mode, "--folder", options.folder, "--device", options.device]
    for name in ("pairs", "crop", "batch", "network", "window"):
        words += [f"--{name}", str(getattr(options, name))]
    if options.steps:
        words += ["--steps", str(options.steps)]
    words += ["--shape", *map(str, options.shape), "--channels", *map(str, options.channels)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace) -> Dict[str, float]:
    """Train one epoch: as many crops as a half-overlapping grid has. The first step ends the start-up."""
    device = pick_device(options.device)
    torch.zeros(1, device=device)
    odd, even = halves_of(options, "few")
    config = TrainConfig(
        odd=odd, even=even, output=str(Path(options.folder) / "out"), network=options.network,
        channels=tuple(options.channels), crop=options.crop, batch_size=options.batch, window=options.window,
        min_batches=1, memory=1000.0, sampling_rate=FULL, device=options.device,
        **dict.fromkeys(MODES[options.mode], True),
    )  # fmt: skip
    begun = time.perf_counter()
    setup = set_up(config, TrainingData.find(config), device)

    def step(batch: Tuple[torch.Tensor, ...]) -> float:
        return float(setup.step(*batch, 1e-6))  # waits for the GPU

    return figures(islice(setup.loader.batches(setup.plan(0)), options.steps), step, begun, options.batch, device)


def measure_plain(options: argparse.Namespace) -> Dict[str, float]:
    """Train as many steps as `measure` does, in plain PyTorch."""
    device = pick_device(options.device)
    torch.zeros(1, device=device)
    files = [sorted(Path(half).glob("*.mrc")) for half in halves_of(options, "few")]
    n_crops = options.pairs * (2 * options.shape[0] // options.crop - 1) * (2 * options.shape[1] // options.crop - 1)
    n_steps = options.steps or max(2, n_crops // options.batch)
    begun = time.perf_counter()
    network = plain(options.network, tuple(options.channels)).to(device)
    optimizer = torch.optim.Adam(network.parameters())

    def step(batch: torch.Tensor) -> float:
        inputs, targets = batch.to(device).split(1, dim=1)
        loss = nn.functional.mse_loss(network(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    if options.mode == "plain managed":
        images = torch.from_numpy(np.stack([[scaled(mrcfile.read(path)) for path in pair] for pair in zip(*files)]))
        batches = crops_of(images.to(device), n_steps, options)
    else:
        dataset = CropsOnDemand(files, n_steps, options)
        batches = iter(DataLoader(dataset, options.batch, num_workers=N_WORKERS, pin_memory=device.type == "cuda"))
    return figures(batches, step, begun, options.batch, device)


def scaled(image: np.ndarray) -> np.ndarray:
    """Return an image with mean 0 and deviation 1, float32."""
    return ((image - image.mean()) / image.std()).astype(np.float32)


def crops_of(images: torch.Tensor, n_steps: int, options: argparse.Namespace) -> Iterator[torch.Tensor]:
    """Yield batches `(batch, 2, crop, crop)` from random places of images `(pair, 2, y, x)`."""
    rng = np.random.default_rng(1)
    for _ in range(n_steps):
        places = [place(rng, options) for _ in range(options.batch)]
        yield torch.stack([images[number, :, rows, columns] for number, rows, columns in places])


def place(rng: np.random.Generator, options: argparse.Namespace) -> Tuple[int, slice, slice]:
    """Draw the number of a pair, and rows and columns of a crop in it."""
    row, column = (int(rng.integers(side - options.crop + 1)) for side in options.shape)
    return int(rng.integers(options.pairs)), slice(row, row + options.crop), slice(column, column + options.crop)


class CropsOnDemand(IterableDataset):
    """Crops `(2, crop, crop)` that are read when they are wanted; each is standardised by itself."""

    def __init__(self, files: List[List[Path]], n_steps: int, options: argparse.Namespace) -> None:
        self.files, self.n_crops, self.options = files, n_steps * options.batch, options

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker = get_worker_info()
        rng = np.random.default_rng(worker.id)
        for _ in range(worker.id, self.n_crops, worker.num_workers):
            number, rows, columns = place(rng, self.options)
            halves = [mrcfile.mmap(files[number]) for files in self.files]
            yield torch.from_numpy(np.stack([scaled(half.data[rows, columns]) for half in halves]))


def figures(
    batches: Iterator, step: Callable[..., float], begun: float, batch_size: int, device: torch.device
) -> Dict[str, float]:
    """Take a step for every batch; return what the table shows."""
    ended: List[float] = []
    waited: List[float] = []
    with GpuUse(device) as use:
        asked = time.perf_counter()
        for batch in batches:
            assert batch is not None
            waited.append(time.perf_counter() - asked)
            step(batch)
            asked = time.perf_counter()
            ended.append(asked)
    result = {
        "startup_s": ended[0] - begun,
        "batch_ms": 1e3 * float(np.median(np.diff(ended))),
        "wait_ms": 1e3 * float(np.median(waited[1:])),
        "samples_per_s": batch_size * (len(ended) - 1) / (ended[-1] - ended[0]),
        "host_gib": peak_gib(),
    }
    if device.type == "cuda":
        result["gpu_gib"] = torch.cuda.max_memory_allocated(device) / (1 << 30)
        result["gpu_use"] = use.mean
    return result


class GpuUse:
    """Mean share of the time in which a GPU computed, as nvidia-smi says, looked at twice a second."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seen = device, []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look)

    def __enter__(self) -> GpuUse:
        if self.device.type == "cuda":
            self.thread.start()
        return self

    def __exit__(self, *others: object) -> None:
        self.over.set()
        if self.device.type == "cuda":
            self.thread.join()

    @property
    def mean(self) -> float:
        """Percent."""
        return float(np.mean(self.seen)) if self.seen else float("nan")

    def _look(self) -> None:
        words = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        words += ["-i", str(self.device.index or 0)]
        while not self.over.wait(0.5):
            answer = subprocess.run(words, stdout=subprocess.PIPE, text=True)
            if answer.stdout.strip().isdigit():
                self.seen.append(int(answer.stdout))


def markdown(results: Dict[str, Dict[str, float]], options: argparse.Namespace) -> str:
    """Return the table, and a line that says of what."""
    device = pick_device(options.device)
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    rows, columns = options.shape
    network = f"U-Net {'-'.join(map(str, options.channels))}" if options.network == "unet" else "CNN3"
    share = f"The first {options.steps} batches" if options.steps else "The batches of one epoch"
    lines = [
        f"{share} of {options.pairs} pairs of {rows} x {columns} px, {options.batch} crops of {options.crop} px each;",
        f"{network}, window {options.window:g} GiB; {place}, PyTorch {torch.__version__}.",
        "",
        f"| | {' | '.join(MODES)} | ratio | {' | '.join(PLAIN_MODES)} |",
        "|---|---|---|---|---|---|",
    ]
    for key, (title, form) in ROWS.items():
        cells = [form.format(row[key]) if key in row else "no GPU" for row in results.values()]
        managed, streaming = (results[mode].get(key) for mode in MODES)
        ratio = f"{streaming / managed:.2f}" if managed and streaming and key != "wait_ms" else ""
        lines.append(f"| {title} | {' | '.join([*cells[:2], ratio, *cells[2:]])} |")
    return "\n".join(lines)


def fill(page: Path, table: str) -> None:
    """Replace what stands between the marks of a page."""
    text = page.read_text()
    page.write_text(re.sub(f"(?s)(?<={MARKS[0]}\n).*?(?={MARKS[1]})", lambda _: f"\n{table}\n\n", text))


if __name__ == "__main__":
    main()
