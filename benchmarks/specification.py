"""The specification's figures, one command each, with the same done the plain way beside it.

A figure is measured by its name: `python benchmarks/specification.py reader`. Beside cryoden's own number stands that
of the plain way: NumPy and mrcfile (`plain.py`) or eager PyTorch in float32 with default Adam (`training.py`), which
compute the same. The table and, last, one JSON object are printed; docs/specification.md says where each system is.

On a GPU the sizes are those of the specification, on a CPU smaller ones where it would take long; the table names them.
Commands are timed as processes, with their start; their memory is the most that was resident.

Usage: python benchmarks/specification.py [FIGURE...] [--device cuda|cpu] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import memory_modes
import mrcfile
import numpy as np
import plain
import torch
import training
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn

from cryoden.config.exchange import PatchesExportConfig
from cryoden.data.normalize import Normalization, measure_scale
from cryoden.exchange.patch_plan import patch_places
from cryoden.exchange.verification import compute
from cryoden.formats import outputs
from cryoden.formats.images import read_micrograph
from cryoden.formats.mrc import write_image
from cryoden.formats.training_folder import read_log
from cryoden.metrics.psnr_ssim import psnr_rows, ssim_rows
from cryoden.model.devices import pick_device
from cryoden.model.networks import build_network

MICROGRAPHS, SHAPE = 196, (7420, 7676)
ELECTRONS_PER_PX = 46.0
"""Of a half of EMPIAR-10025, at 1.3 A/px."""

MB, GIB = 1e6, 1 << 30


@dataclass(frozen=True)
class Row:
    """One line of the table: what the specification says, and what was measured."""

    what: str
    specification: str
    cryoden: str
    plain: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)}; default: all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shape", type=int, nargs=2, default=SHAPE, help="of the micrographs and frames")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--pairs", type=int, help="of halves (default: 20 on a GPU, 10 on a CPU)")
    parser.add_argument("--crop", type=int, help="of the U-Net's training (default: 1024 on a GPU, 256 on a CPU)")
    parser.add_argument("--folder", help="on the disk to measure (default: a temporary folder)")
    options = parser.parse_args()
    unknown = set(options.figures).difference(FIGURES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")

    device = pick_device(options.device)
    options.is_gpu = device.type == "cuda"
    options.pairs = options.pairs or (20 if options.is_gpu else 10)
    options.crop = options.crop or (1024 if options.is_gpu else 256)
    place = torch.cuda.get_device_name(device) if options.is_gpu else f"{os.cpu_count()} CPU cores"
    print(f"{place}, PyTorch {torch.__version__}\n")
    print("| figure | | specification | cryoden | plain |\n|---|---|---|---|---|")

    result: Dict[str, Any] = {"place": place, "torch": torch.__version__}
    for name in options.figures or FIGURES:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rows = FIGURES[name](Path(folder), options, device)
        for row in rows:
            print(f"| {name} | {row.what} | {row.specification} | {row.cryoden} | {row.plain} |", flush=True)
        result[name] = [asdict(row) for row in rows]
    print(json.dumps(result))


# ---------------------------------------------------------------------- files
def reader(folder: Path, options: argparse.Namespace, device: torch.device) -> List[Row]:
    """Read a float32 micrograph from the page cache; beside it, mrcfile."""
    write_image(folder / "one.mrc", np.random.default_rng(1).random(options.shape, np.float32), 1.3)
    ours, theirs = [], []
    for _ in range(5):
        ours.append(seconds_of(lambda: read_micrograph(folder / "one.mrc")))
        theirs.append(seconds_of(lambda: mrcfile.read(folder / "one.mrc")))
    n_bytes = 4 * math.prod(options.shape)
    rates = [f"{n_bytes / statistics.median(seconds) / 1e9:.2f} GB/s" for seconds in (ours, theirs)]
    return [Row(f"one MRC file of {by(options.shape)} px, cached", "reads it", *rates)]


def splitter(folder: Path, options: argparse.Namespace, device: torch.device) -> List[Row]:
    """Split one movie of counts by the command; beside it, NumPy with the movie in memory."""
    rng = np.random.default_rng(1)
    with mrcfile.new_mmap(folder / "movie.mrcs", (options.frames, *options.shape), mrc_mode=0) as movie:
        for frame in movie.data:
            frame[:] = rng.poisson(1.0, options.shape)
    words = ["--hot-pixels", "off", "--sampling-rate", 1.3, "--output", folder / "ours"]
    ours = run_command("halves", folder / "movie.mrcs", *words)
    theirs = run_plain("split", folder / "movie.mrcs", folder / "plain")

    difference = 0.0
    for half in ("odd", "even"):
        images = [mrcfile.read(folder / who / half / "movie.mrc") for who in ("ours", "plain")]
        difference = max(difference, float(np.abs(images[0] - images[1]).max()))
    what = f"{options.frames} frames of {by(options.shape)} px, one byte each"
    return [
        Row(f"{what}: time", "-", f"{ours[0]:.1f} s", f"{theirs[0]:.1f} s"),
        Row("the same: memory", "286 MB, any size", f"{ours[1]:.0f} MB", f"{theirs[1]:.0f} MB"),
        Row("largest difference from the plain sums", "0", f"{difference:g}", "0"),
    ]


def patches(folder: Path, options: argparse.Namespace, device: torch.device) -> List[Row]:
    """Write patch files of two pairs by the command; beside it, NumPy with whole micrographs in memory."""
    rng = np.random.default_rng(1)
    for half in ("odd", "even"):
        (folder / half).mkdir()
        for number in range(2):
            counts = rng.poisson(ELECTRONS_PER_PX, options.shape).astype(np.float32)
            write_image(folder / half / f"micrograph_{number}.mrc", counts + shared_signal(options.shape, number), 1.3)
    halves = (folder / "odd", folder / "even")
    ours = run_command("patches", "export", "--odd", halves[0], "--even", halves[1], "--output", folder / "ours")
    theirs = run_plain("export", *halves, folder / "plain")

    image = read_micrograph(folder / "odd" / "micrograph_0.mrc")[0]
    scale = measure_scale(image, Normalization("p95")).percentile
    exact = float(np.percentile(image[image > 0], 95))
    n = math.prod(map(len, patch_places(options.shape, plain.PATCH, plain.STRIDE, edges=False)))
    n_test = round(MICROGRAPHS * PatchesExportConfig.default_of("validation"))
    n_bytes = 4 * plain.PATCH**2
    sizes = [f"{count * n * n_bytes / GIB:.1f}" for count in (MICROGRAPHS - n_test, n_test)]
    return [
        Row("patches of 1024 px in a micrograph, stride 512", "150-169", f"{n}", f"{n}"),
        Row(f"of {MICROGRAPHS} micrographs, for training", "29,913", f"{(MICROGRAPHS - n_test) * n:,}", "-"),
        Row("their four files, GiB", "117 + 117 + 12.5 + 12.5", " + ".join(2 * sizes[:1] + 2 * sizes[1:]), "-"),
        Row("95th percentile, error", "-", f"{abs(scale / exact - 1):.1e}", "0"),
        Row("preprocessing of 2 pairs: memory", "286 MB, any size", f"{ours[1]:.0f} MB", f"{theirs[1]:.0f} MB"),
        Row("the same: time", "45 min for 196 files", f"{ours[0]:.1f} s", f"{theirs[0]:.1f} s"),
    ]


def pairs(folder: Path, options: argparse.Namespace, device: torch.device) -> List[Row]:
    """Write synthetic pairs; the plain way is NumPy's normal distribution."""
    rows = []
    for sigma in (0.1, 0.2):
        out = folder / f"{sigma}"
        run_command("simulate", "pairs", "--sigma", sigma, "--pairs", 1, "--output", out)
        noise = read_only(out / "odd") - read_only(out / "clean")
        normal = np.random.default_rng(1).normal(0, sigma, noise.shape)
        deviations = [f"{values.std():.4f}" for values in (noise, normal)]
        rows.append(Row(f"deviation of the noise, sigma {sigma}", f"{sigma}", *deviations))
    return rows


