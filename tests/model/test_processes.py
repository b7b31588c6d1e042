from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import psutil
import pytest
import torch

import cryoden
from cryoden.__main__ import main
from cryoden.config import TrainConfig
from cryoden.errors import DeviceError, LostProcessError, OptionError
from cryoden.formats.model_file import read_model
from cryoden.formats.star import read_table
from cryoden.model.processes import LAUNCHER_VARIABLES
from cryoden.model.training import run_training, train
from tests.helpers import ROOT, python, read_mrc, write_halves, write_mrc

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
TINY = TrainConfig(
    odd="odd", even="even", output="one", network="cnn3", crop=32, epochs=2, max_batches=4, device="cpu",
    batch_size=4, min_batches=1,
    validation=0.5, checkpoint_minutes=1e-9, precision="float32",
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


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"WORLD_SIZE": "2"}, "but lacks RANK, MASTER_ADDR, MASTER_PORT. Start them with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}, "but lacks MASTER_PORT."),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "train together only if torchrun starts them"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE in the environment is 'two', no whole number."),
    ],
)
def test_half_an_environment_of_torchrun(
    halves: Dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, variables: Dict[str, str], reason: str
) -> None:
    for name in (*LAUNCHER_VARIABLES, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DeviceError) as caught:
        run_training(TINY)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


# One of two processes is asked to stop before its third step.
STOP = """
import sys, torch
torch.set_num_threads(1)
import cryoden
from cryoden.config import TrainConfig
from cryoden.errors import DeviceError
from cryoden.model.training import TrainingStoppedError, run_training
from cryoden.system.ranks import rank
n_asked = 0
def should_stop():
    global n_asked
    n_asked += 1
    return rank() == 1 and n_asked == 3
try:
    run_training({config!r}, should_stop)
except TrainingStoppedError:
    sys.exit(0 if n_asked == 3 else 7)
sys.exit(8)
"""


def test_a_stop_of_one_process_stops_all_after_the_same_step(halves: Dict[str, np.ndarray]) -> None:
    """The checkpoint is written, nobody waits for anybody, and the training goes on from there."""
    config = replace(TINY, output="two", checkpoint_minutes=5.0)
    Path("stop.py").write_text(STOP.format(config=config))
    result = python([*TORCHRUN[:-1], "stop.py"], Path())
    assert result.returncode == 0, result.stderr
    progress = torch.load("two/checkpoint.pt", weights_only=True)["progress"]
    assert (progress["epoch"], progress["batch"], progress["step"]) == (0, 2, 2)
    assert train_by_two(replace(TINY, resume=True), "two").returncode == 0
    train(TINY)
    for name, array in read_model("one/model.safetensors")[1].items():
        np.testing.assert_allclose(read_model("two/model.safetensors")[1][name], array, atol=1e-5)


# A thread of the group that is left over can abort the interpreter's end, if it wants Python; the transport never does.
LEFT_OVER = """
import os, sys, torch
from torch import distributed
torch.set_num_threads(1)
from cryoden.config import TrainConfig
from cryoden.model.training import run_training
destroy, n_left = distributed.destroy_process_group, []
def destroy_and_count():
    destroy()
    names = [open(f"/proc/self/task/{{task}}/comm").read() for task in os.listdir("/proc/self/task")]
    n_left.append(sum("pt_gloo" in name for name in names))
distributed.destroy_process_group = destroy_and_count
run_training({config!r})
sys.exit(n_left != [0])
"""


def test_threads_of_the_group_end_with_it(halves: Dict[str, np.ndarray]) -> None:
    Path("left_over.py").write_text(LEFT_OVER.format(config=replace(TINY, output="two", epochs=1)))
    result = python([*TORCHRUN[:-1], "left_over.py"], Path())
    assert result.returncode == 0, result.stderr


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


