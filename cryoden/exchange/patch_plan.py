"""Which patches an export cuts: where they lie in a micrograph, and which are for training and which for testing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Tuple

import numpy as np

from cryoden.config.exchange import PatchesExportConfig
from cryoden.data.pairs import HalfPair, hold_out
from cryoden.errors import FileError, PairError, Problem
from cryoden.formats.patch_file import DTYPE, PARTS


def patch_places(shape: Tuple[int, int], patch: int, stride: int, edges: bool) -> Tuple[List[int], List[int]]:
    """Return the first rows and first columns of the patches of an image.

    Without `edges` they are floor((side - patch) / stride) + 1 along an axis.
    """

    def along(side: int) -> List[int]:
        starts = list(range(0, side - patch + 1, stride))
        if edges and starts and starts[-1] + patch < side:
            starts.append(side - patch)
        return starts

    return along(shape[0]), along(shape[1])


@dataclass(frozen=True)
class Source:
    """A micrograph and the part of it that goes to one pair of files.

    Attributes
    ----------
    pair
        Its halves.
    part
        `train` or `test`.
    rows, columns
        First rows and columns of its patches, in the micrograph.
    """

    pair: HalfPair
    part: str
    rows: List[int]
    columns: List[int]

    @property
    def n(self) -> int:
        """Number of patches."""
        return len(self.rows) * len(self.columns)


def plan_sources(pairs: List[HalfPair], config: PatchesExportConfig) -> Tuple[List[Source], Dict[str, Problem]]:
    """Decide which micrographs, or which rows of a single one, are for training and which for testing.

    Whole micrographs are held out, because patches of one micrograph overlap.

    Returns
    -------
    sources
        In the order of the files.
    failures
        Micrographs smaller than a patch, and why they are left out.

    Raises
    ------
    FileError
        If no micrograph is large enough, for training and for testing.
    """
    training, held_out = hold_out(pairs, config.validation, np.random.default_rng(config.seed))
    sources: List[Source] = []
    failures: Dict[str, Problem] = {}

    for part, members in zip(PARTS, (training, held_out)):
        for pair in members:
            first, last = pair.rows or (0, pair.shape[0])
            shape = (last - first, pair.shape[1])
            rows, columns = patch_places(shape, config.patch, config.stride, config.edges)
            if not rows or not columns:
                failures[pair.name] = PairError(
                    f"'{pair.name}' has {shape[1]} x {shape[0]} px for {part}ing, less than one patch of "
                    f"{config.patch} px; choose smaller patches, or give more micrographs.",
                    subject=pair.name,
                ).problem
                continue
            sources.append(Source(pair, part, [first + row for row in rows], columns))

    for part in PARTS:
        if not any(source.part == part for source in sources):
            problem = next(iter(failures.values()))
            reason = f"There is no patch for {part}ing; the first reason: {problem.message}"
            raise FileError(reason, subject=problem.subject)
    return sources, failures


def needed_bytes(sources: List[Source], patch: int) -> int:
    """Return the size of all files: 4 bytes x patch^2 x count, for input and target."""
    return 2 * DTYPE.itemsize * patch**2 * sum(source.n for source in sources)
