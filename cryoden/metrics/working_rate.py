"""The pixel size to train at, from the halves: the coarsest that keeps the detail in which they still correlate."""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import List, Optional, Sequence, Union

import numpy as np

from cryoden.config import SCORE_BAND_A
from cryoden.config.shared import AUTO, FULL
from cryoden.data.pairs import HalfPair, check_pair, list_halves
from cryoden.errors import CryodenError
from cryoden.formats.images import Stack
from cryoden.metrics.ring_covariance import A, B, ring_covariance
from cryoden.movies.taper import taper
from cryoden.wording import counted

log = logging.getLogger(__name__)

COARSEST_A = SCORE_BAND_A[1] / 2
"""A/px: coarser pixels would not hold the band in which denoisers are scored."""

MAX_PAIRS = 8
"""Micrographs that are looked at, evenly spread over the set."""

ROWS_PX, COLUMNS_PX = 1024, 2048
"""Middle of a micrograph that is looked at; only its rows are read."""

RING_WIDTH = 0.1
"""Of a ring, as a share of its frequency: wide enough for the zeros of a CTF to average out."""

LEAST_FRC = 0.02
"""Correlation from which a ring counts: of one with less, a Wiener filter would let through 4 %."""

MIN_DEVIATIONS = 4.0
"""How far above chance a ring must correlate."""

TAPER = 0.125
"""Share of the sides that fades out at either end, so that opposite edges need not fit."""


@dataclass(frozen=True)
class WorkingRate:
    """What the halves say.

    Attributes
    ----------
    value
        A/px; `full` where nothing is gained by pixels coarser than the micrographs' own.
    file_rate
        The micrographs' own A/px.
    n_pairs
        How many were looked at.
    """

    value: Union[float, str]
    file_rate: float
    n_pairs: int

    def __str__(self) -> str:
        own = f"{self.file_rate:.3g} Å/px"
        if self.value == FULL:
            return f"{own}, the micrographs' own, from the FRC of {self._halves()}"
        return f"{self.value:.3g} Å/px, from the FRC of {self._halves()} ({FULL}: {own})"

    def _halves(self) -> str:
        return f"the halves of {counted(self.n_pairs, 'micrograph')}"


def working_rate(asked: Union[float, str], odd: str, even: str, known: Optional[float] = None) -> Optional[float]:
    """Return the A/px that an option asks for, None = the micrographs' own.

    Parameters
    ----------
    asked
        A number, `full`, or `auto`: chosen from the halves, and said in the log.
    odd, even
        Folders or STAR files of the halves.
    known
        A/px to choose if the micrographs are not coarser: that of a model which is trained on.

    Raises
    ------
    CryodenError
        If `auto` finds no pair of halves.
    """
    if isinstance(asked, (int, float)):
        return float(asked)
    if asked != AUTO:
        return None
    pairs = spread_pairs(odd, even)
    own = max((pair.file_rate for pair in pairs), default=math.inf)
    if known is not None and known >= own:
        log.info("Working pixel size: %.3g Å/px, that of the model to start from.", known)
        return known
    chosen = choose_rate(pairs)
    log.info("Working pixel size: %s.", chosen)
    return None if isinstance(chosen.value, str) else chosen.value


def spread_pairs(odd: str, even: str) -> List[HalfPair]:
    """Return some pairs of halves, evenly spread over the set; those that cannot be used are left out in silence.

    Raises
    ------
    CryodenError
        If the halves cannot be listed.
    """
    odd_files, even_files = list_halves(odd, "odd"), list_halves(even, "even")
    names = sorted(set(odd_files) & set(even_files))
    pairs = []
    for place in np.unique(np.linspace(0, len(names) - 1, MAX_PAIRS).round().astype(int)) if names else ():
        name = names[place]
        try:
            pairs.append(check_pair(name, odd_files[name], even_files[name]))
        except CryodenError:  # it is named when all pairs are listed
            continue
    return pairs


def choose_rate(pairs: Sequence[HalfPair]) -> WorkingRate:
    """Return the coarsest pixel size that keeps the rings in which halves correlate.

    Rings are looked at from the end of the score band outwards, to the first that is empty: what correlates beyond, as
    water at 3.7 A does in counts of one exposure, is no part of what is seen at lower resolution.
    """
    file_rate = max((pair.file_rate for pair in pairs), default=COARSEST_A)
    edges = _ring_edges(file_rate)
    sums = np.zeros((len(edges) - 1, 4))
    n_read = 0
    for pair in pairs:
        with suppress(CryodenError):  # what is wrong with it is said when it is trained on
            of_pair = _ring_sums(pair, edges)
            is_usable = bool(np.isfinite(of_pair).all())
            sums += of_pair if is_usable else 0
            n_read += is_usable
    if not n_read:
        return WorkingRate(FULL, file_rate, 0)

    products, odd, even, n_coefficients = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        frc = products / np.sqrt(odd * even)
        is_correlated = frc > np.maximum(LEAST_FRC, MIN_DEVIATIONS / np.sqrt(n_coefficients))
    n_kept = int(np.argmin(np.append(is_correlated, False)))

    rate = 1 / (2 * float(edges[n_kept]))
    is_own = rate < file_rate * (1 + RING_WIDTH)
    return WorkingRate(FULL if is_own else _rounded_down(rate), file_rate, n_read)


def _rounded_down(rate: float) -> float:
    """Return a pixel size with one decimal, two below 1 A."""
    unit = 0.1 if rate >= 1 else 0.01
    return round(math.floor(rate / unit + 1e-6) * unit, 2)


def _ring_edges(file_rate: float) -> np.ndarray:
    """Return spatial frequencies in 1/A, from the end of the score band to the micrographs' Nyquist frequency."""
    n_rings = max(0, math.floor(math.log(COARSEST_A / file_rate) / math.log(1 + RING_WIDTH)))
    return (1 + RING_WIDTH) ** np.arange(n_rings + 1) / (2 * COARSEST_A)


def _ring_sums(pair: HalfPair, edges: np.ndarray) -> np.ndarray:
    """Return covariance, variance of odd and of even, and number of coefficients of every ring, `(rings, 4)`.

    Not finite where the halves are constant, or have pixels that are no numbers.
    """
    halves = [_middle(stack) for stack in pair.open()]
    covariance = ring_covariance(halves, pair.file_rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = covariance.total()
        matrices = covariance.matrices / np.sqrt(total[A, A] * total[B, B])  # all micrographs weigh the same

    sums = np.zeros((len(edges) - 1, 4))
    for ring, (low, high) in enumerate(zip(edges, edges[1:])):
        within = matrices[(covariance.frequency > low) & (covariance.frequency <= high)].sum(axis=0)
        n = math.pi * (high**2 - low**2) * pair.file_rate**2 * halves[0].size
        sums[ring] = (within[A, B], within[A, A], within[B, B], n)
    return sums


def _middle(stack: Stack) -> np.ndarray:
    """Return the middle of a micrograph, tapered to 0 at its edges, float32 `(y, x)`."""
    height, width = (min(most, side) for most, side in zip((ROWS_PX, COLUMNS_PX), stack.shape))
    top, left = ((side - part) // 2 for side, part in zip(stack.shape, (height, width)))
    image = stack.read_rows(0, top, top + height)[:, left : left + width].astype(np.float32)
    image -= image.mean(dtype=np.float64).astype(np.float32)
    return image * taper(height, TAPER)[:, None] * taper(width, TAPER)
