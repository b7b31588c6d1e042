"""How fast micrographs are denoised: from disk to disk against plain copies, the network alone, and two GPUs.

Writes made-up float32 micrographs and an untrained network with its default channels, and measures, in processes of
their own and with an emptied page cache where files are read:

- copying the files plainly: one after the other, and with as many threads as the pipeline has,
- `cryoden denoise` on them: the pipeline alone, and the whole command with the start of Python and of the GPU; and the
  whole command with a model of coarser pixels (`--coarse`, A/px; the files have 1 A/px),
- the network alone on one micrograph, against the same network in default eager PyTorch in one piece, and against the
  plain U-Net (in several rounds, one after the other),
- the peak of host memory for few and for many micrographs,
- two processes of torchrun against one, where there are two GPUs,
- Topaz-Denoise, where a command for it is given, on the same files.

What reads from disk is measured in several rounds, of which the median counts; before each step, all that was written
is on the disk, and earlier results are gone. The last line is one JSON object.

Usage: python benchmarks/denoising.py [--micrographs 20] [--shape 7420 7676] [--network resunet] [--folder DIR]
[--topaz COMMAND]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import torch
from loaders import drop_cache, peak_gib
from training import PlainUNet

from cryoden.config import DenoiseConfig, shared
from cryoden.formats.model_file import ModelCard, write_model
from cryoden.formats.mrc import write_image
from cryoden.model.denoiser import Denoiser
from cryoden.model.denoising import denoise_micrographs
from cryoden.model.devices import TRYING_IMAGES, pick_device, try_kernels
from cryoden.model.networks import UNet, build_network
from cryoden.model.pipeline import N_THREADS
from cryoden.model.predictor import Predictor

MODEL, COARSE_MODEL, UNET_MODEL = "model.safetensors", "coarse.safetensors", "unet.safetensors"
"""Of the files' pixel size, of coarser pixels, and the plain U-Net."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--micrographs", type=int, default=20)
    parser.add_argument("--many", type=int, default=40, help="micrographs for memory and for two GPUs (hard links)")
    parser.add_argument("--shape", type=int, nargs=2, default=(7420, 7676))
    parser.add_argument("--network", default="resunet", choices=("resunet", "unet"))
    parser.add_argument("--coarse", type=float, default=4.0, help="pixel size in A of the model of `coarse command`")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=DenoiseConfig.choices_of("precision"))
    parser.add_argument("--folder", help="on the disk to measure (default: a temporary folder)")
    parser.add_argument("--topaz", help="command of Topaz-Denoise; the files and `-o FOLDER` are appended")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=[step for step in STEPS if step != "topaz"])
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step](options)))
        return
    with tempfile.TemporaryDirectory() as name:
        options.folder = options.folder or name
        print(json.dumps(compare(options)))


def compare(options: argparse.Namespace) -> Dict[str, Any]:
    write_inputs(options)
    n_bytes = sum(path.stat().st_size for path in files_of(options, "few"))
    print(f"{options.micrographs} micrographs of {options.shape}, {n_bytes / 1e9:.2f} GB")
    result: Dict[str, Any] = {"bytes": n_bytes, "micrographs": options.micrographs, "shape": list(options.shape)}
    done: Dict[str, List[Dict[str, float]]] = {}
    for number in range(options.rounds):
        for step in options.steps:
            if " GPU" in step and torch.cuda.device_count() < 2:
                continue
            if number == 0 or step in ROUNDS:
                done.setdefault(step, []).append(run_step(step, options))
                print(f"  {step:18} " + ", ".join(f"{k} {v:.4g}" for k, v in done[step][-1].items()), flush=True)
    for step, rows in done.items():
        result[step] = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    for step, of in (
        ("copy", "pipeline"), ("copy by threads", "pipeline"), ("copy", "command"), ("eager network", "network"),
        ("eager network", "network of few"), ("one GPU", "two GPUs"), ("one GPU, 8 views", "two GPUs, 8 views"),
        ("unet network", "network"), ("topaz", "command"), ("topaz", "coarse command"),
    ):  # fmt: skip
        for key in ("seconds", "denoising_seconds"):
            if key in result.get(step, {}) and key in result.get(of, {}):
                result[f"{of} / {step}, {key}"] = ratio = result[step][key] / result[of][key]
                print(f"{of + ' / ' + step:40} {ratio:8.2f} times as fast ({key})")
    return result