@pytest.mark.parametrize("is_streaming", [False, True])
def test_one_of_the_commands_own_processes_is_killed(halves: Dict[str, np.ndarray], is_streaming: bool) -> None:
    """The other ends with one line, and the same command goes on to the end, with as many processes as it has now."""
    config = replace(TINY, device="auto", epochs=30, resume=True, stream=is_streaming, force=is_streaming)
    Path("options.json").write_text(json.dumps(config.to_dict()))
    words = ["train", "--config", "options.json", "--output", "two"]
    line = [sys.executable, "-m", "cryoden", *words, "--gpus", "cpu,cpu", "--outcome", "outcome.json"]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    command = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while command.poll() is None and not Path("two/log.jsonl").exists():
        time.sleep(0.01)
    first, second = sorted(psutil.Process(command.pid).children(), key=lambda child: child.environ()["RANK"])
    second.kill()
    err = command.communicate(timeout=60)[1]
    assert command.returncode == 2, err
    said = [line for line in err.splitlines() if line.startswith("cryoden: ")]
    assert said == [
        "cryoden: One of the 2 processes of this training ended early; the others cannot go on without it. "
        "Go on with --resume, or choose another --output folder."
    ]
    assert json.loads(Path("outcome.json").read_text())["kind"] == LostProcessError.kind
    assert not first.is_running()
    assert ("The 2 processes share a window on each machine" in err) == is_streaming

    assert main([*words, "--device", "cpu"]) == 0
    assert len(log_of("two")) == 30


def test_processes_are_not_started_from_python(halves: Dict[str, np.ndarray]) -> None:
    with pytest.raises(OptionError, match="Option --gpus is cpu,cpu; only the command line starts several processes"):
        run_training(replace(TINY, device="auto", gpus="cpu,cpu"))


def test_batch_that_two_processes_cannot_share_is_refused_in_one_line(halves: Dict[str, np.ndarray]) -> None:
    # "--" keeps torchrun from taking --even for its own --event-log-handler
    words = ["train", "--odd", "odd", "--even", "even", "--output", "two", "--batch-size", "3", "--device", "cpu"]
    result = python([*TORCHRUN, "--", "cryoden", *words], Path())
    assert result.returncode != 0
    line = "cryoden: Option --batch-size is 3, which 2 processes cannot share evenly; choose a multiple of 2."
    assert line in result.stderr
    rest = result.stderr.replace(line, "")  # said by each process, perhaps at the same moment
    assert "cryoden: " not in rest
    assert str(Path(cryoden.__file__).parent) not in rest  # the only traceback is torchrun's own
    assert not Path("two/model.safetensors").exists()


def test_two_processes_denoise_their_shares_of_one_list(tmp_path: Path, make_model: Callable) -> None:
    """Each micrograph is made once, the table is that of one process, and a bad one is named by the first."""
    rng = np.random.default_rng(1)
    for number in range(5):
        write_mrc(tmp_path / "raw" / f"mic{number}.mrc", rng.normal(size=(60, 70)))
    bad = tmp_path / "raw" / "mic3.mrc"
    bad.write_bytes(bad.read_bytes()[:2000])
    words = ["denoise", "raw", "--model", str(make_model()), "--precision", "float32"]
    assert main([*words, "--device", "cpu", "--output", "one"]) == 1
    two = python(["-m", "cryoden", *words, "--gpus", "cpu,cpu", "--output", "two"], Path())
    assert two.returncode == 1, two.stderr
    names = [f"mic{number}.mrc" for number in (0, 1, 2, 4)]
    for folder in ("one", "two"):
        assert read_table(f"{folder}/micrographs.star").paths == [f"{folder}/{name}" for name in names]
        assert list(json.loads(Path(f"{folder}/failures.json").read_text())) == ["raw/mic3.mrc"]
    for name in names:
        np.testing.assert_array_equal(read_mrc(Path("two") / name), read_mrc(Path("one") / name))
    logs = [(Path("two") / name).read_text().splitlines() for name in ("log.jsonl", "log_1.jsonl")]
    assert [len(lines) for lines in logs] == [3, 2]
    assert two.stderr.count("cryoden: failed: raw/mic3.mrc") == 1
    assert two.stdout.count("4 of 5 micrographs are denoised") == 1
