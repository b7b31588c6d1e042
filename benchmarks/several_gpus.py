"""What several GPUs gain over one, by the command's own processes (`--gpus 0,1`): training, denoising, starting.

- training, compiled, with so many crops for each GPU: crops per second of the last epoch, against one GPU with one
  share; the losses against one GPU with the whole batch;
- the same streamed, through one window that the processes share;
- denoising a list with one view, whole command, and the same files copied by three threads: the disk's speed;
- the start: one small micrograph.

Prints a table; the last line is one JSON object. Without GPUs: `--gpus cpu,cpu --crop 64 --batches 4 --micrographs 4
--size 256 --network cnn3`.

Usage: python benchmarks/several_gpus.py [--gpus 0,1] [--crop 1024] [--batch 8] [--batches 60] [--micrographs 200]
[--size 4096] [--network unet] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from training import write_halves

from cryoden.formats.mrc import write_image

EPOCHS = 3
RATE = 1.0

COPYING_THREADS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpus", default="0,1")
    parser.add_argument("--crop", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8, help="crops for each GPU")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--micrographs", type=int, default=200)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--network", default="unet")
    parser.add_argument("--folder", help="on the disk that is to be measured")
    options = parser.parse_args()
    result: Dict[str, Any] = dict(vars(options))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        result.update(training(Path(name), options))
        result.update(denoising(Path(name), options))
    print(json.dumps(result))


def training(folder: Path, options: argparse.Namespace) -> Dict[str, float]:
    """Return crops per second, their ratio, and by how much losses differ."""
    write_halves(folder, options.crop)
    one, n = options.gpus.split(",")[0], len(options.gpus.split(","))
    share = train(folder, "share", one, options.batch, options)
    whole = train(folder, "whole", one, options.batch * n, options)
    several = train(folder, "several", options.gpus, options.batch * n, options)
    streamed = train(folder, "streamed", options.gpus, options.batch * n, options, "--stream", "--force")

    pace = {name: log[-1]["crops_per_second"] for name, log in (("share", share), ("whole", whole))}
    pace.update(several=several[-1]["crops_per_second"], streamed=streamed[-1]["crops_per_second"])
    ratio = pace["several"] / pace["share"]
    difference = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(whole, several))
    print(f"training, 1 GPU, {options.batch} crops:         {pace['share']:8.1f} crops/s")
    print(f"training, {n} GPUs, {options.batch} crops for each: {pace['several']:8.1f} crops/s, x {ratio:.2f}")
    print(f"the same streamed:                  {pace['streamed']:8.1f} crops/s")
    print(f"losses of {EPOCHS} epochs against one GPU with the whole batch: {difference:.1e} at most")
    return {**{f"{name}_crops_per_s": value for name, value in pace.items()}, "train": ratio, "losses": difference}


def train(
    folder: Path, name: str, gpus: str, batch: int, options: argparse.Namespace, *words: str
) -> List[Dict[str, Any]]:
    """Train for a few epochs; return the log."""
    output = folder / name
    cryoden(
        "train", "--odd", folder / "odd", "--even", folder / "even", "--output", output, "--crop", options.crop,
        "--network", options.network, "--batch-size", batch, "--epochs", EPOCHS, "--from", "none",
        "--min-batches", options.batches, "--max-batches", options.batches, "--sampling-rate", "full",
        "--compile", "no" if "cpu" in gpus else "yes", "--gpus", gpus, *words,
    )  # fmt: skip
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def denoising(folder: Path, options: argparse.Namespace) -> Dict[str, float]:
    """Return seconds of whole commands, of copying, and of starting."""
    one, n = options.gpus.split(",")[0], len(options.gpus.split(","))
    (folder / "micrographs").mkdir()
    (folder / "small").mkdir()
    image = np.random.default_rng(1).normal(size=(options.size, options.size)).astype(np.float32)
    for number in range(options.micrographs):
        write_image(folder / "micrographs" / f"m{number:04d}.mrc", image, RATE)
    write_image(folder / "small" / "m.mrc", image[:256, :256], RATE)
    model = folder / "several" / "model.safetensors"

    seconds = {"copy": copying(folder)}
    for name, source, gpus in (
        ("denoise_1", "micrographs", one), ("denoise_n", "micrographs", options.gpus),
        ("start_1", "small", one), ("start_n", "small", options.gpus),
    ):  # fmt: skip
        shutil.rmtree(folder / "denoised", ignore_errors=True)
        begun = time.monotonic()
        cryoden("denoise", folder / source, "--model", model, "--output", folder / "denoised", "--gpus", gpus)
        seconds[name] = time.monotonic() - begun

    ratio = seconds["denoise_1"] / seconds["denoise_n"]
    later = seconds["start_n"] - seconds["start_1"]
    print(f"denoising {options.micrographs} of {options.size} px, 1 GPU:  {seconds['denoise_1']:6.1f} s")
    print(f"denoising, {n} GPUs: {seconds['denoise_n']:6.1f} s, x {ratio:.2f}; copying: {seconds['copy']:.1f} s")
    print(f"one small micrograph: {seconds['start_1']:.1f} s; by {n} processes {later:+.1f} s")
    return {**{f"{name}_s": value for name, value in seconds.items()}, "denoise": ratio, "later_s": later}


def copying(folder: Path) -> float:
    """Return how many seconds it takes to copy the micrographs."""
    target = folder / "copied"
    target.mkdir()
    begun = time.monotonic()
    with ThreadPoolExecutor(COPYING_THREADS) as pool:
        list(pool.map(lambda path: shutil.copy(str(path), str(target)), sorted((folder / "micrographs").iterdir())))
    seconds = time.monotonic() - begun
    shutil.rmtree(target)
    return seconds


def cryoden(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "cryoden", *map(str, words)], stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
