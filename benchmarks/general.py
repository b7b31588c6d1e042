"""What the general model is worth: on the demo's exposure, on specimens that it never saw, and as a start.

Three parts, each a table:

exposure
    The demo's exposure (demo/thinned_frames.py), rows from 2816 on held out: the general model as it comes, best
    Gaussian, ring-wise Wiener filter (both fitted on the other rows), Topaz-Denoise where it is installed, a training
    from random weights, and one of as many steps from the general model. R2_corr of the held-out rows in three bands.
specimens
    Micrographs of the three specimens that training_sets/specimens.py holds out, by the optics of `cryoden simulate
    movies` from atomic potentials: as in the training; at a voltage that it did not have; on a camera with a
    scintillator, a kind of detector that it did not have. The same denoisers, without the second training; Topaz at
    the pixel size of the others and, before they are brought to it, at that of the files.
sets
    Sets of few and many such micrographs: equal steps from random weights and from the general model, compared on other
    micrographs of the same kind. Seed N takes the Nth of the held-out specimens, in turn.

The truth is what `cryoden simulate movies` writes, the grain of the ice included; what the particles alone would show
is scored too. All images are brought to 4 A/px, the general model's own pixel size; R2_corr is of 300-8 A where nothing
else is said. A number of steps stands for a time on a GPU that does nothing else, so that trainings may run side by
side (`--jobs`): 60 s of one H200 are about 2,700 steps of 8 crops of 512 px, compiling and validation included. Errors
are standard errors over micrographs (and seeds), of differences over pairs. The last line is one JSON object.

Usage: python benchmarks/general.py exposure|specimens|sets [--steps 2700] [--jobs 3] [--sizes 1 6 20] [--seeds 1 2 3]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

import numpy as np
import scipy.fft
import scipy.ndimage
import torch
from networks import DataSet, exposure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "training_sets"))
from specimens import density, load, smallest_box

from cryoden.config import TrainConfig
from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.data.normalize import measure_scale
from cryoden.data.pair_reader import load_pair
from cryoden.data.pairs import HalfPair, find_pairs
from cryoden.data.rescale import fourier_crop
from cryoden.formats import outputs
from cryoden.formats.images import read_micrograph
from cryoden.formats.model_file import read_card
from cryoden.formats.mrc import write_image
from cryoden.metrics.ground_truth import true_numbers, truth_scale
from cryoden.metrics.linear_filters import best_gaussian_width, filter_image, gaussian_transfer, wiener_transfer
from cryoden.metrics.ring_covariance import RingCovariance, pool, ring_covariance, score
from cryoden.model.denoiser import Denoiser
from cryoden.model.devices import pick_device
from cryoden.model.topaz import TopazDenoiser, TopazError
from cryoden.model.training import fit
from cryoden.model.training_setup import set_up
from cryoden.simulate.imaging import margin, true_image
from cryoden.simulate.optics import Optics
from cryoden.simulate.shapes import BODY_WIDTH, Particle
from cryoden.simulate.specimen import Film, Grid, make_specimen

ROOT = Path(__file__).resolve().parent.parent

RATE = 4.0
"""A/px at which everything is trained and scored."""

PIXEL = 2.0
"""A/px of the simulated micrographs."""

BANDS_A = ((300.0, 8.0), (300.0, 20.0), (20.0, 8.0))
DOSE = 40.0
"""e/A^2 of a whole simulated exposure."""

COVER = 0.5
"""Share of a simulated micrograph that particles cover, at most."""

N_TRAINING, N_SCORED = 6, 3
"""Micrographs of each specimen."""

TOPAZ_RATES = ("working", "files")
"""Pixel sizes at which Topaz denoises: `RATE`, and that of the files."""

Predict = Callable[[np.ndarray], np.ndarray]
"""Denoises one standardised half at `RATE`."""


# ---------------------------------------------------------------------- simulated micrographs
@dataclass(frozen=True)
class Condition:
    """How simulated micrographs are taken: voltage in kV, and whether the camera has a scintillator."""

    voltage: float = 300.0
    has_scintillator: bool = False


CONDITIONS = {
    "300 kV, counting": Condition(),
    "120 kV, counting": Condition(voltage=120.0),
    "300 kV, scintillator": Condition(has_scintillator=True),
}
"""The first as in the training; the others have what was held out."""

READ_NOISE, ENERGY_SPREAD = 1.5, 0.6
"""Of a camera with a scintillator: noise of a pixel in electrons, deviation of an electron's signal from the mean."""


