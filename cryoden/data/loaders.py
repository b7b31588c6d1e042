"""Two ways to feed one plan: everything in memory, or a window that background threads keep filled."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Deque, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch

from cryoden.data.crops import Crop, EpochPlan
from cryoden.data.normalize import STANDARD, Normalization
from cryoden.data.pairs import HalfPair
from cryoden.errors import CryodenError

log = logging.getLogger(__name__)

N_READERS = 4
"""Threads that read micrographs side by side; more do not help a disk."""

N_AHEAD = 2
"""Batches cut ahead of the GPU."""

_END = object()
"""Tells the thread that iterates that no batch follows."""

Batch = Tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets, each float32 `(crops, 1, side, side)`."""


@dataclass(frozen=True)
class HeldOut:
    """A held-out pair: its halves, standardised `(2, y, x)`, and their data range."""

    pair: HalfPair
    halves: torch.Tensor
    data_range: float


@dataclass(frozen=True)
class Cut:
    """The crops of one batch and their pixels, both halves of each, float16 `(crops, 2, side, side)`."""

    crops: List[Crop]
    pixels: torch.Tensor


@dataclass(frozen=True)
class Share:
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
    share
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
        share: Share = Share(),
        normalization: Normalization = STANDARD,
    ) -> None:
        self._pairs, self._held_out_pairs = list(training), list(held_out)[share.rank :: share.n_ranks]
        self.crop, self.device, self.share, self.normalization = crop, device, share, normalization
        self.keep = torch.device("cpu")
        self.failures: Dict[str, str] = {}

    def batches(self, plan: EpochPlan) -> Iterator[Optional[Batch]]:
        """Yield this process's share of the plan's batches, on the device; cutting and copying run ahead of a GPU.

        A batch none of whose micrographs can be used is None.
        """
        cuts = self._cuts(plan)
        for cut in _ahead(cuts) if self.device.type != self.keep.type else cuts:
            yield None if cut is None else orient(cut.pixels.to(self.device, non_blocking=True), cut.crops)

    def held_out(self) -> Iterator[HeldOut]:
        """Yield this process's share of the held-out pairs."""
        raise NotImplementedError

    def _cuts(self, plan: EpochPlan) -> Iterator[Optional[Cut]]:
        """Yield this process's cut of every batch."""
        raise NotImplementedError

    def _cut_batch(self, loaded: Mapping[int, torch.Tensor], batch: List[Crop]) -> Optional[Cut]:
        usable = [crop for crop in batch if crop.pair in loaded]
        if not usable:
            return None
        crops = [crop if crop.pair in loaded else usable[i % len(usable)] for i, crop in enumerate(batch)]
        crops = crops[self.share.rank :: self.share.n_ranks]
        side = self.crop
        cuts = [loaded[crop.pair][:, crop.y : crop.y + side, crop.x : crop.x + side] for crop in crops]
        resident = cuts[0].device
        pin = resident.type == "cpu" and self.device.type == "cuda"
        pixels = torch.empty((len(cuts), 2, side, side), dtype=torch.float16, device=resident, pin_memory=pin)
        return Cut(crops, torch.stack(cuts, out=pixels))

    def _load(self, pair: HalfPair) -> Optional[HeldOut]:
        """Return a pair's halves in host memory, or None after noting why it cannot be used."""
        if pair.name in self.failures:
            return None
        try:
            loaded = pair.load(self.normalization)
        except CryodenError as error:
            self.failures[pair.name] = str(error)
            log.error("Left out: %s", error)
            return None
        return HeldOut(pair, torch.from_numpy(loaded.halves), loaded.data_range)


def orient(pixels: torch.Tensor, crops: Sequence[Crop]) -> Batch:
    """Turn, mirror and swap the halves `(crops, 2, side, side)` as the plan says; return inputs and targets."""
    turned = []
    for halves, crop in zip(pixels, crops):
        halves = torch.rot90(halves.transpose(-2, -1) if crop.view >= 4 else halves, crop.view % 4, (-2, -1))
        turned.append(halves.flip(0) if crop.swap else halves)
    batch = torch.stack(turned, dim=1).unsqueeze(2).float()
    return batch[0], batch[1]


