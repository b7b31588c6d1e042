"""RELION 3.1 STAR files: movies and micrographs with their optics groups.

Source: https://relion.readthedocs.io, "Conventions & File formats"; labels are verbatim.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import pandas as pd

from cryoden.config.shared import PIXEL_SIZES_A
from cryoden.errors import FileError, Remedy
from cryoden.formats.file_errors import PathLike
from cryoden.formats.files import working_folder
from cryoden.formats.pixels import require_pixel_size
from cryoden.formats.star_text import read_blocks, write_blocks

NAME = "rlnMicrographName"
MOVIE_NAME = "rlnMicrographMovieName"
UNWEIGHTED_NAME = "rlnMicrographNameNoDW"
"""Of the unweighted sums, which a motion correction has if it weighted by dose and kept both."""
ODD_NAME, EVEN_NAME = "rlnMicrographNameOdd", "rlnMicrographNameEven"
METADATA = "rlnMicrographMetadata"
"""Column of micrographs: the file in which a motion correction of RELION says what it did with the movie."""

PIXEL_SIZE = "rlnMicrographPixelSize"
ORIGINAL_PIXEL_SIZE = "rlnMicrographOriginalPixelSize"
OPTICS_GROUP = "rlnOpticsGroup"
VOLTAGE = "rlnVoltage"
VOLTAGES_KV = (1.0, 10_000.0)
"""Lowest and highest voltage, far beyond what electron microscopes have."""
SHIFT_BLOCK = "global_shift"
SHIFT_LABELS = ("rlnMicrographFrameNumber", "rlnMicrographShiftX", "rlnMicrographShiftY")
MICROGRAPHS, MOVIES = "micrographs", "movies"
HALF_NAME = "cryodenName"
"""Optional column of ours: the name by which the two halves of a micrograph find each other, if not their file name."""


@dataclass(frozen=True)
class ImageTable:
    """The content of a micrographs or movies STAR file.

    Attributes
    ----------
    optics
        One row for each optics group.
    images
        One row for each movie or micrograph, with `rlnOpticsGroup`.
    name_label
        `rlnMicrographName` or `rlnMicrographMovieName`.
    source
        File that it was read from; empty where it was made.
    """

    optics: pd.DataFrame
    images: pd.DataFrame
    name_label: str
    source: str = ""

    @property
    def paths(self) -> List[str]:
        """File names, as written."""
        return [str(name) for name in self.images[self.name_label]]

    # A look-up in a data frame takes as long as all else that is asked of a micrograph: these are made once.
    @cached_property
    def _group_of_row(self) -> List[str]:
        return [str(group) for group in self.images[OPTICS_GROUP]]

    @cached_property
    def _numbers(self) -> Dict[Tuple[str, str], float]:
        """Optics group and label -> value, of those that were asked for."""
        return {}

    @cached_property
    def _optics_of_group(self) -> Dict[str, Dict[str, Any]]:
        """Optics group -> its values by label; of a group that is there twice, the first."""
        groups: Dict[str, Dict[str, Any]] = {}
        for values in self.optics.to_dict("records"):
            groups.setdefault(str(values[OPTICS_GROUP]), values)
        return groups

    def located(self, names: Sequence[str]) -> List[str]:
        """Return where named files are: they are relative to the current folder or, as in RELION, to the project's.

        The project's is the nearest folder above the STAR file in which one of them is found.
        """
        if not self.source or any(map(os.path.exists, names)):
            return list(names)
        folders = [str(folder) for folder in Path(os.path.abspath(self.source)).parents]
        project = next((f for f in folders if any(os.path.exists(os.path.join(f, name)) for name in names)), "")
        return [os.path.join(project, name) for name in names]

    def sampling_rate(self, row: int) -> Optional[float]:
        """Return the pixel size in A/px of one image's optics group, None where the file does not say.

        Raises
        ------
        FileError
            If it is no number, or none that a pixel size can be.
        """
        return self._optics_value(row, PIXEL_SIZES_A, "Å/px", "sampling_rate", PIXEL_SIZE, ORIGINAL_PIXEL_SIZE)

    def original_sampling_rate(self, row: int) -> Optional[float]:
        """Return the pixel size in A/px that the movie of a micrograph had; raises as `sampling_rate`."""
        return self._optics_value(row, PIXEL_SIZES_A, "Å/px", "sampling_rate", ORIGINAL_PIXEL_SIZE)

    def voltage(self, row: int) -> Optional[float]:
        """Return the voltage in kV of one image's optics group, None where the file does not say.

        Raises
        ------
        FileError
            If it is no number, or none that a voltage can be.
        """
        return self._optics_value(row, VOLTAGES_KV, "kV", None, VOLTAGE)

    def _optics_value(
        self, row: int, bounds: Tuple[float, float], unit: str, option: Optional[str], *labels: str
    ) -> Optional[float]:
        name = self._group_of_row[row]
        group = self._optics_of_group.get(name, {})
        label = next((label for label in labels if label in group), None)
        if label is None:
            return None
        text = group[label]
        if (name, label) not in self._numbers:
            self._numbers[name, label] = float(pd.to_numeric(text, errors="coerce"))
        value = self._numbers[name, label]
        if not bounds[0] <= value <= bounds[1]:
            raise FileError(
                f"{self.source}: optics group {name} has {label} {text}; it must be a number from {bounds[0]:g} to "
                f"{bounds[1]:g} {unit}. Mend the file.",
                subject=self.source,
                remedy=Remedy("set", option) if option else None,
            )
        return value

    def with_images(self, rows: List[int], names: List[str], pixel_sizes: List[float]) -> ImageTable:
        """Return micrographs made from the given rows: new names and pixel sizes, everything else kept.

        An optics group whose images come to have different pixel sizes is split into one group for each size.

        Raises
        ------
        FileError
            If a pixel size is none that an image can have.
        """
        for size in pixel_sizes:
            require_pixel_size(size)
        images = self.images.iloc[rows].drop(columns=[MOVIE_NAME, NAME, UNWEIGHTED_NAME], errors="ignore")
        images = images.reset_index(drop=True)
        images.insert(0, NAME, names)
        kinds = [(str(group), round(size, 5)) for group, size in zip(images[OPTICS_GROUP], pixel_sizes)]
        is_split = len(set(kinds)) > len({group for group, _ in kinds})
        groups = [str(group) for group in self.optics[OPTICS_GROUP]]
        ordered = sorted(set(kinds), key=lambda kind: (groups.index(kind[0]), kind[1]))
        numbers = {kind: str(number) if is_split else kind[0] for number, kind in enumerate(ordered, 1)}
        images[OPTICS_GROUP] = [numbers[kind] for kind in kinds]
        known = {str(group): row for group, row in zip(self.optics[OPTICS_GROUP], self.optics.index)}
        optics = self.optics.loc[[known[group] for group, _ in numbers]].reset_index(drop=True)
        optics[OPTICS_GROUP] = list(numbers.values())
        optics[PIXEL_SIZE] = [size for _, size in numbers]
        if "rlnOpticsGroupName" in optics and optics["rlnOpticsGroupName"].duplicated().any():
            optics["rlnOpticsGroupName"] = [f"opticsGroup{number}" for number in numbers.values()]
        return ImageTable(optics, images, NAME)


def new_table(
    names: List[str],
    sampling_rate: float,
    voltage: float,
    spherical_aberration: float,
    amplitude_contrast: float,
) -> ImageTable:
    """Make a table of micrographs with one optics group (kV, mm, A/px); raises FileError for an absurd pixel size."""
    require_pixel_size(sampling_rate)
    optics = pd.DataFrame(
        {
            "rlnOpticsGroupName": ["opticsGroup1"],
            OPTICS_GROUP: [1],
            ORIGINAL_PIXEL_SIZE: [sampling_rate],
            VOLTAGE: [voltage],
            "rlnSphericalAberration": [spherical_aberration],
            "rlnAmplitudeContrast": [amplitude_contrast],
            PIXEL_SIZE: [sampling_rate],
        }
    )
    return ImageTable(optics, pd.DataFrame({NAME: names, OPTICS_GROUP: [1] * len(names)}), NAME)


def write_table(path: PathLike, table: ImageTable, comment: str = "") -> None:
    """Write a STAR file with `data_optics` and `data_micrographs` (or `data_movies`), and a comment at its top."""
    kind = MOVIES if table.name_label == MOVIE_NAME else MICROGRAPHS
    write_blocks(path, {"optics": table.optics, kind: table.images}, comment)


def write_names(path: PathLike, files: Mapping[str, str]) -> None:
    """Write a list of halves: micrograph's name -> file. `cryoden.data.half_sources.list_halves` reads it."""
    write_blocks(path, {MICROGRAPHS: pd.DataFrame({NAME: list(files.values()), HALF_NAME: list(files)})})


