"""Has the gain reference the orientation of the frames? Its pattern is in the raw counts."""

from __future__ import annotations

from typing import Dict, Tuple

import numpy as np
import scipy.ndimage

from cryoden.errors import FileError, Remedy
from cryoden.formats.stack import Stack
from cryoden.movies.calibration import Reference

MAX_FRAMES = 8
"""Frames that are summed: the pattern of a detector shows in some electrons per pixel."""

SIDE = 512
"""Side in pixels of the square that is compared, in the middle of the frames."""

BACKGROUND_PX = 9
"""Only detail finer than this is compared, which the specimen hardly has."""

MIN_DEVIATIONS = 8.0
MIN_RATIO = 2.0
"""How clearly another orientation must match, and how much better, before the given one is called wrong."""

Orientation = Tuple[int, str]
"""Quarter turns counter-clockwise, seen with the first row on top, and the flip that follows; see `Reference`."""


def require_orientation(
    counts: np.ndarray,
    shape: Tuple[int, int],
    movie: str,
    gain: str,
    given: Orientation,
    is_tiff_flipped: bool = False,
) -> None:
    """Refuse a gain reference that matches the counts of a movie much better in another orientation.

    Frames are counts of a detector: S / gain. Their fine detail correlates with that of 1 / gain where the reference
    has their orientation, and with nothing where it has not, or where frames were corrected before.

    Parameters
    ----------
    counts
        What `summed_middle` returned.
    shape
        Rows and columns of the frames.
    movie
        For the message.
    gain
        Path of the reference.
    given
        As the user gave it.
    is_tiff_flipped
        Whether the rows of TIFF files count from the bottom.

    Raises
    ------
    FileError
        With the orientation that matches.
    """
    reference = Reference("Gain", gain, is_tiff_flipped=is_tiff_flipped)
    if shape not in (reference.shape, reference.shape[::-1]):
        return  # of another size in any orientation: the movies themselves will say so
    fits = _correlations(counts, shape, reference)
    best, highest = max(fits.items(), key=lambda item: item[1])
    same = fits.get(_canonical(given))

    is_chance = highest < MIN_DEVIATIONS / np.sqrt(counts.size)
    is_as_given = same is not None and highest < MIN_RATIO * max(same, 0)
    if is_chance or is_as_given:
        return

    if same is None:
        as_given = reference.shape[::-1] if given[0] % 2 else reference.shape
        fault = f"is {as_given[1]} x {as_given[0]} px but the frames of {movie} are {shape[1]} x {shape[0]} px"
    else:
        fault = (
            f"does not have the orientation of the frames of {movie}: its pattern correlates with theirs by "
            f"{same:.3f} as given, by {highest:.3f} after reorientation"
        )
    raise FileError(
        f"Gain reference {gain} {fault}. It matches {_description(best)}.", subject=gain, remedy=_remedy(given, best)
    )


def summed_middle(stack: Stack) -> np.ndarray:
    """Return the sum of some frames of a movie in a square in their middle, float64; raises as reading does."""
    rows, columns = _middle(stack.shape)
    counts = np.zeros((rows.stop - rows.start, columns.stop - columns.start))
    for frame in range(min(MAX_FRAMES, stack.n_frames)):
        counts += stack.read_rows(frame, rows.start, rows.stop)[:, columns]
    return counts


def _correlations(counts: np.ndarray, shape: Tuple[int, int], reference: Reference) -> Dict[Orientation, float]:
    """Return how well the reference matches in each of the eight orientations, of those that have the frames' sides."""
    detail = _fine(counts)
    pattern = _fine(_middle_pattern(reference))
    fits: Dict[Orientation, float] = {}
    for quarter_turns in range(4):
        rotated = np.rot90(pattern, quarter_turns)
        if (reference.shape[::-1] if quarter_turns % 2 else reference.shape) == shape:
            fits[quarter_turns, "none"] = float(np.mean(detail * rotated))
            fits[quarter_turns, "up-down"] = float(np.mean(detail * rotated[::-1]))
    return fits


def _description(orientation: Orientation) -> str:
    quarter_turns, flip = orientation
    rotation = f"rotated by {90 * quarter_turns} degrees counter-clockwise" if quarter_turns else "without rotation"
    return rotation + (" and without a flip" if flip == "none" else f" and then flipped {flip}")


def _remedy(given: Orientation, best: Orientation) -> Remedy:
    """Return which of the two options to set first; the message says both."""
    if given[0] != best[0]:
        return Remedy("set_to", "gain_rotation", str(90 * best[0]))
    return Remedy("set_to", "gain_flip", best[1])


def _canonical(given: Orientation) -> Orientation:
    """Return the same orientation without a left-right flip: that is half a turn and an up-down flip."""
    quarter_turns, flip = given
    return ((quarter_turns + 2) % 4, "up-down") if flip == "left-right" else given


def _middle(shape: Tuple[int, int]) -> Tuple[slice, slice]:
    """Return rows and columns that stay the same when the image is rotated or flipped."""
    rows, columns = (slice(max(0, (n - SIDE) // 2), n - max(0, (n - SIDE) // 2)) for n in shape)
    return rows, columns


def _middle_pattern(reference: Reference) -> np.ndarray:
    """Return what an even illumination becomes in the raw counts, 1 / gain."""
    rows, columns = _middle(reference.shape)
    gain = reference.rows(rows.start, rows.stop)[:, columns].astype(np.float64)
    return np.divide(1.0, gain, out=np.ones_like(gain), where=gain > 0)


def _fine(image: np.ndarray) -> np.ndarray:
    """Return the fine detail, mean 0 and deviation 1; single extreme pixels (hot, dead) are limited."""
    fine = image - scipy.ndimage.uniform_filter(image, BACKGROUND_PX, mode="reflect")
    reach = 5 * float(np.median(np.abs(fine))) or float(np.abs(fine).max())
    fine = np.clip(fine, -reach, reach)
    fine -= fine.mean()
    deviation = float(fine.std())
    return fine / deviation if deviation > 0 else fine
