"""Named arrays in one npz file: written whole, read without pickles, damage told in one line."""

from __future__ import annotations

import zipfile
from contextlib import contextmanager
from typing import Any, Iterator, Mapping

import numpy as np

from cryoden.errors import CryodenError, FileError
from cryoden.formats.file_errors import PathLike, reason
from cryoden.formats.files import whole_file


def write_arrays(path: PathLike, arrays: Mapping[str, Any], compress: bool = False) -> None:
    """Write arrays (numbers or text) under their names, whole or not at all; raises as `whole_file`.

    Not by `numpy.savez`: on a full disk it leaves an open archive behind, which complains when it is collected.
    """
    packing = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with whole_file(path) as temporary, zipfile.ZipFile(str(temporary), "w", packing) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


@contextmanager
def opened_arrays(path: PathLike, remedy: str) -> Iterator[Any]:
    """Open what `write_arrays` wrote: a mapping that reads an array when it is asked for.

    Parameters
    ----------
    path
        The file.
    remedy
        What to do when it is damaged; ends the sentence of the error.

    Raises
    ------
    FileError
        If the file is missing, damaged or lacks an array, here or in the body of the context.
    """
    try:
        with open(str(path), "rb") as opened, np.load(opened, allow_pickle=False) as file:
            yield file
    except CryodenError:
        raise
    except Exception as error:  # damaged archives raise many kinds
        raise FileError(f"{path} cannot be read ({reason(error)}); {remedy}.", subject=str(path)) from error
