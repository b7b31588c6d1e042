"""Made-up movies, halves and models, written without cryoden's own writers."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import mrcfile
import numpy as np
import scipy.ndimage
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
RATE = 4.0
"""A/px of made-up micrographs: Nyquist is at 8 A, the end of the score band."""

MRC_MODES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}
IMOD_STAMP = 1146047817


class Identity(nn.Module):
    """A network that changes nothing."""

    step = 1
    receptive_radius = 0
    n_channels = n_features = 1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


@dataclass(frozen=True)
class Result:
    """What a command left: exit status and its two streams."""

    status: int
    out: str
    err: str

    @property
    def last_error(self) -> str:
        """The last line on stderr."""
        return self.err.strip().splitlines()[-1]


def clean_signal(shape: Tuple[int, int], seed: int, sigma_px: float = 2.5) -> np.ndarray:
    """Return blobs of mean 0 and deviation 1, float64."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    image = scipy.ndimage.gaussian_filter(noise, sigma_px, mode="wrap")
    return (image - image.mean()) / image.std()


def two_halves(shape: Tuple[int, int], seed: int, noise: float = 2.0) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return clean, odd and even images, float64; the halves have independent white noise."""
    rng = np.random.default_rng([seed, 1])
    clean = clean_signal(shape, seed)
    return clean, clean + noise * rng.standard_normal(shape), clean + noise * rng.standard_normal(shape)


def write_mrc(path: Path, image: np.ndarray, rate: float = RATE) -> Path:
    """Write an image or a stack with mrcfile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), mrcfile.new(str(path), overwrite=True) as mrc:
        warnings.simplefilter("ignore", RuntimeWarning)  # mrcfile warns of NaN, which some tests want
        mrc.set_data(image if image.dtype == np.float16 or image.ndim == 3 else image.astype(np.float32))
        if image.ndim == 3:
            mrc.set_image_stack()
        mrc.voxel_size = rate
    return path


def write_raw_mrc(
    path: Path,
    frames: np.ndarray,
    mode: int,
    byteorder: str = "<",
    rate: float = 1.5,
    unsigned_bytes: bool = False,
    extended: bytes = b"",
) -> Path:
    """Write an MRC stack byte by byte after the MRC2014 table, in either byte order."""
    n, y, x = frames.shape
    header = bytearray(1024)
    struct.pack_into(f"{byteorder}10i", header, 0, x, y, n, mode, 0, 0, 0, x, y, n)
    struct.pack_into(f"{byteorder}6f", header, 40, x * rate, y * rate, n * rate, 90, 90, 90)
    struct.pack_into(f"{byteorder}3i", header, 64, 1, 2, 3)
    struct.pack_into(f"{byteorder}2i", header, 88, 0, len(extended))
    if mode == 0:
        struct.pack_into(f"{byteorder}2i", header, 152, IMOD_STAMP, 0 if unsigned_bytes else 1)
    header[208:212] = b"MAP "
    header[212:216] = b"\x44\x44\0\0" if byteorder == "<" else b"\x11\x11\0\0"
    dtype = np.dtype(np.uint8 if unsigned_bytes else MRC_MODES[mode]).newbyteorder(byteorder)
    path.write_bytes(bytes(header) + extended + frames.astype(dtype).tobytes())
    return path


def write_halves(
    folder: Path,
    n: int = 3,
    shape: Tuple[int, int] = (96, 96),
    noise: float = 1.0,
    rate: float = RATE,
    seed: int = 1,
    mean: float = 0.0,
) -> Dict[str, np.ndarray]:
    """Write `odd/mic0.mrc`, `even/mic0.mrc`...; return the clean images by name."""
    clean = {}
    for number in range(n):
        name = f"mic{number}"
        clean[name], odd, even = two_halves(shape, 100 * seed + number, noise)
        write_mrc(folder / "odd" / f"{name}.mrc", mean + odd, rate)
        write_mrc(folder / "even" / f"{name}.mrc", mean + even, rate)
    return clean


def read_mrc(path: Path) -> np.ndarray:
    """Read pixels with mrcfile, in its strict mode."""
    with mrcfile.open(str(path)) as mrc:
        return np.array(mrc.data)


def leftovers(folder: Path) -> list:
    """Return temporary files anywhere below a folder."""
    return sorted(str(path) for path in folder.rglob("*.part"))


def images_in(folder: Path) -> list:
    """Return every result below a folder: images, tables, models, logs; not what is recorded of them."""
    endings = (".mrc", ".star", ".safetensors", ".pt", ".jsonl", ".png")
    files = [path for path in folder.rglob("*") if path.suffix in endings and ".results" not in path.name]
    return sorted(str(path.relative_to(folder)) for path in files)


def python(
    words: Sequence[str], cwd: Path, extra_path: Optional[Path] = None, **settings: str
) -> subprocess.CompletedProcess:
    """Run this Python with some words, on cryoden's source, with two threads."""
    places = [str(extra_path)] if extra_path else []
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([*places, str(ROOT)]), OMP_NUM_THREADS="1")
    environment.update(settings)
    return subprocess.run(
        [sys.executable, *words], cwd=str(cwd), env=environment, capture_output=True, text=True, timeout=60
    )


def slowly(seconds: float) -> str:
    """Return a program that runs `cryoden` and waits so long before each image that it writes."""
    return f"""
import os, sys, time
from cryoden.__main__ import main
replace = os.replace
def slow_replace(source, target):
    if str(target).endswith(".mrc"):
        time.sleep({seconds})
    replace(source, target)
os.replace = slow_replace
sys.exit(main())
"""


def blurring_cnn3() -> Dict[str, np.ndarray]:
    """Return weights that make CNN3 a linear filter: three 3 x 3 binomial blurs.

    Two channels carry the positive and the negative part, so that the ReLUs between the convolutions change nothing.
    """
    blur = np.outer([1, 2, 1], [1, 2, 1]) / 16
    weights = {
        key: np.zeros(shape, np.float32)
        for key, shape in {
            "layers.0.weight": (16, 1, 3, 3), "layers.0.bias": (16,), "layers.2.weight": (16, 16, 3, 3),
            "layers.2.bias": (16,), "layers.4.weight": (1, 16, 3, 3), "layers.4.bias": (1,),
        }.items()
    }  # fmt: skip
    for channel, sign in enumerate((1, -1)):
        weights["layers.0.weight"][channel, 0] = sign * blur
        weights["layers.2.weight"][channel, channel] = blur
        weights["layers.4.weight"][0, channel] = sign * blur
    return weights


def blurred_three_times(image: np.ndarray) -> np.ndarray:
    """Return what `blurring_cnn3` makes of an image, up to its edges."""
    for _ in range(3):
        image = scipy.ndimage.correlate(image, np.outer([1, 2, 1], [1, 2, 1]) / 16, mode="mirror")
    return image


def in_ranks(n: int, function: Callable[[int, Any], Any]) -> List[Any]:
    """Return what a function returns of each rank and its exchange, computed side by side."""
    barrier, given_ = threading.Barrier(n, timeout=300), [[None] * n]

    def exchange_of(rank: int) -> Callable[[Any], List[Any]]:
        def exchange(value: Any) -> List[Any]:
            given_[0][rank] = value
            barrier.wait()
            everything = list(given_[0])
            barrier.wait()
            return everything

        return exchange

    with ThreadPoolExecutor(n) as pool:
        return [future.result() for future in [pool.submit(function, rank, exchange_of(rank)) for rank in range(n)]]
