"""Our sums of a finished RELION motion correction against RELION's own, and both against the truth.

Movies with local motion are simulated (2048 x 2048 px of 2 A, 16 frames of 4 e/A^2, on carbon film, so that RELION
finds the motion), and corrected by relion_run_motioncorr with 5 x 5 patches, weighted and not. `cryoden halves` then
sums them with RELION's time and interpolation, with the motion in the middle of each frame, and with global shifts
alone.

Per movie and binning: the correlation of full sums with RELION's own; the rms error of the motion field against the
recorded one; the FRC with the truth, mean to 8 A (or Nyquist), and in the worst group of rings of at least 500 pixels
how much lower it is than RELION's. Prints a table of the means and, last, one JSON object. Goes on where it stopped.

Usage: python benchmarks/relion_motion.py --folder FOLDER [--movies 4] [--threads 2] [--seconds 200]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Dict, Tuple

import numpy as np
from relion_movies import (
    about_movie,
    correct_by_relion,
    found_motion,
    fourier_cropped,
    grid,
    rings_with_truth,
    rms,
    true_motion,
    whole,
)

from cryoden.config import HalvesConfig
from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.formats import outputs
from cryoden.formats.files import read_json, write_json
from cryoden.formats.images import read_micrograph
from cryoden.formats.relion_job import read_movie_correction
from cryoden.metrics.ring_covariance import RingCovariance, frc
from cryoden.movies.split import split_movies
from cryoden.simulate.facts import Facts, facts_path
from cryoden.simulate.movies import simulate_movies

RATE, DOSE, N_FRAMES, SIDE = 2.0, 4.0, 16, 2048
FINEST_A = 8.0
GROUP_PIXELS = 500
PLACES = grid(33)
WAYS = ("relion", "middle", "none")
RELION = "RELION's own"


def simulate(number: int) -> None:
    """Simulate one movie, with a seed and in a folder of its own."""
    simulate_movies(
        SimulateMoviesConfig(
            output=f"sim{number}", movies=1, size=(SIDE, SIDE), frames=N_FRAMES, sampling_rate=RATE,
            dose_per_frame=DOSE, drift=20.0, local_motion=10.0, particles=600, carbon=1.0, seed=100 + number,
        )
    )  # fmt: skip


def correct(number: int, binning: int, n_threads: int) -> None:
    """Let RELION correct a movie."""
    words = f"--bin_factor {binning} --first_frame_sum 1 --last_frame_sum 0"
    words += f" --dose_weighting --dose_per_frame {DOSE} --save_noDW"
    correct_by_relion(f"sim{number}", f"mc{number}_{binning}", 5, n_threads, *words.split())


def own_sum(number: int, binning: int, suffix: str) -> np.ndarray:
    """Return RELION's own sum."""
    return read_micrograph(f"mc{number}_{binning}/sim{number}/movies/movie_0001{suffix}.mrc")[0]


def our_sum(number: int, binning: int, way: str, is_weighted: bool) -> np.ndarray:
    """Return our full sum."""
    output = f"halves{number}_{binning}_{way}" + ("_weighted" if is_weighted else "")
    job = f"mc{number}_{binning}/corrected_micrographs.star"
    weighting = "on" if is_weighted else "off"
    split_movies(HalvesConfig(movies=(job,), output=output, local_motion=way, dose_weighting=weighting))
    return read_micrograph(Path(output, outputs.FULL, "movie_0001.mrc"))[0]


def field_errors(number: int, binning: int) -> Dict[str, float]:
    """Return the rms errors of each motion field in unbinned px, but for one shift of everything.

    Once as it is, and once without the mean of every frame, which is the error of RELION's global shifts.
    """
    correction = read_movie_correction(about_movie(f"sim{number}", f"mc{number}_{binning}"))
    found = {
        "relion": found_motion(correction, PLACES, is_as_relion=True),
        "middle": found_motion(correction, PLACES),
        "none": found_motion(replace(correction, coefficients=None), PLACES),
    }
    true = true_motion(Facts.read(facts_path(f"sim{number}", "movie_0001")), PLACES)
    errors = {way: found[way] - true for way in WAYS}
    return {
        **{f"field {way}": rms(error) for way, error in errors.items()},
        **{f"local field {way}": rms(error - whole(error)) for way, error in errors.items()},
    }


