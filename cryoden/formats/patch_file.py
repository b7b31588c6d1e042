"""Patch files: pairs of square cut-outs as plain numbers, for trainers in any language.

A folder holds `train_input.bin`, `train_target.bin`, `test_input.bin` and `test_target.bin` (or `noisy_train.bin`,
`clean_train.bin`, `noisy_test.bin`, `clean_test.bin`): float32, little-endian, no header, one patch after the other,
each contiguous and row-major. Patch number i of the input belongs to patch number i of the target. `manifest.json` says
what they are; files of other programs may lack it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np

from cryoden.errors import FileError, Remedy
from cryoden.formats import outputs
from cryoden.formats.file_errors import PathLike, reading_errors
from cryoden.formats.files import PIECE_BYTES, read_json
from cryoden.formats.pixels import is_pixel_size
from cryoden.wording import counted

FORMAT = "cryoden-patches"
DTYPE = np.dtype("<f4")
PARTS, ROLES = ("train", "test"), ("input", "target")

LONGEST_PATCH = 1 << 16
"""Pixels; wider patches are none."""

LAYOUT = {"dtype": "float32", "byte_order": "little", "axis_order": ["patch", "row", "column"]}
"""What the files are, as the manifest says it; files of another layout are refused, not misread."""

_OTHER_NAMES = {"input": "noisy", "target": "clean"}


def patch_file_name(part: str, role: str) -> str:
    """Return the name of a file: `train_input.bin` for part `train` and role `input`."""
    return f"{part}_{role}.bin"


FILE_NAMES = tuple(patch_file_name(part, role) for part in PARTS for role in ROLES)


@dataclass(frozen=True)
class PatchFiles:
    """The two files of one part.

    Attributes
    ----------
    input, target
        Their paths.
    patch
        Side of a patch in pixels.
    n
        Patches in each.
    """

    input: Path
    target: Path
    patch: int
    n: int

    def read(self, number: int) -> np.ndarray:
        """Return input and target of one patch, float32 `(2, patch, patch)`; raises FileError if they are gone."""
        n_pixels = self.patch * self.patch
        pair = [_read_values(path, number * n_pixels, n_pixels) for path in (self.input, self.target)]
        return np.stack(pair).reshape(2, self.patch, self.patch)


class PatchImage:
    """One patch of a file as an image, a `cryoden.formats.stack.Stack`."""

    n_frames = 1
    dtype = DTYPE
    is_sequential = False

    def __init__(self, path: PathLike, patch: int, number: int, sampling_rate: Optional[float]) -> None:
        self.path, self.shape, self.sampling_rate = Path(path), (patch, patch), sampling_rate
        self.band_rows = patch
        self._first = number * patch * patch

    def read_rows(self, frame: int, first: int, last: int) -> np.ndarray:
        """Return rows `first` to `last` (excluded), float32; a patch has one frame. Raises FileError if it is gone."""
        width = self.shape[1]
        return _read_values(self.path, self._first + first * width, (last - first) * width).reshape(-1, width)

    def verify(self) -> None:
        """Do nothing: patch files have no checksum; see `cryoden.formats.stack.Stack`."""


def _read_values(path: Path, first: int, n: int) -> np.ndarray:
    """Return `n` values from the `first` one on."""
    with reading_errors(path):
        values = np.fromfile(str(path), DTYPE, n, offset=first * DTYPE.itemsize)
    if values.size < n:
        raise FileError(f"{path} became shorter while it was in use; copy or export it again.", subject=str(path))
    return values


@dataclass(frozen=True)
class PatchFolder:
    """A folder of patch files whose sizes are right.

    Attributes
    ----------
    path
        The folder.
    patch
        Side of the patches in pixels.
    parts
        `train` and, where there are such files, `test`.
    manifest
        The content of manifest.json; empty where there is none.
    """

    path: Path
    patch: int
    parts: Dict[str, PatchFiles]
    manifest: Dict[str, Any] = field(default_factory=dict)


def open_patches(folder: PathLike, patch: Optional[int] = None) -> PatchFolder:
    """Open patch files: find them by their names, read the manifest, compare sizes. No pixel is read.

    Parameters
    ----------
    patch
        Side of the patches in pixels; needed where there is no manifest.

    Raises
    ------
    FileError
        If files are missing, their size is no multiple of a patch, input and target differ in count, or the manifest
        says otherwise.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileError(f"{path} is no folder; give the folder that holds the patch files.", subject=str(path))

    manifest = _read_manifest(path)
    promised = manifest.get("patch")
    if promised and patch and promised != patch:
        raise FileError(
            f"{path / outputs.MANIFEST} says that patches are {promised} px wide, not {patch} px.",
            subject=str(path / outputs.MANIFEST),
        )
    side = promised or patch
    if not side:
        raise FileError(
            f"{path} has no {outputs.MANIFEST}; nothing says how many pixels wide its patches are.",
            subject=str(path),
            remedy=Remedy("set", "patch"),
        )

    parts = {}
    for part in PARTS:
        files = [_find(path, part, role) for role in ROLES]
        if files[0] and files[1]:
            parts[part] = _open_part(path, part, (files[0], files[1]), side)
        elif files[0] or files[1]:
            there, missing = (0, 1) if files[0] else (1, 0)
            raise FileError(
                f"{files[there]} has no partner {patch_file_name(part, ROLES[missing])}; give both or none.",
                subject=str(files[there]),
            )
    if "train" not in parts:
        raise FileError(
            f"{path} holds no patch files (train_input.bin, train_target.bin); check the folder.", subject=str(path)
        )

    for part, count in manifest.get("counts", {}).items():
        found = parts[part].n if part in parts else 0
        if found != count:
            promised = counted(count, f"{part} patch", f"{part} patches")
            raise FileError(
                f"{path / outputs.MANIFEST} promises {promised} but the files hold {found}. Copy or export them again.",
                subject=str(path / outputs.MANIFEST),
            )
    return PatchFolder(path, side, parts, manifest)


