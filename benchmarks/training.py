"""How fast a whole training step is, loader included, against the same network in plain eager PyTorch.

The library's rows run `train_epoch` as `cryoden train` does: crops cut by the loader that keeps the halves in memory,
turned and swapped, fused Adam, moving average of the weights, bfloat16 and channels_last on a GPU. The reference is the
network as a textbook writes it (upsampling, then concatenation), in float32 with TF32 convolutions and the fastest
kernels that cuDNN finds, contiguous tensors and default Adam, fed with batches that already lie in device memory.

Prints crops per second, ratios, the time of compiling, the peak of GPU memory, and how far the step is from the floor
that arithmetic and memory set. The last line is one JSON object. On a CPU (small crops by default) it prints the
ratios alone.

Usage: python benchmarks/training.py [--networks NAME...] [--crop 1024] [--batch 8] [--steps 40] [--repeats 3]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch
from torch import nn

from cryoden.config import TrainConfig, shared
from cryoden.config.shared import FULL
from cryoden.formats.mrc import write_image
from cryoden.model.devices import pick_device
from cryoden.model.networks import CNN3, Network, UNet, build_network
from cryoden.model.schedule import Stopwatch
from cryoden.model.training import train_epoch
from cryoden.model.training_data import TrainingData
from cryoden.model.training_setup import set_up
from cryoden.model.training_writer import TrainingWriter

NETWORKS: Dict[str, Tuple[int, ...]] = {
    "unet": shared.UNET_CHANNELS,
    "unet of 4 levels": (32, 64, 128, 256),
    "cnn3": (),
}
"""Name of the row -> channels of the levels."""

GB = 1e9


class PlainUNet(nn.Module):
    """The library's U-Net with the same weights, as textbooks write it: upsample, concatenate, convolve twice."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.down, self.up, self.last, self.pool = network.down, network.up, network.last, network.pool
        self.larger, self.relu = nn.Upsample(scale_factor=2, mode="nearest"), nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the prediction."""
        skipped: List[torch.Tensor] = []
        features = images
        for level, block in enumerate(self.down):
            features = block(self.pool(features) if level else features)
            skipped.append(features)
        for level in reversed(range(len(self.up))):
            features = torch.cat((skipped[level], self.larger(features)), dim=1)
            features = self.relu(self.up[level].second(self.relu(self.up[level].first(features))))
        return self.last(features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--crop", type=int, help="side of the crops in pixels (default: 1024 on a GPU, 128 on a CPU)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--memory-batch", type=int, default=4, help="batch at which GPU memory is measured too")
    parser.add_argument("--steps", type=int, help="steps per timing (default: 40 on a GPU, 3 on a CPU)")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = pick_device(options.device)
    is_gpu = device.type == "cuda"
    options.crop = options.crop or (1024 if is_gpu else 128)
    options.steps = options.steps or (40 if is_gpu else 3)
    where = torch.cuda.get_device_name(device) if is_gpu else f"{torch.get_num_threads()} CPU threads"
    result: Dict[str, Any] = {
        "device": where, "torch": torch.__version__, "crop": options.crop, "batch": options.batch,
    }  # fmt: skip
    print(f"{where}, PyTorch {torch.__version__}, {options.batch} crops of {options.crop} px")
    if is_gpu:
        result.update(ceilings(device))
        print(f"ceilings: copy {result['bytes_per_s'] / 1e12:.2f} TB/s, bf16 {result['flop_per_s'] / 1e12:.0f} TFLOP/s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_halves(folder, options.crop)
        for network in options.networks:
            result[network] = measure_network(network, folder, options, device)
    if is_gpu:
        print_floors(result, options)
    print(json.dumps(result))


def measure_network(name: str, folder: Path, options: argparse.Namespace, device: torch.device) -> Dict[str, Any]:
    rows: Dict[str, Any] = {"difference": difference(name)}
    print(f"\n{name}: largest difference of the reference's output {rows['difference']:.1e} (float32, CPU)")
    rows["eager"] = measure_eager(name, options, device)
    report("eager reference", rows["eager"], rows["eager"])
    for compiled in ("no", "yes") if device.type == "cuda" else ("no",):
        key = "compiled" if compiled == "yes" else "not compiled"
        rows[key] = measure_library(name, compiled, options.batch, folder, options, device)
        report("library, " + key, rows[key], rows["eager"])
        if device.type == "cuda" and name != "cnn3":
            rows[f"{key}, batch {options.memory_batch}"] = row = measure_library(
                name, compiled, options.memory_batch, folder, options, device
            )
            report(f"library, {key}, batch {options.memory_batch}", row, rows["eager"])
    return rows


def report(label: str, row: Dict[str, float], reference: Dict[str, float]) -> None:
    row["ratio"] = row["crops_per_second"] / reference["crops_per_second"]
    memory = f"  GPU {row['gpu_peak_gb']:6.2f} GB" if "gpu_peak_gb" in row else ""
    print(
        f"  {label:34} {row['crops_per_second']:8.1f} crops/s (spread {row['spread']:4.0%})  x {row['ratio']:5.2f}  "
        f"first steps {row['warm_up_seconds']:5.1f} s{memory}",
        flush=True,
    )


def measure_library(
    name: str, compiled: str, batch: int, folder: Path, options: argparse.Namespace, device: torch.device
) -> Dict[str, float]:
    """Return the figures of the library's own training, several epochs of `steps` batches."""
    forget(device)
    config = TrainConfig(
        odd=str(folder / "odd"), even=str(folder / "even"), output=str(folder / "out"), sampling_rate=FULL,
        network=name.split()[0], channels=NETWORKS[name], crop=options.crop,
        batch_size=batch, compile=compiled, epochs=1000, min_batches=options.steps, max_batches=options.steps,
    )  # fmt: skip
    setup = set_up(config, TrainingData.find(config), device)
    stopwatch = Stopwatch()
    writer = TrainingWriter(setup, stopwatch)

    def epoch() -> float:
        record = train_epoch(setup, writer, stopwatch)
        setup.state.progress.end_epoch({**record, "r2": 0.0, "seconds": stopwatch.seconds})
        return record["training_seconds"]

    return figures(epoch, batch, options, device)


