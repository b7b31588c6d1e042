from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Optional

import pytest
import torch

from cryoden.config import GIB, TrainConfig
from cryoden.data.loader_choice import MOST_MIXED, READING_BYTES, choose_loading, make_loader
from cryoden.data.loaders import Loader, ManagedLoader, Shard, StreamingLoader
from cryoden.data.normalize import STANDARD
from cryoden.data.pairs import HalfPair, find_pairs
from cryoden.data.window import Exchange
from tests.helpers import in_ranks, write_halves

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PAIR = HalfPair("a", "odd/a.mrc", "even/a.mrc", (4096, 4096), 1.0, (4096, 4096))
N_BYTES = 2 * 2 * 4096**2
"""64 MiB: two halves in float16."""


def choose(device: torch.device, free: dict, n: int = 10, **options: Any) -> Any:
    config = TrainConfig(odd="odd", even="even", output="out", **options)
    return choose_loading(config, [PAIR] * (n - 1), [PAIR], 512, device, free)


@pytest.mark.parametrize(
    ("device", "gpu_gib", "host_gib", "options", "place"),
    [
        # 10 pairs need 0.625 GiB; unless told otherwise, half of what is free may be taken
        (CPU, None, 1.3, {}, CPU),
        (CPU, None, 1.2, {}, None),
        (GPU, 1.3, 0.0, {}, GPU),
        (GPU, 1.2, 1.3, {}, CPU),
        (GPU, 1.2, 1.2, {}, None),
        (GPU, 100.0, 100.0, {"memory": 0.6}, None),
        (GPU, 0.7, 0.1, {"memory": 0.65}, GPU),
        (GPU, 0.6, 0.7, {"memory": 0.65}, CPU),
        (GPU, 0.6, 0.6, {"memory": 0.65}, None),
        (CPU, None, 100.0, {"stream": True, "window": 0.5}, None),
        (CPU, None, 100.0, {"stream": True, "window": 1.0}, CPU),
        (CPU, None, 1.0, {"stream": True, "window": 1.0}, None),
        (CPU, None, 100.0, {"stream": True, "window": 1.0, "force": True}, None),
        (GPU, 100.0, 100.0, {"stream": True, "force": True}, None),
    ],
)
def test_where_micrographs_are_kept(
    device: torch.device, gpu_gib: Optional[float], host_gib: float, options: dict, place: Optional[torch.device]
) -> None:
    free = {CPU: int(host_gib * GIB), **({} if gpu_gib is None else {GPU: int(gpu_gib * GIB)})}
    assert choose(device, free, **options).place == place


@pytest.mark.parametrize(("window_gib", "window"), [(1e-6, 1), (0.2, 1), (0.5, 5), (1.0, 13), (10.0, MOST_MIXED)])
def test_crops_are_mixed_over_as_many_micrographs_as_the_window_holds(window_gib: float, window: int) -> None:
    """All but the batch, the readers, and two pairs that are read ahead; the same for every place."""
    plenty, nothing = ({CPU: free} for free in (100 * GIB, 0))
    kept, streamed = (choose(CPU, free, window=window_gib) for free in (plenty, nothing))
    assert kept.window == streamed.window == window
    assert (kept.place, streamed.place) == (CPU, None)
    rest = int(window_gib * GIB) - 8 * 2 * 2 * 512**2 - READING_BYTES
    assert streamed.budget_bytes == max(rest, N_BYTES)


def test_default_window_holds_a_large_micrograph_and_the_next_one() -> None:
    """7420 x 7676 px, crops of 1024 px: one is cut while another is read, in half a GiB with everything."""
    config = TrainConfig(odd="odd", even="even", output="out", stream=True, force=True, crop=1024)
    pair = HalfPair("name", "odd", "even", (7420, 7676), 1.0, (7420, 7676))
    loading = choose_loading(config, [pair] * 3, [pair], 1024, CPU, {CPU: 0})
    assert (loading.window, loading.budget_bytes // pair.n_bytes) == (1, 2)


@pytest.mark.parametrize(("memory", "kind"), [(1.0, ManagedLoader), (1e-6, StreamingLoader)])
def test_the_chosen_loader_is_made(tmp_path: Path, memory: float, kind: type) -> None:
    write_halves(tmp_path, 3, (64, 64))
    pairs = find_pairs("odd", "even")[0]
    config = TrainConfig(odd="odd", even="even", output="out", memory=memory)
    loading = choose_loading(config, pairs[:2], pairs[2:], 32, CPU, {CPU: GIB})
    loader = make_loader(loading, pairs[:2], pairs[2:], 32, CPU, Shard(), STANDARD)
    assert type(loader) is kind
    assert [item.pair.name for item in loader.held_out()] == [pairs[2].name]


@pytest.mark.parametrize(
    ("memory", "is_one_host", "said"),
    [
        (1.0, True, "Each of the 2 processes reads every micrograph once; those on one machine find it in the page"),
        (1e-6, True, "The 2 processes share a window on each machine; one of those there reads a micrograph for all"),
        (
            1e-6, False,
            "Each of the 2 processes reads every micrograph once in each epoch, into a window of its own; those on one "
            "machine find it in the page cache. They cannot share a window: each of them is on a machine of its own.",
        ),
    ],
)  # fmt: skip
def test_several_processes_say_who_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, memory: float,
    is_one_host: bool, said: str,
) -> None:  # fmt: skip
    """One of them says it, for all."""
    if not is_one_host:
        monkeypatch.setattr("cryoden.data.window.host_name", lambda: str(threading.get_ident()))
    write_halves(tmp_path, 3, (64, 64))
    pairs = find_pairs("odd", "even")[0]
    config = TrainConfig(odd="odd", even="even", output="out", memory=memory)
    loading = choose_loading(config, pairs[:2], pairs[2:], 32, CPU, {CPU: GIB})
    caplog.set_level("INFO", "cryoden")

    def make(rank: int, exchange: Exchange) -> Loader:
        return make_loader(loading, pairs[:2], pairs[2:], 32, CPU, Shard(rank, 2), STANDARD, exchange=exchange)

    in_ranks(2, make)
    [message] = [message for message in caplog.messages if "2 processes" in message]
    assert message.startswith(said)
