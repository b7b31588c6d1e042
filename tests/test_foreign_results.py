"""Files of names that a command writes, which no run of it made: every command refuses them and leaves them alone."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, List

import numpy as np
import pytest

from tests.helpers import Result, blurring_cnn3, write_halves, write_raw_mrc

Run = Callable[..., Result]

HALVES = ["--odd", "odd", "--even", "even"]

WORDS: Dict[str, List[object]] = {
    "halves": ["halves", "m0.mrcs"],
    "train": ["train", *HALVES, "--network", "cnn3", "--keep", "all"],
    "denoise": ["denoise", "odd", "--model", "blur.safetensors"],
    "evaluate": ["evaluate", *HALVES, "--model", "blur.safetensors", "--topaz", "no"],
    "choose": ["choose", *HALVES, "--topaz", "no", "--seconds", 0],
    "show": ["show", *HALVES],
    "pairs": ["simulate", "pairs", "--pairs", 1, "--size", 64, 64],
    "movies": ["simulate", "movies", "--movies", 1, "--size", 64, 64, "--frames", 2, "--particles", 0],
    "patches": ["patches", "export", *HALVES, "--patch", 32],
    "bundle": ["verify", "export", "--size", 16],
    "import": ["verify", "import-weights", "weights", "--sampling-rate", 1],
}

FILES = {
    "halves": [
        "halves.results.jsonl", "log_1.jsonl", "sanity.json", "fixed_pattern.npz", "fixed_pattern.png",
        "odd/micrographs.star",
    ],
    "train": ["model.safetensors", "samples.npz", "curves.png", "epochs/epoch_0001.safetensors", "log.jsonl"],
    "denoise": ["denoise.results.jsonl", "micrographs.star", "log.jsonl"],
    "evaluate": [
        "evaluate.results.jsonl", "metrics.csv", "report.html", "scores.png", "worst_residual.png", "inside_model1.npz",
        "inside_model1.png",
    ],
    "choose": ["choose.results.jsonl", "election.txt", "model.safetensors", "candidates/x", "evaluation/metrics.json"],
    "show": ["contact_sheet_1.png", "contact_sheet_7.png", "denoise.json"],
    "pairs": ["log.jsonl", "clean/particles_0001.mrc"],
    "movies": ["simulation.results.jsonl", "gain.mrc"],
    "patches": ["test_input.bin"],
    "bundle": ["index.json", "conv1_bias.bin", "output.bin"],
    "import": ["model.safetensors"],
}  # fmt: skip
"""Command -> names of some of what it writes; beside them all write `COMMON`."""

COMMON = ["failures.json", "outcome.json"]


@pytest.fixture
def inputs(blur_model: Path) -> None:
    write_halves(Path(), n=3)
    write_raw_mrc(Path("m0.mrcs"), np.random.default_rng(1).poisson(4, (4, 40, 48)), 0)
    Path("weights").mkdir()
    for number, layer in enumerate((0, 2, 4), 1):
        for kind, name in (("weight", "weights"), ("bias", "bias")):
            array = blurring_cnn3()[f"layers.{layer}.{kind}"]
            array.astype("<f4").tofile(f"weights/conv{number}_{name}.bin")


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command in WORDS for name in FILES[command] + COMMON]
)
def test_foreign_files_are_refused_and_left_alone(cryoden: Run, inputs: None, command: str, name: str) -> None:
    path = Path("out") / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of somebody else")
    result = cryoden(*WORDS[command], "--output", "out")
    assert result.status == 2, result.err
    assert str(path) in result.last_error
    assert [file for file in Path("out").rglob("*") if file.is_file() and file.name != "outcome.json"] in ([path], [])
    assert path.read_bytes() == b"of somebody else"


@pytest.mark.parametrize("command", ["show", "bundle", "import"])
def test_results_of_the_same_command_are_made_again(cryoden: Run, inputs: None, command: str) -> None:
    for _ in range(2):
        assert cryoden(*WORDS[command], "--output", "out").status == 0


def test_weights_are_not_imported_over_another_model(cryoden: Run, inputs: None) -> None:
    assert cryoden(*WORDS["import"], "--output", "out").status == 0
    content = Path("out/model.safetensors").read_bytes()
    result = cryoden(*WORDS["import"][:-1], 2, "--output", "out")
    assert result.last_error == (
        "cryoden: out/model.safetensors is there, and is another model. Choose another --output folder."
    )
    assert Path("out/model.safetensors").read_bytes() == content