class AtomicParticle(Particle):
    """A particle whose volume is a potential in V already."""

    def __init__(self, volume: np.ndarray, rate: float) -> None:
        body = scipy.ndimage.gaussian_filter(volume, BODY_WIDTH / rate, mode="constant")
        super().__init__(volume, rate, float(np.vdot(volume, body)) / float(volume.sum(dtype=np.float64)))


def camera_transfer(k: np.ndarray) -> np.ndarray:
    """Return how a scintillator's light, which spreads far, transfers signal and shot noise at frequencies in 1/px."""
    return 0.6 * np.exp(-np.square(2.2 * k)) + 0.4 / (1 + np.square(9 * k)) ** 1.5


def photograph(truth: np.ndarray, n_electrons: float, condition: Condition, rng: np.random.Generator) -> np.ndarray:
    """Return one image of an expected intensity `(y, x)` with so many electrons in a pixel, float32."""
    counts = rng.poisson(np.maximum(truth, 0) * n_electrons).astype(np.float32)
    if not condition.has_scintillator:
        return counts
    counts += ENERGY_SPREAD * np.sqrt(counts) * rng.standard_normal(truth.shape, np.float32)
    return transferred(counts) + READ_NOISE * rng.standard_normal(truth.shape, np.float32)


def transferred(image: np.ndarray) -> np.ndarray:
    """Return what a camera with a scintillator makes of an image, float32."""
    k = np.hypot(scipy.fft.fftfreq(image.shape[0])[:, None], scipy.fft.rfftfreq(image.shape[1])[None])
    return scipy.fft.irfft2(scipy.fft.rfft2(image) * camera_transfer(k), image.shape).astype(np.float32)


def simulate(
    folder: Path, particle: Particle, condition: Condition, n: int, first: int, side: int, seed: int
) -> Tuple[str, str]:
    """Write halves and truths of micrographs number `first` on; return the folders of the halves.

    What was written by an earlier call for the same folder is kept.
    """
    halves = [folder / half for half in ("odd", "even")]
    for part in (*halves, folder / "particles", folder / "truth"):
        part.mkdir(parents=True, exist_ok=True)
    names = {number: f"mic_{number:03d}.mrc" for number in range(first, first + n)}
    missing = {number: name for number, name in names.items() if not (folder / "truth" / name).exists()}
    if not missing:
        return str(halves[0]), str(halves[1])

    config = SimulateMoviesConfig(
        output=str(folder), size=(side, side), frames=2, sampling_rate=PIXEL, dose_per_frame=DOSE / 2, drift=0.0,
        voltage=condition.voltage, blur=0.0 if condition.has_scintillator else 0.4, defocus=1.4, defocus_spread=0.6,
        particles=max(1, round(COVER * (side * PIXEL / particle.diameter_A) ** 2)),
    )  # fmt: skip
    grid = Grid.around((side, side), PIXEL, margin(config))

    def make(number: int) -> None:
        rng = np.random.default_rng([seed, number])
        defocus = 1e4 * (config.defocus + config.defocus_spread * rng.uniform(-1, 1))
        film = Film(config.ice_thickness, config.ice_gradient, 0.0)
        scene = make_specimen(grid, particle, config.particles, film, condition.voltage, rng)
        optics = Optics(condition.voltage, config.spherical_aberration, config.amplitude_contrast, defocus)
        truth, _ = true_image(config, grid, scene, optics)
        particles, _ = true_image(config, grid, replace(scene, phase=scene.particle_phase), optics)
        for half in halves:
            image = photograph(truth, DOSE / 2 * PIXEL**2, condition, rng)
            write_image(half / missing[number], image, PIXEL)
        for part, image in (("particles", particles), ("truth", truth)):
            shown = transferred(image) if condition.has_scintillator else np.ascontiguousarray(image)
            write_image(folder / part / missing[number], shown, PIXEL)

    with ThreadPoolExecutor() as threads:
        list(threads.map(make, missing))
    return str(halves[0]), str(halves[1])


