"""Images on their way between files and a GPU: by bands, through pinned memory that is used again."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Iterable, Iterator, List, Optional, Tuple

import numpy as np
import torch

from cryoden.formats.stack import rows_of_band


class Lane(threading.local):
    """Moves images to and from a device beside the work that is under way there; every thread has a lane of its own.

    In one piece and in ordinary memory that would cost several times what the network takes: new pages for every
    image, and copies that the driver makes through small pinned buffers of its own (benchmarks/denoising.py).

    Parameters
    ----------
    device
        Where images are wanted. On the CPU they stay in ordinary memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffers: List[torch.Tensor] = []
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._is_copied = [torch.cuda.Event(), torch.cuda.Event()]

    def beside(self, after: Optional[torch.cuda.Event] = None) -> AbstractContextManager:
        """Return a context whose GPU work runs beside that of other threads, once `after` has happened."""
        if self.device.type != "cuda":
            return nullcontext()
        if after is not None:
            self._stream.wait_event(after)
        return torch.cuda.stream(self._stream)

    def hand_over(self, image: torch.Tensor) -> torch.Tensor:
        """Return an image, made beside, when it is ready for the default stream."""
        if image.is_cuda:
            self._stream.synchronize()
            image.record_stream(torch.cuda.default_stream(self.device))  # or its memory could be given away too early
        return image

    def upload(self, bands: Iterable[np.ndarray], shape: Tuple[int, int]) -> torch.Tensor:
        """Return an image on the device, float32, whose rows come in bands from top to bottom; call it `beside`."""
        image, first = torch.empty(shape, device=self.device), 0
        for number, band in enumerate(_thin(bands)):
            rows = image[first : first + len(band)]
            if image.is_cuda:
                buffer = self._free_buffer(number, rows)
                buffer.numpy()[:] = band
                rows.copy_(buffer, non_blocking=True)
                self._is_copied[number % 2].record()
            else:
                rows.numpy()[:] = band
            first += len(band)
        return image

    def download(self, image: torch.Tensor) -> Iterator[np.ndarray]:
        """Yield an image of the device by bands of rows, each valid until the next is asked for; call it `beside`."""
        if not image.is_cuda:
            yield image.numpy()
            return
        coming: Optional[torch.Tensor] = None
        for number, rows in enumerate(image.split(_band_rows(image.shape[1]))):
            arriving, coming = coming, self._free_buffer(number, rows)
            coming.copy_(rows, non_blocking=True)
            self._is_copied[number % 2].record()
            if arriving is not None:
                self._is_copied[(number - 1) % 2].synchronize()
                yield arriving.numpy()
        self._stream.synchronize()
        if coming is not None:
            yield coming.numpy()

    def _free_buffer(self, number: int, rows: torch.Tensor) -> torch.Tensor:
        """Return one of two places in pinned memory, used in turn, when its last copy is done."""
        if not self._buffers or self._buffers[0].numel() < rows.numel():
            self._stream.synchronize()
            self._buffers = [torch.empty(rows.numel(), pin_memory=True) for _ in range(2)]
        self._is_copied[number % 2].synchronize()
        return self._buffers[number % 2][: rows.numel()].view(rows.shape)


def ready(image: torch.Tensor) -> Optional[torch.cuda.Event]:
    """Return what tells that an image is computed, None on the CPU; a GPU works on while the next steps are planned."""
    return torch.cuda.default_stream(image.device).record_event() if image.is_cuda else None


def _band_rows(n_columns: int) -> int:
    return rows_of_band(n_columns, 4)


def _thin(bands: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield bands of the usual size: some files are decoded as a whole."""
    for band in bands:
        step = _band_rows(band.shape[1])
        for first in range(0, len(band), step):
            yield band[first : first + step]
