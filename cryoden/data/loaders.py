"""Two ways to feed one plan: everything in memory, or a window that background threads keep filled."""

from __future__ import annotations

import logging
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Callable, Dict, Generator, Iterator, Mapping, Optional, Sequence, Tuple, TypeVar

import numpy as np
import torch

from cryoden.data.crops import Crop, EpochPlan
from cryoden.data.gpu_transfer import GpuTransfer
from cryoden.data.normalize import STANDARD, Normalization
from cryoden.data.pair_reader import N_READERS, LoadedPair, PairReader
from cryoden.data.pairs import HalfPair
from cryoden.data.window import Reading, Window, plan_readings
from cryoden.errors import Problem, problem_of
from cryoden.formats.progress_log import write_above_bar

log = logging.getLogger(__name__)

N_PAIRS_AT_ONCE = 3
"""Pairs that are read side by side: while one is measured, the disk works for the others."""

_END = object()
"""Tells that no batch follows."""

Item = TypeVar("Item")
Batch = Tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets, each float32 `(batch, 1, y, x)`."""


@dataclass(frozen=True)
class CropBatch:
    """The crops of one batch and their pixels, both halves of each, float16 `(batch, 2, y, x)`."""

    crops: Sequence[Crop]
    pixels: torch.Tensor


@dataclass(frozen=True)
class Shard:
    """Which part of every batch and of the held-out pairs one of several processes takes."""

    rank: int = 0
    n_ranks: int = 1


class Loader:
    """Base of both loaders.

    Parameters
    ----------
    training, held_out
        Pairs of halves.
    crop
        Side of the crops in pixels.
    device
        Where batches are wanted.
    shard
        Part of each batch that is cut here.
    normalization
        How micrographs are standardised.

    Attributes
    ----------
    keep : torch.device
        Where loaded pairs are.
    failures : dict
        Micrographs that could not be used, and why. Their crops are replaced by others of the same batch.
    """

    def __init__(
        self,
        training: Sequence[HalfPair],
        held_out: Sequence[HalfPair],
        crop: int,
        device: torch.device,
        shard: Shard = Shard(),
        normalization: Normalization = STANDARD,
    ) -> None:
        self._pairs, self._held_out_pairs = list(training), list(held_out)[shard.rank :: shard.n_ranks]
        self.crop, self.device, self.shard = crop, device, shard
        self.keep = torch.device("cpu")
        self.failures: Dict[str, Problem] = {}
        self._reader = PairReader(normalization)
        self._buffer: Optional[torch.Tensor] = None

    def batches(self, plan: EpochPlan) -> Generator[Optional[Batch], None, None]:
        """Yield this process's share of the plan's batches, on the device; cutting and copying run ahead of a GPU.

        A batch none of whose micrographs can be used is None.
        """
        with ExitStack() as stack:
            batches = stack.enter_context(closing(self._crop_batches(plan)))
            if self.device.type != self.keep.type:
                batches = stack.enter_context(closing(prefetch(_on_gpu(batches, self.device))))
            for batch in batches:
                yield None if batch is None else augment(batch.pixels, batch.crops)

    @property
    def n_held_out(self) -> int:
        """How many held-out pairs are this process's."""
        return len(self._held_out_pairs)

    def held_out(self) -> Iterator[LoadedPair]:
        """Yield this process's share of the held-out pairs."""
        raise NotImplementedError

    def _crop_batches(self, plan: EpochPlan) -> Generator[Optional[CropBatch], None, None]:
        """Yield this process's crops of every batch, each valid until the next is asked for."""
        raise NotImplementedError

    def _crop_batch(self, loaded: Mapping[int, torch.Tensor], batch: Sequence[Crop]) -> Optional[CropBatch]:
        """Return this process's crops of a batch, from the pairs that are loaded; None where there is none."""
        usable = [crop for crop in batch if crop.pair in loaded]
        if not usable:
            return None

        # Others take the places of those that cannot be cut: every batch stays full, in every process.
        crops = [crop if crop.pair in loaded else usable[i % len(usable)] for i, crop in enumerate(batch)]
        crops = crops[self.shard.rank :: self.shard.n_ranks]
        side = self.crop
        pixels = [loaded[crop.pair][:, crop.y : crop.y + side, crop.x : crop.x + side] for crop in crops]

        # One buffer for all batches: new memory for each would cost more than the copy into it.
        if self._buffer is None or len(self._buffer) != len(pixels):
            is_pinned = self.keep.type == "cpu" and self.device.type == "cuda"
            shape = (len(pixels), 2, side, side)
            self._buffer = torch.empty(shape, dtype=torch.float16, device=pixels[0].device, pin_memory=is_pinned)
        if self._buffer.is_cuda:
            torch.stack(pixels, out=self._buffer)
        else:  # by NumPy: PyTorch's threads would fight with those that read
            np.stack([part.numpy() for part in pixels], out=self._buffer.numpy())
        return CropBatch(crops, self._buffer)

    def _read(self, pair: HalfPair, readers: Executor, memory: Optional[torch.Tensor] = None) -> Optional[LoadedPair]:
        """Return a pair's halves in host memory, or None after noting why it cannot be used."""
        if pair.name in self.failures:
            return None
        try:
            return self._reader.read(pair, readers, memory)
        except Exception as error:  # one bad pair never ends a training
            problem = self.failures[pair.name] = problem_of(error, pair.name)
            write_above_bar(f"Left out: {problem}")
            return None


