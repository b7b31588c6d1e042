from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest

from cryoden.errors import FileError
from cryoden.formats.star import new_table, read_table, require_in_project, star_path, write_table
from tests.helpers import RATE, Result, write_halves

TWO_GROUPS = """
data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographPixelSize #3
_rlnVoltage #4
{first} 1 1.234567 300.0
{second} 2 2.5 200.0

data_micrographs

loop_
_rlnMicrographName #1
_rlnCtfMaxResolution #2
_rlnOpticsGroup #3
_extra #4
{names}
"""


def write_star(path: Path, rows: str, first: str = "left", second: str = "right") -> Path:
    path.write_text(TWO_GROUPS.format(names=rows, first=first, second=second))
    return path


def again(path: Path) -> Path:
    """Read a table and write it beside."""
    write_table(path.with_name("again.star"), read_table(path))
    return path.with_name("again.star")


def test_optics_groups_and_columns_survive(tmp_path: Path) -> None:
    first = read_table(write_star(tmp_path / "a.star", "a.mrc 3.25 1 x\nb.mrc 4.5 2 y\nc.mrc 5.5 1 z"))
    second = read_table(again(tmp_path / "a.star"))
    assert second.optics.equals(first.optics)
    assert second.images.equals(first.images)
    assert list(second.images["extra"]) == ["x", "y", "z"]


def test_each_image_has_the_pixel_size_of_its_group(tmp_path: Path) -> None:
    table = read_table(write_star(tmp_path / "a.star", "a.mrc 3.25 1 x\nb.mrc 4.5 2 y"))
    assert [table.sampling_rate(row) for row in (0, 1)] == [1.234567, 2.5]


def test_image_names_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    names = ["0012", "1e5", "1.10", "nan"]
    rows = "\n".join(f"{name} 3.2 1 x" for name in names)
    write_star(tmp_path / "a.star", rows)
    assert read_table(tmp_path / "a.star").paths == names
    assert read_table(again(tmp_path / "a.star")).paths == names


def test_other_words_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    write_star(tmp_path / "a.star", "a.mrc 3.2 1 0007\nb.mrc 3.2 2 0010", "001", "002")
    text = again(tmp_path / "a.star").read_text()
    assert "001" in text
    assert "0007" in text


def test_small_numbers_keep_their_digits(tmp_path: Path) -> None:
    write_star(tmp_path / "a.star", "a.mrc 3.2 1 1.234e-7\nb.mrc 12345.678912 2 2.5e-7")
    table = read_table(again(tmp_path / "a.star"))
    assert list(table.images["extra"]) == ["1.234e-7", "2.5e-7"]
    assert list(table.images["rlnCtfMaxResolution"]) == ["3.2", "12345.678912"]


def test_half_names_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text(
        "data_micrographs\nloop_\n_rlnMicrographName\n_cryodenName\na.mrc 1.1\nb.mrc 1.10\n"
    )
    assert list(read_table(tmp_path / "a.star").images["cryodenName"]) == ["1.1", "1.10"]


def test_names_with_blanks_survive(tmp_path: Path) -> None:
    write_table(tmp_path / "a.star", new_table(["my data/a.mrc", "b.mrc"], 1.5, 300, 2.7, 0.1))
    assert read_table(tmp_path / "a.star").paths == ["my data/a.mrc", "b.mrc"]


