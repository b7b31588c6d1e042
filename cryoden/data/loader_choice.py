"""Where micrographs are kept during training: GPU memory, host memory, or on disk with a window."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Callable, Mapping, Optional, Sequence

import torch

from cryoden.config import GIB, TrainConfig
from cryoden.data.loaders import Loader, ManagedLoader, Shard, StreamingLoader, slots_of
from cryoden.data.normalize import Normalization
from cryoden.data.pairs import HalfPair
from cryoden.data.window import Exchange, Window, share_window

log = logging.getLogger(__name__)

READING_BYTES = 40 << 20
"""Host memory of the threads that read: a band of rows each, and the samples of grey scales (benchmarks/loaders.py)."""

MOST_MIXED = 16
"""Micrographs over which crops are mixed at most: more do not make batches more different."""

HOST = torch.device("cpu")


@dataclass(frozen=True)
class Loading:
    """How micrographs come into memory.

    Attributes
    ----------
    place
        Device whose memory keeps all of them; None: they are streamed.
    budget_bytes
        Host memory of a streaming loader.
    window
        Over how many micrographs crops are mixed: the same for every loader, so that all yield the same batches.
    """

    place: Optional[torch.device]
    budget_bytes: int
    window: int


def choose_loading(
    config: TrainConfig,
    training: Sequence[HalfPair],
    held_out: Sequence[HalfPair],
    crop: int,
    device: torch.device,
    free_bytes: Mapping[torch.device, int],
) -> Loading:
    """Choose between keeping everything in memory (GPU if it fits, else host) and streaming; say which and why.

    Parameters
    ----------
    config
        The options.
    training, held_out
        Pairs of halves.
    crop
        Side of the crops in pixels.
    device
        Where batches are wanted.
    free_bytes
        Free memory of the device and of the host.
    """
    needed = sum(pair.n_bytes for pair in (*training, *held_out))
    largest = max(pair.n_bytes for pair in training)

    # The batch that is being cut, and what readers need for themselves, come out of the window's memory too.
    budget = int(config.window * GIB) - config.batch_size * 2 * 2 * crop**2 - READING_BYTES
    window = max(1, min(MOST_MIXED, budget // largest - 2))

    place: Optional[torch.device] = None
    if config.stream and not config.force and needed <= budget:
        log.info("Not streaming: all %.2f GiB of halves fit into the window.", needed / GIB)
    if not config.stream or (not config.force and needed <= budget):
        places = [device] if device.type == "cpu" else [device, HOST]
        fitting = [place for place in places if needed <= _allowed(config, free_bytes[place])]
        place = fitting[0] if fitting else None

    if place is None:
        log.info("Streaming %.2f GiB of halves through a window of %.2f GiB.", needed / GIB, config.window)
    else:
        kind = "host" if place.type == "cpu" else "GPU"
        log.info("Keeping all %.2f GiB of halves in %s memory.", needed / GIB, kind)
    return Loading(place, max(budget, largest), window)


def make_loader(
    loading: Loading,
    training: Sequence[HalfPair],
    held_out: Sequence[HalfPair],
    crop: int,
    device: torch.device,
    shard: Shard,
    normalization: Normalization,
    on_read: Callable[[], None] = lambda: None,
    exchange: Optional[Exchange] = None,
) -> Loader:
    """Return the chosen loader, ready to yield batches; one that keeps micrographs reads them now.

    Processes of one machine that stream share a window, if they can; the first one says what they do.

    Parameters
    ----------
    loading
        What `choose_loading` chose.
    training, held_out, crop, device, shard, normalization
        As for `Loader`.
    on_read
        As for `ManagedLoader`.
    exchange
        With the other processes of the training, which then all make loaders now; None: nothing is shared.
    """
    window, reason = None, ""
    if shard.n_ranks > 1 and exchange is not None:
        slots = slots_of([*training, *held_out], loading.budget_bytes)
        window, reason = share_window(*slots, shard.rank, loading.place is None, exchange)
    if shard.n_ranks > 1 and shard.rank == 0:
        log.info("%s", _who_reads(loading, shard, window, reason))

    if loading.place is None:
        budget = loading.budget_bytes
        return StreamingLoader(training, held_out, crop, device, shard, normalization, budget, window)
    return ManagedLoader(training, held_out, crop, device, shard, normalization, loading.place, on_read)


def _who_reads(loading: Loading, shard: Shard, window: Optional[Window], reason: str) -> str:
    """Return in one line who of several processes reads what."""
    if loading.place is None and window is not None:
        return (
            f"The {shard.n_ranks} processes share a window on each machine; one of those there reads a micrograph for "
            "all, once in each epoch."
        )
    how = "once in each epoch, into a window of its own" if loading.place is None else "once"
    said = (
        f"Each of the {shard.n_ranks} processes reads every micrograph {how}; those on one machine find it in the page "
        "cache."
    )
    return f"{said} They cannot share a window: {reason}." if loading.place is None and reason else said


def _allowed(config: TrainConfig, free_bytes: int) -> float:
    return min(config.memory * GIB, free_bytes) if config.memory else free_bytes / 2
