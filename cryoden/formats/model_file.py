"""Model files: safetensors with JSON metadata. Nothing is unpickled, and reading the metadata needs no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Optional, Tuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cryoden import __version__
from cryoden.errors import FileError, ModelError
from cryoden.formats.files import PathLike, whole_file

MODEL_NAME = "model.safetensors"
"""What a model is called in the folder of its training."""

FORMAT = "cryoden-micrograph-denoiser"


@dataclass(frozen=True)
class ModelCard:
    """What a model is and where it comes from.

    Attributes
    ----------
    network
        `unet` or `cnn3`.
    channels
        Channels of each level of the U-Net; empty for cnn3.
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
    def r2(self) -> Optional[float]:
        """Best held-out explained signal R2, None if it was not measured."""
        return self.training.get("r2")


def write_model(path: PathLike, weights: Dict[str, np.ndarray], card: ModelCard) -> None:
    """Write weights and card into one safetensors file."""
    metadata = {"format": FORMAT, "card": json.dumps(asdict(card), sort_keys=True)}
    with whole_file(path) as temporary:
        # Not save_file: what it writes only its owner may read, whatever the umask says.
        temporary.write_bytes(save({name: np.ascontiguousarray(array) for name, array in weights.items()}, metadata))


def read_card(path: PathLike) -> ModelCard:
    """Read the metadata of a model file.

    Raises
    ------
    FileError
        If the file cannot be opened.
    ModelError
        If it is no model file of cryoden.
    """
    return _read(path)[0]


def read_model(path: PathLike) -> Tuple[ModelCard, Dict[str, np.ndarray]]:
    """Read card and weights; raises as `read_card`."""
    return _read(path)


def _read(path: PathLike) -> Tuple[ModelCard, Dict[str, np.ndarray]]:
    try:
        with open(str(path), "rb"):
            pass
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ModelError(
                    f"{path} is a safetensors file for another purpose ({metadata.get('format', 'no format named')}); "
                    "give a model.safetensors that `cryoden train` wrote."
                )
            card = json.loads(metadata["card"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        card["channels"] = tuple(card["channels"])
        _check(ModelCard(**card))
        return ModelCard(**card), weights
    except OSError as error:
        raise FileError(f"Model {path} cannot be read ({error.strerror or error}); check the path.") from error
    except SafetensorError as error:
        raise ModelError(
            f"{path} is no model: it is not a safetensors file ({error}). Give a model.safetensors of `cryoden train`."
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} has damaged metadata ({error}); train again, or update cryoden.") from error


def _check(card: ModelCard) -> None:
    if not (isinstance(card.sampling_rate, (int, float)) and card.sampling_rate > 0):
        raise ValueError(f"sampling rate {card.sampling_rate!r}")
    if not all(isinstance(number, int) and number > 0 for number in card.channels):
        raise ValueError(f"channels {card.channels!r}")
    if card.network == "unet" and not card.channels:
        raise ValueError("a U-Net without channels")
    if not (isinstance(card.training, dict) and isinstance(card.normalization, dict)):
        raise ValueError(f"training {card.training!r}")
