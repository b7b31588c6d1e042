"""Images on their way between files and a GPU: by bands, through pinned memory that is used again."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import Deque, Iterator, Optional, TypeVar

import numpy as np
import torch

from cryoden.formats.stack import Stack, rows_of_band


class GpuTransfer(threading.local):
    """Moves images to and from a device while it computes; every thread has a stream and pinned buffers of its own.

    In one piece and in ordinary memory that would cost several times what the network takes: new pages for every
    image, and copies that the driver makes through small pinned buffers of its own. What can be computed of whole
    images is left to the GPU: many small steps of Python in several threads wait for each other.

    Parameters
    ----------
    device
        Where images are wanted. On the CPU they stay in ordinary memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._buffers = (_PinnedBuffer(), _PinnedBuffer())

    def stream(self, after: Optional[torch.cuda.Event] = None) -> AbstractContextManager:
        """Return a context whose GPU work runs concurrently with that of other streams, once `after` has happened."""
        if self.device.type != "cuda":
            return nullcontext()
        if after is not None:
            self._stream.wait_event(after)
        return torch.cuda.stream(self._stream)

    def synchronize(self, image: torch.Tensor) -> torch.Tensor:
        """Wait for an image made in this stream; return it, ready for the default stream."""
        if image.is_cuda:
            self._stream.synchronize()
            image.record_stream(torch.cuda.default_stream(self.device))  # or its memory could be given away too early
        return image

    def upload(self, stack: Stack) -> torch.Tensor:
        """Return the first image of a file on the device, float32 `(y, x)`; call it in the `stream`."""
        if self.device.type != "cuda":
            return torch.from_numpy(stack.read_rows(0, 0, stack.shape[0]).astype(np.float32, copy=False))
        image = torch.empty(stack.shape, device=self.device)
        for first in range(0, stack.shape[0], stack.band_rows):
            read = stack.read_rows(0, first, min(first + stack.band_rows, stack.shape[0]))
            for rows, source in zip(_bands(image[first : first + len(read)]), _bands(read)):
                self._next_buffer().send(source, rows)
        return image

    def download(self, image: torch.Tensor) -> Iterator[np.ndarray]:
        """Yield bands of rows of an image, each valid until the next is asked for; call it in the `stream`."""
        if not image.is_cuda:
            yield image.numpy()
            return
        coming: Deque[_PinnedBuffer] = deque()
        for rows in _bands(image):
            coming.append(self._next_buffer())
            coming[-1].fetch(rows)
            if len(coming) == len(self._buffers):
                yield coming.popleft().fetched()
        while coming:
            yield coming.popleft().fetched()

    def _next_buffer(self) -> _PinnedBuffer:
        """Return the pinned buffer that was used longest ago."""
        self._buffers = self._buffers[::-1]
        return self._buffers[0]


class _PinnedBuffer:
    """Pinned memory for a band of rows on its way, and the event that tells when the copy is done."""

    def __init__(self) -> None:
        self._has_arrived = torch.cuda.Event()
        self._memory = torch.empty(0, dtype=torch.uint8)

    def send(self, source: np.ndarray, rows: torch.Tensor) -> None:
        """Begin to copy rows to the GPU, in the kind of pixels that they have there."""
        self._claim(rows)
        self._band.numpy()[:] = source
        rows.copy_(self._band, non_blocking=True)
        self._has_arrived.record()

    def fetch(self, rows: torch.Tensor) -> None:
        """Begin to copy rows from the GPU."""
        self._claim(rows)
        self._band.copy_(rows, non_blocking=True)
        self._has_arrived.record()

    def fetched(self) -> np.ndarray:
        """Return the rows when they are here."""
        self._has_arrived.synchronize()
        return self._band.numpy()

    def _claim(self, rows: torch.Tensor) -> None:
        """Wait until the last copy is done, and make room for rows."""
        self._has_arrived.synchronize()
        n_bytes = rows.numel() * rows.element_size()
        if len(self._memory) < n_bytes:
            self._memory = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True)
        self._band = self._memory[:n_bytes].view(rows.dtype).view(rows.shape)


def ready(image: torch.Tensor) -> Optional[torch.cuda.Event]:
    """Return what tells that an image is computed, None on the CPU; a GPU works on while the next steps are planned."""
    return torch.cuda.default_stream(image.device).record_event() if image.is_cuda else None


Rows = TypeVar("Rows", np.ndarray, torch.Tensor)


def _bands(rows: Rows) -> Iterator[Rows]:
    """Yield rows by as many as make a band."""
    step = rows_of_band(rows.shape[1], 4)
    for first in range(0, len(rows), step):
        yield rows[first : first + step]
