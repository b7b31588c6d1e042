"""Exposures of CryoSPARC, written as CryoSPARC's own library writes them; no server is asked."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional
from unittest.mock import create_autospec

import numpy as np
import pytest

from cryoden.data.pairs import find_pairs
from cryoden.data.rescale import fourier_crop
from cryoden.errors import CryodenError, FileError
from cryoden.formats.cryosparc import movie_gain, read_exposures, read_halves
from cryoden.formats.images import open_stack
from cryoden.workflow.inputs import find_inputs
from tests.helpers import ROOT, Result, read_mrc, two_halves, write_mrc

pytest.importorskip("cryosparc.dataset", reason="cryosparc-tools, an extra, is not installed")
from cryosparc.dataset import Dataset

Run = Callable[..., Result]

UIDS = (2**63 + 5, 7, 1234567890123456789)
"""Unsigned, 64 bit, in no order."""

RATE = 1.5

DTYPES = {"shape": ("<u4", (2,)), "psize_A": ("<f4",), "accel_kv": ("<f4",), "cs_mm": ("<f4",)}


def write_cs(path: Path, columns: Dict[str, Any], uids: Any = UIDS, format: int = 1) -> Path:
    """Write a .cs file of the given columns."""
    fields: List[Any] = []
    for name, values in columns.items():
        field = name.rsplit("/", 1)[-1]
        fields.append((name, *DTYPES.get(field, ("O",) if isinstance(values[0], str) else ("<u4",))))
    dataset = Dataset.allocate(len(uids), fields)
    dataset["uid"] = np.array(uids, np.uint64)
    for name, values in columns.items():
        dataset[name] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save(str(path), format=format)
    return path


def movies_of(project: Path, gain: Optional[np.ndarray] = None, **columns: Any) -> Dict[str, np.ndarray]:
    """Write a project with imported movies and its .cs file; return the movies by name."""
    movies = {}
    for number in range(3):
        frames = np.random.default_rng(number).poisson(20, (4, 64, 80)).astype(np.float32)
        movies[f"m{number}"] = frames
        write_mrc(project / f"J1/imported/m{number}.mrcs", frames, 1.0)
    listed: Dict[str, Any] = {
        "movie_blob/path": [f"J1/imported/m{number}.mrcs" for number in range(3)],
        "movie_blob/psize_A": [RATE] * 3,
        "movie_blob/is_gain_corrected": [0] * 3,
        "mscope_params/accel_kv": [200.0] * 3,
        "mscope_params/cs_mm": [2.6] * 3,
    }
    if gain is not None:
        write_mrc(project / "J1/imported/gain.mrc", gain)
        listed["gain_ref_blob/path"] = ["J1/imported/gain.mrc"] * 3
    write_cs(project / "J1/imported_movies.cs", {**listed, **columns})
    return movies


def micrographs_of(project: Path, rate: float = RATE) -> None:
    """Write motion-corrected micrographs, named as CryoSPARC names them, in another order than the movies."""
    paths = []
    for number in (2, 0, 1):
        _, odd, even = two_halves((64, 80), number, 1.0)
        path = f"J2/motioncorrected/{UIDS[number]:021d}_m{number}_patch_aligned_doseweighted.mrc"
        write_mrc(project / path, odd + even, rate)
        paths.append(path)
    write_cs(
        project / "J2/exposures.cs",
        {
            "micrograph_blob/path": paths, "micrograph_blob/psize_A": [rate] * 3,
            "micrograph_blob/shape": [(64, 80)] * 3, "micrograph_blob/idx": [0] * 3,
            "micrograph_blob/format": ["MRC/2"] * 3, "micrograph_blob/is_background_subtracted": [1] * 3,
            "ctf/path": ["J3/a", "J3/b", "J3/c"],
        },
        [UIDS[number] for number in (2, 0, 1)],
    )  # fmt: skip


@pytest.mark.parametrize("format", [1, 2])
def test_exposures_are_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: int) -> None:
    """Both kinds of .cs file; the project is found above the file, wherever the current folder is."""
    micrographs_of(tmp_path / "P1")
    source = tmp_path / "P1/J2/exposures.cs"
    Dataset.load(str(source)).save(str(source), format=format)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    table = read_exposures("../P1/J2/exposures.cs")
    assert list(table.images["cryodenName"]) == [str(UIDS[number]) for number in (2, 0, 1)]
    assert all(os.path.isfile(path) for path in table.paths)
    assert table.sampling_rate(0) == RATE
    assert table.voltage(0) is None


def test_groups_of_exposures_keep_their_microscope(tmp_path: Path) -> None:
    movies_of(tmp_path, **{"mscope_params/accel_kv": [200.0, 300.0, 200.0], "movie_blob/psize_A": [1.0, 1.0, 2.0]})
    table = read_exposures("J1/imported_movies.cs", are_movies=True)
    assert [(table.sampling_rate(row), table.voltage(row)) for row in range(3)] == [(1, 200), (1, 300), (2, 200)]


def test_movies_to_halves_to_model_to_denoised_micrographs(tmp_path: Path, cryoden: Run, blur_model: Path) -> None:
    """The whole way; halves and micrographs of other names find each other by uid."""
    gain = np.full((64, 80), 0.5, np.float32)
    project = tmp_path / "P1"
    movies = movies_of(project, gain)
    micrographs_of(project)
    result = cryoden("halves", "P1/J1/imported_movies.cs", "--output", "halves")
    assert (result.status, result.out) == (0, "3 of 3 movies are split: halves/micrographs.star\n")
    for name, frames in movies.items():
        np.testing.assert_allclose(read_mrc(Path(f"halves/odd/{name}.mrc")), 0.5 * frames[::2].sum(axis=0))
    text = Path("halves/micrographs.star").read_text()
    assert "200.0" in text
    assert str(UIDS[0]) in text

    exposures = Dataset.load("halves/exposures.cs")
    assert exposures["uid"].tolist() == list(UIDS)
    assert exposures["micrograph_blob/psize_A"][0] == RATE
    assert exposures["micrograph_blob_odd/path"][1] == str(tmp_path / "halves/odd/m1.mrc")
    assert exposures["movie_blob/path"][1] == "J1/imported/m1.mrcs"

    # Halves with a common signal, to train on.
    for number in range(3):
        for half, image in zip(("odd", "even"), two_halves((64, 80), number, 1.0)[1:]):
            write_mrc(tmp_path / f"halves/{half}/m{number}.mrc", image, RATE)
    halves = ("--odd", "halves/exposures.cs", "--even", "halves/exposures.cs")
    assert sorted(pair.name for pair in find_pairs(halves[1], halves[3])[0]) == sorted(map(str, UIDS))
    trained = cryoden(
        "train", *halves, "--output", "t", "--network", "cnn3", "--epochs", 1, "--crop", 32, "--min-batches", 2
    )
    assert trained.status == 0

    denoised = cryoden("denoise", "P1/J2/exposures.cs", "--model", blur_model, "--output", "P1/denoised", *halves)
    assert denoised.status == 0, denoised.err
    source, made = Dataset.load("P1/J2/exposures.cs"), Dataset.load("P1/denoised/exposures.cs")
    assert made["uid"].tolist() == source["uid"].tolist()
    assert made["ctf/path"].tolist() == source["ctf/path"].tolist()
    name = os.path.basename(source["micrograph_blob/path"][0])
    assert made["micrograph_blob/path"][0] == f"denoised/{name}"  # from the project's folder
    assert made["micrograph_blob/is_background_subtracted"].tolist() == [1, 1, 1]
    first = project / "denoised" / name
    assert made["micrograph_blob/shape"].tolist() == [list(read_mrc(first).shape)] * 3
    assert made["micrograph_blob/psize_A"][0] == pytest.approx(open_stack(first).sampling_rate)
    with open("P1/denoised/exposures.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["uid"] for row in rows] == [str(uid) for uid in source["uid"]]
    assert rows[0]["path"] == str(project / "denoised" / name)
    assert rows[0]["exposure"].endswith(source["micrograph_blob/path"][0])

    # Of the halves, not of the micrograph: its result is their mean, so each must be its own.
    images = {number: read_mrc(Path("P1") / made["micrograph_blob/path"][row]) for row, number in enumerate((2, 0, 1))}
    for number, image in images.items():
        signals = {other: fourier_crop(two_halves((64, 80), other, 1.0)[0], image.shape) for other in range(3)}
        likeness = {other: np.corrcoef(image.ravel(), signal.ravel())[0, 1] for other, signal in signals.items()}
        assert max(likeness, key=lambda other: likeness[other]) == number


def test_one_missing_micrograph_ends_no_list(tmp_path: Path, cryoden: Run, blur_model: Path) -> None:
    micrographs_of(tmp_path, 4.0)
    dataset = Dataset.load("J2/exposures.cs")
    dataset["micrograph_blob/path"] = [*dataset["micrograph_blob/path"][:2], ""]
    dataset.save("J2/exposures.cs")
    result = cryoden("denoise", "J2/exposures.cs", "--model", blur_model, "--output", "d")
    assert result.status == 1
    assert f"failed: exposure {UIDS[1]} without micrograph_blob/path: " in result.last_error
    assert Dataset.load("d/exposures.cs")["uid"].tolist() == [UIDS[2], UIDS[0]]


def test_motion_and_turned_gains_are_refused_by_name(tmp_path: Path, cryoden: Run) -> None:
    words = ("halves", "J1/imported_movies.cs", "--output", "h")
    gain = np.ones((64, 80), np.float32)
    movies_of(tmp_path, gain, **{"rigid_motion/path": ["J2/m.npy", "", ""], "spline_motion/path": ["", "", ""]})
    refused = cryoden(*words)
    assert refused.status == 2
    assert refused.last_error.startswith(
        "cryoden: J1/imported_movies.cs has the motion of its movies (rigid_motion) in files whose content CryoSPARC "
        "does not publish; without it, the sums would be blurred."
    )
    assert refused.last_error.endswith("Give --shifts.")

    movies_of(tmp_path, gain, **{"gain_ref_blob/flip_y": [1] * 3, "gain_ref_blob/rotate_num": [0] * 3})
    assert cryoden(*words).last_error == (
        "cryoden: The gain reference of J1/imported_movies.cs is to be turned (flip_y), and CryoSPARC does not publish "
        "which way round. Give --gain."
    )
    assert cryoden(*words, "--gain", "J1/imported/gain.mrc", "--gain-flip", "up-down").status == 0
    options = next(iter(json.loads(Path("h/halves.json").read_text())["runs"].values()))["options"]
    assert options["gain_flip"] == "up-down"


def test_gain_is_not_applied_twice(tmp_path: Path) -> None:
    movies_of(tmp_path, np.ones((64, 80)), **{"movie_blob/is_gain_corrected": [1] * 3})
    assert movie_gain("J1/imported_movies.cs") is None
    movies_of(tmp_path, **{"gain_ref_blob/path": ["a.mrc", "b.mrc", "a.mrc"]})
    with pytest.raises(FileError, match=r"has 2 gain references, a\.mrc and b\.mrc among them"):
        movie_gain("J1/imported_movies.cs")


def test_run_finds_out_what_a_cs_file_lists(tmp_path: Path) -> None:
    movies_of(tmp_path)
    micrographs_of(tmp_path)
    assert find_inputs(["J1/imported_movies.cs"]).kind == "movies"
    assert find_inputs(["J2/exposures.cs"]).kind == "micrographs"
    slots = {f"micrograph_blob{half}/path": ["a"] * 3 for half in ("", "_odd", "_even")}
    write_cs(tmp_path / "halves.cs", {**slots, "movie_blob/path": ["m"] * 3})
    assert find_inputs(["halves.cs"]).odd == "halves.cs"
    write_cs(
        tmp_path / "moved.cs",
        {"micrograph_blob/path": ["a"] * 3, "movie_blob/path": ["m"] * 3, "rigid_motion/path": ["r"] * 3},
    )
    assert find_inputs(["moved.cs"]).kind == "micrographs"


def test_damaged_compressed_file_ends_no_process(tmp_path: Path) -> None:
    """The library's decoder trusts the numbers in it: read here, this would be a segmentation fault."""
    columns = {"micrograph_blob/path": ["a"] * 3, "micrograph_blob/psize_A": [1.0] * 3}
    path = write_cs(tmp_path / "x.cs", columns, format=2)
    assert len(read_exposures(path).paths) == 3
    content = bytearray(path.read_bytes())
    content[-16] = 0xFF  # where a text begins
    path.write_bytes(bytes(content))
    with pytest.raises(FileError, match=r"x\.cs is no \.cs file that can be read: it is damaged\. Export it again\."):
        read_exposures(path)


