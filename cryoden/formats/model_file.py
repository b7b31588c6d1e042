"""Model files: safetensors with JSON metadata. Nothing is unpickled, and reading the metadata needs no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Optional, Tuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cryoden import __version__
from cryoden.config import UNETS
from cryoden.config.shared import GENERAL
from cryoden.errors import ModelError
from cryoden.formats.file_errors import PathLike, reading_errors, reason, require_file
from cryoden.formats.files import whole_file
from cryoden.formats.general_model import LABEL, model_path
from cryoden.formats.pixels import is_pixel_size

FORMAT = "cryoden-micrograph-denoiser"

LABELS = {
    "unet": "U-Net",
    "cnn3": "CNN3",
    "resunet": "Residual U-Net",
    "gaussian": "Gaussian filter",
    "wiener": "Wiener filter",
}
"""What people call the kinds of model, which a card names in `network`."""

MOST_LEVELS = 16
"""Of a U-Net: its coarsest pixels would be wider than any micrograph."""


KEPT_START = (
    "No epoch explained more of the held-out halves than the model that the training started from: it was kept."
)
"""Of a training that could not make its start better."""


@dataclass(frozen=True)
class ModelCard:
    """What a model is and where it comes from.

    Attributes
    ----------
    network
        One of `cryoden.config.NETWORKS`.
    channels
        Channels of each level of a U-Net; empty for cnn3.
    sampling_rate
        A/px at which it was trained and must be applied.
    normalization
        Fields of `cryoden.data.normalize.Normalization`.
    training
        Summary of the training: best R2, epoch, numbers of pairs, seconds, options.
    version
        Version of cryoden that wrote it.
    """

    network: str
    channels: Tuple[int, ...]
    sampling_rate: float
    normalization: Dict[str, Any] = field(default_factory=dict)
    training: Dict[str, Any] = field(default_factory=dict)
    version: str = __version__

    @property
    def label(self) -> str:
        """What people call its kind."""
        return LABEL if self.is_general else LABELS.get(self.network, self.network)

    @property
    def is_general(self) -> bool:
        """Whether it is the general model, also a copy of its file."""
        return isinstance(self.training.get(GENERAL), dict)

    @property
    def rates(self) -> Tuple[float, float]:
        """Finest and coarsest A/px of what its network may see: of the general model, those that it learned at."""
        finest, coarsest = self.training[GENERAL]["rates"] if self.is_general else (self.sampling_rate,) * 2
        return float(finest), float(coarsest)

    @property
    def start(self) -> Optional[str]:
        """What its training started from, in words; None: from random weights, or that is unknown."""
        start = self.training.get("start")
        if not isinstance(start, dict):
            return None
        return f"the {LABEL[0].lower()}{LABEL[1:]}" if start.get("model") == GENERAL else str(start.get("model"))

    @property
    def is_kept_start(self) -> bool:
        """Whether its weights are still those of the model that its training started from."""
        return isinstance(self.training.get("start"), dict) and self.training.get("epoch") == 0

    @property
    def r2(self) -> Optional[float]:
        """Best held-out explained signal R2, None if it was not measured."""
        return self.training.get("r2")


def write_model(path: PathLike, weights: Dict[str, np.ndarray], card: ModelCard) -> None:
    """Write weights and card into one safetensors file."""
    metadata = {"format": FORMAT, "card": json.dumps(asdict(card), sort_keys=True)}
    with whole_file(path) as temporary:
        # Not save_file: what it writes only its owner may read, whatever the umask says.
        temporary.write_bytes(save({name: np.ascontiguousarray(array) for name, array in weights.items()}, metadata))


def copy_model(source: PathLike, target: PathLike, card: ModelCard) -> None:
    """Write a model's weights, as they are in its file, with another card; raises as `read_card` and `write_model`."""
    write_model(target, _read(source)[1], card)


def read_card(path: PathLike) -> ModelCard:
    """Read the metadata of a model file, or of the general model where `path` is its word.

    Raises
    ------
    FileError
        If the file cannot be opened.
    ModelError
        If it is no model file of cryoden, or the general model is missing.
    """
    return _read(path)[0]


def read_model(path: PathLike) -> Tuple[ModelCard, Dict[str, np.ndarray]]:
    """Read card and weights, float32 where the file has float16; raises as `read_card`."""
    card, weights = _read(path)
    return card, {name: _widened(array) for name, array in weights.items()}


def _widened(array: np.ndarray) -> np.ndarray:
    """Return float16 as float32, and everything else as it is."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _read(path: PathLike) -> Tuple[ModelCard, Dict[str, np.ndarray]]:
    path = require_file(model_path(path))
    try:
        with reading_errors(path), safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ModelError(
                    f"{path} is a safetensors file for another purpose ({metadata.get('format', 'no format named')}); "
                    "give a model that cryoden trained.",
                    subject=str(path),
                )
            card = json.loads(metadata["card"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        card["channels"] = tuple(card["channels"])
        _check(ModelCard(**card), sum(array.size for array in weights.values()))
        return ModelCard(**card), weights
    except SafetensorError as error:
        raise ModelError(
            f"{path} is no model: it is not a safetensors file ({reason(error)}). Give a model that cryoden trained.",
            subject=str(path),
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} has damaged metadata ({reason(error)}); train again, or update cryoden.", subject=str(path)
        ) from error


def _check(card: ModelCard, n_weights: int) -> None:
    """Raise ValueError if a card says what cannot be."""
    if not (_is_number(card.sampling_rate) and is_pixel_size(card.sampling_rate)):
        raise ValueError(f"sampling rate {card.sampling_rate!r}")
    if not (isinstance(card.network, str) and isinstance(card.version, str)):
        raise ValueError(f"network {card.network!r}, version {card.version!r}")
    if not all(isinstance(number, int) and _is_number(number) and number > 0 for number in card.channels):
        raise ValueError(f"channels {card.channels!r}")
    if card.network in UNETS and not 0 < len(card.channels) <= MOST_LEVELS:
        raise ValueError(f"a U-Net of {len(card.channels)} levels")
    # Every level has a convolution of 3 x 3 from its channels to as many: said before a network is made for them.
    if 9 * sum(number * number for number in card.channels) > n_weights:
        raise ValueError(f"channels {card.channels!r}, but {n_weights} weights")
    if not (isinstance(card.training, dict) and isinstance(card.normalization, dict)):
        raise ValueError(f"training {card.training!r}, normalization {card.normalization!r}")
    if not (card.r2 is None or _is_number(card.r2)):
        raise ValueError(f"R2 {card.r2!r}")
    if not (all(map(is_pixel_size, card.rates)) and card.rates[0] <= card.sampling_rate <= card.rates[1]):
        raise ValueError(f"pixel sizes {card.rates!r}")
    if not all(isinstance(value, str) or _is_number(value) for value in card.normalization.values()):
        raise ValueError(f"normalization {card.normalization!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
