"""What a run is given: movies, halves or micrographs, found by looking at them."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, List, Optional, Sequence, Tuple

from cryoden.data.pairs import list_halves
from cryoden.errors import CryodenError, FileError
from cryoden.formats import outputs
from cryoden.formats.files import list_folder, real_path
from cryoden.formats.images import EER_ENDING, ENDINGS, image_ending, open_stack
from cryoden.formats.star import MOVIE_NAME, NAME, ImageTable, read_table

MOVIES, HALVES, MICROGRAPHS = "movies", "halves", "micrographs"
"""What inputs can be."""

JOB_STAR = "corrected_micrographs.star"
"""In the folder of a motion-correction job of RELION."""

METADATA = "rlnMicrographMetadata"
"""Column with what a motion correction of RELION wrote about each movie."""

HALF_COLUMNS = ("rlnMicrographNameOdd", "rlnMicrographNameEven")


@dataclass(frozen=True)
class Found:
    """What the inputs are.

    Attributes
    ----------
    kind
        `movies`, `halves` or `micrographs`.
    sources
        What is split (movies or a STAR file) or denoised (micrographs, folders or a STAR file).
    odd, even
        Of halves: folders or STAR files.
    """

    kind: str
    sources: Tuple[str, ...]
    odd: str = ""
    even: str = ""


def find_inputs(inputs: Sequence[str], references: Iterable[Optional[str]] = (), is_watched: bool = False) -> Found:
    """Look at the inputs.

    Parameters
    ----------
    inputs
        Files, folders, patterns, or one STAR file or job folder.
    references
        Files that may lie among them and are none.
    is_watched
        Whether there may be nothing yet.

    Raises
    ------
    FileError
        If there is nothing, or a STAR file or folder cannot be read.
    """
    if len(inputs) == 1:
        (source,) = inputs
        if os.path.isfile(os.path.join(source, JOB_STAR)):
            source = os.path.join(source, JOB_STAR)
        if source.endswith(".star"):
            return _of_star(source)
        halves = _folder_of_halves(source)
        if halves is not None:
            return halves

    files = listed_files(inputs, references)
    if not files and not is_watched:
        raise FileError(
            f"There is no image {' '.join(inputs)}; cryoden reads {', '.join((*ENDINGS, EER_ENDING))}.",
            subject=inputs[0],
        )
    kind = MOVIES if not files or _is_movie(files) else MICROGRAPHS
    return Found(kind, tuple(files))


def listed_files(inputs: Sequence[str], references: Iterable[Optional[str]] = ()) -> List[str]:
    """Return the files that are named, those in folders that are named, and those that fit a pattern."""
    excluded = {real_path(path) for path in references if path}
    files: List[str] = []
    for source in inputs:
        if os.path.isdir(source):
            found = [str(path) for path in list_folder(source) if image_ending(path) in (*ENDINGS, EER_ENDING)]
        elif glob.has_magic(source) and not os.path.exists(source):
            found = sorted(glob.glob(source, recursive=True))
        else:
            found = [source]
        files += [path for path in found if real_path(path) not in excluded]
    return list(dict.fromkeys(files))


def _of_star(path: str) -> Found:
    table = read_table(path)
    if all(column in table.images for column in HALF_COLUMNS):
        return Found(HALVES, (path,), path, path)
    return Found(MOVIES if _lists_movies(table) else MICROGRAPHS, (path,))


def _lists_movies(table: ImageTable) -> bool:
    """Return whether movies are listed, or micrographs whose motion correction says where their movies are."""
    return METADATA in table.images or (NAME not in table.images and MOVIE_NAME in table.images)


def _folder_of_halves(source: str) -> Optional[Found]:
    """Return the halves in a folder, in folders of their own or side by side; None where there are none."""
    odd, even = (os.path.join(source, kind) for kind in (outputs.ODD, outputs.EVEN))
    if os.path.isdir(odd) and os.path.isdir(even):
        listed = [os.path.join(source, name) for name in (outputs.MICROGRAPHS_STAR, outputs.FULL)]
        micrographs = next((path for path in listed if os.path.exists(path)), odd)
        return Found(HALVES, (micrographs,), odd, even)
    if os.path.isdir(source):
        try:
            marked = [list_halves(source, kind) for kind in (outputs.ODD, outputs.EVEN)]
        except CryodenError:
            return None
        if marked[0] and set(marked[0]) == set(marked[1]) and marked[0] != marked[1]:
            return Found(HALVES, tuple(marked[0].values()), source, source)
    return None


def _is_movie(files: Sequence[str]) -> bool:
    """Return whether the first file that can be opened is a movie; what cannot be is named by the step that fails."""
    for path in files:
        if Path(path).suffix.lower() == EER_ENDING:
            return True
        try:
            return open_stack(path).n_frames > 1
        except CryodenError:
            continue
    return True