# ---------------------------------------------------------------------- loading and speed
def modes(folder: Path, options: argparse.Namespace, device: torch.device) -> List[Row]:
    """Train an epoch in either memory mode; beside each, plain PyTorch with a tensor or a DataLoader."""
    small = ["--steps", "24"]
    large = ["--shape", *map(str, SHAPE), "--crop", "1024", "--batch", "8", "--window", "1", "--network", "unet"]
    words = [sys.executable, memory_modes.__file__, "--pairs", str(options.pairs), "--device", device.type]
    words += ["--folder", str(folder), *(large if options.is_gpu else small)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    results = json.loads(done.stdout.splitlines()[-1])
    asked = {
        "startup_s": ("30 s", "< 1 s"), "wait_ms": ("0 ms", "50 ms"), "samples_per_s": ("100-150", "80-100"),
        "gpu_use": ("90 %", "85 %"), "gpu_gib": ("about 4 GB", "about 4 GB"), "host_gib": ("-", "< 1 GB"),
    }  # fmt: skip
    rows = []
    for number, mode in enumerate(memory_modes.MODES):
        ours, theirs = results[mode], results[f"plain {mode}"]
        for key, (title, form) in memory_modes.ROWS.items():
            if key in ours and key in asked:
                values = [form.format(row[key]) for row in (ours, theirs)]
                rows.append(Row(f"{mode}: {title}", asked[key][number], *values))
    return rows


def unet(folder: Path, options: argparse.Namespace, device: torch.device) -> List[Row]:
    """Train the U-Net 32-64-128-256 in batches of 4; beside it, the same in eager PyTorch."""
    ours, theirs = step_figures("unet of 4 levels", options.crop, folder, device)
    what = f"U-Net 32-64-128-256, crops of {options.crop} px"
    rates = [row["crops_per_second"] for row in (ours, theirs)]
    rows = [
        Row(f"{what}: samples/s", "100-150", f"{rates[0]:.2f}", f"{rates[1]:.2f}"),
        Row("against plain PyTorch", "2-3 times", f"{rates[0] / rates[1]:.2f}", "1"),
    ]
    if options.is_gpu:
        memory = [f"{row['gpu_peak_gb']:.1f} GB" for row in (ours, theirs)]
        rows.append(Row("GPU memory, batch of 4", "about 4 GB, at most 8", *memory))
    return rows


def cnn3(folder: Path, options: argparse.Namespace, device: torch.device) -> List[Row]:
    """Train the CNN3 in batches of 4 crops of 1024 px; beside it, the same in eager PyTorch."""
    counts = [sum(p.numel() for p in network.parameters()) for network in (build_network("cnn3"), textbook_cnn3())]
    ours, theirs = step_figures("cnn3", 1024, folder, device)
    rates = [row["crops_per_second"] / 4 for row in (ours, theirs)]
    n_batches = math.ceil(29913 / 4)
    rows = [
        Row("CNN3: parameters", "2,625", *(f"{count:,}" for count in counts)),
        Row("batches of 4 of 1024 px a second", "12.7-13.97 (RTX 4060)", *(f"{rate:.2f}" for rate in rates)),
        Row("an epoch of 29,913 patches, from that", "535-600 s", *(f"{n_batches / rate:,.0f} s" for rate in rates)),
        Row("against plain PyTorch", "2-3 times", f"{rates[0] / rates[1]:.2f}", "1"),
    ]
    if options.is_gpu:
        memory = [f"{row['gpu_peak_gb']:.1f} GB" for row in (ours, theirs)]
        rows.append(Row("GPU memory", "about 2 GB", *memory))
    return rows


def step_figures(name: str, crop: int, folder: Path, device: torch.device) -> Tuple[Dict[str, float], Dict[str, float]]:
    """Return the figures of the library's training step, compiled on a GPU, and of the eager reference."""
    is_gpu = device.type == "cuda"
    options = argparse.Namespace(crop=crop, batch=4, steps=40 if is_gpu else 1, repeats=3)
    training.write_halves(folder, crop)
    theirs = training.measure_eager(name, options, device)
    return training.measure_library(name, "yes" if is_gpu else "no", 4, folder, options, device), theirs


def textbook_cnn3() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 1, 3, padding=1),
    )  # fmt: skip


