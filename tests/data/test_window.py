"""Memory that processes share: here they are threads, which is the same to it."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryoden.data import window as module
from cryoden.data.crops import EpochPlan
from cryoden.data.loaders import ManagedLoader, Shard, StreamingLoader, slots_of
from cryoden.data.pair_reader import PairReader
from cryoden.data.pairs import HalfPair, find_pairs
from cryoden.data.window import Reading, SharedWindow, plan_readings, share_window
from cryoden.errors import LostProcessError, Problem
from tests.helpers import in_ranks, write_halves

CPU = torch.device("cpu")
CROP = 32


@pytest.fixture
def pairs(tmp_path: Path) -> List[HalfPair]:
    write_halves(tmp_path, 6, (64, 72))
    return find_pairs("odd", "even")[0]


def plan_of(pairs: List[HalfPair], epoch: int) -> EpochPlan:
    return EpochPlan.draw([pair.used_shape for pair in pairs], CROP, 4, 1, epoch, window=2)


def share(n: int, n_slots: int = 3, n_pixels: int = 2 * 64 * 72) -> List[Optional[SharedWindow]]:
    shared = in_ranks(n, lambda rank, exchange: share_window(n_slots, n_pixels, rank, True, exchange))
    assert len({reason for _, reason in shared}) == 1
    return [window for window, _ in shared]


def share_loaders(training: List[HalfPair], held_out: List[HalfPair], n_fitting: int) -> List[StreamingLoader]:
    windows = share(2, *slots_of([*training, *held_out], n_fitting * training[0].n_bytes))
    return [
        StreamingLoader(training, held_out, CROP, CPU, Shard(rank, 2), window=window)
        for rank, window in enumerate(windows)
    ]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """Names of the pairs that have been read."""
    names: List[str] = []
    original = PairReader.read

    def noted(reader: PairReader, pair: HalfPair, *rest: Any) -> Any:
        names.append(pair.name)
        return original(reader, pair, *rest)

    monkeypatch.setattr(PairReader, "read", noted)
    return names


@given(st.lists(st.sets(st.integers(0, 9), min_size=1, max_size=4).map(sorted), max_size=20), st.integers(0, 5))
def test_no_slot_is_overwritten_while_somebody_needs_it(needs: List[List[int]], n_slots: int) -> None:
    plan = plan_readings(needs, n_slots)
    readings = [reading for coming in plan for reading in coming]
    assert [reading.number for reading in readings] == list(range(len(readings)))
    assert sorted(reading.pair for reading in readings) == sorted({pair for wanted in needs for pair in wanted})
    last_step = {pair: step for step, wanted in enumerate(needs) for pair in wanted}
    holder: Dict[int, int] = {}
    for step, coming in enumerate(plan):
        for reading in coming:
            assert reading.free_after <= step  # or who reads would wait for its own next step
            if reading.slot is not None:
                assert reading.slot < n_slots
                before = holder.get(reading.slot)
                assert before is None or last_step[before] < reading.free_after
                holder[reading.slot] = reading.pair
        there = {reading.pair for coming in plan[: step + 1] for reading in coming}
        assert there >= set(needs[step])


@pytest.mark.parametrize("n_fitting", [1, 3, 9])
def test_shares_are_those_of_one_process_and_each_pair_is_read_once(
    pairs: List[HalfPair], read: List[str], n_fitting: int
) -> None:
    """Two epochs with a validation between, one process ahead of the other as far as it may be."""
    training, held_out = pairs[:4], pairs[4:]
    plans = [plan_of(training, epoch) for epoch in (0, 1)]
    whole = [list(ManagedLoader(training, held_out, CROP, CPU).batches(plan)) for plan in plans]
    del read[:]
    loaders = share_loaders(training, held_out, n_fitting)

    def run(rank: int, exchange: Any) -> Any:
        loader = loaders[rank]
        first = list(loader.batches(plans[0]))
        validated = [(item.pair.name, item.data_range, item.halves.clone()) for item in loader.held_out()]
        return [first, list(loader.batches(plans[1]))], validated

    ranks = in_ranks(2, run)
    for epoch, batches in enumerate(whole):
        for number, batch in enumerate(batches):
            for part in (0, 1):
                together = torch.stack([shares[epoch][number][part] for shares, _ in ranks], dim=1).flatten(0, 1)
                assert torch.equal(together, batch[part])
    for (name, data_range, halves), expected in zip(
        [validated[0] for _, validated in ranks], ManagedLoader([], held_out, CROP, CPU).held_out()
    ):
        assert (name, data_range) == (expected.pair.name, expected.data_range)
        assert torch.equal(halves, expected.halves)
    del read[-2:]  # of the loader to compare with
    n_read = [read.count(pair.name) for pair in pairs]
    assert n_read[4:] == [1, 1]
    # What does not fit into the window is read by both.
    assert n_read[:4] == [2, 2, 2, 2] if n_fitting > 2 else all(2 <= n <= 4 for n in n_read[:4])


def test_a_pair_that_one_cannot_read_is_left_out_by_both_for_the_same_reason(pairs: List[HalfPair]) -> None:
    for number in (1, 2):
        path = Path(f"odd/mic{number}.mrc")
        path.write_bytes(path.read_bytes()[:3000])
    alone = StreamingLoader(pairs, [], CROP, CPU)
    whole = list(alone.batches(plan_of(pairs, 0)))
    loaders = share_loaders(pairs, [], 4)
    shares = in_ranks(2, lambda rank, _: list(loaders[rank].batches(plan_of(pairs, 0))))
    for batch, first, second in zip(whole, *shares):
        assert (first is None) == (second is None) == (batch is None)  # of bad ones only
        for part in () if batch is None else (0, 1):
            assert torch.equal(torch.stack([first[part], second[part]], dim=1).flatten(0, 1), batch[part])
    assert sorted(alone.failures) == ["mic1", "mic2"]
    assert loaders[0].failures == loaders[1].failures == alone.failures


def test_an_epoch_that_all_leave_early_is_followed_by_a_whole_one(pairs: List[HalfPair]) -> None:
    expected = list(ManagedLoader(pairs, [], CROP, CPU).batches(plan_of(pairs, 1)))
    loaders = share_loaders(pairs, [], 3)

    def run(rank: int, exchange: Any) -> Any:
        batches = loaders[rank].batches(plan_of(pairs, 0))
        next(batches)
        exchange(None)
        batches.close()
        return list(loaders[rank].batches(plan_of(pairs, 1)))

    before = threading.active_count()
    first, second = in_ranks(2, run)
    assert threading.active_count() == before
    for batch, one, other in zip(expected, first, second):
        assert torch.equal(torch.stack([one[0], other[0]], dim=1).flatten(0, 1), batch[0])


@pytest.mark.parametrize("is_dead", [True, False])
def test_who_waits_for_one_that_is_gone_is_told(
    pairs: List[HalfPair], monkeypatch: pytest.MonkeyPatch, is_dead: bool
) -> None:
    """The other one is killed, or has left the epoch by an error of its own."""
    monkeypatch.setattr(module, "LIFE_SECONDS", 0.01)
    loaders = share_loaders(pairs, [], 3)
    if is_dead:
        monkeypatch.setattr(module, "is_alive", lambda process: False)
    else:
        with pytest.raises(ZeroDivisionError), loaders[1].window.use():
            raise ZeroDivisionError
    with pytest.raises(LostProcessError, match="One of the 2 processes of this training ended early"):
        list(loaders[0].batches(plan_of(pairs, 0)))


def refuse(number: int) -> Callable[..., Any]:
    def refused(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("os.posix_fallocate", refuse(errno.ENOSPC), "No space left on device (shared memory of 0.00 GiB)"),
        ("_map", refuse(errno.EACCES), "a process cannot open the memory of another (Permission denied)"),
        ("uuid.uuid4", lambda: type("", (), {"bytes": os.urandom(7)}), "a process cannot open the memory of another"),
        ("host_name", lambda: str(threading.get_ident()), "each of them is on a machine of its own"),
    ],
)
def test_without_shared_memory_each_has_its_own_and_says_why(
    monkeypatch: pytest.MonkeyPatch, name: str, change: Any, reason: str
) -> None:
    n_open = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(f"cryoden.data.window.{name}", change)
    results = in_ranks(2, lambda rank, exchange: share_window(3, 100, rank, True, exchange))
    assert [window for window, _ in results] == [None, None]
    assert all(said.startswith(reason) for _, said in results)
    assert len(os.listdir("/proc/self/fd")) == n_open


def test_nothing_is_shared_if_one_keeps_all_in_memory() -> None:
    results = in_ranks(2, lambda rank, exchange: share_window(3, 100, rank, rank == 0, exchange))
    assert results == 2 * [(None, "not all of them stream")]


@pytest.mark.parametrize("has_memfd", [True, False])
def test_shared_memory_has_no_name(monkeypatch: pytest.MonkeyPatch, has_memfd: bool) -> None:
    """So a kill leaves nothing of it."""
    if not has_memfd:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    before = set(os.listdir("/dev/shm"))
    n_open = len(os.listdir("/proc/self/fd"))
    first, second = share(2)
    assert set(os.listdir("/dev/shm")) == before
    assert first is not None
    assert second is not None
    reading = Reading(0, 0, 0, 0)
    with first.use(), second.use():
        first.publish(reading, Problem("file", "It is 'torn' in 2 Å."))
        assert second.fetch(reading, None) == Problem("file", "It is 'torn' in 2 Å.")  # type: ignore[arg-type]
    del first, second
    assert len(os.listdir("/proc/self/fd")) == n_open
