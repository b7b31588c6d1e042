"""A network applied to images of any size, tile by tile, without visible tiles."""

from __future__ import annotations

import logging
from typing import Dict, Optional, Tuple

import numpy as np
import torch
from torch import nn

from cryoden.data.crops import TilePlan, reflected_indices
from cryoden.errors import ModelError
from cryoden.model.devices import fast_arithmetic, free_bytes, resolve_precision
from cryoden.model.networks import Network
from cryoden.system.memory import lacks_host_memory
from cryoden.system.progress import Tell, part_of, tell_nobody

log = logging.getLogger(__name__)

MARGIN = 32
"""Pixels, at least, by which an image is continued by its reflection (unless the network sees less far)."""

MEMORY_SHARE = 0.5
"""Share of the free memory that a tile may take."""

MOST_ELEMENTS = (1 << 31) - 1
"""Larger tensors have no fast convolution."""


class Predictor:
    """A network ready to be applied to standardised images of any size.

    Parameters
    ----------
    network
        The trained network.
    device
        Where it computes.
    tile
        Side of the tiles in pixels, halo included; None: as large as the free memory allows. It is halved when the
        memory does not suffice.
    views
        1, or 8 to average over the rotated and mirrored views.
    precision
        `auto`, `bfloat16` or `float32`, see `resolve_precision`.
    """

    def __init__(
        self,
        network: Network,
        device: torch.device,
        tile: Optional[int] = None,
        views: int = 1,
        precision: str = "auto",
    ) -> None:
        self.network = network.to(device)
        self.network.eval()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.views = device, views
        self.precision = resolve_precision(device, precision)
        self.halo = -(-network.receptive_radius // network.step) * network.step
        self.margin = min(self.halo, -(-MARGIN // network.step) * network.step)
        self._tile = tile

    @property
    def tile(self) -> int:
        """Side of the tiles in pixels, at most: as asked for, or what the free memory allows when it is first used."""
        if self._tile is None:
            n_pixels = MEMORY_SHARE * free_bytes(self.device) / (self.precision.itemsize * self.network.n_features)
            self._tile = int(min(n_pixels, MOST_ELEMENTS / self.network.n_channels) ** 0.5)
        return self._tile

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor, tell: Tell = tell_nobody) -> torch.Tensor:
        """Return the prediction for one standardised image `(y, x)`, float32 on the device.

        Parameters
        ----------
        image
            The image.
        tell
            Is called after each tile with how much is done.

        Raises
        ------
        torch.cuda.OutOfMemoryError, MemoryError, RuntimeError
            If even the smallest tile does not fit into the memory, see `is_out_of_memory`.
        """
        return self._all_views(image.to(self.device), tell)

    def _all_views(self, image: torch.Tensor, tell: Tell) -> torch.Tensor:
        total = self._tiled(image, part_of(tell, 0, self.views))
        for view in range(1, self.views):
            turned = image.transpose(0, 1) if view >= 4 else image
            part = self._tiled(torch.rot90(turned, view % 4), part_of(tell, view, self.views))
            result = torch.rot90(part, -(view % 4))
            total += result.transpose(0, 1) if view >= 4 else result
        return total / self.views

    def _apply(self, image: torch.Tensor) -> torch.Tensor:
        with fast_arithmetic(self.device, self.precision):
            return self.network(image[None, None])[0, 0].float()

    def _tiled(self, image: torch.Tensor, tell: Tell) -> torch.Tensor:
        # Allocated before the first try: smaller tiles make no room for it.
        output = torch.empty(shape_of(image), dtype=torch.float32, device=self.device)
        while True:
            try:
                self._fill(output, image, tell)
                return output
            except (MemoryError, RuntimeError) as error:  # OutOfMemoryError is a RuntimeError
                if not is_out_of_memory(error) or self.tile // 2 <= 2 * self.halo:
                    raise
                whose = "GPU" if isinstance(error, torch.cuda.OutOfMemoryError) else "Host"

            # Only here, where the exception and the tensors of its frames are gone, is their memory free again.
            torch.cuda.empty_cache()
            self._tile = self.tile // 2
            log.warning("%s memory is short: going on with tiles of %d px.", whose, self._tile)

    def _fill(self, output: torch.Tensor, image: torch.Tensor, tell: Tell) -> None:
        """Write the prediction for an image, tile by tile."""
        shape = shape_of(image)
        tiles = list(TilePlan(shape, self.tile, self.halo, self.network.step, self.margin))
        for number, tile in enumerate(tiles, 1):
            rows = torch.from_numpy(reflected_indices(*tile.read[:2], shape[0])).to(self.device)
            columns = torch.from_numpy(reflected_indices(*tile.read[2:], shape[1])).to(self.device)
            cut = image.index_select(0, rows).index_select(1, columns)
            predicted = self._apply(cut)
            keep, write = tile.keep, tile.write
            output[write[0] : write[1], write[2] : write[3]] = predicted[keep[0] : keep[1], keep[2] : keep[3]]
            tell(number / len(tiles))


def shape_of(image: torch.Tensor) -> Tuple[int, int]:
    """Return rows and columns."""
    return int(image.shape[0]), int(image.shape[1])


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory, of a GPU or of the host, does not suffice."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or lacks_host_memory(error)


def load_weights(network: nn.Module, weights: Dict[str, np.ndarray], path: str) -> None:
    """Copy weights into a network.

    Raises
    ------
    ModelError
        If names or shapes differ, or a weight is not finite.
    """
    try:
        network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    except RuntimeError as error:
        raise ModelError(f"The weights in {path} do not fit its network ({error}).".replace("\n", " ")) from error
    if not all(np.isfinite(array).all() for array in weights.values()):
        raise ModelError(f"The weights in {path} are not all finite; the training failed. Train again.")
