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
from cryoden.data.loaders import Batch, ManagedLoader, StreamingLoader, orient
from cryoden.data.pairs import HalfPair, find_pairs
from tests.helpers import write_halves

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> List[HalfPair]:
    folder = tmp_path_factory.mktemp("halves")
    write_halves(folder, 6, (64, 72))
    return find_pairs(str(folder / "odd"), str(folder / "even"))[0]


def plan_of(
    pairs: List[HalfPair], seed: int, epoch: int = 0, batch_size: int = 3, window: int = 2
) -> EpochPlan:
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


def test_streaming_ends_its_thread_when_an_epoch_is_cut_short(pairs: List[HalfPair]) -> None:
    before = threading.active_count()
    batches = StreamingLoader(pairs, [], 32, CPU, budget_bytes=1).batches(plan_of(pairs, 1))
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_held_out_pairs_are_the_same_for_both_loaders(pairs: List[HalfPair]) -> None:
    first = list(ManagedLoader([], pairs[:2], 32, CPU).held_out())
    second = list(StreamingLoader([], pairs[:2], 32, CPU, budget_bytes=1).held_out())
    assert [item.pair.name for item in first] == [item.pair.name for item in second] == ["mic0", "mic1"]
    assert all(torch.equal(a.halves, b.halves) for a, b in zip(first, second))


def test_input_and_target_are_the_two_halves_of_one_place(pairs: List[HalfPair]) -> None:
    """Each crop's input and target are found at one place of one pair, one in odd and the other in even."""
    plan = plan_of(pairs, 3)
    halves = [pair.load().halves.astype(np.float16) for pair in pairs]
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
    views = [orient(halves, [Crop(0, 0, 0, view, False)])[0] for view in range(8)]
    assert len({tuple(batch.ravel().tolist()) for batch in views}) == 8