class ManagedLoader(Loader):
    """Keeps every pair in memory from the start: on the GPU or in the host, as `keep` says."""

    def __init__(
        self,
        training: Sequence[HalfPair],
        held_out: Sequence[HalfPair],
        crop: int,
        device: torch.device,
        share: Share = Share(),
        normalization: Normalization = STANDARD,
        keep: torch.device = torch.device("cpu"),
    ) -> None:
        super().__init__(training, held_out, crop, device, share, normalization)
        self.keep = keep
        with ThreadPoolExecutor(N_READERS) as pool:
            kept = pool.map(lambda pair: self._keep(pair, keep), [*self._pairs, *self._held_out_pairs])
        loaded = list(kept)
        self._loaded = {i: item.halves for i, item in enumerate(loaded[: len(self._pairs)]) if item is not None}
        self._held_out = [item for item in loaded[len(self._pairs) :] if item is not None]

    def _keep(self, pair: HalfPair, keep: torch.device) -> Optional[HeldOut]:
        item = self._load(pair)
        return item and HeldOut(item.pair, item.halves.to(keep), item.data_range)

    def _cuts(self, plan: EpochPlan) -> Iterator[Optional[Cut]]:
        for batch in plan.batches:
            yield self._cut_batch(self._loaded, batch)

    def held_out(self) -> Iterator[HeldOut]:
        """Yield this process's share of the held-out pairs."""
        return iter(self._held_out)


class StreamingLoader(Loader):
    """Reads pairs in the order of the plan, ahead of their use and inside a memory budget.

    Parameters
    ----------
    budget_bytes
        Host memory for loaded pairs. A batch that needs more at once gets it.
    """

    def __init__(
        self,
        training: Sequence[HalfPair],
        held_out: Sequence[HalfPair],
        crop: int,
        device: torch.device,
        share: Share = Share(),
        normalization: Normalization = STANDARD,
        budget_bytes: int = 1 << 30,
    ) -> None:
        super().__init__(training, held_out, crop, device, share, normalization)
        self.budget_bytes = budget_bytes

    def _cuts(self, plan: EpochPlan) -> Iterator[Optional[Cut]]:
        spans = plan.spans()
        last_batch = {pair: last for pair, _, last in spans}
        coming: Deque[int] = deque(pair for pair, _, _ in spans)
        window: Dict[int, Future] = {}
        with ThreadPoolExecutor(N_READERS) as pool:
            for number, batch in enumerate(plan.batches):
                wanted = {crop.pair for crop in batch}
                for pair in [pair for pair in window if last_batch[pair] < number]:
                    del window[pair]
                while coming and (self._has_room(window, coming[0]) or not wanted <= set(window)):
                    pair = coming.popleft()
                    window[pair] = pool.submit(self._load, self._pairs[pair])
                ready = {pair: window[pair].result() for pair in wanted}
                cut = self._cut_batch({pair: item.halves for pair, item in ready.items() if item}, batch)
                ready.clear()  # or the pairs of this batch would outlive their place in the window
                yield cut

    def _has_room(self, window: Iterable[int], pair: int) -> bool:
        return sum(self._pairs[p].n_bytes for p in window) + self._pairs[pair].n_bytes <= self.budget_bytes

    def held_out(self) -> Iterator[HeldOut]:
        """Yield this process's share of the held-out pairs, read anew."""
        for pair in self._held_out_pairs:
            item = self._load(pair)
            if item is not None:
                yield item


def _ahead(items: Iterator[Optional[Cut]]) -> Iterator[Optional[Cut]]:
    """Yield what an iterator yields, computed a few steps ahead by a thread that ends with this iteration."""
    ready: queue.Queue = queue.Queue(N_AHEAD)
    stopped = threading.Event()

    def put(entry: object) -> None:
        while not stopped.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(_END)
        except BaseException as error:  # raised again by the thread that iterates
            put(error)

    thread = threading.Thread(target=work, name="cryoden-batches", daemon=True)
    thread.start()
    try:
        while True:
            entry = ready.get()
            if entry is _END:
                return
            if isinstance(entry, BaseException):
                raise entry
            yield entry
    finally:
        stopped.set()
        thread.join()
