"""The networks: three convolutions, a U-Net, a residual U-Net. All map `(batch, 1, y, x)` to the same shape."""

from __future__ import annotations

from typing import List, Optional, Sequence, cast

import torch
from torch import nn
from torch.nn import functional

from cryoden.config import GIB, NETWORKS
from cryoden.errors import ModelError, Remedy
from cryoden.system.memory import free_host_bytes

FIRST_OUTPUT = 0.1
"""Deviation of an untrained network's output, relative to its input's."""


class Network(nn.Module):
    """Base of the denoising networks.

    Attributes
    ----------
    step : int
        Multiple that rows and columns of the input must have.
    receptive_radius : int
        Pixels on each side that can influence an output pixel.
    n_channels : int
        Channels at full resolution.
    n_features : int
        Numbers per pixel that a prediction holds at its widest moment: what its memory is estimated from.
    """

    step: int
    receptive_radius: int
    n_channels: int
    n_features: int


class CNN3(Network):
    """Three 3 x 3 convolutions 1-16-16-1 with ReLU between them: 2,625 parameters."""

    step = 1
    receptive_radius = 3
    n_channels = 16
    n_features = 3 * 16

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 1, 3, padding=1),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the prediction."""
        if images.is_cuda and images.shape[-2] % 2 == images.shape[-1] % 2 == 0:
            return self.packed(images)
        return self.layers(images)

    def packed(self, images: torch.Tensor) -> torch.Tensor:
        """Return the same prediction, computed on squares of 2 x 2 pixels; rows and columns must be even.

        With the 4 pixels of a square as channels, a 3 x 3 convolution of n channels is a 3 x 3 convolution of 4 n
        channels in which most weights are zero: more multiplications, but 16 channels are far too few for a GPU.
        """
        features = functional.pixel_unshuffle(images, 2)
        for layer in self.layers:
            features = _packed_convolution(features, layer) if isinstance(layer, nn.Conv2d) else layer(features)
        return functional.pixel_shuffle(features, 2)


# Along one axis, pixel p of square Y is row 2 Y + p. Tap d of a 3-pixel kernel reads row 2 Y + p + (d - 1) for it. That
# is pixel r of the neighbouring square Y + (k - 1), k in 0, 1, 2, if and only if
#
#     2 (Y + k - 1) + r = 2 Y + p + d - 1,    that is    2 (k - 1) + r - p = d - 1.
#
# _PLACES[p, r, k, d] is 1 where this holds, else 0: for given p and d, exactly one pair (r, k).
_PLACES = torch.tensor(
    [[[[float(2 * (k - 1) + r - p == d - 1) for d in range(3)] for k in range(3)] for r in range(2)] for p in range(2)]
)


def _packed_convolution(features: torch.Tensor, layer: nn.Conv2d) -> torch.Tensor:
    """Return a 3 x 3 convolution of features `(batch, 4 n_in, y, x)` whose channels are (i, r, s), s fastest.

    With P = `_PLACES` for rows and columns, and the layer's weights W[o, i, d, e], the weights of the packed layer are

        W'[(o, p, q), (i, r, s), k, l] = sum over d, e of  P[p, r, k, d] P[q, s, l, e] W[o, i, d, e],

    in the order of channels that `pixel_unshuffle` makes and `pixel_shuffle` takes. The zeros around the image are
    the same: a square outside holds pixels outside only.
    """
    n_out, n_in = layer.weight.shape[:2]
    places = _PLACES.to(layer.weight)
    weight = torch.einsum("prkd,qsle,oide->opqirskl", places, places, layer.weight)
    bias = cast(torch.Tensor, layer.bias).repeat_interleave(4)
    return functional.conv2d(features, weight.reshape(4 * n_out, 4 * n_in, 3, 3), bias, padding=1)


class UNet(Network):
    """U-Net (Ronneberger et al. 2015, MICCAI): two 3 x 3 convolutions a level, maximum pooling, nearest upsampling.

    Parameters
    ----------
    channels
        Channels of each level, from full resolution downwards.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        n_pools = len(channels) - 1
        self.step = 2**n_pools

        # Two convolutions reach 2 pixels of their level, on the way down and up (the coarsest level once); a pixel's
        # place inside its coarsest pixel adds step - 1.
        self.receptive_radius = 4 * (self.step - 1) + 2 * self.step + (self.step - 1)

        # At full resolution: skipped features, both parts of their sum, and two convolutions.
        self.n_channels = channels[0]
        self.n_features = 4 * channels[0] + sum(-(-n // 4**level) for level, n in enumerate(channels))

        inputs = [1, *channels[:-1]]
        self.down = nn.ModuleList(_TwoConvolutions(i, o) for i, o in zip(inputs, channels))
        self.up = nn.ModuleList(_UpLevel(below, level) for level, below in zip(channels, channels[1:]))
        self.last = nn.Conv2d(channels[0], 1, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the prediction; rows and columns must be multiples of `step`, the pixel of the coarsest level."""
        skipped: List[torch.Tensor] = []
        features = images
        for level, block in enumerate(self.down):
            features = block(self.pool(features) if level else features)
            skipped.append(features)
        for level in reversed(range(len(self.up))):
            features = self.up[level](skipped[level], features)
        return self.last(features)


class _UpLevel(nn.Module):
    """Two 3 x 3 convolutions of a level's features concatenated with the upsampled features from below.

    The first convolution is computed in two parts that add up to that of the concatenation: of the skipped features as
    they are, and of the upsampled ones as a 4 x 4 transposed convolution with stride 2 of the small ones. That is the
    same sum with 4 instead of 9 multiplications a pixel, and neither the upsampled nor the concatenated tensor exists.

    Parameters
    ----------
    n_below, n_level
        Channels of the features from below, and of this level (skipped and returned).
    """

    # Along one axis, the upsampled row y is row floor(y / 2) of the small features b. A convolution with taps w gives
    #
    #     out[y] = sum over k of  w[k] b[floor((y + k - 1) / 2)],
    #
    # and a transposed convolution with stride 2, padding 1 and taps m
    #
    #     out[y] = sum over Y of  m[y + 1 - 2 Y] b[Y].
    #
    # With t = y + 1 - 2 Y, that is y = 2 Y + t - 1, both agree if m[t] is the sum of those w[k] for which
    # floor((2 Y + t + k - 2) / 2) = Y: t + k is 2 or 3. _MERGE[t][k] is 1 for these, else 0. Rows outside are zero in
    # both.
    _MERGE = tuple(tuple(float(t + k in (2, 3)) for k in range(3)) for t in range(4))

    def __init__(self, n_below: int, n_level: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_level + n_below, n_level, 3, padding=1)
        self.second = nn.Conv2d(n_level, n_level, 3, padding=1)

    def forward(self, skipped: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        n_level = skipped.shape[1]
        weight = self.first.weight

        # merged[i, o, t, u] = sum over k, l of  M[t, k] w[o, i, k, l] M[u, l].
        merge = torch.tensor(self._MERGE, dtype=weight.dtype, device=weight.device)
        merged = torch.einsum("tk,oikl,ul->iotu", merge, weight[:, n_level:], merge)

        if _is_fused(below):
            above = functional.conv_transpose2d(below, merged.to(below.dtype), stride=2, padding=1)
            features = _fused(skipped, weight[:, :n_level], self.first.bias, above)
            return _fused(features, self.second.weight, self.second.bias)
        features = functional.conv2d(skipped, weight[:, :n_level], self.first.bias, padding=1)
        features = features + functional.conv_transpose2d(below, merged, stride=2, padding=1)
        return functional.relu(self.second(functional.relu(features)))


class _TwoConvolutions(nn.Sequential):
    """Two 3 x 3 convolutions, each with a ReLU behind it."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(
            nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(n_out, n_out, 3, padding=1), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if not _is_fused(features):
            return super().forward(features)
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                features = _fused(features, layer.weight, layer.bias)
        return features


class ResidualUNet(Network):
    """U-Net of residual blocks (He et al. 2016, CVPR) that is shallow at full resolution.

    Of the levels below full resolution, each has two blocks on the way down and one on the way up (the coarsest has two
    in all); full resolution has one convolution on either way: there most of the work is, but little of what is
    learned. Features are averaged on the way down; on the way up they are interpolated and added to the skipped ones.
    Average and interpolation treat all places within a coarser pixel alike, up to reflection: the output's spectrum has
    hardly any spots on the lattice of the coarser pixels (benchmarks/README.md). Nothing is normalised: the last
    convolution of each block begins at zero, and with it every block as what it is added to (Goyal et al. 2017,
    arXiv:1706.02677).

    Parameters
    ----------
    channels
        Channels of each level, from full resolution downwards.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        n_levels = len(channels)
        self.step = 2 ** (n_levels - 1)

        # Full resolution has two convolutions, each level below 6, the coarsest 4. Interpolation reaches a pixel
        # further from the level below; a pixel's place inside its coarsest pixel adds step - 1.
        convolutions = [2, *[6] * (n_levels - 2), 4][:n_levels]
        reach = sum(n * 2**level for level, n in enumerate(convolutions))
        interpolated = 2 * (self.step - 1)
        self.receptive_radius = reach + interpolated + (self.step - 1)

        # At full resolution: skipped features, those from below, their sum, and a convolution.
        self.n_channels = channels[0]
        self.n_features = 4 * channels[0] + sum(-(-n // 4**level) for level, n in enumerate(channels))

        pairs = list(zip(channels, channels[1:]))
        self.first = nn.Conv2d(1, channels[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(_ResidualBlock(level, below), _ResidualBlock(below, below)) for level, below in pairs
        )
        self.from_below = nn.ModuleList(nn.Conv2d(below, level, 1) for level, below in pairs)
        self.up = nn.ModuleList(_ResidualBlock(level, level) for level in channels[1:-1])
        self.top = nn.Conv2d(channels[0], channels[0], 3, padding=1)
        self.last = nn.Conv2d(channels[0], 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the prediction; rows and columns must be multiples of `step`, the pixel of the coarsest level."""
        features = _convolved(images, self.first)
        skipped: List[torch.Tensor] = []
        for blocks in self.down:
            skipped.append(features)
            features = blocks(functional.avg_pool2d(features, 2))

        for level in reversed(range(len(skipped))):
            features = skipped[level] + _interpolated(features, cast(nn.Conv2d, self.from_below[level]))
            if level:
                features = self.up[level - 1](features)
        return self.last(_convolved(features, self.top))


class _ResidualBlock(nn.Module):
    """ReLU of the features (by a 1 x 1 convolution, where their number changes) and two convolutions of them."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.second = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.skip = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        skipped = features if self.skip is None else self.skip(features)
        return _convolved(_convolved(features, self.first), self.second, skipped)


def _convolved(features: torch.Tensor, layer: nn.Conv2d, added: Optional[torch.Tensor] = None) -> torch.Tensor:
    """Return the ReLU of a 3 x 3 convolution, plus what is added."""
    if _is_fused(features):
        return _fused(features, layer.weight, layer.bias, added)
    convolved = layer(features)
    return functional.relu(convolved if added is None else convolved + added)


# Along one axis, half the size of the pixels by linear interpolation: the rows 2 Y and 2 Y + 1 lie a quarter of a pixel
# before and behind the centre of row Y, so they are 3/4 of it and 1/4 of the row before or behind. As a transposed
# convolution with stride 2 and padding 1, out[y] = sum over Y of m[y + 1 - 2 Y] b[Y].
_INTERPOLATION = (0.25, 0.75, 0.75, 0.25)


def _interpolated(features: torch.Tensor, layer: nn.Conv2d) -> torch.Tensor:
    """Return a 1 x 1 convolution of features, interpolated to pixels of half the size: one transposed convolution."""
    taps = torch.tensor(_INTERPOLATION, dtype=layer.weight.dtype, device=layer.weight.device)
    weight = layer.weight.transpose(0, 1) * (taps[:, None] * taps)
    return functional.conv_transpose2d(features, weight, layer.bias, stride=2, padding=1)


def _is_fused(features: torch.Tensor) -> bool:
    """Return whether convolution, bias, sum and ReLU are one step: cuDNN has that for predictions in 16 bits."""
    return (
        features.is_cuda
        and not torch.is_grad_enabled()
        and torch.is_autocast_enabled()
        and torch.version.cuda is not None
        and torch.backends.cudnn.is_available()
    )


def _fused(
    features: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor], above: Optional[torch.Tensor] = None
) -> torch.Tensor:
    """Return the ReLU of a 3 x 3 convolution (plus `above`): the features pass through memory once, not five times."""
    dtype = torch.get_autocast_dtype("cuda")
    features, bias = features.to(dtype), cast(torch.Tensor, bias).to(dtype)
    weight = weight.to(dtype, memory_format=torch.channels_last)
    where = ((1, 1), (1, 1), (1, 1), 1)  # stride, padding, dilation, groups
    if above is None:
        return torch.cudnn_convolution_relu(features, weight, bias, *where)
    return torch.cudnn_convolution_add_relu(features, weight, above, 1.0, bias, *where)


def n_weights(name: str, channels: Sequence[int] = ()) -> int:
    """Return how many numbers a network learns, without making it."""
    if name == "cnn3":
        channels = (1, 16, 16, 1)
        return sum(9 * n_in * n_out + n_out for n_in, n_out in zip(channels, channels[1:]))
    if name == "resunet":
        pairs = list(zip(channels, channels[1:]))
        down = sum(9 * (level + 3 * below) * below + (level * below if level != below else 0) for level, below in pairs)
        biases = sum(4 * below + (below if level != below else 0) + level for level, below in pairs)
        up = sum(18 * n * n + 2 * n for n in channels[1:-1]) + sum(level * below for level, below in pairs)
        top = channels[0]
        return 10 * top + down + biases + up + (9 * top + 1) * top + top + 1
    down = sum(9 * (n_in + n) * n + 2 * n for n_in, n in zip((1, *channels), channels))
    up = sum(9 * (level + below + level) * level + 2 * level for level, below in zip(channels, channels[1:]))
    return down + up + channels[0] + 1


def build_network(name: str, channels: Sequence[int] = (), seed: int = 1, source: str = "") -> Network:
    """Make a network with weights drawn from its own generator (He et al. 2015, biases zero).

    Parameters
    ----------
    name
        One of `cryoden.config.NETWORKS`.
    channels
        Of the levels of a U-Net.
    seed
        Of the weights.
    source
        File that names it, for messages; empty: the options do.

    Raises
    ------
    ModelError
        If the name is unknown, or the weights do not fit into the memory.
    """
    if name not in NETWORKS:
        unknown = f"is {name!r}; known are {', '.join(NETWORKS)}. Update cryoden if a newer one wrote the model."
        raise ModelError(f"The network of {source} {unknown}" if source else f"The network {unknown}", subject=source)
    needed = 4 * n_weights(name, channels)
    if needed > free_host_bytes():
        large = f"has {needed / GIB:.3g} GiB of weights, more than the memory that is free."
        if source:
            raise ModelError(f"The network of {source} {large}", subject=source)
        raise ModelError(f"The network {large}", subject="channels", remedy=Remedy("change", "channels"))

    network: Network = CNN3() if name == "cnn3" else {"unet": UNet, "resunet": ResidualUNet}[name](channels)
    generator = torch.Generator().manual_seed(seed)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        for convolution in convolutions:
            fan_in = convolution.weight[0].numel()
            convolution.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
            nn.init.zeros_(cast(torch.Tensor, convolution.bias))
        # At this noise level the best first guess is the mean: start close to it, not at the deviation of the input.
        convolutions[-1].weight.mul_(FIRST_OUTPUT)
        for module in network.modules():
            if isinstance(module, _ResidualBlock):
                nn.init.zeros_(module.second.weight)
    return network
