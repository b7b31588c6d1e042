"""Patch files whose manifest, or whose length, is not what it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest

from cryoden.errors import FileError
from cryoden.formats.patch_file import PatchImage, open_patches, value_range
from tests.helpers import Result

Run = Callable[..., Result]

RECORD = {
    "name": "m",
    "part": "train",
    "count": 3,
    "rows": [0, 4],
    "shape": [16, 16],
    "scale": {"input": {"mean": 1.5}},
}
MANIFEST: Dict[str, Any] = {
    "format": "cryoden-patches",
    "version": 1,
    "dtype": "float32",
    "byte_order": "little",
    "axis_order": ["patch", "row", "column"],
    "patch": 8,
    "counts": {"train": 3},
    "normalization": "standard",
    "sampling_rate": 4.0,
    "micrographs": [RECORD],
    "files": {},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train_input.bin", "train_target.bin"):
        np.random.default_rng(1).normal(size=(3, 8, 8)).astype("<f4").tofile(str(tmp_path / name))
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    return tmp_path


def refusal(folder: Path, **changes: Any) -> str:
    """Return what is said of a manifest of which some entries are others."""
    (folder / "manifest.json").write_text(json.dumps({**MANIFEST, **changes}))
    with pytest.raises(FileError) as caught:
        open_patches(folder)
    return str(caught.value)


def test_right_manifest(folder: Path) -> None:
    assert open_patches(folder).manifest == MANIFEST


@pytest.mark.parametrize(
    "change",
    [
        {"byte_order": "big"}, {"dtype": "float64"}, {"dtype": ">f4"}, {"axis_order": ["patch", "column", "row"]},
        {"axis_order": ["row", "column", "patch"]}, {"byte_order": None}, {"dtype": ["float32"]}, {"axis_order": {}},
    ],
    ids=str,
)  # fmt: skip
def test_other_layouts_are_refused(folder: Path, cryoden: Run, change: Dict[str, Any]) -> None:
    """A big-endian file of plausible length was verified, and trained on, as noise."""
    key, value = next(iter(change.items()))
    text = refusal(folder, **change)
    assert text.startswith(f"{folder / 'manifest.json'} says {key} {value!r}; patch files must have ")
    result = cryoden("patches", "verify", folder)
    assert result.status == 2
    assert result.last_error == f"cryoden: {text}"


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *(("patch", value) for value in (None, True, 0, -8, 8.0, "8", 10**30, [8])),
        *(("counts", value) for value in (None, [3], {"train": "3"}, {"train": True}, {"train": -1}, {"other": 3})),
        *(("sampling_rate", value) for value in ("4", True, -4, 0, 1e-9, 10**400, [4.0])),
        *(("files", value) for value in (None, [], {"train_input.bin": None}, {"train_input.bin": {"sha256": 5}})),
        *(("normalization", value) for value in (None, 5, ["p95"])),
        *(("micrographs", value) for value in (None, {}, [None], [{}], ["m"])),
        *(
            ("micrographs", [{**RECORD, key: value}])
            for key, value in [
                ("name", None), ("part", "other"), ("count", True), ("count", -1), ("rows", []), ("rows", None),
                ("rows", ["0"]), ("shape", []), ("shape", [0, 16]), ("shape", None), ("scale", None),
                ("scale", {"input": None}), ("scale", {"input": {"mean": "1"}}),
                ("scale", {"input": {"mean": 10**400}}),
            ]
        ),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_null_missing_and_senseless_parts(folder: Path, part: str, value: Any) -> None:
    assert refusal(folder, **{part: value}) == (
        f"{folder / 'manifest.json'} has no usable {part}; it is damaged. Export again."
    )


@pytest.mark.parametrize("content", ["null", "[]", "5", '"text"', "{}", '{"format": null}'])
def test_other_json(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(FileError, match=r"manifest\.json is no manifest of patch files"):
        open_patches(folder)


@pytest.mark.parametrize("n_bytes", [0, 100, 300, 767])
def test_file_that_becomes_shorter_while_it_is_in_use(folder: Path, n_bytes: int) -> None:
    files = open_patches(folder).parts["train"]
    image = PatchImage(files.input, 8, 2, None)
    assert files.read(2).shape == (2, 8, 8)
    assert image.read_rows(0, 0, 8).shape == (8, 8)
    with open(files.input, "r+b") as file:
        file.truncate(n_bytes)
    for read in (lambda: files.read(2), lambda: image.read_rows(0, 0, 8)):
        with pytest.raises(FileError, match=r"train_input\.bin became shorter while it was in use"):
            read()


def test_file_that_is_removed_while_it_is_in_use(folder: Path) -> None:
    files = open_patches(folder).parts["train"]
    files.target.unlink()
    with pytest.raises(FileError, match=r"train_target\.bin cannot be read \(No such file or directory\)"):
        files.read(0)


def test_range_of_a_file_that_ends_within_a_number(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(np.array([3, -2], "<f4").tobytes() + b"\0\0")
    assert value_range(tmp_path / "a.bin") == (-2.0, 3.0)
