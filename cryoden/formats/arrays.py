"""Named arrays in one npz file: written whole, read without pickles, damage told in one line."""

from __future__ import annotations

import zipfile
import zlib
from contextlib import contextmanager
from typing import Any, Iterator, Mapping

import numpy as np

from cryoden.errors import FileError
from cryoden.formats.files import PathLike, whole_file


def write_arrays(path: PathLike, arrays: Mapping[str, Any], compress: bool = False) -> None:
    """Write arrays (numbers or text) under their names, whole or not at all; raises as `whole_file`."""
    with whole_file(path) as temporary, open(str(temporary), "wb") as file:
        (np.savez_compressed if compress else np.savez)(file, **arrays)


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
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise FileError(f"{path} cannot be read ({error}); {remedy}.") from error
