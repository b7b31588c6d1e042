"""Halves as other programs leave them, layout by layout."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, List, Tuple

import numpy as np
import pytest

from cryoden.data.half_sources import full_sum_of, half_mark, half_name, list_halves, list_trios
from cryoden.data.pairs import find_pairs
from cryoden.errors import PairError
from tests.helpers import RATE, Result, two_halves, write_halves, write_mrc

Run = Callable[..., Result]


def write_movie(folder: Path, number: int, full: str, odd: str, even: str) -> None:
    """Write a full sum and its halves under names of their own, below a folder."""
    _, a, b = two_halves((96, 96), number, 1.0)
    for name, image in ((full, a + b), (odd, a), (even, b)):
        write_mrc(folder / name, image)


def found(odd: str, even: str) -> List[Tuple[str, str, str]]:
    pairs, failures = find_pairs(odd, even)
    assert not failures
    return [(pair.name, pair.odd, pair.even) for pair in pairs]


def write_star(path: Path, rows: List[str], columns: str) -> None:
    labels = "\n".join(f"_{column}" for column in columns.split())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["data_micrographs", "loop_", labels, *rows, ""]))


def write_relion_tomography(project: Path) -> None:
    """RELION 5 in tomography mode: the columns name the halves; files of no particular name."""
    rows = []
    for number in range(3):
        write_movie(project / "MC", number, f"m{number}.mrc", f"first/{number}.mrc", f"second/{number}.mrc")
        rows.append(f"MC/m{number}.mrc MC/second/{number}.mrc MC/first/{number}.mrc")
    write_star(project / "MC/tilts.star", rows, "rlnMicrographName rlnMicrographNameEven rlnMicrographNameOdd")


def write_relion_single_particles(project: Path) -> None:
    """RELION 5 with --even_odd_split: the STAR file lists the (weighted) full sums, the halves lie beside them."""
    rows = []
    for number in range(3):
        name = f"MC/movies/m{number}"
        write_movie(project, number, f"{name}.mrc", f"{name}_ODD.mrc", f"{name}_EVN.mrc")
        write_mrc(project / f"{name}_noDW.mrc", np.eye(96))
        rows.append(f"{name}.mrc")
    write_star(project / "MC/corrected_micrographs.star", rows, "rlnMicrographName")


def write_motioncor(project: Path) -> None:
    """MotionCor with dose weights: full and weighted sums, halves with and without weights."""
    for number in range(3):
        name = f"MC/m{number}"
        write_movie(project, number, f"{name}.mrc", f"{name}_ODD.mrc", f"{name}_EVN.mrc")
        for mark in ("_DW", "_DWS", "_DW_ODD", "_DW_EVN"):
            write_mrc(project / f"{name}{mark}.mrc", np.eye(96))


def write_warp(project: Path) -> None:
    for number in range(3):
        write_movie(project / "average", number, f"m{number}.mrc", f"odd/m{number}.mrc", f"even/m{number}.mrc")


LAYOUTS = {
    "relion tomography": (write_relion_tomography, "MC/tilts.star", "MC/first/{}.mrc", "MC/second/{}.mrc"),
    "relion": (
        write_relion_single_particles, "MC/corrected_micrographs.star", "MC/movies/m{}_ODD.mrc",
        "MC/movies/m{}_EVN.mrc",
    ),
    "motioncor": (write_motioncor, "MC", "MC/m{}_ODD.mrc", "MC/m{}_EVN.mrc"),
    "warp": (write_warp, "average", "average/odd/m{}.mrc", "average/even/m{}.mrc"),
    "warp, folder of the processing": (write_warp, ".", "average/odd/m{}.mrc", "average/even/m{}.mrc"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_source_holds_both_halves(tmp_path: Path, layout: str) -> None:
    write, source, odd, even = LAYOUTS[layout]
    write(tmp_path)
    assert found(source, source) == [(f"m{number}", odd.format(number), even.format(number)) for number in range(3)]


@pytest.mark.parametrize(
    ("layout", "full"),
    [("relion tomography", "MC/m{}.mrc"), ("relion", "MC/movies/m{}.mrc"), ("motioncor", "MC/m{}.mrc"),
     ("warp", "average/m{}.mrc")],
)  # fmt: skip
def test_full_sums_are_found_with_the_halves(tmp_path: Path, layout: str, full: str) -> None:
    write, source, odd, even = LAYOUTS[layout]
    write(tmp_path)
    (tmp_path / full.format(1)).unlink()
    trios = list_trios(source, source)
    assert [trio.full for trio in trios] == [full.format(0), None, full.format(2)]
    assert (trios[2].odd, trios[2].even) == (odd.format(2), even.format(2))


def test_folder_of_our_own_halves_holds_both(tmp_path: Path) -> None:
    write_halves(tmp_path / "halves", 2)
    assert found("halves", "halves") == [
        (f"mic{n}", f"halves/odd/mic{n}.mrc", f"halves/even/mic{n}.mrc") for n in (0, 1)
    ]


@pytest.mark.parametrize("layout", ["relion tomography", "relion", "motioncor", "warp"])
def test_show_train_and_evaluate_take_every_layout(tmp_path: Path, cryoden: Run, layout: str) -> None:
    write, source, *_ = LAYOUTS[layout]
    write(tmp_path)
    halves = ("--odd", source, "--even", source)
    shown = cryoden("show", *halves, "--output", "s", "--micrographs", 3)
    assert "3 of 3 micrographs are shown" in shown.out
    if layout == "relion tomography":  # the other two find their pairs with the same function
        quick = ("--network", "cnn3", "--epochs", 1, "--crop", 32, "--min-batches", 2)
        assert cryoden("train", *halves, "--output", "t", *quick).status == 0
        evaluated = cryoden(
            "evaluate", *halves, "--output", "e", "--model", "t/model.safetensors", "--scored", "all", "--topaz", "no",
            "--bootstrap", 10,
        )  # fmt: skip
        assert "3 of 3 micrographs are evaluated" in evaluated.out


def test_star_of_another_folder_names_files_from_its_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_relion_tomography(tmp_path / "project")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    star = "../project/MC/tilts.star"
    project = tmp_path / "project"
    assert found(star, star)[2] == ("m2", str(project / "MC/first/2.mrc"), str(project / "MC/second/2.mrc"))


def test_row_of_a_full_sum_without_halves_is_named(tmp_path: Path) -> None:
    write_relion_single_particles(tmp_path)
    for half in ("ODD", "EVN"):
        (tmp_path / f"MC/movies/m1_{half}.mrc").unlink()
    star = "MC/corrected_micrographs.star"
    pairs, failures = find_pairs(star, star)
    assert [pair.name for pair in pairs] == ["m0", "m2"]
    assert failures["m1"].text().startswith("MC/movies/m1_ODD.mrc does not exist")


def test_list_of_full_sums_alone_is_refused(tmp_path: Path) -> None:
    """Before, both halves were the full sum."""
    write_mrc(tmp_path / "a.mrc", np.eye(40))
    write_star(tmp_path / "m.star", ["a.mrc"], "rlnMicrographName")
    with pytest.raises(PairError, match=r"Both halves of 'a' are the same file a\.mrc"):
        find_pairs("m.star", "m.star")


def test_weighted_halves_alone_are_taken(tmp_path: Path) -> None:
    for name in ("a_DW_ODD", "a_DW_EVN", "a_DW", "a", "b_ODD_DW", "b_EVN_DW"):
        write_mrc(tmp_path / "MC" / f"{name}.mrc", np.eye(40))
    assert found("MC", "MC") == [
        ("a_DW", "MC/a_DW_ODD.mrc", "MC/a_DW_EVN.mrc"),
        ("b_DW", "MC/b_ODD_DW.mrc", "MC/b_EVN_DW.mrc"),
    ]


def test_weighted_half_is_no_partner_of_an_unweighted_one(tmp_path: Path) -> None:
    for name in ("a_ODD", "a_DW_ODD", "a_DW_EVN", "b_ODD", "b_EVN"):
        write_mrc(tmp_path / "MC" / f"{name}.mrc", np.eye(40))
    pairs, failures = find_pairs("MC", "MC")
    assert [pair.name for pair in pairs] == ["b"]
    assert sorted(failures) == ["a", "a_DW"]


def test_movies_whose_names_end_in_weights_stay_apart(tmp_path: Path) -> None:
    for half in ("odd", "even"):
        for name in ("a", "a_DW"):
            write_mrc(tmp_path / half / f"{name}.mrc", np.eye(40))
    assert [name for name, *_ in found("odd", "even")] == ["a", "a_DW"]


@pytest.mark.parametrize("folder", ["MC", "average"])
def test_unbinned_halves_under_a_binned_header_are_refused(tmp_path: Path, folder: str) -> None:
    """RELION 5.0.1 with --no_early_binning."""
    full, odd, even = ("m.mrc", "m_ODD.mrc", "m_EVN.mrc") if folder == "MC" else ("m.mrc", "odd/m.mrc", "even/m.mrc")
    write_movie(tmp_path / folder, 1, full, odd, even)
    write_mrc(tmp_path / folder / full, np.eye(48))
    with pytest.raises(PairError) as caught:
        find_pairs(folder, folder)
    assert str(caught.value) == (
        f"{folder} and {folder} have no usable pair of halves; the first reason: The halves of 'm' are 96 x 96 px at "
        f"{RATE:g} Å/px, but the full sum {folder}/m.mrc is 48 x 48 px at {RATE:g} Å/px: they cannot show the same "
        "area. RELION 5.0.1 leaves halves unbinned under a binned header where early binning is off; make them again "
        "with early binning, or mend the pixel size in their headers."
    )


def test_full_sum_of_other_pixels_of_the_same_area_is_no_problem(tmp_path: Path) -> None:
    write_movie(tmp_path, 1, "m.mrc", "m_ODD.mrc", "m_EVN.mrc")
    write_mrc(tmp_path / "m.mrc", np.eye(48), 2 * RATE)
    assert found(".", ".") == [("m", "m_ODD.mrc", "m_EVN.mrc")]


def test_damaged_full_sum_does_not_matter(tmp_path: Path) -> None:
    write_movie(tmp_path, 1, "m.mrc", "m_ODD.mrc", "m_EVN.mrc")
    (tmp_path / "m.mrc").write_bytes(b"no image")
    assert len(found(".", ".")) == 1


def test_names_and_marks() -> None:
    assert [half_name(name) for name in ("a_ODD", "a-even", "a_DW_EVN", "a_EVN_DWS", "odd", "a_DW")] == [
        "a", "a", "a_DW", "a_DWS", "odd", "a_DW",
    ]  # fmt: skip
    assert [half_mark(name) for name in ("a_ODD.mrc", "a_evn.mrc", "a_EVN_DW.mrc", "a.mrc")] == [
        "odd", "even", "even", None,
    ]  # fmt: skip


def test_no_full_sum(tmp_path: Path) -> None:
    write_mrc(tmp_path / "odd" / "a.mrc", np.eye(40))
    assert full_sum_of("odd/a.mrc") is None
    assert list_halves("odd", "odd") == {"a": "odd/a.mrc"}
