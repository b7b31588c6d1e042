"""What a training learns from and what is held out: found, cut to size, and watched for micrographs that fail."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from cryoden.config import TrainConfig
from cryoden.config.shared import AUTO, FULL, GENERAL
from cryoden.data.crops import fitting_crop
from cryoden.data.loaders import Shard
from cryoden.data.normalize import STANDARD, Normalization, p95_normalization
from cryoden.data.pairs import HalfPair, find_pairs, hold_out, too_small
from cryoden.data.patch_pairs import PatchPair, find_patch_pairs
from cryoden.data.rescale import fourier_crop
from cryoden.errors import (
    CryodenError,
    OptionError,
    Problem,
    Remedy,
    TrainingError,
    because,
    option_problem,
    problem_of,
)
from cryoden.formats.images import read_micrograph
from cryoden.formats.model_file import read_card
from cryoden.metrics.working_rate import working_rate
from cryoden.model.processes import broadcast
from cryoden.movies.fixed_pattern import common_detail
from cryoden.wording import counted

log = logging.getLogger(__name__)

MAX_FAILED_SHARE = 0.5
"""Training stops when a larger share of the micrographs cannot be used."""


def settle_working_rate(config: TrainConfig, shard: Shard = Shard()) -> TrainConfig:
    """Return the options with a number, or `full`, as their pixel size: where it is `auto`, the first process chooses.

    That of a model file to start from goes first; patches keep their own.
    """
    if config.sampling_rate != AUTO:
        return config
    chosen = 0.0
    if shard.rank == 0 and not config.patches:
        with suppress(CryodenError):  # what is wrong with halves or model is said where they are used
            is_of_file = config.is_fine_tuning and config.from_model != GENERAL
            known = read_card(config.from_model).sampling_rate if is_of_file else None
            chosen = working_rate(AUTO, config.odd or "", config.even or "", known) or 0.0
    return replace(config, sampling_rate=broadcast(chosen, shard) or FULL)


class TrainingData:
    """Pairs of halves to train on, pairs that are held out, and what became of them.

    Parameters
    ----------
    training, held_out
        Pairs of halves without a common pixel.
    failures
        Micrographs left out so far, with the reason; grows when pixels turn out unusable.

    Attributes
    ----------
    shapes
        Rows and columns of each training pair.
    names
        Of all pairs that were found, usable or not.
    pattern_share
        See `look_for_pattern`.
    """

    def __init__(
        self, training: Sequence[HalfPair], held_out: Sequence[HalfPair], failures: Dict[str, Problem]
    ) -> None:
        self.training, self.held_out, self.failures = training, held_out, failures
        self.shapes = [pair.used_shape for pair in training]
        self.names = {pair.name for pair in (*training, *held_out)} | set(failures)
        self.pattern_share: Optional[float] = None

    def look_for_pattern(self) -> None:
        """Note the share of the halves' common detail that is a fixed pattern of all micrographs, if it is one.

        Patches have none that could be found: each is of another place.
        """
        files = {
            pair.micrograph: (pair.odd, pair.even)
            for pair in (*self.training, *self.held_out)
            if not isinstance(pair, PatchPair)
        }
        found = common_detail([(name, *halves) for name, halves in files.items()])
        self.pattern_share = found.share if found.is_fixed_pattern else None

    @classmethod
    def find(cls, config: TrainConfig) -> TrainingData:
        """Find what the options name, halves or patch files, and choose what is held out.

        The pixel size must be settled: `auto` is taken for the micrographs' own.

        Raises
        ------
        CryodenError
            If no pair can be used.
        """
        rate = None if isinstance(config.sampling_rate, str) else config.sampling_rate
        if config.patches:
            return cls(*find_patch_pairs(config.patches, config.patch, rate, config.validation), {})
        pairs, failures = find_pairs(config.odd or "", config.even or "", rate)
        for pair in pairs:
            try:
                _require_size(pair, pair.shape)
            except TrainingError as error:
                failures[pair.name] = error.problem
        usable = [pair for pair in pairs if pair.name not in failures]
        if not usable:
            _require_size(pairs[0], pairs[0].shape)

        training, held_out = hold_out(usable, config.validation, np.random.default_rng(config.seed))
        for pair in held_out:  # it may be a few rows of the only micrograph
            _require_size(pair, pair.used_shape, "'s part that is held out")
        return cls(training, held_out, failures)

    @property
    def sampling_rate(self) -> float:
        """A/px at which the network sees the micrographs."""
        return self.training[0].sampling_rate

    @property
    def n_usable(self) -> int:
        """Number of pairs that are not left out."""
        return len(self.names) - len(self.failures)

    def normalization(self, config: TrainConfig) -> Normalization:
        """Return how the network sees grey values.

        Raises
        ------
        TrainingError
            If it is to be measured, and no training micrograph can be used.
        """
        first = self.training[0]
        if isinstance(first, PatchPair):
            return first.normalization
        if config.normalization == "standard":
            return STANDARD

        problems: List[Problem] = []
        for pair in self.training:
            try:
                return p95_normalization(fourier_crop(read_micrograph(pair.odd)[0], pair.shape))
            except Exception as error:  # the loader leaves it out; another one does as well
                problems.append(problem_of(error, pair.name))
        raise because(TrainingError, "No training micrograph could be used", problems[0])

    def fitting_crop(self, config: TrainConfig, step: int) -> int:
        """Return the side of the crops in pixels: that of the options, or less where micrographs are smaller.

        Parameters
        ----------
        config
            The options.
        step
            The side must be a multiple of it: the network's step.

        Raises
        ------
        TrainingError
            If there is no such crop.
        """
        if config.crop < step:
            small = f"is {config.crop}, less than the network's step of {step} px; it must be at least that."
            raise OptionError([option_problem("crop", small)])

        crop = fitting_crop(self.shapes, config.crop, step)
        if crop == 0:
            raise TrainingError(
                f"The smallest micrograph is {min(map(min, self.shapes))} px wide, less than the network's step of "
                f"{step} px; train at a finer pixel size.",
                remedy=Remedy("change", "sampling_rate"),
            )
        if crop < config.crop:
            log.info("Crops are %d px: the smallest micrograph, or the network's step, allows no more.", crop)
        return crop

    def leave_out(self, failures: Iterable[Dict[str, Problem]]) -> None:
        """Note micrographs that turned out unusable.

        Raises
        ------
        TrainingError
            If too few are left, for training or for validation.
        """
        for reasons in failures:
            self.failures.update(reasons)

        # Of the held-out ones a single one suffices: every epoch is then measured by the same.
        if all(pair.name in self.failures for pair in self.held_out):
            first = self.failures[min(pair.name for pair in self.held_out)]
            raise because(TrainingError, "No held-out micrograph could be used", first)

        if len(self.failures) > MAX_FAILED_SHARE * len(self.names):
            first = next(iter(self.failures.values()))
            share = f"{len(self.failures)} of {counted(len(self.names), 'micrograph')}"
            raise because(TrainingError, f"{share} cannot be used, too many to go on", first)

    def seen_and_held_out(self) -> Tuple[List[str], Dict[str, List[float]]]:
        """Return which micrographs the network knows, and the rows of others that it does not know.

        Rows are first and last (excluded), as shares of the height. A micrograph of which only some rows are held out
        is in both.
        """
        rows = {pair.micrograph: list(pair.rows_share) for pair in self.held_out}
        pairs = (*self.training, *self.held_out)
        used = {pair.micrograph for pair in pairs if pair.name not in self.failures}
        return sorted(used - {name for name, part in rows.items() if part == [0, 1]}), rows


def _require_size(pair: HalfPair, shape: Tuple[int, int], part: str = "") -> None:
    """Refuse a micrograph, or a part of it, on which nothing can be measured; raises TrainingError."""
    small = too_small(f"'{pair.name}'{part}", shape)
    if small:
        raise TrainingError(f"{small} Give larger micrographs.", subject=pair.name)
