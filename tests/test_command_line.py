from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, List

import numpy as np
import pytest
from safetensors.numpy import save_file

from cryoden.command_line import COMMANDS
from cryoden.config import TrainConfig
from tests.helpers import Result, images_in, leftovers, python, write_halves, write_mrc, write_raw_mrc

Run = Callable[..., Result]
TRAIN = ["train", "--odd", "odd", "--even", "even", "--output", "out"]


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """Return a folder in which torch, pandas and matplotlib cannot be imported."""
    folder = tmp_path / "blocked"
    for name in ("torch", "pandas", "matplotlib"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise ImportError('{name} is blocked')\n")
    return folder


def test_help_needs_neither_torch_nor_pandas_nor_matplotlib(tmp_path: Path, blocked: Path) -> None:
    result = python(["-m", "cryoden", "--help"], tmp_path, blocked)
    assert result.returncode == 0, result.stderr
    assert all(command in result.stdout for command in ("halves", "train", "denoise"))


@pytest.mark.parametrize("command", ["halves", "train", "denoise", "evaluate", "show"])
def test_help_of_a_command_needs_no_torch(tmp_path: Path, blocked: Path, command: str) -> None:
    result = python(["-m", "cryoden", command, "--help"], tmp_path, blocked)
    assert result.returncode == 0, result.stderr
    assert "--output" in result.stdout


@pytest.mark.parametrize("group", ["patches", "verify", "simulate"])
def test_a_group_of_commands_lists_them(tmp_path: Path, cryoden: Run, group: str) -> None:
    commands = [command.split()[1] for command in COMMANDS if command.startswith(f"{group} ")]
    for words in ([group], [group, "--help"]):
        result = cryoden(*words)
        assert result.status == 0
        assert all(f"• {command} " in result.out for command in commands)
    assert cryoden(group, "fly").status == 2


@pytest.mark.parametrize("command", [command for command in COMMANDS if " " in command or command == "fetch"])
def test_help_of_a_command_with_two_words_needs_no_torch(tmp_path: Path, blocked: Path, command: str) -> None:
    result = python(["-m", "cryoden", *command.split(), "--help"], tmp_path, blocked)
    assert result.returncode == 0, result.stderr
    assert f"usage: cryoden {command}" in result.stdout


def test_help_says_whether_lists_must_be_given(tmp_path: Path, cryoden: Run) -> None:
    for command, hint in (("halves", "CryoSPARC. (required)"), ("denoise", "CryoSPARC. (required)")):
        text = " ".join(cryoden(command, "--help").out.replace("│", " ").split())
        assert hint in text
        assert "(default: )" not in text


def test_options_of_a_command_with_two_words_are_saved_and_read(tmp_path: Path, cryoden: Run) -> None:
    words = ["simulate", "movies", "--output", "out", "--size", 70, 80]
    assert cryoden(*words, "--save-config", "a.json").status == 0
    assert cryoden("simulate", "movies", "--config", "a.json", "--seed", 5, "--save-config", "b.json").status == 0
    first, second = (json.loads(Path(name).read_text()) for name in ("a.json", "b.json"))
    assert second == {**first, "seed": 5}
    assert first["size"] == [70, 80]


def test_halves_run_without_torch_and_matplotlib(tmp_path: Path, blocked: Path) -> None:
    (blocked / "pandas" / "__init__.py").unlink()
    (blocked / "pandas").rmdir()
    write_raw_mrc(tmp_path / "m.mrc", np.arange(4 * 64).reshape(4, 8, 8), 1)
    result = python(["-m", "cryoden", "halves", "m.mrc", "--output", "out"], tmp_path, blocked)
    assert result.returncode == 0, result.stderr
    assert Path("out/odd/m.mrc").is_file()


@pytest.mark.parametrize("module", ["torch", "pandas", "matplotlib"])
def test_command_line_does_not_import_until_needed(tmp_path: Path, module: str) -> None:
    code = f"import sys, cryoden.command_line; sys.exit({module!r} in sys.modules)"
    assert python(["-c", code], tmp_path).returncode == 0


def test_version(tmp_path: Path, cryoden: Run) -> None:
    from cryoden import __version__

    assert cryoden("--version").out.strip() == __version__


def test_saved_options_are_read_back(tmp_path: Path, cryoden: Run) -> None:
    words = [*TRAIN, "--network", "cnn3", "--lr", "0.005", "--channels", "4", "8", "--stream"]
    assert cryoden(*words, "--save-config", "a.json").status == 0
    assert not Path("out").exists()
    assert cryoden("train", "--config", "a.json", "--save-config", "b.json").status == 0
    assert Path("a.json").read_text() == Path("b.json").read_text()
    expected = TrainConfig(odd="odd", even="even", output="out", network="cnn3", lr=0.005, channels=(4, 8), stream=True)
    assert json.loads(Path("a.json").read_text()) == expected.to_dict()


def test_saved_lists_of_files_are_read_back(tmp_path: Path, cryoden: Run) -> None:
    words = ["denoise", "a.mrc", "b.mrc", "--model", "m", "--output", "out", "--quality", "best"]
    cryoden(*words, "--save-config", "a.json")
    assert cryoden("denoise", "--config", "a.json", "--save-config", "b.json").status == 0
    assert Path("a.json").read_text() == Path("b.json").read_text()


def test_options_beside_a_file_win(tmp_path: Path, cryoden: Run) -> None:
    cryoden(*TRAIN, "--epochs", 7, "--seed", 5, "--save-config", "a.json")
    cryoden("train", "--config", "a.json", "--epochs", 9, "--save-config", "b.json")
    content = json.loads(Path("b.json").read_text())
    assert (content["epochs"], content["seed"]) == (9, 5)


def test_saved_options_do_the_same(tmp_path: Path, cryoden: Run) -> None:
    write_raw_mrc(tmp_path / "m.mrc", np.arange(4 * 64).reshape(4, 8, 8), 1)
    cryoden("halves", "m.mrc", "--output", "out", "--frames", "2-3", "--save-config", "a.json")
    assert cryoden("halves", "--config", "a.json").status == 0
    assert Path("out/full/m.mrc").is_file()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"colour": 1}', "Option --colour is unknown; known are "),
        ("{}", "Option "),
        ("{", "a.json is not a JSON file ("),
        (None, "a.json does not exist or is no file; check the path."),
        ("[1, 2]", ""),
        ("5", ""),
        ('{"odd": "o", "even": "e", "output": "x", "epochs": "many"}', ""),
        ('{"odd": "o", "even": "e", "output": "x", "lr": null}', ""),
        ('{"odd": "o", "even": "e", "output": "x", "channels": "wide"}', ""),
        ('{"odd": "o", "even": "e", "output": 5}', ""),
    ],
)
def test_file_of_options_that_cannot_be_used(tmp_path: Path, cryoden: Run, content: Any, reason: str) -> None:
    if content is not None:
        Path("a.json").write_text(content)
    result = cryoden("train", "--config", "a.json")
    assert result.status == 2
    assert result.last_error.startswith(f"cryoden: {reason}")
    assert not Path("x").exists()