def value_range(path: PathLike) -> Tuple[float, float]:
    """Return the lowest and highest value of a patch file, NaN if one is; read piece by piece."""
    low, high = np.inf, -np.inf
    with reading_errors(path), open(str(path), "rb") as file:
        while True:
            content = file.read(PIECE_BYTES)
            piece = np.frombuffer(content[: len(content) // DTYPE.itemsize * DTYPE.itemsize], DTYPE)
            if not piece.size:
                return float(low), float(high)
            low, high = np.minimum(low, piece.min()), np.maximum(high, piece.max())


def _read_manifest(folder: Path) -> Dict[str, Any]:
    path = folder / outputs.MANIFEST
    if not os.path.lexists(str(path)):
        return {}
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FileError(
            f"{path} is no manifest of patch files (format {FORMAT!r}); move it away or export again.",
            subject=str(path),
        )
    for key, wanted in LAYOUT.items():
        if manifest.get(key, wanted) != wanted:
            raise FileError(
                f"{path} says {key} {manifest[key]!r}; patch files must have {wanted!r}. Export them again.",
                subject=str(path),
            )
    wrong = next((part for part, is_right in _parts_of(manifest).items() if not is_right), None)
    if wrong:
        raise FileError(f"{path} has no usable {wrong}; it is damaged. Export again.", subject=str(path))
    return manifest


def _parts_of(manifest: Dict[str, Any]) -> Dict[str, bool]:
    """Return which parts of a manifest are what they must be; those that it may lack are, if they are not there."""
    counts, files = manifest.get("counts"), manifest.get("files", {})
    records, rate = manifest.get("micrographs", []), manifest.get("sampling_rate")
    return {
        "patch": _is_count(manifest.get("patch")) and 0 < manifest["patch"] <= LONGEST_PATCH,
        "counts": isinstance(counts, dict) and set(counts) <= set(PARTS) and all(map(_is_count, counts.values())),
        "sampling_rate": rate is None or (_is_number(rate) and is_pixel_size(rate)),
        "normalization": isinstance(manifest.get("normalization", ""), str),
        "files": isinstance(files, dict)
        and all(isinstance(file, dict) and isinstance(file.get("sha256"), str) for file in files.values()),
        "micrographs": isinstance(records, list) and all(map(_is_record, records)),
    }


def _is_record(record: Any) -> bool:
    """Return whether this is what a manifest says of one micrograph."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("name"), str)
        and record.get("part") in PARTS
        and _is_count(record.get("count"))
        and _is_filled_list(record.get("rows"))
        and _is_filled_list(record.get("shape"))
        and record["shape"][0] > 0
        and isinstance(record.get("scale"), dict)
        and all(isinstance(scale, dict) and all(map(_is_number, scale.values())) for scale in record["scale"].values())
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _is_filled_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_count, value))


def _find(folder: Path, part: str, role: str) -> Optional[Path]:
    names = (patch_file_name(part, role), f"{_OTHER_NAMES[role]}_{part}.bin")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _open_part(folder: Path, part: str, files: Tuple[Path, Path], side: int) -> PatchFiles:
    patch_bytes = side * side * DTYPE.itemsize
    counts = []
    for file in files:
        with reading_errors(file):
            size = file.stat().st_size
        if size % patch_bytes or not size:
            raise FileError(
                f"{file} has {size} bytes, which is no multiple of a patch of {side} x {side} float32 = {patch_bytes} "
                "bytes. It was cut off, or the patches have another size.",
                subject=str(file),
            )
        counts.append(size // patch_bytes)
    if counts[0] != counts[1]:
        raise FileError(
            f"{files[0]} holds {counted(counts[0], 'patch', 'patches')} but {files[1]} holds {counts[1]}; each input "
            "needs its target. Copy or export them again.",
            subject=str(files[0]),
        )
    return PatchFiles(files[0], files[1], side, counts[0])
