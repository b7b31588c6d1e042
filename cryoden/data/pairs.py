"""Two halves that provably belong together: found by name, checked, split into training and validation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Tuple

import numpy as np

from cryoden.data.half_sources import full_sum_of, list_halves
from cryoden.data.normalize import GreyScale, sample_rows
from cryoden.data.rescale import SAME_RATE_TOLERANCE, rescaled_shape
from cryoden.errors import CryodenError, PairError, Problem, Remedy, because, problem_of
from cryoden.formats import outputs
from cryoden.formats.files import real_path
from cryoden.formats.images import Stack, open_micrograph, open_stack
from cryoden.formats.star import require_in_project

SAME_AREA_TOLERANCE = 0.02
"""Relative difference of side lengths that binning and trimming of edges explain."""

MIN_CORRELATION_DEVIATIONS = 4.0
"""Halves of one micrograph correlate; by chance, a correlation this many deviations above 0 is a 1 in 30,000 event."""

CORRELATED_PIXELS = 1 << 22
"""Pixels on which the correlation of two halves is measured."""

CORRELATED_ROWS = 8
"""Rows that are looked at together: little memory."""

LEAST_SIDE = 16
"""Pixels below which nothing can be measured: SSIM has windows of 7, and a few rings must lie in the score band."""

VALIDATION_ROWS = 0.25
"""Share of the rows held out where there is one micrograph only."""


@dataclass(frozen=True)
class HalfPair:
    """The odd and the even half of one micrograph, still on disk.

    Attributes
    ----------
    name
        Micrograph name without folder, ending and half mark.
    file_shape
        Rows and columns of the files.
    file_rate
        A/px of the files.
    shape
        Rows and columns at the working sampling rate, to which the halves are Fourier-cropped when loaded.
    rows
        First and last row (excluded), at the working sampling rate, that are used; None = all.
    """

    name: str
    odd: str
    even: str
    file_shape: Tuple[int, int]
    file_rate: float
    shape: Tuple[int, int]
    rows: Optional[Tuple[int, int]] = None

    @property
    def sampling_rate(self) -> float:
        """Working sampling rate in A/px."""
        return self.file_rate * self.file_shape[1] / self.shape[1]

    @property
    def used_shape(self) -> Tuple[int, int]:
        """Rows and columns of the part that is used."""
        first, last = self.rows or (0, self.shape[0])
        return last - first, self.shape[1]

    @property
    def n_bytes(self) -> int:
        """Bytes of both halves in memory, float16."""
        return 2 * 2 * self.used_shape[0] * self.used_shape[1]

    @property
    def micrograph(self) -> str:
        """Name of the micrograph that it is, or is cut from."""
        return self.name

    @property
    def rows_share(self) -> Tuple[float, float]:
        """First and last row that are used, as shares of the micrograph's height."""
        first, last = self.rows or (0, self.shape[0])
        return first / self.shape[0], last / self.shape[0]

    @property
    def fixed_scale(self) -> Optional[GreyScale]:
        """Grey scale of both halves where it is known; None = to be measured on each."""
        return None

    def open(self) -> List[Stack]:
        """Open odd and even; no pixel is read. Raises as `cryoden.formats.images.open_micrograph`."""
        return [open_micrograph(path) for path in (self.odd, self.even)]


def find_pairs(odd: str, even: str, working_rate: Optional[float] = None) -> Tuple[List[HalfPair], Dict[str, Problem]]:
    """Match the odd and even micrographs of two folders or STAR files by name, sorted, and check their headers.

    Returns
    -------
    pairs
        Halves that belong together.
    failures
        Micrograph name -> why it was left out.

    Raises
    ------
    PairError
        If no pair is left, or the sampling rates of the micrographs differ.
    """
    odd_files = list_halves(odd, outputs.ODD)
    even_files = list_halves(even, outputs.EVEN)

    failures: Dict[str, Problem] = {}
    for name in sorted(set(odd_files) ^ set(even_files)):
        have, lack, where = ("odd", "even", even) if name in odd_files else ("even", "odd", odd)
        failures[name] = PairError(
            f"'{name}' has an {have} half but no {lack} half in {where}. Split its movie again, or remove it.",
            subject=name,
        ).problem

    pairs = []
    for name in sorted(set(odd_files) & set(even_files)):
        try:
            pairs.append(check_pair(name, odd_files[name], even_files[name], working_rate))
        except Exception as error:  # one bad pair never ends a list
            failures[name] = problem_of(error, name)

    if not pairs:
        require_in_project(odd, odd_files.values())
        require_in_project(even, even_files.values())
        first = next(iter(failures.values()), Problem(PairError.kind, "both are empty."))
        raise because(PairError, f"{odd} and {even} have no usable pair of halves", first)
    _check_rates(pairs)
    return pairs, failures


def too_small(what: str, shape: Tuple[int, int]) -> Optional[str]:
    """Return what is wrong with an image, called `what`, of so few rows or columns; None with a larger one."""
    if min(shape) >= LEAST_SIDE:
        return None
    return f"{what} is {shape[1]} x {shape[0]} px; nothing can be measured on fewer than {LEAST_SIDE} px a side."


