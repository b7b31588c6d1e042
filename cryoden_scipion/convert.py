"""Between Scipion's sets and the STAR files that the denoiser reads."""

from __future__ import annotations

import json
import os
import sqlite3
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar

import numpy as np
import pandas as pd
from pwem.objects import CTFModel, EMSet, Image, Micrograph, Movie, MovieAlignment, SetOfImages, SetOfMicrographs
from pyworkflow.object import CsvList, String

from cryoden.formats import star
from cryoden.formats.relion_job import COEFFICIENTS, MovieCorrection, read_movie_correction
from cryoden_scipion.constants import HALVES_LINK, MOTION_LINK

T = TypeVar("T")

MODEL_ATTRIBUTE, HOT_ATTRIBUTE = "_rlnMotionModelCoeff", "_rlnHotPixels"
"""What RELION's motion correction puts on movies beside their shifts, JSON: 36 coefficients, and places (x, y)."""

OpticsKey = Tuple[float, float, float, float]
"""A/px, kV, mm, amplitude contrast."""


def isOfRelion(movie: Movie) -> bool:
    """Return whether a movie carries what RELION's motion correction finds beside shifts, in its form."""
    return any(movie.hasAttribute(name) for name in (MODEL_ATTRIBUTE, HOT_ATTRIBUTE))


def hasLocalModel(movie: Movie) -> bool:
    """Return whether a movie carries RELION's model of local motion; with few patches there is none."""
    return bool(_jsonOf(movie, MODEL_ATTRIBUTE))


def motionStar(movie: Movie) -> Optional[str]:
    """Return the STAR file about the motion of a movie that a split aligned; None of other movies."""
    return str(getattr(movie, MOTION_LINK)) if movie.hasAttribute(MOTION_LINK) else None


def alignedMovie(movie: Movie, path: str) -> Movie:
    """Return a movie with its motion as RELION's protocol stores it: shifts of used frames, local motion, hot pixels.

    Shifts are where the content of each frame must be moved to, in pixels of the movie; rows count as in RELION, those
    of TIFF files from the bottom.

    Parameters
    ----------
    movie
        As it was given; it stays as it is.
    path
        STAR file about its motion.

    Raises
    ------
    FileError
        As `read_movie_correction`.
    """
    found = read_movie_correction(path)
    frames = sorted(found.shifts)
    x, y = zip(*(found.shifts[frame] for frame in frames))

    aligned = movie.clone()
    aligned.setAlignment(MovieAlignment(first=frames[0], last=frames[-1], xshifts=list(x), yshifts=list(y)))
    model = [] if found.coefficients is None else found.coefficients.ravel().tolist()
    setattr(aligned, MODEL_ATTRIBUTE, String(json.dumps(model)))
    setattr(aligned, HOT_ATTRIBUTE, String(json.dumps(found.hot_pixels[::-1].T.tolist())))
    setattr(aligned, MOTION_LINK, String(path))
    return aligned


def movieCorrection(movie: Movie, binning: Optional[float]) -> MovieCorrection:
    """Return what RELION's motion correction found of a movie, from what the movie carries.

    Parameters
    ----------
    movie
        With an alignment.
    binning
        Of the motion correction, in whose pixels the model is; None = not known, then the model is left out.
    """
    x, y, nFrames = movie.getDim()
    first, _ = movie.getAlignment().getRange()
    model = _jsonOf(movie, MODEL_ATTRIBUTE)
    places = np.array(_jsonOf(movie, HOT_ATTRIBUTE), float).reshape(-1, 2)

    return MovieCorrection(
        source=movie.getFileName(),
        movie=movie.getFileName(),
        shape=(y, x),
        n_frames=nFrames,
        shifts=dict(enumerate(zip(*movie.getAlignment().getShifts()), first)),
        binning=binning or 1.0,
        coefficients=np.array(model, float).reshape(COEFFICIENTS) if model and binning is not None else None,
        hot_pixels=np.rint(places).astype(int).T[::-1],
    )


def _jsonOf(movie: Movie, name: str) -> List[Any]:
    return json.loads(str(getattr(movie, name))) if movie.hasAttribute(name) else []


def writeImagesStar(
    path: str,
    images: Sequence[Image],
    nameLabel: str = star.NAME,
    files: Optional[Sequence[str]] = None,
    names: Optional[Sequence[str]] = None,
) -> None:
    """Write movies or micrographs with one optics group for each kind of acquisition among them.

    Parameters
    ----------
    path
        STAR file to write.
    images
        Movies or micrographs, cloned.
    nameLabel
        Label of the file name.
    files
        Files to name instead of the images' own.
    names
        Names by which the halves of a micrograph are matched.
    """
    groups: Dict[OpticsKey, int] = {}
    numbers = [groups.setdefault(_opticsKey(image), len(groups) + 1) for image in images]
    optics = pd.DataFrame(
        [[f"opticsGroup{number}", number, *key] for key, number in groups.items()],
        columns=[
            "rlnOpticsGroupName",
            star.OPTICS_GROUP,
            star.ORIGINAL_PIXEL_SIZE,
            "rlnVoltage",
            "rlnSphericalAberration",
            "rlnAmplitudeContrast",
        ],
    )
    optics[star.PIXEL_SIZE] = optics[star.ORIGINAL_PIXEL_SIZE]

    files = files or [image.getFileName() for image in images]
    table = pd.DataFrame({nameLabel: files, star.OPTICS_GROUP: numbers})
    if names is not None:
        table[star.HALF_NAME] = names
    star.write_table(path, star.ImageTable(optics, table, nameLabel))


def _opticsKey(image: Image) -> OpticsKey:
    acquisition = image.getAcquisition()
    return (
        image.getSamplingRate(),
        acquisition.getVoltage(),
        acquisition.getSphericalAberration(),
        acquisition.getAmplitudeContrast(),
    )


