"""The candidates of an election: where their models lie, in which order they stand, and why one takes no part."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

import numpy as np
import torch

from cryoden.config import ChooseConfig, TrainConfig, shared
from cryoden.data.normalize import measure_scale
from cryoden.data.pairs import HalfPair
from cryoden.data.rescale import SAME_RATE_TOLERANCE
from cryoden.errors import CryodenError, FullDiskError, LockedError, ModelError, Problem, problem_of
from cryoden.evaluation.candidates import FittedFilters
from cryoden.evaluation.contenders import ABSENT
from cryoden.evaluation.division import Division, ignorant_models
from cryoden.formats import outputs
from cryoden.formats.files import make_folder, real_path
from cryoden.formats.general_model import LABEL as GENERAL_LABEL
from cryoden.formats.general_model import model_path
from cryoden.formats.images import read_micrograph
from cryoden.formats.model_file import LABELS, ModelCard, read_card
from cryoden.formats.training_folder import is_finished_training
from cryoden.metrics.ring_covariance import RingCovariance, pool
from cryoden.model.denoiser import Denoiser
from cryoden.model.filters import GaussianFilter, WienerFilter
from cryoden.model.training import train
from cryoden.wording import counted

log = logging.getLogger(__name__)

FINE_TUNED = "fine_tuned"
"""Key of the general model that was trained on with these micrographs, and its folder."""

OWN = "own"
"""Beginning of the keys of the user's own models."""

NAMELESS = ("model", "extra", "/", "..")
"""Names of files and folders that say nothing of a model: those that commands and runs of Scipion give all of them."""

SECONDS_PER_MINUTE = 60.0


@dataclass(frozen=True)
class Nominee:
    """A candidate that a model file holds.

    Attributes
    ----------
    key, label
        Short name; name for people.
    path
        Its model file.
    card
        Of the file; None where it cannot be read.
    problem
        Why it takes no part; None where it does.
    """

    key: str
    label: str
    path: str
    card: Optional[ModelCard] = None
    problem: Optional[Problem] = None

    @property
    def takes_part(self) -> bool:
        """Whether it is a candidate."""
        return self.problem is None

    def left_out(self, problem: Problem) -> Nominee:
        """Return it as one that takes no part."""
        log.warning("%s is left out: %s", self.label, problem)
        return replace(self, problem=problem)


def nominate_models(
    config: ChooseConfig, pairs: Sequence[HalfPair], sampling_rate: float, device: torch.device
) -> List[Nominee]:
    """Return the general model and the user's own ones; those that cannot be applied, or know all pixels, with why.

    Parameters
    ----------
    config
        The options.
    pairs
        All micrographs.
    sampling_rate
        A/px of their files.
    device
        Where to compute.
    """
    nominees = [Nominee(shared.GENERAL, GENERAL_LABEL, shared.GENERAL)]
    others = [path for path in config.model if path != shared.GENERAL]
    labels = own_labels(others)
    nominees += [Nominee(f"{OWN}{number}", labels[path], path) for number, path in enumerate(others, 1)]
    nominees = [_checked(nominee, config, sampling_rate, device) for nominee in nominees]

    present = [nominee for nominee in nominees if nominee.takes_part]
    are_ignorant = ignorant_models(pairs, [nominee.card for nominee in present if nominee.card is not None])
    knowing = {nominee.key for nominee, is_ignorant in zip(present, are_ignorant) if not is_ignorant}
    return [
        nominee.left_out(
            ModelError(
                f"{nominee.path} was trained on all of these {counted(len(pairs), 'micrograph')}, or, with the models "
                "before it, on all that would be left: nothing remains to measure it on.",
                subject=nominee.path,
            ).problem
        )
        if nominee.key in knowing
        else nominee
        for nominee in nominees
    ]


def _checked(nominee: Nominee, config: ChooseConfig, sampling_rate: float, device: torch.device) -> Nominee:
    """Return a nominee with its card, and whether it can be applied to pixels of this size."""
    try:
        path = model_path(nominee.path)
        denoiser = Denoiser.load(path, device, config.quality, config.precision, config.tile)
        denoiser.require_rate("A micrograph", sampling_rate)
    except Exception as error:  # one bad candidate never ends an election
        return nominee.left_out(problem_of(error, nominee.path))
    return replace(nominee, path=path, card=denoiser.card)


def fit_filters(
    division: Division, covariances: Mapping[str, RingCovariance], config: ChooseConfig, folder: Path
) -> FittedFilters:
    """Fit both linear filters on what is not held out, and write them as model files.

    Parameters
    ----------
    division
        The micrographs of the election.
    covariances
        Of those among the fitting ones that could be read.
    config
        The options.
    folder
        For `gaussian.safetensors` and `wiener.safetensors`.
    """
    make_folder(folder)
    names = [pair.name for pair in division.fitting if pair.name in covariances]
    training = pool([covariances[name] for name in names])
    rate = division.fitting[0].sampling_rate
    gaussian = GaussianFilter.fit_covariance(training, rate, config.band, names)
    wiener = WienerFilter.fit_covariance(training, rate, config.band, names)
    for fitted in (gaussian, wiener):
        held_out = {name: list(rows) for name, rows in division.unseen.items()}
        fitted.card = replace(fitted.card, training={**fitted.card.training, "held_out": held_out})
        fitted.save(filter_path(folder, fitted.KIND))
    source = f"the other rows of {names[0]}" if division.is_of_rows else counted(len(names), "other micrograph")
    return FittedFilters(gaussian, wiener, source)


