"""Coordinates that were picked on micrographs of one pixel size, for micrographs of another.

RELION keeps picks in pixels of the picked micrograph and knows no scale between two sets of micrographs. Fourier
cropping and padding keep the first pixel where it is: coordinates are multiplied by the ratio of the sides, and nothing
is added.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Tuple

import pandas as pd

from cryoden.config.relion import RelionCoordinatesConfig
from cryoden.errors import CryodenError, FileError, NothingDoneError, Problem, problem_of
from cryoden.formats import outputs
from cryoden.formats.files import list_folder, make_folder, whole_file
from cryoden.formats.images import open_micrograph
from cryoden.formats.outcome import Outcome
from cryoden.formats.output_folder import failures_of, fills_folder, require_own_folder
from cryoden.formats.relion_names import name_in_job
from cryoden.formats.run_record import Result, RunRecord, require_no_input
from cryoden.formats.star import NAME, read_table, star_path
from cryoden.formats.star_text import read_blocks, write_blocks

COORDINATES = ("rlnCoordinateX", "rlnCoordinateY")

COORDINATE_FILE = "rlnMicrographCoordinates"
"""Column of RELION 4 and 5: the file with the picks of a micrograph."""

SUFFIX_FILE = "coords_suffix"
"""How RELION 3.1 calls the file that stands for all picks of a job: it names the micrographs."""

SAME_AREA_TOLERANCE = 0.01
"""Relative difference of the two sides' ratios that rounding to whole pixels explains."""

OPTICS = "optics"


@dataclass(frozen=True)
class PickedMicrograph:
    """The picks of one micrograph.

    Attributes
    ----------
    picked
        The micrograph on which was picked.
    original
        The same one, as the coordinates are wanted for it.
    source
        STAR file with the picks.
    place
        Where they go, below the output folder.
    """

    picked: str
    original: str
    source: str
    place: str


@fills_folder("relion coordinates", failures_of)
def rescale_coordinates(config: RelionCoordinatesConfig) -> Outcome:
    """Write the picks of every micrograph in pixels of its original, and what RELION needs to find them.

    Raises
    ------
    CryodenError
        If nothing can be done: a STAR file cannot be read, or no micrograph has picks and an original.
    """
    output = Path(config.output)
    originals = _Originals(read_table(config.micrographs).paths)
    micrographs = read_table(config.picked).paths
    require_own_folder(output, outputs.COORDINATES_RECORD, [outputs.COORDINATES_STAR], ["coords_suffix_*.star"])
    particles = _particles(config.picks)
    if particles is not None:
        return _rescale_particles(config, particles, originals)

    sources = dict(_picks_of(config.picks, micrographs))
    picks: List[PickedMicrograph] = []
    failures: Dict[str, Problem] = {}
    for picked, source in sources.items():
        try:
            original = originals.of(picked)
        except CryodenError as error:
            failures[picked] = error.problem
            continue
        suffix = Path(source).stem[len(Path(picked).stem) :]
        picks.append(PickedMicrograph(picked, original, source, f"{name_in_job(original)}{suffix}.star"))
    if not sources:
        raise FileError(
            f"{config.picks} has no picks on the micrographs of {config.picked}; give the set on which was picked.",
            subject=config.picks,
        )

    results = {pick.place: Result(pick.place, (output / pick.place,), _inputs(pick)) for pick in picks}
    record = RunRecord(output / outputs.COORDINATES_RECORD, {})
    require_no_input([result.files[0] for result in results.values()], [pick.source for pick in picks])
    finished = record.finished(list(results.values()))
    record.begin()
    done: List[PickedMicrograph] = []
    for pick in picks:
        try:
            if pick.place not in finished:
                with record.making(results[pick.place]):
                    _rescale(pick, output / pick.place)
        except Exception as error:  # one bad micrograph never ends a list
            failures[pick.picked] = problem_of(error, pick.picked)
            continue
        done.append(pick)
    if not done:
        raise NothingDoneError("micrograph", "rescaled", len(sources), failures)
    _write_lists(config, done)
    return Outcome(len(sources), failures)


class _Originals:
    """The micrographs for which coordinates are wanted, found by name.

    Parameters
    ----------
    paths
        Of the micrographs.
    """

    def __init__(self, paths: List[str]) -> None:
        self._by_name = {name_in_job(path): path for path in paths}
        self._by_stem: Dict[str, Optional[str]] = {}
        for path in paths:
            stem = Path(path).stem
            self._by_stem[stem] = None if stem in self._by_stem else path

    def of(self, picked: str) -> str:
        """Return the original of a micrograph: of the same name in its job, or the only one whose file is called so.

        Raises
        ------
        FileError
            If there is none, or several.
        """
        exact = self._by_name.get(name_in_job(picked))
        if exact is not None:
            return exact
        stem = Path(picked).stem
        found = self._by_stem.get(stem)
        if found is None:
            reason = f"several originals are called {stem}" if stem in self._by_stem else "no original has its name"
            raise FileError(f"{picked} cannot be matched: {reason}.", subject=picked)
        return found


