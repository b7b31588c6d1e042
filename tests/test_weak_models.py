"""A bad model is called one by the training, before it denoises and in its evaluation; a pattern of the halves too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable

import numpy as np
import pytest

from cryoden.formats.model_file import read_card
from cryoden.formats.training_folder import read_log
from tests.helpers import Result, read_mrc, write_halves, write_mrc

Run = Callable[..., Result]

TRAIN = (
    "train", "--odd", "odd", "--even", "even", "--output", "model", "--network", "cnn3", "--crop", 32,
    "--batch-size", 4, "--device", "cpu", "--sampling-rate", "full",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the drawing, which takes seconds and has its own tests."""
    monkeypatch.setattr("cryoden.report.training_figures.draw_training", lambda *_: None)
    monkeypatch.setattr("cryoden.report.contact_sheet.save_figure", lambda *_: None)
    monkeypatch.setattr("cryoden.report.html_report.write_report", lambda folder: Path(folder) / "report.html")


HARDLY = "hardly trained (24 steps): train longer."
WORSE = "worse than a linear filter"


def test_a_bad_model_is_called_one_everywhere(tmp_path: Path, cryoden: Run, caplog: pytest.LogCaptureFixture) -> None:
    write_halves(tmp_path, 4, (96, 96), noise=2.0)
    trained = cryoden(*TRAIN, "--epochs", 3, "--max-batches", 8, "--lr", 1e-5)
    assert f"cryoden: warning: This model is {HARDLY}" in trained.err
    assert f"cryoden: warning: This model is {WORSE} (R2 " in trained.err

    record, facts = read_log("model/log.jsonl")[-1], read_card("model/model.safetensors").training
    assert record["r2"] < record["wiener_r2"] < 1
    assert 0 < record["r2_error"] < 1
    assert {key: facts[key] for key in ("r2", "r2_error", "wiener_r2")} == {
        key: record[key] for key in ("r2", "r2_error", "wiener_r2")
    }
    assert facts["r2_before"] == read_log("model/log.jsonl")[-2]["r2"]

    # Before the first micrograph is read: this one cannot be.
    Path("raw.mrc").write_text("words")
    caplog.clear()
    cryoden("denoise", "raw.mrc", "--model", "model/model.safetensors", "--output", "denoised")
    assert f"cryoden: warning: This model is {HARDLY}" in caplog.text
    assert WORSE in caplog.text

    evaluated = cryoden(
        "evaluate", "--odd", "odd", "--even", "even", "--model", "model/model.safetensors", "--output", "report",
        "--topaz", "no",
    )  # fmt: skip
    assert f"cryoden: warning: CNN3 is {HARDLY}" in evaluated.err
    head = json.loads(Path("report/metrics.json").read_text())["warnings"]
    assert head[0].startswith(f"CNN3 is {WORSE} (R2 ")
    assert head[1] == f"CNN3 is {HARDLY}"


def test_a_pattern_of_the_halves_is_said_by_training_and_by_show(
    tmp_path: Path, cryoden: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Hot pixels at the same places of all halves: the halves correlate the better for it."""
    write_halves(tmp_path, 4, (96, 96), noise=2.0)
    hot = np.random.default_rng(5).random((96, 96)) < 0.005
    for path in [*Path("odd").iterdir(), *Path("even").iterdir()]:
        image = read_mrc(path).astype(np.float32)
        write_mrc(path, np.where(hot, image.mean() + 20 * image.std(), image))
    caplog.clear()
    trained = cryoden(*TRAIN, "--epochs", 1, "--max-batches", 2)
    assert trained.status == 0
    begin = "cryoden: warning: The halves have a fixed pattern. "
    line = next(line for line in caplog.messages if line.startswith(begin))
    assert "Split the movies again" in line
    assert "This model was trained on halves with a fixed pattern." in trained.err
    assert read_card("model/model.safetensors").training["pattern_share"] > 0.3

    shown = cryoden("show", "--odd", "odd", "--even", "even", "--output", "sheets", "--crop", 64)
    assert "cryoden: warning: A fixed pattern: " in shown.err


def test_halves_without_a_pattern_are_not_suspected(tmp_path: Path, cryoden: Run) -> None:
    """Also a single micrograph, of which two parts are used: it has everything in common with itself."""
    write_halves(tmp_path, 1, (160, 160))
    trained = cryoden(*TRAIN, "--epochs", 1, "--max-batches", 2)
    assert trained.status == 0
    assert "pattern" not in trained.err
    assert read_card("model/model.safetensors").training["pattern_share"] is None