def run_step(step: str, options: argparse.Namespace) -> Dict[str, float]:
    """Run one measurement in a process of its own; return what it printed."""
    for folder in Path(options.folder).glob(f"{RESULTS}*"):
        shutil.rmtree(folder)
    drop_cache(Path(options.folder))
    command = [sys.executable, __file__, "--step", step, "--folder", options.folder, "--device", options.device]
    command += ["--many", str(options.many), "--micrographs", str(options.micrographs)]
    command += ["--shape", *map(str, options.shape), "--precision", options.precision, "--network", options.network]
    command += ["--topaz", options.topaz] if options.topaz else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------------- steps, each in its own process
def copy(options: argparse.Namespace, n_threads: int = 1) -> Dict[str, float]:
    """Read and write every file in pieces of 16 MiB."""
    target = fresh_folder(options, "copy")

    def one(path: Path) -> None:
        with open(path, "rb", buffering=0) as source, open(target / path.name, "wb", buffering=0) as sink:
            buffer = memoryview(bytearray(16 << 20))
            while True:
                n_read = source.readinto(buffer)
                if not n_read:
                    return
                sink.write(buffer[:n_read])

    begun = time.monotonic()
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(one, files_of(options, "few")))
    return {"seconds": time.monotonic() - begun}


def copy_by_threads(options: argparse.Namespace) -> Dict[str, float]:
    return copy(options, N_THREADS)


def pipeline(options: argparse.Namespace, which: str = "few") -> Dict[str, float]:
    """Denoise in this process, after the device and the kernels were tried on one micrograph."""
    config = config_of(options, which)
    warm = (str(files_of(options, "few")[0]),)
    denoise_micrographs(replace(config, micrographs=warm, output=config.output + "_warm"))
    drop_cache(Path(options.folder))
    begun = time.monotonic()
    denoise_micrographs(config)
    return {"seconds": time.monotonic() - begun, "peak_gib": peak_gib()}


def many(options: argparse.Namespace) -> Dict[str, float]:
    return pipeline(options, "many")


def command(
    options: argparse.Namespace,
    which: str = "few",
    launcher: str = "-m cryoden",
    quality: str = "fast",
    model: str = MODEL,
) -> Dict[str, float]:
    """Run the whole command; `denoising_seconds` leaves out what passes until all programs and GPUs have started."""
    config = config_of(options, which)
    model = str(Path(options.folder) / model)
    words = ["denoise", str(Path(options.folder) / which), "--model", model, "--output", config.output]
    words += ["--device", options.device, "--precision", options.precision]
    words += ["--quality", quality]
    begun = time.monotonic()
    subprocess.run([sys.executable, *launcher.split(), *words], stdout=subprocess.DEVNULL, check=True)
    seconds = time.monotonic() - begun
    logs = [log.read_text().splitlines() for log in Path(config.output).glob("log*.jsonl")]
    shares = [sum(json.loads(line)["seconds"] for line in lines) for lines in logs]
    return {"seconds": seconds, "denoising_seconds": max(shares)}


def coarse_command(options: argparse.Namespace) -> Dict[str, float]:
    """The same with a model of coarser pixels."""
    return command(options, model=COARSE_MODEL)


def on_gpus(n_gpus: int, quality: str) -> Callable[[argparse.Namespace], Dict[str, float]]:
    launcher = f"-m torch.distributed.run --standalone --nproc-per-node {n_gpus} -m -- cryoden"
    return lambda options: command(options, "many", launcher, quality)


def topaz(options: argparse.Namespace) -> Dict[str, float]:
    target = fresh_folder(options, "topaz")
    files = [str(path) for path in files_of(options, "few")]
    begun = time.monotonic()
    subprocess.run([*shlex.split(options.topaz), *files, "-o", str(target)], stdout=subprocess.DEVNULL, check=True)
    return {"seconds": time.monotonic() - begun}


def network(options: argparse.Namespace, n_images: int = TRYING_IMAGES, model: str = MODEL) -> Dict[str, float]:
    """Predict one micrograph that lies on the device already."""
    model = str(Path(options.folder) / model)
    predictor = Denoiser.load(model, options.device, precision=options.precision).predictor
    try_kernels(n_images)
    return time_network(predictor, options, predictor.device)


def network_of_few(options: argparse.Namespace) -> Dict[str, float]:
    """The same with the kernels that cuDNN's rules choose, as for a few images."""
    return network(options, 1)