def scale_between(picked: str, original: str) -> Tuple[float, float]:
    """Return by what x and y on one micrograph are multiplied for another one of the same area.

    Raises
    ------
    FileError
        If one cannot be read, or they cannot show the same area.
    """
    before, after = open_micrograph(picked).shape, open_micrograph(original).shape
    scale = (after[1] / before[1], after[0] / before[0])
    if abs(scale[0] / scale[1] - 1) > SAME_AREA_TOLERANCE:
        raise FileError(
            f"{picked} has {before[1]} x {before[0]} px and {original} {after[1]} x {after[0]} px: they cannot show "
            "the same area. Give the micrographs from which the picked ones were made.",
            subject=picked,
        )
    return scale


def rescaled(table: pd.DataFrame, scale: Tuple[float, float], source: str) -> pd.DataFrame:
    """Return a table of picks with other coordinates; raises FileError if it has none, or they are no numbers."""
    table = table.copy()
    for label, factor in zip(COORDINATES, scale):
        values = pd.to_numeric(table[label], errors="coerce") if label in table else pd.Series([float("nan")])
        if values.isna().any():
            raise FileError(f"{source} has no {label}, or one that is no number.", subject=source)
        table[label] = values.astype(float) * factor
    return table


# ---------------------------------------------------------------------- where RELION keeps picks
def _particles(picks: str) -> Optional[Dict[str, pd.DataFrame]]:
    """Return the blocks of a STAR file of particles; None of what else picks can be."""
    if os.path.isdir(picks) or Path(picks).name.startswith(SUFFIX_FILE):
        return None
    blocks = read_blocks(picks)
    is_there = any(NAME in block and COORDINATES[0] in block for block in blocks.values())
    return blocks if is_there else None


def _picks_of(picks: str, micrographs: List[str]) -> Iterator[Tuple[str, str]]:
    """Yield each picked micrograph with the STAR file of its picks."""
    if not os.path.isdir(picks) and not Path(picks).name.startswith(SUFFIX_FILE):
        for block in read_blocks(picks).values():
            if NAME in block and COORDINATE_FILE in block:
                yield from zip(map(str, block[NAME]), map(str, block[COORDINATE_FILE]))
        return

    folder = Path(picks) if os.path.isdir(picks) else Path(picks).parent
    there: Dict[Path, List[Path]] = {}
    for micrograph in micrographs:
        place = folder / name_in_job(micrograph)
        if place.parent not in there:
            there[place.parent] = list_folder(place.parent) if place.parent.is_dir() else []
        named = [f for f in there[place.parent] if f.suffix == ".star" and f.stem.startswith(f"{place.name}_")]
        if named:
            yield micrograph, str(min(named, key=lambda file: len(file.name)))


def _inputs(pick: PickedMicrograph) -> Tuple[str, ...]:
    return pick.source, pick.picked, pick.original


def _rescale(pick: PickedMicrograph, path: Path) -> None:
    blocks = read_blocks(pick.source)
    scale = scale_between(pick.picked, pick.original)
    make_folder(path.parent)
    write_blocks(path, {name: rescaled(block, scale, pick.source) for name, block in blocks.items()})


def _write_lists(config: RelionCoordinatesConfig, done: List[PickedMicrograph]) -> None:
    """Write what stands for all picks: RELION 4 and 5 list them, 3.1 names the set and goes by names of files."""
    output = Path(config.output)
    table = pd.DataFrame(
        {NAME: [pick.original for pick in done], COORDINATE_FILE: [star_path(output / pick.place) for pick in done]}
    )
    write_blocks(output / outputs.COORDINATES_STAR, {"coordinate_files": table})
    suffix = Path(done[0].place).stem[len(Path(done[0].original).stem) :]
    with whole_file(output / f"{SUFFIX_FILE}{suffix}.star") as temporary:
        temporary.write_text(f"{star_path(config.micrographs)}\n")


def _rescale_particles(
    config: RelionCoordinatesConfig, blocks: Mapping[str, pd.DataFrame], originals: _Originals
) -> Outcome:
    """Write a STAR file of particles of the original micrographs; those of micrographs without one are left out."""
    failures: Dict[str, Problem] = {}
    names: List[str] = []
    written: Dict[str, pd.DataFrame] = {}
    for key, block in blocks.items():
        if NAME not in block or COORDINATES[0] not in block:
            written[key] = block
            continue
        parts = []
        for picked, part in block.groupby(NAME, sort=False):
            names.append(str(picked))
            try:
                original = originals.of(str(picked))
                scale = scale_between(str(picked), original)
                parts.append(rescaled(part, scale, config.picks).assign(**{NAME: original}))
            except CryodenError as error:
                failures[str(picked)] = error.problem
        written[key] = pd.concat(parts) if parts else block.iloc[:0]
    if len(failures) == len(names):
        raise NothingDoneError("micrograph", "rescaled", len(names), failures)

    path = Path(config.output) / outputs.COORDINATES_STAR
    result = Result(path.name, (path,), (config.picks, config.picked, config.micrographs))
    record = RunRecord(Path(config.output) / outputs.COORDINATES_RECORD, {})
    if not record.finished([result]):
        record.begin()
        with record.making(result):
            write_blocks(path, written)
    return Outcome(len(names), failures)
