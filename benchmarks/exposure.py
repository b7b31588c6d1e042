"""How good training is on one real exposure at full resolution, and what each choice of the recipe is worth.

The demo's exposure (see demo/thinned_frames.py) is thinned into two halves; rows above 2816 are trained on, the rest is
held out. Prints R2_corr on the held-out rows in three bands for every variant, and a JSON object as the last line.

Usage: python benchmarks/exposure.py MICROGRAPH [--minutes 0.75] [--only NAME...]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "demo"))
from thinned_frames import SAMPLING_RATE, electron_counts, thin

from cryoden.config import DenoiseConfig, TrainConfig
from cryoden.data.pairs import HalfPair
from cryoden.formats.mrc import write_image
from cryoden.model.denoising import load_predictor
from cryoden.model.devices import pick_device
from cryoden.model.training import Trainer
from cryoden.model.validation import measure_covariance
from cryoden.quality.baselines import best_gaussian_width, gaussian_transfer
from cryoden.quality.metrics import RingCovariance, score

FIRST_HELD_OUT_ROW = 2816
BANDS_A = ((300.0, 8.0), (300.0, 20.0), (20.0, 8.0))

VARIANTS: Dict[str, Dict[str, Any]] = {
    "default": {},
    "float32": {"precision": "float32"},
    "compiled": {"compile": "yes"},
    "not compiled": {"compile": "no"},
    "crop 256, batch 16": {"crop": 256, "batch_size": 16},
    "crop 1024, batch 4": {"crop": 1024, "batch_size": 4},
    "batch 16": {"batch_size": 16},
    "lr 3e-4": {"lr": 3e-4},
    "lr 3e-3": {"lr": 3e-3},
    "ema 0": {"ema": 0.0},
    "ema 0.999": {"ema": 0.999},
    "4 levels of 64-512": {"channels": (64, 128, 256, 512)},
    "5 levels": {"channels": (32, 64, 128, 256, 512)},
    "3 levels": {"channels": (32, 64, 128)},
    "4 levels of 16-128": {"channels": (16, 32, 64, 128)},
    "cnn3": {"network": "cnn3"},
    "p95": {"normalization": "p95"},
    "grid crops": {"crops": "grid"},
    "ema 0.999, lr 3e-3": {"ema": 0.999, "lr": 3e-3},
    "5 levels of 16-256": {"channels": (16, 32, 64, 128, 256)},
}


def r2_corr(covariance: RingCovariance) -> list:
    """Return R2_corr in every band."""
    return [round(score(covariance.in_band(band)).r2_corr, 4) for band in BANDS_A]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("micrograph", type=Path)
    parser.add_argument("--minutes", type=float, default=0.75)
    parser.add_argument("--only", nargs="*", choices=VARIANTS)
    parser.add_argument("--min-batches", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = electron_counts(options.micrograph)
        for half, image in zip(("odd", "even"), thin(counts, 2, np.random.default_rng(1))):
            write_image(folder / f"{half}.mrc", image.astype(np.float32), SAMPLING_RATE)
        shape = (counts.shape[0], counts.shape[1])
        whole = HalfPair("exposure", str(folder / "odd.mrc"), str(folder / "even.mrc"), shape, SAMPLING_RATE, shape)
        training = replace(whole, name="training", rows=(0, FIRST_HELD_OUT_ROW))
        held_out = replace(whole, name="held out", rows=(FIRST_HELD_OUT_ROW, shape[0]))
        device = pick_device("auto")
        halves = {part.name: torch.from_numpy(part.load().halves).float().to(device) for part in (training, held_out)}

        def covariance(part: HalfPair, predictions: torch.Tensor) -> RingCovariance:
            return measure_covariance(halves[part.name], predictions, SAMPLING_RATE)

        plain = covariance(training, halves["training"])
        raw = covariance(held_out, halves["held out"])
        blur = gaussian_transfer(raw.frequency, best_gaussian_width(plain))
        table: Dict[str, Any] = {"raw": r2_corr(raw), "best Gaussian": r2_corr(raw.filtered(blur))}
        for row in table:
            print(f"{row:28} {table[row]}", flush=True)
        for variant in options.only or VARIANTS:
            changes = dict(VARIANTS[variant])
            minutes, output = options.minutes, folder / variant.replace(" ", "_")
            output.mkdir()
            base = TrainConfig(odd="", even="", output=str(output), minutes=minutes, min_batches=options.min_batches)
            config = replace(base, **changes)
            started = time.monotonic()
            trainer = Trainer(config, [training], [held_out], {}, device)
            trainer.run()
            seconds = time.monotonic() - started
            model = str(trainer.result().model)
            for quality in ("fast", "best"):
                denoise = DenoiseConfig(micrographs=("-",), model=model, output="-", quality=quality)
                _, predictor = load_predictor(model, denoise)
                predictions = torch.stack([predictor(half) for half in halves["held out"]])
                table[f"{variant}, {quality}"] = r2_corr(covariance(held_out, predictions))
            progress = trainer.progress
            last = progress.records[-1]
            scores = f"{table[variant + ', fast']} 8 views {table[variant + ', best']}"
            print(
                f"{variant:24} {scores}  best epoch {progress.best_epoch}/{progress.epoch}, R2 best "
                f"{progress.best_r2:.3f} last {last['r2']:.3f}, {progress.step} steps, {seconds:.0f} s, "
                f"{last['crops_per_second']:.0f} crops/s",
                flush=True,
            )
    print(json.dumps(table))


if __name__ == "__main__":
    main()
