"""Do two implementations compute the same? Forward pass, loss and gradients, in double precision for reference."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, List, Tuple, cast

import numpy as np
import torch
from torch import nn

from cryoden.config import UNETS
from cryoden.config.exchange import ImportWeightsConfig, VerifyCompareConfig, VerifyExportConfig
from cryoden.data.normalize import Normalization
from cryoden.errors import (
    CryodenError,
    ExistingResultsError,
    FileError,
    ModelError,
    OptionError,
    Remedy,
    option_problem,
)
from cryoden.formats import outputs
from cryoden.formats.bundle import Bundle, Item, read_array, read_bundle, read_index, require_own_bundle, write_bundle
from cryoden.formats.files import make_folder
from cryoden.formats.model_file import ModelCard, read_model, write_model
from cryoden.formats.output_folder import fills_folder, no_failures, require_own_folder
from cryoden.formats.patch_file import open_patches
from cryoden.model.networks import Network, build_network
from cryoden.model.predictor import load_weights

WEIGHT_AXES, IMAGE_AXES = ("output", "input", "row", "column"), ("patch", "channel", "row", "column")


@dataclass(frozen=True)
class Difference:
    """How far one item is from its reference.

    Attributes
    ----------
    absolute
        Largest absolute difference.
    relative
        The same, relative to the largest absolute value of the reference.
    tolerance
        What `relative` may be.
    """

    name: str
    kind: str
    absolute: float
    relative: float
    tolerance: float

    @property
    def is_passed(self) -> bool:
        """Whether the item agrees; NaN never does."""
        return self.relative <= self.tolerance


def parameter_names(network: nn.Module) -> Dict[str, str]:
    """Return file name -> parameter: `conv1_weights`, `conv1_bias`... in the order in which layers were made."""
    names = {}
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    for number, layer in enumerate(layers, 1):
        names[f"conv{number}_weights"] = f"{layer}.weight"
        names[f"conv{number}_bias"] = f"{layer}.bias"
    return names


def compute(network: Network, inputs: np.ndarray, targets: np.ndarray) -> Dict[str, np.ndarray]:
    """Return `output`, `loss` (mean squared error) and every gradient `conv1_weights_gradient`..., float64.

    Parameters
    ----------
    network
        Is turned to double precision.
    inputs, targets
        `(patch, 1, row, column)`.
    """
    network.double()
    output = network(torch.from_numpy(inputs.astype(np.float64)))
    loss = nn.functional.mse_loss(output, torch.from_numpy(targets.astype(np.float64)))
    network.zero_grad()
    loss.backward()
    results = {"output": output.detach().numpy(), "loss": loss.detach().numpy()}
    parameters = dict(network.named_parameters())
    for name, parameter in parameter_names(network).items():
        results[f"{name}_gradient"] = cast(torch.Tensor, parameters[parameter].grad).numpy()
    return results


@fills_folder("verify export", no_failures)
def export_bundle(config: VerifyExportConfig) -> Bundle:
    """Write weights, a batch, and what follows from them; return the bundle.

    Raises
    ------
    CryodenError
        If model or patch files cannot be used, or the size does not suit the network.
    """
    if config.model:
        card, weights = read_model(config.model)
        name, channels = card.network, card.channels
        network = build_network(name, channels, source=config.model)
        load_weights(network, weights, config.model)
    else:
        name, channels = config.network, config.channels if config.network in UNETS else ()
        network = build_network(name, channels, config.seed)
    inputs, targets = _batch(config, network.step)
    weights = {file: _parameter(network, parameter) for file, parameter in parameter_names(network).items()}
    results = compute(network, inputs, targets)
    arrays = {**weights, "input": inputs, "target": targets, **results}
    require_own_bundle(config.output, arrays)
    bundle = Bundle(name, tuple(channels), [_item(name, array) for name, array in arrays.items()], arrays)
    write_bundle(config.output, bundle, config.order)
    return bundle


def compare_bundles(config: VerifyCompareConfig) -> List[Difference]:
    """Return the difference of every output, loss and gradient from its reference.

    Without a reference bundle, the reference is computed from the weights and the batch of the bundle itself; with one,
    weights and batch are compared too.

    Raises
    ------
    FileError
        If a bundle lacks an item, or one has a wrong shape or byte order.
    """
    theirs = read_bundle(config.folder)

    # Computed here, the reference is in double precision; a bundle is in single precision, whoever wrote it.
    if config.reference:
        reference = read_bundle(config.reference)
        items = {item.name: item for item in reference.items}
        arrays = reference.arrays
    else:
        arrays = _recompute(theirs, config.folder)
        items = {name: _item(name, array) for name, array in arrays.items()}

    differences = []
    for name, item in items.items():
        if name not in theirs.arrays:
            raise _missing(name, config.folder)
        if theirs.arrays[name].shape != item.shape:
            raise _wrong_shape(name, config.folder, theirs.arrays[name].shape, item.shape)
        tolerance = config.loss_tolerance if item.kind == "loss" else config.tolerance
        differences.append(_difference(item, theirs.arrays[name], arrays[name], tolerance))
    return differences


@fills_folder("verify import-weights", no_failures)
def import_weights(config: ImportWeightsConfig) -> Path:
    """Write a model file with weights of another trainer and return its path.

    Raises
    ------
    CryodenError
        If a file is missing, has another size or values that are not finite.
    """
    folder = Path(config.folder)
    if not folder.is_dir():
        raise FileError(f"{folder} is no folder; give the folder with conv1_weights.bin.", subject=str(folder))

    name, channels, order = config.network, config.channels, config.order
    if (folder / outputs.BUNDLE_INDEX).is_file():  # it knows better than the options
        index = read_index(folder)
        name, channels, order = index.network, index.channels, index.order
    network = build_network(name, channels, source=str(folder))

    weights = {}
    for file, parameter in parameter_names(network).items():
        array = read_array(folder / f"{file}.bin", _parameter(network, parameter).shape, order)
        if not np.isfinite(array).all():
            wrong = f"{folder / file}.bin has weights that are NaN or infinite; train again."
            raise ModelError(wrong, subject=f"{folder / file}.bin")
        weights[parameter] = array

    card = ModelCard(
        name,
        tuple(channels) if name in UNETS else (),
        config.sampling_rate,
        asdict(Normalization(config.normalization)),
        {"imported_from": str(folder)},
    )
    path = make_folder(config.output) / outputs.MODEL
    require_own_folder(config.output, outputs.MODEL, [])
    if os.path.lexists(str(path)) and not _is_model(path, card, weights):
        raise ExistingResultsError(
            f"{path} is there, and is another model.", subject=str(path), remedy=Remedy("other_folder")
        )
    write_model(path, weights, card)
    return path


def _is_model(path: Path, card: ModelCard, weights: Dict[str, np.ndarray]) -> bool:
    """Return whether a file holds this model."""
    try:
        there, arrays = read_model(path)
    except CryodenError:
        return False
    is_same_card = there == card and set(arrays) == set(weights)
    return is_same_card and all(np.array_equal(arrays[name], weights[name]) for name in weights)


def _recompute(theirs: Bundle, folder: str) -> Dict[str, np.ndarray]:
    network = build_network(theirs.network, theirs.channels, source=folder)
    names = parameter_names(network)
    for name in (*names, "input", "target"):
        if name not in theirs.arrays:
            raise _missing(name, folder)
    for name, parameter in names.items():
        wanted = _parameter(network, parameter).shape
        if theirs.arrays[name].shape != wanted:
            raise _wrong_shape(name, folder, theirs.arrays[name].shape, wanted)

    # Any number of patches and any size will do, as long as the network can pool them.
    shapes = [theirs.arrays[name].shape for name in ("input", "target")]
    is_batch = len(shapes[0]) == 4 and shapes[0][1] == 1 and not shapes[0][2] % network.step
    if shapes[0] != shapes[1] or not is_batch or shapes[0][3] % network.step:
        raise FileError(
            f"Items input and target in {folder} have shapes {shapes[0]} and {shapes[1]}; both must be (patches, 1, "
            f"rows, columns) with rows and columns that are multiples of {network.step}.",
            subject=folder,
        )
    load_weights(network, {names[name]: np.ascontiguousarray(theirs.arrays[name]) for name in names}, folder)
    return compute(network, theirs.arrays["input"], theirs.arrays["target"])


def _wrong_shape(name: str, folder: str, found: Tuple[int, ...], wanted: Tuple[int, ...]) -> FileError:
    has, must = (" x ".join(map(str, shape)) for shape in (found, wanted))
    return FileError(f"Item {name} in {folder} has shape {has}; it must be {must}.", subject=folder)


def _missing(name: str, folder: str) -> FileError:
    missing = f"Item {name} is missing in {folder}/{outputs.BUNDLE_INDEX}; write it and name it there."
    return FileError(missing, subject=folder)


def _difference(item: Item, theirs: np.ndarray, reference: np.ndarray, tolerance: float) -> Difference:
    absolute = float(np.abs(theirs.astype(np.float64) - reference).max())
    largest = float(np.abs(reference).max())
    return Difference(item.name, item.kind, absolute, absolute / largest if largest else absolute, tolerance)


def _batch(config: VerifyExportConfig, step: int) -> Tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets, float32 `(patch, 1, row, column)`."""
    side = config.size
    if side % step:
        raise OptionError([option_problem("size", f"is {side}; for this network it must be a multiple of {step}.")])
    if not config.patches:
        rng = np.random.default_rng(config.seed)
        noise = rng.standard_normal((2, config.batch_size, 1, side, side), dtype=np.float32)
        return noise[0], noise[1]

    files = open_patches(config.patches).parts["train"]
    if files.n < config.batch_size or files.patch < side:
        raise FileError(
            f"{config.patches} holds {files.n} patches of {files.patch} px, but {config.batch_size} of {side} px are "
            "wanted.",
            subject=config.patches,
            remedy=Remedy("change", "batch_size" if files.n < config.batch_size else "size"),
        )

    # A corner of the first patches, which may be larger.
    pixels = np.stack([files.read(number)[:, :side, :side] for number in range(config.batch_size)])
    return pixels[:, :1], pixels[:, 1:]


def _item(name: str, array: np.ndarray) -> Item:
    if name in ("input", "target", "output"):
        return Item(name, "forward" if name == "output" else "batch", array.shape, IMAGE_AXES)
    if name == "loss":
        return Item(name, "loss", array.shape, ())
    kind = "gradient" if name.endswith("_gradient") else "weight"
    return Item(name, kind, array.shape, WEIGHT_AXES[: array.ndim])


def _parameter(network: nn.Module, name: str) -> np.ndarray:
    return dict(network.named_parameters())[name].detach().numpy().copy()
