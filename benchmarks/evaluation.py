"""How long evaluating takes, relative to denoising the same micrographs.

Simulated halves of 20 micrographs are denoised (the full sums; then both halves, whose mean is the better image) and
evaluated with the same untrained network, each in a process of its own, start and report included. Prints the times,
their ratios (those of CPU seconds hold on a busy machine too), and a JSON object as the last line. `--of FOLDER` runs
the package that lies there, for a comparison with another version.

Usage: python benchmarks/evaluation.py [--micrographs 20] [--side 1024] [--network resunet] [--channels N...]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import List, Tuple

import numpy as np

from cryoden.config import shared
from cryoden.data.normalize import STANDARD
from cryoden.formats.model_file import ModelCard, write_model
from cryoden.formats.mrc import write_image
from cryoden.model.networks import build_network

RATE_A = 4.0

ROWS = ("denoise the full sums", "denoise both halves", "evaluate")
"""What is timed."""


def write_data(folder: Path, n_micrographs: int, side: int) -> None:
    """Write odd, even and full images: blurred noise as the signal, in white noise."""
    rng = np.random.default_rng(1)
    for kind in ("odd", "even", "full"):
        (folder / kind).mkdir()
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    for number in range(n_micrographs):
        signal = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) * np.exp(-((frequency / 0.05) ** 2)))
        odd, even = (50 + 3 * signal / signal.std() + 7 * rng.normal(size=signal.shape) for _ in range(2))
        for kind, image in (("odd", odd), ("even", even), ("full", odd + even)):
            write_image(folder / kind / f"mic{number:03d}.mrc", image.astype(np.float32), RATE_A)


def seconds(words: List[str], package: str) -> Tuple[float, float]:
    """Return how long a command of cryoden runs, and how long it computes (CPU seconds, of all cores)."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {**os.environ, "PYTHONPATH": package}
    program = [sys.executable, "-m", "cryoden", *words]  # takes the package of the folder in which it starts
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=package)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--micrographs", type=int, default=20)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--network", default="resunet", choices=("unet", "resunet"))
    parser.add_argument("--channels", type=int, nargs="+", help="those of the network where none are given")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--of", default=str(Path(__file__).resolve().parent.parent), help="folder of the package")
    options = parser.parse_args()
    options.channels = tuple(options.channels or shared.default_channels(options.network))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, options.micrographs, options.side)
        network = build_network(options.network, options.channels)
        weights = {key: np.array(value) for key, value in network.state_dict().items()}
        card = ModelCard(options.network, options.channels, RATE_A, asdict(STANDARD), {})
        write_model(folder / "model.safetensors", weights, card)
        model = ["--model", str(folder / "model.safetensors")]
        halves = ["--odd", str(folder / "odd"), "--even", str(folder / "even")]
        full = ["denoise", str(folder / "full"), *model]
        words = {
            "denoise the full sums": [*full, "--output", str(folder / "a")],
            "denoise both halves": [*full, *halves, "--output", str(folder / "b")],
            "evaluate": ["evaluate", *halves, *model, "--topaz", "no", "--output", str(folder / "c")],
        }
        table = {row: seconds(words[row], options.of) for row in options.rows}
    print(f"{'':24}{'seconds':>10}{'CPU seconds':>14}   evaluating takes ... times as long")
    for row, taken in table.items():
        ratios = [evaluating / other for evaluating, other in zip(table.get("evaluate", taken), taken)]
        print(f"{row:24}{taken[0]:10.1f}{taken[1]:14.1f}   {ratios[0]:.2f} (by CPU seconds {ratios[1]:.2f})")
    print(json.dumps({**{key: [round(value, 2) for value in taken] for key, taken in table.items()}, **vars(options)}))


if __name__ == "__main__":
    main()
