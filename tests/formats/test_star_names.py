"""Names in STAR files: read as written, or refused by name; what we write we read again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, List

import numpy as np
import pandas as pd
import pytest
import starfile
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoden.errors import FileError
from cryoden.formats.images import open_movie_stack
from cryoden.formats.star import new_table, read_table, write_table
from cryoden.formats.star_text import quoted, read_blocks, write_blocks
from tests.helpers import Result, write_mrc

Run = Callable[..., Result]

ODD_NAMES = [
    "o'b.mrc", 'say "a".mrc', "'begins.mrc", '"begins.mrc', "ends'", "#hash.mrc", "a#b.mrc", "two words.mrc",
    "tab\tb.mrc", "_rlnName.mrc", "data_1.mrc", "loop_.mrc", ";semicolon.mrc", "", " ", "ümläut.mrc", "日本.mrc",
    "nan", "1e5", "<NA>", "a\xa0b.mrc", "form\x0cfeed.mrc", "line\u2028separator.mrc", "next\x85line.mrc",
    "\ufeffmark.mrc", os.fsdecode(b"not\xffutf8.mrc"), "both'\" .mrc", "$x$.mrc", "100%.mrc", "back\\slash.mrc",
    "a' b.mrc", 'a" b.mrc',
]  # fmt: skip


def roundtrip(path: Path, names: List[str]) -> List[str]:
    write_table(path, new_table(names, 1.5, 300, 2.7, 0.1))
    return read_table(path).paths


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_odd_names_survive(tmp_path: Path, name: str) -> None:
    assert roundtrip(tmp_path / "a.star", [name, "plain.mrc", name]) == [name, "plain.mrc", name]


def is_writable(name: str) -> bool:
    return not any(c in name for c in "\n\r\0") and not (
        any(mark in name for mark in ("' ", "'\t")) and any(mark in name for mark in ('" ', '"\t'))
    )


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" '\"#\t_"), max_size=8), min_size=1)
)
def test_any_name_survives_or_is_refused_by_name(tmp_path: Path, names: List[str]) -> None:
    if all(map(is_writable, names)):
        assert roundtrip(tmp_path / "a.star", names) == names
    else:
        with pytest.raises(FileError) as caught:
            roundtrip(tmp_path / "a.star", names)
        assert repr(next(name for name in names if not is_writable(name))) in str(caught.value)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_table_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.star"
    path.write_bytes(b"data_micrographs\nloop_\n_rlnMicrographName\n_b\n" + content)
    try:
        table = read_table(path)
    except FileError as error:
        assert str(path) in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert len(table.paths) >= 1


@pytest.mark.parametrize("name", ["line\nbreak.mrc", "return\r.mrc", "nothing\0.mrc", "a' b\" c.mrc"], ids=ascii)
def test_names_that_cannot_stand_in_a_star_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError) as caught:
        roundtrip(tmp_path / "a.star", [name])
    assert str(caught.value) == (
        f"The name {name!r} cannot stand in a STAR file: it has a line break, or both quotation marks before blanks. "
        "Rename it."
    )
    assert not list(tmp_path.iterdir())


def test_another_reader_agrees(tmp_path: Path) -> None:
    """starfile reads what we write, where it reads such names at all."""
    names = ["two words.mrc", "plain.mrc", "ümläut.mrc", "a-b_c.1.mrc", "tab\tb.mrc"]
    write_table(tmp_path / "a.star", new_table(names, 1.234567, 300, 2.7, 0.1))
    blocks = starfile.read(tmp_path / "a.star")
    assert list(blocks["micrographs"]["rlnMicrographName"]) == names
    assert float(blocks["optics"]["rlnMicrographPixelSize"].iloc[0]) == 1.234567


def test_what_another_writer_wrote(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"rlnMicrographName": ["a.mrc", "two words.mrc", "o'b.mrc"], "rlnDefocus": [1.5, -2e-9, np.nan]}
    )
    starfile.write({"micrographs": table}, tmp_path / "a.star")
    read = read_blocks(tmp_path / "a.star")["micrographs"]
    assert list(read["rlnMicrographName"]) == list(table["rlnMicrographName"])
    assert list(read["rlnDefocus"]) == ["1.500000", "-0.000000", "<NA>"]


def test_relion_layouts(tmp_path: Path) -> None:
    """Comments, trailing blanks, DOS line ends, single values, and a table without rows."""
    (tmp_path / "a.star").write_bytes(
        b"\xef\xbb\xbf# version 30001\r\n\r\ndata_general\r\n\r\n_rlnImageSizeX    4096 # px\r\n_rlnEmpty\r\n"
        b'_rlnName "my movie.tif"\r\n\r\ndata_empty\r\n\r\nloop_\r\n_rlnA #1\r\n\r\ndata_x\r\nloop_\r\n_rlnA #1\r\n'
        b"_rlnB #2\r\n   1.0   'b b' # why\r\n# a comment\r\n\r\n2.0 c#d   \r\n"
    )
    blocks = read_blocks(tmp_path / "a.star")
    assert list(blocks) == ["general", "empty", "x"]
    assert blocks["general"].to_dict("records") == [
        {"rlnImageSizeX": "4096", "rlnEmpty": "", "rlnName": "my movie.tif"}
    ]
    assert blocks["empty"].columns.tolist() == ["rlnA"]
    assert not len(blocks["empty"])
    assert blocks["x"].to_numpy().tolist() == [["1.0", "b b"], ["2.0", "c#d"]]


@pytest.mark.parametrize(
    ("rows", "number"),
    [("a.mrc", "1 value"), ("a.mrc 1 2", "3 values"), ("two words.mrc 1", "3 values"), ("'open.mrc 1 2", "3 values")],
)
def test_rows_of_another_length_are_named_by_their_line(tmp_path: Path, rows: str, number: str) -> None:
    path = tmp_path / "a.star"
    path.write_text(f"data_micrographs\nloop_\n_rlnMicrographName\n_b\nfirst.mrc 1\n{rows}\n")
    with pytest.raises(FileError) as caught:
        read_table(path)
    assert str(caught.value) == (
        f"{path}, line 6: {number} in a table of 2 columns. Mend this line; text with blanks is written in "
        "quotation marks."
    )


def test_columns_that_are_there_twice(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text("data_\nloop_\n_rlnMicrographName\n_rlnMicrographName\na b\n")
    with pytest.raises(FileError, match=r"a\.star: block '' has a column twice"):
        read_table(tmp_path / "a.star")


def test_numbers_are_written_as_before(tmp_path: Path) -> None:
    write_blocks(tmp_path / "a.star", {"x": pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan], "c": ["u", "v w"]})})
    assert (tmp_path / "a.star").read_text() == (
        '\ndata_x\n\nloop_\n_a #1\n_b #2\n_c #3\n1\t0.500000\tu\n2\t<NA>\t"v w"\n\n'
    )


def test_plain_tokens_are_not_quoted() -> None:
    """RELION 3.0 and many scripts split at blanks."""
    assert quoted("Movies/o'b#1.mrc") == "Movies/o'b#1.mrc"


PIXEL_SIZES = ["-4", "0", "nan", "inf", "-inf", "1e-9", "1e400", "wide", "", "2000", "1,5", "0x1", "<NA>", "--", "1.5A"]


@pytest.mark.parametrize("value", PIXEL_SIZES)
def test_pixel_sizes_that_are_none(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.star"
    table = new_table(["a.mrc"], 1.5, 300, 2.7, 0.1)
    table.optics["rlnMicrographPixelSize"] = [value]
    write_table(path, table)
    with pytest.raises(FileError) as caught:
        read_table(path).sampling_rate(0)
    assert str(caught.value) == (
        f"{path}: optics group 1 has rlnMicrographPixelSize {value}; it must be a number from 0.01 to 1000 Å/px. Mend "
        "the file. Give --sampling-rate."
    )


@pytest.mark.parametrize("value", ["-300", "nan", "high", "3e5", "0"])
def test_voltages_that_are_none(tmp_path: Path, value: str) -> None:
    table = new_table(["a.mrc"], 1.5, 300, 2.7, 0.1)
    table.optics["rlnVoltage"] = [value]
    write_table(tmp_path / "a.star", table)
    with pytest.raises(
        FileError, match=r"a\.star: optics group 1 has rlnVoltage .* from 1 to 10000 kV\. Mend the file\.$"
    ):
        read_table(tmp_path / "a.star").voltage(0)


@pytest.mark.parametrize("size", [-4.0, 0.0, float("nan"), float("inf"), 1e-9])
def test_absurd_pixel_sizes_are_not_written(tmp_path: Path, size: float) -> None:
    table = new_table(["a.mrc"], 1.5, 300, 2.7, 0.1)
    for make in (lambda: new_table(["a.mrc"], size, 300, 2.7, 0.1), lambda: table.with_images([0], ["b.mrc"], [size])):
        with pytest.raises(FileError, match=r"The pixel size is .* Å/px; it must be from 0\.01 to 1000\."):
            make()


def test_one_row_with_an_absurd_pixel_size_fails_alone(tmp_path: Path, cryoden: Run, blur_model: Path) -> None:
    for name in ("a", "b"):
        write_mrc(tmp_path / f"{name}.mrc", np.random.default_rng(1).normal(size=(64, 64)))
    (tmp_path / "m.star").write_text(
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnMicrographPixelSize\n1 4.0\n2 nan\n"
        "data_micrographs\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\na.mrc 1\nb.mrc 2\n"
    )
    result = cryoden("denoise", "m.star", "--model", blur_model, "--output", "out")
    assert result.status == 1, result.err
    assert "m.star: optics group 2 has rlnMicrographPixelSize nan" in result.last_error
    assert read_table("out/micrographs.star").paths == ["out/a.mrc"]


@pytest.mark.parametrize("name", [".", "/", "..", '""', "x" * 300 + ".mrc", "folder", "a/../../..", "none.mrc"])
def test_rows_that_name_no_file_fail_alone(tmp_path: Path, cryoden: Run, blur_model: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    write_mrc(tmp_path / "o'b #1.mrc", np.random.default_rng(1).normal(size=(64, 64)))
    (tmp_path / "m.star").write_text(f'data_micrographs\nloop_\n_rlnMicrographName\n{name}\n"o\'b #1.mrc"\n')
    result = cryoden("denoise", "m.star", "--model", blur_model, "--output", "out")
    assert result.status == 1, result.err
    assert result.last_error.startswith("cryoden: failed: ")
    assert [Path(path).name for path in read_table("out/micrographs.star").paths] == ["o'b #1.mrc"]


@pytest.mark.parametrize("name", ["x" * 300 + ".mrc", "y/" * 3000, "\x1b[31mred.mrc", "closed/a.mrc", "circle.mrc"])
def test_arguments_that_name_no_file_fail_alone(tmp_path: Path, cryoden: Run, blur_model: Path, name: str) -> None:
    (tmp_path / "circle.mrc").symlink_to("circle.mrc")
    write_mrc(tmp_path / "good.mrc", np.random.default_rng(1).normal(size=(64, 64)))
    result = cryoden("denoise", name, "good.mrc", "--model", blur_model, "--folders", "flat", "--output", "out")
    assert result.status == 1, result.err
    assert "should not have happened" not in result.err
    assert "\x1b" not in result.err
    assert Path("out/good.mrc").is_file()


def test_a_name_that_no_star_file_can_hold_fails_alone(tmp_path: Path, cryoden: Run, blur_model: Path) -> None:
    for name in ("line\nbreak.mrc", "good.mrc"):
        write_mrc(tmp_path / "in" / name, np.random.default_rng(1).normal(size=(64, 64)))
    result = cryoden("denoise", "in", "--model", blur_model, "--output", "out")
    assert result.status == 1, result.err
    assert result.last_error.startswith("cryoden: failed: in/line\\nbreak.mrc: The name 'in/line\\nbreak.mrc' cannot")
    assert read_table("out/micrographs.star").paths == ["out/good.mrc"]


@pytest.mark.parametrize("is_tiff_flipped", [False, True])
@pytest.mark.parametrize("ending", [".mrc", ".tif", ".eer"])
def test_movies_that_no_star_file_can_name_are_not_opened(tmp_path: Path, ending: str, is_tiff_flipped: bool) -> None:
    path = tmp_path / f"line\nbreak{ending}"
    tifffile.imwrite(str(path), np.ones((2, 8, 8), np.uint8))
    with pytest.raises(FileError, match="cannot stand in a STAR file"):
        open_movie_stack(path, is_tiff_flipped=is_tiff_flipped)
