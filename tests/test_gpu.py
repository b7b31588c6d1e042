"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Tuple

import numpy as np
import pytest
import torch

from cryoden.config import TrainConfig
from cryoden.data.crops import EpochPlan
from cryoden.data.loaders import ManagedLoader, StreamingLoader
from cryoden.data.pairs import find_pairs
from cryoden.model.networks import build_network
from cryoden.model.predictor import Predictor
from cryoden.model.training import train
from tests.helpers import write_halves

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that this PyTorch can use"),
]

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CONFIG = TrainConfig(
    odd="odd", even="even", output="out", channels=(8, 16), crop=64, batch_size=4, epochs=5, lr=5e-3, min_batches=20
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_halves(tmp_path, 6, (160, 192))
    return tmp_path


@pytest.mark.parametrize("side", [(200, 333), (97, 64)])
@pytest.mark.parametrize("name", ["unet", "cnn3"])
def test_gpu_predicts_what_the_cpu_does(name: str, side: Tuple[int, int]) -> None:
    image = torch.from_numpy(np.random.default_rng(1).normal(size=side).astype(np.float32))
    expected = Predictor(build_network(name, (8, 16, 32)), CPU)(image)
    for precision, tolerance in (("float32", 3e-3), ("bfloat16", 3e-2)):  # TF32 and bfloat16 keep 10 and 7 bits
        predicted = Predictor(build_network(name, (8, 16, 32)), GPU, 128, 1, precision)(image).cpu()
        assert float((predicted - expected).std() / expected.std()) < tolerance


def test_all_loaders_give_a_gpu_the_same_batches(folder: Path) -> None:
    pairs = find_pairs("odd", "even")[0]
    plan = EpochPlan([pair.used_shape for pair in pairs], 64, 4, 1, 0)
    loaders = [
        ManagedLoader(pairs, [], 64, CPU),
        ManagedLoader(pairs, [], 64, GPU, keep=GPU),
        ManagedLoader(pairs, [], 64, GPU),
        StreamingLoader(pairs, [], 64, GPU, budget_bytes=1),
    ]
    for batches in zip(*(loader.batches(plan) for loader in loaders)):
        for batch in batches[1:]:
            assert all(torch.equal(a, b.cpu()) for a, b in zip(batches[0], batch))


def test_training_is_as_good_as_on_the_cpu_in_every_arithmetic(folder: Path) -> None:
    changes = {
        "cpu": {"device": "cpu"},
        "bfloat16": {"device": "cuda"},
        "float32": {"device": "cuda", "precision": "float32"},
        "compiled": {"device": "cuda", "compile": "yes"},
    }
    quality = {name: train(replace(CONFIG, output=name, **change)).r2 for name, change in changes.items()}
    assert quality["cpu"] > 0.3
    assert max(quality.values()) - min(quality.values()) < 0.05, quality
    records = [json.loads(line) for line in Path("bfloat16/log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5]