def write_coordinates(path: PathLike, optics: pd.DataFrame, particles: pd.DataFrame) -> None:
    """Write particles of micrographs: `data_optics` and `data_particles` with `rlnCoordinateX`, `rlnCoordinateY`."""
    write_blocks(path, {"optics": optics, "particles": particles})


def read_table(path: PathLike) -> ImageTable:
    """Read a STAR file of movies or micrographs; RELION 3.0 files without optics get one optics group.

    Raises
    ------
    FileError
        If the file cannot be read or lists neither movies nor micrographs.
    """
    blocks = read_blocks(path)
    optics = blocks.pop("optics", pd.DataFrame({"rlnOpticsGroupName": ["opticsGroup1"], OPTICS_GROUP: ["1"]}))
    for images in blocks.values():
        label = next((name for name in (NAME, MOVIE_NAME) if name in images), None)
        if label is None:
            continue
        if not len(images):
            raise FileError(
                f"{path} lists no micrographs: its table is empty. Give another STAR file.", subject=str(path)
            )

        # Tables of RELION 3.0 have no optics groups; where there are some, each image's must be in the optics table.
        if OPTICS_GROUP not in images:
            images[OPTICS_GROUP] = "1"
        if OPTICS_GROUP not in optics:
            raise FileError(
                f"{path} has optics groups without {OPTICS_GROUP}; write it again with RELION 3.1 or newer.",
                subject=str(path),
            )
        lonely = sorted(set(images[OPTICS_GROUP]) - set(optics[OPTICS_GROUP]))
        if lonely:
            raise FileError(
                f"{path} has images of optics group {lonely[0]}, which its optics table does not list.",
                subject=str(path),
            )
        return ImageTable(optics, images, label, str(path))

    raise FileError(
        f"{path} lists no micrographs: it has no column {NAME} or {MOVIE_NAME}. Give another STAR file.",
        subject=str(path),
    )


