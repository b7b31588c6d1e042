"""From a training to a model file, and from a model file to the start of another training."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import Any, Dict, Optional

from torch import nn

from cryoden.config import SCORE_BAND_A, UNETS, TrainConfig
from cryoden.config.shared import AUTO, GENERAL, NOTHING
from cryoden.data.normalize import Normalization
from cryoden.data.rescale import SAME_RATE_TOLERANCE
from cryoden.errors import ModelError, Remedy
from cryoden.formats.files import PathLike, digest
from cryoden.formats.general_model import has_general_model, model_path
from cryoden.formats.model_file import ModelCard, read_card, read_model, write_model
from cryoden.model.networks import Network
from cryoden.model.predictor import load_weights
from cryoden.model.training_data import TrainingData
from cryoden.system.ranks import rank

log = logging.getLogger(__name__)


def training_card(
    config: TrainConfig,
    data: TrainingData,
    normalization: Normalization,
    crop: int,
    record: Dict[str, Any],
    r2_before: Optional[float] = None,
    start: Optional[Dict[str, Any]] = None,
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
    start
        What `start_facts` returned, of a training that started from a model.
    """
    trained_on, held_out = data.seen_and_held_out()
    keys = ("r2", "r2_error", "r2_corr", "wiener_r2", "epoch", "step", "loss", "validation_loss")
    summary = {key: record[key] for key in keys}
    summary.update(r2_before=r2_before, pattern_share=data.pattern_share)
    summary.update(
        score_band_A=list(SCORE_BAND_A), n_pairs=data.n_usable, n_left_out=len(data.failures), crop=crop,
        seconds=record["seconds"], options=config.lasting_options(), trained_on=trained_on, held_out=held_out,
    )  # fmt: skip
    if start is not None:
        summary["start"] = start
    channels = config.network_channels if config.network in UNETS else ()
    return ModelCard(config.network, channels, data.sampling_rate, asdict(normalization), summary)


def write_trained(path: PathLike, network: nn.Module, card: ModelCard) -> None:
    """Write a network's weights, float32, with its card; raises as `write_model`."""
    tensors = network.state_dict()
    weights = {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}
    write_model(path, weights, card)


def settle_start(config: TrainConfig, data: TrainingData) -> TrainConfig:
    """Return the options with a model file, `general` or `none` as their start; say why it is not the general model.

    Parameters
    ----------
    config
        The options.
    data
        What is trained on, at its pixel size.

    Raises
    ------
    ModelError
        If the file of the model is damaged.
    """
    if config.from_model == NOTHING:
        return config
    if config.from_model not in (AUTO, GENERAL):
        return _like_the_file(config)
    if config.from_model == AUTO and config.patches:  # made for other programs, which start from nothing
        return replace(config, from_model=NOTHING)

    unfit = _why_not_general(config, data)
    if rank() == 0:
        log.info("Starting from %s.", f"random weights: the general model {unfit}" if unfit else "the general model")
    return replace(config, from_model=NOTHING if unfit else GENERAL)


def _like_the_file(config: TrainConfig) -> TrainConfig:
    """Return the options with network and channels of the model file to start from, where no others are asked for."""
    card = read_card(config.from_model)
    if config.channels or config.network not in (card.network, config.default_of("network")):
        return config
    return replace(config, network=card.network, channels=card.channels)


def _why_not_general(config: TrainConfig, data: TrainingData) -> str:
    """Return why a training cannot start from the general model; nothing if it can."""
    if not has_general_model():
        return "is missing from this installation"
    card = read_card(GENERAL)
    channels, known = (" ".join(map(str, numbers)) for numbers in (config.network_channels, card.channels))
    if config.network != card.network:
        return f"is another network ({card.network}, not {config.network})"
    if config.network in UNETS and channels != known:
        return f"has other channels ({known}, not {channels})"
    normalization = data.normalization(config)
    if asdict(normalization) != card.normalization:
        return f"is for another normalisation ({card.normalization.get('kind')}, not {normalization.kind})"
    finest, coarsest = card.rates
    if not finest / (1 + SAME_RATE_TOLERANCE) <= data.sampling_rate <= coarsest * (1 + SAME_RATE_TOLERANCE):
        return f"is for {finest:g} to {coarsest:g} Å/px, not for {data.sampling_rate:.3g} Å/px"
    return ""


def start_facts(path: str) -> Dict[str, Any]:
    """Return what a training says of the model that it started from: its name and the digest of its file."""
    return {"model": path, "digest": digest(model_path(path)).hexdigest()}


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
    if card.network != config.network or (card.channels and card.channels != config.network_channels):
        raise ModelError(
            f"{path} is a {card.network} with channels {card.channels}, not the {config.network} asked for; "
            "choose the same network and channels.",
            subject=path,
            remedy=Remedy("change", "from_model"),
        )
    if not card.is_general and abs(card.sampling_rate / sampling_rate - 1) > SAME_RATE_TOLERANCE:
        log.warning(
            "%s was trained at %.3g Å/px and goes on at %.3g Å/px: what it knows has another size there.",
            path, card.sampling_rate, sampling_rate,
        )  # fmt: skip
    load_weights(network, weights, path)