def unet_network(options: argparse.Namespace) -> Dict[str, float]:
    """The plain U-Net with its default channels, as shipped."""
    return network(options, model=UNET_MODEL)


def eager_network(options: argparse.Namespace) -> Dict[str, float]:
    """The same network as textbooks write it: float32 with TF32 convolutions, in one piece."""
    device = pick_device(options.device)
    torch.backends.cudnn.benchmark = False
    network = build_network(options.network, shared.default_channels(options.network)).to(device).eval()
    plain = PlainUNet(network) if isinstance(network, UNet) else network
    sides = [-(-n // network.step) * network.step for n in options.shape]

    def predict(image: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(
            image[None, None], (0, sides[1] - image.shape[1], 0, sides[0] - image.shape[0])
        )
        with torch.inference_mode():
            return plain(padded)

    return time_network(predict, options, device)


def time_network(predict: Callable, options: argparse.Namespace, device: torch.device) -> Dict[str, float]:
    image = torch.randn(tuple(options.shape), device=device)
    seconds = []
    for _ in range(6 if device.type == "cuda" else 2):
        begun = time.monotonic()
        float(predict(image)[..., 0, 0].sum())
        seconds.append(time.monotonic() - begun)
    row = {"seconds": min(seconds[1:]), "first_seconds": seconds[0], "peak_gib": peak_gib()}
    if device.type == "cuda":
        row["gpu_peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    if isinstance(predict, Predictor):
        row["tile"] = predict.tile
    return row


RESULTS = "results_"
"""Folders of this name are removed before the next step."""

ROUNDS = ("copy", "copy by threads", "pipeline", "command", "coarse command", "network", "unet network")
"""Steps that are measured in every round."""


STEPS = {
    "copy": copy, "copy by threads": copy_by_threads, "pipeline": pipeline, "command": command, "many": many,
    "coarse command": coarse_command, "network": network, "unet network": unet_network,
    "network of few": network_of_few, "eager network": eager_network, "topaz": topaz,
    "one GPU": on_gpus(1, "fast"), "two GPUs": on_gpus(2, "fast"),
    "one GPU, 8 views": on_gpus(1, "best"), "two GPUs, 8 views": on_gpus(2, "best"),
}  # fmt: skip


# ---------------------------------------------------------------------- files
def config_of(options: argparse.Namespace, which: str) -> DenoiseConfig:
    folder = Path(options.folder)
    return DenoiseConfig(
        micrographs=(str(folder / which),), model=str(folder / MODEL), device=options.device,
        output=str(fresh_folder(options, f"denoised_{which}")), precision=options.precision,
    )  # fmt: skip


def fresh_folder(options: argparse.Namespace, name: str) -> Path:
    """Return an empty folder for results, so that none is skipped."""
    return Path(tempfile.mkdtemp(prefix=f"{RESULTS}{name}_", dir=options.folder))


def files_of(options: argparse.Namespace, which: str) -> List[Path]:
    return sorted((Path(options.folder) / which).glob("*.mrc"))


def write_inputs(options: argparse.Namespace) -> None:
    """Write models, and micrographs: one noise image, shifted."""
    folder = Path(options.folder)
    models = {MODEL: (options.network, 1.0), COARSE_MODEL: (options.network, options.coarse), UNET_MODEL: ("unet", 1.0)}
    for name, (kind, rate) in models.items():
        channels = shared.default_channels(kind)
        weights = {key: array.numpy() for key, array in build_network(kind, channels).state_dict().items()}
        write_model(folder / name, weights, ModelCard(kind, channels, rate, {"kind": "standard"}, {}))
    noise = 100 + 3 * np.random.default_rng(1).standard_normal(tuple(options.shape), np.float32)
    for which in ("few", "many"):
        (folder / which).mkdir(exist_ok=True)
    for number in range(options.micrographs):
        path = folder / "few" / f"micrograph_{number:03}.mrc"
        if not path.exists():
            write_image(path, np.roll(noise, (17 * number, 31 * number), (0, 1)), 1.0)
    for number in range(options.many):
        path = folder / "many" / f"micrograph_{number:03}.mrc"
        if not path.exists():
            os.link(folder / "few" / f"micrograph_{number % options.micrographs:03}.mrc", path)
    os.sync()


if __name__ == "__main__":
    main()
