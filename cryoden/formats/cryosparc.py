"""CryoSPARC's .cs files: exposures in, with their pixel sizes and gain reference; halves and denoised micrographs out.

A .cs file is a table with one row for each exposure, `uid`, and columns called SLOT/FIELD. Files are read and written
by cryosparc-tools, CryoSPARC's own library, which needs no server for it; the slots used here are those of its models
(cryosparc/models/exposure.py, version 5.0.3). It defines neither what is in the files of `rigid_motion` and
`spline_motion`, nor how a gain reference is flipped and rotated: what depends on these is refused.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import pandas as pd

from cryoden.errors import FileError, Remedy
from cryoden.formats import outputs
from cryoden.formats.file_errors import PathLike, reading_errors, require_file
from cryoden.formats.files import whole_file
from cryoden.formats.images import open_stack
from cryoden.formats.star import (
    HALF_NAME,
    MOVIE_NAME,
    NAME,
    OPTICS_GROUP,
    ORIGINAL_PIXEL_SIZE,
    PIXEL_SIZE,
    VOLTAGE,
    ImageTable,
)
from cryoden.system.packages import needing_cryosparc_tools

if TYPE_CHECKING:
    from cryosparc.dataset import Dataset

ENDING = ".cs"

UID = "uid"
MOVIE, GAIN, MICROGRAPH, UNWEIGHTED = "movie_blob", "gain_ref_blob", "micrograph_blob", "micrograph_blob_non_dw"
MOTIONS = ("rigid_motion", "spline_motion")
UNKNOWN_HALVES = "micrograph_blob_non_dw_AB"
"""CryoSPARC's own halves; nothing public says how they are stored."""

HALF_SLOTS = {outputs.ODD: f"{MICROGRAPH}_{outputs.ODD}", outputs.EVEN: f"{MICROGRAPH}_{outputs.EVEN}"}
"""Slots of ours, like CryoSPARC's micrographs, in the .cs file of a folder of halves."""

SLOT_FIELDS = (
    ("path", "O"), ("idx", "<u4"), ("shape", "<u4", (2,)), ("psize_A", "<f4"), ("format", "O"),
    ("is_background_subtracted", "<u4"),
)  # fmt: skip
"""Of a slot with micrographs."""

MRC_FORMATS = {np.dtype(np.float32): "MRC/2", np.dtype(np.float16): "MRC/12"}
"""How cryosparc-tools calls MRC files, by their mode."""

COMPRESSED = b"\x95CSDAT"
"""How compressed .cs files begin."""

TRIAL = (
    "import sys; from cryosparc.dataset import Dataset; "
    "[column.tolist() for column in Dataset.load(sys.argv[1]).cols().values()]"
)
"""Reads every value of a .cs file, in a process of its own."""

CSV_COLUMNS = (UID, "path", "exposure")

OPTICS = (("mscope_params/accel_kv", VOLTAGE), ("mscope_params/cs_mm", "rlnSphericalAberration"))
"""Fields of a microscope, and RELION's labels."""


def is_exposures(path: PathLike) -> bool:
    """Return whether a file's name is that of a .cs file."""
    return str(path).lower().endswith(ENDING)


def read_exposures(path: PathLike, are_movies: bool = False) -> ImageTable:
    """Return the micrographs or movies of a .cs file as a table; the uid of each is its name among halves.

    Of micrographs, those of the slot `micrograph_blob` are taken, else `micrograph_blob_non_dw`.

    Raises
    ------
    CryodenError
        If cryosparc-tools is not installed, the file cannot be read, or it lists none.
    """
    dataset = _load(path)
    slots = [MOVIE] if are_movies else [MICROGRAPH, UNWEIGHTED]
    slot = next((slot for slot in slots if _has(dataset, f"{slot}/path")), None)
    if slot is None:
        what, other = ("movies", MICROGRAPH) if are_movies else ("micrographs", MOVIE)
        instead = " It lists movies; they are split into halves." if other == MOVIE and _has(dataset, MOVIE) else ""
        raise FileError(
            f"{path} lists no {what}: it has no {slots[0]}/path.{instead} Give the exposures of another job, or the "
            "file with 'passthrough' in its name beside it.",
            subject=str(path),
        )

    paths = _located(path, _texts(dataset, f"{slot}/path"))
    uids = [str(uid) for uid in dataset[UID]]
    names = [file or f"exposure {uid} without {slot}/path" for uid, file in zip(uids, paths)]
    label = MOVIE_NAME if are_movies else NAME

    rates = [float(rate) for rate in _column(dataset, f"{slot}/psize_A", 0.0)]
    kinds = list(zip(rates, *(_column(dataset, field, None) for field, _ in OPTICS)))
    groups = {kind: str(number) for number, kind in enumerate(dict.fromkeys(kinds), 1)}
    images = pd.DataFrame({label: names, OPTICS_GROUP: [groups[kind] for kind in kinds], HALF_NAME: uids})
    return ImageTable(_optics(groups), images, label, str(path))


