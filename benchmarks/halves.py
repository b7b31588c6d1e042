"""How fast movies are split into halves, and in how much memory, against raw reading and writing.

Makes one movie of counted electrons (uint8) as MRC and as LZW TIFF in strips and in one strip per frame, with a gain
reference and shifts, and measures each way of splitting it in a process of its own, after the movie was dropped from
the page cache:

- the floor, for each file: its bytes read in blocks, and three float32 micrographs written (no arithmetic),
- plain, with gain, with a fixed bound for hot pixels, TIFF, with sub-pixel shifts, with shifts and exposure weights,
- aligned by what the frames show,
- with half of the frames, and several movies one after the other: the memory must stay flat,
- several smaller movies with --jobs 1 and 2,
- where frames are shifted: the Fourier transforms alone, of zeros of the same size, one for each frame and each half,
- each way once more without looking for hot pixels: what the search costs.

They alternate in one run; ratios are of medians. Peak memory is that of the whole process (VmHWM); what
`--memory` assumes follows it. The last line is one JSON object.

Usage: python benchmarks/halves.py [--shape 7420 7676] [--frames 40] [--folder DIR] [--repeats 3] [--only WAY...]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import tifffile

from cryoden.config import HalvesConfig
from cryoden.config.shared import OFF
from cryoden.formats.mrc import MrcWriter
from cryoden.formats.star import write_global_shifts
from cryoden.movies.motion.aligned_sums import transform_shapes
from cryoden.movies.motion.arrays import Arrays
from cryoden.movies.motion.motion import Motion
from cryoden.movies.motion.stored_shifts import Shifts
from cryoden.movies.preprocessing import bytes_needed, open_calibration, prepare_movie
from cryoden.movies.split import split_movies

BLOCK_BYTES = 4 << 20
N_JOB_MOVIES = 4
"""Movies for --jobs."""

JOB_SHARE = 4
"""How many times fewer frames each of them has."""

WAYS: Dict[str, Dict[str, Any]] = {
    "mrc": {},
    "mrc, half of the frames": {"frames": "1-{half}"},
    "mrc, gain": {"gain": "gain.mrc"},
    "mrc, gain, 8 deviations": {"gain": "gain.mrc", "hot_pixels": 8.0},
    "lzw tiff, strips": {"movies": ("strips.tif",)},
    "lzw tiff, whole frames": {"movies": ("whole.tif",)},
    "mrc, shifts": {"shifts": "shifts"},
    "mrc, shifts, weights": {"shifts": "shifts", "dose_per_frame": 1.2},
    "mrc, aligned": {"align": True},
    "mrc, aligned, half of the frames": {"align": True, "frames": "1-{half}"},
    "{n} movies, 1 job": {"movies": "small"},
    "{n} movies, 2 jobs": {"movies": "small", "jobs": 2, "memory": 8.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=2, default=(7420, 7676))
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--folder", help="on the disk to measure (default: a temporary folder); its files are removed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="ways to measure, by the start of their names")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.step:
        print(json.dumps(measure(*options.step)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        os.chdir(name)
        make_movies(options)
        print(json.dumps(compare(options)))


def make_movies(options: argparse.Namespace) -> None:
    """Write the movie in all its forms; frames are different parts of one larger frame."""
    rng = np.random.default_rng(1)
    n_rows, n_columns = options.shape
    large = rng.poisson(0.9, (n_rows + options.frames, n_columns)).astype(np.uint8)
    frames = [large[number : number + n_rows] for number in range(options.frames)]
    write_movie(Path("movie.mrc"), frames)
    for number in range(N_JOB_MOVIES):
        write_movie(Path(f"small{number}.mrc"), frames[number :: JOB_SHARE * 2])

    for name, rows_per_strip in (("strips.tif", 64), ("whole.tif", n_rows)):
        with tifffile.TiffWriter(name) as tiff:
            for frame in frames:
                tiff.write(frame, compression="lzw", rowsperstrip=rows_per_strip, contiguous=False, metadata=None)

    with MrcWriter("gain.mrc", (n_rows, n_columns), 1.0) as writer:
        for _ in range(0, n_rows, 1):
            writer.write_rows(rng.uniform(0.9, 1.1, (1, n_columns)).astype(np.float32))
    Path("shifts").mkdir()
    shifts = {number + 1: (0.37 * number, -0.81 * number) for number in range(options.frames)}
    write_global_shifts("shifts/movie.star", shifts)


def write_movie(path: Path, frames: List[np.ndarray]) -> None:
    with MrcWriter(path, frames[0].shape, 1.0, "int8", len(frames)) as writer:  # type: ignore[arg-type]
        for frame in frames:
            writer.write_rows(frame.astype(np.int8))


def compare(options: argparse.Namespace) -> Dict[str, Any]:
    result: Dict[str, Any] = {"shape": list(options.shape), "frames": options.frames, "cpus": os.cpu_count()}
    print(
        f"{'':34} {'floor s':>8} {'s':>8} {'floor/s':>8} {'off s':>8} {'s/off':>8} {'peak MB':>8} {'estimated MB':>12}"
    )
    for way, settings in WAYS.items():
        if options.only and not any(way.startswith(only) for only in options.only):
            continue
        name = way.format(n=N_JOB_MOVIES)
        words, kept = (json.dumps(complete(way, options)) for way in (settings, {**settings, "hot_pixels": OFF}))
        repeats = 1 if "shifts" in settings or "align" in settings else options.repeats

        steps = (("floor", words), ("split", words), ("split", kept))
        turns = [[run_step(*step) for step in steps] for _ in range(repeats)]
        floor, split, off = (float(np.median([turn[place]["seconds"] for turn in turns])) for place in range(3))
        peak = max(turn[1]["peak_mb"] for turn in turns)
        estimated = turns[0][1]["estimated_mb"]
        result[name] = {
            "floor_s": floor, "split_s": split, "ratio": floor / split, "peak_mb": peak, "estimated_mb": estimated,
            "off_s": off, "ratio_off": split / off, "floors_s": [turn[0]["seconds"] for turn in turns],
            "splits_s": [turn[1]["seconds"] for turn in turns], "offs_s": [turn[2]["seconds"] for turn in turns],
        }  # fmt: skip
        if "shifts" in settings:
            transforms = run_step("transforms", words)["seconds"]
            result[name].update({"transforms_s": transforms, "split_per_transforms": split / transforms})
            print(f"{name}: transforms alone {transforms:.2f} s, {split / transforms:.2f} times that")
        times = f"{floor:8.2f} {split:8.2f} {floor / split:8.2f} {off:8.2f} {split / off:8.2f}"
        print(f"{name:34} {times} {peak:8.0f} {estimated:12.0f}", flush=True)
    return result


def complete(settings: Dict[str, Any], options: argparse.Namespace) -> Dict[str, Any]:
    """Return the options of the command for one way."""
    full = {"movies": ("movie.mrc",), **settings, "output": "out", "sampling_rate": 1.0}
    if full["movies"] == "small":
        full["movies"] = tuple(f"small{number}.mrc" for number in range(N_JOB_MOVIES))
    if "frames" in full:
        full["frames"] = full["frames"].format(half=options.frames // 2)
    return full


def run_step(step: str, words: str) -> Dict[str, float]:
    """Run one measurement in a process of its own, the movies out of the page cache."""
    shutil.rmtree("out", ignore_errors=True)
    os.sync()
    for path in Path().glob("*.*"):
        file = os.open(str(path), os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
    command = [sys.executable, str(Path(__file__).resolve()), "--step", step, words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ, PYTHONPATH=ROOT))
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


ROOT = str(Path(__file__).resolve().parents[1])


def measure(step: str, words: str) -> Dict[str, float]:
    config = HalvesConfig.from_dict(json.loads(words))
    movie = prepare_movie(config.movies[0], config, open_calibration(config), 1.0).movie
    estimated = bytes_needed(movie, config)
    begun = time.perf_counter()
    if step == "transforms":
        transform(movie.shape, config.shifts, len(movie.frame_indices))
    elif step == "floor":
        share = len(movie.frame_indices) / movie.n_frames
        copy_raw(config.movies, movie.shape[0] * movie.shape[1] * 4, share)
    else:
        split_movies(config)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "peak_mb": peak_memory() / 1e6, "estimated_mb": estimated / 1e6}


def transform(shape: Tuple[int, int], shifts: Optional[str], n_frames: int) -> None:
    """Do the Fourier transforms of a movie's frames and halves by all processors, and nothing else."""
    moved = Shifts.read(f"{shifts}/movie.star").of_frames(range(n_frames), n_frames)
    padded, _ = transform_shapes(shape, shape, Motion(moved))
    arrays = Arrays(os.cpu_count() or 1)
    frame = np.zeros(padded, np.float32)
    for _ in range(n_frames):
        spectrum = arrays.rfft2(frame)
    for _ in range(2):
        arrays.irfft2(spectrum.copy(), padded)


def copy_raw(movies: Any, micrograph_bytes: int, share: float) -> None:
    """Read the used part of the movies in blocks and write three micrographs for each."""
    block = bytearray(BLOCK_BYTES)
    for number, movie in enumerate(movies):
        with open(movie, "rb", buffering=0) as file:
            unread = share * os.path.getsize(movie)
            while unread > 0:
                unread -= file.readinto(block) or unread
        for kind in ("full", "odd", "even"):
            os.makedirs(f"out/{kind}", exist_ok=True)
            with open(f"out/{kind}/{number}.mrc", "wb", buffering=0) as file:
                for first in range(0, micrograph_bytes, BLOCK_BYTES):
                    file.write(memoryview(block)[: min(BLOCK_BYTES, micrograph_bytes - first)])


def peak_memory() -> int:
    """Return the peak of this process's resident memory in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main()
