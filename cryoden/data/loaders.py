"""Two ways to feed one plan: everything in memory, or a window that a background thread keeps filled."""

from __future__ import annotations

import logging
import threading
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import torch

from cryoden.data.crops import Crop, EpochPlan
from cryoden.data.pairs import HalfPair, check_correlation
from cryoden.errors import CryodenError, TrainingError

log = logging.getLogger(__name__)

Batch = Tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets, each float32 `(crops, 1, side, side)`."""


def load_checked(pair: HalfPair) -> torch.Tensor:
    """Return both halves `(2, y, x)` after checking that they belong together.

    Raises
    ------
    CryodenError
        If a half is unusable or the two do not come from one movie.
    """
    halves = pair.load()
    check_correlation(pair.name, halves)
    return torch.from_numpy(halves)


def cut_batch(halves: Mapping[int, torch.Tensor], crops: Sequence[Crop], side: int) -> Optional[Batch]:
    """Cut crops out of the loaded pairs; crops of pairs that failed to load are left out (None: nothing is left)."""
    cuts = []
    for crop in crops:
        if crop.pair not in halves:
            continue
        cut = halves[crop.pair][:, crop.y : crop.y + side, crop.x : crop.x + side]
        if crop.view >= 4:
            cut = cut.transpose(-2, -1)
        cut = torch.rot90(cut, crop.view % 4, (-2, -1))
        cuts.append(cut.flip(0) if crop.swap else cut)
    if not cuts:
        return None
    batch = torch.stack(cuts, dim=1).unsqueeze(2)
    return batch[0], batch[1]


class ManagedLoader:
    """Keeps every pair on the device (or in host memory) from the start.

    Parameters
    ----------
    training, held_out
        Pairs of halves.
    crop
        Side of the crops in pixels.
    device
        Where batches are wanted; the pairs are kept there too if `resident` says so.
    resident
        Device on which the pairs are kept.
    """

    def __init__(
        self,
        training: Sequence[HalfPair],
        held_out: Sequence[HalfPair],
        crop: int,
        device: torch.device,
        resident: torch.device,
    ) -> None:
        self.crop, self.device = crop, device
        self.failures: Dict[str, str] = {}
        self._training = self._load_all(training, resident)
        self._held_out = [(held_out[i], halves) for i, halves in self._load_all(held_out, resident).items()]

    def _load_all(self, pairs: Sequence[HalfPair], resident: torch.device) -> Dict[int, torch.Tensor]:
        loaded = {}
        for number, pair in enumerate(pairs):
            try:
                loaded[number] = load_checked(pair).to(resident)
            except CryodenError as error:
                _record(self.failures, pair, error)
        return loaded

    def batches(self, plan: EpochPlan) -> Iterator[Batch]:
        """Yield the plan's batches on the device."""
        for crops in plan.batches:
            batch = cut_batch(self._training, crops, self.crop)
            if batch is not None:
                yield batch[0].to(self.device), batch[1].to(self.device)

    def held_out(self) -> Iterator[Tuple[HalfPair, torch.Tensor]]:
        """Yield every held-out pair with its halves `(2, y, x)`."""
        return iter(self._held_out)


class StreamingLoader:
    """Reads pairs in the order of the plan, ahead of their use and inside a memory budget.

    Parameters
    ----------
    training, held_out, crop, device
        As in `ManagedLoader`.
    budget_bytes
        Host memory for loaded pairs. A batch that needs more at once gets it.
    """

    def __init__(
        self,
        training: Sequence[HalfPair],
        held_out: Sequence[HalfPair],
        crop: int,
        device: torch.device,
        budget_bytes: int,
    ) -> None:
        self.crop, self.device, self.budget_bytes = crop, device, budget_bytes
        self.failures: Dict[str, str] = {}
        self._pairs, self._held_out = list(training), list(held_out)

    def batches(self, plan: EpochPlan) -> Iterator[Batch]:
        """Yield the plan's batches on the device; the reading thread ends with the iteration."""
        window = _Window(self._pairs, plan.spans(), self.budget_bytes, self.failures)
        window.start()
        try:
            for number, crops in enumerate(plan.batches):
                batch = cut_batch(window.wait_for(number, {crop.pair for crop in crops}), crops, self.crop)
                if batch is not None:
                    yield batch[0].to(self.device), batch[1].to(self.device)
        finally:
            window.stop()

    def held_out(self) -> Iterator[Tuple[HalfPair, torch.Tensor]]:
        """Yield every held-out pair with its halves `(2, y, x)`, read anew."""
        for pair in self._held_out:
            if pair.name in self.failures:
                continue
            try:
                halves = load_checked(pair)
            except CryodenError as error:
                _record(self.failures, pair, error)
                continue
            yield pair, halves


Loader = Union[ManagedLoader, StreamingLoader]


class _Window(threading.Thread):
    """The background reader of one epoch: loads pairs in the order of their first use, drops them after the last."""

    def __init__(
        self,
        pairs: List[HalfPair],
        spans: List[Tuple[int, int, int]],
        budget_bytes: int,
        failures: Dict[str, str],
    ) -> None:
        super().__init__(name="cryoden-window", daemon=True)
        self._pairs, self._spans, self._budget, self._failures = pairs, spans, budget_bytes, failures
        self._last_batch = {pair: last for pair, _, last in spans}
        self._loaded: Dict[int, torch.Tensor] = {}
        self._read: set = set()
        self._wanted: set = set()
        self._stopped = False
        self._error: Optional[BaseException] = None
        self._changed = threading.Condition()

    def run(self) -> None:
        """Load pair after pair, waiting while the window is full and nobody waits for more."""
        try:
            for number, _, _ in self._spans:
                pair = self._pairs[number]
                with self._changed:
                    self._changed.wait_for(lambda n=number: self._stopped or self._has_room(n))  # type: ignore[misc]
                    if self._stopped:
                        return
                halves = None
                if pair.name not in self._failures:
                    try:
                        halves = load_checked(pair)
                    except CryodenError as error:
                        _record(self._failures, pair, error)
                with self._changed:
                    if halves is not None:
                        self._loaded[number] = halves
                    self._read.add(number)
                    self._changed.notify_all()
        except BaseException as error:  # handed to the training thread, which raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _has_room(self, number: int) -> bool:
        used = sum(self._pairs[n].n_bytes for n in self._loaded)
        return used + self._pairs[number].n_bytes <= self._budget or not self._wanted <= self._read

    def wait_for(self, batch: int, wanted: set) -> Mapping[int, torch.Tensor]:
        """Return the loaded pairs once all wanted ones were read; pairs whose last batch has passed are dropped."""
        with self._changed:
            for number in [n for n in self._loaded if self._last_batch[n] < batch]:
                del self._loaded[number]
            self._wanted = wanted
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._error is not None or wanted <= self._read)
            if self._error is not None:
                raise TrainingError(f"Reading micrographs failed: {self._error}") from self._error
            return {number: self._loaded[number] for number in wanted if number in self._loaded}

    def stop(self) -> None:
        """End the thread and wait for it."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self.join()


def _record(failures: Dict[str, str], pair: HalfPair, error: CryodenError) -> None:
    failures[pair.name] = str(error)
    log.error("Left out: %s", error)