# ---------------------------------------------------------------------- scores
@dataclass(frozen=True)
class Scores:
    """What a denoiser came to.

    Attributes
    ----------
    bands
        R2_corr by the halves in each of `BANDS_A`, pooled.
    each
        R2_corr in the first band of each micrograph, against the truth where there is one.
    particles
        The same against what the particles alone would show.
    unscaled
        R2 against the truth.
    """

    bands: List[float]
    each: List[float]
    particles: List[float]
    unscaled: List[float]

    @property
    def mean(self) -> float:
        """Of all micrographs."""
        return statistics.mean(self.each)

    @property
    def error(self) -> float:
        """Its standard error."""
        return statistics.stdev(self.each) / math.sqrt(len(self.each)) if len(self.each) > 1 else math.nan


Loaded = Tuple[np.ndarray, List[np.ndarray], HalfPair]
"""Standardised halves `(2, y, x)`; truth and particles alone at their pixel size, or nothing; the pair."""


def loaded(pairs: Sequence[HalfPair], has_truth: bool) -> List[Loaded]:
    """Return what is scored."""
    found = []
    for pair in pairs:
        truths = []
        for part in ("truth", "particles") if has_truth else ():
            image, _ = read_micrograph(str(Path(pair.odd).parent.parent / part / Path(pair.odd).name))
            truths.append(fourier_crop(image, pair.shape))
        found.append((load_pair(pair).halves.float().numpy(), truths, pair))
    return found


def scores(data: Sequence[Loaded], predict: Predict) -> Scores:
    """Return how well both halves of each micrograph are denoised."""
    return scores_of(data, [[predict(half) for half in halves] for halves, _, _ in data])


def scores_of(data: Sequence[Loaded], predictions: Sequence[Sequence[np.ndarray]]) -> Scores:
    """Return how well both halves of each micrograph were denoised, by these predictions of them."""
    covariances: List[RingCovariance] = []
    found = Scores([], [], [], [])
    for (halves, truths, pair), denoised in zip(data, predictions):
        images = [image.astype(np.float32) for image in (*halves, *denoised, *truths)]
        covariance = ring_covariance(images, pair.sampling_rate)
        covariances.append(covariance.of(0, 1, 2, 3))
        if not truths:
            found.each.append(score(covariance.in_band(BANDS_A[0])).r2_corr)
        for place, values in zip((4, 5), (found.each, found.particles) if truths else ()):
            rings = covariance.of(0, 1, 2, 3, place)
            in_band = rings.in_band(BANDS_A[0])
            numbers = true_numbers(in_band, rings.total(), truth_scale(pair.name, in_band), 1.0)
            values.append(numbers["r2_corr"])
            if place == 4:
                found.unscaled.append(numbers["r2"])
    pooled = pool(covariances)
    found.bands.extend(round(score(pooled.in_band(band)).r2_corr, 4) for band in BANDS_A)
    return found


def linear_baselines(training: Sequence[HalfPair]) -> Dict[str, Predict]:
    """Return the raw half and the linear filters, fitted on the training pairs."""
    rate = training[0].sampling_rate
    fitted = pool([ring_covariance(list(load_pair(pair).halves.float().numpy()), rate) for pair in training])
    gains = {
        "best Gaussian": gaussian_transfer(fitted.frequency, best_gaussian_width(fitted)),
        "Wiener": wiener_transfer(fitted, fitted.frequency),
    }
    found: Dict[str, Predict] = {"raw": lambda half: half}
    for name, gain in gains.items():
        found[name] = lambda half, gain=gain: filter_image(half, rate, fitted.frequency, gain)
    return found


