"""What several test files need."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Callable, List

import numpy as np
import pytest
import torch

from cryoden.__main__ import main
from cryoden.data.normalize import STANDARD
from cryoden.formats import general_model as general_model_file
from cryoden.formats.model_file import ModelCard, write_model
from cryoden.model import devices
from cryoden.model.networks import build_network
from cryoden.system import progress
from tests.helpers import RATE, Result, blurring_cnn3


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """Let matplotlib call pyparsing by its old names: neither is ours."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings(r"ignore:'\w+'.* deprecated.* use:DeprecationWarning"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Images of tests are so small that threads would wait for each other longer than they compute."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in its own folder, so that relative paths in STAR files end there."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every CPU compute alike: as one without bfloat16."""
    monkeypatch.setattr(devices, "CPU_INFO", Path("no-such-file"))


@pytest.fixture(autouse=True)
def _no_lines_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no command say how far it is: whether one that is quick does would depend on the computer's load."""
    monkeypatch.setattr(progress, "FIRST_SECONDS", 1e4)
    monkeypatch.setattr(progress, "LONGEST_SECONDS", 1e4)


@pytest.fixture
def cryoden(capsys: pytest.CaptureFixture) -> Callable[..., Result]:
    """Run the command line in this process."""

    def run(*words: object) -> Result:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture
def blur_model(tmp_path: Path) -> Path:
    """Write a CNN3 model that blurs: a denoiser whose effect is known exactly."""
    write_model(
        tmp_path / "blur.safetensors", blurring_cnn3(), ModelCard("cnn3", (), RATE, asdict(STANDARD), {"seed": 1})
    )
    return tmp_path / "blur.safetensors"


@pytest.fixture
def general_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a network that blurs stand for the general model, in half precision like that."""
    weights = {name: array.astype(np.float16) for name, array in blurring_cnn3().items()}
    training = {"general": {"version": 1, "rates": [3.0, 6.5]}}
    path = tmp_path / "installed" / "general.safetensors"
    path.parent.mkdir()
    write_model(path, weights, ModelCard("cnn3", (), RATE, asdict(STANDARD), training))
    monkeypatch.setattr(general_model_file, "GENERAL_FILE", path)
    return path


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Write an untrained model."""

    def make(
        name: str = "model.safetensors",
        network: str = "cnn3",
        channels: tuple = (),
        rate: float = RATE,
        seed: int = 1,
    ) -> Path:
        weights = {key: array.numpy() for key, array in build_network(network, channels, seed).state_dict().items()}
        write_model(tmp_path / name, weights, ModelCard(network, channels, rate, asdict(STANDARD), {"seed": seed}))
        return tmp_path / name

    return make