def listed_table(sources: Sequence[str], are_movies: bool = False) -> Optional[ImageTable]:
    """Return the table of a STAR or .cs file that is given alone, in place of images; None where images are given.

    Parameters
    ----------
    sources
        What is given.
    are_movies
        Whether movies are wanted, of files that list both movies and micrographs.

    Raises
    ------
    CryodenError
        If the file cannot be read.
    """
    if len(sources) != 1:
        return None
    from cryoden.formats import cryosparc  # makes tables of this module

    if cryosparc.is_exposures(sources[0]):
        return cryosparc.read_exposures(sources[0], are_movies)
    return read_table(sources[0]) if sources[0].endswith(".star") else None


def require_in_project(source: PathLike, paths: Iterable[str]) -> None:
    """Refuse a STAR file that is read elsewhere than where its paths lead: they are relative to a project's folder.

    Parameters
    ----------
    source
        The STAR file; other sources are passed over.
    paths
        That it lists, as far as they are wanted.

    Raises
    ------
    FileError
        If all paths are relative and none of them is there, nor any of their folders: where these are, files were
        deleted or moved, which each is told by its name.
    """
    listed = list(paths)
    if Path(source).suffix != ".star" or not listed or any(map(os.path.isabs, listed)):
        return
    folders_of_files = {os.path.dirname(path) for path in listed}
    if any(map(os.path.exists, listed)) or any(map(os.path.isdir, folders_of_files)):
        return
    first = listed[0]
    folders = Path(os.path.realpath(str(source))).parents
    project = next((folder for folder in folders if os.path.exists(str(folder / first))), None)
    message = (
        f"{source} lists files relative to the folder of its project, such as {first}, and none of them is found from "
        f"{working_folder()}. "
    )
    message += f"Start in {project}." if project else "Start in that folder."
    raise FileError(message, subject=str(source))


