from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Callable, List

import numpy as np
import pytest
import torch

from cryoden.config import TrainConfig
from cryoden.data.loaders import ManagedLoader, StreamingLoader
from cryoden.formats.model_file import read_model
from cryoden.formats.training_folder import read_log
from cryoden.model import devices, training_setup
from cryoden.model.networks import CNN3
from cryoden.model.training import train
from cryoden.model.training_data import TrainingData
from cryoden.model.training_setup import set_up
from tests.helpers import Result, read_mrc, write_halves, write_mrc

CPU = torch.device("cpu")
KERNEL_VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_FX_GRAPH_CACHE", "TORCHINDUCTOR_AUTOGRAD_CACHE")


@pytest.mark.parametrize(
    ("flags", "has_it"),
    [("fpu avx512f avx512_bf16 sse", True), ("amx_bf16\n", True), ("avx512f not_avx512_bf16", False), (None, False)],
)
def test_bfloat16_of_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, has_it: bool) -> None:
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "cpuinfo")
    if flags is not None:
        devices.CPU_INFO.write_text(f"model name : x\nflags : {flags}")
    assert devices.has_bfloat16(CPU) is has_it


@pytest.mark.parametrize("has_it", [True, False])
@pytest.mark.parametrize("device", [CPU, torch.device("cuda")])
def test_auto_is_bfloat16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, has_it: bool
) -> None:
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: has_it)
    assert devices.resolve_precision(device, "auto") == {True: torch.bfloat16, False: torch.float32}[has_it]
    assert devices.resolve_precision(device, "bfloat16") == torch.bfloat16
    assert devices.resolve_precision(device, "float32") == torch.float32


def test_kernels_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are kept before torch compiles the first one; a folder that somebody chose stays."""
    monkeypatch.setattr(devices, "private_cache", lambda name: tmp_path / name)
    seen: List[str] = []
    monkeypatch.setattr(torch, "compile", lambda *_, **__: seen.append(os.environ["TORCHINDUCTOR_CACHE_DIR"]))
    for name in KERNEL_VARIABLES:  # set before, so that the test leaves none behind
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    devices.compile_network(CNN3())
    assert [os.environ[name] for name in KERNEL_VARIABLES[1:]] == ["1", "1"]
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "chosen")
    monkeypatch.setenv(KERNEL_VARIABLES[1], "0")
    devices.compile_network(CNN3())
    assert seen == [str(tmp_path / "kernels"), "chosen"]
    assert os.environ[KERNEL_VARIABLES[1]] == "0"


def test_processes_on_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each keeps its own micrographs there: what fits into it once need not fit twice."""
    write_halves(tmp_path, 2, (64, 64))
    config = TrainConfig(odd="odd", even="even", output="out", network="cnn3", crop=32, device="cpu")
    data = TrainingData.find(config)
    n_bytes = sum(pair.n_bytes for pair in (*data.training, *data.held_out))
    monkeypatch.setattr(training_setup, "free_bytes", lambda device: 3 * n_bytes)  # half of it may be used
    assert isinstance(set_up(config, data, CPU).loader, ManagedLoader)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert isinstance(set_up(config, data, CPU).loader, StreamingLoader)


def test_a_training_validates_in_the_arithmetic_of_denoising(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The best model is chosen by what denoising will make."""
    write_halves(tmp_path, 2, (64, 64))
    config = TrainConfig(
        odd="odd", even="even", output="wide", network="cnn3", crop=32, device="cpu", epochs=1, max_batches=2
    )
    train(config)
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: True)
    assert set_up(config, TrainingData.find(config), CPU).step.precision == torch.bfloat16
    for precision in ("auto", "bfloat16", "float32"):
        train(replace(config, output=precision, precision=precision))

    logs = {name: read_log(f"{name}/log.jsonl")[0] for name in ("wide", "auto", "bfloat16", "float32")}
    for key in ("loss", "validation_loss"):
        assert logs["wide"][key] == logs["float32"][key] != logs["auto"][key] == logs["bfloat16"][key]
        assert logs["auto"][key] == pytest.approx(logs["wide"][key], rel=0.02)
    assert all(array.dtype == np.float32 for array in read_model("auto/model.safetensors")[1].values())


def test_denoising_takes_bfloat16_where_the_cpu_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cryoden: Callable[..., Result], make_model: Callable
) -> None:
    write_mrc(tmp_path / "a.mrc", np.random.default_rng(1).normal(20, 3, (90, 70)))
    words = ["denoise", "a.mrc", "--model", make_model(network="unet", channels=(8, 16))]
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: True)
    for precision in ("auto", "bfloat16", "float32"):
        assert cryoden(*words, "--output", precision, "--precision", precision).status == 0
    auto, narrow, wide = (read_mrc(Path(name) / "a.mrc") for name in ("auto", "bfloat16", "float32"))
    np.testing.assert_array_equal(auto, narrow)
    assert 0 < np.abs(narrow - wide).std() < 0.05 * wide.std()
