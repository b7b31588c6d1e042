"""Where frames must be moved to, as a motion correction found it and stored it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, FrozenSet, List, Optional, Sequence, Tuple

from cryoden.errors import FileError, Remedy
from cryoden.formats.files import PathLike
from cryoden.formats.relion_job import NOT_OBSERVED, MovieCorrection
from cryoden.formats.star import read_global_shifts

Shift = Tuple[float, float]
"""Pixels to the right (x) and towards higher rows (y)."""


@dataclass(frozen=True)
class Shifts:
    """The global shifts of one movie; frames are counted from 1.

    Attributes
    ----------
    source
        File that they were read from, for messages.
    by_frame
        Frame -> where its content must be moved to.
    unused
        Frames that the motion correction did not use.
    """

    source: str
    by_frame: Dict[int, Shift]
    unused: FrozenSet[int] = frozenset()

    @classmethod
    def read(cls, path: PathLike) -> Shifts:
        """Read the shifts of one movie.

        Raises
        ------
        FileError
            If the file is missing, holds no shifts, or none of a frame that was used.
        """
        listed = read_global_shifts(path)
        unused = frozenset(frame for frame, shift in listed.items() if NOT_OBSERVED in shift)
        by_frame = {frame: shift for frame, shift in listed.items() if frame not in unused}
        if not by_frame:
            raise FileError(
                f"{path} has no shift of any frame: none was used. Correct the motion of this movie again.",
                subject=str(path),
            )
        return cls(str(path), by_frame, unused)

    @classmethod
    def of(cls, correction: MovieCorrection) -> Shifts:
        """Return the shifts of a movie that a finished motion correction is of."""
        unused = frozenset(range(1, correction.n_frames + 1)) - frozenset(correction.shifts)
        return cls(correction.source, correction.shifts, unused)

    @property
    def used_range(self) -> Optional[str]:
        """First and last frame that the motion correction used, such as `3-40`; None if it used all."""
        return f"{min(self.by_frame)}-{max(self.by_frame)}" if self.unused else None

    def of_frames(self, frame_indices: Sequence[int], n_frames: int) -> List[Shift]:
        """Return the shift of each used frame.

        Parameters
        ----------
        frame_indices
            Frames that are to be summed, counted from 0.
        n_frames
            Of the movie.

        Raises
        ------
        FileError
            If a used frame has no shift, or the file lists neither all frames nor the used ones: then its frames may
            be numbered in another way, or it belongs to another movie.
        """
        missing = [index + 1 for index in frame_indices if index + 1 not in self.by_frame]
        n_listed = len(self.by_frame) + len(self.unused)
        n_used = len(frame_indices)

        if missing and missing[0] in self.unused:
            raise FileError(
                f"{self.source} has no shift of frame {missing[0]}: the motion correction did not use it. Every used "
                "frame needs one.",
                subject=self.source,
                remedy=Remedy("set_to", "frames", self.used_range),
            )
        if missing or n_listed not in (n_frames, n_used):
            lack = f"; frame {missing[0]} has none" if missing else ""
            raise FileError(
                f"{self.source} has shifts of {n_listed} frames, but {n_used} of the movie's {n_frames} frames are used"
                f"{lack}. Every used frame needs one shift: take the frame range of the motion correction.",
                subject=self.source,
                remedy=Remedy("change", "frames"),
            )
        return [self.by_frame[index + 1] for index in frame_indices]
