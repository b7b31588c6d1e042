"""How training gains from several GPUs, and that the loss curve stays: torchrun with one and with more processes.

Prints crops per second of the last epoch and the largest difference of the losses; the last line is one JSON object.

Usage: python benchmarks/several_gpus.py [--processes 2] [--crop 1024] [--batch 16] [--batches 60] [--device auto]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

from training import write_halves

EPOCHS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--crop", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_halves(folder, options.crop)
        logs = {number: train(folder, number, options) for number in (1, options.processes)}
    result: Dict[str, Any] = {"crop": options.crop, "batch": options.batch}
    for number, log in logs.items():
        result[f"{number} processes"] = log[-1]["crops_per_second"]
        print(f"{number} process(es): {log[-1]['crops_per_second']:8.1f} crops/s, losses {[r['loss'] for r in log]}")
    first, other = logs.values()
    result["ratio"] = other[-1]["crops_per_second"] / first[-1]["crops_per_second"]
    result["loss_difference"] = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(first, other))
    print(f"x {result['ratio']:.2f}; losses differ by {result['loss_difference']:.1e} at most")
    print(json.dumps(result))


def train(folder: Path, n_processes: int, options: argparse.Namespace) -> List[Dict[str, Any]]:
    """Train for a few epochs; return the log."""
    output = folder / f"by_{n_processes}"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    command += ["-m", "--", "cryoden", "train", "--odd", str(folder / "odd"), "--even", str(folder / "even")]
    command += ["--output", str(output), "--crop", str(options.crop), "--batch-size", str(options.batch)]
    command += ["--epochs", str(EPOCHS), "--max-batches", str(options.batches), "--min-batches", str(options.batches)]
    command += ["--compile", "no", "--device", options.device, "--sampling-rate", "full"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main()
