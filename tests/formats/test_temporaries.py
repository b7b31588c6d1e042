"""Files under temporary names: they fit every file system, say whose they are, and go when their process is gone."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import pytest

from cryoden.errors import FileError, FullDiskError
from cryoden.formats.arrays import opened_arrays, write_arrays
from cryoden.formats.files import append_line, remove_dead_temporaries, whole_file, write_json
from cryoden.formats.model_file import ModelCard, write_model
from cryoden.formats.mrc import write_image
from cryoden.formats.star import new_table, write_table
from cryoden.formats.thumbnails import write_thumbnail
from cryoden.system import host
from tests.helpers import ROOT, Result, leftovers, write_mrc

Run = Callable[..., Result]


@pytest.mark.parametrize("name", ["x" * 255, "x" * 251 + ".mrc", "ü" * 127, "日" * 85, "x" * 235, "x" * 200])
def test_any_name_that_the_file_system_takes(tmp_path: Path, name: str) -> None:
    """The suffix of the temporary name made names of 235 bytes and more impossible."""
    (tmp_path / name).write_text("plain")
    with whole_file(tmp_path / name) as temporary:
        temporary.write_text("new")
        assert len(os.fsencode(temporary.name)) <= 255
    assert (tmp_path / name).read_text() == "new"
    assert leftovers(tmp_path) == []


def test_two_long_names_do_not_meet(tmp_path: Path) -> None:
    with whole_file(tmp_path / ("x" * 250 + "1")) as first, whole_file(tmp_path / ("x" * 250 + "2")) as second:
        assert first != second
        first.touch()
        second.touch()


def test_name_that_is_too_long_for_the_file_system(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot be written \(File name too long\)"):
        write_json(tmp_path / ("x" * 256), {})
    assert leftovers(tmp_path) == []


def test_micrograph_with_a_long_name(tmp_path: Path, cryoden: Run, blur_model: Path) -> None:
    name = "x" * 251 + ".mrc"
    write_mrc(tmp_path / name, np.random.default_rng(1).normal(size=(64, 64)))
    result = cryoden("denoise", name, "--model", blur_model, "--output", "out")
    assert result.status == 0, result.err
    assert (tmp_path / "out" / name).is_file()


def test_temporary_name_says_file_host_and_process(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.mrc") as temporary:
        temporary.touch()
        assert re.fullmatch(rf"\.a\.mrc\.[A-Za-z0-9_-]+\.{os.getpid()}\.\d+\.part", temporary.name)


def temporary_of(process: int, name: str = "a.mrc") -> str:
    """Return the name that another process of this host would use."""
    with whole_file(Path(name)) as temporary:
        temporary.touch()
        return temporary.name.replace(f".{os.getpid()}.", f".{process}.")


@pytest.fixture
def dead_process() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_what_dead_processes_of_this_host_left_is_removed(tmp_path: Path, dead_process: int) -> None:
    (tmp_path / "out" / "full").mkdir(parents=True)
    dead, alive = temporary_of(dead_process), temporary_of(1)
    (tmp_path / "a.mrc").unlink()
    kept = [alive, temporary_of(os.getpid()), dead.replace(".a.mrc.", ".a.mrc.another-"), ".a.mrc.12.345.part",
            ".patches.part", "a.part", "movie.mrc", f"not-hidden{dead}"]  # fmt: skip
    for name in (dead, *kept):
        (tmp_path / "out" / name).touch()
        (tmp_path / "out" / "full" / name).touch()
    (tmp_path / "out" / "a.mrc").touch()
    removed = remove_dead_temporaries(tmp_path / "out")
    assert sorted(removed) == sorted([tmp_path / "out" / dead, tmp_path / "out" / "full" / dead])
    assert sorted(path.name for path in (tmp_path / "out" / "full").iterdir()) == sorted(kept)
    assert remove_dead_temporaries(tmp_path / "out") == []


def test_temporaries_of_containers_that_share_a_host_name_are_told_apart(
    tmp_path: Path, dead_process: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "FIRST_PROCESSES", 1)  # so this is a container
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / temporary_of(dead_process)).touch()
    monkeypatch.undo()
    assert not remove_dead_temporaries(tmp_path / "out") or os.stat("/proc/self/ns/pid").st_ino != 0xEFFFFFFC


def test_folder_that_is_not_there_has_no_temporaries(tmp_path: Path) -> None:
    assert remove_dead_temporaries(tmp_path / "none") == []


KILLED = """
import os, signal, sys
from cryoden.formats.files import whole_file
with whole_file(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left(tmp_path: Path) -> None:
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / ("x" * 250))], env=environment, check=False)
    assert len(leftovers(tmp_path)) == 1
    assert len(remove_dead_temporaries(tmp_path)) == 1
    assert leftovers(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a disk of 64 kB with room for a few files."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=8", "tmpfs", str(disk)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


NOISE = np.random.default_rng(1).normal(size=(300, 300)).astype(np.float32)


def write_whole_image(path: Path) -> None:
    with whole_file(path) as temporary:
        write_image(temporary, NOISE, 1.0)


WRITERS = {
    "a.json": lambda path: write_json(path, ["x" * 100] * 5000),
    "b.npz": lambda path: write_arrays(path, {"small": np.ones(3), "large": NOISE}),
    "c.npz": lambda path: write_arrays(path, {"large": NOISE}, compress=True),
    "d.mrc": write_whole_image,
    "e.star": lambda path: write_table(path, new_table([f"{n:060}.mrc" for n in range(5000)], 1.0, 300, 2.7, 0.1)),
    "f.safetensors": lambda path: write_model(path, {"w": NOISE}, ModelCard("cnn3", (), 1.0)),
    "g.jsonl": lambda path: append_line(path, "x" * 200_000),
    "h.png": lambda path: write_thumbnail(path, np.kron(NOISE, np.ones((3, 3)))),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.filterwarnings("error")
def test_full_disk(small_disk: Path, name: str) -> None:
    """Nothing half-written stays, nothing complains when it is collected, and the error is one of its own."""
    with pytest.raises(FullDiskError) as caught:
        WRITERS[name](small_disk / name)
    assert str(caught.value).startswith(f"The disk is full: {small_disk / name} cannot be written. ")
    assert [path.name for path in small_disk.iterdir() if path.suffix == ".part" or path.name != "g.jsonl"] == []


@pytest.mark.parametrize("name", WRITERS)
def test_no_inodes_left(small_disk: Path, name: str) -> None:
    for number in range(7):
        (small_disk / f"{number}").touch()
    with pytest.raises(FullDiskError):
        WRITERS[name](small_disk / name)


@pytest.mark.parametrize("name", WRITERS)
def test_limit_of_file_sizes(tmp_path: Path, name: str) -> None:
    """`ulimit -f`, everywhere: Python ignores its signal, so that writing fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(FileError) as caught:
            WRITERS[name](tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value) == f"{tmp_path / name} cannot be written (File too large)."
    assert leftovers(tmp_path) == []


def test_arrays_survive(tmp_path: Path) -> None:
    arrays = {"a": NOISE, "names": np.array(["x", "ü"]), "empty": np.empty((0, 2)), "number": 3.5}
    for compress in (False, True):
        write_arrays(tmp_path / "a.npz", arrays, compress)
        with opened_arrays(tmp_path / "a.npz", "again") as file:
            assert set(file.files) == set(arrays)
            for name, array in arrays.items():
                np.testing.assert_array_equal(file[name], array)


def test_objects_are_not_pickled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        write_arrays(tmp_path / "a.npz", {"a": np.array([{}])})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", range(0, 360, 7))
def test_damaged_arrays(tmp_path: Path, place: int) -> None:
    """Every byte of the archive is damaged once, among them the method of compression and the type of the array."""
    write_arrays(tmp_path / "a.npz", {"a": np.arange(4)})
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[place % len(content)] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(bytes(content))
    found: Any = None
    try:
        with opened_arrays(tmp_path / "a.npz", "make it again") as file:
            found = file["a"]
    except FileError as error:
        assert str(error).endswith("; make it again.")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        np.testing.assert_array_equal(found, np.arange(4))