def topaz_scores(data: Sequence[Loaded], topaz: str, device: str, rates: Sequence[str]) -> Dict[str, Scores]:
    """Return what Topaz-Denoise's pretrained U-Net comes to, at each of some of `TOPAZ_RATES`.

    Each time all images in one go; it brings them to a grey scale of its own, and back.
    """
    if topaz == "no":
        return {}
    found = {}
    for rate in (RATE if name == "working" else None for name in rates):
        images: Dict[str, Tuple[np.ndarray, float]] = {}
        for number, (halves, _, pair) in enumerate(data):
            for side, path in enumerate((pair.odd, pair.even)):
                image = read_micrograph(path)
                images[f"{number}_{side}"] = (halves[side], rate) if rate else image
        with tempfile.TemporaryDirectory() as folder:
            try:
                program = TopazDenoiser(topaz, "unet", folder, device)
                program.denoise_ahead(images)
            except TopazError as error:
                print(f"Topaz is left out: {error}", flush=True)
                return {}
            denoised = [program.denoise(image, pixel) for image, pixel in images.values()]
            program.close()

        predictions = []
        for number, (_, _, pair) in enumerate(data):
            both = denoised[2 * number : 2 * number + 2]
            if rate is None:  # brought to the pixels and the grey scale of the halves
                raw = [fourier_crop(images[f"{number}_{side}"][0], pair.shape) for side in range(2)]
                both = [fourier_crop(image, pair.shape) for image in both]
                both = [measure_scale(before).standardize(after) for before, after in zip(raw, both)]
                both = [image[slice(*(pair.rows or (None,)))] for image in both]
            predictions.append(both)
        where = f"{rate or data[0][2].file_rate:.3g} Å/px"
        found[f"Topaz-Denoise U-Net, {where}"] = scores_of(data, predictions)
    return found


def of_model(path: str, device: str) -> Predict:
    """Return the network of a model file."""
    predictor = Denoiser.load(path, device=device).predictor
    return lambda half: predictor(torch.from_numpy(half).to(predictor.device)).float().cpu().numpy()


# ---------------------------------------------------------------------- trainings
@dataclass(frozen=True)
class Job:
    """One training: its name, its data, `none` or a model to start from, its seed, and where it goes."""

    name: str
    data: DataSet
    start: str
    seed: int
    output: str


def run(job: Job, options: argparse.Namespace) -> Dict[str, Any]:
    """Train and return the model and what became of it."""
    torch.set_num_threads(options.threads)
    Path(job.output).mkdir(parents=True)
    device, card = pick_device(options.device), read_card(options.general)
    config = TrainConfig(
        odd=job.data.odd, even=job.data.even, output=job.output, seed=job.seed, sampling_rate=job.data.rate or RATE,
        network=card.network, channels=card.channels, from_model=job.start, crop=options.crop,
        epochs=max(1, round(options.steps / options.batches)), min_batches=options.batches,
        max_batches=options.batches, compile="yes" if device.type == "cuda" else "no", checkpoint_minutes=60.0,
        device=options.device,
    )  # fmt: skip
    begun = time.monotonic()
    torch._dynamo.reset()
    setup = set_up(config, job.data.data(config), device)
    fit(setup)
    progress = setup.state.progress
    return {
        "model": str(Path(job.output) / outputs.MODEL), "steps": progress.step, "best_epoch": progress.best_epoch,
        "epochs": progress.epoch, "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip


def run_all(jobs: Sequence[Job], options: argparse.Namespace) -> Dict[str, Dict[str, Any]]:
    """Run trainings, some side by side; return name -> what `run` returned."""
    if options.jobs == 1:
        done = [run(job, options) for job in jobs]
    else:
        with multiprocessing.get_context("spawn").Pool(options.jobs) as processes:
            done = processes.starmap(run, [(job, options) for job in jobs], chunksize=1)
    found = {job.name: facts for job, facts in zip(jobs, done)}
    for name, facts in found.items():
        print(f"{name}: {json.dumps({key: value for key, value in facts.items() if key != 'model'})}", flush=True)
    return found


# ---------------------------------------------------------------------- the three parts
def compare_on_exposure(folder: Path, options: argparse.Namespace) -> Dict[str, Any]:
    """Return name of a denoiser -> R2_corr of the held-out rows of the demo's exposure in three bands."""
    data = exposure(folder / "K2", options.micrograph, RATE)
    assert data.training is not None
    jobs = [
        Job(name, data, start, 1, str(folder / "trainings" / name))
        for name, start in (("own model, from random weights", "none"), ("general model, trained on", options.general))
        if options.steps
    ]
    trained = run_all(jobs, options)
    denoisers = linear_baselines([data.training])
    denoisers["general model"] = of_model(options.general, options.device)
    denoisers.update({name: of_model(facts["model"], options.device) for name, facts in trained.items()})
    held_out = loaded(data.scored, has_truth=False)
    rows = {name: scores(held_out, predict).bands for name, predict in denoisers.items()}
    topaz = topaz_scores(held_out, options.topaz, options.device, options.topaz_rates)
    rows.update({name: found.bands for name, found in topaz.items()})

    print("\n| held-out rows of the exposure, R2_corr | " + " | ".join(f"{a:g}-{b:g} Å" for a, b in BANDS_A) + " |")
    print("|---" * (1 + len(BANDS_A)) + "|")
    for name, bands in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in bands) + " |")
    return {"rows": rows, "trainings": trained}


