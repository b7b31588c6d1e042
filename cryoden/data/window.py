"""Memory for the pairs that streaming keeps: one process's own, or one of all processes of a machine.

Processes that share a window read for each other: every pair is read by one of them. They need no messages for that.
Which pair comes into which slot after which step follows from the plan, which all of them have; in the shared memory
stand how many steps each has done, and what has been read.
"""

from __future__ import annotations

import json
import mmap
import os
import tempfile
import threading
import time
import uuid
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from cryoden.data.pair_reader import LoadedPair
from cryoden.data.pairs import HalfPair
from cryoden.errors import LostProcessError, Problem
from cryoden.system.host import host_name, is_alive

POLL_SECONDS = 0.0005
"""Between two looks at what other processes have done."""

LIFE_SECONDS = 0.25
"""Between two looks whether they live."""

LEAST_SLOT_BYTES = 1 << 14
"""Of a shared slot: where a pair cannot be used, its slot holds the reason."""

SHIFT, LEFT = 32, (1 << 32) - 1
"""A word of shared memory counts passes above this bit and steps below; so many steps has done who left the pass."""

PASSES_OF_SLOTS, TEXT_BYTES, RANGES, N_WORDS = 0, 1, 2, 3
"""Words of a shared slot: which reading it holds, the length of its problem if it has one, the pair's data range."""

Exchange = Callable[[Any], List[Any]]
"""Returns what every process gives, in the order of their ranks."""


@dataclass(frozen=True)
class Reading:
    """One pair that is to be read during a pass over a plan.

    Attributes
    ----------
    number
        Of the reading in its pass.
    pair
        Index of the pair.
    slot
        Of the window, into which it is read; None: into new memory, because its batch needs more than the window has.
    free_after
        So many steps must be done before the slot may be overwritten.
    """

    number: int
    pair: int
    slot: Optional[int]
    free_after: int


def plan_readings(needs: Sequence[Sequence[int]], n_slots: int) -> List[List[Reading]]:
    """Return, for every step, what is read from then on, in the order of use: ahead while there are slots.

    Parameters
    ----------
    needs
        Indices of the pairs that each step needs.
    n_slots
        Of the window.
    """
    last_step = {pair: step for step, wanted in enumerate(needs) for pair in wanted}
    coming = deque(last_step)
    free: Deque[Tuple[int, int]] = deque((slot, 0) for slot in range(n_slots))  # slot, steps after which it is free
    held: Dict[int, Optional[int]] = {}
    plan: List[List[Reading]] = []
    number = 0
    for step, wanted in enumerate(needs):
        plan.append([])
        while coming and (free or not held.keys() >= set(wanted)):
            pair = coming.popleft()
            slot, free_after = free.popleft() if free else (None, step)
            held[pair] = slot
            plan[-1].append(Reading(number, pair, slot, free_after))
            number += 1

        for pair in wanted:
            if last_step[pair] == step:
                slot = held.pop(pair)
                if slot is not None:
                    free.append((slot, step + 1))
    return plan


class Window:
    """Slots of memory into which one process reads; they are taken once and used again.

    Parameters
    ----------
    slots
        Float16 tensors of one axis, each large enough for any pair.
    n_pixels
        Of both halves of the largest pair.
    """

    def __init__(self, slots: Sequence[torch.Tensor], n_pixels: int) -> None:
        self._slots, self._n_pixels = list(slots), n_pixels

    @classmethod
    def of(cls, n_slots: int, n_pixels: int) -> Window:
        """Return a window with memory of its own."""
        return cls([torch.empty(n_pixels, dtype=torch.float16) for _ in range(n_slots)], n_pixels)

    @property
    def n_slots(self) -> int:
        """How many pairs it holds."""
        return len(self._slots)

    @contextmanager
    def use(self) -> Iterator[None]:
        """Read, in this context, the pairs of one plan; all processes that share a window do that together."""
        yield

    def reads(self, reading: Reading) -> bool:
        """Return whether this process reads a pair, not another one for it."""
        return True

    def memory(self, reading: Reading) -> torch.Tensor:
        """Return where a pair is to be read to, as soon as nobody needs what is there."""
        if reading.slot is None:
            return torch.empty(self._n_pixels, dtype=torch.float16)
        return self._slots[reading.slot]

    def publish(self, reading: Reading, item: Union[LoadedPair, Problem]) -> None:
        """Tell the others that a pair has been read, or why it cannot be."""

    def fetch(self, reading: Reading, pair: HalfPair) -> Union[LoadedPair, Problem]:
        """Return a pair that another process reads, as soon as it is there, or why it cannot be used."""
        raise NotImplementedError

    def advance(self, n_steps: int) -> None:
        """Say that this process has done so many steps, and needs no more what was for them alone."""

    def stop(self) -> None:
        """Let nobody wait any longer in `memory`."""

    def held_out(self) -> Window:
        """Return what this process may use for pairs that only it reads, in a `use` of this window."""
        return self