@pytest.mark.parametrize("option", ["--config", "--save-config"])
def test_option_without_its_file(cryoden: Run, option: str) -> None:
    result = cryoden(*TRAIN, option)
    assert result.status == 2
    assert result.last_error == f"cryoden: Option {option} needs the name of a JSON file after it."


@pytest.mark.parametrize("words", [["--epochs", "0"], ["--crop", "8"], ["--validation", "2"], ["--seed", "-1"]])
def test_option_out_of_range_does_nothing(tmp_path: Path, cryoden: Run, words: List[str]) -> None:
    write_halves(tmp_path, 2, (64, 64))
    result = cryoden(*TRAIN, *words)
    assert result.status == 2
    assert words[0] in result.err
    assert "Traceback" not in result.err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "words",
    [["fly"], ["train", "--colour", "1"], ["denoise"], [*TRAIN, "--network", "vit"], [*TRAIN, "--lr", "x"]],
)
def test_words_that_are_not_understood(cryoden: Run, words: List[str]) -> None:
    assert cryoden(*words).status == 2


def test_gpu_that_is_not_there(tmp_path: Path, cryoden: Run) -> None:
    write_halves(tmp_path, 2, (64, 64))
    result = cryoden(*TRAIN, "--device", "cuda:7")
    assert result.status == 2
    assert result.last_error.startswith("cryoden: Device cuda:7 is not there: this machine has ")
    assert result.last_error.endswith(". Give --device auto.")
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["halves", "train", "denoise"])
def test_output_folder_that_cannot_be_written(tmp_path: Path, cryoden: Run, make_model: Callable, command: str) -> None:
    write_halves(tmp_path, 2, (64, 64))
    write_raw_mrc(tmp_path / "m.mrc", np.arange(4 * 64).reshape(4, 8, 8), 1)
    (tmp_path / "file").write_text("")
    words = {
        "halves": ["m.mrc"],
        "train": ["--odd", "odd", "--even", "even"],
        "denoise": ["odd/mic0.mrc", "--model", make_model()],
    }[command]
    result = cryoden(command, *words, "--output", "file/out")
    assert result.status == 2
    assert result.last_error == (
        "cryoden: Output folder file/out cannot be written (Not a directory). Choose another --output folder."
    )


