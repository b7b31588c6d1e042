"""Between Scipion's sets and the STAR files that the denoiser reads."""

import os

import pandas as pd
from pwem.objects import Micrograph, SetOfMicrographs

from cryoden.formats import star
from cryoden_scipion.constants import HALVES_LINK


def writeImagesStar(path, images, nameLabel=star.NAME, files=None, names=None):
    """Write movies or micrographs with one optics group for each kind of acquisition among them.

    Parameters
    ----------
    path : str
        STAR file to write.
    images : list of pwem.objects.Image
        Movies or micrographs, cloned.
    nameLabel : str
        Label of the file name.
    files : list of str, optional
        Files to name instead of the images' own.
    names : list of str, optional
        Names by which the halves of a micrograph find each other.
    """
    groups = {}
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


def _opticsKey(image):
    acquisition = image.getAcquisition()
    return (
        image.getSamplingRate(),
        acquisition.getVoltage(),
        acquisition.getSphericalAberration(),
        acquisition.getAmplitudeContrast(),
    )


def clonedItems(imageSet):
    """Return the enabled items of a set, each a clone (iterating a set hands out one object again and again)."""
    return [item.clone() for item in imageSet if item.isEnabled()]


def itemsOfFile(path):
    """Return the enabled micrographs that a set's file holds now: a set that was loaded before does not grow."""
    micrographs = SetOfMicrographs(filename=path)
    items = clonedItems(micrographs)
    micrographs.close()
    return items


def micNameKey(image):
    """Return the name by which halves, coordinates and CTFs of a micrograph are matched, without folder and ending."""
    return os.path.splitext(os.path.basename(image.getMicName() or image.getFileName()))[0]


def linkedHalves(micrograph):
    """Return the files [odd, even] that a full micrograph is linked with, None where it has no link."""
    link = getattr(micrograph, HALVES_LINK, None)
    files = [part.strip() for part in link.get().split(",")] if link is not None and link.get() else []
    return files if len(files) == 2 else None


def newMicrograph(source, fileName, samplingRate):
    """Return a micrograph that keeps what `source` (a movie or micrograph) is known by, on another file."""
    micrograph = Micrograph()
    micrograph.setObjId(source.getObjId())
    micrograph.setEnabled(source.isEnabled())
    micrograph.setAcquisition(source.getAcquisition())
    micrograph.setMicName(source.getMicName())
    micrograph.setSamplingRate(samplingRate)
    micrograph.setFileName(fileName)
    return micrograph
