"""Motion found by `cryoden halves --align`, against what was simulated and against RELION's motion correction.

    python benchmarks/alignment.py --folder /data --specimens barrel globule --doses 0.5 1.0

Movies are simulated with drift and local motion, defects and an uneven gain, and aligned by both programs with the same
patches and threads. Prints the root mean square error of the motion (of whole frames, and over the image), the
correlation of the full sum with the truth, integrated to 8 A, relative to that of the sum by the true motion, and the
seconds of both commands. Needs `relion_run_motioncorr` for RELION's columns. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
import zlib
from itertools import product
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np
from relion_movies import (
    RELION,
    Cost,
    about_movie,
    correct_by_relion,
    field_motion,
    found_motion,
    grid,
    nearest_model,
    rings_with_truth,
    rms,
    timed,
    true_motion,
    whole,
)

from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.formats.files import read_json, write_json
from cryoden.formats.images import read_micrograph
from cryoden.formats.relion_job import read_movie_correction
from cryoden.metrics.ring_covariance import frc
from cryoden.movies.calibration import Calibration, Reference
from cryoden.movies.motion.aligned_sums import aligned_half_bands
from cryoden.movies.motion.arrays import Arrays
from cryoden.movies.motion.motion import Motion
from cryoden.movies.movie import Movie
from cryoden.simulate.movies import simulate_movies

SPECIMENS = {
    "barrel": {"shape": "barrel"},
    "globule": {"shape": "globule"},
    "rod": {"shape": "rod"},
    "barrel on carbon": {"shape": "barrel", "carbon": 0.4},
}
RATE = 1.0
PLACES = grid(9)
"""Along each side, where motions are compared."""

BAND_A = (300.0, 8.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="for movies and results")
    parser.add_argument("--specimens", nargs="+", default=list(SPECIMENS), choices=list(SPECIMENS))
    parser.add_argument("--doses", nargs="+", type=float, default=[0.5, 1.0, 1.5], help="e/A^2 in a frame")
    parser.add_argument("--defects", nargs="+", type=int, default=[0, 40], help="hot and dead pixels, each")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--local-motion", type=float, default=8.0, help="A")
    parser.add_argument("--patches", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop before the next movie after so long")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.folder)
    begun = time.monotonic()

    measured = Path("measured.json")
    rows = read_json(measured) if measured.exists() else {}
    for name, dose, n_defects in product(arguments.specimens, arguments.doses, arguments.defects):
        key = f"{name}, {dose:g}, {n_defects}"
        if key in rows or time.monotonic() - begun > arguments.seconds:
            continue
        folder = re.sub(r"\W+", "_", key)  # RELION replaces dots in names of folders
        config = SimulateMoviesConfig(
            output=f"{folder}/data", movies=1, size=(arguments.size, arguments.size), frames=arguments.frames,
            sampling_rate=RATE, dose_per_frame=dose, local_motion=arguments.local_motion, dead_pixels=n_defects,
            hot_pixels=n_defects, seed=zlib.crc32(key.encode()), **SPECIMENS[name],
        )  # fmt: skip
        rows[key] = measure(config, folder, arguments)
        write_json(measured, rows)
        print(key, json.dumps(rows[key]), flush=True)
    report(rows)


def measure(config: SimulateMoviesConfig, folder: str, arguments: argparse.Namespace) -> Dict[str, float]:
    """Simulate one movie, align it by both programs, and return the figures."""
    data = Path(config.output)
    facts = next(iter(simulate_movies(config).values()))
    true = true_motion(facts, PLACES)
    truth = read_micrograph(data / "truth" / "movie_0001.mrc")[0]
    shifts, model = nearest_model(facts, PLACES)
    fields = [model.fields(frame + 1) for frame in range(config.frames)]

    of_model = shifts[:, :, None, None] + field_motion(fields, PLACES)
    figures = {"motion": rms(true), "true_model": rms(of_model - true)}
    best = frc_in_band(sum_of(data, shifts, fields), truth)
    figures["unaligned_frc"] = frc_in_band(sum_of(data, np.zeros_like(shifts), None), truth) / best
    for program, run in (("cryoden", run_cryoden), ("relion", run_relion)):
        done = run(folder, arguments)
        if done is None:
            continue
        star, full, cost = done
        error = found_motion(read_movie_correction(star), PLACES) - true
        figures.update({
            f"{program}_whole": rms(whole(error)),
            f"{program}_local": rms(error),
            f"{program}_frc": frc_in_band(read_micrograph(full)[0], truth) / best,
            f"{program}_seconds": cost.seconds,
            f"{program}_cpu": cost.cpu,
        })  # fmt: skip
    shutil.rmtree(folder)
    return figures


# ---------------------------------------------------------------------- both programs
def run_cryoden(folder: str, arguments: argparse.Namespace) -> Tuple[Path, Path, Cost]:
    """Return the STAR file about the motion, the full sum, and what it took."""
    output = Path(folder, "halves")
    cost = timed([
        sys.executable, "-m", "cryoden", "halves", f"{folder}/data/movies/movie_0001.mrcs",
        "--gain", f"{folder}/data/gain.mrc", "--align", "--align-patches", str(arguments.patches),
        "--output", str(output),
    ])  # fmt: skip
    return output / "motion/movie_0001.star", output / "full/movie_0001.mrc", cost


def run_relion(folder: str, arguments: argparse.Namespace) -> Optional[Tuple[Path, Path, Cost]]:
    """Return the same of RELION, which is told the defects; None where it is not installed."""
    if shutil.which(RELION) is None:
        return None
    data, job = f"{folder}/data", f"{folder}/job"
    known = ("--defect_file", f"{data}/defects.txt")
    cost = correct_by_relion(data, job, arguments.patches, arguments.threads, *known)
    star = about_movie(data, job)
    return star, star.with_suffix(".mrc"), cost


# ---------------------------------------------------------------------- the truth
def sum_of(data: Path, shifts: np.ndarray, fields: Optional[List[np.ndarray]]) -> np.ndarray:
    """Return the full sum of a movie that is moved as given."""
    gain = Reference("Gain", str(data / "gain.mrc"), 0, "none", False)
    movie = Movie(data / "movies" / "movie_0001.mrcs", Calibration(gain, None, "auto"))
    motion = Motion([(float(x), float(y)) for x, y in shifts], fields)
    bands = aligned_half_bands(movie.corrected_frames, movie.shape, motion, arrays=Arrays(os.cpu_count() or 1))
    return np.concatenate([odd + even for odd, even in bands])


def frc_in_band(image: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean of the ring correlation in the band."""
    rings = rings_with_truth(image, truth, RATE, min(truth.shape) // 20)
    is_inside = (rings.frequency > 1 / BAND_A[0]) & (rings.frequency < 1 / BAND_A[1])
    return float(frc(rings)[is_inside].mean())


def report(rows: Dict[str, Dict[str, float]]) -> None:
    columns = list(next(iter(rows.values()), {}))
    print("\n| specimen, e/A^2 a frame, defects |", " | ".join(columns), "|")
    print("|---" * (len(columns) + 1) + "|")
    medians = {column: float(np.median([row[column] for row in rows.values()])) for column in columns}
    for key, row in [*rows.items(), (f"median of {len(rows)}", medians)]:
        print(f"| {key} |", " | ".join(f"{row[column]:.3f}" for column in columns), "|")
    print(json.dumps({"n": len(rows), "medians": medians}))


if __name__ == "__main__":
    main()
