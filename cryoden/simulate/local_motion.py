"""Local motion: a smooth field by which places of the specimen move differently while the beam is on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Tuple

import numpy as np
import scipy.ndimage

N_WAVES = 3
"""Waves that make a field."""

WAVELENGTHS = (4.0, 8.0)
"""Of the waves, in widths of a frame: ice bends as a whole. No low polynomial is exactly like that."""

EXPOSURES = (12.0, 40.0)
"""Exposures in e/A^2 in which a wave slows down to 1/e of its first speed: shortest and longest."""

COARSE_PX = 16
"""Distance of the places at which displacements are computed; between them they are interpolated."""

ITERATIONS = 4
"""Until the place is found that came to a pixel: each brings the error down by the field's slope, about 1 %."""


@dataclass(frozen=True)
class LocalMotion:
    """Where places of the specimen are, relative to the drift of the whole.

    Places are written as in RELION's model: row or column over the frame's rows or columns, less one half.

    Attributes
    ----------
    cycles
        Of each wave along rows and columns, per side of the frame `(waves, 2)`.
    phases
        Of each wave in rad `(waves,)`.
    amplitudes
        Of each wave along rows and columns at the end, px `(waves, 2)`.
    courses
        Share of its amplitude that a wave has in each frame, 0 in the first and 1 in the last `(waves, frames)`.
    """

    cycles: np.ndarray
    phases: np.ndarray
    amplitudes: np.ndarray
    courses: np.ndarray

    @classmethod
    def draw(cls, n_frames: int, dose_per_frame: float, length: float, rng: np.random.Generator) -> LocalMotion:
        """Draw a field.

        Parameters
        ----------
        n_frames
            Of the movie.
        dose_per_frame
            e/A^2.
        length
            How far in px the place that moves most has gone at the end, beyond the mean of the frame.
        rng
            Draws it.
        """
        angles = rng.uniform(0, 2 * np.pi, N_WAVES)
        cycles = np.stack([np.sin(angles), np.cos(angles)], axis=1) / rng.uniform(
            WAVELENGTHS[0], WAVELENGTHS[1], (N_WAVES, 1)
        )
        phases = rng.uniform(0, 2 * np.pi, N_WAVES)
        amplitudes = rng.standard_normal((N_WAVES, 2))
        shortest, longest = np.log(EXPOSURES)
        slowing = np.exp(rng.uniform(shortest, longest, (N_WAVES, 1)))
        courses = -np.expm1(-dose_per_frame * np.arange(n_frames) / slowing)
        courses /= courses[:, -1:]

        places = np.linspace(-0.5, 0.5, 33)
        moved = cls(cycles, phases, amplitudes, courses).displacement(n_frames - 1, places[:, None], places)
        beyond_mean = moved - moved.mean(axis=(1, 2), keepdims=True)
        return cls(cycles, phases, amplitudes * (length / np.hypot(*beyond_mean).max()), courses)

    def displacement(self, frame: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return rows and columns in px by which places have moved since the first frame, `(2, ...)`.

        Parameters
        ----------
        frame
            Counted from 0.
        y, x
            Where they were in the first frame; their shapes are broadcast.
        """
        moved = np.zeros((2, *np.broadcast(y, x).shape))
        for (cycles_y, cycles_x), phase, amplitudes, course in zip(
            self.cycles, self.phases, self.amplitudes, self.courses
        ):
            wave = np.cos(2 * np.pi * (cycles_y * y + cycles_x * x) + phase)
            moved += course[frame] * amplitudes[:, None, None] * wave
        return moved

    def warp(
        self, image: np.ndarray, first: Tuple[int, int], shape: Tuple[int, int], frame: int, shift: Tuple[float, float]
    ) -> np.ndarray:
        """Return a frame `(y, x)`, float32, of an image that shows the specimen with its drift.

        Parameters
        ----------
        image
            Frame and margin.
        first
            Row and column of the image at which the frame begins.
        shape
            Rows and columns of the frame.
        frame
            Counted from 0.
        shift
            Rows and columns of the drift that the image shows.
        """
        coarse = [np.arange(0, size + COARSE_PX, COARSE_PX, dtype=float) for size in shape]
        came_from = self._origin(coarse, shape, frame, shift)
        splines = scipy.ndimage.spline_filter(image, 3, np.float32, mode="mirror")

        result = np.empty(shape, np.float32)
        columns = np.arange(shape[1], dtype=np.float32) + first[1]
        for row in range(0, shape[0], COARSE_PX):
            n_rows = min(COARSE_PX, shape[0] - row)
            share = np.arange(n_rows)[:, None] / COARSE_PX
            moved_y, moved_x = (
                _between((1 - share) * moved[row // COARSE_PX] + share * moved[row // COARSE_PX + 1], shape[1])
                for moved in came_from
            )
            places = np.stack([np.arange(n_rows)[:, None] + (row + first[0]) - moved_y, columns - moved_x])
            scipy.ndimage.map_coordinates(
                splines, places, result[row : row + n_rows], order=3, mode="mirror", prefilter=False
            )
        return result

    def _origin(
        self, places: List[np.ndarray], shape: Tuple[int, int], frame: int, shift: Tuple[float, float]
    ) -> np.ndarray:
        """Return the local displacement `(2, y, x)` of what is seen at places, which were elsewhere in the first."""
        rows, columns = places[0][:, None] - shift[0], places[1][None, :] - shift[1]
        moved = np.zeros((2, rows.size, columns.size))
        for _ in range(ITERATIONS):
            moved = self.displacement(frame, (rows - moved[0]) / shape[0] - 0.5, (columns - moved[1]) / shape[1] - 0.5)
        return moved

    def to_dict(self) -> Dict[str, Any]:
        """Return it as JSON types."""
        return {name: array.tolist() for name, array in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LocalMotion:
        """Return what `to_dict` made a dictionary of."""
        return cls(**{name: np.array(values[name]) for name in ("cycles", "phases", "amplitudes", "courses")})


def _between(values: np.ndarray, n: int) -> np.ndarray:
    """Return rows of values, known at every `COARSE_PX`-th pixel, at every pixel `(rows, n)`."""
    index, share = np.divmod(np.arange(n), COARSE_PX)
    part = share / COARSE_PX
    return (1 - part) * values[:, index] + part * values[:, index + 1]
