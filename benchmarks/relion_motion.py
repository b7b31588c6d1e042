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
import subprocess
import time
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np

from cryoden.config import HalvesConfig
from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.formats import outputs
from cryoden.formats.files import read_json, write_json
from cryoden.formats.images import read_micrograph
from cryoden.formats.relion_job import read_movie_correction
from cryoden.movies.motion.local_motion import LocalMotionModel
from cryoden.movies.split import split_movies
from cryoden.simulate.facts import Facts, facts_path
from cryoden.simulate.local_motion import LocalMotion
from cryoden.simulate.movies import simulate_movies

RATE, DOSE, N_FRAMES, SIDE = 2.0, 4.0, 16, 2048
FINEST_A = 8.0
GROUP_PIXELS = 500
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
    words = f"--i sim{number}/movies.star --o mc{number}_{binning}/ --use_own --patch_x 5 --patch_y 5 --bfactor 150"
    words += f" --bin_factor {binning} --first_frame_sum 1 --last_frame_sum 0 --gainref sim{number}/gain.mrc"
    words += f" --dose_weighting --dose_per_frame {DOSE} --save_noDW --j {n_threads}"
    subprocess.run(["relion_run_motioncorr", *words.split()], check=True, stdout=subprocess.DEVNULL)


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
    facts = Facts.read(facts_path(f"sim{number}", "movie_0001"))
    correction = read_movie_correction(f"mc{number}_{binning}/sim{number}/movies/movie_0001.star")
    true_field, model = LocalMotion.from_dict(facts.local_motion or {}), LocalMotionModel.of(correction)
    places = np.linspace(-0.5, 0.5, 33)
    powers = np.vander(places, 3, increasing=True)

    errors: Dict[str, List[np.ndarray]] = {way: [] for way in WAYS}
    for frame in range(1, N_FRAMES + 1):
        drift = np.array(facts.shifts[frame - 1])[:, None, None]
        wanted = -(true_field.displacement(frame - 1, places[:, None], places) + drift)
        shift = np.array(correction.shifts[frame])[::-1, None, None]
        for way in WAYS:
            field = np.zeros((2, 3, 3)) if way == "none" else model.fields(frame, is_as_relion=way == "relion")
            local = np.stack([powers @ polynomial @ powers.T for polynomial in field[::-1]])
            errors[way].append(shift + local - wanted)

    found = {}
    for way, differences in errors.items():
        difference = np.array(differences)
        difference -= difference.mean(axis=(0, 2, 3), keepdims=True)
        found[f"field {way}"] = float(np.sqrt((difference**2).sum(axis=1).mean()))
        difference -= difference.mean(axis=(2, 3), keepdims=True)
        found[f"local field {way}"] = float(np.sqrt((difference**2).sum(axis=1).mean()))
    return found


def frc_with_truth(image: np.ndarray, number: int, binning: int) -> Tuple[np.ndarray, np.ndarray]:
    """Return the FRC of groups of rings, and how many pixels each has, up to the finest detail that is asked for.

    The truth is Fourier-cropped to the binned grid. Edges, where RELION's images wrap around, are left out.
    """
    truth, _ = read_micrograph(f"sim{number}/truth/movie_0001.mrc")
    size = image.shape[0]
    spectrum = np.fft.fftshift(np.fft.fft2(truth.astype(float)))
    low = (truth.shape[0] - size) // 2
    truth = np.fft.ifft2(np.fft.ifftshift(spectrum[low : low + size, low : low + size])).real

    inner = slice(32 // binning, -32 // binning)
    window = np.hanning(size - 64 // binning)
    spectra = []
    for picture in (image.astype(float)[inner, inner], truth[inner, inner]):
        spectra.append(np.fft.fft2((picture - picture.mean()) * np.outer(window, window)))

    n = len(window)
    radius = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)[None, :])
    finest = min(RATE * binning / FINEST_A, 0.49)
    rings = np.rint(radius * n).astype(int)
    sizes = np.bincount(rings.ravel())
    group = (np.cumsum(sizes) - sizes) // GROUP_PIXELS
    group = np.unique(group[: int(finest * n)], return_inverse=True)[1]
    mask = rings < len(group)
    index = group[rings[mask]]

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(index, values[mask])

    cross = total((spectra[0] * spectra[1].conj()).real)
    powers = [total(np.abs(spectrum) ** 2) for spectrum in spectra]
    counts = np.bincount(index)
    is_large = counts >= GROUP_PIXELS
    return (cross / np.sqrt(powers[0] * powers[1]))[is_large], counts[is_large]


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
