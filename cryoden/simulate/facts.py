"""What is known of each simulated movie, and kept beside its true image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from cryoden.formats import outputs
from cryoden.formats.files import PathLike, read_json, write_json


@dataclass(frozen=True)
class Facts:
    """What is known of one simulated movie.

    Attributes
    ----------
    defocus
        Underfocus in A.
    shifts
        Rows and columns `(frames, 2)` in pixels by which the specimen has moved since the first frame.
    coordinates
        Columns and rows of the particles in the first frame.
    counts_per_pixel
        Mean counts in a frame.
    contrast
        Deviation of the particles' part of the image, relative to the mean.
    snr
        Variance of the particles' part of the summed image over that of its counting noise, per pixel.
    diameter_px
        Of the smallest circle around a particle's centre that always holds it.
    local_motion
        The field of `cryoden.simulate.local_motion`; None where the specimen moves as a whole.
    """

    defocus: float
    shifts: List[List[float]]
    coordinates: List[List[float]]
    counts_per_pixel: float
    contrast: float
    snr: float
    diameter_px: float
    local_motion: Optional[Dict[str, Any]] = None

    @classmethod
    def read(cls, path: PathLike) -> Facts:
        """Read what `write` wrote.

        Raises
        ------
        FileError
            If the file is missing or damaged.
        """
        return cls(**read_json(path))

    def write(self, path: PathLike) -> None:
        """Write them as JSON."""
        write_json(path, asdict(self))


def facts_path(output: PathLike, name: str) -> Path:
    """Return where the facts of a movie are, in the output folder of a simulation."""
    return Path(output) / outputs.TRUTH / f"{name}.json"


def read_facts(output: PathLike) -> Dict[str, Facts]:
    """Return name of the movie -> facts, of all that a simulation has finished so far.

    Raises
    ------
    FileError
        If a file is damaged.
    """
    paths = sorted((Path(output) / outputs.TRUTH).glob("*.json"))
    return {path.stem: Facts.read(path) for path in paths}