def test_own_halves_of_cryosparc_are_refused_by_name(tmp_path: Path) -> None:
    write_cs(tmp_path / "e.cs", {"micrograph_blob/path": ["a"] * 3, "micrograph_blob_non_dw_AB/path": ["b"] * 3})
    with pytest.raises(FileError) as caught:
        read_halves("e.cs", "odd")
    assert str(caught.value) == (
        "e.cs lists no halves that can be read. Its halves micrograph_blob_non_dw_AB are stored in a way that "
        "CryoSPARC does not publish. Split its movies, and give exposures.cs of that folder."
    )


def test_wrong_files_are_named(tmp_path: Path) -> None:
    movies_of(tmp_path)
    with pytest.raises(FileError, match=r"lists no micrographs: it has no micrograph_blob/path\. It lists movies;"):
        read_exposures("J1/imported_movies.cs")
    Path("text.cs").write_text("no dataset")
    with pytest.raises(FileError, match=r"text\.cs is no \.cs file that can be read \("):
        read_exposures("text.cs")
    with pytest.raises(FileError, match=r"none\.cs does not exist"):
        read_exposures("none.cs")
    Dataset.allocate(0, [("micrograph_blob/path", "O")]).save("empty.cs")
    with pytest.raises(FileError, match=r"empty\.cs lists no exposures"):
        read_exposures("empty.cs")
    whole = Path("J1/imported_movies.cs").read_bytes()
    Path("cut.cs").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=r"cut\.cs is no \.cs file that can be read \("):
        read_exposures("cut.cs", are_movies=True)