def compare_on_specimens(folder: Path, options: argparse.Namespace) -> Dict[str, Any]:
    """Return specimen and condition -> denoiser -> R2_corr, its standard error, that of particles alone, and R2."""
    jobs, sets = [], {}
    for number, (specimen, particle) in enumerate(held_out_particles(options).items(), 1):
        for name, condition in CONDITIONS.items():
            place = folder / "specimens" / specimen / name
            common = (particle, condition)
            training = simulate(place / "training", *common, options.training, 0, options.side, number)
            scored = simulate(place / "scored", *common, N_SCORED, 1000, options.side, number)
            data = DataSet(*training, RATE, scored=tuple(find_pairs(*scored, RATE)[0]))
            sets[f"{specimen}, {name}"] = data
            if options.steps and name in options.own:
                key = f"{specimen}, {name}"
                jobs.append(Job(key, data, "none", 1, str(folder / "trainings" / key)))
    trained = run_all(jobs, options)

    rows: Dict[str, Dict[str, List[Any]]] = {}
    for key, data in sets.items():
        denoisers = linear_baselines(find_pairs(data.odd, data.even, RATE)[0])
        denoisers["general model"] = of_model(options.general, options.device)
        if key in trained:
            denoisers["own model"] = of_model(trained[key]["model"], options.device)
        images = loaded(data.scored, has_truth=True)
        found = {name: scores(images, predict) for name, predict in denoisers.items()}
        found.update(topaz_scores(images, options.topaz, options.device, options.topaz_rates))
        print(key, {name: round(item.mean, 3) for name, item in found.items()}, flush=True)
        rows[key] = {
            name: [item.mean, item.error, statistics.mean(item.particles), statistics.mean(item.unscaled)]
            for name, item in found.items()
        }

    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    print("\n| R2_corr against the truth, against the particles alone | " + " | ".join(names) + " |")
    print("|---" * (1 + len(names)) + "|")
    for key, row in rows.items():
        cells = ("{:.3f} ± {:.3f}, {:.3f}".format(*row[name]) if name in row else "" for name in names)
        print(f"| {key} | " + " | ".join(cells) + " |")
    return {"rows": rows, "trainings": trained}