def measure_eager(name: str, options: argparse.Namespace, device: torch.device) -> Dict[str, float]:
    """Return the figures of the reference, fed from device memory."""
    forget(device)
    network = reference(name).to(device)
    optimizer = torch.optim.Adam(network.parameters())
    shape = (options.batch, 1, options.crop, options.crop)
    batches = [torch.randn(shape, device=device) for _ in range(3)]

    def epoch() -> float:
        begun = time.monotonic()
        for step in range(options.steps):
            inputs, targets = batches[step % 3], batches[(step + 1) % 3]
            loss = nn.functional.mse_loss(network(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()
        return time.monotonic() - begun

    return figures(epoch, options.batch, options, device)


def figures(
    epoch: Callable[[], float], batch: int, options: argparse.Namespace, device: torch.device
) -> Dict[str, float]:
    """Return rate, spread, time lost to warming up, and peak GPU memory of an epoch that returns its seconds."""
    begun = time.monotonic()
    epoch()
    first = time.monotonic() - begun
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = sorted(epoch() for _ in range(options.repeats))
    typical = statistics.median(seconds)
    row = {
        "crops_per_second": options.steps * batch / typical,
        "spread": (seconds[-1] - seconds[0]) / typical,
        "warm_up_seconds": first - typical,
    }
    if device.type == "cuda":
        row["gpu_peak_gb"] = torch.cuda.max_memory_allocated(device) / GB
        row["gpu_reserved_gb"] = torch.cuda.max_memory_reserved(device) / GB
    return row


def build(name: str) -> Network:
    return build_network(name.split()[0], NETWORKS[name])


def reference(name: str) -> nn.Module:
    return plain(name.split()[0], NETWORKS[name])


def plain(network: str, channels: Tuple[int, ...]) -> nn.Module:
    """Return a network with the weights of the library's, as a textbook writes it."""
    ours = build_network(network, channels)
    if isinstance(ours, UNet):
        return PlainUNet(ours)
    return ours.layers if isinstance(ours, CNN3) else ours


def difference(name: str) -> float:
    """Return the largest difference between the outputs of reference and library, relative to the largest output."""
    images = torch.randn((1, 1, 64, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, plain = build(name)(images), reference(name)(images)
    return float((ours - plain).abs().max() / plain.abs().max())


def forget(device: torch.device) -> None:
    """Free what the row before left behind."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def write_halves(folder: Path, crop: int) -> None:
    """Write three pairs of noisy halves, twice as wide as a crop."""
    rng = np.random.default_rng(1)
    side = 2 * crop
    for number in range(3):
        signal = rng.standard_normal((side, side), np.float32)
        for half in ("odd", "even"):
            (folder / half).mkdir(exist_ok=True)
            noisy = signal + 3 * rng.standard_normal((side, side), np.float32)
            write_image(folder / half / f"micrograph_{number}.mrc", noisy, 1.0)


# ---------------------------------------------------------------------- the floor
def ceilings(device: torch.device) -> Dict[str, float]:
    """Return measured bytes per second of a large copy (read and written), and operations per second of a product."""
    source = torch.randn(1 << 30, device=device)
    target = torch.empty_like(source)
    left, right = (torch.randn((8192, 8192), device=device, dtype=torch.bfloat16) for _ in range(2))
    copy = gpu_seconds(lambda: target.copy_(source))
    product = gpu_seconds(lambda: left @ right)
    return {"bytes_per_s": 2 * source.numel() * 4 / copy, "flop_per_s": 2 * 8192**3 / product}


def gpu_seconds(action: Callable[[], Any], repeats: int = 10) -> float:
    for _ in range(3):
        action()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        action()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return statistics.median(times)


def convolutions(name: str) -> List[Tuple[float, float, float]]:
    """Return, for each convolution: channels read, channels written, multiplications; each per full-resolution pixel.

    The upsampled half of a concatenation is read at its own, four times smaller size and costs 4 products, not 9.
    """
    if name == "cnn3":
        return [(i, o, 9 * i * o) for i, o in ((1, 16), (16, 16), (16, 1))]
    channels = NETWORKS[name]
    layers: List[Tuple[float, float, float]] = [(channels[0], 1, channels[0])]
    for level, (above, own) in enumerate(zip((1, *channels), channels)):
        size = 0.25**level
        layers += [(size * i, size * own, size * 9 * i * own) for i in (above, own)]
        if level + 1 < len(channels):
            below = channels[level + 1]
            layers.append((size * (own + below / 4), size * own, size * own * (9 * own + 4 * below)))
            layers.append((size * own, size * own, size * 9 * own * own))
    return layers


def print_floors(result: Dict[str, Any], options: argparse.Namespace) -> None:
    """Print the least time of a step: bfloat16 tensors once through memory, and operations at the measured rates.

    Forward reads the input and writes the output of each convolution; backward reads both again (input, gradient of the
    output) and writes the gradient of the input. The gradient of the micrograph is never needed.
    """
    print("\nfloor per crop")
    for name in options.networks:
        layers = convolutions(name)
        pixels = options.crop**2
        n_bytes = pixels * 2 * sum(3 * read + 2 * written for read, written, _ in layers)
        flop = pixels * 2 * sum(3 * products for _, _, products in layers)
        bounds = {"memory": n_bytes / result["bytes_per_s"], "arithmetic": flop / result["flop_per_s"]}
        bound = max(bounds, key=lambda key: bounds[key])
        taken = 1 / result[name]["compiled"]["crops_per_second"]
        share = bounds[bound] / taken
        result[name]["floor"] = {
            "bytes": n_bytes, "flop": flop, "bound": bound, "seconds": bounds[bound], "share": share,
        }  # fmt: skip
        print(
            f"  {name:16} {n_bytes / GB:5.2f} GB in {1e3 * bounds['memory']:.3f} ms, {flop / 1e9:6.1f} GFLOP in "
            f"{1e3 * bounds['arithmetic']:.3f} ms: {1 / bounds[bound]:.0f} crops/s ({bound}), compiled {share:.0%}"
        )


if __name__ == "__main__":
    main()