def augment(pixels: torch.Tensor, crops: Sequence[Crop]) -> Batch:
    """Turn, mirror and swap the halves `(batch, 2, y, x)` as the plan says; return inputs and targets."""
    turned = []
    for halves, crop in zip(pixels, crops):
        halves = torch.rot90(halves.transpose(-2, -1) if crop.view >= 4 else halves, crop.view % 4, (-2, -1))
        turned.append(halves.flip(0) if crop.swap else halves)
    batch = torch.stack(turned, dim=1).unsqueeze(2).float()
    return batch[0], batch[1]


class ManagedLoader(Loader):
    """Keeps every pair in memory from the start: on the GPU or in the host, as `keep` says.

    Parameters
    ----------
    on_read
        Is called for each pair that was read, by any thread.
    """

    def __init__(
        self,
        training: Sequence[HalfPair],
        held_out: Sequence[HalfPair],
        crop: int,
        device: torch.device,
        shard: Shard = Shard(),
        normalization: Normalization = STANDARD,
        keep: torch.device = torch.device("cpu"),
        on_read: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(training, held_out, crop, device, shard, normalization)
        self.keep, self._on_read = keep, on_read

        with ThreadPoolExecutor(N_READERS) as readers, ThreadPoolExecutor(N_PAIRS_AT_ONCE) as pool:
            loaded = list(pool.map(lambda pair: self._keep(pair, readers), [*self._pairs, *self._held_out_pairs]))

        self._loaded = {i: item.halves for i, item in enumerate(loaded[: len(self._pairs)]) if item is not None}
        self._held_out = [item for item in loaded[len(self._pairs) :] if item is not None]

    def _keep(self, pair: HalfPair, readers: Executor) -> Optional[LoadedPair]:
        item = self._read(pair, readers)
        self._on_read()
        return item and replace(item, halves=item.halves.to(self.keep))

    def _crop_batches(self, plan: EpochPlan) -> Generator[Optional[CropBatch], None, None]:
        for batch in plan.batches:
            yield self._crop_batch(self._loaded, batch)

    def held_out(self) -> Iterator[LoadedPair]:
        """Yield this process's share of the held-out pairs."""
        return iter(self._held_out)


class StreamingLoader(Loader):
    """Reads pairs in the order of the plan, ahead of their use and inside a memory budget.

    Parameters
    ----------
    budget_bytes
        Host memory for loaded pairs; it is taken once and used again. A batch that needs more at once gets it.
    window
        Memory that is shared with other processes, which read for each other; None takes its own.
    """

    def __init__(
        self,
        training: Sequence[HalfPair],
        held_out: Sequence[HalfPair],
        crop: int,
        device: torch.device,
        shard: Shard = Shard(),
        normalization: Normalization = STANDARD,
        budget_bytes: int = 1 << 30,
        window: Optional[Window] = None,
    ) -> None:
        super().__init__(training, held_out, crop, device, shard, normalization)
        pairs = [*self._pairs, *self._held_out_pairs]
        self.window = window or Window.of(*slots_of(pairs, budget_bytes))

    def held_out(self) -> Iterator[LoadedPair]:
        """Yield this process's share of the held-out pairs, read anew; each is valid until the next is asked for."""
        pairs = self._held_out_pairs
        with self.window.use():
            for ready in self._ready(pairs, [[index] for index in range(len(pairs))], self.window.held_out()):
                yield from ready.values()

    def _crop_batches(self, plan: EpochPlan) -> Generator[Optional[CropBatch], None, None]:
        with self.window.use(), closing(self._ready(self._pairs, plan.needs(), self.window)) as steps:
            for ready, batch in zip(steps, plan.batches):
                yield self._crop_batch({index: item.halves for index, item in ready.items()}, batch)

    def _ready(
        self, pairs: Sequence[HalfPair], needs: Sequence[Sequence[int]], window: Window
    ) -> Generator[Dict[int, LoadedPair], None, None]:
        """Yield, for every step, the pairs that it needs and that can be used; later ones are read meanwhile.

        Parameters
        ----------
        pairs
            All of them.
        needs
            Indices of the pairs that each step needs.
        window
            Memory for them.
        """
        last_step = {index: number for number, wanted in enumerate(needs) for index in wanted}
        readings: Dict[int, Reading] = {}
        futures: Dict[int, Future] = {}  # of those that this process reads

        with ThreadPoolExecutor(N_READERS) as readers, ThreadPoolExecutor(N_PAIRS_AT_ONCE) as pool:
            try:
                for number, (wanted, coming) in enumerate(zip(needs, plan_readings(needs, window.n_slots))):
                    for reading in coming:
                        index = reading.pair
                        readings[index] = reading
                        if window.reads(reading):
                            futures[index] = pool.submit(self._read_into, window, reading, pairs[index], readers)

                    loaded = {
                        index: futures[index].result() if index in futures
                        else self._fetch(window, readings[index], pairs[index])
                        for index in wanted
                    }  # fmt: skip
                    yield {index: item for index, item in loaded.items() if item is not None}

                    for index in wanted:
                        if last_step[index] == number:
                            del readings[index]
                            futures.pop(index, None)
                    window.advance(number + 1)
            finally:
                # Of an epoch that ends early: no reader may write into a slot that the next epoch uses.
                window.stop()
                for future in futures.values():
                    future.cancel()
                wait(futures.values())

    def _read_into(self, window: Window, reading: Reading, pair: HalfPair, readers: Executor) -> Optional[LoadedPair]:
        """Read a pair into its slot, for the other processes as well."""
        item = self._read(pair, readers, window.memory(reading))
        window.publish(reading, self.failures[pair.name] if item is None else item)
        return item

    def _fetch(self, window: Window, reading: Reading, pair: HalfPair) -> Optional[LoadedPair]:
        """Return a pair that another process reads, or None after noting what it said."""
        item = window.fetch(reading, pair)
        if isinstance(item, Problem):
            self.failures[pair.name] = item
            return None
        return item


def slots_of(pairs: Sequence[HalfPair], budget_bytes: int) -> Tuple[int, int]:
    """Return how many pairs are held at once inside a budget, and how many pixels both halves of the largest have."""
    most_pixels = max(pair.n_bytes for pair in pairs) // 2
    return max(1, min(budget_bytes // (2 * most_pixels), len(pairs))), most_pixels


def _on_gpu(batches: Iterator[Optional[CropBatch]], device: torch.device) -> Iterator[Optional[CropBatch]]:
    """Yield batches with their pixels on the GPU, copied in a stream of their own while it computes."""
    transfer = GpuTransfer(device)
    for batch in batches:
        if batch is None:
            yield None
            continue
        with transfer.stream():
            pixels = batch.pixels.to(device, non_blocking=True)
        yield CropBatch(batch.crops, transfer.synchronize(pixels))


def prefetch(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Yield what an iterator yields; a thread, which ends with this iteration, fetches one item while one is used."""
    with ThreadPoolExecutor(1) as thread:
        coming: Future = thread.submit(next, items, _END)
        while True:
            item = coming.result()
            if item is _END:
                return
            coming = thread.submit(next, items, _END)
            yield item
