from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest

from cryoden.config import TrainConfig, shared
from cryoden.data.normalize import STANDARD
from cryoden.errors import ExistingResultsError
from cryoden.formats import general_model as general_model_file
from cryoden.formats.model_file import KEPT_START, ModelCard, read_card, read_model, write_model
from cryoden.model.networks import build_network
from cryoden.model.trained_model import settle_start
from cryoden.model.training import TrainingStoppedError, run_training, train
from cryoden.model.training_data import TrainingData, settle_working_rate
from tests.helpers import RATE, write_halves

SMALL = (4, 8)
QUICK = TrainConfig(
    odd="odd", even="even", output="out", channels=SMALL, sampling_rate="full", crop=32, batch_size=4, min_batches=1,
    max_batches=5, epochs=2, device="cpu", validation=0.3,
)  # fmt: skip

BEFORE = {"network": "unet", "channels": [32, 64, 128, 256, 256, 256], "lr": 1e-3, "epochs": 20, "from_model": None}
"""What version 0.1 recorded of its default."""


@pytest.fixture(autouse=True)
def small_general(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a small network stand for the general model."""
    path = tmp_path / "installed.safetensors"
    weights = {
        name: array.numpy().astype(np.float16)
        for name, array in build_network("resunet", SMALL, 9).state_dict().items()
    }
    training = {"general": {"version": 1, "rates": [3.0, 6.5]}}
    write_model(path, weights, ModelCard("resunet", SMALL, RATE, asdict(STANDARD), training))
    monkeypatch.setattr(general_model_file, "GENERAL_FILE", path)
    return path


@pytest.fixture
def halves(tmp_path: Path) -> None:
    write_halves(tmp_path, 4, noise=1.0, mean=5.0)


def start_of(config: TrainConfig, caplog: pytest.LogCaptureFixture) -> List[str]:
    """Return what a training would start from, and what is said of it."""
    caplog.clear()
    config = settle_working_rate(config)
    with caplog.at_level(logging.INFO, "cryoden"):
        settled = settle_start(config, TrainingData.find(config))
    return [settled.from_model, *(r.getMessage() for r in caplog.records if "Starting" in r.getMessage())]


# ---------------------------------------------------------------------- from what
def test_starts_from_the_general_model(halves: None, caplog: pytest.LogCaptureFixture) -> None:
    assert start_of(QUICK, caplog) == ["general", "Starting from the general model."]
    train(replace(QUICK, lr=1e-12, epochs=1))
    card, weights = read_model("out/model.safetensors")
    for name, array in read_model("general")[1].items():
        np.testing.assert_allclose(weights[name], array, atol=1e-6)
    assert (card.start, card.label, card.sampling_rate) == ("the general model", "Residual U-Net", RATE)
    assert card.training["options"]["from_model"] == "general"
    assert len(card.training["start"]["digest"]) == 64


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"network": "cnn3"}, "is another network (resunet, not cnn3)"),
        ({"channels": (4, 6)}, "has other channels (4 8, not 4 6)"),
        ({"channels": ()}, "has other channels (4 8, not 32 64 128 256 256 224)"),
        ({"normalization": "p95"}, "is for another normalisation (standard, not p95)"),
        ({"sampling_rate": 6.6}, "is for 3 to 6.5 Å/px, not for 6.62 Å/px"),
    ],
)
@pytest.mark.parametrize("asked", ["auto", "general"])
def test_general_model_that_does_not_fit(
    halves: None, caplog: pytest.LogCaptureFixture, changes: Dict[str, Any], why: str, asked: str
) -> None:
    found = start_of(replace(QUICK, from_model=asked, **changes), caplog)
    assert found == ["none", f"Starting from random weights: the general model {why}."]


def test_finer_pixels_than_it_knows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_halves(tmp_path, 4, rate=2.5)
    assert start_of(QUICK, caplog)[0] == "none"
    assert start_of(replace(QUICK, sampling_rate=3.0), caplog)[0] == "general"


def test_installation_without_it(halves: None, small_general: Path, caplog: pytest.LogCaptureFixture) -> None:
    small_general.unlink()
    said = "Starting from random weights: the general model is missing from this installation."
    assert start_of(QUICK, caplog) == ["none", said]


def test_patches_start_from_nothing(halves: None, cryoden: Callable, caplog: pytest.LogCaptureFixture) -> None:
    words = ("--odd", "odd", "--even", "even", "--output", "patches", "--patch", 32, "--stride", 32)
    assert cryoden("patches", "export", *words).status == 0
    config = replace(QUICK, odd=None, even=None, patches="patches")
    assert start_of(config, caplog) == ["none"]
    asked = start_of(replace(config, from_model="general"), caplog)
    why = "is for another normalisation (standard, not p95)"
    assert asked == ["none", f"Starting from random weights: the general model {why}."]


def test_nothing_asked_for(halves: None, caplog: pytest.LogCaptureFixture) -> None:
    assert start_of(replace(QUICK, from_model="none"), caplog) == ["none"]
    train(replace(QUICK, from_model="none"))
    assert read_card("out/model.safetensors").start is None
    assert [json.loads(line)["epoch"] for line in Path("out/log.jsonl").read_text().splitlines()] == [1, 2]


def test_network_is_that_of_the_file_to_start_from(halves: None, make_model: Callable) -> None:
    """A model of version 0.1 is trained on from without saying its network, as then."""
    file = str(make_model(network="unet", channels=(3, 5)))
    config = replace(QUICK, channels=(), from_model=file, lr=1e-12, epochs=1)
    train(config)
    card, weights = read_model("out/model.safetensors")
    assert (card.network, card.channels, card.start) == ("unet", (3, 5), file)
    for name, array in read_model(file)[1].items():
        np.testing.assert_allclose(weights[name], array, atol=1e-6)
    train(replace(config, resume=True))


# ---------------------------------------------------------------------- without harm
def test_start_that_is_not_beaten_is_kept(halves: None, cryoden: Callable, caplog: pytest.LogCaptureFixture) -> None:
    train(replace(QUICK, from_model="none", output="good", epochs=6, max_batches=None, min_batches=60))
    bad = replace(QUICK, from_model="good/model.safetensors", lr=0.1)
    Path("bad.json").write_text(json.dumps(bad.to_dict()))
    with caplog.at_level(logging.INFO, "cryoden"):
        done = cryoden("train", "--config", "bad.json")
    assert done.status == 0
    assert KEPT_START in caplog.text
    assert "of the model it started from: out/model.safetensors" in done.out

    (start, *epochs) = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    assert (start["epoch"], start["step"], start["loss"]) == (0, 0, None)
    assert start["r2"] > max(epoch["r2"] for epoch in epochs)
    card, weights = read_model("out/model.safetensors")
    assert card.is_kept_start
    assert card.r2 == start["r2"]
    for name, array in read_model("good/model.safetensors")[1].items():
        np.testing.assert_array_equal(weights[name], array)
    assert Path("out/curves.png").exists()


def test_better_epoch_takes_the_place_of_the_start(halves: None) -> None:
    train(replace(QUICK, lr=3e-3, epochs=6, max_batches=None, min_batches=30))
    (start, *epochs) = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    card = read_card("out/model.safetensors")
    assert not card.is_kept_start
    assert card.r2 == max(epoch["r2"] for epoch in epochs) > start["r2"]


# ---------------------------------------------------------------------- resumed
def test_resumed_as_it_began(halves: None, small_general: Path) -> None:
    """What the file has become since is of no matter, nor that it is gone."""
    steps = iter(range(100))
    with pytest.raises(TrainingStoppedError):
        run_training(QUICK, lambda: next(steps) >= 7)
    small_general.unlink()
    train(replace(QUICK, resume=True))
    train(replace(QUICK, output="whole", from_model="none", resume=True))
    assert read_card("out/model.safetensors").training["options"]["from_model"] == "general"
    epochs = [json.loads(line)["epoch"] for line in Path("out/log.jsonl").read_text().splitlines()]
    assert epochs == [0, 1, 2]
    with pytest.raises(ExistingResultsError) as caught:
        train(replace(QUICK, resume=True, from_model="none"))
    assert caught.value.problem.differences == {"from_model": ("general", "none")}


def test_training_of_0_1_stays_what_it_was() -> None:
    config = TrainConfig(odd="odd", even="even", output="out", sampling_rate="full", resume=True)
    begun = config.begun_with({**config.lasting_options(), **BEFORE})
    assert (begun.network, begun.from_model, begun.peak_lr, begun.n_epochs) == ("unet", "none", 1e-3, 20)
    assert begun.network_channels == shared.UNET_CHANNELS
    recorded = {**config.lasting_options(), **BEFORE, "channels": [4, 8]}
    assert config.begun_with(recorded).channels == (4, 8)
    asked = replace(config, network="cnn3").begun_with({**recorded, "network": "resunet"})
    assert asked.network == "cnn3"

    # the window decides in which order crops come
    recorded["window"] = 1.0
    assert [replace(config, window=window).begun_with(recorded).window for window in (0.5, 2.0)] == [1.0, 2.0]
    assert config.begun_with({**recorded, "window": 3.0}).window == 0.5  # asked for then: to be asked for again


def test_what_is_left_open_depends_on_the_start() -> None:
    new = TrainConfig(odd="odd", even="even", output="out", from_model="none")
    assert (new.network, new.network_channels) == ("resunet", (32, 64, 128, 256, 256, 224))
    assert (new.peak_lr, new.n_epochs) == (1e-3, 20)
    assert replace(new, network="unet").network_channels == (32, 64, 128, 256, 256, 256)
    tuned = replace(new, from_model="general")
    assert tuned.peak_lr < new.peak_lr
    assert tuned.n_epochs < new.n_epochs
    assert (replace(tuned, lr=0.5).peak_lr, replace(tuned, epochs=7).n_epochs) == (0.5, 7)
