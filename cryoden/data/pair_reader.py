"""From the two files of a pair to standardised halves in memory, in stripes of rows that several threads share."""

from __future__ import annotations

import os
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Sequence

import numpy as np
import torch

from cryoden.data.normalize import (
    STANDARD,
    GreyScale,
    Normalization,
    measure_file,
    measure_scale,
)
from cryoden.data.pairs import HalfPair, check_correlation
from cryoden.data.rescale import fourier_crop
from cryoden.formats.images import Stack, read_micrograph
from cryoden.formats.pixels import file_context, require_finite

N_READERS = min(8, max(2, os.cpu_count() or 2))
"""Threads that read and standardise stripes: enough to keep a fast disk busy."""

N_STRIPES = 8
"""Parts into which a half is cut, so that one micrograph is there as fast as the disk allows."""

BAND_PIXELS = 1 << 17
"""Pixels that a thread reads and standardises at once: few enough for its cache, enough to let others compute."""


@dataclass(frozen=True)
class LoadedPair:
    """A pair with both its halves in memory.

    Attributes
    ----------
    pair
        Where they come from.
    halves
        Standardised, float16 `(2, y, x)` in the order (odd, even): its rounding is 2,000 times smaller than the noise.
    data_range
        95th percentile of the positive values in standardised units.
    """

    pair: HalfPair
    halves: torch.Tensor
    data_range: float


class PairReader:
    """Reads pairs; what it learns of one at the first reading (grey scales, that the halves fit) it does not ask again.

    Parameters
    ----------
    normalization
        How micrographs are standardised.
    """

    def __init__(self, normalization: Normalization = STANDARD) -> None:
        self._normalization = normalization
        self._scales: Dict[HalfPair, List[GreyScale]] = {}

    def read(self, pair: HalfPair, pool: Executor, memory: Optional[torch.Tensor] = None) -> LoadedPair:
        """Read and standardise both halves; no more memory is used than the result and a band of rows per thread take.

        Only a change of sampling rate needs whole micrographs in float32 for their Fourier transforms.

        Parameters
        ----------
        pair
            What to read.
        pool
            Threads for the stripes. They never wait for each other, so many pairs may be read with one pool.
        memory
            Float16 tensor of one axis whose first `2 * y * x` elements become the halves; None takes new memory.

        Raises
        ------
        CryodenError
            If a half cannot be read or used, or the two do not come from one movie.
        """
        rows, columns = pair.used_shape
        n_pixels = 2 * rows * columns
        memory = torch.empty(n_pixels, dtype=torch.float16) if memory is None else memory
        halves = memory[:n_pixels].view(2, rows, columns)
        is_known = pair in self._scales
        if pair.shape != pair.file_shape:
            self._scales[pair] = list(pool.map(self._rescale, (pair.odd, pair.even), (pair, pair), halves))
        else:
            stacks = pair.open()
            if not is_known:
                self._scales[pair] = [pair.fixed_scale or self._measure(stack, pool) for stack in stacks]
            list(pool.map(lambda stripe: stripe.read(), _stripes(pair, stacks, self._scales[pair], halves)))
        if not is_known and not pair.fixed_scale:
            check_correlation(pair.name, halves.numpy())
        return LoadedPair(pair, halves, sum(scale.data_range for scale in self._scales[pair]) / 2)

    def _measure(self, stack: Stack, pool: Executor) -> GreyScale:
        is_whole = stack.band_rows >= stack.shape[0]  # decoded in one go, and by one thread
        return measure_file(stack, self._normalization, map if is_whole else pool.map)

    def _rescale(self, path: str, pair: HalfPair, half: torch.Tensor) -> GreyScale:
        first, last = pair.rows or (0, pair.shape[0])
        image = read_micrograph(path)[0]
        with file_context(path):
            measure_scale(image, self._normalization)  # refuses saturation, which cannot be seen at another pixel size
            image = fourier_crop(image, pair.shape)
            scale = measure_scale(image, self._normalization)
        half.numpy()[:] = scale.standardize(image[first:last])
        return scale


@dataclass(frozen=True)
class _Stripe:
    """Rows `start` to `stop` (excluded) of one half, and the memory `(stop - start, x)` to which they go."""

    stack: Stack
    scale: GreyScale
    start: int
    stop: int
    memory: torch.Tensor

    def read(self) -> None:
        # Only NumPy here: PyTorch would start as many threads as there are cores for every reader.
        memory = self.memory.numpy()
        step = min(self.stack.band_rows, max(1, BAND_PIXELS // self.stack.shape[1]))
        for first in range(self.start, self.stop, step):
            last = min(first + step, self.stop)
            band = self.stack.read_rows(0, first, last)
            with file_context(self.stack.path):
                require_finite(band)
            memory[first - self.start : last - self.start] = self.scale.standardize(band)


def _stripes(
    pair: HalfPair, stacks: Sequence[Stack], scales: Sequence[GreyScale], halves: torch.Tensor
) -> Iterator[_Stripe]:
    """Yield the stripes of both halves in turn; a file that is decoded as a whole is one stripe."""
    top, bottom = pair.rows or (0, pair.shape[0])
    n_stripes = min(N_STRIPES, *(max(1, pair.shape[0] // stack.band_rows) for stack in stacks))
    edges = np.linspace(top, bottom, n_stripes + 1).astype(int).tolist()
    for start, stop in zip(edges, edges[1:]):
        for stack, scale, half in zip(stacks, scales, halves):
            yield _Stripe(stack, scale, start, stop, half[start - top : stop - top])


def load_pair(pair: HalfPair, normalization: Normalization = STANDARD) -> LoadedPair:
    """Read one pair; see `PairReader.read`."""
    with ThreadPoolExecutor(N_READERS) as pool:
        return PairReader(normalization).read(pair, pool)
