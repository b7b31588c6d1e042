"""What is strange about the motion that was found in a movie, in words: sentences without the movie's name."""

from __future__ import annotations

from typing import List, Sequence

import numpy as np

from cryoden.movies.motion.estimation import MotionEstimate
from cryoden.movies.motion.motion import GLOBAL, UNALIGNED, Shape

JUMP_A = 20.0
"""Between two frames; specimens do not move that far at once, stages that are touched do."""

STILL_PX = 0.1
"""Frames of a specimen move more than that on average; patterns of detectors do not."""

WIDE_A = 3.0
"""Frames spread over more than that agree clearly more once they are aligned: a tenth more at least (`HELPS`)."""

HELPS = 1.1

MAX_STILL = 0.3
"""Of what halves share, how much may remain where motion should have blurred it."""

MIN_DEVIATIONS = 4.0
"""By which that must be more than chance."""

N_DIRECTIONS = 12
"""In which motion is looked at, over 180 degrees."""

MAX_NAMED = 6
"""Frames that are named one by one."""

CHECK = "check the gain reference"


def doubts_about(
    estimate: MotionEstimate, frame_indices: Sequence[int], shape: Shape, sampling_rate: float
) -> List[str]:
    """Return what is said of frames that stand apart, and of motion that is none or does not help.

    Parameters
    ----------
    estimate
        What was found; something was.
    frame_indices
        Of its frames in the movie, counted from 0.
    shape
        Rows and columns of a frame.
    sampling_rate
        A/px.
    """
    doubts = _strange_frames([frame_indices[index] + 1 for index in estimate.strangers])
    if estimate.at_break is not None:
        number = frame_indices[estimate.at_break] + 1
        doubts.append(f"its frames from about frame {number} on have nothing in common with those before")

    steps = np.hypot(*np.diff(estimate.shifts, axis=0).T) * sampling_rate
    if steps.max() > JUMP_A:
        frame = frame_indices[int(steps.argmax()) + 1] + 1
        doubts.append(f"frame {frame} lies {steps.max():.0f} Å from the one before it")

    spread = estimate.spread
    before, after = estimate.frc[UNALIGNED], estimate.frc[GLOBAL]
    if spread < STILL_PX:
        doubts.append(
            f"its frames do not move ({spread:.2f} px): they are aligned already, or what they share is a pattern of "
            f"the detector; {CHECK}"
        )
    elif spread * sampling_rate > WIDE_A and before <= after < HELPS * before:
        doubts.append(
            f"aligned, its halves agree hardly more than unaligned (FRC {after:.3f}, was {before:.3f}): part of what "
            f"frames share does not move, as a pattern of the detector; {CHECK}"
        )
    elif _has_pattern(estimate, shape, sampling_rate):
        doubts.append(f"part of what its frames share does not move, as a pattern of the detector; {CHECK}")
    return doubts


def _strange_frames(numbers: List[int]) -> List[str]:
    """Return what is said of frames, counted from 1, that have nothing in common with the others."""
    if not numbers:
        return []
    named = ", ".join(str(number) for number in numbers[:MAX_NAMED]) + (", ..." if len(numbers) > MAX_NAMED else "")
    which, have = ("frame", "has") if len(numbers) == 1 else ("frames", "have")
    return [f"{which} {named} {have} nothing in common with the others; leave out what is blank or overexposed"]


def _has_pattern(estimate: MotionEstimate, shape: Shape, sampling_rate: float) -> bool:
    """Return whether unaligned halves share more than the motion can have left of what aligned ones share.

    In each ring the odd and the even sum of unaligned frames hold the specimen times the means of their phases; what
    they share beyond that does not move with it.
    """
    aligned, unaligned = estimate.curves[GLOBAL], estimate.curves[UNALIGNED]
    n_rings = len(aligned)
    radii = (np.arange(n_rings) + 0.5) / n_rings * estimate.highest_per_angstrom
    angles = np.pi * np.arange(N_DIRECTIONS) / N_DIRECTIONS
    along = estimate.shifts @ np.array([np.cos(angles), np.sin(angles)]) * sampling_rate

    phases = np.exp(-2j * np.pi * radii[:, None] * along[:, None, :])
    odd, even = phases[0::2].mean(axis=0), phases[1::2].mean(axis=0)
    signal = np.clip(aligned, 0.0, 0.99) / (1 - np.clip(aligned, 0.0, 0.99))  # per noise, in a half
    left = signal * (odd * even.conj()).real.mean(axis=1)
    power = 1 + signal * (np.abs(odd) ** 2 + np.abs(even) ** 2).mean(axis=1) / 2

    sizes = radii / radii.sum()
    excess = float(sizes @ (unaligned - left / power))
    n_frequencies = np.pi * (estimate.highest_per_angstrom * sampling_rate) ** 2 * shape[0] * shape[1]
    return excess > max(MAX_STILL * float(sizes @ aligned), MIN_DEVIATIONS / np.sqrt(n_frequencies))
