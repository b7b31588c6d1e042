"""Patch files: from halves, and read again as any other program would."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryoden.config.exchange import PatchesExportConfig
from cryoden.data.pairs import HalfPair
from cryoden.exchange import patch_export, patch_progress, patch_verify
from cryoden.exchange.patch_plan import needed_bytes, patch_places, plan_sources
from tests.helpers import Result, python, read_mrc, write_halves, write_raw_mrc

FILES = ("train_input.bin", "train_target.bin", "test_input.bin", "test_target.bin")
EXPORT = ["patches", "export", "--odd", "odd", "--even", "even", "--output", "out", "--patch", 32, "--stride", 16]


def manifest(folder: str = "out") -> dict:
    return json.loads(Path(folder, "manifest.json").read_text())


def patches_of(name: str, side: int = 32, folder: str = "out") -> np.ndarray:
    return np.fromfile(Path(folder, name), "<f4").reshape(-1, side, side)


@pytest.mark.parametrize(
    ("patch", "stride", "edges", "expected"),
    [(1024, 512, False, 13 * 13), (512, 512, False, 14 * 14), (1024, 512, True, 14 * 14), (512, 512, True, 15 * 15)],
)
def test_number_of_patches_of_a_superresolution_micrograph(patch: int, stride: int, edges: bool, expected: int) -> None:
    """7420 x 7676 px: floor((side - patch) / stride) + 1 along each axis, one more with edges."""
    rows, columns = patch_places((7420, 7676), patch, stride, edges)
    assert len(rows) * len(columns) == expected
    if not edges:
        assert len(rows) == (7420 - patch) // stride + 1
        assert len(columns) == (7676 - patch) // stride + 1


def test_the_set_of_the_specification_needs_what_it_needs() -> None:
    """196 micrographs, 169 patches of 1024 px each, input and target: 4 bytes x 1024^2 x count twice."""
    pairs = [HalfPair(str(n), "", "", (7420, 7676), 1.0, (7420, 7676)) for n in range(196)]
    sources, failures = plan_sources(pairs, PatchesExportConfig(odd="", even="", output="out"))
    assert needed_bytes(sources, 1024) == 2 * 4 * 1024**2 * 169 * 196
    assert sum(source.part == "test" for source in sources) == 20
    assert not failures


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), st.integers(1, 20))
def test_edges_cover_every_pixel_where_the_stride_does(rows: int, columns: int, patch: int, stride: int) -> None:
    covered = np.zeros((rows, columns), bool)
    places = patch_places((rows, columns), patch, min(stride, patch), True)
    for y in places[0]:
        for x in places[1]:
            assert y + patch <= rows
            assert x + patch <= columns
            covered[y : y + patch, x : x + patch] = True
    assert covered.all() == (patch <= min(rows, columns))


def test_patches_are_cut_scaled_and_split_as_the_manifest_says(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 10, (64, 80), mean=20.0)
    assert cryoden(*EXPORT).out == "Patches of 10 of 10 micrographs, 108 to train, 12 to test: out/manifest.json\n"
    said = manifest()
    assert (said["counts"], said["patch"], said["stride"]) == ({"train": 108, "test": 12}, 32, 16)
    assert (said["dtype"], said["byte_order"], said["normalization"]) == ("float32", "little", "p95")
    assert said["sampling_rate"] == pytest.approx(4.0)
    assert sorted(p.name for p in Path("out").iterdir()) == sorted(
        (*FILES, "manifest.json", "failures.json", "outcome.json")
    )
    for name in FILES:
        content = Path("out", name).read_bytes()
        assert len(content) == 4 * 32 * 32 * said["counts"][name.split("_")[0]]
        assert said["files"][name] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert [record["part"] for record in said["micrographs"]] == ["train"] * 9 + ["test"]
    for record in said["micrographs"]:
        for role in ("input", "target"):
            image = read_mrc(Path(record[role])).astype(np.float64)
            percentile = record["scale"][role]["percentile_95"]
            assert percentile == pytest.approx(np.percentile(image[image > 0], 95), rel=0.01)
            found = patches_of(f"{record['part']}_{role}.bin")[record["first"] : record["first"] + record["count"]]
            places = [(y, x) for y in record["rows"] for x in record["columns"]]
            assert places == [(y, x) for y in range(0, 33, 16) for x in range(0, 49, 16)]
            for patch, (y, x) in zip(found, places):
                expected = np.clip(image[y : y + 32, x : x + 32] / percentile, 0, 1)
                np.testing.assert_allclose(patch, expected, atol=1e-6)
    assert cryoden("patches", "verify", "out").out == "out: 108 to train, 12 to test, 32 x 32 px; all is well.\n"


def test_options_change_the_patches(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 4, (70, 90), mean=20.0)
    counts = {}
    changes: Dict[str, list] = {
        "base": [],
        "edges": ["--edges"],
        "patch": ["--patch", 48],
        "stride": ["--stride", 8],
        "standard": ["--normalization", "standard"],
        "split": ["--validation", 0.5],
        "seed": ["--seed", 4],
    }
    for name, words in changes.items():
        assert cryoden(*EXPORT, *words, "--output", name).status == 0
        counts[name] = manifest(name)["counts"]
    assert counts["base"] == {"train": 3 * 12, "test": 12}
    assert counts["edges"] == {"train": 3 * 20, "test": 20}
    assert counts["patch"] == {"train": 3 * 6, "test": 6}
    assert counts["stride"] == {"train": 3 * 40, "test": 40}
    assert counts["split"] == {"train": 24, "test": 24}
    held_out = {n: [r["name"] for r in manifest(n)["micrographs"] if r["part"] == "test"] for n in ("base", "seed")}
    assert held_out["base"] != held_out["seed"]
    assert (
        0
        <= patches_of("train_input.bin", folder="base").min()
        < patches_of("train_input.bin", folder="base").max()
        == 1
    )
    values = patches_of("train_input.bin", folder="standard")
    record = manifest("standard")["micrographs"][0]
    image = read_mrc(Path(record["input"])).astype(np.float64)
    scale = record["scale"]["input"]
    assert (scale["mean"], scale["deviation"]) == pytest.approx((image.mean(), image.std()), rel=0.02)
    np.testing.assert_allclose(values[0], (image[:32, :32] - scale["mean"]) / scale["deviation"], atol=1e-4)


def test_one_micrograph_is_cut_in_two(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 1, (160, 64), mean=20.0)
    cryoden(*EXPORT)
    rows = {record["part"]: record["rows"] for record in manifest()["micrographs"]}
    assert max(rows["train"]) + 32 <= min(rows["test"])


def test_one_bad_micrograph_is_named_and_left_out(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 5, (64, 64), mean=20.0)
    image = np.full((1, 64, 64), 20, np.float32) + np.random.default_rng(1).random((1, 64, 64), np.float32)
    image[0, 60, 3] = np.nan
    write_raw_mrc(tmp_path / "even" / "mic1.mrc", image, 2, rate=4.0)
    result = cryoden(*EXPORT)
    assert result.status == 1
    assert "cryoden: failed: mic1: even/mic1.mrc cannot be used: it has pixels that are NaN or infinite" in result.err
    assert manifest()["counts"] == {"train": 27, "test": 9}
    assert cryoden("patches", "verify", "out").status == 0


def test_a_killed_export_goes_on_and_ends_the_same(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 6, (64, 64), mean=20.0)
    cryoden(*EXPORT, "--output", "whole")
    measured: List[str] = []
    original = patch_export.measure_file

    def stop(stack: Any, *others: Any) -> Any:
        measured.append(str(stack.path))
        if len(measured) == 6:  # in the middle of the third micrograph
            raise KeyboardInterrupt
        return original(stack, *others)

    with mock.patch.object(patch_export, "measure_file", stop), pytest.raises(KeyboardInterrupt):
        cryoden(*EXPORT)
    assert not any(Path("out", name).exists() for name in (*FILES, "manifest.json"))
    with open("out/.patches.part", "a") as file:
        file.write('{"micrograph": {"name": "mic')  # as a kill cuts a line off
    measured.clear()
    with mock.patch.object(patch_export, "measure_file", lambda *a: measured.append("") or original(*a)):
        assert cryoden(*EXPORT).status == 0
    assert len(measured) == 2 * 4
    for name in (*FILES, "manifest.json"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()
    assert cryoden(*EXPORT).status == 0  # complete already
    refused = cryoden(*EXPORT, "--seed", 9)
    assert refused.status == 2
    assert refused.last_error == (
        "cryoden: out holds patches that were cut with other options (manifest.json). These options differ: "
        "--seed (was 1, is now 9). Choose another --output folder."
    )


def stop_after(n_halves: int) -> Any:
    """Return a context in which an export dies when it has measured so many halves."""
    original, measured = patch_export.measure_file, []

    def stop(stack: Any, *others: Any) -> Any:
        measured.append(stack.path)
        if len(measured) > n_halves:
            raise KeyboardInterrupt
        return original(stack, *others)

    return mock.patch.object(patch_export, "measure_file", stop)


@pytest.mark.parametrize("n_halves", [100, 5])
def test_patches_of_fewer_micrographs_are_no_finished_export(tmp_path: Path, cryoden: Any, n_halves: int) -> None:
    """Nor does one go on that was killed: with more micrographs, others are held out."""
    write_halves(tmp_path, 6, (64, 64), mean=20.0)
    away = [(tmp_path / half / "mic5.mrc", tmp_path / f"{half}5.mrc") for half in ("odd", "even")]
    for path, place in away:
        path.rename(place)
    with stop_after(n_halves), suppress(KeyboardInterrupt):
        cryoden(*EXPORT, "--validation", 0.4)
    for path, place in away:
        place.rename(path)
    refused = cryoden(*EXPORT, "--validation", 0.4)
    assert refused.status == 2
    assert refused.last_error.startswith("cryoden: The patches in out were cut ")
    assert refused.last_error.endswith("Choose another --output folder.")


def test_patches_of_a_half_that_was_replaced_are_no_finished_export(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 4, (64, 64), mean=20.0)
    assert cryoden(*EXPORT).status == 0
    os.utime("even/mic2.mrc", (1, 1))
    assert cryoden(*EXPORT).last_error == (
        "cryoden: The patches in out were cut from even/mic2.mrc before it was replaced. "
        "Choose another --output folder."
    )


def test_an_export_that_version_01_began_goes_on(tmp_path: Path, cryoden: Any) -> None:
    """It wrote its progress as one JSON object, and failures as sentences."""
    write_halves(tmp_path, 6, (64, 64), mean=20.0)
    cryoden(*EXPORT, "--output", "whole")
    with stop_after(6), pytest.raises(KeyboardInterrupt):
        cryoden(*EXPORT)
    path = Path("out/.patches.part")
    options, *records = map(json.loads, path.read_text().splitlines())
    content = {
        **options,
        "micrographs": [record["micrograph"] for record in records],
        "failures": {"mic9": "It failed."},
    }
    path.write_text(json.dumps(content, indent=2))
    result = cryoden(*EXPORT)
    assert result.status == 1
    assert result.last_error == "cryoden: failed: mic9: It failed."
    for name in FILES:
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()


def test_progress_of_an_export_grows_by_one_line_for_each_micrograph(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 6, (64, 64), mean=20.0)
    sizes = []
    for n in (1, 2, 3):
        with stop_after(2 * n), pytest.raises(KeyboardInterrupt):
            cryoden(*EXPORT, "--output", str(n))
        sizes.append(Path(str(n), ".patches.part").stat().st_size)
    assert sizes[2] - sizes[1] == pytest.approx(sizes[1] - sizes[0], abs=3)
    written: List[str] = []
    with mock.patch.object(patch_progress, "append_line", lambda path, line: written.append(line)):
        assert cryoden(*EXPORT).status == 0
    assert [json.loads(line)["micrograph"]["count"] for line in written] == [9] * 6


@pytest.mark.parametrize("content", ["{", "[]", '{"options": {}}\nnonsense\n', '{"else": 1}\n', "\0"])
def test_damaged_progress_of_an_export(tmp_path: Path, cryoden: Any, content: str) -> None:
    write_halves(tmp_path, 3, (64, 64), mean=20.0)
    Path("out").mkdir()
    Path("out/.patches.part").write_text(content)
    result = cryoden(*EXPORT)
    assert result.status == 2
    assert result.last_error == "cryoden: out/.patches.part is damaged; remove it to export from the start."


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EIO, "Input/output error"), "mic0 cannot be read (Input/output error)."),
        (MemoryError(), "mic0 does not fit into the memory that is free."),
        (ZeroDivisionError("by zero"), "mic0 failed unexpectedly (ZeroDivisionError: by zero); see the log file."),
    ],
)
def test_whatever_happens_to_one_micrograph_does_not_end_an_export(
    tmp_path: Path, cryoden: Any, error: Exception, reason: str
) -> None:
    write_halves(tmp_path, 4, (64, 64), mean=20.0)
    original = patch_export.measure_file

    def fail(stack: Any, *others: Any) -> Any:
        if stack.path == Path("even/mic0.mrc"):  # after the patches of the odd half
            raise error
        return original(stack, *others)

    with mock.patch.object(patch_export, "measure_file", fail):
        result = cryoden(*EXPORT)
    assert result.status == 1
    assert result.last_error == f"cryoden: failed: mic0: {reason}"
    assert manifest()["counts"] == {"train": 18, "test": 9}
    assert cryoden("patches", "verify", "out").status == 0


def test_full_disk_ends_an_export_that_goes_on_later(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 4, (64, 64), mean=20.0)
    cryoden(*EXPORT, "--output", "whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # one micrograph has 36,864 bytes of patches
    try:
        result = cryoden(*EXPORT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.status == 2
    assert "cannot be written" in result.last_error
    assert cryoden(*EXPORT).status == 0
    for name in (*FILES, "manifest.json"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()


def test_an_export_killed_while_files_get_their_names_goes_on(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 3, (64, 64), mean=20.0)
    cryoden(*EXPORT, "--output", "whole")
    original = os.replace

    def stop(source: str, target: str) -> None:
        if Path(target).name == FILES[-1]:
            raise KeyboardInterrupt
        original(source, target)

    with mock.patch.object(os, "replace", stop), pytest.raises(KeyboardInterrupt):
        cryoden(*EXPORT)
    assert Path("out", FILES[0]).exists()
    assert cryoden(*EXPORT).status == 0
    for name in (*FILES, "manifest.json"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()


def test_a_disk_that_is_too_small(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 4, (64, 64), mean=20.0)
    with mock.patch.object(shutil, "disk_usage", return_value=mock.Mock(free=1 << 17)):
        result: Result = cryoden(*EXPORT)
    assert result.status == 2
    assert result.last_error == (
        "cryoden: The patch files need 0.00 GiB more in out, but 0.00 GiB are free there. "
        "Free the disk, choose another folder, or ask for less. Choose another --stride."
    )
    assert not Path("out").exists()


def test_files_of_another_program_are_not_replaced(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 4, (64, 64), mean=20.0)
    Path("out").mkdir()
    Path("out/test_target.bin").write_bytes(b"precious")
    result: Result = cryoden(*EXPORT)
    assert result.status == 2
    assert result.last_error == (
        "cryoden: out/test_target.bin is there, and was not made by this command. Choose another --output folder."
    )
    assert Path("out/test_target.bin").read_bytes() == b"precious"


def test_micrographs_smaller_than_a_patch(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 2, (24, 64), mean=20.0)
    result = cryoden(*EXPORT)
    assert result.status == 2
    assert result.last_error.startswith("cryoden: There is no patch for training; the first reason: 'mic")
    assert "has 64 x 24 px for training, less than one patch of 32 px; choose smaller patches" in result.last_error


def test_memory_does_not_grow_with_the_micrographs(tmp_path: Path) -> None:
    """Micrographs of 39 MB each, patches of 1024 px: below the 286 MB of the specification, NumPy and all."""
    rng = np.random.default_rng(1)
    for half in ("odd", "even"):
        (tmp_path / half).mkdir()
        rows = 20 + rng.random((1280, 960), np.float32)
        for name in "ab":
            write_raw_mrc(tmp_path / half / f"{name}.mrc", np.tile(rows, (1, 8))[None], 2)
    code = (
        "import sys; from cryoden.__main__ import main; status = main(sys.argv[1:]); "
        "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1]); "
        "sys.exit(status)"
    )
    result = python(["-c", code, "patches", "export", "--odd", "odd", "--even", "even", "--output", "out"], tmp_path)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[-1]) * 1024 < 286e6
    for path in tmp_path.glob("*/*.*"):
        path.unlink()


# ---------------------------------------------------------------------- bad input
def damage(kind: str) -> str:
    """Spoil the files in `out`; return what must be said."""
    path = Path("out/train_target.bin")
    if kind == "no multiple":
        os.truncate(path, path.stat().st_size - 7)
        return "out/train_target.bin has 110585 bytes, which is no multiple of a patch of 32 x 32 float32 = 4096 bytes."
    if kind == "another count":
        os.truncate(path, path.stat().st_size - 4096)
        return "out/train_input.bin holds 27 patches but out/train_target.bin holds 26; each input needs its target."
    if kind == "manifest contradicts":
        for name in ("train_input.bin", "train_target.bin"):
            os.truncate(Path("out", name), 4096 * 20)
        return "out/manifest.json promises 27 train patches but the files hold 20. Copy or export them again."
    if kind == "no partner":
        path.unlink()
        return "out/train_input.bin has no partner train_target.bin; give both or none."
    if kind == "other manifest":
        Path("out/manifest.json").write_text('{"format": "else"}')
        return "out/manifest.json is no manifest of patch files (format 'cryoden-patches')"
    if kind == "no sense":
        Path("out/manifest.json").write_text('{"format": "cryoden-patches", "patch": "wide"}')
        return "out/manifest.json has no usable patch; it is damaged. Export again."
    if kind == "no files":
        for name in FILES:
            Path("out", name).unlink()
        return "out holds no patch files (train_input.bin, train_target.bin); check the folder."
    Path("out/manifest.json").unlink()
    return "out has no manifest.json; nothing says how many pixels wide its patches are. Give --patch."


KINDS = ["no multiple", "another count", "manifest contradicts", "no partner", "other manifest", "no sense", "no files"]


@pytest.mark.parametrize("kind", [*KINDS, "no manifest"])
def test_files_that_cannot_be_right(tmp_path: Path, cryoden: Any, kind: str) -> None:
    write_halves(tmp_path, 4, (64, 64), mean=20.0)
    cryoden(*EXPORT)
    reason = damage(kind)
    result = cryoden("patches", "verify", "out")
    assert result.status == 2
    assert result.last_error.startswith(f"cryoden: {reason}")


def write_pixel(name: str, position: int, value: float) -> None:
    with open(Path("out", name), "r+b") as file:
        file.seek(4 * position)
        file.write(np.array([value], "<f4").tobytes())


def test_changed_values_are_found(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 4, (64, 64), mean=20.0)
    cryoden(*EXPORT)
    write_pixel("train_input.bin", 5000, 0.123)
    write_pixel("train_target.bin", 7, np.nan)
    write_pixel("test_input.bin", 7, 1.5)
    said = manifest()
    said["micrographs"][0]["count"] += 1
    Path("out/manifest.json").write_text(json.dumps(said))
    result = cryoden("patches", "verify", "out")
    assert result.status == 1
    lines: List[str] = result.err.strip().splitlines()[-4:]
    assert "train_input.bin has another SHA-256 than the manifest says; it was changed or damaged" in lines[0]
    assert "train_target.bin has values that are NaN or infinite" in lines[1]
    assert "test_input.bin has values from 0" in lines[2]
    assert "to 1.5, but p95 means 0 to 1; export again." in lines[2]
    assert "lists micrographs with 28 train patches, but the files hold 27" in lines[3]


def test_files_of_other_programs(cryoden: Any, tmp_path: Path) -> None:
    Path("out").mkdir()
    for name in ("noisy_train.bin", "clean_train.bin"):
        np.random.default_rng(1).random((5, 16, 16), np.float32).tofile(Path("out", name))
    result = cryoden("patches", "verify", "out", "--patch", 16)
    assert result.out.startswith("out: 5 to train, 16 x 16 px; all is well. There is no manifest")
    Path("out/clean_train.bin").unlink()
    assert (
        "out/noisy_train.bin has no partner train_target.bin" in cryoden("patches", "verify", "out", "--patch", 16).err
    )
    assert cryoden("patches", "verify", "none", "--patch", 16).last_error.startswith("cryoden: none is no folder; give")


def test_a_manifest_and_an_option_that_differ(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 4, (64, 64), mean=20.0)
    cryoden(*EXPORT)
    result = cryoden("patches", "verify", "out", "--patch", 16)
    assert result.last_error == "cryoden: out/manifest.json says that patches are 32 px wide, not 16 px."


@pytest.mark.parametrize("words", [["--patch", "3"], ["--stride", "0"], ["--validation", "1"], ["--seed", "-1"]])
def test_options_out_of_range(cryoden: Any, words: List[str]) -> None:
    result = cryoden(*EXPORT, *words)
    assert result.status == 2
    assert words[0] in result.last_error
    assert not Path("out").exists()


def test_file_that_cannot_be_read_does_not_end_a_verification(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 4, (64, 64), mean=20.0)
    cryoden(*EXPORT)
    write_pixel("test_target.bin", 5, 0.123)
    original = patch_verify.value_range

    def fail(path: Path) -> Any:
        if path.name == "train_input.bin":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return original(path)

    with mock.patch.object(patch_verify, "value_range", fail):
        result = cryoden("patches", "verify", "out")
    assert result.status == 1
    assert "failed: train_input.bin: out/train_input.bin cannot be read (Input/output error)." in result.err
    assert "failed: test_target.bin: out/test_target.bin has another SHA-256" in result.err
