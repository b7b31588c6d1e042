"""Networks and trainings that networks.py compares; those that won are in cryoden/model/networks.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cryoden.config import shared
from cryoden.model.networks import FIRST_OUTPUT, Network, UNet, build_network

TAPS = {"linear": (0.25, 0.75, 0.75, 0.25), "nearest": (0.0, 1.0, 1.0, 0.0)}
"""Of the transposed convolution that halves the size of the pixels along one axis."""


@dataclass(frozen=True)
class Kind:
    """What a trial is made of.

    Attributes
    ----------
    n_down, n_up
        Residual blocks of a level on either way.
    has_full_top
        Whether full resolution has them too; else it has one convolution on either way.
    norm
        `none`; `layer`: over the channels of each pixel, where a block begins; `layers`: before both convolutions of a
        block, each then a SiLU; `weights`: convolutions whose weights have mean 0 and a learned deviation.
    upsampling
        One of `TAPS`.
    dropout
        Share of the features that are left out before the second convolution of a block.
    """

    n_down: int = 2
    n_up: int = 1
    has_full_top: bool = False
    norm: str = "none"
    upsampling: str = "linear"
    dropout: float = 0.0


@dataclass(frozen=True)
class Candidate:
    """A network, and what differs from the defaults of the training.

    Attributes
    ----------
    network
        One of the library's, or `views`; not asked where `kind` says what to make.
    kind
        A trial.
    options
        Of the training.
    decay
        Of the weights before each step, in units of the learning rate.
    goes_back
        Whether a training whose R2 has not risen for two epochs goes back to the best and lowers the rate to zero.
    """

    network: str = "unet"
    kind: Optional[Kind] = None
    options: Dict[str, Any] = field(default_factory=dict)
    decay: float = 0.0
    goes_back: bool = False
    channels: Tuple[int, ...] = shared.UNET_CHANNELS

    def build(self, channels: Sequence[int], seed: int) -> Network:
        """Return the network with its first weights."""
        if self.kind is not None:
            return initialised(ResidualTrial(channels, self.kind), seed)
        if self.network == "views":
            return initialised(ViewsUNet(channels), seed)
        return build_network(self.network, channels, seed)


CANDIDATES: Dict[str, Candidate] = {
    "unet": Candidate(),
    "resunet": Candidate("resunet"),
    "layer": Candidate(kind=Kind(norm="layer")),
    "layer, 1 + 1 blocks": Candidate(kind=Kind(norm="layer", n_down=1)),
    "layer, nearest": Candidate(kind=Kind(norm="layer", upsampling="nearest")),
    "layers, 2 + 2 blocks": Candidate(kind=Kind(2, 2, True, "layers")),
    "weights": Candidate(kind=Kind(norm="weights")),
    "weights, 1 + 1 blocks": Candidate(kind=Kind(norm="weights", n_down=1)),
    "dropout": Candidate(kind=Kind(dropout=0.1), decay=0.1),
    "views": Candidate("views"),
    "views, lr 2e-4": Candidate("views", options={"lr": 2e-4}),
    "resunet, lr 2e-3": Candidate("resunet", options={"lr": 2e-3}),
    "resunet, ema 0.999": Candidate("resunet", options={"ema": 0.999}),
    "unet, goes back": Candidate(goes_back=True),
    "resunet, goes back": Candidate("resunet", goes_back=True),
}


def initialised(network: Network, seed: int) -> Network:
    """Return a trial with the weights from which `build_network` would let it start; blocks begin at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, ViewsConv)):
                deviation = (2.0 / module.weight[0].numel()) ** 0.5
                weights = module.filters if isinstance(module, ViewsConv) else module.weight
                weights.normal_(0.0, deviation, generator=generator)
                nn.init.zeros_(module.biases if isinstance(module, ViewsConv) else module.bias)
            if isinstance(module, Block):
                (module.second.gain if isinstance(module.second, StandardConv) else module.second.weight).zero_()
        network.last.weight.mul_(FIRST_OUTPUT)
    return network


