"""Denoising into a folder in which something is already: what counts as finished, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import numpy as np
import pytest

from cryoden.formats.mrc import MrcWriter
from cryoden.formats.star import new_table, read_table, write_table
from tests.helpers import RATE, Result, write_mrc

Run = Callable[..., Result]


def test_the_list_itself_is_never_overwritten(micrographs: Path, cryoden: Run, make_model: Callable) -> None:
    write_table("micrographs.star", new_table(["raw/mic0.mrc"], RATE, 300.0, 2.7, 0.1))
    before = Path("micrographs.star").read_bytes()
    result = cryoden("denoise", "micrographs.star", "--model", make_model(), "--output", ".")
    assert result.status == 2
    assert result.last_error == (
        "cryoden: micrographs.star would be overwritten by a result. Choose another --output folder."
    )
    assert Path("micrographs.star").read_bytes() == before


def test_raw_sums_of_the_same_names_are_never_overwritten(
    micrographs: Path, cryoden: Run, make_model: Callable
) -> None:
    write_mrc(Path("full/mic0.mrc"), np.random.default_rng(9).normal(size=(60, 70)))
    before = Path("full/mic0.mrc").read_bytes()
    result = cryoden("denoise", "raw/mic0.mrc", "--model", make_model(), "--output", "full")
    assert result.status == 2
    assert "full/mic0.mrc is there, and was not made by this command" in result.last_error
    assert Path("full/mic0.mrc").read_bytes() == before
    assert sorted(path.name for path in Path("full").iterdir()) == ["mic0.mrc"]


def test_results_of_several_models_in_one_folder_are_told_apart(
    micrographs: Path, cryoden: Run, make_model: Callable
) -> None:
    first, second = make_model(), make_model("other.safetensors", seed=2)
    assert cryoden("denoise", "raw/mic0.mrc", "--model", first, "--output", "out").status == 0
    assert cryoden("denoise", "raw/mic1.mrc", "--model", second, "--output", "out").status == 0
    for model, other in ((first, "mic1"), (second, "mic0")):
        result = cryoden("denoise", "raw/mic0.mrc", "raw/mic1.mrc", "--model", model, "--output", "out")
        assert result.status == 2
        assert f"out/{other}.mrc was made with other options" in result.last_error


def test_an_overwriting_that_was_killed_mixes_nothing(
    micrographs: Path, cryoden: Run, make_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_model(), make_model("other.safetensors", seed=2)
    words = ["denoise", "raw", "--output", "out", "--model"]
    assert cryoden(*words, first).status == 0
    old = {path: path.read_bytes() for path in sorted(Path("out").glob("*.mrc"))}
    write = MrcWriter.write_rows

    def until_killed(writer: MrcWriter, rows: np.ndarray) -> None:
        if "mic0" not in writer.path.name:
            raise KeyboardInterrupt
        write(writer, rows)

    monkeypatch.setattr(MrcWriter, "write_rows", until_killed)
    with pytest.raises(KeyboardInterrupt):
        cryoden(*words, second, "--overwrite")
    monkeypatch.undo()
    monkeypatch.chdir(micrographs.parent)

    assert cryoden(*words, first).status == 2
    assert cryoden(*words, second).status == 0
    assert all(path.read_bytes() != before for path, before in old.items())


def test_a_micrograph_that_was_replaced_is_denoised_again(
    micrographs: Path, cryoden: Run, make_model: Callable
) -> None:
    words = ["denoise", "raw", "--output", "out", "--model", make_model()]
    assert cryoden(*words).status == 0
    old = {path.name: path.read_bytes() for path in Path("out").glob("*.mrc")}
    write_mrc(Path("raw/mic1.mrc"), np.random.default_rng(77).normal(size=(60, 70)))
    assert cryoden(*words).status == 0
    new = {path.name: path.read_bytes() for path in Path("out").glob("*.mrc")}
    assert [name for name in sorted(old) if old[name] != new[name]] == ["mic1.mrc"]


def test_results_deleted_meanwhile_are_not_listed(
    micrographs: Path, cryoden: Run, make_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = MrcWriter.__exit__

    def and_delete(writer: MrcWriter, *raised: object) -> None:
        close(writer, *raised)
        for path in Path("out").glob("mic0.mrc"):
            path.unlink()

    monkeypatch.setattr(MrcWriter, "__exit__", and_delete)
    result = cryoden("denoise", "raw", "--model", make_model(), "--output", "out")
    assert result.status == 1
    assert "out/mic0.mrc was deleted while the command ran" in result.last_error
    assert "out/mic0.mrc" not in read_table("out/micrographs.star").paths


def test_micrographs_that_are_marked_as_halves_find_theirs(tmp_path: Path, cryoden: Run, make_model: Callable) -> None:
    rng = np.random.default_rng(3)
    for path in ("odd/x_ODD.mrc", "even/x_EVN.mrc"):
        write_mrc(Path(path), rng.normal(size=(60, 70)))
    words = ["denoise", "odd/x_ODD.mrc", "--odd", "odd", "--even", "even", "--model", make_model(), "--output", "out"]
    assert cryoden(*words).status == 0
    assert Path("out/x_ODD.mrc").is_file()