def hold_out(pairs: List[HalfPair], fraction: float, rng: np.random.Generator) -> Tuple[List[HalfPair], List[HalfPair]]:
    """Split pairs into training and validation: whole micrographs, at least one; one alone is cut into regions.

    Returns
    -------
    training, validation
        Lists without a common pixel.
    """
    if len(pairs) == 1:
        n_rows = pairs[0].shape[0]
        cut = n_rows - max(1, round(n_rows * VALIDATION_ROWS))
        return [replace(pairs[0], rows=(0, cut))], [replace(pairs[0], rows=(cut, n_rows))]
    n_held_out = min(len(pairs) - 1, max(1, round(len(pairs) * fraction)))
    held_out = set(rng.choice(len(pairs), n_held_out, replace=False).tolist())
    return (
        [pair for i, pair in enumerate(pairs) if i not in held_out],
        [pair for i, pair in enumerate(pairs) if i in held_out],
    )


def check_correlation(name: str, halves: np.ndarray) -> None:
    """Refuse halves `(2, y, x)` that cannot come from one movie, or are one file given twice.

    Raises
    ------
    PairError
        If they are identical or do not correlate.
    """
    # Sums over blocks of a few rows: all values in float64 at once would be four times the halves.
    rows = sample_rows((halves.shape[1], halves.shape[2]), CORRELATED_PIXELS)
    means = np.zeros(2)
    products = np.zeros((2, 2))
    n_pixels = 0
    for first in range(0, len(rows), CORRELATED_ROWS):
        block = rows[first : first + CORRELATED_ROWS]
        values = halves[:, block.start : block.stop : block.step].astype(np.float64).reshape(2, -1)
        n_pixels += values.shape[1]
        means += values.sum(axis=1)
        products += values @ values.T

    covariance = products / n_pixels - np.outer(means, means) / n_pixels**2
    correlation = float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))
    if correlation > 1 - 1e-6:
        raise PairError(
            f"Both halves of '{name}' are the same image; the noise of odd and even must differ. "
            "Give the odd micrographs as odd and the even ones as even.",
            subject=name,
        )
    if correlation < MIN_CORRELATION_DEVIATIONS / np.sqrt(n_pixels):
        raise PairError(
            f"The halves of '{name}' do not correlate ({correlation:.4f}); halves of one movie do. "
            "Check that both come from the same movie.",
            subject=name,
        )


def check_pair(name: str, odd: str, even: str, working_rate: Optional[float] = None) -> HalfPair:
    """Return two files as the halves of one micrograph, if their headers say that they can be.

    Parameters
    ----------
    name
        Of the micrograph.
    odd, even
        Files.
    working_rate
        A/px to which they will be brought; None = as they are.

    Raises
    ------
    CryodenError
        If one cannot be opened, or their headers do not go together.
    """
    stacks = (open_stack(odd), open_stack(even))
    sizes = [f"{s.shape[1]} x {s.shape[0]} px" for s in stacks]
    if stacks[0].shape != stacks[1].shape:
        raise PairError(
            f"Odd half of '{name}' is {sizes[0]} but its even half is {sizes[1]}; both must come from one movie. "
            "Split this movie again.",
            subject=name,
        )

    rates = [stack.sampling_rate for stack in stacks]
    if not rates[0] or not rates[1] or abs(rates[0] / rates[1] - 1) > 1e-3:
        raise PairError(
            f"The headers of the halves of '{name}' say {rates[0] or 0:g} and {rates[1] or 0:g} Å/px; "
            "both must hold the same pixel size above 0. Split this movie again, or mend the headers.",
            subject=name,
        )
    if real_path(odd) == real_path(even):
        same = f"Both halves of '{name}' are the same file {odd}; give odd and even micrographs."
        raise PairError(same, subject=name)

    _require_area_of_full_sum(name, odd, stacks[0])
    shape = rescaled_shape(stacks[0].shape, rates[0], working_rate or rates[0])
    return HalfPair(name, odd, even, stacks[0].shape, rates[0], shape)


def _require_area_of_full_sum(name: str, path: str, half: Stack) -> None:
    """Refuse halves whose header has the pixel size of other pixels, where the full sum beside them shows it.

    RELION 5.0.1 leaves halves unbinned, with the pixel size of the binned sum, where early binning is off.
    """
    full_path = full_sum_of(path)
    if full_path is None:
        return
    try:
        full = open_stack(full_path)
    except CryodenError:  # nothing is made of this file: that it is damaged tells nothing of the halves
        return

    half_rate, full_rate = half.sampling_rate or 0.0, full.sampling_rate or 0.0
    sides = zip(half.shape, full.shape)
    if full_rate and any(abs(h * half_rate / (f * full_rate) - 1) > SAME_AREA_TOLERANCE for h, f in sides):
        raise PairError(
            f"The halves of '{name}' are {half.shape[1]} x {half.shape[0]} px at {half_rate:g} Å/px, but the full sum "
            f"{full_path} is {full.shape[1]} x {full.shape[0]} px at {full_rate:g} Å/px: they cannot show the same "
            "area. RELION 5.0.1 leaves halves unbinned under a binned header where early binning is off; make them "
            "again with early binning, or mend the pixel size in their headers.",
            subject=name,
        )


def _check_rates(pairs: List[HalfPair]) -> None:
    lowest = min(pairs, key=lambda pair: pair.sampling_rate)
    highest = max(pairs, key=lambda pair: pair.sampling_rate)
    if highest.sampling_rate > (1 + SAME_RATE_TOLERANCE) * lowest.sampling_rate:
        raise PairError(
            f"'{lowest.name}' has {lowest.sampling_rate:g} Å/px but '{highest.name}' has {highest.sampling_rate:g}; "
            "one model needs one sampling rate. Train on them separately, or at a common one.",
            subject=highest.name,
            remedy=Remedy("set", "sampling_rate"),
        )
