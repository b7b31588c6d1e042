"""How good training is on one real exposure at full resolution, and what each option of the training is worth.

The demo's exposure (see demo/thinned_frames.py) is thinned into two halves; rows above 2816 are trained on, the rest is
held out. Prints R2_corr on the held-out rows in three bands for every variant, and a JSON object as the last line.

Variants whose names begin with "swap", "ring" or "decay" try what the library does not offer: halves exchanged in
random squares of that many pixels instead of whole crops, a loss that weights the rings beyond 8 A less, decay of the
weights.

Usage: python benchmarks/exposure.py MICROGRAPH [--minutes 0.75 | --epochs 20] [--times 10] [--only NAME...]
"""

from __future__ import annotations

import argparse
import itertools
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
from thinned_frames import SAMPLING_RATE, electron_counts

from cryoden.config import TrainConfig
from cryoden.data.pair_reader import load_pair
from cryoden.data.pairs import HalfPair
from cryoden.formats import outputs
from cryoden.formats.mrc import write_image
from cryoden.metrics.linear_filters import best_gaussian_width, gaussian_transfer
from cryoden.metrics.ring_covariance import RingCovariance, score
from cryoden.model.denoiser import Denoiser
from cryoden.model.devices import pick_device
from cryoden.model.training import fit
from cryoden.model.training_data import TrainingData
from cryoden.model.training_setup import set_up
from cryoden.model.training_state import OptimizationStep
from cryoden.model.validation import measure_covariance
from cryoden.movies.thinning import thin

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
    "4 levels of 32-256": {"channels": (32, 64, 128, 256)},
    "5 levels": {"channels": (32, 64, 128, 256, 512)},
    "3 levels": {"channels": (32, 64, 128)},
    "4 levels of 16-128": {"channels": (16, 32, 64, 128)},
    "cnn3": {"network": "cnn3"},
    "p95": {"normalization": "p95"},
    "grid crops": {"crops": "grid"},
    "ema 0.999, lr 3e-3": {"ema": 0.999, "lr": 3e-3},
    "5 levels of 16-256": {"channels": (16, 32, 64, 128, 256)},
    "6 levels": {"channels": (32, 64, 128, 256, 512, 512)},
    "6 levels of 16-512": {"channels": (16, 32, 64, 128, 256, 512)},
    "6 levels of 32-256": {"channels": (32, 64, 128, 256, 256, 256)},
    "7 levels of 32-256": {"channels": (32, 64, 128, 256, 256, 256, 256)},
    "6 levels of 48-384": {"channels": (48, 96, 192, 384, 384, 384)},
    "lr 5e-4": {"lr": 5e-4},
    "crop 768": {"crop": 768, "batch_size": 4},
    "crop 1024, batch 2": {"crop": 1024, "batch_size": 2},
    "batch 4": {"batch_size": 4},
    "5 levels, lr 5e-4": {"channels": (32, 64, 128, 256, 512), "lr": 5e-4},
    "5 levels, batch 16": {"channels": (32, 64, 128, 256, 512), "batch_size": 16},
    "5 levels, crop 1024, batch 4": {"channels": (32, 64, 128, 256, 512), "crop": 1024, "batch_size": 4},
    "5 levels, swap 32, ring loss": {"channels": (32, 64, 128, 256, 512), "swap": 32, "ring_floor": 0.05},
    "5 levels of 48-768": {"channels": (48, 96, 192, 384, 768)},
    "swap 1": {"swap": 1},
    "swap 8": {"swap": 8},
    "swap 32": {"swap": 32},
    "swap 128": {"swap": 128},
    "ring loss": {"ring_floor": 0.05},
    "decay 0.1": {"decay": 0.1},
    "swap 8, ring loss": {"swap": 8, "ring_floor": 0.05},
    "swap 32, ring loss": {"swap": 32, "ring_floor": 0.05},
    "swap 8, ema 0.999": {"swap": 8, "ema": 0.999},
    "swap 8, ema 0.999, lr 3e-3": {"swap": 8, "ema": 0.999, "lr": 3e-3},
    "swap 8, 4 levels of 64-512": {"swap": 8, "channels": (64, 128, 256, 512)},
    "swap 8, 5 levels": {"swap": 8, "channels": (32, 64, 128, 256, 512)},
    "swap 8, 5 levels of 16-256": {"swap": 8, "channels": (16, 32, 64, 128, 256)},
    "swap 8, lr 3e-3": {"swap": 8, "lr": 3e-3},
    "swap 8, crop 256, batch 32": {"swap": 8, "crop": 256, "batch_size": 32},
}
"""What differs from the defaults: options, and the trials of `Trial`."""