def filter_path(folder: Path, kind: str) -> Path:
    """Return where a linear filter lies that is a candidate."""
    return folder / f"{kind}.safetensors"


def filter_nominees(folder: Path) -> List[Nominee]:
    """Return the linear filters, the simplest first."""
    return [
        Nominee(kind, LABELS[kind], str(filter_path(folder, kind))) for kind in (GaussianFilter.KIND, WienerFilter.KIND)
    ]


def fine_tuned(
    config: ChooseConfig, general: Nominee, lists: Sequence[Path], sampling_rate: float, failures: Dict[str, Problem]
) -> Nominee:
    """Train the general model on with what is not held out, or go on with that; return it as a candidate.

    Parameters
    ----------
    config
        The options.
    general
        What to begin with.
    lists
        STAR files of the odd and the even halves to train on.
    sampling_rate
        A/px of the micrographs' files.
    failures
        Gets micrographs that cannot be used.

    Raises
    ------
    FullDiskError, LockedError
        If nothing can be written any more.
    """
    folder = Path(config.output) / outputs.CANDIDATES / FINE_TUNED
    label = f"{GENERAL_LABEL}, fine-tuned" + (f" for {config.seconds:g} s" if config.seconds else "")
    nominee = Nominee(FINE_TUNED, label, str(folder / outputs.MODEL))
    if not config.seconds:
        return replace(nominee, problem=Problem(ABSENT, "Fine-tuning was not asked for.", FINE_TUNED))
    if general.card is None or not general.takes_part:
        return replace(nominee, problem=Problem(ABSENT, "There is no general model to begin with.", FINE_TUNED))

    try:
        training = _training_config(config, general.card, lists, sampling_rate, str(folder))
        if is_finished_training(training):
            log.info("The fine-tuning in %s is finished.", folder)
        else:
            log.info("Fine-tuning the general model for %g s.", config.seconds)
            failures.update(train(training).failures)
        return replace(nominee, card=read_card(nominee.path))
    except (FullDiskError, LockedError):
        raise
    except Exception as error:  # one bad candidate never ends an election
        return nominee.left_out(problem_of(error, FINE_TUNED))


def _training_config(
    config: ChooseConfig, card: ModelCard, lists: Sequence[Path], sampling_rate: float, folder: str
) -> TrainConfig:
    is_finer = sampling_rate * (1 + SAME_RATE_TOLERANCE) < card.sampling_rate
    return TrainConfig(
        odd=str(lists[0]),
        even=str(lists[1]),
        output=folder,
        network=card.network,
        channels=card.channels,
        from_model=shared.GENERAL,
        sampling_rate=card.sampling_rate if is_finer else shared.FULL,
        minutes=config.seconds / SECONDS_PER_MINUTE,
        seed=config.seed,
        device=config.device,
        resume=True,
    )


def tried(
    nominees: Sequence[Nominee], pairs: Sequence[HalfPair], config: ChooseConfig, device: torch.device
) -> List[Nominee]:
    """Return nominees after each has denoised a half: one that fails takes no part.

    Parameters
    ----------
    nominees
        Of models.
    pairs
        Micrographs, of which the first that can be read is denoised.
    config, device
        As for `nominate_models`.
    """
    for pair in pairs:
        try:
            image, rate = read_micrograph(pair.odd)
            measure_scale(image)
        except CryodenError:
            continue  # it will be named when its turn comes
        return [_tried(nominee, image, rate or pair.file_rate, config, device) for nominee in nominees]
    return list(nominees)


def _tried(nominee: Nominee, image: np.ndarray, rate: float, config: ChooseConfig, device: torch.device) -> Nominee:
    if not nominee.takes_part:
        return nominee
    try:
        denoiser = Denoiser.load(nominee.path, device, config.quality, config.precision, config.tile)
        denoiser.denoise(image, rate)
    except Exception as error:  # one bad candidate never ends an election
        return nominee.left_out(problem_of(error, nominee.path))
    return nominee


def own_labels(paths: Sequence[str]) -> Dict[str, str]:
    """Return the name of each of the user's models: that of its file, or of the next folder that says something."""
    names = {}
    for path in paths:
        parts = [part for part in Path(path).with_suffix("").parts if part not in NAMELESS]
        names[path] = parts[-1] if parts else ""
    is_clear = len(set(names.values())) == len(paths) and all(names.values())
    return {path: f"own model {names[path] if is_clear else real_path(path)}" for path in paths}
