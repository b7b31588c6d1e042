"""Where frames must be moved to, as a motion correction found it and stored it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

from cryoden.errors import FileError


@dataclass(frozen=True)
class Shifts:
    """Where the content of every frame must be moved to, as a motion correction found it.

    Attributes
    ----------
    source
        File that they were read from, for messages.
    by_frame
        Number of the frame, counted from 1 -> pixels to the right (x) and towards higher rows (y).
    """

    source: str
    by_frame: Dict[int, Tuple[float, float]]

    def of_frames(self, frame_indices: Sequence[int], n_frames: int) -> List[Tuple[float, float]]:
        """Return x and y of each used frame (counted from 0).

        Raises
        ------
        FileError
            If their number is neither that of all frames nor that of the used ones, or a used frame has none.
        """
        n_shifts, n_used = len(self.by_frame), len(frame_indices)
        missing = [index + 1 for index in frame_indices if index + 1 not in self.by_frame]
        if n_shifts not in (n_frames, n_used) or missing:
            lack = f"; frame {missing[0]} has none" if missing else ""
            raise FileError(
                f"{self.source} has shifts of {n_shifts} frames, but {n_used} of the movie's {n_frames} frames are used"
                f"{lack}. Every used frame needs one shift: take the frame range of the motion correction."
            )
        return [self.by_frame[index + 1] for index in frame_indices]
