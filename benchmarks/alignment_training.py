"""What a training loses by motion that was found, not known: `halves --align` against the true shifts.

Movies are simulated with drift and local motion. Their halves are summed by the true motion (its nearest polynomial,
stored as a motion correction stores it), by the motion that `--align` finds, and unaligned. On each a small network is
trained with several seeds. The R2 of its predictions is measured on movies that no training saw, always against the
halves by the true motion, so that all ways have the same aim; that of each training itself, against halves of its own,
is printed beside it. The last line is one JSON object. Sums and trainings that are there are not made again.

Usage: python benchmarks/alignment_training.py --folder FOLDER [--device cuda] [--movies 6] [--size 1536] [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
from relion_movies import nearest_model

from cryoden import Denoiser
from cryoden.config import HalvesConfig, TrainConfig
from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.formats.files import read_json, write_json
from cryoden.formats.images import read_micrograph
from cryoden.formats.relion_job import MovieCorrection, write_movie_correction
from cryoden.metrics.ring_covariance import RingCovariance, pool, ring_covariance, score
from cryoden.model.training import train
from cryoden.movies.split import split_movies
from cryoden.simulate.movies import simulate_movies

WAYS: Dict[str, Dict[str, Any]] = {
    "true": {"shifts": "true", "local_motion": "middle"},
    "aligned": {"align": True, "align_patches": 5},
    "unaligned": {},
}
ROLES = ("training", "held_out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where everything is written")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--movies", type=int, default=6, help="for training; a quarter as many are held out")
    parser.add_argument("--size", type=int, default=1536)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--rate", type=float, default=1.0, help="A/px")
    parser.add_argument("--dose", type=float, default=1.0, help="e/A^2 in a frame")
    parser.add_argument("--drift", type=float, default=15.0, help="A")
    parser.add_argument("--local-motion", type=float, default=8.0, help="A")
    parser.add_argument("--shape", default="barrel")
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batches", type=int, default=60, help="in an epoch")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="besides the true one")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="movies split in parallel")
    options = parser.parse_args()
    options.ways = [way for way in WAYS if way == "true" or way in options.ways]
    options.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(options.folder)

    begun = time.monotonic()
    for role in ROLES:
        prepare(role, options)
        print(f"Movies and halves, {role}: {time.monotonic() - begun:.0f} s", flush=True)

    measured = Path("measured.json")
    rows = read_json(measured) if measured.exists() else {}
    for seed in range(1, options.seeds + 1):
        for way in options.ways:
            key = f"{way}, seed {seed}"
            if key in rows:
                continue
            begun = time.monotonic()
            rows[key] = measure(way, seed, options)
            write_json(measured, rows)
            print(key, rows[key], f"{time.monotonic() - begun:.0f} s", flush=True)
    report(rows, options.ways)


def prepare(role: str, options: argparse.Namespace) -> None:
    """Simulate the movies of a role, and sum their halves in every way."""
    n_movies = options.movies if role == "training" else max(2, options.movies // 4)
    print(f"Simulating {n_movies} movies for {role}", flush=True)
    facts = simulate_movies(
        SimulateMoviesConfig(
            output=role, movies=n_movies, size=(options.size, options.size), frames=options.frames,
            sampling_rate=options.rate, dose_per_frame=options.dose, drift=options.drift, shape=options.shape,
            local_motion=options.local_motion, seed=1 + ROLES.index(role),
        )
    )  # fmt: skip

    stored = Path(role, "true")
    stored.mkdir(exist_ok=True)
    movies = sorted(Path(role, "movies").glob("*.mrcs"))
    for movie in movies:
        shifts, model = nearest_model(facts[movie.stem], np.linspace(-0.45, 0.45, 9))
        correction = MovieCorrection(
            str(movie), str(movie), (options.size, options.size), options.frames,
            {frame: (float(x), float(y)) for frame, (x, y) in enumerate(shifts, 1)},
            sampling_rate=options.rate, coefficients=model.coefficients,
        )  # fmt: skip
        write_movie_correction(stored / f"{movie.stem}.star", correction)

    for way in options.ways:
        how = WAYS[way]
        stored_shifts = {"shifts": f"{role}/{how['shifts']}"} if "shifts" in how else {}
        outcome = split_movies(
            HalvesConfig(
                movies=tuple(map(str, movies)), output=f"{role}_{way}", gain=f"{role}/gain.mrc", jobs=options.jobs,
                **{**how, **stored_shifts},
            )
        )  # fmt: skip
        for problem in outcome.warnings:
            print(f"{role}, {way}: {problem}")


def measure(way: str, seed: int, options: argparse.Namespace) -> Dict[str, float]:
    """Train on the halves of a way; return the R2 of held-out movies, and that of the training itself."""
    training = train(
        TrainConfig(
            odd=f"training_{way}/odd", even=f"training_{way}/even", output=f"model_{way}_{seed}", network="unet",
            channels=tuple(options.channels), crop=options.crop, epochs=options.epochs, min_batches=options.batches,
            max_batches=options.batches, patience=0, compile="no", from_model="none", sampling_rate=2 * options.rate,
            seed=seed, device=options.device, resume=True,
        )
    )  # fmt: skip
    denoiser = Denoiser.load(training.model, device=options.device)
    covariances = [covariance(denoiser, way, path.name) for path in sorted(Path("held_out_true/odd").glob("*.mrc"))]
    return {"held out": score(pool(covariances).in_band()).r2, "training": training.r2}


def covariance(denoiser: Denoiser, way: str, name: str) -> RingCovariance:
    """Return the covariances of the true halves of a movie and the denoised halves of a way."""
    true = [halves_of("true", half, name) for half in ("odd", "even")]
    own = [halves_of(way, half, name) for half in ("odd", "even")]
    denoised = [denoiser.denoise(image, rate) for image, rate in own]
    rate = denoiser.sampling_rate
    return ring_covariance([*(binned(image, denoised[0].shape) for image, _ in true), *denoised], rate)


def halves_of(way: str, half: str, name: str) -> Tuple[np.ndarray, float]:
    return read_micrograph(Path(f"held_out_{way}", half, name))


def binned(image: np.ndarray, shape: Tuple[int, ...]) -> np.ndarray:
    """Return an image on the coarser grid of a shape, in the same grey scale, cropped in Fourier space."""
    spectrum = np.fft.fftshift(np.fft.fft2(image.astype(float)))
    rows, columns = ((size - part) // 2 for size, part in zip(image.shape, shape))
    cropped = spectrum[rows : rows + shape[0], columns : columns + shape[1]]
    return np.fft.ifft2(np.fft.ifftshift(cropped)).real * (cropped.size / image.size)


def report(rows: Dict[str, Dict[str, float]], ways: List[str]) -> None:
    """Print the means over the seeds with their errors, relative to the true shifts seed by seed."""
    table: Dict[str, Dict[str, float]] = {}
    print(f"\n{'':10} {'R2, held out':>20} {'of the true':>20} {'R2, training':>20}")
    for way in ways:
        chosen = {key.split(", ")[1]: row for key, row in rows.items() if key.startswith(f"{way},")}
        held_out = [row["held out"] for row in chosen.values()]
        ratios = [row["held out"] / rows[f"true, {seed}"]["held out"] for seed, row in chosen.items()]
        columns = [
            mean_and_error(values) for values in (held_out, ratios, [row["training"] for row in chosen.values()])
        ]
        print(f"{way:10}", *(f"{mean:11.4f} +- {error:.4f}" for mean, error in columns))
        names = ("held out", "ratio", "training")
        table[way] = {name: mean for name, (mean, _) in zip(names, columns)}
        table[way].update({f"{name} error": error for name, (_, error) in zip(names, columns)})
    print(json.dumps(table))


def mean_and_error(values: List[float]) -> Tuple[float, float]:
    """Return the mean and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