class _StoppedError(Exception):
    """A reading is not wanted any more."""


class SharedWindow(Window):
    """Slots that the processes of one machine share; they vanish with the last of them, whatever ends it.

    Parameters
    ----------
    memory
        As `share_window` made it.
    n_slots
        How many pairs it holds.
    n_pixels
        Of both halves of the largest pair.
    number
        Of this process among those that share.
    processes
        Their numbers in the system.
    n_ranks
        How many processes train together, on this machine and others.
    """

    def __init__(
        self, memory: mmap.mmap, n_slots: int, n_pixels: int, number: int, processes: Sequence[int], n_ranks: int
    ) -> None:
        first, size = _header_bytes(n_slots, len(processes)), slot_bytes(n_pixels)
        n_words = len(processes) + N_WORDS * n_slots
        words = np.frombuffer(memory, np.int64, n_words, TOKEN_BYTES)
        self._steps = words[: len(processes)]
        self._words = words[len(processes) :].reshape(n_slots, N_WORDS)
        self._ranges = self._words[:, RANGES].view(np.float64)
        slots = np.frombuffer(memory, np.float16, n_slots * size // 2, first).reshape(n_slots, size // 2)
        super().__init__(list(torch.from_numpy(slots)), n_pixels)
        self._number, self._processes, self._n_ranks = number, processes, n_ranks
        self._pass = 0
        self._is_stopped = threading.Event()

    @contextmanager
    def use(self) -> Iterator[None]:
        """As in `Window`."""
        self._pass += 1
        self._is_stopped.clear()
        self.advance(0)
        try:
            yield
        finally:
            self.advance(LEFT)

    def reads(self, reading: Reading) -> bool:
        """As in `Window`: always the same one reads a pair, and knows its grey scales."""
        return reading.slot is None or reading.pair % len(self._processes) == self._number

    def memory(self, reading: Reading) -> torch.Tensor:
        """As in `Window`.

        Raises
        ------
        LostProcessError
            If a process ended that needs what is there.
        """
        if reading.slot is not None:
            free = self._word(reading.free_after)
            self._wait(lambda: bool((self._steps >= free).all()))
        return super().memory(reading)

    def publish(self, reading: Reading, item: Union[LoadedPair, Problem]) -> None:
        """As in `Window`."""
        if reading.slot is None:
            return
        words = self._words[reading.slot]
        words[TEXT_BYTES] = 0
        if isinstance(item, Problem):
            text = json.dumps(item.to_dict()).encode()
            words[TEXT_BYTES] = len(text)
            self._bytes(reading.slot)[: len(text)] = np.frombuffer(text, np.uint8)
        else:
            self._ranges[reading.slot] = item.data_range
        words[PASSES_OF_SLOTS] = self._word(reading.number + 1)  # the last: who sees it may read the rest

    def fetch(self, reading: Reading, pair: HalfPair) -> Union[LoadedPair, Problem]:
        """As in `Window`.

        Raises
        ------
        LostProcessError
            If the one that reads it ended, or reads no more.
        """
        assert reading.slot is not None  # others read into the window only
        words, wanted = self._words[reading.slot], self._word(reading.number + 1)
        reader = reading.pair % len(self._processes)

        def is_there() -> bool:
            has_left = self._steps[reader] >= self._word(LEFT)  # asked first: what it read before is there then
            is_read = words[PASSES_OF_SLOTS] == wanted
            if has_left and not is_read:
                raise LostProcessError.of_training(self._n_ranks)
            return bool(is_read)

        self._wait(is_there)
        if words[TEXT_BYTES]:
            text = self._bytes(reading.slot)[: words[TEXT_BYTES]].tobytes()
            return Problem.from_dict(json.loads(text))
        rows, columns = pair.used_shape
        halves = self._slots[reading.slot][: 2 * rows * columns].view(2, rows, columns)
        return LoadedPair(pair, halves, float(self._ranges[reading.slot]))

    def advance(self, n_steps: int) -> None:
        """As in `Window`."""
        self._steps[self._number] = self._word(n_steps)

    def stop(self) -> None:
        """As in `Window`."""
        self._is_stopped.set()

    def held_out(self) -> Window:
        """As in `Window`.

        Raises
        ------
        LostProcessError
            If a process ended that still needs what is there.
        """
        self._wait(lambda: bool((self._steps >= self._word(0)).all()))
        return Window(self._slots[self._number :: len(self._processes)], self._n_pixels)

    def _word(self, n_steps: int) -> int:
        return (self._pass << SHIFT) + n_steps

    def _bytes(self, slot: int) -> np.ndarray:
        return self._slots[slot].numpy().view(np.uint8)

    def _wait(self, is_done: Callable[[], bool]) -> None:
        """Wait for others.

        Raises
        ------
        LostProcessError
            If one of them is dead.
        """
        looked = time.monotonic()
        while not is_done():
            if self._is_stopped.is_set():
                raise _StoppedError
            if time.monotonic() > looked + LIFE_SECONDS:
                looked = time.monotonic()
                if not all(map(is_alive, self._processes)) and not is_done():
                    raise LostProcessError.of_training(self._n_ranks)
            time.sleep(POLL_SECONDS)


# ---------------------------------------------------------------------- how processes come to share memory
TOKEN_BYTES = 16
"""First in shared memory: what tells that it is the one that was offered."""


def slot_bytes(n_pixels: int) -> int:
    """Return the size of a shared slot: whole words, and a problem fits into it as well."""
    return -(-max(2 * n_pixels, LEAST_SLOT_BYTES) // 8) * 8


def _header_bytes(n_slots: int, n_processes: int) -> int:
    return TOKEN_BYTES + 8 * (n_processes + N_WORDS * n_slots)


def share_window(
    n_slots: int, n_pixels: int, rank: int, is_wanted: bool, exchange: Exchange
) -> Tuple[Optional[SharedWindow], str]:
    """Return a window that this process shares with the others of its machine, and why there is none.

    All processes call it. Either all of them share, each with those of its machine, or none.

    Parameters
    ----------
    n_slots, n_pixels
        As for `SharedWindow`, the same everywhere.
    rank
        Of this process.
    is_wanted
        Whether this process reads through a window.
    exchange
        With all processes.
    """
    known = exchange((host_name(), os.getpid(), is_wanted))
    if not all(wanted for _, _, wanted in known):
        return None, "not all of them stream"
    ranks = [other for other, (host, _, _) in enumerate(known) if host == known[rank][0]]
    if len({host for host, _, _ in known}) == len(known):
        return None, "each of them is on a machine of its own"
    n_bytes = _header_bytes(n_slots, len(ranks)) + n_slots * slot_bytes(n_pixels)

    # The file has no name: nothing is left of it when the last process that maps it ends, or is killed.
    problem, token, descriptor = "", uuid.uuid4().bytes, -1
    try:
        if rank == ranks[0]:
            descriptor = _anonymous_file()
            os.posix_fallocate(descriptor, 0, n_bytes)  # pages that are not there now would be missed by a signal
            os.pwrite(descriptor, token, 0)
    except OSError as error:
        problem = f"{error.strerror} (shared memory of {n_bytes / 2**30:.2f} GiB)"

    memory: Optional[mmap.mmap] = None
    offers = exchange((descriptor, token))
    try:
        offered, token = offers[ranks[0]]
        if not problem and offered >= 0:
            memory = _map(known[ranks[0]][1], offered, n_bytes, token)
    except OSError as error:
        problem = f"a process cannot open the memory of another ({error.strerror})"
    problems = [said for said in exchange(problem) if said]
    if descriptor >= 0:
        os.close(descriptor)
    if memory is None or problems:
        return None, problems[0]
    processes = [known[other][1] for other in ranks]
    return SharedWindow(memory, n_slots, n_pixels, ranks.index(rank), processes, len(known)), ""


def _anonymous_file() -> int:
    """Return a descriptor of memory that has no name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("cryoden window", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(dir="/dev/shm") as file:  # a Python that was built for older systems
        return os.dup(file.fileno())


def _map(process: int, descriptor: int, n_bytes: int, token: bytes) -> mmap.mmap:
    """Return the memory behind a descriptor of a process.

    Raises
    ------
    OSError
        If it cannot be opened, or is another one.
    """
    own = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.pread(own, TOKEN_BYTES, 0) != token:
            raise OSError(0, "it is another one")
        return mmap.mmap(own, n_bytes)
    finally:
        os.close(own)
