"""Inside a network: weights of its first layer, what its levels make of one cut-out, how far it really sees."""

from __future__ import annotations

import copy
from typing import Dict, List, Tuple

import numpy as np
import torch
from torch import nn

from cryoden.formats.arrays import write_arrays
from cryoden.formats.files import PathLike
from cryoden.model.networks import Network, ResidualUNet, UNet

SHOWN_CHANNELS = 6
"""Activation maps that are kept of each level: those that vary most."""

N_GRADIENTS = 4
"""Places at which the gradient is taken, at most: a ReLU network's differs from place to place."""

GRADIENT_PIXELS = 1 << 20
"""Pixels of all these places together, but for one place at least: a network that sees far is asked at fewer."""


def inspect_network(network: Network, cut: np.ndarray) -> Dict[str, np.ndarray]:
    """Return what there is to see inside a network.

    Parameters
    ----------
    network
        A trained network; a copy of it is used, on the CPU.
    cut
        Standardised cut-out `(y, x)`; it is cropped to multiples of the network's step.

    Returns
    -------
    arrays
        `weights` of the first layer `(n, y, x)`; `level NN NAME` activation maps `(channels, y, x)`; `gradient`, the
        mean absolute derivative of an output pixel with respect to the input pixels around it `(side, side)`, and
        `n_gradients`, of how many output pixels it is the mean; `radii`: receptive radius by construction, largest
        radius with a gradient, radius that holds 90 % of it, in pixels.
    """
    network = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    rows, columns = (side // network.step * network.step for side in cut.shape)
    image = torch.from_numpy(np.ascontiguousarray(cut[:rows, :columns], np.float32))[None, None]
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    arrays = {"weights": first.weight.detach()[:, 0].numpy()}
    for number, (name, maps) in enumerate(_activations(network, image)):
        arrays[f"level {number:02d} {name}"] = maps
    gradient, reach, n_gradients = _gradient(network, image)
    arrays["gradient"], arrays["n_gradients"] = gradient, np.array(n_gradients)
    arrays["radii"] = np.array([network.receptive_radius, reach, _radius_of(gradient, 0.9)], np.float64)
    return arrays


def save_inside(path: PathLike, arrays: Dict[str, np.ndarray]) -> None:
    """Write what `inspect_network` returned as an npz file, whole or not at all."""
    write_arrays(path, arrays, compress=True)


def _stages(network: Network) -> List[Tuple[str, nn.Module]]:
    """Return the modules after which a picture is worth looking at: U-Net levels, or the layers of a plain network."""
    if isinstance(network, (UNet, ResidualUNet)):
        is_residual = isinstance(network, ResidualUNet)
        down = [network.first, *network.down] if is_residual else list(network.down)
        up = [network.top, *network.up] if is_residual else list(network.up)
        named = [(f"down {i + 1}", module) for i, module in enumerate(down)]
        return named + [(f"up {i + 1}", up[i]) for i in reversed(range(len(up)))]
    layers = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    return [(f"layer {i + 1}", module) for i, module in enumerate(layers)]


@torch.inference_mode()
def _activations(network: Network, image: torch.Tensor) -> List[Tuple[str, np.ndarray]]:
    kept: List[Tuple[str, np.ndarray]] = []
    hooks = []
    for name, module in _stages(network):

        def keep(_: nn.Module, __: Tuple[torch.Tensor, ...], output: torch.Tensor, name: str = name) -> None:
            maps = output[0].numpy()
            order = np.argsort(-maps.std(axis=(1, 2)))[:SHOWN_CHANNELS]
            kept.append((name, maps[order].astype(np.float16)))

        hooks.append(module.register_forward_hook(keep))
    network(image)
    for hook in hooks:
        hook.remove()
    return kept


def _gradient(network: Network, image: torch.Tensor) -> Tuple[np.ndarray, float, int]:
    """Return the mean absolute gradient around an output pixel, the largest radius reached, and of how many pixels.

    The gradient is `(2 r + 1, 2 r + 1)`, where r is the receptive radius.
    """
    radius = network.receptive_radius
    side = -(-(2 * radius + 1 + network.step) // network.step) * network.step
    n_gradients = max(1, min(N_GRADIENTS, GRADIENT_PIXELS // side**2))
    rows, columns = (np.arange(side) % n for n in image.shape[2:])  # a small cut-out is repeated
    total = np.zeros((2 * radius + 1, 2 * radius + 1))
    reach = 0.0

    for view in range(n_gradients):
        tile = torch.rot90(image[0, 0][rows][:, columns], view)[None, None].clone().requires_grad_(True)
        centre = side // 2
        network(tile)[0, 0, centre, centre].backward()
        assert tile.grad is not None

        # Beyond the tile there is nothing to be moved by: an edge of zeros stays.
        around = np.zeros_like(total)
        found = tile.grad[0, 0].abs().numpy()
        first = centre - radius
        low = max(first, 0)
        high = min(centre + radius + 1, side)
        around[low - first : high - first, low - first : high - first] = found[low:high, low:high]

        y, x = np.nonzero(found)
        reach = max(reach, float(np.maximum(np.abs(y - centre), np.abs(x - centre)).max(initial=0)))
        total += around / n_gradients
    return total.astype(np.float32), reach, n_gradients


def _radius_of(gradient: np.ndarray, share: float) -> float:
    """Return the radius in pixels of the circle that holds a share of the gradient."""
    radius = gradient.shape[0] // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    distance = np.hypot(y, x).ravel()
    order = np.argsort(distance)
    held = np.cumsum(gradient.ravel()[order].astype(np.float64))
    return float(distance[order][np.searchsorted(held, share * held[-1])]) if held[-1] > 0 else 0.0