def write_results(
    path: PathLike,
    table: Optional[ImageTable],
    optics: Tuple[float, float, float],
    rows: List[int],
    names: List[str],
    pixel_sizes: List[float],
    comment: str = "",
) -> None:
    """Write the STAR file of micrographs that were made from images.

    Parameters
    ----------
    path
        The file.
    table
        That listed the images; None where none did.
    optics
        Then, voltage (kV), spherical aberration (mm) and amplitude contrast.
    rows
        Of the images in their list.
    names
        Of the micrographs.
    pixel_sizes
        Of the micrographs, in A/px.
    comment
        At the top of the file.

    Raises
    ------
    FileError
        If it cannot be written, or a pixel size is none that an image can have.
    """
    if table is None:
        table = new_table([""] * (max(rows) + 1), pixel_sizes[0], *optics)
    write_table(path, table.with_images(rows, names, pixel_sizes), comment)


def read_global_shifts(path: PathLike) -> Dict[int, Tuple[float, float]]:
    """Return frame (counted from 1) -> shift in x and y, pixels, of what a motion correction wrote about one movie.

    The shifts say where the content of a frame must be moved to. Local motion, which may be there too, is left out.

    Raises
    ------
    FileError
        If the file is missing, has no table of global shifts, or shifts that are not numbers.
    """
    if not os.path.isfile(str(path)):
        raise FileError(
            f"{path} does not exist or is no file; shifts are in one STAR file for each movie.", subject=str(path)
        )
    table = read_blocks(path).get(SHIFT_BLOCK, pd.DataFrame())
    if any(label not in table for label in SHIFT_LABELS):
        raise FileError(
            f"{path} holds no global shifts: it has no table {SHIFT_BLOCK} with {', '.join(SHIFT_LABELS)}.",
            subject=str(path),
        )
    columns = [pd.to_numeric(table[label], errors="coerce") for label in SHIFT_LABELS]
    if any(not np.isfinite(column).all() for column in columns):
        raise FileError(
            f"{path} has shifts that are no numbers; correct the motion of this movie again.", subject=str(path)
        )
    return {int(frame): (float(x), float(y)) for frame, x, y in zip(*columns)}


def write_global_shifts(path: PathLike, shifts: Dict[int, Tuple[float, float]]) -> None:
    """Write what `read_global_shifts` reads."""
    rows = [(frame, *shift) for frame, shift in shifts.items()]
    write_blocks(path, {SHIFT_BLOCK: pd.DataFrame(rows, columns=list(SHIFT_LABELS))})


def star_path(path: PathLike) -> str:
    """Return how a file is named in a STAR file: relative to the working folder if below it, as RELION does.

    Raises
    ------
    FileError
        If the working folder was deleted.
    """
    whole = os.path.normpath(os.path.join(working_folder(), str(path)))
    relative = os.path.relpath(whole, working_folder())
    return whole if relative.split(os.sep)[0] == os.pardir else relative
