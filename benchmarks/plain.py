"""The plain way beside cryoden's: what one writes with NumPy and mrcfile for the same result, everything in memory.

Run by `specification.py`, each job in a process of its own: PyTorch is not loaded, so that memory is that of the job.

Usage: python benchmarks/plain.py split MOVIE FOLDER | export ODD EVEN FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import mrcfile
import numpy as np

PATCH, STRIDE = 1024, 512


def split(movie: str, folder: str) -> None:
    """Write the sum of a movie's frames, and of the odd and the even ones (1, 3, 5... are odd, counted from 1)."""
    frames = mrcfile.read(movie)
    sums = {"full": frames.sum(axis=0, dtype=np.float32)}
    for half, first in (("odd", 0), ("even", 1)):
        sums[half] = frames[first::2].sum(axis=0, dtype=np.float32)
    for name, image in sums.items():
        (Path(folder) / name).mkdir(parents=True)
        mrcfile.write(Path(folder) / name / f"{Path(movie).stem}.mrc", image)


def export(odd: str, even: str, folder: str) -> None:
    """Write patches of all halves, on the specification's scale, one file for the odd and one for the even ones."""
    Path(folder).mkdir(parents=True)
    for half, name in ((odd, "input"), (even, "target")):
        with open(Path(folder) / f"{name}.bin", "wb") as file:
            for path in sorted(Path(half).glob("*.mrc")):
                write_patches(scaled(mrcfile.read(path)), file)


def scaled(image: np.ndarray) -> np.ndarray:
    """Return an image divided by the 95th percentile of its positive values, clipped to [0, 1]."""
    return np.clip(image / np.percentile(image[image > 0], 95), 0, 1)


def write_patches(image: np.ndarray, file: BinaryIO) -> None:
    windows = np.lib.stride_tricks.sliding_window_view(image, (PATCH, PATCH))[::STRIDE, ::STRIDE]
    file.write(np.ascontiguousarray(windows.reshape(-1, PATCH, PATCH), np.float32).tobytes())


if __name__ == "__main__":
    {"split": split, "export": export}[sys.argv[1]](*sys.argv[2:])
