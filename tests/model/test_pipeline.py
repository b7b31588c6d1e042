from __future__ import annotations

import time
from typing import List, Tuple

import pytest

from cryoden.errors import CryodenError
from cryoden.model.pipeline import overlapped


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("where", ["read", "compute", "write"])
def test_failed_items_keep_their_place_and_no_more_is_read_ahead_for_them(where: str, n_threads: int) -> None:
    n_read, most_ahead = 0, 0

    def fail(step: str, item: int) -> None:
        if step == where and item % 2:
            raise CryodenError(f"{item} in {step}")

    def read(item: int) -> str:
        nonlocal n_read
        n_read += 1
        fail("read", item)
        return f"item {item}"

    def compute(item: int, loaded: str) -> Tuple[int, str]:
        fail("compute", item)
        return item, loaded

    def write(item: int, loaded: str) -> str:
        fail("write", item)
        return loaded

    outcomes: List[object] = []
    for number, (item, outcome) in enumerate(overlapped(range(40), read, compute, write, n_threads)):
        time.sleep(0.002)
        most_ahead = max(most_ahead, n_read - number)
        assert item == number
        outcomes.append(str(outcome))
    assert outcomes == [f"{i} in {where}" if i % 2 else f"item {i}" for i in range(40)]
    assert n_read == 40
    assert most_ahead <= 2 * (n_threads + 1) + 1


def test_other_errors_end_it_and_its_threads() -> None:
    with pytest.raises(ZeroDivisionError):
        list(overlapped([1, 0, 2], lambda item: 1 // item, lambda item, loaded: (loaded,), lambda loaded: loaded))
