"""Whether the general model says rightly that micrographs are not what it learned: false alarms and misses.

Micrographs by `cryoden simulate movies` of many specimens, doses, defocus values, pixel sizes and films, none of which
the thresholds of cryoden/metrics/unusual_micrographs.py were chosen on, as they are and changed: bright, stained, with
a gradient. Real ones that Python packages ship are given with `--real`. Each set goes through `cryoden denoise`.

Prints what was measured of each set and what was said, and a table of false alarms and misses by kind; the last line is
one JSON object.

Usage: python benchmarks/unusual.py [--real MICROGRAPH[@A/px]...] [--only WORD] [--seed 7001] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import mrcfile
import numpy as np
import scipy.ndimage
import torch

from cryoden.config.denoise import DenoiseConfig
from cryoden.config.simulate import SimulateMoviesConfig
from cryoden.errors import Problem
from cryoden.formats.images import read_micrograph
from cryoden.formats.mrc import write_image
from cryoden.metrics import unusual_micrographs
from cryoden.metrics.unusual_micrographs import BRIGHT, GRADIENT, STAIN, TINY, Look, Looks
from cryoden.model import denoising
from cryoden.simulate.movies import simulate_movies

N = 3
"""Micrographs of a set."""

SIDE, RATE = 1024, 2.0
"""Of a simulated micrograph, in pixels and A/px, where its set says nothing else."""

WORDS = {BRIGHT: "bright", STAIN: "stain", GRADIENT: "gradient", TINY: "tiny"}

Options = Dict[str, Any]

ORDINARY: Dict[str, Options] = {
    "barrels": {"shape": "barrel"},
    "barrels, 2.5 e/Å²": {"shape": "barrel", "dose_per_frame": 1.25},
    "barrels, 8 e/Å²": {"shape": "barrel", "dose_per_frame": 4.0},
    "barrels, 80 e/Å²": {"shape": "barrel", "dose_per_frame": 40.0},
    "barrels, crowded": {"shape": "barrel", "particles": 1000},
    "barrels, 4 in a micrograph": {"shape": "barrel", "particles": 4},
    "barrels, 0.2 µm": {"shape": "barrel", "defocus": 0.2, "defocus_spread": 0.1},
    "barrels, 3.5 µm": {"shape": "barrel", "defocus": 3.5},
    "barrels, 100 kV": {"shape": "barrel", "voltage": 100.0},
    "barrels, phase plate": {"shape": "barrel", "amplitude_contrast": 1.0, "defocus": 0.5, "defocus_spread": 0.2},
    "barrels, thrice the potential": {"shape": "barrel", "potential": 7.5, "defocus": 2.5},
    "globules": {"shape": "globule"},
    "globules, crowded, 3 µm": {"shape": "globule", "particles": 3000, "defocus": 3.0},
    "globules, 0.6 µm, 15 e/Å²": {"shape": "globule", "defocus": 0.6, "dose_per_frame": 7.5},
    "rods": {"shape": "rod"},
    "rods, 3 µm": {"shape": "rod", "defocus": 3.0},
    "rods, 5 e/Å², 2 µm": {"shape": "rod", "dose_per_frame": 2.5, "defocus": 2.0},
    "ice alone": {"shape": "rod", "particles": 0},
    "ice of 1000 Å": {"shape": "globule", "ice_thickness": 1000.0},
    "ice as a wedge": {"shape": "globule", "ice_gradient": 2.0},
    "a third is carbon": {"shape": "barrel", "carbon": 0.3},
    "nine tenths are carbon": {"shape": "barrel", "carbon": 0.9},
    "a tenth is carbon": {"shape": "globule", "carbon": 0.1},
    "all is carbon": {"shape": "barrel", "carbon": 1.0},
    "barrels, 4 Å/px": {"shape": "barrel", "sampling_rate": 4.0, "particles": 800},
    "globules, 6 Å/px": {"shape": "globule", "sampling_rate": 6.0, "size": (512, 512), "particles": 800},
    "rods, 1 Å/px": {"shape": "rod", "sampling_rate": 1.0},
}
"""Ordinary micrographs: nothing is to be said."""

MADE_BRIGHT = (
    "barrels", "barrels, 8 e/Å²", "barrels, crowded", "barrels, 4 in a micrograph", "barrels, 0.2 µm",
    "barrels, 3.5 µm", "barrels, phase plate", "globules", "globules, crowded, 3 µm", "rods, 3 µm",
    "rods, 5 e/Å², 2 µm", "a tenth is carbon", "a third is carbon", "barrels, 4 Å/px",
)  # fmt: skip
"""Of these, with inverted contrast, too; stain is made of three."""

OVERFOCUS: Dict[str, Options] = {
    "barrels, overfocus": {"shape": "barrel", "defocus": -1.5},
    "globules, overfocus": {"shape": "globule", "defocus": -2.0},
}

Kind = Tuple[str, Tuple[str, ...]]
"""What a micrograph is, and the words for what is to be said of it."""


EXPECTED: Dict[str, Kind] = {
    **dict.fromkeys(OVERFOCUS, ("overfocus", ("bright",))),
    "ice as a wedge": ("wedge of ice", ("gradient",)),
}
"""What is not ordinary of them."""


# ---------------------------------------------------------------------- micrographs
def simulated(folder: Path, options: Options, seed: int) -> Tuple[List[np.ndarray], List[np.ndarray], float]:
    """Return what the camera counted, and the truth, of `N` micrographs, and their A/px."""
    chosen: Options = {
        "size": (SIDE, SIDE), "sampling_rate": RATE, "dose_per_frame": 20.0, "particles": 100, "defocus_spread": 0.3,
    }  # fmt: skip
    chosen.update(options)
    config = SimulateMoviesConfig(
        output=str(folder), movies=N, frames=2, drift=0.0, gain_spread=0.0, dead_pixels=0, hot_pixels=0, seed=seed,
        **chosen,
    )  # fmt: skip
    simulate_movies(config)
    counts = []
    for path in sorted((folder / "movies").glob("*.mrc*")):
        with mrcfile.open(path) as file:
            counts.append(file.data.sum(axis=0, dtype=np.float32))
    truths = [read_micrograph(path)[0] for path in sorted((folder / "truth").glob("*.mrc"))]
    return counts, truths, chosen["sampling_rate"]


def inverted(image: np.ndarray) -> np.ndarray:
    """Return an image with the other contrast."""
    return image.max() - image


def stained(truth: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Return what particles that exclude stain would look like, of 30 e/A^2: strong and bright, in grains."""
    body = scipy.ndimage.gaussian_filter(truth.mean() - truth, 8.0 / rate)
    grain = scipy.ndimage.gaussian_filter(rng.standard_normal(truth.shape), 7.0 / rate)
    clean = 1 + 0.4 * body / np.percentile(body, 99.8) + 0.04 * grain / grain.std()
    return rng.poisson(np.clip(clean, 0, None) * 0.6 * 30 * rate**2).astype(np.float32)


