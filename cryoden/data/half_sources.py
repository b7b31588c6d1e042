"""Where programs leave odd and even micrographs: the files of one half, by the name of their micrograph.

| written by | layout |
|---|---|
| cryoden, xmipp | two folders, the same file names; a folder that holds both |
| MotionCor2 and 3, RELION 5 | `NAME_ODD.mrc` and `NAME_EVN.mrc` beside full, weighted and other sums |
| RELION 5, tomography | a STAR file with rlnMicrographNameOdd and rlnMicrographNameEven |
| cryoden, of exposures of CryoSPARC | `exposures.cs`, matched by uid |
| WarpTools | `average/NAME.mrc`, `average/odd/NAME.mrc`, `average/even/NAME.mrc` |

Which half a producer calls odd differs (RELION's even one begins with the first frame, MotionCor's odd one does), and
does not matter: halves trade places at random in training.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Set, Tuple

from cryoden.errors import FileError, PairError
from cryoden.formats import outputs
from cryoden.formats.cryosparc import is_exposures, read_halves
from cryoden.formats.files import list_folder
from cryoden.formats.images import ENDINGS
from cryoden.formats.star import EVEN_NAME, HALF_NAME, ODD_NAME, ImageTable, read_table

_HALF_MARK = re.compile(r"(?P<weights>_DWS?)?[_-](?P<half>odd|evn|even)(?P<weights_last>_DWS?)?$", re.IGNORECASE)
"""How programs mark halves in file names: MotionCor's _ODD and _EVN, _odd and _even; dose-weighted ones with _DW."""

_FULL_MARK = re.compile(r"_(no)?DWS?$", re.IGNORECASE)
"""How full sums of one movie are told apart: dose-weighted or not."""

_MARKS = {outputs.ODD: ("_ODD", "_odd", "-odd"), outputs.EVEN: ("_EVN", "_even", "_evn", "-even", "_EVEN")}
"""What is looked for beside a full sum, half by half."""

_HALF_FOLDERS = {outputs.ODD: (outputs.ODD,), outputs.EVEN: (outputs.EVEN, "evn")}
"""Folders of the halves inside a folder that holds both."""

_AVERAGE = "average"
"""WarpTools' folder of sums, inside the folder of a processing."""

_COLUMNS = {outputs.ODD: ODD_NAME, outputs.EVEN: EVEN_NAME}


def list_halves(source: str, half: Optional[str] = None) -> Dict[str, str]:
    """Return micrograph name -> file of a folder, or of a STAR file of micrographs.

    Parameters
    ----------
    source
        Folder, STAR file, or .cs file of halves (names are uids then).
    half
        `odd` or `even`: of a source that holds both halves, and perhaps full sums too, only the files of this one
        count. Of halves that are there with and without dose weights, those without are taken.

    Raises
    ------
    FileError
        If the source does not exist.
    PairError
        If two files have one name.
    """
    if is_exposures(source):
        return read_halves(source, half)
    names: Optional[List[str]] = None
    if os.path.isdir(source):
        files = _files_of_folder(source, half)
    elif Path(source).suffix == ".star":
        table = read_table(source)
        files = _files_of_table(table, half)
        names = _names_of_table(table, half)
    else:
        raise FileError(
            f"{source} is neither a folder nor a STAR file; micrographs are given as one of these.", subject=source
        )

    named: Dict[str, str] = {}
    for marked, file in zip(names or [Path(file).stem for file in files], files):
        name = half_name(marked)
        if name in named:
            both = f"{named[name]} and {file} are both the micrograph '{name}'; names must be unique."
            raise PairError(both, subject=file)
        named[name] = file
    return named if half is None else _without_weighted_twins(named)


def half_name(marked: str) -> str:
    """Return the name of a micrograph without the mark of a half: `mic_1` of `mic_1_ODD`.

    Dose weights stay part of it: `mic_1_DW` of `mic_1_DW_ODD` and of `mic_1_ODD_DW`.
    """
    return _HALF_MARK.sub(lambda mark: mark["weights"] or mark["weights_last"] or "", marked)


def half_mark(file: str) -> Optional[str]:
    """Return `odd` or `even` where a file's name says so."""
    match = _HALF_MARK.search(Path(file).stem)
    return None if match is None else outputs.ODD if match["half"].lower() == "odd" else outputs.EVEN


@dataclass(frozen=True)
class Trio:
    """The files of one micrograph.

    Attributes
    ----------
    name
        Of the micrograph.
    odd, even
        Its halves; empty where one is missing.
    full
        Its full sum, None where none is found.
    """

    name: str
    odd: str
    even: str
    full: Optional[str]


def list_trios(odd: str, even: str) -> List[Trio]:
    """Return every micrograph of which two sources hold a half, sorted by name, with its full sum if that is found.

    Parameters
    ----------
    odd, even
        Folders or STAR files, or twice the same one.

    Raises
    ------
    CryodenError
        As `list_halves`.
    """
    halves = [list_halves(source, half) for source, half in ((odd, outputs.ODD), (even, outputs.EVEN))]
    listed = list_halves(odd) if Path(odd).suffix == ".star" or is_exposures(odd) else {}

    trios = []
    for name in sorted({*halves[0], *halves[1]}):
        files = [half.get(name, "") for half in halves]
        full = listed.get(name)
        if full is None or full in files or not os.path.isfile(full):  # a STAR file may list the halves themselves
            full = full_sum_of(files[0] or files[1])
        trios.append(Trio(name, files[0], files[1], full))
    return trios