class Trial(OptimizationStep):
    """A step with what the library does not offer."""

    swap = 0
    """Side in pixels of the squares in which the halves are exchanged at random; 0: whole crops."""

    ring_floor = 1.0
    """Weight of the rings far beyond 8 A in the loss; at low frequencies it is 1."""

    decay = 0.0
    """Decay of the weights: share lost per step, in units of the learning rate."""

    sampling_rate = SAMPLING_RATE
    """A/px."""

    def __call__(self, inputs: torch.Tensor, targets: torch.Tensor, learning_rate: float) -> torch.Tensor:
        """Learn from one batch whose halves are exchanged in squares; weights shrink first."""
        if self.swap:
            is_swapped = self._squares(inputs)
            inputs, targets = torch.where(is_swapped, targets, inputs), torch.where(is_swapped, inputs, targets)
        if self.decay:
            with torch.no_grad():
                torch._foreach_mul_(list(self.state.network.parameters()), 1 - self.decay * learning_rate)
        return super().__call__(inputs, targets, learning_rate)

    def _squares(self, inputs: torch.Tensor) -> torch.Tensor:
        shape = inputs.shape
        side, n = self.swap, shape[-1] // self.swap + 2
        squares = torch.rand((shape[0], 1, n, n), device=inputs.device) < 0.5
        y, x = torch.randint(0, side, (2,)).tolist()
        pixels = squares.repeat_interleave(side, 2).repeat_interleave(side, 3)
        return pixels[..., y : y + shape[-2], x : x + shape[-1]]

    def loss(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error, weighted by ring."""
        if self.ring_floor == 1.0:
            return super().loss(predictions, targets)
        n_rows, n_columns = targets.shape[-2:]
        rows, columns = torch.fft.fftfreq(n_rows), torch.fft.rfftfreq(n_columns)
        radius = torch.hypot(rows[:, None], columns[None, :]).to(targets.device) * 8.0 / self.sampling_rate
        weight = self.ring_floor + (1 - self.ring_floor) / (1 + radius**4)
        power = torch.fft.rfft2(predictions - targets, norm="ortho").abs().square()
        twice = torch.full((columns.numel(),), 2.0, device=targets.device)
        twice[0] = twice[-1] = 1.0
        return (power * weight * twice).sum() / targets.numel()


def r2_corr(covariance: RingCovariance) -> list:
    """Return R2_corr in every band."""
    return [round(score(covariance.in_band(band)).r2_corr, 4) for band in BANDS_A]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("micrograph", type=Path)
    parser.add_argument("--minutes", type=float, default=0.75)
    parser.add_argument("--epochs", type=int, help="train for so many epochs instead of a time")
    parser.add_argument("--times", type=float, default=1.0, help="repeat every variant so many times longer")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1])
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
        halves = {part.name: load_pair(part).halves.to(device).float() for part in (training, held_out)}

        def covariance(part: HalfPair, predictions: torch.Tensor) -> RingCovariance:
            return measure_covariance(halves[part.name], predictions, SAMPLING_RATE)

        plain = covariance(training, halves["training"])
        raw = covariance(held_out, halves["held out"])
        blur = gaussian_transfer(raw.frequency, best_gaussian_width(plain))
        table: Dict[str, Any] = {"raw": r2_corr(raw), "best Gaussian": r2_corr(raw.filtered(blur))}
        for row in table:
            print(f"{row:28} {table[row]}", flush=True)
        lengths = [1.0] if options.times == 1 else [1.0, options.times]
        for name, times, seed in itertools.product(options.only or VARIANTS, lengths, options.seeds):
            changes = dict(VARIANTS[name])
            trials = {key: changes.pop(key) for key in ("swap", "ring_floor", "decay") if key in changes}
            variant = (
                name + (f", {times:g} times longer" if times != 1 else "") + (f", seed {seed}" if seed > 1 else "")
            )
            output = folder / variant.replace(" ", "_")
            output.mkdir()
            base = TrainConfig(
                odd=whole.odd, even=whole.even, output=str(output), min_batches=options.min_batches, seed=seed,
                minutes=None if options.epochs else options.minutes * times,
                epochs=round((options.epochs or 1) * times),
            )  # fmt: skip
            config = replace(base, **changes)
            started = time.monotonic()
            data = TrainingData([training], [held_out], {})
            setup = set_up(config, data, device, step_class=type("Trial", (Trial,), trials))
            fit(setup)
            seconds = time.monotonic() - started
            model = str(output / outputs.MODEL)
            for quality in ("fast", "best"):
                predictor = Denoiser.load(model, quality=quality).predictor
                predictions = torch.stack([predictor(half) for half in halves["held out"]])
                table[f"{variant}, {quality}"] = r2_corr(covariance(held_out, predictions))
            progress = setup.state.progress
            last = progress.records[-1]
            scores = f"{table[variant + ', fast']} 8 views {table[variant + ', best']}"
            print(
                f"{variant:28} {scores}  best epoch {progress.best_epoch}/{progress.epoch}, R2 best "
                f"{progress.best_r2:.3f} last {last['r2']:.3f}, {progress.step} steps, {seconds:.0f} s, "
                f"{last['crops_per_second']:.0f} crops/s",
                flush=True,
            )
    print(json.dumps(table))


if __name__ == "__main__":
    main()
