"""The denoisers of an evaluation, what they are called in its table, and which ones one would miss there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence

from cryoden.config import EvaluateConfig
from cryoden.data.rescale import SAME_RATE_TOLERANCE
from cryoden.errors import ModelError, Problem, Remedy
from cryoden.evaluation.halves import Rows
from cryoden.formats.files import PathLike
from cryoden.formats.model_file import ModelCard
from cryoden.model.denoiser import Denoiser, ModelDenoiser
from cryoden.model.filters import LinearFilter
from cryoden.model.topaz import TopazDenoiser, TopazError
from cryoden.report.evaluation_table import Absent, ModelFacts

TOPAZ = "topaz"
"""Key of Topaz-Denoise."""

ABSENT = "absent"
"""Kind of the problem that a denoiser was left out on purpose."""


@dataclass(frozen=True)
class Contender:
    """A denoiser that is applied to every half; key, label, kind and note as in `Row` of the table."""

    key: str
    label: str
    kind: str
    note: str
    denoiser: Denoiser


def model_contenders(models: Sequence[ModelDenoiser]) -> List[Contender]:
    """Return a contender for each model; those of one label are told apart by their files."""
    labels, paths = [model.label for model in models], [model.path for model in models]
    contenders = []
    for number, model in enumerate(models):
        label = model.label
        if labels.count(label) > 1:
            label += f" ({_distinct_name(model.path, paths)})"
        kind = "filter" if isinstance(model, LinearFilter) else "network"
        note = f"{model.card.sampling_rate:.3g} Å/px, {model.path}"
        contenders.append(Contender(f"model{number + 1}", label, kind, note, model))
    return contenders


def topaz_contender(config: EvaluateConfig, folder: PathLike, device: str) -> Contender:
    """Return Topaz-Denoise, with a folder for the images on their way and where it computes; raises TopazError."""
    denoiser = TopazDenoiser(config.topaz, config.topaz_network, folder, device)
    return Contender(TOPAZ, denoiser.label, "external", f"pretrained {denoiser.weights}", denoiser)


def absent_topaz(config: EvaluateConfig, error: Optional[TopazError] = None) -> Absent:
    """Return that Topaz-Denoise is left out, because of an error, or because the options say so."""
    left_out = Problem(ABSENT, "It was left out.", TOPAZ, Remedy("set_to", "topaz", "auto"))
    reason = error.problem if error else left_out
    return Absent(TOPAZ, f"Topaz-Denoise {config.topaz_network}", "external", reason)


# ---------------------------------------------------------------------- what models say of themselves
def unseen_rows(cards: Sequence[ModelCard], name: str) -> Rows:
    """Return the rows of a micrograph that none of the models with these cards was trained on."""
    parts = [_unseen_by(card, name) for card in cards]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return max([0.0, *(part[0] for part in known)]), min([1.0, *(part[1] for part in known)])


def _unseen_by(card: ModelCard, name: str) -> Rows:
    held_out = card.training.get("held_out", {})
    if name in held_out:
        return float(held_out[name][0]), float(held_out[name][1])
    return None if name in card.training.get("trained_on", ()) else (0.0, 1.0)


def working_rate(
    models: Sequence[ModelDenoiser], config: EvaluateConfig, file_rate: Optional[float] = None
) -> Optional[float]:
    """Return the sampling rate in A/px at which images are compared; None: that of the files.

    Parameters
    ----------
    models
        That are compared.
    config
        The options.
    file_rate
        A/px of the files, where that is known.

    Raises
    ------
    ModelError
        If the options ask for a finer one than a model works at.
    """
    if not models:
        return config.sampling_rate
    rates = [model.sampling_rate if file_rate is None else model.rate_for(file_rate) for model in models]
    rate, coarsest = max(rates), models[rates.index(max(rates))]
    if config.sampling_rate and config.sampling_rate * (1 + SAME_RATE_TOLERANCE) < rate:
        raise ModelError(
            f"{coarsest.path} works at {rate:.4g} Å/px, coarser than the {config.sampling_rate:.4g} Å/px that were "
            "asked for; compare at its sampling rate or a coarser one.",
            subject=coarsest.path,
            remedy=Remedy("set_to", "sampling_rate", f"{rate:.4g}"),
        )
    return config.sampling_rate or rate


def silent_models(models: Sequence[ModelDenoiser]) -> List[str]:
    """Return a warning for each model that does not say what it was trained on."""
    return [
        f"{model.path} does not say which micrographs it was trained on; if some of these are among them, the numbers "
        "flatter it."
        for model in models
        if "trained_on" not in model.card.training and not model.card.is_general
    ]


def facts_of(model: ModelDenoiser) -> ModelFacts:
    """Return what the report says of a model beside its quality."""
    card = model.card
    return ModelFacts(
        path=model.path,
        network=card.network,
        sampling_rate=card.sampling_rate,
        n_weights=model.n_weights,
        channels=card.channels,
        epoch=card.training.get("epoch"),
        seconds=card.training.get("seconds"),
    )


def _distinct_name(path: str, others: Sequence[str]) -> str:
    """Return the shortest end of a path, without its ending, that tells it from the others; its folder if that does."""
    parents = [Path(other).parent.name for other in others]
    return Path(path).parent.name if len(set(parents)) == len(parents) else str(Path(path).with_suffix(""))
