from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Callable, List, Tuple

import numpy as np
import pytest
import torch

from cryoden.errors import CryodenError
from cryoden.model import pipeline
from cryoden.model.pipeline import Job, overlapped, threads_for
from cryoden.model.predictor import Predictor
from cryoden.system.progress import Tell
from tests.helpers import Result, images_in, write_mrc


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


@pytest.mark.parametrize("where", ["read", "compute", "write"])
def test_what_was_not_foreseen_is_the_failure_of_its_item(where: str) -> None:
    def fail(step: str, item: int) -> int:
        return 1 // item if step == where else item

    outcomes = [
        outcome
        for _, outcome in overlapped(
            [1, 0, 2],
            lambda item: (item, fail("read", item))[0],
            lambda item, loaded: ((item, fail("compute", item))[0],),
            lambda item: (item, fail("write", item))[0],
        )
    ]
    assert outcomes[::2] == [1, 2]
    assert isinstance(outcomes[1], ZeroDivisionError)


def test_an_interrupt_ends_it_and_its_threads() -> None:
    def interrupt(item: int) -> int:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        list(overlapped([1, 2], interrupt, lambda item, loaded: (loaded,), lambda loaded: loaded))
    assert threading.active_count() == before


@pytest.mark.parametrize("n_threads", [1, 2])
def test_items_are_shown_together_before_the_first_of_them_is_computed(n_threads: int) -> None:
    """Those that cannot be read are left out, and fail in their place."""
    said: List[object] = []

    def read(item: int) -> str:
        if item == 4:
            raise CryodenError("4 is damaged")
        return f"item {item}"

    def compute(item: int, loaded: str) -> Tuple[str]:
        said.append(item)
        return (loaded,)

    results = overlapped(range(8), read, compute, str.upper, n_threads, said.append, 3)
    outcomes = [str(outcome) for _, outcome in results]
    assert outcomes == ["4 is damaged" if item == 4 else f"ITEM {item}" for item in range(8)]
    assert said == [
        ["item 0", "item 1", "item 2"], 0, 1, 2, ["item 3", "item 5"], 3, 5, ["item 6", "item 7"], 6, 7,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("free_images", "is_from_halves", "n_threads"),
    [(1000, False, 3), (32, False, 3), (31, False, 2), (16, False, 1), (0, False, 1), (48, True, 3), (47, True, 2)],
)
def test_no_more_images_are_held_than_a_quarter_of_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_images: int, is_from_halves: bool, n_threads: int
) -> None:
    paths = [str(write_mrc(tmp_path / name, np.ones((50, 40)))) for name in ("a.mrc", "b.mrc")]
    monkeypatch.setattr(pipeline, "free_bytes", lambda device: free_images * 4 * 50 * 40)
    halves = (paths[1], paths[1]) if is_from_halves else None
    jobs = [Job(0, "missing.mrc", None, "a", tmp_path, None), Job(1, paths[0], halves, "b", tmp_path, None)]
    assert threads_for(jobs, torch.device("cuda")) == n_threads
    assert threads_for(jobs, torch.device("cpu")) == threads_for([], torch.device("cuda")) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.cuda.OutOfMemoryError(), "The memory of the GPU does not suffice for raw/b.mrc"),
        (MemoryError(), "The memory does not suffice for raw/b.mrc"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "The memory does not suffice for raw/b.mrc"),
        (RuntimeError("of another kind"), "raw/b.mrc failed unexpectedly (RuntimeError: of another kind)"),
    ],
)
def test_micrograph_too_large_for_the_memory_fails_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cryoden: Callable[..., Result],
    make_model: Callable,
    error: Exception,
    reason: str,
) -> None:
    for name, shape in (("a", (60, 60)), ("b", (90, 90)), ("c", (60, 60))):
        write_mrc(tmp_path / "raw" / f"{name}.mrc", np.random.default_rng(1).normal(20, 3, shape))
    predict = Predictor.__call__

    def small_only(self: Predictor, image: torch.Tensor, tell: Tell) -> torch.Tensor:
        if image.numel() > 5000:
            raise error
        return predict(self, image, tell)

    monkeypatch.setattr(Predictor, "__call__", small_only)
    result = cryoden("denoise", "raw", "--model", make_model(), "--output", "out")
    assert result.status == 1
    assert result.last_error.startswith(f"cryoden: failed: raw/b.mrc: {reason}")
    assert "Traceback" not in result.err
    failed = next(
        line for line in map(json.loads, Path("out/log.jsonl").read_text().splitlines()) if line["status"] == "failed"
    )
    assert ("raise error" in failed.get("traceback", "")) == ("of another kind" in str(error))
    assert images_in(Path("out")) == ["a.mrc", "c.mrc", "log.jsonl", "micrographs.star"]