def movie_gain(path: PathLike) -> Optional[str]:
    """Return the gain reference of the movies of a .cs file; None where they have none, or were multiplied by it.

    Raises
    ------
    CryodenError
        If there are several, or the file is to be flipped or rotated: which way is not published.
    """
    dataset = _load(path)
    if not _has(dataset, f"{GAIN}/path") or all(_column(dataset, f"{MOVIE}/is_gain_corrected", 0)):
        return None
    gains = sorted(set(filter(None, _texts(dataset, f"{GAIN}/path"))))
    if len(gains) > 1:
        raise FileError(
            f"{path} has {len(gains)} gain references, {gains[0]} and {gains[1]} among them; movies are split with "
            "one. Split the exposures into groups of one reference each.",
            subject=str(path),
        )
    turned = [f for f in ("flip_x", "flip_y", "rotate_num") if any(_column(dataset, f"{GAIN}/{f}", 0))]
    if gains and turned:
        raise FileError(
            f"The gain reference of {path} is to be turned ({', '.join(turned)}), and CryoSPARC does not publish which "
            "way round.",
            subject=str(path),
            remedy=Remedy("set", "gain"),
        )
    return _located(path, gains)[0] if gains else None


def require_no_motion(path: PathLike) -> None:
    """Refuse movies whose motion was estimated by CryoSPARC, in files that only it can read.

    Raises
    ------
    FileError
        If a row has such a file.
    """
    found = _motions(_load(path))
    if found:
        raise FileError(
            f"{path} has the motion of its movies ({' and '.join(found)}) in files whose content CryoSPARC does not "
            "publish; without it, the sums would be blurred. Give the imported movies (imported_movies.cs) if they are "
            "to be summed as they are, or the shifts of another motion correction.",
            subject=str(path),
            remedy=Remedy("set", "shifts"),
        )


def read_halves(path: PathLike, half: Optional[str]) -> Dict[str, str]:
    """Return uid -> file of one half (`odd`, `even`), or of the micrographs (None), of a .cs file.

    Raises
    ------
    CryodenError
        If the file cannot be read or has no such files; CryoSPARC's own halves are refused by name.
    """
    if half is None:
        table = read_exposures(path)
        return dict(zip(table.images[HALF_NAME], table.paths))

    dataset = _load(path)
    field = f"{HALF_SLOTS[half]}/path"
    if not _has(dataset, field):
        own = any(name.startswith(UNKNOWN_HALVES) for name in dataset.fields())
        why = f" Its halves {UNKNOWN_HALVES} are stored in a way that CryoSPARC does not publish." if own else ""
        raise FileError(
            f"{path} lists no halves that can be read.{why} Split its movies, and give {outputs.EXPOSURES_CS} of that "
            "folder.",
            subject=str(path),
        )
    files = _located(path, _texts(dataset, field))
    return {str(uid): file for uid, file in zip(dataset[UID], files) if file}


def write_exposures(path: PathLike, source: PathLike, rows: Sequence[int], files: Mapping[str, Sequence[str]]) -> None:
    """Write the rows of a .cs file with other micrographs; all other columns are kept.

    Parameters
    ----------
    path
        The new file.
    source
        The file that listed the exposures.
    rows
        Of it, in the order of `files`.
    files
        Slot -> micrographs, one for each row.

    Raises
    ------
    CryodenError
        If a micrograph cannot be opened, or the file cannot be written.
    """
    dataset = _load(source).take(list(rows))
    project = _project_of(source, _all_paths(dataset))
    for slot, paths in files.items():
        _fill_slot(dataset, slot, [_as_seen_from(project, file) for file in paths], [open_stack(f) for f in paths])
    with whole_file(path) as temporary:
        dataset.save(str(temporary))


def write_csv(path: PathLike, source: PathLike, rows: Sequence[int], files: Sequence[str]) -> None:
    """Write uid, file and original file of micrographs that were made from those of a .cs file, as text.

    Raises
    ------
    CryodenError
        As `write_exposures`.
    """
    table = read_exposures(source)
    with whole_file(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)
        for row, made in zip(rows, files):
            writer.writerow([table.images[HALF_NAME].iloc[row], os.path.abspath(made), table.paths[row]])


