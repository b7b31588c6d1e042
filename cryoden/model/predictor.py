"""A network applied to images of any size, tile by tile, without visible tiles."""

from __future__ import annotations

import logging
from typing import Callable, Dict, Optional, Tuple, Union

import numpy as np
import torch
from torch import nn

from cryoden.config import DenoiseConfig, EvaluateConfig
from cryoden.data.crops import TilePlan, reflected_indices
from cryoden.data.loader_choice import free_bytes
from cryoden.data.normalize import Normalization
from cryoden.errors import ModelError
from cryoden.formats.model_file import ModelCard, read_model
from cryoden.model.devices import fast_arithmetic, pick_device, resolve_precision
from cryoden.model.networks import Network, build_network
from cryoden.model.processes import local_rank

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
        GPU's memory does not suffice.
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
    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return the prediction for one standardised image `(y, x)`, float32 on the device.

        Raises
        ------
        torch.cuda.OutOfMemoryError
            If even the smallest tile does not fit into the GPU.
        """
        image = image.to(self.device)
        while True:
            try:
                return self._all_views(image, self._tiled)
            except torch.cuda.OutOfMemoryError:
                if self.tile // 2 <= 2 * self.halo:
                    raise
                self._tile = self.tile // 2
                torch.cuda.empty_cache()
                log.warning("GPU memory is short: going on with tiles of %d px.", self.tile)

    @torch.inference_mode()
    def on_cut(self, image: torch.Tensor) -> torch.Tensor:
        """Return the prediction for a cut-out whose sides are multiples of the network's step, without halo.

        A quick look: near its edges, the prediction is not that of the whole image.
        """
        return self._all_views(image.to(self.device), self._apply)

    def _all_views(self, image: torch.Tensor, predict: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        total = predict(image)
        for view in range(1, self.views):
            turned = image.transpose(0, 1) if view >= 4 else image
            result = torch.rot90(predict(torch.rot90(turned, view % 4)), -(view % 4))
            total += result.transpose(0, 1) if view >= 4 else result
        return total / self.views

    def _apply(self, image: torch.Tensor) -> torch.Tensor:
        with fast_arithmetic(self.device, self.precision):
            return self.network(image[None, None])[0, 0].float()

    def _tiled(self, image: torch.Tensor) -> torch.Tensor:
        shape = (int(image.shape[0]), int(image.shape[1]))
        output = torch.empty(shape, dtype=torch.float32, device=self.device)
        for tile in TilePlan(shape, self.tile, self.halo, self.network.step, self.margin):
            rows = torch.from_numpy(reflected_indices(*tile.read[:2], shape[0])).to(self.device)
            columns = torch.from_numpy(reflected_indices(*tile.read[2:], shape[1])).to(self.device)
            cut = image.index_select(0, rows).index_select(1, columns)
            predicted = self._apply(cut)
            keep, write = tile.keep, tile.write
            output[write[0] : write[1], write[2] : write[3]] = predicted[keep[0] : keep[1], keep[2] : keep[3]]
        return output


def load_predictor(
    path: str, config: Union[DenoiseConfig, EvaluateConfig], device: Optional[torch.device] = None
) -> Tuple[ModelCard, Predictor]:
    """Read a model file and put its network on a device.

    Parameters
    ----------
    path
        Model file.
    config
        The options: quality, arithmetic, tiles, device.
    device
        Where the network computes; None: on the device that the options name.

    Raises
    ------
    ModelError
        If the weights do not fit the network that the file names.
    DeviceError
        If the device is not there.
    """
    card, weights = read_model(path)
    network = build_network(card.network, card.channels)
    load_weights(network, weights, path)
    views = 8 if config.quality == "best" else 1
    device = device or pick_device(config.device, local_rank())
    return card, Predictor(network, device, config.tile, views, config.precision)


def card_normalization(card: ModelCard) -> Normalization:
    """Return how the model wants its images standardised.

    Raises
    ------
    ModelError
        If it was trained with a normalisation that is unknown here.
    """
    try:
        return Normalization(**card.normalization)
    except TypeError as error:
        raise ModelError(f"The model's normalisation {card.normalization} is unknown here; update cryoden.") from error


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
