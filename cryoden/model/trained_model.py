"""From a training to a model file, and from a model file to the start of another training."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any, Dict, Optional

from torch import nn

from cryoden.config import SCORE_BAND_A, UNETS, TrainConfig
from cryoden.data.normalize import Normalization
from cryoden.data.rescale import SAME_RATE_TOLERANCE
from cryoden.errors import ModelError, Remedy
from cryoden.formats.files import PathLike
from cryoden.formats.model_file import ModelCard, read_model, write_model
from cryoden.model.networks import Network
from cryoden.model.predictor import load_weights
from cryoden.model.training_data import TrainingData

log = logging.getLogger(__name__)


def training_card(
    config: TrainConfig,
    data: TrainingData,
    normalization: Normalization,
    crop: int,
    record: Dict[str, Any],
    r2_before: Optional[float] = None,
) -> ModelCard:
    """Return what a model file says of its training.

    Parameters
    ----------
    config
        The options.
    data
        Which micrographs the weights know, so that an evaluation can leave them out.
    normalization
        How the network saw grey values.
    crop
        Side of the training crops in pixels.
    record
        Line of the log of the epoch whose weights these are.
    r2_before
        Of the epoch before; None of the first.
    """
    trained_on, held_out = data.seen_and_held_out()
    keys = ("r2", "r2_error", "r2_corr", "wiener_r2", "epoch", "step", "loss", "validation_loss")
    summary = {key: record[key] for key in keys}
    summary.update(r2_before=r2_before, pattern_share=data.pattern_share)
    summary.update(
        score_band_A=list(SCORE_BAND_A), n_pairs=data.n_usable, n_left_out=len(data.failures), crop=crop,
        seconds=record["seconds"], options=config.lasting_options(), trained_on=trained_on, held_out=held_out,
    )  # fmt: skip
    channels = config.channels if config.network in UNETS else ()
    return ModelCard(config.network, channels, data.sampling_rate, asdict(normalization), summary)


def write_trained(path: PathLike, network: nn.Module, card: ModelCard) -> None:
    """Write a network's weights, float32, with its card; raises as `write_model`."""
    tensors = network.state_dict()
    weights = {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}
    write_model(path, weights, card)


def start_from(path: str, network: Network, config: TrainConfig, sampling_rate: float) -> None:
    """Give a new network the weights of a model file (fine-tuning).

    Parameters
    ----------
    path
        The model.
    network
        Gets its weights.
    config
        The options that the network was built with.
    sampling_rate
        A/px at which it is going to be trained; another one than the model's is warned of.

    Raises
    ------
    ModelError
        If the file is no model, or one of another network.
    """
    card, weights = read_model(path)
    if card.network != config.network or (card.channels and card.channels != config.channels):
        raise ModelError(
            f"{path} is a {card.network} with channels {card.channels}, not the {config.network} asked for; "
            "choose the same network and channels.",
            subject=path,
            remedy=Remedy("change", "from_model"),
        )
    if abs(card.sampling_rate / sampling_rate - 1) > SAME_RATE_TOLERANCE:
        log.warning(
            "%s was trained at %.3g Å/px and goes on at %.3g Å/px: what it knows has another size there.",
            path, card.sampling_rate, sampling_rate,
        )  # fmt: skip
    load_weights(network, weights, path)