# ---------------------------------------------------------------------- quality and verification
def loss(folder: Path, options: argparse.Namespace, device: torch.device) -> List[Row]:
    """Train the CNN3 for five epochs on counts of 46 electrons per pixel, scaled by p95; beside it, eager PyTorch.

    cryoden's loss is of values that were standardised after the scaling, so it is multiplied by their variance.
    """
    side, n_pairs, epochs, n_batches, crop = 512, 8, 5, 60, 128
    run_command(
        "simulate", "pairs", "--noise", "poisson", "--dose", ELECTRONS_PER_PX, "--pairs", n_pairs,
        "--size", side, side, "--output", folder / "data",
    )  # fmt: skip
    run_command(
        "train", "--odd", folder / "data" / "odd", "--even", folder / "data" / "even", "--network", "cnn3",
        "--normalization", "p95", "--sampling-rate", "full", "--crop", crop, "--batch-size", 4, "--epochs", epochs,
        "--patience", 0, "--min-batches", n_batches, "--max-batches", n_batches, "--device", device.type,
        "--output", folder / "model",
    )  # fmt: skip
    halves = [[plain.scaled(mrcfile.read(path)) for path in sorted((folder / "data" / half).glob("*.mrc"))]
              for half in ("odd", "even")]  # fmt: skip
    images = torch.from_numpy(np.stack(halves, axis=1).astype(np.float32))
    variance = float(images.var())
    ours = [variance * epoch["loss"] for epoch in read_log(folder / "model" / outputs.LOG) if epoch["loss"] is not None]
    first, theirs = train_plainly(images.to(device), epochs, n_batches, crop)

    floor = float(((images[:, 0] - images[:, 1]) ** 2).mean()) / 2
    formula = 1 / (math.sqrt(ELECTRONS_PER_PX) + 1.645) ** 2
    return [
        Row("loss of the first step", "0.44", "-", f"{first:.3f}"),
        Row("after the first epoch", "0.07", f"{ours[0]:.4f}", f"{theirs[0]:.4f}"),
        Row("after five epochs", "0.013", f"{ours[-1]:.4f}", f"{theirs[-1]:.4f}"),
        Row("a constant image", "-", f"{variance:.4f}", ""),
        Row("noise floor: half of the mean square of odd - even", "0.013-0.02", f"{floor:.4f}", ""),
        Row("the same from the electrons per pixel", "-", f"{formula:.4f}", ""),
    ]


