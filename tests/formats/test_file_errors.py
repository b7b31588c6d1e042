"""Whatever the system says of a file, every reader says it in one line that names the file."""

from __future__ import annotations

import errno
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import numpy as np
import pytest

from cryoden.errors import FileError, FullDiskError
from cryoden.formats.arrays import opened_arrays
from cryoden.formats.bundle import read_array, read_index
from cryoden.formats.eer import EerRendering, EerStack
from cryoden.formats.file_errors import reason, writing_errors
from cryoden.formats.files import digest, make_folder, read_json, whole_file, working_folder, write_json
from cryoden.formats.images import open_movie_stack, read_micrograph
from cryoden.formats.model_file import read_card
from cryoden.formats.patch_file import open_patches, value_range
from cryoden.formats.star import read_global_shifts, read_table, star_path
from cryoden.formats.tiff import TiffStack
from tests.helpers import write_mrc


def npz(path: Path) -> None:
    with opened_arrays(path, "make it again"):
        pass


READERS: Dict[str, Callable[[Path], Any]] = {
    "a.mrc": read_micrograph,
    "b.mrc.gz": read_micrograph,
    "c.mrc.bz2": read_micrograph,
    "d.tif": TiffStack,
    "e.eer": lambda path: open_movie_stack(path, EerRendering(2)),
    "f.star": read_table,
    "g.star": read_global_shifts,
    "h.json": read_json,
    "i.safetensors": read_card,
    "j.npz": npz,
    "k.bin": value_range,
    "l.bin": digest,
    "m.bin": lambda path: read_array(path, (1,), "C"),
}
each_reader = pytest.mark.parametrize("name", READERS)


def problem_of(name: str, path: Path) -> str:
    """Return what a reader says of a file that it cannot read."""
    with pytest.raises(FileError) as caught:
        READERS[name](path)
    text = str(caught.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


@each_reader
def test_missing(tmp_path: Path, name: str) -> None:
    assert str(tmp_path / name) in problem_of(name, tmp_path / name)


@each_reader
def test_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert str(tmp_path / name) in problem_of(name, tmp_path / name)


@each_reader
def test_links_in_a_circle(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / name)
    text = problem_of(name, tmp_path / name)
    assert str(tmp_path / name) in text


@each_reader
def test_disk_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    """/proc/self/mem is a file that opens, and whose first byte cannot be read: EIO."""
    (tmp_path / name).symlink_to("/proc/self/mem")
    assert str(tmp_path / name) in problem_of(name, tmp_path / name)


@each_reader
@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO], ids=errno.errorcode.get)
def test_file_that_cannot_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Stale handles, damaged servers and forbidden folders fail when the file is looked for."""
    path = tmp_path / name
    path.write_bytes(b"1234")

    def failing(call: Callable) -> Callable:
        def fail(file: Any, *words: Any, **named: Any) -> Any:
            if str(file) == str(path):
                raise OSError(number, os.strerror(number), str(path))
            return call(file, *words, **named)

        return fail

    for module, function in ((os, "stat"), (os, "open"), (os, "lstat")):
        monkeypatch.setattr(module, function, failing(getattr(module, function)))
    monkeypatch.setattr("builtins.open", failing(open))
    text = problem_of(name, path)
    assert str(path) in text


@each_reader
@pytest.mark.parametrize(
    "word", ["", "a\0b", "\ud800", "x" * 300, "y/" * 3000], ids=["empty", "NUL", "surrogate", "long", "deep"]
)
def test_names_that_no_file_can_have(tmp_path: Path, name: str, word: str) -> None:
    text = problem_of(name, Path(f"{tmp_path}/{word}/{name}") if word else Path(name))
    assert text.encode("ascii", "backslashreplace")  # it can be printed


@each_reader
def test_unreadable_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "closed").mkdir()
    path = tmp_path / "closed" / name
    path.write_bytes(b"1234")
    with as_somebody_else(tmp_path / "closed"):
        assert str(path) in problem_of(name, path)


@contextmanager
def as_somebody_else(folder: Path) -> Iterator[None]:
    """Lose the right to enter a folder; root has it whatever the mode says, so root becomes another user."""
    folder.chmod(0)
    user = os.geteuid()
    if not user:
        os.seteuid(65534)
    try:
        yield
    finally:
        if not user:
            os.seteuid(0)
        folder.chmod(0o700)


def test_what_is_read_by_rows_ends_in_the_middle(tmp_path: Path) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.ones((40, 40)))
    stack = open_movie_stack(path)
    with open(path, "r+b") as file:
        file.truncate(3000)
    with pytest.raises(FileError, match=r"a\.mrc is truncated: its header promises 7424 bytes but it has 3000"):
        stack.read_rows(0, 0, 40)


def test_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").symlink_to("/proc/self/mem")
    with pytest.raises(FileError, match=r"manifest\.json cannot be read"):
        open_patches(tmp_path)


def test_index_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "index.json").mkdir()
    with pytest.raises(FileError, match=r"holds no index\.json"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"\xff\xfe\0", b"{", b"1" * 5000 + b"e", b'{"a": 1}}'], ids=range(5)
)
def test_json_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(FileError, match=r"a\.json is not a JSON file \([^\n]+\); check what it is\.$"):
        read_json(tmp_path / "a.json")


def test_words_of_a_decoder_become_one_line_of_sensible_length() -> None:
    assert reason(ValueError("first\n  second\n")) == "first second"
    assert reason(KeyError()) == "KeyError"
    assert len(reason(ValueError("x" * 10_000))) < 300


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_full_disk_is_an_error_of_its_own(number: int) -> None:
    with pytest.raises(FullDiskError, match=r"The disk is full: a\.mrc cannot be written\."), writing_errors("a.mrc"):
        raise OSError(number, "no space")


def test_working_folder_that_was_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for ask in (working_folder, lambda: star_path("a.mrc")):
        with pytest.raises(FileError, match="The working folder is gone"):
            ask()
    with pytest.raises(FileError, match=r"a\.json cannot be written"):
        write_json("a.json", {})


@pytest.mark.parametrize("name", ["", "out\nput", "a\rb", "a\0b"])
def test_output_folders_without_a_sensible_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError):
        make_folder(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["/", ".", "", "a\0b", "\ud800"])
def test_results_without_a_name(name: str) -> None:
    with pytest.raises(FileError), whole_file(name):
        pass


def test_eer_of_absurd_size(tmp_path: Path) -> None:
    from tests.eer import random_events, write_eer

    events = [random_events(np.random.default_rng(1), (32, 32), 20)] * 2
    path = write_eer(tmp_path / "m.eer", (32, 32), events)
    content = path.read_bytes()
    (1 << 30).to_bytes(8, "little")
    entry = (257).to_bytes(2, "little") + (4).to_bytes(2, "little") + (1).to_bytes(8, "little")
    path.write_bytes(content.replace(entry + (32).to_bytes(8, "little"), entry + (1 << 30).to_bytes(8, "little")))
    with pytest.raises(FileError, match=r"m\.eer has pages of 32 x 1073741824 px"):
        EerStack(path, EerRendering(2))


def test_json_travels_in_ascii(tmp_path: Path) -> None:
    """Names that are not UTF-8 come back as they were."""
    content = {"name": os.fsdecode(b"a\xff.mrc")}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert json.loads((tmp_path / "a.json").read_bytes().decode("ascii")) == content
