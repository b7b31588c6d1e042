"""What is known of the files that were fetched of an entry, kept beside them for those who import them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Tuple

from cryoden.fetch.empiar import ImageSet, Microscope
from cryoden.formats import outputs
from cryoden.formats.files import PathLike, read_json, write_json


@dataclass(frozen=True)
class EntryRecord:
    """Content of `entry.json`.

    Attributes
    ----------
    number, title
        Of the entry.
    imageset
        From which the movies are.
    microscope
        How they were taken.
    movies, gains
        Files that are whole, relative to the entry's folder.
    """

    number: str
    title: str
    imageset: ImageSet
    microscope: Microscope
    movies: Tuple[str, ...]
    gains: Tuple[str, ...]

    @classmethod
    def read(cls, path: PathLike) -> EntryRecord:
        """Read what `write` wrote.

        Raises
        ------
        FileError
            If the file is missing or damaged.
        """
        content = read_json(path)
        size = content["imageset"]["size_px"]
        imageset = ImageSet(**{**content["imageset"], "size_px": tuple(size) if size else None})
        return cls(
            content["number"],
            content["title"],
            imageset,
            Microscope(**content["microscope"]),
            tuple(content["movies"]),
            tuple(content["gains"]),
        )

    def write(self, folder: PathLike) -> None:
        """Write it into the entry's folder."""
        write_json(Path(folder) / outputs.ENTRY_RECORD, asdict(self))
