"""Array operations of motion correction, by NumPy and SciPy in threads; `gpu.py` has the same ones on a GPU.

What is written with them is written once for both. They are only those that NumPy and PyTorch call differently:
operators, slices, `real`, `imag` and `conj` are the same in both.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterable, Iterator, List, Sequence, Tuple, TypeVar

import numpy as np
import scipy.fft

from cryoden.config.shared import AUTO
from cryoden.errors import DeviceError, Remedy
from cryoden.movies.frame_sums import ahead

Array = Any
"""A NumPy array, or what stands for one on a GPU."""

T = TypeVar("T")
R = TypeVar("R")

GPU_FILES = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
"""One of them is there where a driver of a GPU is loaded: NVIDIA's, that of Windows below Linux, AMD's."""

OVERLAPPED_BYTES = 128 << 20
"""Of the largest frame beside which the next one is worked on: larger ones take memory one after the other."""

CACHED_BYTES = 1 << 19
"""What is computed at once on a CPU: it stays in the cache of a core."""


class Arrays:
    """Operations of NumPy and SciPy.

    Parameters
    ----------
    n_threads
        That work at the same time.

    Attributes
    ----------
    part_bytes : int
        Of the largest array of what is computed at once.
    is_apart : bool
        Whether arrays are in a memory of their own.
    n_ahead : int
        Frames that are made ready ahead, and threads that do so.
    kept_bytes : int
        Of a movie whose frames are decoded once and kept in the host's memory; larger ones are decoded at each pass.
    """

    part_bytes = CACHED_BYTES
    is_apart = False
    n_ahead = 1
    kept_bytes = 256 << 20

    def __init__(self, n_threads: int = 1) -> None:
        self.n_threads = n_threads
        self._pool = ThreadPoolExecutor(n_threads)  # starts no thread before it is asked for
        self._worker = threading.local()

    @property
    def n_workers(self) -> int:
        """Threads that can work at the same time on the CPU."""
        return max(self.n_threads, self.n_ahead)

    def shared_by(self, n_jobs: int) -> Arrays:
        """Return what computes for each of several movies that are processed in parallel."""
        return Arrays(max(1, self.n_threads // n_jobs))

    def alone(self) -> ContextManager[Any]:
        """Return a context in which no other movie computes on the processor; a CPU is shared."""
        return nullcontext()

    @property
    def _n_free_threads(self) -> int:
        """Threads that may share a task; one that `each` gave a part of another task to has none but itself."""
        return 1 if getattr(self._worker, "is_busy", False) else self.n_threads

    # ------------------------------------------------------------------ parts
    def parts(self, n: int, item_bytes: float) -> List[slice]:
        """Return `n` items in parts of about `part_bytes`, each item of `item_bytes`."""
        step = max(1, int(self.part_bytes // item_bytes))
        return [slice(first, min(first + step, n)) for first in range(0, n, step)]

    def each(self, function: Callable[[T], R], parts: Sequence[T]) -> List[R]:
        """Return what a function makes of each part, in their order; inside of it, `each` starts no more threads."""
        if self._n_free_threads == 1 or len(parts) == 1:
            return [function(part) for part in parts]
        results: Dict[int, R] = {}
        numbers = iter(range(len(parts)))
        lock = threading.Lock()

        def work() -> None:
            self._worker.is_busy = True
            while True:  # a thread takes parts as long as there are any: that costs less than one task for each
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                results[number] = function(parts[number])

        tasks = [self._pool.submit(work) for _ in range(min(self.n_threads, len(parts)))]
        for task in tasks:
            task.result()
        return [results[number] for number in range(len(parts))]

    def overlapped(self, function: Callable[[T], R], frames: Iterable[T], n_pixels: int) -> Iterator[R]:
        """Yield what a function makes of each frame, while a thread works on the next one if they are small enough.

        No step of one frame keeps all cores busy; those of two frames together do.
        """
        if self.n_threads > 1 and 4 * n_pixels <= OVERLAPPED_BYTES:
            return ahead(function, frames, 1)
        return map(function, frames)

    # ------------------------------------------------------------------ arrays
    def device(self, array: np.ndarray) -> Array:
        """Return an array where it is computed with."""
        return array

    def host(self, array: Array) -> np.ndarray:
        """Return an array of NumPy."""
        return array

    def zeros(self, shape: Tuple[int, ...], dtype: type) -> Array:
        """Return zeros of `np.float32` or `np.complex64`."""
        return np.zeros(shape, dtype)

    def empty(self, shape: Tuple[int, ...], dtype: type) -> Array:
        """Return an array of any content."""
        return np.empty(shape, dtype)

    def float32(self, array: Array) -> Array:
        """Return numbers in single precision."""
        return array.astype(np.float32, copy=False)

    def sums(self, array: Array) -> Array:
        """Return the sums along the last axis, in double precision."""
        return array.sum(-1, dtype=np.float64)

    def flip(self, array: Array, axis: int) -> Array:
        """Return an array in reverse order along an axis."""
        return np.flip(array, axis)

    def exp(self, array: Array) -> Array:
        """Return the exponential of an array, which is overwritten."""
        return np.exp(array, out=array)

    def sqrt(self, array: Array) -> Array:
        """Return the square root of an array, which is overwritten."""
        return np.sqrt(array, out=array)

    def product(self, one: Array, other: Array) -> Array:
        """Return the product of matrices of real numbers."""
        return one @ other

    def ring_sums(self, ring: Array, values: Array, n_rings: int) -> np.ndarray:
        """Return the sum of the values in every ring, float64, on the host; `ring` says which one each belongs to."""
        return np.bincount(ring.reshape(-1), values.reshape(-1), minlength=n_rings)

    def split(self, places: Array, size: int) -> Tuple[Array, Array, Array]:
        """Return the pixel below each place along an axis, how far it is beyond, and whether it is outside.

        Places that are outside are brought inside first. They are overwritten. Pixels are whole numbers as float32.
        """
        is_outside = (places < 0) | (places >= size - 1)
        pixel = _bounded(np.floor(places), 0, size - 2)
        places -= pixel
        _bounded(places, 0, 1)
        return pixel, places, is_outside

    def pixel_index(self, rows: Array, columns: Array, n_columns: int) -> Array:
        """Return where pixels are in an image whose rows follow each other."""
        index = rows.astype(np.intp)
        index *= n_columns
        index += columns.astype(np.intp)
        return index

    def take(self, flat: Array, index: Array) -> Array:
        """Return the values at places of a flat array, which it must have."""
        return flat.take(index, mode="wrap")  # faster than to look for places outside, and than `clip`

    def round_down_where(self, mask: Array, values: Array) -> None:
        """Round some values down to whole numbers, in place."""
        if mask.any():
            values[mask] = np.floor(values[mask])

    def floats_in(self, array: Array, shape: Tuple[int, int]) -> Array:
        """Return an image of any content, float32, in the memory of a complex array that is as large at least."""
        return array.view(np.float32).reshape(-1)[: shape[0] * shape[1]].reshape(shape)

    # ------------------------------------------------------------------ Fourier transforms
    def rfft(self, rows: Array) -> Array:
        """Return the transform of each row of real numbers, by the thread that asks for it."""
        return scipy.fft.rfft(rows)

    def irfft(self, spectra: Array, n: int) -> Array:
        """Return the `n` real numbers of each row's transform, by the thread that asks for it."""
        return scipy.fft.irfft(spectra, n)

    def fft(self, rows: Array) -> Array:
        """Return the transform of each row of complex numbers, which may be overwritten."""
        return scipy.fft.fft(rows, overwrite_x=True)

    def ifft(self, spectra: Array) -> Array:
        """Return the complex numbers of each row's transform, which may be overwritten."""
        return scipy.fft.ifft(spectra, overwrite_x=True)

    def rfft2(self, images: Array) -> Array:
        """Return the transform of real images along their last two axes; they may be overwritten."""
        return scipy.fft.rfft2(images, workers=self._n_free_threads, overwrite_x=True)

    def irfft2(self, spectra: Array, shape: Tuple[int, int]) -> Array:
        """Return the images of transforms, which may be overwritten."""
        if spectra.ndim > 2 or spectra.nbytes <= self.part_bytes:
            return scipy.fft.irfft2(spectra, s=shape, workers=self._n_free_threads, overwrite_x=True)

        # By axes, because SciPy would copy it once more.
        columns = scipy.fft.ifft(spectra, axis=0, workers=self._n_free_threads, overwrite_x=True)
        image = np.empty(shape, np.float32)

        def transform(rows: slice) -> None:
            image[rows] = scipy.fft.irfft(columns[rows], shape[1], axis=1)

        self.each(transform, self.parts(shape[0], shape[1] * 4))
        return image