def test_new_table_has_what_it_was_given(tmp_path: Path) -> None:
    write_table(tmp_path / "a.star", new_table(["a.mrc"], 1.5, 200, 1.4, 0.07))
    optics = read_table(tmp_path / "a.star").optics.iloc[0]
    labels = ("rlnMicrographPixelSize", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
    assert [float(optics[label]) for label in labels] == [1.5, 200, 1.4, 0.07]


def test_table_of_one_image_can_be_read(tmp_path: Path) -> None:
    write_table(tmp_path / "a.star", new_table(["a.mrc"], 1.5, 300, 2.7, 0.1))
    assert read_table(tmp_path / "a.star").paths == ["a.mrc"]


def test_relion_30_file_gets_one_optics_group(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text("data_\nloop_\n_rlnMicrographName #1\na.mrc\nb.mrc\n")
    table = read_table(tmp_path / "a.star")
    assert table.paths == ["a.mrc", "b.mrc"]
    assert table.sampling_rate(1) is None


def test_movies_become_micrographs_with_the_rest_kept(tmp_path: Path) -> None:
    (tmp_path / "m.star").write_text(
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnMicrographOriginalPixelSize\n1 0.8\n2 0.9\n"
        "data_movies\nloop_\n_rlnMicrographMovieName\n_rlnOpticsGroup\n_mine\na.tif 1 p\nb.tif 2 q\nc.tif 1 r\n"
    )
    table = read_table(tmp_path / "m.star").with_images([0, 1], ["x/a.mrc", "x/b.mrc"], [1.6, 0.9])
    assert list(table.images.columns) == ["rlnMicrographName", "rlnOpticsGroup", "mine"]
    assert table.paths == ["x/a.mrc", "x/b.mrc"]
    assert [table.sampling_rate(row) for row in (0, 1)] == [1.6, 0.9]


def test_star_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text("data_model\nloop_\n_rlnClass\n1\n2\n")
    with pytest.raises(FileError) as caught:
        read_table(tmp_path / "a.star")
    assert str(caught.value) == (
        f"{tmp_path / 'a.star'} lists no micrographs: it has no column rlnMicrographName or "
        "rlnMicrographMovieName. Give another STAR file."
    )


@pytest.mark.parametrize("content", [b"", b"just words\n", b"data_x\nloop_\n_a\n_b\n1\n2 3 4\n", b"\xff\xfe\x00\x80"])
def test_file_that_is_no_star(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.star").write_bytes(content)
    with pytest.raises(FileError, match=r"a\.star"):
        read_table(tmp_path / "a.star")


def test_optics_without_groups_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text(
        "data_optics\nloop_\n_rlnVoltage\n300\n300\ndata_micrographs\nloop_\n_rlnMicrographName\na.mrc\nb.mrc\n"
    )
    with pytest.raises(FileError, match=r"a\.star"):
        read_table(tmp_path / "a.star").sampling_rate(0)


def test_paths_below_the_working_folder_are_relative_as_in_relion(tmp_path: Path) -> None:
    assert star_path(tmp_path / "job" / "a.mrc") == os.path.join("job", "a.mrc")


def test_paths_elsewhere_are_absolute(tmp_path: Path) -> None:
    assert star_path(tmp_path.parent / "a.mrc") == str(tmp_path.parent / "a.mrc")


def test_names_that_begin_with_dots_are_still_below_the_working_folder(tmp_path: Path) -> None:
    assert star_path(tmp_path / "..odd" / "a.mrc") == os.path.join("..odd", "a.mrc")


# ------------------------------------------------------------------ a STAR file that is read elsewhere
def test_a_star_file_read_elsewhere_says_where_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    star, names = tmp_path / "project/MotionCorr/job002/a.star", ["Movies/a.mrc", "Movies/b.mrc"]
    for file in (star, *(tmp_path / "project" / name for name in names)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(FileError) as error:
        require_in_project(star, names)
    assert error.value.problem.message == (
        f"{star} lists files relative to the folder of its project, such as Movies/a.mrc, and none of them is found "
        f"from {elsewhere}. Start in {tmp_path / 'project'}."
    )
    (tmp_path / "copy.star").touch()
    with pytest.raises(FileError, match=r"Start in that folder\.$"):
        require_in_project(tmp_path / "copy.star", names)


def test_a_star_file_whose_files_were_deleted_is_read_in_the_right_place(tmp_path: Path) -> None:
    (tmp_path / "Movies").mkdir()
    require_in_project("a.star", ["Movies/a.mrc", "Movies/b.mrc"])


def test_star_files_that_are_read_in_their_project_are_not_refused(tmp_path: Path) -> None:
    (tmp_path / "b.mrc").touch()
    require_in_project("a.star", ["a.mrc", "b.mrc"])  # one is missing: that item fails
    require_in_project("a.star", ["/nowhere/a.mrc"])
    require_in_project("a.star", [])
    require_in_project("folder", ["gone.mrc"])


@pytest.mark.parametrize("command", ["halves", "denoise", "train", "evaluate"])
def test_every_command_says_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cryoden: Callable[..., Result], make_model: Callable[..., Path],
    command: str,
) -> None:  # fmt: skip
    model = make_model("m.safetensors").resolve()
    write_halves(tmp_path, n=3)
    for half in ("odd", "even"):
        table = new_table([f"{half}/mic{number}.mrc" for number in range(3)], RATE, 300, 2.7, 0.1)
        write_table(tmp_path / f"{half}.star", table)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for half in ("odd", "even"):
        (elsewhere / f"{half}.star").write_bytes((tmp_path / f"{half}.star").read_bytes())
    monkeypatch.chdir(elsewhere)
    for half in ("odd", "even"):
        (tmp_path / half).rename(tmp_path / f"moved_{half}")  # no folder above the STAR file is the project's any more
    words = {
        "halves": ["odd.star"],
        "denoise": ["odd.star", "--model", model],
        "train": ["--odd", "odd.star", "--even", "even.star"],
        "evaluate": ["--odd", "odd.star", "--even", "even.star"],
    }[command]
    result = cryoden(command, *words, "--output", "out")
    assert result.status == 2
    assert result.last_error.endswith(
        f"such as odd/mic0.mrc, and none of them is found from {elsewhere}. Start in that folder."
    )
    assert "mic1.mrc" not in result.err
