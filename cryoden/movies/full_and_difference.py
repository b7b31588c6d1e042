"""Halves from a full image and the difference of its halves, as the data set CryoCRAB stores them: odd - even.

Where the full image is the sum of the halves, odd = (full + difference) / 2; where it is their mean, odd = full +
difference / 2. The noise tells which: in the sum it has the power of the difference's noise, in the mean a quarter.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Dict, List

import numpy as np

from cryoden.errors import PairError, Remedy
from cryoden.formats.files import list_folder
from cryoden.formats.images import ENDINGS
from cryoden.movies.noise_spectrum import band_powers

SUM, MEAN = "sum", "mean"

POWER_RATIOS = {SUM: (0.8, 1.6), MEAN: (0.2, 0.4)}
"""Noise power of the full image over that of the difference: 1 or 1/4 without any signal, more with it."""

_MARK = re.compile(r"[_-](full|diff|difference)$", re.IGNORECASE)


def list_differences(folder: str) -> Dict[str, str]:
    """Return micrograph name -> file of the differences in a folder, in which full images may lie too.

    Raises
    ------
    FileError
        If the folder cannot be read.
    PairError
        If two files have one name.
    """
    files = list_images(folder)
    marked = [file for file in files if is_difference(file)]

    named: Dict[str, str] = {}
    for file in marked or files:
        name = image_name(file)
        if name in named:
            both = f"{named[name]} and {file} are both the difference of '{name}'; names must be unique."
            raise PairError(both, subject=file)
        named[name] = file
    return named


def list_images(folder: str) -> List[str]:
    """Return the images of a folder; raises FileError if it cannot be read."""
    return [str(file) for file in list_folder(folder) if file.suffix.lower() in ENDINGS]


def is_difference(path: str) -> bool:
    """Return whether a file's name says that it is a difference."""
    mark = _MARK.search(Path(path).stem)
    return mark is not None and mark[1].lower() != "full"


def image_name(path: str) -> str:
    """Return the name by which a full image and its difference find each other: `mic` of `mic_full.mrc`."""
    return _MARK.sub("", Path(os.path.basename(path)).stem)


def full_kind(full: np.ndarray, difference: np.ndarray, path: str) -> str:
    """Return `sum` or `mean`: what the full image is of its halves.

    Parameters
    ----------
    full, difference
        Shape `(y, x)`.
    path
        Of the full image, for messages.

    Raises
    ------
    PairError
        If neither fits.
    """
    # The highest frequencies: there is least signal, which would make a mean look like a sum.
    powers = [float(band_powers(image)[0][1:].min()) for image in (full, difference)]
    ratio = powers[0] / powers[1] if powers[1] > 0 else float("inf")
    for kind, (low, high) in POWER_RATIOS.items():
        if low <= ratio <= high:
            return kind
    raise PairError(
        f"Nothing tells whether {path} is the sum or the mean of its halves: its noise has {ratio:.3g} times the power "
        "of their difference's; that of a sum has 1, that of a mean 0.25. Look at what wrote it.",
        subject=path,
        remedy=Remedy("set", "full_is"),
    )