def train_plainly(images: torch.Tensor, epochs: int, n_batches: int, crop: int) -> Tuple[float, List[float]]:
    """Return the first loss, and the mean of each epoch, of the CNN3 in eager PyTorch; images `(n, 2, y, x)`."""
    torch.manual_seed(1)
    network, rng = textbook_cnn3().to(images.device), np.random.default_rng(1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(epochs * n_batches):
        places = zip(rng.integers(len(images), size=4), *rng.integers(images.shape[-1] - crop + 1, size=(2, 4)))
        batch = torch.stack([images[n, :, y : y + crop, x : x + crop] for n, y, x in places])
        value = nn.functional.mse_loss(network(batch[:, :1]), batch[:, 1:])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses[0], [statistics.mean(losses[k * n_batches : (k + 1) * n_batches]) for k in range(epochs)]


def metrics(folder: Path, options: argparse.Namespace, device: torch.device) -> List[Row]:
    """Compute PSNR and SSIM of a Gaussian against a noisy half, with what the noise allows; beside it, scikit-image."""
    run_command(
        "simulate", "pairs", "--noise", "poisson", "--dose", ELECTRONS_PER_PX, "--pairs", 1, "--output", folder / "data"
    )
    odd, even, clean = (read_only(folder / "data" / name).astype(np.float64) for name in ("odd", "even", "clean"))
    scale = float(np.percentile(even[even > 0], 95))
    clean *= even.mean() / clean.mean()
    a, b, truth = (image / scale for image in (odd, even, clean))
    fa, fb = gaussian_filter(a, 3.0), gaussian_filter(b, 3.0)
    ours = {
        "PSNR": psnr_rows(np.cov([image.ravel() for image in (a, b, fa, fb)]), 1.0),
        "SSIM": ssim_rows(a, b, fa, 1.0),
    }
    centre = (slice(256, 768), slice(256, 768))
    compared = {"denoised": fa, "ceiling": truth, "constant": np.full_like(b, b.mean()), "identity": a}
    names = {"denoised": "Gaussian of 3 px", "ceiling": "ceiling: a perfect denoiser", "constant": "constant image",
             "identity": "unprocessed half"}  # fmt: skip
    asked = {"PSNR": "20-21 dB", "SSIM": "> 0.8"}
    rows = []
    for quantity, unit, digits in (("PSNR", " dB", 2), ("SSIM", "", 4)):
        for key, image in compared.items():
            theirs = (
                peak_signal_noise_ratio(b, image, data_range=1.0) if quantity == "PSNR"
                else structural_similarity(b[centre], image[centre], data_range=1.0)
            )  # fmt: skip
            values = [f"{value:.{digits}f}{unit}" for value in (ours[quantity][key], theirs)]
            rows.append(Row(f"{quantity}, {names[key]}", asked[quantity], *values))
    formula = 20 * math.log10(math.sqrt(ELECTRONS_PER_PX) + 1.645)
    rows.append(Row("PSNR, ceiling from the electrons per pixel", "-", f"{formula:.2f} dB", ""))
    return rows


def verification(folder: Path, options: argparse.Namespace, device: torch.device) -> List[Row]:
    """Compare cryoden's networks with textbook ones of the same weights: output, loss, gradients, one step of Adam.

    cryoden computes in double precision, as `cryoden verify` does; the textbook in float32 on the device.
    """
    rows = []
    for name, channels in (("cnn3", ()), ("unet", (32, 64, 128, 256))):
        theirs = training.plain(name, channels).to(device)
        network = build_network(name, channels)
        rng = np.random.default_rng(1)
        inputs, targets = rng.standard_normal((2, 2, 1, 64, 64)).astype(np.float32)
        expected = compute(network, inputs, targets)
        given, wanted = (torch.from_numpy(images).to(device) for images in (inputs, targets))
        predicted = theirs(given)
        value = nn.functional.mse_loss(predicted, wanted)
        value.backward()

        ours = list(network.parameters())
        plain_parameters = list(theirs.parameters())
        gradients = max(map(difference, (p.grad for p in ours), (p.grad for p in plain_parameters)))
        for parameters in (ours, plain_parameters):
            torch.optim.Adam(parameters, lr=1e-3).step()
        again = float(compute(network, inputs, targets)["loss"])
        value_again = nn.functional.mse_loss(theirs(given), wanted).item()
        rows += [
            Row(f"{name}: output", "1e-5", f"{difference(torch.from_numpy(expected['output']), predicted):.1e}", "0"),
            Row(f"{name}: loss", "1e-6", f"{abs(float(expected['loss']) / value.item() - 1):.1e}", "0"),
            Row(f"{name}: gradients", "1e-5", f"{gradients:.1e}", "0"),
            Row(f"{name}: loss after a step of Adam", "1e-6", f"{abs(again / value_again - 1):.1e}", "0"),
        ]
    return rows


def difference(ours: Any, theirs: Any) -> float:
    """Return the largest difference of two tensors, relative to the largest value."""
    a, b = (tensor.detach().double().cpu() for tensor in (ours, theirs))
    return float((a - b).abs().max() / a.abs().max())


FIGURES: Dict[str, Callable[[Path, argparse.Namespace, torch.device], List[Row]]] = {
    "reader": reader, "splitter": splitter, "patches": patches, "pairs": pairs, "modes": modes, "unet": unet,
    "cnn3": cnn3, "loss": loss, "metrics": metrics, "verification": verification,
}  # fmt: skip


# ---------------------------------------------------------------------- helpers
def run_command(*words: object) -> Tuple[float, float]:
    """Run `cryoden WORDS`; return its seconds and the most memory in MB that it had."""
    return run_alone("-m", "cryoden", *words)


def run_plain(*words: object) -> Tuple[float, float]:
    """Run a job of `plain.py` likewise."""
    return run_alone(plain.__file__, *words)


WATCHER = """
import json, resource, subprocess, sys, time
begun = time.monotonic()
status = subprocess.run([sys.executable, *sys.argv[1:]], stdout=2).returncode
seconds = time.monotonic() - begun
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
sys.exit(status)
"""
"""A small process between: the peak of a new process counts from that of the one that made it."""


def run_alone(*words: object) -> Tuple[float, float]:
    done = subprocess.run([sys.executable, "-c", WATCHER, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: {done.stderr}")
    seconds, kibibytes = json.loads(done.stdout)
    return seconds, kibibytes * 1024 / MB


def seconds_of(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def shared_signal(shape: Tuple[int, int], seed: int) -> np.ndarray:
    """Return what both halves of a pair share: blocks of 8 x 8 px."""
    small = np.random.default_rng(100 + seed).standard_normal([-(-side // 8) for side in shape], np.float32)
    return 2 * np.kron(small, np.ones((8, 8), np.float32))[: shape[0], : shape[1]]


def read_only(folder: Path) -> np.ndarray:
    """Return the only image of a folder."""
    (path,) = folder.glob("*.mrc")
    return mrcfile.read(path)


def by(shape: Tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


if __name__ == "__main__":
    main()
