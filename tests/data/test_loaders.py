from __future__ import annotations

import errno
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Iterator, List, Set

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoden.data.crops import Crop, EpochPlan
from cryoden.data.loaders import Batch, ManagedLoader, Shard, StreamingLoader, augment, prefetch
from cryoden.data.pair_reader import PairReader, load_pair
from cryoden.data.pairs import HalfPair, find_pairs
from tests.helpers import write_halves

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> List[HalfPair]:
    folder = tmp_path_factory.mktemp("halves")
    write_halves(folder, 6, (64, 72))
    return find_pairs(str(folder / "odd"), str(folder / "even"))[0]


def plan_of(pairs: List[HalfPair], seed: int, epoch: int = 0, batch_size: int = 3, window: int = 2) -> EpochPlan:
    return EpochPlan.draw([pair.used_shape for pair in pairs], 32, batch_size, seed, epoch, window)


def assert_same(first: List[Batch], second: List[Batch]) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second):
        assert (one is None) == (other is None)  # a batch without a usable micrograph
        if one is not None:
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.integers(0, 9), st.integers(1, 7), st.sampled_from([1, 10**5, 10**9]))
def test_both_loaders_give_bit_identical_batches(
    pairs: List[HalfPair], seed: int, epoch: int, batch_size: int, budget_bytes: int
) -> None:
    plan = plan_of(pairs, seed, epoch, batch_size)
    managed = list(ManagedLoader(pairs, [], 32, CPU).batches(plan))
    assert_same(managed, list(StreamingLoader(pairs, [], 32, CPU, budget_bytes=budget_bytes).batches(plan)))


def test_both_loaders_leave_out_the_same_crops_of_a_bad_pair(tmp_path: Path) -> None:
    write_halves(tmp_path, 3, (64, 64))
    pairs = find_pairs("odd", "even")[0]
    path = tmp_path / "odd" / "mic1.mrc"
    path.write_bytes(path.read_bytes()[:3000])
    managed, streaming = (
        ManagedLoader(pairs, [], 32, CPU),
        StreamingLoader(pairs, [], 32, CPU, budget_bytes=1),
    )
    assert_same(list(managed.batches(plan_of(pairs, 1))), list(streaming.batches(plan_of(pairs, 1))))
    assert managed.failures == streaming.failures
    assert list(managed.failures) == ["mic1"]


def test_crops_of_a_bad_pair_are_replaced_by_others_of_their_batch(tmp_path: Path) -> None:
    """Every batch stays full, with the good crops where they were."""
    write_halves(tmp_path, 3, (64, 64))
    pairs = find_pairs("odd", "even")[0]
    plan = plan_of(pairs, 1)
    whole = list(ManagedLoader(pairs, [], 32, CPU).batches(plan))
    path = tmp_path / "odd" / "mic1.mrc"
    path.write_bytes(path.read_bytes()[:3000])
    mended = ManagedLoader(pairs, [], 32, CPU).batches(plan)
    # a batch of bad crops only has nothing to take their place
    usable = [i for i, batch in enumerate(plan.batches) if {crop.pair for crop in batch} != {1}]
    n_replaced = 0
    for number, batch in enumerate(mended):
        assert (batch is not None) == (number in usable)
        if batch is None:
            continue
        (inputs, targets), crops = batch, plan.batches[number]
        assert len(inputs) == len(targets) == len(crops)
        good = [i for i, crop in enumerate(crops) if crop.pair != 1]
        for i, crop in enumerate(crops):
            assert torch.equal(inputs[i], whole[number][0][i]) == (crop.pair != 1)
            assert any(same_place(inputs[i], inputs[j]) or same_place(inputs[i], targets[j]) for j in good)
            n_replaced += crop.pair == 1
    assert n_replaced > 0
    assert number == len(plan.batches) - 1