def write_bad_input(name: str) -> str:
    """Write a micrograph that cannot be used; return what must be said about it."""
    path = Path(name)
    if name == "short.mrc":
        write_mrc(path, np.eye(60))
        path.write_bytes(path.read_bytes()[:-1])
        return "short.mrc is truncated: its header promises 15424 bytes but it has 15423. Copy it again."
    if name == "text.mrc":
        path.write_text("these are words " * 100)
        return "text.mrc is no MRC file: its header does not make sense. Check what it is."
    if name == "tiny.mrc":
        path.write_text("words")
        return "tiny.mrc is no MRC file: it has 5 bytes, a header alone has 1024."
    if name == "text.tif":
        path.write_text("these are words " * 100)
        return "text.tif cannot be read as TIFF ("
    if name == "what.dm4":
        path.write_text("words")
        return "what.dm4 has the unknown ending '.dm4'; cryoden reads .mrc, .mrcs, .map, .tif, .tiff"
    if name == "flat.mrc":
        write_mrc(path, np.full((60, 60), 7.0))
        return "flat.mrc cannot be used: it is constant: every pixel is 7. It holds no image; leave it out."
    if name == "nan.mrc":
        image = np.eye(60)
        image[2, 2] = np.nan
        write_mrc(path, image)
        return (
            "nan.mrc cannot be used: it has pixels that are NaN or infinite; every pixel must be a number. Remake it."
        )
    if name == "stack.mrc":
        write_mrc(path, np.ones((3, 60, 60), np.float32))
        return "stack.mrc holds 3 images; a micrograph is one. Movies are split into halves first."
    return "none.mrc does not exist or is no file; check the path."


@pytest.mark.parametrize(
    "name",
    [
        "short.mrc",
        "text.mrc",
        "tiny.mrc",
        "text.tif",
        "what.dm4",
        "flat.mrc",
        "nan.mrc",
        "stack.mrc",
        "none.mrc",
    ],
)
def test_only_input_is_bad(tmp_path: Path, cryoden: Run, make_model: Callable, name: str) -> None:
    reason = write_bad_input(name)
    result = cryoden("denoise", name, "--model", make_model(), "--output", "out")
    assert result.status == 2
    assert result.last_error.startswith(f"cryoden: The only micrograph could not be denoised: {reason}")
    assert images_in(Path("out")) == ["log.jsonl"]  # which says why
    assert leftovers(tmp_path) == []


def test_star_file_without_micrographs_is_no_traceback(tmp_path: Path, cryoden: Run, make_model: Callable) -> None:
    Path("empty.star").write_text("data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n\n")
    result = cryoden("denoise", "empty.star", "--model", make_model(), "--output", "out")
    assert result.status == 2
    assert result.last_error.startswith("cryoden: ")


def test_empty_folder(tmp_path: Path, cryoden: Run, make_model: Callable) -> None:
    (tmp_path / "raw").mkdir()
    result = cryoden("denoise", "raw", "--model", make_model(), "--output", "out")
    assert result.status == 2
    assert result.last_error == (
        "cryoden: Folder raw holds no micrograph (.mrc, .mrcs, .map, .tif, .tiff); check the path."
    )


