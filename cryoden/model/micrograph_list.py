"""Which micrographs are to be denoised: found, with their halves and their places in the output folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from cryoden.config import DenoiseConfig
from cryoden.data.half_sources import half_name, list_halves
from cryoden.errors import CryodenError, FileError, PairError, Problem
from cryoden.formats import outputs
from cryoden.formats.cryosparc import is_exposures
from cryoden.formats.files import list_folder, mrc_name
from cryoden.formats.general_model import model_path
from cryoden.formats.images import ENDINGS
from cryoden.formats.relion_names import micrograph_in_job
from cryoden.formats.run_record import require_distinct, require_no_input
from cryoden.formats.star import HALF_NAME, METADATA, ImageTable, listed_table
from cryoden.formats.thumbnails import thumbnail_path
from cryoden.model.pipeline import Job

LISTS = (outputs.MICROGRAPHS_STAR, outputs.EXPOSURES_CS, outputs.EXPOSURES_CSV)
"""Files in the output folder that list its micrographs; the latter two only of exposures of CryoSPARC."""


@dataclass(frozen=True)
class MicrographList:
    """What a command is asked to denoise.

    Attributes
    ----------
    table
        The STAR file that lists the micrographs, if there is one.
    jobs
        One for each micrograph that can be tried.
    failures
        Micrographs that cannot, and why.
    """

    table: Optional[ImageTable]
    jobs: List[Job]
    failures: Dict[str, Problem]

    @property
    def are_exposures(self) -> bool:
        """Whether a .cs file of CryoSPARC lists them."""
        return self.table is not None and is_exposures(self.table.source)

    @property
    def n_inputs(self) -> int:
        """Micrographs that were named."""
        return len(self.jobs) + len(self.failures)


def list_micrographs(config: DenoiseConfig) -> MicrographList:
    """Find the micrographs that the options name.

    Raises
    ------
    CryodenError
        If a source cannot be read, two results would have one name, or an input would be overwritten.
    """
    table = listed_table(config.micrographs)
    paths = table.paths if table else [path for source in config.micrographs for path in _files_of(source)]
    names = _relion_names(table, paths) if config.folders == "relion" else _names(paths, config.folders == "kept")
    require_distinct(zip(paths, names))

    odd = list_halves(config.odd, "odd") if config.odd else {}
    even = list_halves(config.even, "even") if config.even else {}
    jobs: List[Job] = []
    failures: Dict[str, Problem] = {}
    for row, (path, name) in enumerate(zip(paths, names)):
        try:
            listed = str(table.images[HALF_NAME].iloc[row]) if table and HALF_NAME in table.images else None
            halves = _halves_of(path, listed, odd, even, config) if config.odd and config.even else None
            rate = config.sampling_rate or (table.sampling_rate(row) if table else None)
        except CryodenError as error:
            failures[path] = error.problem
            continue
        output = Path(config.output) / name
        thumbnail = None if config.thumbnails == "none" else thumbnail_path(output, config.thumbnails)
        jobs.append(Job(row, path, halves, name, output, rate, thumbnail))

    lists = [Path(config.output) / name for name in LISTS]
    sources = [model_path(config.model), *config.micrographs, *filter(None, (config.odd, config.even))]
    require_no_input(
        [*lists, *(job.output for job in jobs)], [*sources, *(path for job in jobs for path in job.inputs)]
    )
    return MicrographList(table, jobs, failures)


def _halves_of(
    path: str, listed: Optional[str], odd: Dict[str, str], even: Dict[str, str], config: DenoiseConfig
) -> Tuple[str, str]:
    """Return the files of a micrograph's halves: by the name that its list has for it, else by that of its file.

    It is found also where it is marked as a half itself.

    Raises
    ------
    PairError
        If one is missing.
    """
    stem = listed if listed in odd or listed in even else Path(path).stem
    name = stem if stem in odd or stem in even else half_name(stem)
    if name not in odd or name not in even:
        where = config.odd if name not in odd else config.even
        message = f"'{stem}' has no half in {where}; split its movie again, or denoise without halves."
        raise PairError(message, subject=path)
    return odd[name], even[name]


def _names(paths: Sequence[str], is_kept: bool) -> List[str]:
    """Return where in the output folder each micrograph's result goes: in which sub-folder, and its name."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    if not is_kept or len(set(folders)) < 2:
        return [mrc_name(path) for path in paths]
    common = os.path.commonpath(folders)
    return [os.path.normpath(os.path.join(os.path.relpath(f, common), mrc_name(p))) for f, p in zip(folders, paths)]


def _relion_names(table: Optional[ImageTable], paths: Sequence[str]) -> List[str]:
    """Return the same as RELION's jobs do it."""
    has_metadata = table is not None and METADATA in table.images
    metadata = [str(name) for name in table.images[METADATA]] if table and has_metadata else [None] * len(paths)
    return [f"{micrograph_in_job(path, about)}.mrc" for path, about in zip(paths, metadata)]


def _files_of(source: str) -> List[str]:
    """Return the micrographs of a folder, or the one file that is named."""
    if not os.path.isdir(source):
        return [source]
    files = [str(file) for file in list_folder(source) if file.suffix.lower() in ENDINGS]
    if not files:
        raise FileError(f"Folder {source} holds no micrograph ({', '.join(ENDINGS)}); check the path.", subject=source)
    return files
