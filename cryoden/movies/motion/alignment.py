"""Frames aligned by what they show, and the proof that it helped: without it they stay where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from cryoden.formats.relion_job import MovieCorrection
from cryoden.movies.motion.arrays import Arrays
from cryoden.movies.motion.doubts import doubts_about
from cryoden.movies.motion.estimation import MotionEstimate, estimate_motion
from cryoden.movies.motion.motion import GLOBAL, LOCAL, NULL, UNALIGNED, Motion
from cryoden.movies.motion.stored_shifts import Shift
from cryoden.movies.movie import Movie

RESOLUTION_A = 8.0
"""To which the agreement of halves is said in words: finer rings hold little but noise."""

MAX_NULL = 0.5
"""Agreement of frames that show different things, relative to that of the movie's own."""


@dataclass(frozen=True)
class Alignment:
    """What is known of the motion in one movie, and what was done about it.

    Attributes
    ----------
    applied
        `LOCAL`, `GLOBAL` or `UNALIGNED`.
    doubts
        Why not more was applied, and what is strange about the motion; sentences without the movie's name.
    frc
        Mean correlation of the odd and the even half for each that could be applied, and `null`: of halves that show
        different things, after the same estimation. 0 = they have nothing in common.
    drift, early, late
        Length of the way of the whole frames in A: all of it, in the first quarter of the frames, and after it.
    path
        Where the specimen was in each frame, A, from the first frame on, `(frames, 2)` in x and y.
    uncertainty
        Standard error of a frame's shift, A.
    score
        Correlation of a frame with the others, in units of what noise would reach.
    estimate
        What was found.
    """

    applied: str
    doubts: List[str]
    frc: Dict[str, float]
    drift: float
    early: float
    late: float
    path: np.ndarray
    uncertainty: float
    score: float
    estimate: MotionEstimate

    @property
    def facts(self) -> Dict[str, Any]:
        """What is logged, JSON types."""
        to_8 = self.estimate.frc_to(RESOLUTION_A)
        return {
            "applied": self.applied,
            "doubts": self.doubts,
            "frc": {key: round(value, 4) for key, value in self.frc.items()},
            "frc_to_8A": {key: round(value, 4) for key, value in to_8.items()},
            "frc_rings": {key: [round(float(v), 4) for v in curve] for key, curve in self.estimate.curves.items()},
            "frc_rings_end_per_A": round(self.estimate.highest_per_angstrom, 5),
            "score": round(self.score, 1),
            "drift_A": round(self.drift, 2),
            "early_A": round(self.early, 2),
            "late_A": round(self.late, 2),
            "path_A": [[round(float(x), 2), round(float(y), 2)] for x, y in self.path],
            "uncertainty_A": round(self.uncertainty, 3),
        }

    @property
    def _applied_shifts(self) -> List[Shift]:
        """The shift of each frame, px."""
        if self.applied == UNALIGNED:
            return [(0.0, 0.0)] * len(self.estimate.shifts)
        return [(float(x), float(y)) for x, y in self.estimate.shifts]

    def motion(self) -> Optional[Motion]:
        """Return how the frames are moved; None = they stay where they are, and are summed as they are."""
        if self.applied == UNALIGNED:
            return None
        shifts = self._applied_shifts
        model = self.estimate.local_model if self.applied == LOCAL else None
        return Motion(shifts, None if model is None else [model.fields(frame + 1) for frame in range(len(shifts))])

    def correction(self, movie: Movie, written_name: str, sampling_rate: float, is_from_top: bool) -> MovieCorrection:
        """Return what was applied in RELION's form.

        Parameters
        ----------
        movie
            That was aligned.
        written_name
            Of the movie in STAR files.
        sampling_rate
            A/px.
        is_from_top
            Whether its rows were counted from the other end than RELION counts them.
        """
        model = self.estimate.local_model if self.applied == LOCAL else None
        shifts = {index + 1: shift for index, shift in zip(movie.frame_indices, self._applied_shifts)}
        rows, columns = movie.find_bad_pixels()
        if is_from_top:
            shifts = {frame: (x, -y) for frame, (x, y) in shifts.items()}
            model = model.upside_down(movie.shape[0]) if model else None
            rows = movie.shape[0] - 1 - rows
        return MovieCorrection(
            str(movie.path), written_name, movie.shape, movie.n_frames, shifts, sampling_rate=sampling_rate,
            coefficients=model.coefficients if model else None, hot_pixels=np.array([rows, columns]),
        )  # fmt: skip


def align_movie(movie: Movie, sampling_rate: float, n_patches: int, arrays: Arrays) -> Alignment:
    """Find the motion in a movie, and decide what of it is applied.

    Parameters
    ----------
    movie
        Opened, with its used frames.
    sampling_rate
        A/px.
    n_patches
        Along each side, for local motion; below 3 there is none.
    arrays
        What computes.

    Raises
    ------
    CryodenError
        If the movie cannot be read.
    """
    movie.find_bad_pixels(arrays.n_workers)
    with arrays.alone():
        frames = movie.corrected_frames(arrays=arrays)
        estimate = estimate_motion(frames, len(movie.frame_indices), movie.shape, sampling_rate, n_patches, arrays)
    applied, doubts = _verdict(estimate)
    steps = np.hypot(*np.diff(estimate.shifts, axis=0).T) * sampling_rate
    if estimate.is_found:
        doubts += doubts_about(estimate, movie.frame_indices, movie.shape, sampling_rate)

    n_early = max(1, len(steps) // 4)
    return Alignment(
        applied, doubts, estimate.frc, float(steps.sum()), float(steps[:n_early].sum()), float(steps[n_early:].sum()),
        (estimate.shifts[0] - estimate.shifts) * sampling_rate, estimate.uncertainty * sampling_rate,
        float(np.median(estimate.scores)), estimate,
    )  # fmt: skip


def _verdict(estimate: MotionEstimate) -> Tuple[str, List[str]]:
    """Return what is applied, and the doubts."""
    frc = estimate.frc
    if not estimate.is_found:
        score = float(np.median(estimate.scores))
        return UNALIGNED, [f"its frames have nothing in common by which they could be aligned (score {score:.1f})"]
    if frc[GLOBAL] < frc[UNALIGNED]:
        if estimate.spread < estimate.uncertainty:  # frames that stay where they are: which is more is chance
            return UNALIGNED, []
        return UNALIGNED, [
            f"aligned, its halves agree less than unaligned (FRC {frc[GLOBAL]:.3f}, was {frc[UNALIGNED]:.3f}), as "
            "those of frames do that share a pattern of the detector; check the gain reference"
        ]
    if frc[NULL] > MAX_NULL * frc[GLOBAL]:
        return UNALIGNED, [
            f"frames that show different things are made to agree nearly as much (FRC {frc[NULL]:.3f}) as its own "
            f"(FRC {frc[GLOBAL]:.3f})"
        ]
    doubts = [] if estimate.is_converged else ["the shifts had not settled after the last iteration"]
    if estimate.coefficients is None or frc[LOCAL] < frc[GLOBAL]:
        return GLOBAL, doubts
    return LOCAL, doubts
