"""What a run is given: movies, halves or micrographs, found by looking at them."""

from __future__ import annotations

import glob
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, List, Optional, Sequence, Tuple

from cryoden.data.half_sources import full_sum_of, list_halves, split_halves_of
from cryoden.errors import CryodenError, FileError
from cryoden.formats import outputs
from cryoden.formats.cryosparc import is_exposures, read_exposures, read_halves, require_no_motion
from cryoden.formats.files import list_folder, real_path
from cryoden.formats.images import EER_ENDING, ENDINGS, image_ending, open_stack
from cryoden.formats.star import EVEN_NAME, METADATA, MOVIE_NAME, NAME, ODD_NAME, ImageTable, read_table

MOVIES, HALVES, MICROGRAPHS = "movies", "halves", "micrographs"
"""What inputs can be."""

STAR_ENDING = ".star"

JOB_STAR = "corrected_micrographs.star"
"""In the folder of a motion-correction job of RELION."""


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
        Of halves: folders or STAR files, which may hold both.
    has_motion
        Of movies: whether they are those of a finished motion correction.
    has_sums
        Of halves: whether the sources are their sums. Otherwise they are the odd ones.
    """

    kind: str
    sources: Tuple[str, ...]
    odd: str = ""
    even: str = ""
    has_sums: bool = True
    has_motion: bool = False


def find_inputs(inputs: Sequence[str], references: Iterable[Optional[str]] = (), is_watched: bool = False) -> Found:
    """Look at the inputs.

    Parameters
    ----------
    inputs
        Files, folders, patterns, or one STAR file, .cs file or job folder.
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
        if source.endswith(STAR_ENDING):
            return _of_star(source)
        if is_exposures(source):
            return _of_exposures(source)
        halves = _folder_of_halves(source)
        if halves is not None:
            return halves

    files = listed_files(inputs, references)
    if not files and not is_watched:
        raise no_image(inputs)
    kind = MOVIES if not files or _is_movie(files) else MICROGRAPHS
    return Found(kind, tuple(files))


def is_list(source: str) -> bool:
    """Return whether an input is one file that lists the others."""
    return source.endswith(STAR_ENDING) or is_exposures(source)


def no_image(inputs: Sequence[str]) -> FileError:
    """Return that nothing was found where inputs should be."""
    return FileError(
        f"There is no image {' '.join(inputs)}; cryoden reads {', '.join((*ENDINGS, EER_ENDING))}.", subject=inputs[0]
    )


def listed_files(
    inputs: Sequence[str], references: Iterable[Optional[str]] = (), endings: Sequence[str] = (*ENDINGS, EER_ENDING)
) -> List[str]:
    """Return the files that are named, those with some endings in folders that are named, and those that fit a pattern.

    Parameters
    ----------
    inputs, references
        As for `find_inputs`.
    endings
        Of the files that are wanted of a folder, in lower case.
    """
    excluded = {real_path(path) for path in references if path}
    files: List[str] = []
    for source in inputs:
        if os.path.isdir(source):
            found = [str(path) for path in list_folder(source) if image_ending(path) in endings]
        elif glob.has_magic(source) and not os.path.exists(source):
            found = sorted(glob.glob(source, recursive=True))
        else:
            found = [source]
        files += [path for path in found if real_path(path) not in excluded]
    return list(dict.fromkeys(files))


def _of_star(path: str) -> Found:
    table = read_table(path)
    split = split_halves_of(path)
    if split is not None:
        return Found(HALVES, (path,), *split)
    if ODD_NAME in table.images and EVEN_NAME in table.images:
        return Found(HALVES, (path,), path, path)
    return Found(MOVIES if _lists_movies(table) else MICROGRAPHS, (path,), has_motion=METADATA in table.images)


def _of_exposures(path: str) -> Found:
    """Return what the exposures of a .cs file of CryoSPARC are; raises CryodenError if they are none of the three."""
    with suppress(CryodenError):
        if read_halves(path, outputs.ODD):
            return Found(HALVES, (path,), path, path)
    with suppress(CryodenError):
        read_exposures(path, are_movies=True)
        require_no_motion(path)  # else the micrographs that came of it are taken
        return Found(MOVIES, (path,))
    read_exposures(path)
    return Found(MICROGRAPHS, (path,))


def _lists_movies(table: ImageTable) -> bool:
    """Return whether movies are listed, or micrographs whose motion correction says where their movies are."""
    return METADATA in table.images or (NAME not in table.images and MOVIE_NAME in table.images)


def _folder_of_halves(source: str) -> Optional[Found]:
    """Return the halves in a folder, whoever left them there; None where there are none."""
    if not os.path.isdir(source):
        return None
    try:
        odd, even = (list_halves(source, half) for half in (outputs.ODD, outputs.EVEN))
    except CryodenError:
        return None
    names = sorted(set(odd) & set(even))
    if not names or any(odd[name] == even[name] for name in names):  # plain images, or movies
        return None

    star = os.path.join(source, outputs.MICROGRAPHS_STAR)
    if os.path.isfile(star):
        return Found(HALVES, (star,), source, source)
    sums = [path for path in (full_sum_of(odd[name]) for name in names) if path is not None]
    if len(sums) == len(names):
        return Found(HALVES, tuple(sums), source, source)
    return Found(HALVES, tuple(odd[name] for name in names), source, source, has_sums=False)


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
