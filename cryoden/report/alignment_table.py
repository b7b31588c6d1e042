"""What became of the movies that `cryoden halves` aligned: read from its log, the worst first, and said in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from cryoden.formats.files import PathLike, mrc_name
from cryoden.formats.progress_log import read_progress_logs
from cryoden.movies.motion.motion import LOCAL, UNALIGNED
from cryoden.wording import counted


@dataclass(frozen=True)
class AlignedMovie:
    """What is known of the alignment of one movie.

    Attributes
    ----------
    name
        Of its sums, without ending.
    path
        The movie, as it was given.
    applied
        `LOCAL`, `GLOBAL` or `UNALIGNED`.
    doubts
        Why not more was applied, and what is strange about the motion.
    frc_before, frc_after
        Mean FRC(odd, even) to 8 A of the frames as they are, and of what was summed.
    curves
        FRC of every ring: unaligned, global, local, null.
    curves_end
        Where the last ring ends, 1/A.
    places
        Where the specimen was in each frame, A, x and y.
    drift, early, late
        Length of its way in A: all of it, in the first quarter of the frames, and after it.
    uncertainty
        Standard error of a frame's shift, A.
    """

    name: str
    path: str
    applied: str
    doubts: List[str]
    frc_before: float
    frc_after: float
    curves: Mapping[str, List[float]]
    curves_end: float
    places: List[Tuple[float, float]]
    drift: float
    early: float
    late: float
    uncertainty: float

    @classmethod
    def of(cls, path: str, facts: Mapping[str, Any]) -> AlignedMovie:
        """Return what the log says of a movie."""
        applied, frc = facts["applied"], facts["frc_to_8A"]
        return cls(
            mrc_name(path)[: -len(".mrc")], path, applied, list(facts["doubts"]), frc[UNALIGNED], frc[applied],
            facts["frc_rings"], facts["frc_rings_end_per_A"], [(x, y) for x, y in facts["path_A"]],
            facts["drift_A"], facts["early_A"], facts["late_A"], facts["uncertainty_A"],
        )  # fmt: skip

    @property
    def is_aligned(self) -> bool:
        """Whether anything was applied."""
        return self.applied != UNALIGNED

    @property
    def badness(self) -> Tuple[int, float]:
        """What it is sorted by: unaligned ones, then doubtful ones, then those whose halves agree least."""
        kind = 0 if not self.is_aligned else 1 if self.doubts else 2
        return kind, self.frc_after if math.isfinite(self.frc_after) else -1.0


def read_alignments(folder: PathLike) -> List[AlignedMovie]:
    """Return the movies of a folder of halves that were aligned there, the worst first; none without a log.

    Raises
    ------
    FileError
        If the log cannot be read.
    """
    found: Dict[str, Any] = {}
    for line in read_progress_logs(folder):
        if "frc_rings" in (line.get("alignment") or {}):
            found[line["movie"]] = line["alignment"]  # a movie that was split again is known by its last time
    return sorted((AlignedMovie.of(path, facts) for path, facts in found.items()), key=lambda movie: movie.badness)


def headline(movies: Sequence[AlignedMovie]) -> str:
    """Return in a sentence how many movies were aligned, and how much more their halves agree."""
    n_aligned = sum(movie.is_aligned for movie in movies)
    said = f"Aligned {n_aligned} of {counted(len(movies), 'movie')}"
    return f"{said}; {agreement(movies)}." if n_aligned else f"{said}."


def agreement(movies: Sequence[AlignedMovie]) -> str:
    """Return how much more the halves of aligned movies agree, of which there must be one; no whole sentence."""
    aligned = [movie for movie in movies if movie.is_aligned]
    before, after = (median(getattr(movie, name) for movie in aligned) for name in ("frc_before", "frc_after"))
    rose = "rose" if after > before else "went"
    return f"the FRC of their halves to 8 Å {rose} from {before:.3f} to {after:.3f} (median)"


def drift_sentence(movies: Sequence[AlignedMovie]) -> str:
    """Return how far the specimens of aligned movies moved, and of how many the local motion was applied."""
    aligned = [movie for movie in movies if movie.is_aligned]
    if not aligned:
        return ""
    drift, early, late = (median(getattr(movie, name) for movie in aligned) for name in ("drift", "early", "late"))
    n_local = sum(movie.applied == LOCAL for movie in aligned)
    return (
        f"Median drift {drift:.1f} Å, of which {early:.1f} Å in the first quarter of the frames and {late:.1f} Å after "
        f"it; local motion was applied to {n_local} of {len(aligned)}."
    )


def doubt_lines(movies: Sequence[AlignedMovie], most: int) -> List[str]:
    """Return a line for each movie that was kept unaligned or is doubtful, and how many more there are."""
    doubtful = [movie for movie in movies if movie.doubts]
    lines = [
        f"{movie.name}: {'; '.join(movie.doubts)}" + ("." if movie.is_aligned else "; it was summed unaligned.")
        for movie in doubtful[:most]
    ]
    n_more = len(doubtful) - most
    return [*lines, f"and {n_more} more."] if n_more > 0 else lines
