"""Does the gain reference lie as the frames do? Its pattern is in the raw counts, and says so."""

from __future__ import annotations

from typing import Dict, Tuple

import numpy as np
import scipy.ndimage

from cryoden.errors import FileError
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
"""Another orientation must fit so clearly, and so much better than the given one, before it is called wrong."""

Orientation = Tuple[int, str]


def require_orientation(stack: Stack, gain: str, given: Orientation, is_tiff_flipped: bool = False) -> None:
    """Refuse a gain reference that fits the counts of a movie much better when it is turned or mirrored.

    Frames are counts of a detector: S / gain. Their fine detail correlates with that of 1 / gain where the reference
    lies as they do, and with nothing where it does not, or where frames were corrected before.

    Parameters
    ----------
    stack
        A movie.
    gain
        Path of the reference.
    given
        Quarter turns and mirroring as the user gave them; see `Reference`.
    is_tiff_flipped
        Whether the rows of TIFF files count from the bottom.

    Raises
    ------
    FileError
        With the options that fit.
    """
    reference = Reference("Gain", gain, is_tiff_flipped=is_tiff_flipped)
    if stack.shape not in (reference.shape, reference.shape[::-1]):
        return  # of another size however it is turned: the movies themselves will say so
    counts, pattern = _fine(_middle_counts(stack)), _fine(_middle_pattern(reference))
    fits: Dict[Orientation, float] = {}
    for turns in range(4):
        turned = np.rot90(pattern, turns)
        if (reference.shape[::-1] if turns % 2 else reference.shape) == stack.shape:
            fits[turns, "none"] = float(np.mean(counts * turned))
            fits[turns, "up-down"] = float(np.mean(counts * turned[::-1]))
    (turns, flip), best = max(fits.items(), key=lambda item: item[1])
    same = fits.get(_canonical(given))
    if best < MIN_DEVIATIONS / np.sqrt(counts.size) or (same is not None and best < MIN_RATIO * max(same, 0)):
        return
    if same is None:
        as_given = reference.shape[::-1] if given[0] % 2 else reference.shape
        lies = f"is {as_given[1]} x {as_given[0]} px but the frames are {stack.shape[1]} x {stack.shape[0]} px"
    else:
        lies = f"does not lie as the frames do: its pattern fits by {same:.3f} as given, by {best:.3f} turned"
    raise FileError(
        f"Gain reference {gain} {lies} ({stack.path.name}). It fits with --gain-rotation {90 * turns} "
        f"--gain-flip {flip}; give these options."
    )


def _canonical(given: Orientation) -> Orientation:
    """Return the same orientation without mirroring left-right: that is half a turn and mirroring up-down."""
    turns, flip = given
    return ((turns + 2) % 4, "up-down") if flip == "left-right" else given


def _middle(shape: Tuple[int, int]) -> Tuple[slice, slice]:
    """Return rows and columns that stay the same when the image is turned or mirrored."""
    rows, columns = (slice(max(0, (n - SIDE) // 2), n - max(0, (n - SIDE) // 2)) for n in shape)
    return rows, columns


def _middle_counts(stack: Stack) -> np.ndarray:
    rows, columns = _middle(stack.shape)
    counts = np.zeros((rows.stop - rows.start, columns.stop - columns.start))
    for frame in range(min(MAX_FRAMES, stack.n_frames)):
        counts += stack.read_rows(frame, rows.start, rows.stop)[:, columns]
    return counts


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
