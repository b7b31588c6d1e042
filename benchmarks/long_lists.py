"""What a list of many micrographs costs beyond reading, computing and writing, and what a second run costs.

Tiny micrographs are denoised by CNN3 on the CPU, and tiny movies are split: what is left is the cost of the list. The
floor is the same work in one loop, with the same functions and nothing else. Three rounds, floor and command in turn;
the median counts. The second run finds everything finished; its time is scaled to 20,000. The last line is one JSON
object.

Usage: python benchmarks/long_lists.py [--n 1000]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch

from cryoden.config import DenoiseConfig, HalvesConfig
from cryoden.data.normalize import STANDARD
from cryoden.formats.images import read_micrograph
from cryoden.formats.model_file import ModelCard
from cryoden.formats.mrc import MrcWriter, write_image
from cryoden.formats.outputs import SUMS
from cryoden.formats.star import new_table, write_table
from cryoden.model.denoiser import Denoiser
from cryoden.model.denoising import denoise_micrographs
from cryoden.model.networks import build_network
from cryoden.model.trained_model import write_trained
from cryoden.movies.calibration import Calibration
from cryoden.movies.fixed_pattern import FixedPattern
from cryoden.movies.split import split_movies, write_halves

SIDE, N_FRAMES, RATE = 64, 4, 4.0

LIST = 20_000
"""Micrographs to which the second run is scaled."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1000, help="micrographs, and movies")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    result: Dict[str, Any] = {"n": options.n, "n_cpus": len(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        files = write_inputs(options.n)
        commands = {"denoise": denoising(files["micrographs"]), "halves": splitting(files["movies"])}
        for name, (loop, command) in commands.items():
            figures = measure(loop, command, options.n)
            result[name] = figures
            print(
                f"{name:8s} loop {figures['loop_ms']:6.2f} ms each, command {figures['command_ms']:6.2f} ms: "
                f"{figures['list_ms']:5.2f} ms for the list; {LIST} finished before: {figures['second_run_s']:5.1f} s"
            )
        os.chdir("/")
    print(json.dumps(result))


def write_inputs(n: int) -> Dict[str, List[str]]:
    """Write micrographs and movies; return their names."""
    rng = np.random.default_rng(1)
    image = rng.normal(size=(SIDE, SIDE)).astype(np.float32)
    frames = rng.poisson(5, (N_FRAMES * SIDE, SIDE)).astype(np.float32)
    files = {kind: [f"{kind}/m{number:05d}.mrc" for number in range(n)] for kind in ("micrographs", "movies")}
    for kind in files:
        Path(kind).mkdir()
    for name in files["micrographs"]:
        write_image(name, image, RATE)
    for name in files["movies"]:
        with MrcWriter(name, (SIDE, SIDE), RATE, n_images=N_FRAMES) as writer:
            writer.write_rows(frames)
    write_table("list.star", new_table(files["micrographs"], RATE, 300.0, 2.7, 0.1))
    return files


def denoising(names: List[str]) -> Tuple[Callable[[], None], Callable[[], None]]:
    """Return the bare loop, and the command."""
    write_trained("model.safetensors", build_network("cnn3", (), 1), ModelCard("cnn3", (), RATE, asdict(STANDARD), {}))
    config = DenoiseConfig(
        micrographs=("list.star",), model="model.safetensors", output="out", device="cpu", precision="float32"
    )

    def loop() -> None:
        denoiser = Denoiser.load("model.safetensors", "cpu", precision="float32")
        for number, name in enumerate(names):
            image, rate = read_micrograph(name)
            write_image(f"out/{number}.mrc", denoiser.denoise(image, rate), rate)

    return loop, lambda: denoise_micrographs(config) and None


def splitting(names: List[str]) -> Tuple[Callable[[], None], Callable[[], None]]:
    """Return the same of splitting movies, one after the other."""
    config = HalvesConfig(movies=tuple(names), output="out", jobs=1, hot_pixels="off")

    def loop() -> None:
        pattern = FixedPattern()
        for number, name in enumerate(names):
            full, odd, even = (Path("out", f"{kind}{number}.mrc") for kind in SUMS)
            write_halves(name, [full, odd, even], config, Calibration(), RATE, 300.0)
            pattern.add(name, odd, even)

    return loop, lambda: split_movies(config) and None


def measure(loop: Callable[[], None], command: Callable[[], None], n: int) -> Dict[str, float]:
    """Return milliseconds for each item, and seconds of a second run."""
    seconds: Dict[str, List[float]] = {"loop": [], "command": [], "again": []}
    for _ in range(3):
        for name, run in (("loop", loop), ("command", command), ("again", command)):
            if name != "again":
                shutil.rmtree("out", ignore_errors=True)
            Path("out").mkdir(exist_ok=True)
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "loop_ms": 1e3 * median["loop"] / n,
        "command_ms": 1e3 * median["command"] / n,
        "list_ms": 1e3 * (median["command"] - median["loop"]) / n,
        "second_run_s": median["again"] * LIST / n,
    }


if __name__ == "__main__":
    main()
