"""What version 0.1 left on disk is continued, loaded and refused as it was; what it could be asked can still be asked.

The material and the script that made it lie beside this file. Only the command line is used, because it is what users
have; of messages only exit status and names count.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from safetensors import safe_open

from cryoden.__main__ import main

MADE = Path(__file__).parent / "made_by_0_1"
LINES: Dict[str, List[str]] = json.loads((MADE / "commands.json").read_text())
FILES: Dict[str, List[str]] = json.loads((MADE / "files.json").read_text())
OPTIONS: List[Dict[str, Any]] = json.loads((MADE / "options.json").read_text())

CHANGED_DEFAULTS: Dict[Tuple[str, str], Any] = {
    ("halves", "hot_pixels"): "auto",  # a detector's hot pixels are in both halves, and are learned as signal
    ("train", "sampling_rate"): "auto",  # 10 times cheaper than full resolution, and never worse in the score band
    ("show", "sampling_rate"): "auto",  # what the training will see
    ("train", "network"): "resunet",  # better in the same time
    ("train", "channels"): [],  # those of the network
    ("train", "from_model"): "auto",  # the general model, where it fits
    ("train", "lr"): None,  # 0.001 as then; another where a training starts from a model
    ("train", "window"): 0.5,  # half the memory; a training that was begun with 1 keeps it
    ("train", "epochs"): None,  # 20 as then; others where a training starts from a model
}
"""(command, option) -> today's default, of options whose default is meant to be another than in 0.1."""

WORDS_FOR_NOTHING: Dict[Tuple[str, str], str] = {
    ("halves", "hot_pixels"): "off", ("train", "sampling_rate"): "full", ("show", "sampling_rate"): "full",
    ("train", "from_model"): "none",
}  # fmt: skip
"""(command, option) -> what nothing meant, in a file of options of 0.1."""

OPTION_NAMES = {"from_model": "--from"}

RESULTS = {
    "simulation": ("movies/*.mrcs", "truth/*.mrc"),
    "halves": ("*/*.mrc",),
    "denoised": ("*.mrc",),
    "evaluation": ("measurements/*.npz",),
    "training": ("model.safetensors",),
}
"""What takes long to make in each folder, and is never made again."""

TABLES = ("**/*.star", "metrics.*", "failures.json", "log.jsonl", "sanity.json", "fixed_pattern.npz", "inside_*.npz")
"""What a command writes when it comes to its end; a killed one has none of it."""

READ_BY_OTHERS = ("metrics.json", "sanity.json", "manifest.json", "index.json")
"""Results in JSON; records of how a folder was made are our own business, as long as those of 0.1 are understood."""

PIXEL_TOLERANCE = 1e-4
"""Of an image's deviation; float32 convolutions of other libraries and processors differ by some 1e-6 each."""

TRAINING_TOLERANCE = 0.01
"""Of a loss; the same differences grow over 250 steps, other crops or another rate change it by more."""