def _bounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return values that are brought between two numbers in place, several times as fast as by `np.clip`."""
    return np.minimum(np.maximum(values, np.float32(low), out=values), np.float32(high), out=values)


def arrays_on(device: str, n_threads: int) -> Arrays:
    """Return what computes on `auto`, `cpu`, `cuda` or `cuda:N`; `auto` is a GPU where there is one that can be used.

    Parameters
    ----------
    device
        As above.
    n_threads
        That compute on the CPU, or decode for the GPU.

    Raises
    ------
    DeviceError
        If a GPU was asked for that is not there, or that cannot be used without PyTorch.
    """
    if device == "cpu" or (device == AUTO and not any(file.exists() for file in GPU_FILES)):
        return Arrays(n_threads)  # PyTorch takes seconds to load, and is not needed
    try:
        from cryoden.movies.motion.gpu import TorchArrays

        return TorchArrays("cuda" if device == AUTO else device, n_threads)
    except (ImportError, DeviceError) as error:
        if device == AUTO:
            return Arrays(n_threads)
        if isinstance(error, DeviceError):
            raise
        raise DeviceError(
            f"Device {device} cannot be used: PyTorch is not installed, or cannot be loaded ({error}).",
            subject=device,
            remedy=Remedy("set_to", "device", "cpu"),
        ) from error