def compare_starts(folder: Path, options: argparse.Namespace) -> Dict[str, Any]:
    """Return size of a set -> what training on from the general model gained, by seed, micrograph by micrograph."""
    particles = list(held_out_particles(options).values())
    condition = next(iter(CONDITIONS.values()))
    jobs, scored = [], {}
    for seed in options.seeds:
        particle = particles[(seed - 1) % len(particles)]
        for size in options.sizes:
            place = folder / "sets" / f"seed {seed}"
            training = simulate(place / f"{size}", particle, condition, size, 0, options.side, 100 + seed)
            other = simulate(place / "scored", particle, condition, N_SCORED, 1000, options.side, 100 + seed)
            data = DataSet(*training, RATE, scored=tuple(find_pairs(*other, RATE)[0]))
            scored[size, seed] = data.scored
            jobs += [
                Job(
                    f"{size}, seed {seed}, {start}", data, start, seed, str(folder / "trainings" / f"{size} {seed} {i}")
                )
                for i, start in enumerate(("none", options.general))
            ]
    trained = run_all(jobs, options)

    rows = []
    for (size, seed), pairs in scored.items():
        images = loaded(pairs, has_truth=True)
        models = {"general": options.general}
        for name, start in (("scratch", "none"), ("trained on", options.general)):
            models[name] = trained[f"{size}, seed {seed}, {start}"]["model"]
        found = {name: scores(images, of_model(path, options.device)).each for name, path in models.items()}
        rows.append({"size": size, "seed": seed, **found})
    print("\n| micrographs | general model | from random weights | from the general model | gain |")
    print("|---|---|---|---|---|")
    for size in options.sizes:
        print_gain(size, [row for row in rows if row["size"] == size])
    return {"rows": rows, "trainings": trained}


def print_gain(size: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line of the table of starts."""
    names = ("general", "scratch", "trained on")
    means = [statistics.mean(value for row in rows for value in row[name]) for name in names]
    gains = [after - before for row in rows for after, before in zip(row["trained on"], row["scratch"])]
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    cells = " | ".join(f"{value:.3f}" for value in means)
    print(f"| {size} | {cells} | {statistics.mean(gains):+.4f} ± {error:.4f} |")


def held_out_particles(options: argparse.Namespace) -> Dict[str, AtomicParticle]:
    """Return the specimens that the general model's training did not see, small ones first."""
    found = [specimen for specimen in load(options.specimens) if specimen.held_out]
    found.sort(key=lambda specimen: specimen.n_atoms)
    volumes = {specimen.name: density(specimen, PIXEL, smallest_box(specimen, PIXEL)) for specimen in found}
    return {name: AtomicParticle(volume, PIXEL) for name, volume in volumes.items()}


PARTS = {"exposure": compare_on_exposure, "specimens": compare_on_specimens, "sets": compare_starts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument(
        "--general", default="general", help="model file to measure, or the one that comes with cryoden"
    )
    parser.add_argument("--micrograph", type=Path, default=ROOT / "demo" / "data" / "fei-extended.mrc")
    parser.add_argument("--specimens", type=Path, default=ROOT / "training_sets" / "specimens.npz")
    parser.add_argument("--folder", type=Path, help="keep simulated micrographs here for the next call")
    parser.add_argument("--steps", type=int, default=2700, help="of each training; 0: train nothing")
    parser.add_argument("--batches", type=int, default=100, help="of an epoch")
    parser.add_argument("--crop", type=int, default=512, help="side of the crops in pixels")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--threads", type=int, default=2, help="of each training")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--topaz", default="auto", help="command of Topaz; auto: if it is installed; no: without it")
    parser.add_argument("--topaz-rates", nargs="+", choices=TOPAZ_RATES, default=TOPAZ_RATES, help="its pixel sizes")
    parser.add_argument("--side", type=int, default=1536, help="of simulated micrographs in pixels of 2 Å")
    parser.add_argument("--training", type=int, default=N_TRAINING, help="micrographs of a specimen to train on")
    parser.add_argument(
        "--own", nargs="*", choices=CONDITIONS, default=list(CONDITIONS)[:1], help="own models of these"
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 6, 20])
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    options = parser.parse_args()

    device = pick_device(options.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary)
        if options.folder:
            for name in ("specimens", "sets"):
                (options.folder / name).mkdir(parents=True, exist_ok=True)
                (data / name).symlink_to((options.folder / name).resolve())
        result = PARTS[options.part](data, options)
    result.update(part=options.part, device=where, steps=options.steps, wall_s=round(time.monotonic() - begun))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
