"""The array operations of motion correction on a GPU, by PyTorch: the only module of movies that loads it."""

from __future__ import annotations

import threading
from typing import ContextManager, Dict, Tuple

import numpy as np
import torch

from cryoden.errors import DeviceError, Remedy
from cryoden.movies.motion.arrays import Array, Arrays
from cryoden.system.ranks import local_rank
from cryoden.wording import counted

GPU_PART_BYTES = 128 << 20
"""What is computed at once: enough to fill a GPU, and with all that is held beside it far below 8 GB."""

DTYPES: Dict[type, torch.dtype] = {np.float32: torch.float32, np.complex64: torch.complex64}

HELD_BY_TORCH = ("bool", "uint8", "int8", "int16", "int32", "int64", "float32", "complex64")
"""Types that every version of PyTorch has; others are converted on the host."""


class TorchArrays(Arrays):
    """Operations of PyTorch on one device; movies that are processed in parallel take turns on it.

    Parameters
    ----------
    device
        `cuda`, `cuda:N` or `cpu`.
    n_threads
        That decode frames ahead.

    Raises
    ------
    DeviceError
        If the GPU is not there.
    """

    part_bytes = GPU_PART_BYTES
    is_apart = True
    kept_bytes = 3 << 30

    def __init__(self, device: str, n_threads: int = 1) -> None:
        super().__init__()
        self.n_ahead = n_threads
        self._turn = threading.RLock()
        n_gpus = torch.cuda.device_count()
        if device == "cuda" and n_gpus:  # processes of one machine that share a list share its GPUs
            device = f"cuda:{local_rank() % n_gpus}"
        self._device = torch.device(device)
        if self._device.type == "cuda" and (self._device.index or 0) >= n_gpus:
            found = f"{counted(n_gpus, 'GPU')}, numbered from 0" if n_gpus else "no GPU that this PyTorch can use"
            raise DeviceError(
                f"Device {device} is not there: this machine has {found}.",
                subject=device,
                remedy=Remedy("set_to", "device", "auto"),
            )

    def shared_by(self, n_jobs: int) -> Arrays:
        """Return what computes for each of several movies: itself, since they take turns."""
        return self

    def alone(self) -> ContextManager[object]:
        """Return a context in which no other movie computes on the GPU, so that its memory suffices."""
        return self._turn

    # ------------------------------------------------------------------ arrays
    def device(self, array: np.ndarray) -> Array:
        """Return an array on the GPU."""
        if array.dtype.name not in HELD_BY_TORCH or not array.dtype.isnative:
            array = array.astype(np.float32)
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()
        return torch.from_numpy(array).to(self._device)

    def host(self, array: Array) -> np.ndarray:
        """Return an array of NumPy."""
        return array.cpu().numpy()

    def zeros(self, shape: Tuple[int, ...], dtype: type) -> Array:
        """Return zeros of `np.float32` or `np.complex64`."""
        return torch.zeros(shape, dtype=DTYPES[dtype], device=self._device)

    def empty(self, shape: Tuple[int, ...], dtype: type) -> Array:
        """Return an array of any content."""
        return torch.empty(shape, dtype=DTYPES[dtype], device=self._device)

    def float32(self, array: Array) -> Array:
        """Return numbers in single precision."""
        return array.to(torch.float32)

    def sums(self, array: Array) -> Array:
        """Return the sums along the last axis, in double precision."""
        return array.sum(-1, dtype=torch.float64)

    def flip(self, array: Array, axis: int) -> Array:
        """Return an array in reverse order along an axis."""
        return torch.flip(array, (axis,))

    def exp(self, array: Array) -> Array:
        """Return the exponential of an array, which is overwritten."""
        return array.exp_()

    def sqrt(self, array: Array) -> Array:
        """Return the square root of an array, which is overwritten."""
        return array.sqrt_()

    def product(self, one: Array, other: Array) -> Array:
        """Return the product of matrices of real numbers, in double precision: single may mean 10 bits on a GPU."""
        return one.double() @ other.double()

    def ring_sums(self, ring: Array, values: Array, n_rings: int) -> np.ndarray:
        """Return the sum of the values in every ring, float64, on the host; `ring` says which one each belongs to."""
        return self.host(torch.bincount(ring.reshape(-1), values.reshape(-1).double(), minlength=n_rings))

    def split(self, places: Array, size: int) -> Tuple[Array, Array, Array]:
        """Return the pixel below each place along an axis, how far it is beyond, and whether it is outside."""
        is_outside = (places < 0) | (places >= size - 1)
        pixel = places.floor().clamp_(0, size - 2)
        places -= pixel
        places.clamp_(0, 1)
        return pixel, places, is_outside

    def pixel_index(self, rows: Array, columns: Array, n_columns: int) -> Array:
        """Return where pixels are in an image whose rows follow each other."""
        return rows.long() * n_columns + columns.long()

    def take(self, flat: Array, index: Array) -> Array:
        """Return the values at places of a flat array."""
        return flat[index]

    def round_down_where(self, mask: Array, values: Array) -> None:
        """Round some values down to whole numbers, in place."""
        values.copy_(torch.where(mask, values.floor(), values))

    def floats_in(self, array: Array, shape: Tuple[int, int]) -> Array:
        """Return an image of any content, float32, in the memory of a complex array."""
        return torch.view_as_real(array).reshape(-1)[: shape[0] * shape[1]].reshape(shape)

    # ------------------------------------------------------------------ Fourier transforms
    def rfft(self, rows: Array) -> Array:
        """Return the transform of each row of real numbers."""
        return torch.fft.rfft(rows)

    def irfft(self, spectra: Array, n: int) -> Array:
        """Return the `n` real numbers of each row's transform."""
        return torch.fft.irfft(spectra, n)

    def fft(self, rows: Array) -> Array:
        """Return the transform of each row of complex numbers."""
        return torch.fft.fft(rows)

    def ifft(self, spectra: Array) -> Array:
        """Return the complex numbers of each row's transform."""
        return torch.fft.ifft(spectra)

    def rfft2(self, images: Array) -> Array:
        """Return the transform of real images along their last two axes."""
        return torch.fft.rfft2(images)

    def irfft2(self, spectra: Array, shape: Tuple[int, int]) -> Array:
        """Return the images of transforms."""
        return torch.fft.irfft2(spectra, s=shape)
