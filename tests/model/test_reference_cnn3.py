"""CNN3 against its formulas in float64 NumPy: 3 x 3 convolution with zero padding, ReLU, mean squared error, Adam."""

from __future__ import annotations

from typing import Dict, List, Tuple

import numpy as np
import pytest
import torch

from cryoden.model.networks import build_network

Arrays = Dict[str, np.ndarray]
LAYERS = ("layers.0", "layers.2", "layers.4")
OFFSETS = [(row, column) for row in range(3) for column in range(3)]


def shifted(images: np.ndarray, row: int, column: int) -> np.ndarray:
    """Return `(n, c, y, x)` images whose pixel (y, x) is that at (y + row - 1, x + column - 1), zero outside."""
    rows, columns = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return padded[:, :, row : row + rows, column : column + columns]


def convolve(images: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """z[n, o, y, x] = b[o] + sum over i, r, c of w[o, i, r, c] * a[n, i, y + r - 1, x + c - 1]."""
    total = np.zeros((len(images), len(weight), *images.shape[2:])) + bias[:, None, None]
    for row, column in OFFSETS:
        total += np.einsum("oi,niyx->noyx", weight[:, :, row, column], shifted(images, row, column))
    return total


def convolve_back(gradient: np.ndarray, images: np.ndarray, weight: np.ndarray) -> Tuple[np.ndarray, ...]:
    """Return the derivatives by images, weight and bias, given that by the output."""
    by_weight, by_images = np.zeros_like(weight), np.zeros_like(images)
    for row, column in OFFSETS:
        by_weight[:, :, row, column] = np.einsum("noyx,niyx->oi", gradient, shifted(images, row, column))
        # pixel (y, x) was read by the output at (y - row + 1, x - column + 1)
        by_images += np.einsum("oi,noyx->niyx", weight[:, :, row, column], shifted(gradient, 2 - row, 2 - column))
    return by_images, by_weight, gradient.sum(axis=(0, 2, 3))


def forward(weights: Arrays, images: np.ndarray) -> Tuple[np.ndarray, List[np.ndarray]]:
    """Return the output, and the input of each layer (after the ReLU of the one before)."""
    inputs, features = [], images
    for layer in LAYERS:
        inputs.append(features)
        features = convolve(features, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
        if layer != LAYERS[-1]:
            features = np.maximum(features, 0.0)
    return features, inputs


def backward(weights: Arrays, inputs: List[np.ndarray], output: np.ndarray, targets: np.ndarray) -> Arrays:
    """Return the derivative of mean((output - targets)^2) by every parameter, and by the images."""
    gradients = {}
    gradient = 2 * (output - targets) / output.size
    for layer, features in zip(reversed(LAYERS), reversed(inputs)):
        gradient, by_weight, by_bias = convolve_back(gradient, features, weights[f"{layer}.weight"])
        gradients[f"{layer}.weight"], gradients[f"{layer}.bias"] = by_weight, by_bias
        if layer != LAYERS[0]:
            gradient = gradient * (features > 0)  # ReLU
    gradients["images"] = gradient
    return gradients


def adam_step(weights: Arrays, gradients: Arrays, rate: float, step: int, state: Dict[str, Arrays]) -> Arrays:
    """Return the weights after one step (Kingma & Ba 2015, ICLR, algorithm 1) with 0.9, 0.999, 1e-8."""
    after = {}
    for name, weight in weights.items():
        moments = state.setdefault(name, {"first": np.zeros_like(weight), "second": np.zeros_like(weight)})
        moments["first"] = 0.9 * moments["first"] + 0.1 * gradients[name]
        moments["second"] = 0.999 * moments["second"] + 0.001 * gradients[name] ** 2
        first, second = moments["first"] / (1 - 0.9**step), moments["second"] / (1 - 0.999**step)
        after[name] = weight - rate * first / (np.sqrt(second) + 1e-8)
    return after


@pytest.fixture(scope="module")
def case() -> Tuple[Arrays, np.ndarray, np.ndarray]:
    """Weights with biases that are not zero, inputs and targets; sides that differ and are odd."""
    rng = np.random.default_rng(1)
    network = build_network("cnn3", (), 3)
    weights = {name: value.numpy().astype(np.float64) for name, value in network.state_dict().items()}
    weights = {name: value + 0.1 * rng.standard_normal(value.shape) for name, value in weights.items()}
    return weights, rng.standard_normal((2, 1, 13, 10)), rng.standard_normal((2, 1, 13, 10))


def torch_case(
    case: Tuple[Arrays, np.ndarray, np.ndarray], dtype: torch.dtype
) -> Tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    weights, images, targets = case
    network = build_network("cnn3").to(dtype)
    network.load_state_dict({name: torch.from_numpy(value).to(dtype) for name, value in weights.items()})
    return network, torch.from_numpy(images).to(dtype).requires_grad_(), torch.from_numpy(targets).to(dtype)


def assert_close(found: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    """Compare relative to the largest value."""
    difference = np.abs(found.detach().double().numpy() - expected).max()
    assert difference <= tolerance * np.abs(expected).max()


# float32: each value is a sum of up to 9 x 16 x 3 products (for weights: of 260 pixels), rounded at 6e-8 each
TOLERANCES = [(torch.float64, 1e-6), (torch.float32, 2e-5)]


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES, ids=["float64", "float32"])
def test_output_loss_and_every_gradient(
    case: Tuple[Arrays, np.ndarray, np.ndarray], dtype: torch.dtype, tolerance: float
) -> None:
    weights, images, targets = case
    output, inputs = forward(weights, images)
    gradients = backward(weights, inputs, output, targets)
    network, given, wanted = torch_case(case, dtype)
    found = network(given)
    loss = torch.nn.functional.mse_loss(found, wanted)
    loss.backward()
    assert_close(found, output, tolerance)
    assert float(loss.detach()) == pytest.approx(np.mean((output - targets) ** 2), rel=tolerance)
    assert_close(given.grad, gradients.pop("images"), tolerance)
    parameters = dict(network.named_parameters())
    assert set(parameters) == set(gradients)
    for name, gradient in gradients.items():
        assert_close(parameters[name].grad, gradient, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES, ids=["float64", "float32"])
def test_steps_of_adam(case: Tuple[Arrays, np.ndarray, np.ndarray], dtype: torch.dtype, tolerance: float) -> None:
    """One step, and two more: the first does not depend on the size of the gradient."""
    weights, images, targets = case
    network, given, wanted = torch_case(case, dtype)
    given = given.detach()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)  # made as in cryoden.model.training
    state: Dict[str, Arrays] = {}
    for step in (1, 2, 3):
        output, inputs = forward(weights, images)
        weights = adam_step(weights, backward(weights, inputs, output, targets), 1e-2, step, state)
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.mse_loss(network(given), wanted).backward()
        optimizer.step()
        for name, parameter in network.named_parameters():
            assert_close(parameter, weights[name], tolerance)