@pytest.mark.parametrize("kind", ["words", "other purpose", "damaged", "missing", "wrong type"])
def test_model_that_is_none(tmp_path: Path, cryoden: Run, kind: str) -> None:
    write_mrc(tmp_path / "a.mrc", np.eye(60))
    path = Path("m.safetensors")
    card = '{"network": "cnn3", "channels": [], "sampling_rate": "four", "training": {}, "version": "1"}'
    if kind == "words":
        path.write_text("no model")
    elif kind != "missing":
        metadata = {
            "other purpose": {"format": "pt"},
            "damaged": {"format": "cryoden-micrograph-denoiser", "card": "{"},
            "wrong type": {"format": "cryoden-micrograph-denoiser", "card": card},
        }[kind]
        save_file({"w": np.ones(3, np.float32)}, str(path), metadata)
    result = cryoden("denoise", "a.mrc", "--model", path, "--output", "out")
    assert result.status == 2
    assert result.last_error.startswith(
        {
            "words": "cryoden: m.safetensors is no model: it is not a safetensors file (",
            "other purpose": "cryoden: m.safetensors is a safetensors file for another purpose (pt); give a",
            "damaged": "cryoden: m.safetensors has damaged metadata (",
            "wrong type": "cryoden: m.safetensors has damaged metadata (",
            "missing": "cryoden: m.safetensors does not exist or is no file; check the path.",
        }[kind]
    )
    assert not Path("out").exists()


def test_training_from_the_command_line(tmp_path: Path, cryoden: Run) -> None:
    write_halves(tmp_path, 3, (64, 64))
    result = cryoden(*TRAIN, "--network", "cnn3", "--epochs", 2, "--crop", 32, "--max-batches", 2)
    assert result.status == 0
    assert result.out.startswith("Best held-out R2 ")
    assert json.loads(Path("out/failures.json").read_text()) == {}
    assert sorted(p.name for p in Path("out").iterdir()) == [
        "checkpoint.pt", "curves.png", "failures.json", "log.jsonl", "model.safetensors", "outcome.json",
        "samples.npz",
    ]  # fmt: skip


@pytest.mark.parametrize("command", ["halves", "denoise", "evaluate", "train", "simulate pairs", "patches export"])
def test_a_failure_is_said_once(
    tmp_path: Path, cryoden: Run, make_model: Callable, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    """Where stderr is no terminal: in the last lines."""
    write_halves(tmp_path, n=4, shape=(128, 128))
    bad = write_mrc(tmp_path / "odd" / "mic2.mrc", np.full((128, 128), 7.0), 4.0)
    write_raw_mrc(tmp_path / "m.mrc", np.random.default_rng(1).poisson(1, (4, 64, 64)).astype(np.uint8), 6)
    (tmp_path / "n.mrc").write_text("words")
    halves = ["--odd", "odd", "--even", "even", "--output", "out"]
    words = {
        "halves": ["m.mrc", "n.mrc", "--output", "out"],
        "denoise": ["odd", "--model", make_model(), "--output", "out"],
        "evaluate": [*halves, "--topaz", "no", "--bootstrap", 10],
        "train": [*halves, "--network", "cnn3", "--epochs", 1, "--max-batches", 2, "--crop", 64, "--batch-size", 2],
        "simulate pairs": ["m.mrc", "n.mrc", "odd/mic0.mrc", "--output", "out"],
        "patches export": [*halves, "--patch", 64, "--stride", 64, "--normalization", "standard"],
    }[command]
    with caplog.at_level("INFO"):
        result = cryoden(*command.split(), *words)
    assert result.status == 1, result.err
    name = "n.mrc" if "n.mrc" in words else bad.name
    said = [line for line in [*result.err.splitlines(), *caplog.messages] if name in line]
    reasons = [line for line in said if not line.startswith("{")]
    assert len(reasons) == 1, said
    assert reasons[0].startswith("cryoden: failed: ")
    assert not any("reason" in json.loads(line) for line in said if line.startswith("{"))
