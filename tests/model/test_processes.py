from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest

from cryoden.config import TrainConfig
from cryoden.formats.model_file import read_model
from cryoden.model.training import train
from tests.helpers import python, write_halves

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
TINY = TrainConfig(
    odd="odd", even="even", output="one", network="cnn3", crop=32, epochs=2, max_batches=4, device="cpu",
    batch_size=4, min_batches=1,
    validation=0.5, checkpoint_minutes=1e-9,
)  # fmt: skip
TIMES = ("seconds", "training_seconds", "crops_per_second")


@pytest.fixture
def halves(tmp_path: Path) -> Dict[str, np.ndarray]:
    return write_halves(tmp_path, 4, noise=1.0)


def train_by_two(config: TrainConfig, output: str) -> subprocess.CompletedProcess:
    Path("two.json").write_text(json.dumps({**config.to_dict(), "output": output}))
    return python([*TORCHRUN, "cryoden", "train", "--config", "two.json"], Path())


def log_of(folder: str) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]


def numbers(value: Any) -> List[float]:
    """Return every number of a log record but its times, in order."""
    if isinstance(value, dict):
        return [number for key in sorted(value) if key not in TIMES for number in numbers(value[key])]
    return [float(value)]


def test_two_processes_train_as_one_does(halves: Dict[str, np.ndarray]) -> None:
    """Loss curve, validation and weights are equal but for the order of float32 sums: 1e-5."""
    train(TINY)
    result = train_by_two(TINY, "two")
    assert result.returncode == 0, result.stderr
    one, two = log_of("one"), log_of("two")
    assert len(one) == len(two) == TINY.epochs
    for first, second in zip(one, two):
        assert list(first) == list(second)
        assert numbers(second) == pytest.approx(numbers(first), rel=1e-5, abs=1e-5)
    weights = [read_model(f"{folder}/model.safetensors")[1] for folder in ("one", "two")]
    for name, array in weights[0].items():
        np.testing.assert_allclose(weights[1][name], array, atol=1e-5)
    assert result.stdout.count("Best held-out R2") == 1  # the first process speaks


def test_batch_that_two_processes_cannot_share_is_refused_in_one_line(halves: Dict[str, np.ndarray]) -> None:
    # "--" keeps torchrun from taking --even for its own --event-log-handler
    words = ["train", "--odd", "odd", "--even", "even", "--output", "two", "--batch-size", "3", "--device", "cpu"]
    result = python([*TORCHRUN, "--", "cryoden", *words], Path())
    assert result.returncode != 0
    line = "cryoden: Option --batch-size is 3, which 2 processes cannot share evenly; choose a multiple of 2."
    assert line in result.stderr
    rest = result.stderr.replace(line, "")  # said by each process, perhaps at the same moment
    assert "cryoden: " not in rest
    assert "cryoden/" not in rest.replace("site-packages", "")  # the only traceback is torchrun's own
    assert not Path("two/model.safetensors").exists()