def same_place(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether two crops have the same pixels, in whatever order."""
    return torch.equal(first.ravel().sort().values, second.ravel().sort().values)


def test_shares_together_are_the_whole_batches(pairs: List[HalfPair]) -> None:
    plan = plan_of(pairs, 1, batch_size=6)
    whole = list(ManagedLoader(pairs, [], 32, CPU).batches(plan))
    shares = [
        list(kind(pairs, [], 32, CPU, Shard(rank, 3)).batches(plan))
        for rank, kind in enumerate((ManagedLoader, StreamingLoader, ManagedLoader))
    ]
    for number, batch in enumerate(whole):
        for part in (0, 1):
            together = torch.stack([share[number][part] for share in shares], dim=1).flatten(0, 1)
            assert torch.equal(together, batch[part])


def test_shares_together_hold_all_held_out_pairs_once(pairs: List[HalfPair]) -> None:
    loaders = [ManagedLoader([], pairs[:5], 32, CPU, Shard(rank, 2)) for rank in (0, 1)]
    names = [item.pair.name for loader in loaders for item in loader.held_out()]
    assert sorted(names) == [pair.name for pair in pairs[:5]]


class Meter:
    """Notes which pairs `PairReader.read` reads, and into which pieces of memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: List[str] = []
        self.memory: Set[int] = set()
        read = PairReader.read

        def noted(reader: PairReader, pair: HalfPair, pool: object, memory: torch.Tensor) -> object:
            self.names.append(pair.name)
            self.memory.add(memory.data_ptr())
            return read(reader, pair, pool, memory)

        monkeypatch.setattr(PairReader, "read", noted)


@pytest.mark.parametrize("n_fitting", [2, 3, 4])
def test_streaming_uses_its_budget_again_and_no_more(
    pairs: List[HalfPair], monkeypatch: pytest.MonkeyPatch, n_fitting: int
) -> None:
    meter = Meter(monkeypatch)
    plan = plan_of(pairs, 1, batch_size=1, window=1)
    loader = StreamingLoader(pairs, [], 32, CPU, budget_bytes=n_fitting * pairs[0].n_bytes + 1)
    for _ in range(2):
        assert sum(1 for _ in loader.batches(plan)) == len(plan.batches)
    assert sorted(meter.names) == sorted(2 * [pair.name for pair in pairs])  # each pair is read once an epoch
    assert len(meter.memory) == loader.window.n_slots == n_fitting


def test_streaming_reads_ahead_in_the_order_of_use(pairs: List[HalfPair], monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(monkeypatch)
    plan = plan_of(pairs, 1, batch_size=1, window=1)
    loader = StreamingLoader(pairs, [], 32, CPU, budget_bytes=3 * pairs[0].n_bytes)
    batches = loader.batches(plan)
    next(batches)
    wait_for(lambda: len(meter.names) == 3)
    batches.close()
    used = list(dict.fromkeys(crop.pair for batch in plan.batches for crop in batch))
    assert meter.names == [pairs[index].name for index in used[:3]]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_memory_of_an_interrupted_epoch_is_used_again(pairs: List[HalfPair], monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(monkeypatch)
    loader = StreamingLoader(pairs, [], 32, CPU, budget_bytes=3 * pairs[0].n_bytes)
    for seed in range(5):
        batches = loader.batches(plan_of(pairs, seed))
        next(batches)
        batches.close()
    assert len(meter.memory) <= loader.window.n_slots == 3


@pytest.mark.parametrize("n_fitting", [1, 3])
def test_streaming_reads_held_out_pairs_into_the_same_memory(
    pairs: List[HalfPair], monkeypatch: pytest.MonkeyPatch, n_fitting: int
) -> None:
    meter = Meter(monkeypatch)
    loader = StreamingLoader([], pairs, 32, CPU, budget_bytes=n_fitting * pairs[0].n_bytes)
    assert [item.pair.name for item in loader.held_out()] == [pair.name for pair in pairs]
    assert len(meter.memory) == n_fitting


def test_batch_that_needs_more_than_the_budget_gets_it(pairs: List[HalfPair]) -> None:
    plan = plan_of(pairs, 1, batch_size=24, window=6)
    assert max(len({crop.pair for crop in batch}) for batch in plan.batches) > 3
    loader = StreamingLoader(pairs, [], 32, CPU, budget_bytes=1)
    assert len(list(loader.batches(plan))) == len(plan.batches)
    assert loader.window.n_slots == 1  # and gives it back


@pytest.mark.parametrize("kind", [ManagedLoader, StreamingLoader])
@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (
            ZeroDivisionError("division by zero"),
            "mic1 failed unexpectedly (ZeroDivisionError: division by zero); see the log file.",
        ),
        (OSError(errno.EIO, "Input/output error"), "mic1 cannot be read (Input/output error)."),
        (
            OSError(errno.ESTALE, "Stale file handle", "odd/mic1.mrc"),
            "odd/mic1.mrc cannot be read (Stale file handle).",
        ),
        (PermissionError(errno.EACCES, "Permission denied"), "mic1 cannot be read (Permission denied)."),
        (MemoryError(), "mic1 does not fit into the memory that is free."),
    ],
)
def test_whatever_happens_to_one_pair_leaves_out_that_pair(
    pairs: List[HalfPair], monkeypatch: pytest.MonkeyPatch, kind: type, error: Exception, problem: str
) -> None:
    before = threading.active_count()
    read = PairReader.read

    def fail_one(reader: PairReader, pair: HalfPair, *rest: Any) -> Any:
        if pair.name == "mic1":
            raise error
        return read(reader, pair, *rest)

    monkeypatch.setattr(PairReader, "read", fail_one)
    loader = kind(pairs, [], 32, CPU)
    batches = list(loader.batches(plan_of(pairs, 1)))  # all of them: the pair may be read for the last one
    assert any(batch is not None for batch in batches)
    assert {name: str(problem) for name, problem in loader.failures.items()} == {"mic1": problem}
    assert threading.active_count() == before


def test_reading_ahead_changes_nothing(pairs: List[HalfPair]) -> None:
    """What a GPU gets by way of a thread is what a CPU gets without."""
    plan = plan_of(pairs, 1)
    loader = StreamingLoader(pairs, [], 32, CPU, budget_bytes=1)
    copied = (batch and replace(batch, pixels=batch.pixels.clone()) for batch in loader._crop_batches(plan))
    ahead = [augment(batch.pixels.float(), batch.crops) for batch in prefetch(copied) if batch is not None]
    assert_same(ahead, list(loader.batches(plan)))


def test_unexpected_error_of_the_thread_ahead_reaches_the_training() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    before = threading.active_count()
    ahead = prefetch(items())
    assert next(ahead) == 1
    with pytest.raises(ZeroDivisionError):
        next(ahead)
    assert threading.active_count() == before


def test_thread_ahead_ends_with_the_epoch() -> None:
    before = threading.active_count()
    ahead = prefetch(iter(range(100)))
    assert next(ahead) == 0
    ahead.close()
    assert threading.active_count() == before


def test_streaming_ends_its_thread_when_an_epoch_is_cut_short(pairs: List[HalfPair]) -> None:
    before = threading.active_count()
    batches = StreamingLoader(pairs, [], 32, CPU, budget_bytes=1).batches(plan_of(pairs, 1))
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_held_out_pairs_are_the_same_for_both_loaders(pairs: List[HalfPair]) -> None:
    first = list(ManagedLoader([], pairs[:2], 32, CPU).held_out())
    second = StreamingLoader([], pairs[:2], 32, CPU, budget_bytes=1).held_out()
    assert [item.pair.name for item in first] == ["mic0", "mic1"]
    for one, other in zip(first, second):
        assert (one.pair, one.data_range) == (other.pair, other.data_range)
        assert torch.equal(one.halves, other.halves)


def test_input_and_target_are_the_two_halves_of_one_place(pairs: List[HalfPair]) -> None:
    """Each crop's input and target are found at one place of one pair, one in odd and the other in even."""
    plan = plan_of(pairs, 3)
    halves = [load_pair(pair).halves.numpy() for pair in pairs]
    for crops, (inputs, targets) in zip(plan.batches, ManagedLoader(pairs, [], 32, CPU).batches(plan)):
        for crop, given_, wanted in zip(crops, inputs[:, 0].numpy(), targets[:, 0].numpy()):
            odd, even = halves[crop.pair][:, crop.y : crop.y + 32, crop.x : crop.x + 32]
            turn = (lambda a: a.T) if crop.view >= 4 else (lambda a: a)
            expected = [np.rot90(turn(half), crop.view % 4) for half in (odd, even)]
            if crop.swap:
                expected.reverse()
            np.testing.assert_array_equal(given_, expected[0])
            np.testing.assert_array_equal(wanted, expected[1])
            assert not np.array_equal(given_, wanted)


def test_the_8_views_are_all_different() -> None:
    halves = torch.arange(32.0).reshape(1, 2, 4, 4)
    views = [augment(halves, [Crop(0, 0, 0, view, False)])[0] for view in range(8)]
    assert len({tuple(batch.ravel().tolist()) for batch in views}) == 8