def test_documented_script_calls_the_library_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way back into a project, as far as it goes without a server: every call has the library's own signature."""
    tools, project_module = (pytest.importorskip(f"cryosparc.{n}") for n in ("tools", "controllers.project"))
    micrographs_of(tmp_path)
    (tmp_path / "denoised").mkdir()
    Dataset.load("J2/exposures.cs").save("denoised/exposures.cs")
    project = create_autospec(project_module.ProjectController, instance=True)
    server = create_autospec(tools.CryoSPARC, instance=True)
    server.find_project.return_value = project
    monkeypatch.setattr(tools, "CryoSPARC", create_autospec(tools.CryoSPARC, return_value=server))

    script = (ROOT / "docs" / "cryosparc.md").read_text().split("```python\n")[1].split("```")[0]
    exec(compile(script, "cryosparc.md", "exec"), {})
    saved = project.save_external_result.call_args.kwargs["dataset"]
    assert saved["uid"].tolist() == [UIDS[2], UIDS[0], UIDS[1]]
    assert "micrograph_blob/path" in saved.fields()
    assert "ctf/path" not in saved.fields()  # passed through from the original job


def test_without_the_library_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    movies_of(tmp_path)
    monkeypatch.setitem(sys.modules, "cryosparc.dataset", None)
    with pytest.raises(CryodenError, match=r"cryosparc-tools, which reads \.cs files, is not installed in"):
        read_exposures("J1/imported_movies.cs")