# ---------------------------------------------------------------------- datasets
def _load(path: PathLike) -> Dataset[Any]:
    """Return the content of a .cs file; nothing in it is unpickled."""
    require_file(path)
    with needing_cryosparc_tools():
        from cryosparc.dataset import Dataset
    _require_survived(path)
    try:
        dataset = Dataset.load(str(path))
    except Exception as error:  # the library raises what its decoders raise
        reason = " ".join(str(error.__cause__ or error).split())
        raise FileError(f"{path} is no .cs file that can be read ({reason}).", subject=str(path)) from error
    if not len(dataset):
        raise FileError(f"{path} lists no exposures: its table is empty. Give another file.", subject=str(path))
    return dataset


def _require_survived(path: PathLike) -> None:
    """Refuse a compressed .cs file that ends the process which reads it: the library's decoder trusts its numbers."""
    with reading_errors(path), open(str(path), "rb") as file:
        is_compressed = file.read(len(COMPRESSED)) == COMPRESSED
    if not is_compressed:
        return
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    tried = subprocess.run([sys.executable, "-c", TRIAL, str(path)], env=environment, stderr=subprocess.DEVNULL)
    if tried.returncode < 0:  # a signal; whatever else is wrong is said when the file is read here
        raise FileError(f"{path} is no .cs file that can be read: it is damaged. Export it again.", subject=str(path))


def _has(dataset: Dataset[Any], name: str) -> bool:
    """Return whether there is a column of this name, or a slot."""
    return any(field == name or field.startswith(f"{name}/") for field in dataset.fields())


def _column(dataset: Dataset[Any], name: str, default: Any) -> List[Any]:
    """Return a column as a list, of a default where there is none."""
    return np.asarray(dataset[name]).tolist() if _has(dataset, name) else [default] * len(dataset)


def _texts(dataset: Dataset[Any], name: str) -> List[str]:
    """Return a column of text; CryoSPARC marks paths inside of a project with `>` in some files."""
    return [str(text).lstrip(">") for text in dataset[name]]


def _all_paths(dataset: Dataset[Any]) -> List[str]:
    fields = [f"{slot}/path" for slot in (MICROGRAPH, UNWEIGHTED, MOVIE)]
    return [text for field in fields if _has(dataset, field) for text in _texts(dataset, field) if text]


def _motions(dataset: Dataset[Any]) -> List[str]:
    """Return the slots that name files of motion."""
    return [slot for slot in MOTIONS if _has(dataset, f"{slot}/path") and any(_texts(dataset, f"{slot}/path"))]


def _fill_slot(dataset: Dataset[Any], slot: str, paths: List[str], stacks: Sequence[Any]) -> None:
    """Give a slot the micrographs that are named; that their background was subtracted stays true."""
    new = [(f"{slot}/{field[0]}", *field[1:]) for field in SLOT_FIELDS if not _has(dataset, f"{slot}/{field[0]}")]
    if new:
        dataset.add_fields(new)
    dataset[f"{slot}/path"] = paths
    dataset[f"{slot}/idx"] = 0
    dataset[f"{slot}/shape"] = np.array([stack.shape for stack in stacks])
    dataset[f"{slot}/psize_A"] = [stack.sampling_rate for stack in stacks]
    dataset[f"{slot}/format"] = [MRC_FORMATS.get(np.dtype(stack.dtype.type), "MRC/2") for stack in stacks]


# ---------------------------------------------------------------------- paths
def _project_of(source: PathLike, names: Sequence[str]) -> str:
    """Return the project's folder: the nearest one above a .cs file in which one of its files is found.

    Empty where there is none.
    """
    relative = [name for name in names if name and not os.path.isabs(name)]
    folders = [str(folder) for folder in Path(os.path.abspath(source)).parents]
    return next((f for f in folders if any(os.path.exists(os.path.join(f, name)) for name in relative)), "")


def _located(source: PathLike, names: Sequence[str]) -> List[str]:
    """Return where the files are that a .cs file names; empty names stay so."""
    project = _project_of(source, names)
    return [os.path.join(project, name) if name else "" for name in names]


def _as_seen_from(project: str, path: str) -> str:
    """Return how a .cs file names a file: relative to the project if below it, else in full."""
    whole = os.path.abspath(path)
    relative = os.path.relpath(whole, project) if project else os.pardir
    return whole if relative.split(os.sep)[0] == os.pardir else relative


def _optics(groups: Mapping[Tuple[Any, ...], str]) -> pd.DataFrame:
    """Return RELION's table of optics groups; values that the file does not say are no columns."""
    optics = pd.DataFrame({OPTICS_GROUP: list(groups.values())})
    optics.insert(0, "rlnOpticsGroupName", [f"opticsGroup{number}" for number in groups.values()])
    for place, (_, label) in enumerate(OPTICS, 1):
        values = [kind[place] for kind in groups]
        if all(value is not None for value in values):
            optics[label] = values
    rates = [kind[0] for kind in groups]
    if all(rates):
        optics[ORIGINAL_PIXEL_SIZE] = optics[PIXEL_SIZE] = rates
    return optics