def clonedItems(imageSet: EMSet) -> List[Any]:
    """Return the enabled items of a set, each a clone (iterating a set hands out one object again and again)."""
    return [item.clone() for item in imageSet if item.isEnabled()]


def readSetFile(path: str, setClass: Type[EMSet], read: Callable[[EMSet], T], nothing: T) -> T:
    """Return what `read` makes of a set as its file is now; `nothing` where a protocol makes the file at this moment.

    One that was loaded before does not grow. It is closed afterwards: an unfinished reading of the file would keep a
    protocol that still fills it from writing.
    """
    current = setClass(filename=path)
    try:
        current.loadAllProperties()
        return read(current)
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return nothing
    finally:
        current.close()


def loadItems(path: str, setClass: Type[EMSet] = SetOfMicrographs) -> Tuple[List[Any], bool]:
    """Return the enabled items that a set's file holds now, and whether no more will come."""

    def read(current: EMSet) -> Tuple[List[Any], bool]:
        isComplete = current.isStreamClosed()  # asked first: what comes afterwards is not missed
        return clonedItems(current), isComplete

    return readSetFile(path, setClass, read, ([], False))


def firstItem(imageSet: EMSet) -> Any:
    """Return the first item of a set, None of an empty one."""

    def read(current: EMSet) -> Any:
        first = current.getFirstItem()
        return first.clone() if first is not None else None

    return readSetFile(imageSet.getFileName(), type(imageSet), read, None)


def currentSize(imageSet: EMSet) -> int:
    """Return how many items a set's file holds now."""
    return readSetFile(imageSet.getFileName(), type(imageSet), lambda current: current.getSize(), 0)


def filesById(imageSet: SetOfImages) -> Dict[int, str]:
    """Return id -> file of every item that a set's file holds now."""

    def read(current: EMSet) -> Dict[int, str]:
        return {image.getObjId(): image.getFileName() for image in current}

    return readSetFile(imageSet.getFileName(), type(imageSet), read, {})


def itemsOfFile(path: str) -> List[Any]:
    """Return the enabled micrographs that a set's file holds now."""
    return loadItems(path)[0]


def micNameKey(image: Image) -> str:
    """Return the name by which halves, coordinates and CTFs of a micrograph are matched, without folder and ending."""
    return os.path.splitext(os.path.basename(image.getMicName() or image.getFileName()))[0]


def ctfsByName(ctfs: Iterable[CTFModel]) -> Dict[str, Dict[str, Any]]:
    """Return micrograph name -> columns of a RELION STAR file with its CTF, of CTFModels."""
    return {micNameKey(ctf.getMicrograph()): _ctfColumns(ctf) for ctf in ctfs}


def _ctfColumns(ctf: CTFModel) -> Dict[str, Any]:
    columns = {
        "rlnDefocusU": ctf.getDefocusU(),
        "rlnDefocusV": ctf.getDefocusV(),
        "rlnCtfAstigmatism": abs(ctf.getDefocusU() - ctf.getDefocusV()),
        "rlnDefocusAngle": ctf.getDefocusAngle(),
    }
    if ctf.hasPhaseShift():
        columns["rlnPhaseShift"] = ctf.getPhaseShift()
    if ctf.getFitQuality() is not None:
        columns["rlnCtfFigureOfMerit"] = ctf.getFitQuality()
    if ctf.getResolution() is not None:
        columns["rlnCtfMaxResolution"] = ctf.getResolution()
    if ctf.getPsdFile():
        columns["rlnCtfImage"] = ctf.getPsdFile()
    return columns


def addCtfs(path: str, names: Mapping[str, str], ctfs: Mapping[str, Mapping[str, Any]]) -> int:
    """Write the CTFs of micrographs into the STAR file that lists them.

    Micrographs without a CTF are left out of it, as RELION leaves out those that it could not estimate.

    Parameters
    ----------
    path
        STAR file, written anew.
    names
        Base name of a listed file -> micrograph name.
    ctfs
        Of `ctfsByName`.

    Returns
    -------
    n_left_out
        Micrographs without a CTF.
    """
    table = star.read_table(path)
    found = [ctfs.get(names.get(os.path.basename(file), "")) for file in table.paths]
    columns = pd.DataFrame([ctf for ctf in found if ctf]).dropna(axis="columns")
    if columns.empty:
        return len(found)
    images = table.images[[bool(ctf) for ctf in found]].reset_index(drop=True).drop(columns=columns, errors="ignore")
    star.write_table(path, star.ImageTable(table.optics, images.join(columns), table.name_label))
    return len(found) - len(images)


def linkedHalves(micrograph: Micrograph) -> Optional[List[str]]:
    """Return the files [odd, even] that a full micrograph is linked with, None where it has no link."""
    link = getattr(micrograph, HALVES_LINK, None)
    files = [part.strip() for part in link.get().split(",")] if link is not None and link.get() else []
    return files if len(files) == 2 else None


def linkHalves(micrograph: Micrograph, odd: str, even: str) -> None:
    """Let a full micrograph know the files of its halves."""
    link = CsvList()
    link.set(",".join((odd, even)))
    setattr(micrograph, HALVES_LINK, link)


def newMicrograph(source: Image, fileName: str, samplingRate: float) -> Micrograph:
    """Return a micrograph that keeps what `source` (a movie or micrograph) is known by, on another file."""
    micrograph = Micrograph()
    micrograph.setObjId(source.getObjId())
    micrograph.setEnabled(source.isEnabled())
    micrograph.setAcquisition(source.getAcquisition())
    micrograph.setMicName(source.getMicName())
    micrograph.setSamplingRate(samplingRate)
    micrograph.setFileName(fileName)
    return micrograph
