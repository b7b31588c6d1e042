"""Verification bundles: arrays as plain numbers in one file each, and an index in JSON that says what they are.

Every file is float32, little-endian, without header. `index.json` names items, shapes and the order of the axes.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Sequence, Tuple

import numpy as np

from cryoden.errors import FileError
from cryoden.formats import outputs
from cryoden.formats.file_errors import PathLike, reading_errors, reason
from cryoden.formats.files import make_folder, read_json, whole_file, write_json
from cryoden.formats.output_folder import require_own_folder

FORMAT, BYTE_ORDER, DTYPE = "cryoden-verification", "little", np.dtype("<f4")

HUGE, TINY = 1e15, 1e-30
"""Magnitudes that no item has; most numbers read in the wrong byte order are beyond them."""


@dataclass(frozen=True)
class Item:
    """One array of a bundle.

    Attributes
    ----------
    name
        Such as `conv1_weights`; its file is the name with .bin.
    kind
        `weight`, `batch`, `forward`, `loss` or `gradient`.
    shape
        Length of every axis.
    axes
        What the axes are, in the same order.
    """

    name: str
    kind: str
    shape: Tuple[int, ...]
    axes: Tuple[str, ...]


@dataclass(frozen=True)
class Bundle:
    """What a folder holds.

    Attributes
    ----------
    network, channels
        What was computed.
    items
        In the order of the index.
    arrays
        Name -> values, float32 in the item's shape.
    """

    network: str
    channels: Tuple[int, ...]
    items: List[Item]
    arrays: Dict[str, np.ndarray]


def require_own_bundle(folder: PathLike, names: Iterable[str]) -> None:
    """Refuse a folder whose files no bundle was made of.

    Parameters
    ----------
    folder
        Where a bundle will be written.
    names
        Of its items.

    Raises
    ------
    FileError
        If the index that is there is that of something else.
    ExistingResultsError
        If a file of an item is there without an index.
    """
    if (Path(folder) / outputs.BUNDLE_INDEX).exists():
        read_index(folder)
    require_own_folder(folder, outputs.BUNDLE_INDEX, [f"{name}.bin" for name in names])


def write_bundle(folder: PathLike, bundle: Bundle, order: str) -> None:
    """Write one file for each item and, last, the index; `order` is `C` (last axis fastest) or `F` (first)."""
    path = make_folder(folder)
    for item in bundle.items:
        with whole_file(path / f"{item.name}.bin") as temporary:
            bundle.arrays[item.name].astype(DTYPE).ravel(order=_numpy_order(order)).tofile(str(temporary))
    index = {
        "format": FORMAT,
        "version": 1,
        "dtype": "float32",
        "byte_order": BYTE_ORDER,
        "order": order,
        "network": bundle.network,
        "channels": list(bundle.channels),
        "items": [{**asdict(item), "file": f"{item.name}.bin"} for item in bundle.items],
    }
    write_json(path / outputs.BUNDLE_INDEX, index)


@dataclass(frozen=True)
class Index:
    """What `index.json` says; `order` is `C` or `F`."""

    network: str
    channels: Tuple[int, ...]
    order: str
    items: List[Item]


def read_bundle(folder: PathLike) -> Bundle:
    """Read an index and every item that it names.

    Raises
    ------
    FileError
        If the index cannot be used, or an item is missing, has another shape or byte order.
    """
    index = read_index(folder)
    arrays = {item.name: read_array(Path(folder) / f"{item.name}.bin", item.shape, index.order) for item in index.items}
    return Bundle(index.network, index.channels, index.items, arrays)


def read_index(folder: PathLike) -> Index:
    """Read the index of a bundle.

    Raises
    ------
    FileError
        If it is missing or does not say what an index must say.
    """
    path = Path(folder)
    index_file = path / outputs.BUNDLE_INDEX
    if not index_file.is_file():
        raise FileError(
            f"{path} holds no {outputs.BUNDLE_INDEX}; give the folder of a verification bundle.", subject=str(path)
        )

    index = read_json(index_file)
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise FileError(
            f"{index_file} is no index of a verification bundle (format {FORMAT!r}).", subject=str(index_file)
        )
    for key, wanted in (("byte_order", (BYTE_ORDER,)), ("dtype", ("float32",)), ("order", ("C", "F"))):
        if index.get(key) not in wanted:
            raise FileError(
                f"{index_file} says {key} {index.get(key)!r}; it must be {' or '.join(wanted)}. Write the files so.",
                subject=str(index_file),
            )

    try:
        items = [
            Item(_item_name(i["name"]), str(i["kind"]), _counts(i["shape"]), tuple(map(str, i["axes"])))
            for i in index["items"]
        ]
        network, channels = str(index["network"]), _counts(index["channels"])
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(
            f"{index_file} lacks network, channels, or an item's name, kind, shape or axes ({reason(error)}).",
            subject=str(index_file),
        ) from error
    return Index(network, channels, index["order"], items)


def _item_name(name: Any) -> str:
    """Return the name of an item; raises ValueError if its file would be somewhere else."""
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise ValueError(f"name {name!r}")
    return name


def _counts(numbers: Any) -> Tuple[int, ...]:
    """Return whole numbers above 0; raises ValueError if one is not."""
    if not all(isinstance(number, int) and not isinstance(number, bool) and number > 0 for number in numbers):
        raise ValueError(f"numbers {numbers!r}")
    return tuple(numbers)


def read_array(path: PathLike, shape: Sequence[int], order: str) -> np.ndarray:
    """Read one file of float32 numbers as an array of a known shape.

    Raises
    ------
    FileError
        If it is missing, has another size, or was written in the wrong byte order.
    """
    path = Path(path)
    if not os.path.lexists(str(path)):
        raise FileError(f"Item {path} is missing; write it.", subject=str(path))
    needed = math.prod(shape) * DTYPE.itemsize
    with reading_errors(path):
        found = path.stat().st_size
    if found != needed:
        raise FileError(
            f"Item {path} has {found} bytes, but shape {' x '.join(map(str, shape)) or 'of one number'} in float32 "
            f"needs {needed}; write it in that shape.",
            subject=str(path),
        )
    with reading_errors(path):
        values = np.fromfile(str(path), DTYPE)
    if values.nbytes != needed:
        raise FileError(f"Item {path} changed while it was read; write it again.", subject=str(path))
    if _is_strange(values) and not _is_strange(values.byteswap()):
        raise FileError(f"Item {path} is big-endian; write its float32 numbers little-endian.", subject=str(path))
    return values.reshape(tuple(shape), order=_numpy_order(order))


def _numpy_order(order: str) -> Any:
    return {"C": "C", "F": "F"}[order]


def _is_strange(values: np.ndarray) -> bool:
    """Return whether a tenth of the numbers or more are such as no computation gives."""
    sizes = np.abs(values[values != 0])
    if not sizes.size:
        return False
    with np.errstate(invalid="ignore"):
        strange = ~((sizes < HUGE) & (sizes > TINY))
    return bool(strange.mean() > 0.1)