def deviation(image: np.ndarray, rate: float) -> float:
    """Return about what an image's deviation is at the pixel size of the general model."""
    block = max(1, round(4.0 / rate))
    cut = image[: image.shape[0] // block * block, : image.shape[1] // block * block]
    return float(cut.reshape(len(cut) // block, block, -1, block).mean((1, 3)).std())


def tilted(image: np.ndarray, rate: float, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return an image upon a plane that makes that share of its variance."""
    rows, columns = (np.linspace(-1, 1, side) for side in image.shape)
    image = image - rows[:, None] * (image.mean(axis=1) @ rows) / (rows @ rows)  # its own one could hide the other
    image = image - columns * (image.mean(axis=0) @ columns) / (columns @ columns)
    angle = rng.uniform(0, 2 * np.pi)
    plane = np.sin(angle) * rows[:, None] + np.cos(angle) * columns[None]
    return (image + plane / plane.std() * deviation(image, rate) * (share / (1 - share)) ** 0.5).astype(np.float32)


def vignetted(image: np.ndarray, rate: float, share: float) -> np.ndarray:
    """Return an image whose middle is brighter, by that share of its variance."""
    rows, columns = (np.linspace(-1, 1, side) for side in image.shape)
    beam = np.exp(-(rows[:, None] ** 2 + columns[None] ** 2))
    return (image + beam / beam.std() * deviation(image, rate) * (share / (1 - share)) ** 0.5).astype(np.float32)


def as_bytes(image: np.ndarray) -> np.ndarray:
    """Return an image in 256 grey values from its 0.1 to its 99.9 percentile."""
    low, high = np.percentile(image, (0.1, 99.9))
    return np.rint(255 * np.clip((image - low) / (high - low), 0, 1)).astype(np.uint8)


Change = Callable[[np.ndarray], np.ndarray]


def changes(rate: float, rng: np.random.Generator) -> Dict[Kind, Change]:
    """Return what is done to ordinary micrographs: kind -> what is made of one."""
    few = round(64 * max(1.0, 4.0 / rate))  # 64 px of the model
    return {
        ("mean zero", ()): lambda image: image - image.mean(),
        ("256 grey values", ()): as_bytes,
        ("plane, 5 %", ()): lambda image: tilted(image, rate, 0.05, rng),
        ("plane, 15 %", ()): lambda image: tilted(image, rate, 0.15, rng),
        ("plane, 35 %", ("gradient",)): lambda image: tilted(image, rate, 0.35, rng),
        ("plane, 80 %", ("gradient",)): lambda image: tilted(image, rate, 0.8, rng),
        ("bright in the middle, 50 %", ("gradient",)): lambda image: vignetted(image, rate, 0.5),
        ("bright, plane of 60 %", ("bright", "gradient")): lambda image: tilted(inverted(image), rate, 0.6, rng),
        ("64 px", ("tiny",)): lambda image: image[:few, :few],
    }


def sets(folder: Path, options: argparse.Namespace) -> Iterator[Tuple[str, Kind, List[np.ndarray], float]]:
    """Yield name, kind, micrographs and A/px of every set."""
    rng = np.random.default_rng(options.seed)
    for number, (name, chosen) in enumerate({**ORDINARY, **OVERFOCUS}.items()):
        if options.only not in name:
            continue
        images, truths, rate = simulated(folder / f"simulated_{number}", chosen, options.seed + number)
        yield name, EXPECTED.get(name, ("ordinary", ())), images, rate
        if name in MADE_BRIGHT:
            yield name, ("inverted", ("bright",)), [inverted(image) for image in images], rate
        if name in ("barrels", "globules", "rods, 3 µm"):
            yield name, ("stained", ("stain",)), [stained(truth, rate, rng) for truth in truths], rate
            for kind, change in changes(rate, rng).items():
                yield name, kind, [change(image) for image in images], rate

    for given in options.real:
        path, _, pixel_size = given.partition("@")
        image, known = read_micrograph(Path(path))
        rate = float(pixel_size or known or 0)
        image = image.astype(np.float32)
        yield Path(path).name, ("ordinary", ()), [image], rate
        yield Path(path).name, ("inverted", ("bright",)), [inverted(image)], rate
        for kind, change in changes(rate, rng).items():
            yield Path(path).name, kind, [change(image)], rate


# ---------------------------------------------------------------------- what is said of them
class Recorder(Looks):
    """Remembers what was measured and said."""

    looks: List[Look] = []
    said: List[Problem] = []

    def add(self, look: Look) -> List[Problem]:
        """Take note of a micrograph."""
        new = super().add(look)
        self.looks.append(look)
        self.said.extend(new)
        return new


def judged(images: Sequence[np.ndarray], rate: float, folder: Path) -> Tuple[List[Look], List[str]]:
    """Denoise micrographs by the general model; return what was measured, and the words for what was said."""
    Recorder.looks, Recorder.said = [], []
    for number, image in enumerate(images):
        write_image(folder / "in" / f"{number}.mrc", np.ascontiguousarray(image), rate)
    denoising.denoise_micrographs(
        DenoiseConfig(micrographs=(str(folder / "in"),), output=str(folder / "out"), device="cpu")
    )
    return Recorder.looks, [WORDS[problem.message] for problem in Recorder.said]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", nargs="*", default=[], help="ordinary micrographs, PATH or PATH@A/px")
    parser.add_argument("--only", default="", help="simulated sets with this in their name")
    parser.add_argument("--seed", type=int, default=7001)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    denoising.Looks = Recorder  # type: ignore[misc]

    tally: Dict[Kind, Counter] = {}
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number, (name, kind, images, rate) in enumerate(sets(folder, options)):
            place = folder / f"set_{number}"
            (place / "in").mkdir(parents=True)
            looks, said = judged(images, rate, place)
            medians = {key: statistics.median(asdict(look)[key] for look in looks) for key in asdict(looks[0])}
            if kind[0] == "inverted":  # where contrast is strong the sentence of stain speaks of inversion, too
                said = [word.replace("stain", "bright") for word in said]
            is_right = set(said) == set(kind[1])
            rows.append({"set": name, "kind": kind[0], "said": said, "right": is_right, **medians})
            counted = tally.setdefault(kind, Counter())
            counted["sets"] += 1
            counted["missed"] += bool(set(kind[1]) - set(said))
            counted["false alarm"] += bool(set(said) - set(kind[1]))
            print(
                f"{'    ' if is_right else '!!! '}{name:34} {kind[0]:28} {' '.join(said) or '-':16}"
                + " ".join(f"{key} {value:.3g}" for key, value in medians.items()),
                flush=True,
            )

    print("\n| micrographs | to be said | sets | missed | something else said |\n|---|---|---|---|---|")
    for (kind_name, words), counted in tally.items():
        numbers = " | ".join(str(counted[key]) for key in ("sets", "missed", "false alarm"))
        print(f"| {kind_name} | {' and '.join(words)} | {numbers} |")
    thresholds = {
        name: value for name, value in vars(unusual_micrographs).items() if name.isupper() and isinstance(value, float)
    }
    print(json.dumps({"thresholds": thresholds, "sets": rows}))


if __name__ == "__main__":
    main()
