from __future__ import annotations

import threading
from pathlib import Path
from typing import List

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoden.data.crops import Crop, EpochPlan
from cryoden.data.loaders import Batch, ManagedLoader, StreamingLoader, cut_batch
from cryoden.data.pairs import HalfPair, find_pairs
from tests.helpers import write_halves

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> List[HalfPair]:
    folder = tmp_path_factory.mktemp("halves")
    write_halves(folder, 6, (64, 72))
    return find_pairs(str(folder / "odd"), str(folder / "even"))[0]


def plan_of(pairs: List[HalfPair], seed: int, epoch: int = 0, batch_size: int = 3, window: int = 2) -> EpochPlan:
    return EpochPlan([pair.used_shape for pair in pairs], 32, batch_size, seed, epoch, window)


def assert_same(first: List[Batch], second: List[Batch]) -> None:
    assert len(first) == len(second) > 0
    for (a, b), (c, d) in zip(first, second):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.integers(0, 9), st.integers(1, 7), st.sampled_from([1, 10**5, 10**9]))
def test_both_loaders_give_bit_identical_batches(
    pairs: List[HalfPair], seed: int, epoch: int, batch_size: int, budget_bytes: int
) -> None:
    plan = plan_of(pairs, seed, epoch, batch_size)
    managed = list(ManagedLoader(pairs, [], 32, CPU, CPU).batches(plan))
    assert_same(managed, list(StreamingLoader(pairs, [], 32, CPU, budget_bytes).batches(plan)))


def test_both_loaders_leave_out_the_same_crops_of_a_bad_pair(tmp_path: Path) -> None:
    write_halves(tmp_path, 3, (64, 64))
    pairs = find_pairs("odd", "even")[0]
    path = tmp_path / "odd" / "mic1.mrc"
    path.write_bytes(path.read_bytes()[:3000])
    managed, streaming = ManagedLoader(pairs, [], 32, CPU, CPU), StreamingLoader(pairs, [], 32, CPU, 1)
    assert_same(list(managed.batches(plan_of(pairs, 1))), list(streaming.batches(plan_of(pairs, 1))))
    assert managed.failures == streaming.failures
    assert list(managed.failures) == ["mic1"]


def test_streaming_holds_no_more_than_its_budget_allows(
    pairs: List[HalfPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryoden.data import loaders

    most = 0
    wait_for = loaders._Window.wait_for

    def counted(window: loaders._Window, batch: int, wanted: set) -> object:
        nonlocal most
        found = wait_for(window, batch, wanted)
        most = max(most, len(window._loaded))
        return found

    monkeypatch.setattr(loaders._Window, "wait_for", counted)
    plan = plan_of(pairs, 1, batch_size=1, window=1)
    list(StreamingLoader(pairs, [], 32, CPU, pairs[0].n_bytes * 2).batches(plan))
    spans = plan.spans()
    needed = max(sum(f <= n <= last for _, f, last in spans) for n in range(len(plan.batches)))
    assert most <= max(2, needed) < len(pairs)


def test_streaming_ends_its_thread_when_an_epoch_is_cut_short(pairs: List[HalfPair]) -> None:
    before = threading.active_count()
    batches = StreamingLoader(pairs, [], 32, CPU, 1).batches(plan_of(pairs, 1))
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_unexpected_error_of_the_reading_thread_reaches_the_training(
    pairs: List[HalfPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryoden.errors import TrainingError

    monkeypatch.setattr(HalfPair, "load", lambda self: 1 / 0)
    with pytest.raises(TrainingError, match="Reading micrographs failed: division by zero"):
        list(StreamingLoader(pairs, [], 32, CPU, 1).batches(plan_of(pairs, 1)))


def test_held_out_pairs_are_the_same_for_both_loaders(pairs: List[HalfPair]) -> None:
    first = list(ManagedLoader([], pairs[:2], 32, CPU, CPU).held_out())
    second = list(StreamingLoader([], pairs[:2], 32, CPU, 1).held_out())
    assert [pair.name for pair, _ in first] == [pair.name for pair, _ in second] == ["mic0", "mic1"]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, second))


def test_input_and_target_are_the_two_halves_of_one_place(pairs: List[HalfPair]) -> None:
    """Each crop's input and target are found at one place of one pair, one in odd and the other in even."""
    plan = plan_of(pairs, 3)
    halves = [pair.load() for pair in pairs]
    for crops, (inputs, targets) in zip(plan.batches, ManagedLoader(pairs, [], 32, CPU, CPU).batches(plan)):
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
    halves = {0: torch.arange(32.0).reshape(2, 4, 4)}
    views = [cut_batch(halves, [Crop(0, 0, 0, view, False)], 4) for view in range(8)]
    seen = {tuple(batch[0].ravel().tolist()) for batch in views if batch is not None}
    assert len(seen) == 8


def test_batch_without_a_usable_pair_is_left_out() -> None:
    assert cut_batch({}, [Crop(0, 0, 0, 0, False)], 4) is None