def frc_with_truth(image: np.ndarray, number: int, binning: int) -> Tuple[np.ndarray, np.ndarray]:
    """Return the FRC of groups of rings, and how many pixels each has, up to the finest detail that is asked for.

    The truth is Fourier-cropped to the binned grid. Edges, where RELION's images wrap around, are left out.
    """
    truth = fourier_cropped(read_micrograph(f"sim{number}/truth/movie_0001.mrc")[0], image.shape[0])
    rings = rings_with_truth(image, truth, RATE * binning, 32 // binning, is_windowed=True)

    finest = min(1 / FINEST_A, 0.49 / (RATE * binning))
    n_rings = int((rings.frequency < finest).sum())
    sizes = np.rint(2 * np.pi * np.arange(1, n_rings + 1)).astype(int)
    firsts = np.unique((np.cumsum(sizes) - sizes) // GROUP_PIXELS, return_index=True)[1]
    groups = RingCovariance(rings.frequency[firsts], np.add.reduceat(rings.matrices[:n_rings], firsts, axis=0))
    counts = np.add.reduceat(sizes, firsts)
    is_large = counts >= GROUP_PIXELS
    return frc(groups)[is_large], counts[is_large]


def measure(number: int, binning: int) -> Dict[str, float]:
    """Return all numbers of one movie."""
    row: Dict[str, float] = {}
    for is_weighted, suffix in ((False, "_noDW"), (True, "")):
        name = "weighted" if is_weighted else "unweighted"
        own, ours = own_sum(number, binning, suffix), our_sum(number, binning, "relion", is_weighted)
        row[f"correlation {name}"] = float(np.corrcoef(own.ravel(), ours.ravel())[0, 1])
    row.update(field_errors(number, binning))

    curves = {way: frc_with_truth(our_sum(number, binning, way, False), number, binning) for way in WAYS}
    curves[RELION] = frc_with_truth(own_sum(number, binning, "_noDW"), number, binning)
    row.update({f"frc {way}": float(np.average(curve, weights=n)) for way, (curve, n) in curves.items()})
    row["worst group against RELION"] = float((curves["middle"][0] - curves[RELION][0]).min())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where everything is written")
    parser.add_argument("--movies", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop before the next movie after so long")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(options.folder)
    begun = time.monotonic()

    measured = Path("measured.json")
    rows = read_json(measured) if measured.exists() else {}
    for number in range(options.movies):
        for binning in (1, 2):
            key = f"movie {number}, binning {binning}"
            if key in rows or time.monotonic() - begun > options.seconds:
                continue
            simulate(number)
            if not Path(f"mc{number}_{binning}/corrected_micrographs.star").exists():
                correct(number, binning, options.threads)
            rows[key] = measure(number, binning)
            write_json(measured, rows)
            print(key, {name: round(value, 4) for name, value in rows[key].items()}, flush=True)

    table = {}
    for binning in sorted({int(key[-1]) for key in rows}):
        chosen = [row for key, row in rows.items() if key.endswith(str(binning))]
        table[f"binning {binning}"] = {name: float(np.mean([row[name] for row in chosen])) for name in chosen[0]}
        table[f"binning {binning}"]["movies"] = len(chosen)
    print(f"\n{'mean':32}" + "".join(f"{name:>12}" for name in table))
    for name in next(iter(table.values()), {}):
        print(f"{name:32}" + "".join(f"{column[name]:12.4f}" for column in table.values()))
    print(json.dumps(table))


if __name__ == "__main__":
    main()
