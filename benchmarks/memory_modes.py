"""Managed against streaming, in the specification's table: start-up, batch time, samples per second, GPU use, memory.

Writes pairs of made-up halves, trains on them twice (all pairs kept in memory; a window streamed from disk), each in a
process of its own and after the page cache was emptied, and puts the table into a page, between its two marks. The last
line is one JSON object.

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
from pathlib import Path
from typing import Dict, List

import numpy as np
import torch
from loaders import drop_cache, halves_of, peak_gib, write_pairs

from cryoden.config import TrainConfig
from cryoden.config.shared import FULL
from cryoden.model.devices import pick_device
from cryoden.model.training_data import TrainingData
from cryoden.model.training_setup import set_up

MODES: Dict[str, List[str]] = {"managed": [], "streaming": ["stream", "force"]}
ROWS = {
    "startup_s": ("start-up until the first step is done", "{:.2f} s"),
    "batch_ms": ("batch time, median", "{:.1f} ms"),
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
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", help="on the disk to measure; its pairs are kept (default: a temporary folder)")
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.many = 0
    if options.mode:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as name:
        options.folder = options.folder or name
        write_pairs(options)
        results = {mode: run_alone(mode, options) for mode in MODES}
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
    ended: List[float] = []
    with GpuUse(device) as use:
        for batch in setup.loader.batches(setup.plan(0)):
            assert batch is not None
            float(setup.step(*batch, 1e-6))  # waits for the GPU
            ended.append(time.perf_counter())
    result = {
        "startup_s": ended[0] - begun,
        "batch_ms": 1e3 * float(np.median(np.diff(ended))),
        "samples_per_s": options.batch * (len(ended) - 1) / (ended[-1] - ended[0]),
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
    lines = [
        f"One epoch of {options.pairs} pairs of {rows} x {columns} px in batches of {options.batch} crops of",
        f"{options.crop} px, {network}, window {options.window:g} GiB; {place}, PyTorch {torch.__version__}.",
        "",
        f"| | {' | '.join(MODES)} | ratio |",
        "|---|---|---|---|",
    ]
    for key, (title, form) in ROWS.items():
        values = [results[mode].get(key) for mode in MODES]
        if values[0] is None or values[1] is None:
            lines.append(f"| {title} | no GPU | no GPU | |")
            continue
        cells = " | ".join(form.format(value) for value in values)
        lines.append(f"| {title} | {cells} | {values[1] / values[0]:.2f} |")
    return "\n".join(lines)


def fill(page: Path, table: str) -> None:
    """Replace what stands between the marks of a page."""
    text = page.read_text()
    page.write_text(re.sub(f"(?s)(?<={MARKS[0]}\n).*?(?={MARKS[1]})", lambda _: f"\n{table}\n\n", text))


if __name__ == "__main__":
    main()
