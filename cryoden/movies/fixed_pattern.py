"""What the halves of movies have in common: with their partner (they must), with other micrographs (they must not).

Found while movies are split, in memory that does not grow: a square of every half at full resolution, of which only
sums are kept. The sanity checks of an evaluation look at finished sets, at the resolution of particles.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
import scipy.ndimage

from cryoden.errors import CryodenError, Problem, Remedy
from cryoden.formats.arrays import opened_arrays, write_arrays
from cryoden.formats.files import PathLike
from cryoden.formats.images import open_micrograph
from cryoden.wording import counted

SIDE = 1024
"""Side in pixels of the square, in the middle of the micrographs."""

BACKGROUND_PX = 33
"""Detail finer than this is compared: illumination and shadows, which micrographs may share, are coarser."""

MIN_DEVIATIONS = 6.0
"""Deviations above chance from which a pattern is reported; noise that neighbours share makes chance a little wider."""

MIN_SHARE = 0.05
"""Share of the covariance of partners that other micrographs may have too before it is reported."""


N_CHOSEN = 24
"""Micrographs in which `common_detail` looks."""


@dataclass(frozen=True)
class CommonDetail:
    """What was found so far.

    Attributes
    ----------
    n_micrographs
        Looked at.
    own_covariance
        Mean covariance of the two halves of a micrograph, each scaled to deviation 1.
    shared_covariance
        The same of halves of different micrographs.
    deviations
        `shared_covariance` in standard deviations of what chance gives.
    uncorrelated
        Micrographs whose halves do not correlate -> their correlation.
    """

    n_micrographs: int
    own_covariance: float
    shared_covariance: float
    deviations: float
    uncorrelated: Dict[str, float]

    @property
    def share(self) -> float:
        """How much of what partners have in common all micrographs have in common, at most 1."""
        return min(1.0, self.shared_covariance / max(self.own_covariance, self.shared_covariance, 1e-12))

    @property
    def is_fixed_pattern(self) -> bool:
        """Whether micrographs share what no specimen can make them share."""
        return self.deviations > MIN_DEVIATIONS and self.share > MIN_SHARE

    def warnings(self, are_hot_pixels_kept: bool) -> List[Problem]:
        """Return everything that is wrong; another remedy is left where hot pixels were kept."""
        problems = []
        if self.uncorrelated:
            n_bad = len(self.uncorrelated)
            names = ", ".join(list(self.uncorrelated)[:5]) + (", ..." if n_bad > 5 else "")
            message = (
                f"The halves of {n_bad} of {counted(self.n_micrographs, 'micrograph')} do not correlate ({names}): "
                "they show nothing, or frames of different movies. Look at them before you train on them."
            )
            problems.append(Problem("warning", message))

        if self.is_fixed_pattern:
            message = (
                f"A fixed pattern: {self.share:.0%} of the fine detail that halves have in common is the same in all "
                f"{self.n_micrographs} micrographs ({self.deviations:.0f} deviations above chance). A network would "
                "learn it as signal. Check the gain reference and its orientation"
            )
            if are_hot_pixels_kept:
                remedy = Remedy("leave_out", "hot_pixels")
                problems.append(Problem("warning", f"{message}, and have hot pixels replaced.", remedy=remedy))
            else:
                problems.append(Problem("warning", f"{message}."))
        return problems


@dataclass
class FixedPattern:
    """Sums over micrographs from which `found` follows; several threads may add.

    Attributes
    ----------
    sums
        Sum of the odd and of the even squares, `(2, y, x)`, each scaled to mean 0 and deviation 1.
    """

    names: List[str] = field(default_factory=list)
    sums: np.ndarray = field(default_factory=lambda: np.zeros((2, 0, 0)))
    own: List[float] = field(default_factory=list)
    uncorrelated: Dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._known = set(self.names)

    def __contains__(self, name: str) -> bool:
        """Return whether a micrograph was looked at."""
        return name in self._known

    def add(self, name: str, odd: PathLike, even: PathLike) -> None:
        """Add the halves of one micrograph; those of another size than the first are skipped."""
        squares = np.stack([_middle(odd), _middle(even)])
        correlation = float(np.mean(_scaled(squares[0]) * _scaled(squares[1])))
        fine = np.stack([_fine_detail(square) for square in squares])

        with self._lock:
            if not self.names:
                self.sums = np.zeros(fine.shape)
            if name in self._known or fine.shape != self.sums.shape:
                return

            self.names.append(name)
            self._known.add(name)
            if correlation < 4 / np.sqrt(squares[0].size):
                self.uncorrelated[name] = correlation  # mixed-up halves would look like detail that is shared
                return
            self.sums += fine
            self.own.append(float(np.mean(fine[0] * fine[1])))

    def merge(self, other: FixedPattern) -> None:
        """Add what another process found in micrographs of its own; squares of another size are skipped."""
        if not self.names:
            self.sums = np.zeros(other.sums.shape)
        if other.sums.shape != self.sums.shape or self._known & other._known:
            return
        self.names += other.names
        self._known |= other._known
        self.sums = self.sums + other.sums
        self.own += other.own
        self.uncorrelated.update(other.uncorrelated)

    def found(self) -> CommonDetail:
        """Compare every odd half with the even halves of all other micrographs.

        The sum over pairs of different micrographs is the product of the two sums less that of the partners; by chance
        its mean has the deviation 1 / sqrt(pixels * n * (n - 1)).
        """
        n = len(self.own)
        own = float(np.mean(self.own)) if n else 0.0
        if n < 2:
            return CommonDetail(len(self.names), own, 0.0, 0.0, dict(self.uncorrelated))
        n_pairs = n * (n - 1)
        n_pixels = self.sums[0].size
        shared = (float(np.sum(self.sums[0] * self.sums[1])) / n_pixels - sum(self.own)) / n_pairs
        deviations = shared * float(np.sqrt(n_pixels * n_pairs))
        return CommonDetail(len(self.names), own, shared, deviations, dict(self.uncorrelated))

    def mean(self) -> np.ndarray:
        """Return the mean of all squares, in which only what is common to all is left, `(y, x)`."""
        return self.sums.sum(axis=0) / max(1, 2 * len(self.own))

    def save(self, path: PathLike) -> None:
        """Write the sums, to which a continued run adds."""
        bad = np.array([[name, str(value)] for name, value in self.uncorrelated.items()], dtype=str).reshape(-1, 2)
        arrays = {"names": np.array(self.names, dtype=str), "own": np.array(self.own), "uncorrelated": bad}
        write_arrays(path, {**arrays, "sums": self.sums.astype(np.float32)})

    @classmethod
    def load(cls, path: PathLike) -> FixedPattern:
        """Read what `save` wrote; a file that is not there is an empty one.

        Raises
        ------
        FileError
            If the file is damaged.
        """
        if not Path(path).is_file():
            return cls()
        with opened_arrays(path, "remove it, it is made again") as file:
            bad = {str(name): float(value) for name, value in file["uncorrelated"]}
            names = [str(name) for name in file["names"]]
            return cls(names, file["sums"].astype(np.float64), [float(value) for value in file["own"]], bad)


def common_detail(halves: Sequence[Tuple[str, str, str]]) -> CommonDetail:
    """Return what some micrographs have in common, evenly chosen from many: enough to see a pattern in seconds.

    Parameters
    ----------
    halves
        Name of the micrograph, and the files of its odd and even half; what cannot be read is passed over.
    """
    pattern = FixedPattern()
    chosen = np.unique(np.linspace(0, len(halves) - 1, min(len(halves), N_CHOSEN)).round().astype(int))
    for name, odd, even in (halves[number] for number in chosen):
        with suppress(CryodenError, OSError):  # said where the micrograph is used
            pattern.add(name, odd, even)
    return pattern.found()


def _middle(path: PathLike) -> np.ndarray:
    """Return a square in the middle of a micrograph, float32."""
    stack = open_micrograph(path)
    height, width = (min(SIDE, side) for side in stack.shape)
    top, left = ((side - part) // 2 for side, part in zip(stack.shape, (height, width)))
    bands: List[Tuple[int, int]] = [(row, min(row + 64, top + height)) for row in range(top, top + height, 64)]
    return np.concatenate([stack.read_rows(0, *band)[:, left : left + width].astype(np.float32) for band in bands])


def _fine_detail(square: np.ndarray) -> np.ndarray:
    return _scaled(square - scipy.ndimage.uniform_filter(square, BACKGROUND_PX, mode="reflect"))


def _scaled(square: np.ndarray) -> np.ndarray:
    centred = square - square.mean(dtype=np.float64)
    deviation = float(centred.std())
    return (centred / deviation if deviation > 0 else centred).astype(np.float32)
