"""Motion found by `cryoden halves --align`, against what was simulated and against RELION's motion correction.

    python benchmarks/alignment.py --folder /data --specimens barrel globule --doses 0.5 1.0

Movies are simulated with drift and local motion, defects and an uneven gain, and aligned by both programs with the same
patches and threads. Prints the root mean square error of the motion (of whole frames, and over the image), the
correlation of the full sum with the truth, integrated to 8 A, relative to that of the sum by the true motion, and the
seconds of both commands. Needs `relion_run_motioncorr` for RELION's columns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.formats.images import read_micrograph
from cryoden.formats.relion_job import read_movie_correction
from cryoden.movies.calibration import Calibration, Reference
from cryoden.movies.motion.local_motion import LocalMotionModel
from cryoden.movies.motion.motion import Motion
from cryoden.movies.motion.smooth_motion import fit_local_motion
from cryoden.movies.motion.warped_sums import warped_half_bands
from cryoden.movies.movie import Movie
from cryoden.simulate.facts import Facts
from cryoden.simulate.local_motion import LocalMotion
from cryoden.simulate.movies import simulate_movies

SPECIMENS = {
    "barrel": {"shape": "barrel"},
    "globule": {"shape": "globule"},
    "rod": {"shape": "rod"},
    "barrel on carbon": {"shape": "barrel", "carbon": 0.4},
}
RATE = 1.0
GRID = 9
"""Places along each side at which motions are compared."""

BAND_A = (300.0, 8.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=".", help="for movies and results")
    parser.add_argument("--specimens", nargs="+", default=list(SPECIMENS), choices=list(SPECIMENS))
    parser.add_argument("--doses", nargs="+", type=float, default=[0.5, 1.0, 1.5], help="e/A^2 in a frame")
    parser.add_argument("--defects", nargs="+", type=int, default=[0, 40], help="hot and dead pixels, each")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--local-motion", type=float, default=8.0, help="A")
    parser.add_argument("--patches", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()

    rows = []
    for number, (name, dose, n_defects) in enumerate(product(arguments.specimens, arguments.doses, arguments.defects)):
        folder = Path(arguments.folder) / f"{name.replace(' ', '_')}_{dose:g}_{n_defects}"
        config = SimulateMoviesConfig(
            output=str(folder / "data"), movies=1, size=(arguments.size, arguments.size), frames=arguments.frames,
            sampling_rate=RATE, dose_per_frame=dose, local_motion=arguments.local_motion, dead_pixels=n_defects,
            hot_pixels=n_defects, seed=number + 1, **SPECIMENS[name],
        )  # fmt: skip
        row = {"specimen": name, "dose": dose, "defects": n_defects, **measure(config, folder, arguments)}
        print(json.dumps(row), flush=True)
        rows.append(row)
    report(rows)


def measure(config: SimulateMoviesConfig, folder: Path, arguments: argparse.Namespace) -> Dict[str, Any]:
    """Simulate one movie, align it by both programs, and return the figures."""
    data = Path(config.output)
    facts = next(iter(simulate_movies(config).values()))
    true = true_motion(facts)
    truth = read_micrograph(data / "truth" / "movie_0001.mrc")[0]
    model, of_model = true_model(facts)

    figures: Dict[str, Any] = {"motion": rms(true - true.mean(axis=0)), "true_model": rms(of_model - true)}
    best = frc(sum_of(data, -np.array(facts.shifts)[:, ::-1], model), truth)
    figures["unaligned_frc"] = frc(sum_of(data, np.zeros((config.frames, 2)), None), truth) / best
    for program, run in (("cryoden", run_cryoden), ("relion", run_relion)):
        done = run(data, folder / program, arguments)
        if done is None:
            continue
        star, full, seconds, cpu = done
        found = motion_of(star, config.frames)
        figures.update({
            f"{program}_whole": rms((found - true).mean(axis=(2, 3), keepdims=True)),
            f"{program}_local": rms(found - true),
            f"{program}_frc": frc(read_micrograph(full)[0], truth) / best,
            f"{program}_seconds": seconds,
            f"{program}_cpu": cpu,
        })  # fmt: skip
    shutil.rmtree(folder)
    return figures


# ---------------------------------------------------------------------- both programs
def run_cryoden(data: Path, output: Path, arguments: argparse.Namespace) -> Tuple[Path, Path, float, float]:
    """Return the STAR file about the motion, the full sum, seconds and seconds of the CPU."""
    command = [
        sys.executable, "-m", "cryoden", "halves", str(data / "movies" / "movie_0001.mrcs"),
        "--gain", str(data / "gain.mrc"),
        "--align", "--align-patches", str(arguments.patches), "--output", str(output),
    ]  # fmt: skip
    times = timed(command, Path.cwd())
    return output / "motion" / "movie_0001.star", output / "full" / "movie_0001.mrc", *times


def run_relion(data: Path, output: Path, arguments: argparse.Namespace) -> Optional[Tuple[Path, Path, float, float]]:
    """Return the same of RELION, which knows the defects; None where it is not installed."""
    program = shutil.which("relion_run_motioncorr")
    if program is None:
        return None
    output.mkdir(parents=True)
    for name in ("movies", "gain.mrc", "defects.txt"):
        (output / name).symlink_to((data / name).resolve())
    (output / "movies.star").write_text(
        "\n# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n"
        "_rlnMicrographOriginalPixelSize #3\n_rlnVoltage #4\n_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\n"
        f"opticsGroup1 1 {RATE} 300 2.7 0.1\n\n\n# version 30001\n\ndata_movies\n\nloop_\n"
        "_rlnMicrographMovieName #1\n_rlnOpticsGroup #2\nmovies/movie_0001.mrcs 1\n"
    )
    patches = str(arguments.patches)
    command = [
        program, "--i", "movies.star", "--o", "MC/", "--use_own", "--patch_x", patches, "--patch_y", patches,
        "--bfactor", "150", "--gainref", "gain.mrc", "--defect_file", "defects.txt", "--j", str(arguments.threads),
    ]  # fmt: skip
    times = timed(command, output)
    return output / "MC/movies/movie_0001.star", output / "MC/movies/movie_0001.mrc", *times


def timed(command: List[str], folder: Path) -> Tuple[float, float]:
    """Run a command; return its seconds, and those of the CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# ---------------------------------------------------------------------- motion on a grid: (frames, 2, y, x) in px
