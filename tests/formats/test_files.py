from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cryoden.errors import FileError
from cryoden.formats import files
from cryoden.formats.files import make_folder, mrc_name, read_json, real_path, real_paths, whole_file, write_json
from tests.helpers import leftovers


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a.txt") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_finished_write_replaces_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert (tmp_path / "a.txt").read_text() == "new"


def test_json_survives(tmp_path: Path) -> None:
    content = {"b": [1, 2.5, None], "a": {"c": "µ"}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content


def test_write_into_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"a\.json cannot be written \(No such file or directory\)"):
        write_json(tmp_path / "none" / "a.json", {})


def test_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(FileError) as caught:
        make_folder(tmp_path / "out")
    assert str(caught.value) == f"Output folder {tmp_path / 'out'} cannot be written (File exists)."


def test_proof_of_a_folder_leaves_nothing(tmp_path: Path) -> None:
    assert list(make_folder(tmp_path / "a" / "b").iterdir()) == []


def test_threads_may_make_the_same_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(make_folder, [tmp_path / "a"] * 2000)) == {tmp_path / "a"}
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize(
    ("path", "name"),
    [("x/mic.tif", "mic.mrc"), ("mic.v1.mrcs", "mic.v1.mrc"), ("mic.mrc", "mic.mrc"), ("mic.map", "mic.mrc")],
)
def test_result_keeps_the_name_of_its_input(path: str, name: str) -> None:
    assert mrc_name(path) == name


def test_many_files_are_where_each_of_them_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links to files and folders are followed, though each folder is looked at once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    (tmp_path / "link_to_folder").symlink_to("a/b")
    (tmp_path / "link_to_file").symlink_to("a/file")
    (tmp_path / "circle").symlink_to("circle")
    paths = [
        "a/file", "a/new", "link_to_file", "link_to_folder/new", "link_to_folder/../file", "a/b/..", "a/", ".", "",
        "circle", "circle/x", "nowhere/x", str(tmp_path / "a/file"), "a//file", "./a/./file",
    ]  # fmt: skip
    assert real_paths(paths) == [real_path(path) for path in paths]
    asked = []
    monkeypatch.setattr(files, "real_path", lambda path: asked.append(path) or str(path))
    real_paths([f"a/{number}" for number in range(100)])
    assert asked == ["a"]
