from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoden.errors import ModelError, Remedy
from cryoden.model.networks import CNN3, ResidualUNet, UNet, _interpolated, _UpLevel, build_network, n_weights


def reach(network: torch.nn.Module, side: int) -> int:
    """Return how far from an output pixel the input matters, over all places within a coarsest pixel."""
    farthest = 0
    middle = side // 2 // network.step * network.step
    for place in {middle, middle + network.step // 2, middle + network.step - 1}:
        image = torch.randn(1, 1, side, side, dtype=torch.float64, requires_grad=True)
        network(image)[0, 0, place, place].backward()
        rows, columns = np.nonzero(image.grad[0, 0].numpy())
        farthest = max(farthest, *np.abs(rows - place), *np.abs(columns - place))
    return farthest


class Mean(torch.nn.Module):
    """Mean pooling in place of maximum pooling: every pixel has a gradient."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images, 2)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_receptive_radius_of_the_unet_is_what_the_gradient_reaches(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(depth)
    # no ReLU: nothing is cut off by chance
    monkeypatch.setattr(torch.nn.functional, "relu", lambda features, inplace=False: features)
    network = UNet([3] * depth).double()
    network.pool = Mean()
    farthest = reach(network, 8 * (network.receptive_radius // 4 + 1))
    assert network.receptive_radius >= farthest
    assert network.receptive_radius - farthest <= network.step  # no larger than needed


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_receptive_radius_of_the_residual_unet_is_what_the_gradient_reaches(
    depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.functional, "relu", lambda features: features)
    network = ResidualUNet([3] * depth).double()
    for parameter in network.parameters():
        parameter.data.fill_(0.01)  # nothing cancels
    farthest = reach(network, 8 * (network.receptive_radius // 4 + 1))
    assert network.receptive_radius >= farthest
    assert network.receptive_radius - farthest <= network.step  # no larger than needed


def test_receptive_radius_of_cnn3_is_what_the_gradient_reaches() -> None:
    torch.manual_seed(1)
    assert reach(CNN3().double(), 15) == CNN3.receptive_radius


def test_cnn3_on_squares_of_pixels_is_the_same_function() -> None:
    """Output and gradients, at the border too; float64 leaves rounding alone."""
    network = build_network("cnn3").double()
    assert isinstance(network, CNN3)
    images = torch.randn((2, 1, 12, 18), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for parameter in network.parameters():
        parameter.data += 0.1  # biases that are not zero
    results = []
    for forward in (network.layers, network.packed):
        output = forward(images)
        results.append([output, *torch.autograd.grad(output.square().sum(), list(network.parameters()))])
    for plain, packed in zip(*results):
        torch.testing.assert_close(packed, plain, rtol=1e-12, atol=1e-12)


def test_cnn3_has_2625_parameters() -> None:
    assert sum(p.numel() for p in CNN3().parameters()) == 2625


@pytest.mark.parametrize("channels", [(4,), (4, 8), (4, 8, 16), (3, 5, 7, 9)])
@pytest.mark.parametrize("name", ["unet", "resunet"])
def test_output_has_the_shape_of_the_input(name: str, channels: tuple) -> None:
    network = build_network(name, channels)
    image = torch.randn(2, 1, 3 * network.step, 5 * network.step)
    assert network(image).shape == image.shape


@pytest.mark.parametrize("name", ["unet", "cnn3", "resunet"])
def test_seed_decides_the_first_weights(name: str) -> None:
    def weights(seed: int) -> np.ndarray:
        return next(build_network(name, (4, 8), seed).parameters()).detach().numpy()

    np.testing.assert_array_equal(weights(1), weights(1))
    assert not np.array_equal(weights(1), weights(2))


def test_building_a_network_does_not_touch_the_global_generator_of_weights() -> None:
    """Weights come from the network's own generator, whatever was drawn before."""
    torch.manual_seed(1)
    first = next(build_network("cnn3").parameters()).detach().clone()
    torch.manual_seed(2)
    assert torch.equal(first, next(build_network("cnn3").parameters()))


@pytest.mark.parametrize(("name", "channels"), [("cnn3", ()), ("unet", (16, 32)), ("resunet", (16, 32, 32))])
def test_untrained_output_is_small(name: str, channels: tuple) -> None:
    with torch.no_grad():
        output = build_network(name, channels)(torch.randn(1, 1, 64, 64))
    assert float(output.std()) < 0.5


@pytest.mark.parametrize(("n_below", "n_level", "shape"), [(8, 4, (6, 10)), (3, 5, (1, 1)), (64, 32, (7, 4))])
def test_up_level_is_the_convolution_of_the_concatenation(n_below: int, n_level: int, shape: tuple) -> None:
    """Ronneberger et al. 2015 concatenate skipped and upsampled features; the level adds two convolutions instead."""
    torch.manual_seed(1)
    level = _UpLevel(n_below, n_level).double()
    skipped = torch.randn(2, n_level, 2 * shape[0], 2 * shape[1], dtype=torch.float64, requires_grad=True)
    below = torch.randn(2, n_below, *shape, dtype=torch.float64, requires_grad=True)
    leaves = [skipped, below, *level.parameters()]
    found = level(skipped, below)
    upsampled = torch.nn.functional.interpolate(below, scale_factor=2, mode="nearest")
    expected = level.second(level.first(torch.cat((skipped, upsampled), dim=1)).relu()).relu()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.detach().std()))
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((output * weights).sum(), leaves) for output in (found, expected)]
    for first, second in zip(*gradients):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-6 * float(second.abs().max()))