def places() -> np.ndarray:
    """Return the places of the grid along an axis, -1/2 to 1/2."""
    return (np.arange(GRID) + 0.5) / GRID - 0.5


def true_motion(facts: Facts) -> np.ndarray:
    """Return where frames must be moved to, x and y: back from where the specimen went."""
    side = places()
    field = LocalMotion.from_dict(facts.local_motion or {})
    moved = [
        np.asarray(shift)[:, None, None] + field.displacement(frame, side[:, None], side)
        for frame, shift in enumerate(facts.shifts)
    ]
    return -np.array(moved)[:, ::-1]


def true_model(facts: Facts) -> Tuple[LocalMotionModel, np.ndarray]:
    """Return the polynomial nearest to the true local motion, and the motion with it."""
    shifts = -np.array(facts.shifts)[:, ::-1]
    local = true_motion(facts) - shifts[:, :, None, None]
    side = places()
    at = np.array([(x, y) for y in side for x in side])
    n_frames = len(shifts)
    measured = local.reshape(n_frames, 2, -1).transpose(2, 0, 1)
    variances = np.full_like(measured, 1e-4)
    model = LocalMotionModel(fit_local_motion(measured, variances, at, np.arange(n_frames) + 0.5, n_frames))
    return model, shifts[:, :, None, None] + field_of(model, n_frames)


def field_of(model: LocalMotionModel, n_frames: int) -> np.ndarray:
    powers = np.vander(places(), 3, increasing=True)
    return np.array([[powers @ polynomial @ powers.T for polynomial in model.fields(1 + z)] for z in range(n_frames)])


def motion_of(star: Path, n_frames: int) -> np.ndarray:
    """Return the motion that a STAR file says, local motion in the middle of each frame."""
    correction = read_movie_correction(star)
    shifts = np.array([correction.shifts[frame + 1] for frame in range(n_frames)])[:, :, None, None]
    if correction.coefficients is None:
        return shifts + np.zeros((n_frames, 2, GRID, GRID))
    return shifts + field_of(LocalMotionModel.of(correction), n_frames)


def rms(motion: np.ndarray) -> float:
    """Return the root mean square over image and frames; a shift of all frames together is free."""
    error = motion - motion.mean(axis=(0, 2, 3), keepdims=True)
    return float(np.sqrt((error**2).sum(axis=1).mean()))


# ---------------------------------------------------------------------- sums
def sum_of(data: Path, shifts: np.ndarray, model: Optional[LocalMotionModel]) -> np.ndarray:
    """Return the full sum of a movie that is moved as given."""
    gain = Reference("Gain", str(data / "gain.mrc"), 0, "none", False)
    movie = Movie(data / "movies" / "movie_0001.mrcs", Calibration(gain, None, "auto"))
    fields = None if model is None else [model.fields(frame + 1) for frame in range(len(shifts))]
    motion = Motion([(float(x), float(y)) for x, y in shifts], fields)
    bands = warped_half_bands(movie.corrected_frames(), movie.shape, motion, n_threads=os.cpu_count() or 1)
    return np.concatenate([odd + even for odd, even in bands])


def frc(image: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean of the ring correlation in the band, without the edges, which drift brings in."""
    inner = tuple(slice(size // 20, -(size // 20)) for size in truth.shape)
    one, other = (np.fft.rfft2(part[inner] - part[inner].mean(dtype=float)) for part in (image, truth))
    size = truth[inner].shape
    frequency = np.hypot(np.fft.fftfreq(size[0], RATE)[:, None], np.fft.rfftfreq(size[1], RATE))
    ring = (frequency * min(size) * RATE).astype(int)
    cross, power_one, power_other = (
        np.bincount(ring.ravel(), values.ravel())
        for values in ((one * other.conj()).real, np.abs(one) ** 2, np.abs(other) ** 2)
    )
    middle = (np.arange(len(cross)) + 0.5) / (min(size) * RATE)
    is_inside = (middle > 1 / BAND_A[0]) & (middle < 1 / BAND_A[1])
    return float((cross / np.sqrt(power_one * power_other))[is_inside].mean())


def report(rows: List[Dict[str, Any]]) -> None:
    columns = [key for key in rows[-1] if key not in ("specimen", "dose", "defects")]
    print("\n| specimen | e/A^2 | defects |", " | ".join(columns), "|")
    print("|---" * (len(columns) + 3) + "|")
    for row in rows:
        values = " | ".join(f"{row[key]:.3f}" for key in columns)
        print(f"| {row['specimen']} | {row['dose']:g} | {row['defects']} | {values} |")
    medians = {key: float(np.median([row[key] for row in rows])) for key in columns}
    print("| median | | |", " | ".join(f"{medians[key]:.3f}" for key in columns), "|")
    print(json.dumps({"n": len(rows), "medians": medians}))


if __name__ == "__main__":
    main()