# ---------------------------------------------------------------------- residual blocks
class StandardConv(nn.Conv2d):
    """A 3 x 3 convolution whose weights have mean 0 and a learned deviation for each output (Brock et al. 2021)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, 3, padding=1)
        self.gain = nn.Parameter(torch.full((n_out, 1, 1, 1), 2.0**0.5))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the convolution of features."""
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True, unbiased=False)
        scale = self.gain * torch.rsqrt(variance * self.weight[0].numel() + 1e-6)
        return functional.conv2d(features, (self.weight - mean) * scale, self.bias, padding=1)


class PixelNorm(nn.LayerNorm):
    """Normalisation over the channels of each pixel (Ba et al. 2016), in the precision of the features."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return normalised features `(batch, channels, y, x)`."""
        last = features.permute(0, 2, 3, 1)
        with torch.autocast(features.device.type, enabled=False):
            weight, bias = self.weight.to(last.dtype), self.bias.to(last.dtype)
            return functional.layer_norm(last, self.normalized_shape, weight, bias, self.eps).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Features and two convolutions of them; without a norm the ReLU follows the sum."""

    def __init__(self, n_in: int, n_out: int, kind: Kind) -> None:
        super().__init__()
        is_standard = kind.norm == "weights"
        first, second = (
            StandardConv(n, n_out) if is_standard else nn.Conv2d(n, n_out, 3, padding=1) for n in (n_in, n_out)
        )
        self.first, self.second = first, second
        n_norms = {"layer": 1, "layers": 2}.get(kind.norm, 0)
        self.norms = nn.ModuleList(PixelNorm(n) for n in (n_in, n_out)[:n_norms])
        self.skip = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        self.dropout = nn.Dropout(kind.dropout) if kind.dropout else nn.Identity()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the block's features."""
        branch, skipped = features, self.skip(features)
        if len(self.norms) == 2:
            branch = self.first(functional.silu(self.norms[0](branch)))
            return skipped + self.second(self.dropout(functional.silu(self.norms[1](branch))))
        if len(self.norms) == 1:
            branch = self.norms[0](branch)
        total = skipped + self.second(self.dropout(functional.relu(self.first(branch))))
        return total if len(self.norms) else functional.relu(total)


