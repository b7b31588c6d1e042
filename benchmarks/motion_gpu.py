"""Motion correction on a GPU: seconds a movie for files as a facility writes them, and the same shifts as on the CPU.

    python benchmarks/motion_gpu.py --folder /data --movies 4 --jobs 1 3

Makes movies of 40 frames of 5760 x 4092 px (LZW TIFF, uint8, strips of 64 rows): Poisson counts of one random specimen
that drifts, with a gain reference. Prints the seconds that decoding alone takes, those of `halves --align` for several
movies with each number of jobs (reading and writing included), of the same shifts when they are stored, the most memory
of the GPU, and the difference of the shifts found on the CPU and on the GPU. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List

import numpy as np
import scipy.ndimage
import tifffile
import torch

from cryoden.config import HalvesConfig
from cryoden.formats.images import open_movie_stack
from cryoden.formats.mrc import MrcWriter
from cryoden.formats.stack import decoded
from cryoden.movies.motion.arrays import Arrays, arrays_on
from cryoden.movies.motion.estimation import estimate_motion
from cryoden.movies.movie import Movie
from cryoden.movies.split import split_movies

RATE = 1.0
DOSE = 1.0
DRIFT_PX = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="motion_gpu", help="for movies and results")
    parser.add_argument("--shape", type=int, nargs=2, default=(4092, 5760), help="rows and columns")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--movies", type=int, default=4)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 3], help="movies in parallel")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compared", type=int, default=2048, help="side of the frames whose shifts are compared")
    arguments = parser.parse_args()

    os.makedirs(arguments.folder, exist_ok=True)
    os.chdir(arguments.folder)
    begun = time.monotonic()
    movies = make_movies(arguments)
    print(f"made in {time.monotonic() - begun:.1f} s", flush=True)

    figures: Dict[str, Any] = {"decoding": decoding_seconds(movies[0])}
    print(f"decoding one movie, all cores: {figures['decoding']:.2f} s", flush=True)
    split(movies[:1], "warm_up", arguments.device)  # the GPU's libraries are loaded, plans of transforms made
    for n_jobs in arguments.jobs:
        figures[f"align, {n_jobs} jobs"] = split(movies, f"aligned_{n_jobs}", arguments.device, jobs=n_jobs)
    folder = f"aligned_{arguments.jobs[0]}/motion"
    stored = {"align": False, "shifts": folder}
    figures["stored global shifts"] = split(movies, "stored", arguments.device, **stored)
    figures["stored, weighted"] = split(movies, "weighted", arguments.device, **stored, dose_per_frame=DOSE)
    figures["stored, local"] = split(movies, "local", arguments.device, **stored, local_motion="middle")
    if torch.cuda.is_available():
        figures["gpu_gb"] = torch.cuda.max_memory_reserved() / 1e9
        print(f"most memory of the GPU: {figures['gpu_gb']:.2f} GB")
    figures["shift_difference_px"] = shift_difference(movies[0], arguments)
    print(f"largest difference of shifts, CPU and {arguments.device}: {figures['shift_difference_px']:.4f} px")
    print(json.dumps({"cpus": os.cpu_count(), "shape": arguments.shape, "frames": arguments.frames, **figures}))


def make_movies(arguments: argparse.Namespace) -> List[str]:
    """Write the gain reference and one movie, which then has several names."""
    rng = np.random.default_rng(1)
    n_rows, n_columns = arguments.shape
    specimen = scipy.ndimage.gaussian_filter(
        rng.standard_normal((n_rows + DRIFT_PX, n_columns + DRIFT_PX), np.float32), 2
    )
    specimen = np.maximum(1 + 0.2 * specimen / specimen.std(), 0)
    with MrcWriter("gain.mrc", (n_rows, n_columns), RATE) as writer:
        writer.write_rows(rng.uniform(0.95, 1.05, (n_rows, n_columns)).astype(np.float32))

    def frame(number: int) -> np.ndarray:
        at = round(DRIFT_PX * (number / arguments.frames) ** 0.5)
        seen = specimen[at : at + n_rows, at // 2 : at // 2 + n_columns]
        return np.random.default_rng([2, number]).poisson(DOSE * RATE**2 * seen).astype(np.uint8)

    with ThreadPoolExecutor(os.cpu_count()) as pool, tifffile.TiffWriter("movie_0.tif") as tiff:
        for pixels in pool.map(frame, range(arguments.frames)):
            tiff.write(
                pixels, compression="lzw", rowsperstrip=64, contiguous=False, metadata=None, maxworkers=os.cpu_count()
            )
    names = [f"movie_{number}.tif" for number in range(arguments.movies)]
    for name in names[1:]:
        shutil.copyfile(names[0], name)
    return names


def decoding_seconds(path: str) -> float:
    """Return how long it takes to decode all frames by as many threads as there are cores."""
    stack = open_movie_stack(path)
    begun = time.monotonic()
    kept = decoded(stack, range(stack.n_frames), os.cpu_count() or 1)
    for number in range(stack.n_frames):
        kept.read_rows(number, 0, stack.shape[0])
    return time.monotonic() - begun


def split(movies: List[str], output: str, device: str, **options: Any) -> float:
    """Run `halves`; return the seconds of one movie."""
    shutil.rmtree(output, ignore_errors=True)
    words = {"align": True, "jobs": 1, **options}
    config = HalvesConfig(
        movies=tuple(movies), output=output, gain="gain.mrc", sampling_rate=RATE, device=device, memory=64.0, **words
    )
    begun = time.monotonic()
    split_movies(config)
    seconds = (time.monotonic() - begun) / len(movies)
    print(f"{output}: {seconds:.2f} s a movie", flush=True)
    return seconds


def shift_difference(path: str, arguments: argparse.Namespace) -> float:
    """Return the largest difference between the shifts that both find in the middle of some frames, px."""
    stack = open_movie_stack(path)
    first = [max(0, (size - arguments.compared) // 2) for size in stack.shape]
    part = tuple(slice(start, start + arguments.compared) for start in first)
    n_frames = min(stack.n_frames, 20)
    frames = [
        Movie(path).stack.read_rows(number, 0, stack.shape[0])[part].astype(np.float32) for number in range(n_frames)
    ]
    found = []
    for arrays in (Arrays(os.cpu_count() or 1), arrays_on(arguments.device, 1)):
        there = (arrays.device(frame) for frame in frames)
        found.append(estimate_motion(there, n_frames, frames[0].shape, RATE, 5, arrays).shifts)
    return float(np.abs(found[0] - found[1]).max())


if __name__ == "__main__":
    main()