def full_sum_of(half: str) -> Optional[str]:
    """Return the full sum that lies where programs write it beside a half, None where there is none."""
    path = Path(half)
    if half_mark(half) is not None:
        name = _HALF_MARK.sub("", path.stem)
        candidates = [path.with_name(name + path.suffix)]
    elif path.parent.name.lower() in (folder for folders in _HALF_FOLDERS.values() for folder in folders):
        folder = path.parent.parent
        candidates = [folder / outputs.FULL / path.name, folder / path.name]
    else:
        return None
    return next((str(candidate) for candidate in candidates if candidate.is_file()), None)


def split_halves_of(star: str) -> Optional[Tuple[str, str]]:
    """Return the lists of odd and even micrographs beside a STAR file of full sums that `cryoden halves` wrote."""
    folder = Path(star).parent
    lists = [str(folder / half / outputs.MICROGRAPHS_STAR) for half in (outputs.ODD, outputs.EVEN)]
    is_ours = Path(star).name == outputs.MICROGRAPHS_STAR and all(map(os.path.isfile, lists))
    return (lists[0], lists[1]) if is_ours else None


# ---------------------------------------------------------------------- folders
def _files_of_folder(source: str, half: Optional[str]) -> List[str]:
    """Return the images of a folder that are, or can be, of one half."""
    files = _images_in(source)
    if half is None:
        return files
    if _lie_side_by_side(files):
        return [file for file in files if half_mark(file) == half]
    folder = _folder_of_half(source, half)
    return files if folder is None else _images_in(folder)


def _images_in(folder: str) -> List[str]:
    return [str(file) for file in list_folder(folder) if file.suffix.lower() in ENDINGS]


def _lie_side_by_side(files: Sequence[str]) -> bool:
    """Return whether several sums of one movie are in a list, not only movies whose own names end like a half's."""
    names = {half_name(Path(file).stem) for file in files}
    return len(names) < len(files) or set(outputs.SUMS[1:]) <= {half_mark(file) for file in files}


def _folder_of_half(source: str, half: str) -> Optional[str]:
    """Return the sub-folder of one half, if there is one for each of the two."""
    for place in (Path(source), Path(source) / _AVERAGE):
        folders = {file.name.lower(): file for file in list_folder(place) if file.is_dir()} if place.is_dir() else {}
        found = {kind: next((folders[n] for n in names if n in folders), None) for kind, names in _HALF_FOLDERS.items()}
        if all(found.values()):
            return str(found[half])
    return None


def _without_weighted_twins(named: Dict[str, str]) -> Dict[str, str]:
    """Leave out dose-weighted halves of which the unweighted one is there: frames count alike in it."""

    def is_twin(name: str, file: str) -> bool:
        return half_mark(file) is not None and _FULL_MARK.sub("", name) != name and _FULL_MARK.sub("", name) in named

    return {name: file for name, file in named.items() if not is_twin(name, file)}


# ---------------------------------------------------------------------- STAR files
def _files_of_table(table: ImageTable, half: Optional[str]) -> List[str]:
    """Return the files that a STAR file lists for one half, in the order of its rows."""
    if half is not None and _COLUMNS[half] in table.images:
        return table.located([str(file) for file in table.images[_COLUMNS[half]]])

    files = table.located(table.paths)
    if half is None or any(half_mark(file) for file in files):
        return files
    beside = {kind: _halves_beside(files, kind) for kind in _COLUMNS}
    is_of_full_sums = any(odd and even for odd, even in zip(*beside.values()))
    if not is_of_full_sums:
        return files

    # A row whose half is missing keeps the name that it would have: it is named when it cannot be opened.
    return [found or _marked(file, _MARKS[half][0]) for found, file in zip(beside[half], files)]


def _names_of_table(table: ImageTable, half: Optional[str]) -> Optional[List[str]]:
    """Return the micrographs' names where a STAR file knows better than the names of its files."""
    if HALF_NAME in table.images:
        return [str(name) for name in table.images[HALF_NAME]]
    return [Path(path).stem for path in table.paths] if half and _COLUMNS[half] in table.images else None


def _halves_beside(files: Sequence[str], half: str) -> List[Optional[str]]:
    """Return for each full sum the file of one half in its folder, None where there is none."""
    folders: Dict[Path, Set[Path]] = {}
    found = []
    for file in files:
        folder = Path(file).parent
        if folder not in folders:
            folders[folder] = set(list_folder(folder)) if folder.is_dir() else set()
        candidates = (_marked(file, mark) for mark in _MARKS[half])
        found.append(next((marked for marked in candidates if Path(marked) in folders[folder]), None))
    return found


def _marked(file: str, mark: str) -> str:
    """Return how one half of a full sum is called: `mic_ODD.mrc` of `mic.mrc`, `mic_DW.mrc` or `mic_noDW.mrc`."""
    path = Path(file)
    return str(path.with_name(f"{_FULL_MARK.sub('', path.stem)}{mark}{path.suffix}"))