class ResidualTrial(Network):
    """A U-Net of such blocks: average pooling; upsampled features are added to the skipped ones."""

    def __init__(self, channels: Sequence[int], kind: Kind) -> None:
        super().__init__()
        n_levels = len(channels)
        self.step, self.n_channels = 2 ** (n_levels - 1), channels[0]
        self.n_features = 6 * channels[0] + sum(-(-n // 4**level) for level, n in enumerate(channels))
        self.taps = TAPS[kind.upsampling]
        per_level = [2 * (kind.n_down + kind.n_up)] * n_levels
        per_level[-1] = 2 * kind.n_down
        per_level[0] = per_level[0] + 1 if kind.has_full_top else 2
        self.receptive_radius = sum(n * 2**level for level, n in enumerate(per_level)) + 3 * (self.step - 1)

        def blocks(n_in: int, n_out: int, n: int) -> nn.Sequential:
            return nn.Sequential(*(Block(n_out if i else n_in, n_out, kind) for i in range(n)))

        first, pairs = channels[0], list(zip(channels, channels[1:]))
        self.first = nn.Conv2d(1, first, 3, padding=1)
        self.down = nn.ModuleList([blocks(first, first, kind.n_down if kind.has_full_top else 0)])
        self.down.extend(blocks(level, below, kind.n_down) for level, below in pairs)
        self.from_below = nn.ModuleList(nn.Conv2d(below, level, 1) for level, below in pairs)
        top = blocks(first, first, kind.n_up) if kind.has_full_top else nn.Conv2d(first, first, 3, padding=1)
        self.up = nn.ModuleList([top, *(blocks(n, n, kind.n_up) for n in channels[1:-1])])
        self.last = nn.Conv2d(first, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the prediction."""
        features = functional.relu(self.first(images))
        skipped: List[torch.Tensor] = []
        for level, blocks in enumerate(self.down):
            features = blocks(functional.avg_pool2d(features, 2) if level else features)
            skipped.append(features)
        taps = torch.tensor(self.taps, device=images.device)
        for level in reversed(range(len(self.up))):
            layer = self.from_below[level]
            weight = layer.weight.transpose(0, 1) * (taps[:, None] * taps)
            above = functional.conv_transpose2d(features, weight, layer.bias, stride=2, padding=1)
            features = self.up[level](skipped[level] + above)
        return self.last(functional.relu(features))


# ---------------------------------------------------------------------- filters that the 8 views share
class ViewsConv(nn.Module):
    """A 3 x 3 convolution whose channels are filters in 8 views (Cohen & Welling 2016, arXiv:1602.07576).

    Turning or mirroring the image does the same with the features of each view, and permutes the views.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        n_places = 9 if n_in == 1 else 72
        self.filters = nn.Parameter(torch.empty(n_out // 8, max(n_in // 8, 1), n_places))
        self.biases = nn.Parameter(torch.zeros(n_out // 8))
        self.register_buffer("orders", torch.from_numpy(view_orders(n_places).ravel()), persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """The weights of all views, `(n_out, n_in, 3, 3)`."""
        n_out, n_in, n = self.filters.shape
        views = self.filters.index_select(2, self.orders).reshape(n_out, n_in, 8, n // 9, 3, 3)
        return views.transpose(1, 2).reshape(8 * n_out, -1, 3, 3)

    @property
    def bias(self) -> torch.Tensor:
        """The biases of all views."""
        return self.biases.repeat_interleave(8)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the convolution of features."""
        return functional.conv2d(features, self.weight, self.bias, padding=1)


class ViewsUNet(UNet):
    """The U-Net of such convolutions: a turned or mirrored image gives the turned or mirrored output."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(channels)
        inputs = [1, *channels[:-1]]
        self.down = nn.ModuleList(
            nn.Sequential(ViewsConv(i, o), nn.ReLU(), ViewsConv(o, o), nn.ReLU()) for i, o in zip(inputs, channels)
        )
        for level in self.up:
            level.first = ViewsConv(level.first.in_channels, level.first.out_channels)
            level.second = ViewsConv(level.second.in_channels, level.second.out_channels)
        self.last = MeanOfViews(channels[0])


class MeanOfViews(nn.Conv2d):
    """A 1 x 1 convolution to one image that takes all views alike."""

    def __init__(self, n_in: int) -> None:
        super().__init__(n_in // 8, 1, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the image."""
        return functional.conv2d(features, self.weight.repeat_interleave(8, 1) * 8**-0.5, self.bias)


def view_orders(n_places: int) -> np.ndarray:
    """Return where the numbers of a kernel come from in each of the 8 views, `(8, n_places)`.

    A kernel is 3 x 3 for each view of its input (72 places), or 3 x 3 alone (9) where the input is an image. In view g,
    its part for view g h is its part for view h, turned by g in the plane.
    """
    kernel = np.arange(n_places).reshape(-1, 3, 3)
    marked = [turned(np.arange(9).reshape(3, 3), view) for view in range(8)]
    orders = []
    for g in range(8):
        parts = [turned(part, g) for part in kernel]
        if len(parts) == 8:
            products = [next(k for k in range(8) if (marked[k] == turned(mark, g)).all()) for mark in marked]
            parts = [parts[products.index(k)] for k in range(8)]
        orders.append(np.stack(parts).ravel())
    return np.stack(orders)


def turned(image: np.ndarray, view: int) -> np.ndarray:
    """Return an image in one of its 8 views."""
    return np.rot90(image.T if view >= 4 else image, view % 4)