Stamps = Dict[str, Tuple[int, int]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """For images of this size threads only wait for each other, on a busy machine for long."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(autouse=True)
def _made_by_0_1(tmp_path: Path) -> None:
    """Work in a copy of the folders."""
    shutil.copytree(str(MADE), str(tmp_path), ignore=shutil.ignore_patterns("project"), dirs_exist_ok=True)


@pytest.fixture
def cryoden(capsys: pytest.CaptureFixture) -> Callable[..., Tuple[int, str]]:
    """Run the command line in this process; return its exit status and what it said on stderr."""

    def run(*words: object) -> Tuple[int, str]:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, capsys.readouterr().err

    return run


Run = Callable[..., Tuple[int, str]]


def line_of(name: str) -> List[str]:
    """Return the command line that continues a folder."""
    return LINES[name] + (["--resume"] if LINES[name][0] == "train" else [])


def stamps(folder: str, patterns: Tuple[str, ...] = ("**/*",), but: str = "no such file") -> Stamps:
    """Return what changes when a file is written again, without files of one name."""
    files = [path for pattern in patterns for path in Path(folder).glob(pattern) if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files if path.stem != but}


def read_mrc(path: Path) -> np.ndarray:
    return np.asarray(mrcfile.read(str(path)), dtype=np.float64)


def assert_close(path: Path, expected: Path) -> None:
    """Compare pixels with what 0.1 wrote."""
    image, then = read_mrc(path), read_mrc(expected)
    assert np.abs(image - then).max() <= PIXEL_TOLERANCE * then.std(), path


def assert_holds(now: Any, then: Any, place: str = "") -> None:
    """Compare structure: every key of `then` is there, with an item of the same structure where it has such."""
    if isinstance(then, dict):
        assert isinstance(now, dict), place
        assert not set(then) - set(now), place
        for key, value in then.items():
            assert_holds(now[key], value, f"{place}/{key}")
    elif isinstance(then, list) and then:
        assert isinstance(now, list), place
        assert_holds(now[0], then[0], f"{place}[0]")


def assert_same_tables(folder: str, of: str) -> None:
    """Every table of 0.1 is there, with all its columns, and the files are listed under the same names."""
    for path in (MADE / of).rglob("*.star"):
        now = starfile.read(str(Path(folder) / path.relative_to(MADE / of)), always_dict=True)
        for block, table in starfile.read(str(path), always_dict=True).items():
            assert set(table) <= set(now[block]), (path, block)
            for column in [column for column in table if column.endswith("Name")]:
                assert list(now[block][column]) == list(table[column]), (path, column)


def load_log(path: Path) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def model_facts(path: Path) -> Dict[str, Any]:
    """Return the metadata of a model file."""
    with safe_open(str(path), framework="numpy") as file:
        metadata = file.metadata()
        shapes = {name: list(file.get_tensor(name).shape) for name in sorted(file.keys())}
    return {"format": metadata["format"], "card": json.loads(metadata["card"]), "shapes": shapes}


# --------------------------------------------------------------------- continued
@pytest.mark.parametrize("name", [name for name in RESULTS if name != "evaluation"])
def test_finished_command_makes_nothing_again(cryoden: Run, name: str) -> None:
    before = stamps(name, RESULTS[name])
    assert before
    for _ in range(2):  # the second time on what the first one left
        status, error = cryoden(*line_of(name))
        assert status == 0, error
        assert stamps(name, RESULTS[name]) == before
    assert_same_tables(name, name)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("simulation", "movies/movie_0002.mrcs"),
        ("halves", "even/movie_0003.mrc"),
        ("denoised", "movie_0003.mrc"),
    ],
)
def test_only_what_is_missing_is_made(cryoden: Run, name: str, missing: str) -> None:
    path = Path(name, missing)
    path.unlink()
    before = stamps(name, RESULTS[name], but=path.stem)
    status, error = cryoden(*line_of(name))
    assert status == 0, error
    assert stamps(name, RESULTS[name], but=path.stem) == before
    if name == "simulation":  # a difference of 1e-7 in an expectation gives another count now and then
        assert np.mean(read_mrc(path) != read_mrc(MADE / path)) < 1e-3
    else:
        assert_close(path, MADE / path)
    assert_same_tables(name, name)


@pytest.mark.parametrize(
    ("name", "record", "last"),
    [
        ("halves", "halves.json", ["full/movie_0003.mrc", "odd/movie_0003.mrc", "even/movie_0003.mrc"]),
        ("denoised", "denoise.json", ["movie_0003.mrc"]),
        ("evaluation", "evaluate.json", ["measurements/movie_0003.npz"]),
    ],
)
def test_killed_command_is_continued(cryoden: Run, name: str, record: str, last: List[str]) -> None:
    """A kill leaves the record and what was finished."""
    for path in {Path(name, file) for file in last} | {path for table in TABLES for path in Path(name).glob(table)}:
        path.unlink()
    before = stamps(name, RESULTS[name])
    assert Path(name, record).is_file()
    for _ in range(1 if name == "evaluation" else 2):
        status, error = cryoden(*line_of(name))
        assert status == 0, error
        after = stamps(name, RESULTS[name])
        assert {path: after[path] for path in before} == before
        assert {str(Path(name, file)) for file in last} == set(after) - set(before)
        before, last = after, []
    assert set(FILES[name]) <= {str(path.relative_to(name)) for path in Path(name).rglob("*")}
    assert_same_tables(name, name)
    if name == "evaluation":
        now, then = (json.loads((folder / name / "metrics.json").read_text()) for folder in (Path(), MADE))
        assert_holds(now, then)
        assert scores(now) == pytest.approx(scores(then), rel=1e-3)


def scores(table: Dict[str, Any]) -> Dict[str, float]:
    """Return the headline of every denoiser that took part."""
    return {row["key"]: row["bands"][table["bands"][0]]["r2"]["value"] for row in table["rows"] if row["bands"]}


def test_more_movies_of_one_simulation(cryoden: Run) -> None:
    before = stamps("simulation", RESULTS["simulation"])
    words = [
        word if LINES["simulation"][place - 1] != "--movies" else 4 for place, word in enumerate(LINES["simulation"])
    ]
    status, error = cryoden(*words)
    assert status == 0, error
    assert Path("simulation/movies/movie_0004.mrcs").is_file()
    assert before.items() <= stamps("simulation", RESULTS["simulation"]).items()


def test_one_bad_movie_more(cryoden: Run) -> None:
    """The failure is named; the other movies stay."""
    before = stamps("halves", RESULTS["halves"])
    status, error = cryoden("halves", "simulation/movies/late.mrcs", *LINES["halves"][1:])
    assert status == 1, error
    assert "late.mrcs" in error
    assert list(json.loads(Path("halves/failures.json").read_text())) == ["simulation/movies/late.mrcs"]
    assert stamps("halves", RESULTS["halves"]) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("simulation", ["--seed", 2]),
        ("simulation", ["--carbon", 0.2]),
        ("halves", ["--frames", "1-4"]),
        ("halves", ["--dose-per-frame", 2.5]),
        ("halves", ["--gain-flip", "up-down"]),
        ("denoised", ["--quality", "best"]),
        ("denoised", ["--full-size"]),
        ("denoised", ["--odd", "halves/odd", "--even", "halves/even"]),
        ("denoised", ["--model", "training_patches/model.safetensors"]),
        ("evaluation", ["--scored", "all"]),
        ("evaluation", ["--sampling-rate", 6]),
        ("training", ["--seed", 2]),
        ("training_stopped", ["--epochs", 7]),
        ("training_stopped", ["--odd", "halves/full"]),
    ],
)
def test_other_options_are_refused(cryoden: Run, name: str, words: List[Any]) -> None:
    before = stamps(name)
    status, error = cryoden(*line_of(name), *words)
    assert status == 2, error
    assert stamps(name) == before


def test_halves_recorded_without_hot_pixels_go_on_keeping_them(cryoden: Run) -> None:
    """Nothing meant `off` then; what is missing is made so, whatever the default of today."""
    recorded = json.loads(Path("halves/halves.json").read_text())
    Path("halves/halves.json").write_text(json.dumps({**recorded, "hot_pixels": None}))
    place = LINES["halves"].index("--hot-pixels")
    words = LINES["halves"][:place] + LINES["halves"][place + 2 :]
    path = Path("halves/even/movie_0003.mrc")
    path.unlink()
    before = stamps("halves", RESULTS["halves"], but=path.stem)

    for _ in range(2):  # the second time on what the first one left
        status, error = cryoden(*words)
        assert status == 0, error
        assert stamps("halves", RESULTS["halves"], but=path.stem) == before
    kept = [word if word != "halves" or not number else "kept" for number, word in enumerate(words)]
    assert cryoden(*kept, "--hot-pixels", "off")[0] == 0
    np.testing.assert_array_equal(read_mrc(path), read_mrc(Path("kept/even/movie_0003.mrc")))
    assert np.abs(read_mrc(path) - read_mrc(MADE / path)).max() > read_mrc(path).std()  # its hot pixels are in it
    assert cryoden(*words, "--hot-pixels", 8)[0] == 2


def test_training_is_not_begun_anew_without_being_asked(cryoden: Run) -> None:
    before = stamps("training_stopped")
    assert cryoden(*LINES["training_stopped"])[0] == 2
    assert stamps("training_stopped") == before


@pytest.mark.parametrize("name", ["denoised"])
def test_overwrite_is_the_way_out(cryoden: Run, name: str) -> None:
    before = stamps(name, RESULTS[name])
    status, error = cryoden(*line_of(name), "--quality", "best", "--overwrite")
    assert status == 0, error
    after = stamps(name, RESULTS[name])
    assert set(after) == set(before)
    assert not set(after.items()) & set(before.items())


def test_stopped_training_goes_on(cryoden: Run) -> None:
    """From the middle of its fourth epoch to what the same training was without a stop; some options may change."""
    before = load_log(Path("training_stopped/log.jsonl"))
    free = ["--checkpoint-minutes", 5, "--stream", "--memory", 1, "--keep", "all"]
    status, error = cryoden(*line_of("training_stopped"), *free)
    assert status == 0, error
    now, then = (load_log(Path(folder, "log.jsonl")) for folder in ("training_stopped", "training"))
    assert now[: len(before)] == before
    for quantity in ("epoch", "step"):
        assert [record[quantity] for record in now] == [record[quantity] for record in then]
    for quantity in ("loss", "validation_loss", "learning_rate"):
        expected = [record[quantity] for record in then]
        assert [record[quantity] for record in now] == pytest.approx(expected, rel=TRAINING_TOLERANCE)
    assert_holds(now, then)
    facts = model_facts(Path("training_stopped/model.safetensors"))
    assert_holds(facts, model_facts(Path("training/model.safetensors")))
    assert facts["shapes"] == model_facts(Path("training/model.safetensors"))["shapes"]


# --------------------------------------------------------------------- loaded
def test_model_denoises_as_it_did(cryoden: Run) -> None:
    words = [word if word != "denoised" else "again" for word in LINES["denoised"]]
    status, error = cryoden(*words)
    assert status == 0, error
    for path in Path("again").glob("*.mrc"):
        assert_close(path, MADE / "denoised" / path.name)
        with mrcfile.open(str(path)) as now, mrcfile.open(str(MADE / "denoised" / path.name)) as then:
            assert now.voxel_size.x == pytest.approx(float(then.voxel_size.x))
    assert len(list(Path("again").glob("*.mrc"))) == 3


def test_patch_files_and_models_are_trained_on_from(cryoden: Run) -> None:
    assert cryoden("patches", "verify", "patches")[0] == 0
    words = [word if word != "training_patches" else "tuned" for word in LINES["training_patches"]]
    status, error = cryoden(*words, "--from", "training_patches/model.safetensors", "--max-batches", 2)
    assert status == 0, error
    facts = model_facts(Path("tuned/model.safetensors"))
    assert_holds(facts, model_facts(Path("training_patches/model.safetensors")))


def test_bundle_is_compared_and_its_weights_taken_over(cryoden: Run) -> None:
    status, error = cryoden("verify", "compare", "bundle", "--tolerance", 1e-4, "--loss-tolerance", 1e-5)
    assert status == 0, error
    status, error = cryoden("verify", "import-weights", "bundle", "--sampling-rate", 4, "--output", "taken")
    assert status == 0, error
    weights = np.fromfile("bundle/conv2_weights.bin", "<f4")
    with safe_open("taken/model.safetensors", framework="numpy") as file:
        assert any(np.array_equal(file.get_tensor(name).ravel(), weights) for name in file.keys())  # noqa: SIM118


# --------------------------------------------------------------------- asked
@pytest.mark.parametrize("command", sorted({line["command"] for line in OPTIONS}))
def test_every_option_is_accepted_and_means_the_same(cryoden: Run, command: str) -> None:
    """Every option and every choice, its default, and its name in a file of options."""
    for line in [line for line in OPTIONS if line["command"] == command]:
        expected = line["options"]
        for (changed, name), value in CHANGED_DEFAULTS.items():
            if changed == command and OPTION_NAMES.get(name, "--" + name.replace("_", "-")) not in line["words"]:
                expected = {**expected, name: value}
        status, error = cryoden(*command.split(), *line["words"], "--save-config", "now.json")
        assert status == 0, (line["words"], error)
        now = json.loads(Path("now.json").read_text())
        assert {name: now.get(name, "is gone") for name in expected} == expected
        Path("then.json").write_text(json.dumps(line["options"]))
        status, error = cryoden(*command.split(), "--config", "then.json", "--save-config", "read.json")
        assert status == 0, (line["options"], error)
        read = json.loads(Path("read.json").read_text())
        meant = {
            name: WORDS_FOR_NOTHING.get((command, name)) if value is None else value
            for name, value in line["options"].items()
        }
        assert {name: read.get(name, "is gone") for name in meant} == meant


def test_all_commands_leave_files_of_the_same_names_and_columns(
    cryoden: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything from the beginning, in an empty folder."""
    (tmp_path / "anew").mkdir()
    monkeypatch.chdir(tmp_path / "anew")
    for name, words in LINES.items():
        if name == "training_stopped":
            continue
        status, error = cryoden(*words)
        assert status == 0, (name, error)
        found = {str(path.relative_to(name)) for path in Path(name).rglob("*")}
        assert not set(FILES[name]) - found, name
        if (MADE / name).is_dir():
            assert_same_tables(name, name)
        for path in [MADE / name / file for file in READ_BY_OTHERS if (MADE / name / file).exists()]:
            assert_holds(json.loads(Path(name, path.name).read_text()), json.loads(path.read_text()), path.name)
        for path in (MADE / name).glob("log.jsonl"):
            assert_holds(load_log(Path(name, path.name)), load_log(path), name)
    header = [(folder / "evaluation/metrics.csv").read_text().splitlines()[0].split(",") for folder in (MADE, Path())]
    assert set(header[0]) <= set(header[1])
    with np.load(str(MADE / "halves/fixed_pattern.npz")) as then, np.load("halves/fixed_pattern.npz") as now:
        assert set(then.files) <= set(now.files)