@pytest.mark.parametrize("shape", [(6, 10), (1, 1), (7, 4)])
def test_features_from_below_are_interpolated_linearly(shape: tuple) -> None:
    """Away from the edges, beyond which are zeros, it is what PyTorch interpolates of the 1 x 1 convolution."""
    torch.manual_seed(1)
    layer = torch.nn.Conv2d(5, 3, 1).double()
    features = torch.randn(2, 5, *shape, dtype=torch.float64)
    padded = torch.nn.functional.pad(features, (1, 1, 1, 1))
    expected = torch.nn.functional.interpolate(
        layer(padded) - layer.bias[:, None, None], scale_factor=2, mode="bilinear", align_corners=False
    )
    expected = expected[:, :, 2:-2, 2:-2] + layer.bias[:, None, None]
    torch.testing.assert_close(_interpolated(features, layer), expected, rtol=0, atol=1e-12)


def test_blocks_of_the_residual_unet_begin_as_what_they_are_added_to() -> None:
    network = build_network("resunet", (4, 8, 8))
    block = network.down[0][1]
    features = torch.rand(1, 8, 6, 4)
    assert torch.equal(block(features), features)
    with torch.no_grad():
        block.second.weight.add_(0.1)
    assert not torch.equal(block(features), features)


def test_unknown_network() -> None:
    with pytest.raises(ModelError) as caught:
        build_network("transformer")
    assert str(caught.value) == (
        "The network is 'transformer'; known are unet, cnn3, resunet. Update cryoden if a newer one wrote the model."
    )
    with pytest.raises(ModelError) as caught:
        build_network("transformer", source="a.safetensors")
    assert str(caught.value).startswith("The network of a.safetensors is 'transformer'")


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("cnn3", ()), ("unet", (4,)), ("unet", (4, 8, 16)), ("unet", (5, 3)), ("resunet", (4,)), ("resunet", (4, 8, 8)),
        ("resunet", (5, 3, 3, 7)),
    ],
)  # fmt: skip
def test_number_of_weights_is_known_before_a_network_is_made(name: str, channels: tuple) -> None:
    assert n_weights(name, channels) == sum(weight.numel() for weight in build_network(name, channels).parameters())


@pytest.mark.parametrize("name", ["unet", "resunet"])
@pytest.mark.parametrize("channels", [(100_000,), (8192**3,), (32, 10**30)])
def test_network_larger_than_the_memory_is_refused_before_it_is_allocated(name: str, channels: tuple) -> None:
    with pytest.raises(ModelError, match="of weights, more than the memory that is free") as caught:
        build_network(name, channels)
    assert caught.value.problem.remedy == Remedy("change", "channels")
