"""RELION's model of local motion: where places of a frame must be moved to, beyond the shift of the whole frame.

For frame z, counted from 0 at the first used one, and a place x = column / columns - 1/2, y = row / rows - 1/2, the
shift is L(z), the sum over the terms 1, x, x^2, y, y^2, xy of (c0 z + c1 z^2 + c2 z^3) times the term. What a job
stored is L in the pixels in which it worked: binned ones where it binned first, as it does unless told otherwise.

Source: Zivanov, Nakane & Scheres (2019) IUCrJ 6, 5-17; the units and the time were measured with RELION 3.1.3, whose
STAR files do not say them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Tuple

import numpy as np

from cryoden.errors import FileError
from cryoden.formats.relion_job import COEFFICIENTS, MovieCorrection

POWERS = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [2, 0], [1, 1]])
"""Powers of y and x in each term."""

FRAME_MIDDLE = 0.5
"""RELION fits L to shifts that belong to the middle of each frame, and applies it at the beginning."""

MAX_SCALE_ERROR = 0.15
"""How far the scale of stored coefficients may be from the ones that are possible, relatively."""

N_PARAMETERS = COEFFICIENTS[1] * COEFFICIENTS[2]


@dataclass(frozen=True)
class LocalMotionModel:
    """The motion within one movie.

    Attributes
    ----------
    coefficients
        `COEFFICIENTS`, unbinned pixels.
    first_frame
        The frame of z = 0, counted from 1.
    is_unbinned
        Whether the job moved unbinned frames and binned their sum.
    """

    coefficients: np.ndarray
    first_frame: int = 1
    is_unbinned: bool = False

    @classmethod
    def of(cls, correction: MovieCorrection) -> LocalMotionModel:
        """Return the model of a movie that has one.

        Where the job kept what it measured, the model is fitted to that again: that is in unbinned pixels, and its
        digits suffice. Stored coefficients have five decimals, which of z^3 is 0.3 px in frame 40. They must still be
        of the same motion. Where nothing was kept, the job is taken to have binned first.

        Parameters
        ----------
        correction
            With coefficients.

        Raises
        ------
        FileError
            If what was measured has another scale than the coefficients can have.
        """
        stored = correction.coefficients
        if stored is None:
            raise ValueError("this movie has no local model")
        first = min(correction.shifts)
        if correction.observed is None or len(correction.observed) <= N_PARAMETERS:
            return cls(correction.binning * stored, first)

        times = _times_of_groups(np.unique(correction.observed[:, 0]) - first, len(correction.shifts))
        fitted = cls(_fit(correction.observed, times, correction.shape), first)
        last = max(correction.shifts) - first
        scale = _scale(fitted, cls(stored, first), last)
        possible = (correction.binning, 1.0)
        if all(abs(scale / value - 1) > MAX_SCALE_ERROR for value in possible):
            raise FileError(
                f"{correction.source}: what was measured of the local motion is {scale:.2f} times what its motion "
                f"model says, which at binning {correction.binning:g} cannot be; the model is of another binning or "
                "another movie. Correct the motion of this movie again.",
                subject=correction.source,
            )
        return cls(fitted.coefficients, first, is_unbinned=abs(scale - 1) < abs(scale - correction.binning))

    def fields(self, frame: int, is_as_relion: bool = False) -> np.ndarray:
        """Return the shift of a frame as polynomials of the place, `(2, 3, 3)`: x and y; powers of y; powers of x.

        Unbinned pixels. The first used frame is not moved.

        Parameters
        ----------
        frame
            Counted from 1.
        is_as_relion
            L(z), as RELION itself applies it, and not L(z + 1/2) - L(1/2), which is what it measured.
        """
        z = frame - self.first_frame
        return self._at(z) if is_as_relion else self._at(z + FRAME_MIDDLE) - self._at(FRAME_MIDDLE)

    def upside_down(self, n_rows: int) -> LocalMotionModel:
        """Return the motion of the same frames when their rows are counted from the other end.

        The row r of a frame becomes row n - 1 - r, so y becomes -y - 1/n.
        """
        step = 1 / n_rows
        one, x, xx, y, yy, xy = np.moveaxis(self.coefficients, 1, 0)
        turned = [one - step * y + step**2 * yy, x - step * xy, xx, -y + 2 * step * yy, yy, -xy]
        coefficients = np.stack(turned, axis=1) * np.array([1.0, -1.0])[:, None, None]
        return replace(self, coefficients=coefficients)

    def _at(self, z: float) -> np.ndarray:
        terms = self.coefficients @ np.array([z, z**2, z**3])
        polynomials = np.zeros((2, 3, 3))
        polynomials[:, POWERS[:, 0], POWERS[:, 1]] = terms
        return polynomials


def shifts_of_rows(polynomial: np.ndarray, first: int, last: int, shape: Tuple[int, int]) -> np.ndarray:
    """Return the values of a polynomial of `LocalMotionModel.fields` in rows `first` to `last` (excluded), float32.

    Parameters
    ----------
    polynomial
        `(3, 3)`.
    first, last
        Rows.
    shape
        Rows and columns of the image.
    """
    in_rows, in_columns = factors_of_shifts(polynomial, shape)
    return in_rows[first:last] @ in_columns


def factors_of_shifts(polynomial: np.ndarray, shape: Tuple[int, int]) -> Tuple[np.ndarray, np.ndarray]:
    """Return float32 `(rows, 3)` and `(3, columns)`, whose product `shifts_of_rows` returns rows of."""
    y, x = (np.arange(size) / size - 0.5 for size in shape)
    in_rows = np.vander(y, 3, increasing=True) @ polynomial
    return in_rows.astype(np.float32), np.vander(x, 3, increasing=True).T.astype(np.float32)


def _times_of_groups(written: np.ndarray, n_frames: int) -> np.ndarray:
    """Return the middle of each group of frames that was measured together, from frame 0 on.

    It is written without its fraction, which follows from the sizes: all groups but the first get the frames that are
    left over, one each, the last one first.

    Parameters
    ----------
    written
        Frame of each group as written, counted from 0, ascending.
    n_frames
        That were used.
    """
    n_groups = len(written)
    for size in range(n_frames // n_groups, 0, -1):
        sizes = np.full(n_groups, size)
        for number in range(n_frames - n_groups * size):
            sizes[-1 - number % max(n_groups - 1, 1)] += 1
        middles = np.cumsum(sizes) - sizes / 2
        if np.array_equal(np.floor(middles), written):
            return middles
    return written + FRAME_MIDDLE


def _fit(observed: np.ndarray, times: np.ndarray, shape: Tuple[int, int]) -> np.ndarray:
    """Return the coefficients that fit measured shifts best, as RELION finds them.

    Parameters
    ----------
    observed
        As in `MovieCorrection`.
    times
        Of the frames in it, ascending.
    shape
        Rows and columns of a frame.
    """
    z = times[np.unique(observed[:, 0], return_inverse=True)[1]]
    x, y = observed[:, 1] / shape[1] - 0.5, observed[:, 2] / shape[0] - 0.5

    terms = y[:, None] ** POWERS[:, 0] * x[:, None] ** POWERS[:, 1]
    length = max(z.max(), 1.0)  # powers of numbers up to 1 keep the equations well conditioned
    times = (z / length)[:, None] ** [1, 2, 3]
    matrix = (terms[:, :, None] * times[:, None, :]).reshape(len(z), -1)
    solution = np.linalg.lstsq(matrix, observed[:, 3:], rcond=None)[0]
    return solution.T.reshape(COEFFICIENTS) / length ** np.array([1, 2, 3])


def _scale(fitted: LocalMotionModel, stored: LocalMotionModel, last: int) -> float:
    """Return by which factor the stored motion must be multiplied to be the fitted one, over all frames and places."""
    side = np.linspace(-0.5, 0.5, 9)
    powers = np.vander(side, 3, increasing=True)
    frames = [stored.first_frame + z for z in range(last + 1)]
    one, other = (
        np.array([powers @ model.fields(frame, is_as_relion=True) @ powers.T for frame in frames])
        for model in (fitted, stored)
    )
    return float((one * other).sum() / max((other**2).sum(), 1e-12))
