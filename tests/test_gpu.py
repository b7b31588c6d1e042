"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Callable, Tuple

import numpy as np
import pytest
import torch
from torch import nn

from cryoden.config import TrainConfig
from cryoden.data.crops import EpochPlan
from cryoden.data.loaders import ManagedLoader, StreamingLoader
from cryoden.data.pairs import find_pairs
from cryoden.model.networks import Network, build_network
from cryoden.model.predictor import Predictor
from cryoden.model.training import TrainingStoppedError, run_training, train
from cryoden.movies.dose_weighting import DoseWeighting
from cryoden.movies.motion.aligned_sums import aligned_half_bands
from cryoden.movies.motion.arrays import Arrays
from cryoden.movies.motion.estimation import estimate_motion
from cryoden.movies.motion.gpu import TorchArrays
from cryoden.movies.motion.motion import Motion
from tests.helpers import RATE, Result, read_mrc, write_halves, write_mrc, write_raw_mrc
from tests.moving import BENT, N_FRAMES, drift, moving_frames

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


def biased_network(name: str, channels: Tuple[int, ...]) -> Network:
    """Return a network whose biases matter, as those of trained ones do."""
    network, generator = build_network(name, channels), torch.Generator().manual_seed(2)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.bias, 0, 0.3, generator=generator)
    return network


@pytest.mark.parametrize("side", [(200, 333), (97, 64)])
@pytest.mark.parametrize(
    ("name", "channels"), [("unet", (8, 16, 32)), ("unet", (32, 64, 64, 64)), ("resunet", (8, 16, 16)), ("cnn3", ())]
)
def test_gpu_predicts_what_the_cpu_does(name: str, channels: Tuple[int, ...], side: Tuple[int, int]) -> None:
    image = torch.from_numpy(np.random.default_rng(1).normal(size=side).astype(np.float32))
    expected = Predictor(biased_network(name, channels), CPU)(image)
    for precision, tolerance in (("float32", 3e-3), ("bfloat16", 3e-2)):  # TF32 and bfloat16 keep 10 and 7 bits
        predicted = Predictor(biased_network(name, channels), GPU, 128, 1, precision)(image).cpu()
        assert float((predicted - expected).std() / expected.std()) < tolerance
        assert abs(float((predicted - expected).mean() / expected.std())) < tolerance


@pytest.mark.parametrize("words", ["", "--dtype float16 --thumbnails png", "--full-size", "--odd odd --even even"])
@pytest.mark.parametrize("rate", [RATE, RATE / 1.7])
def test_gpu_denoises_files_as_the_cpu_does(
    tmp_path: Path, cryoden: Callable[..., Result], make_model: Callable, words: str, rate: float
) -> None:
    model = make_model(network="unet", channels=(8, 16))
    for number, shape in enumerate(((1500, 1100), (300, 211), (1100, 1500), (1501, 1100))):  # more than one band
        for which in ("raw", "odd", "even"):
            image = np.random.default_rng([number, len(which)]).normal(20, 3, shape)
            write_mrc(tmp_path / which / f"mic{number}.mrc", image, rate)
    for device in ("cpu", "cuda"):
        options = ("--output", device, "--device", device, "--precision", "float32", *words.split())
        assert cryoden("denoise", "raw", "--model", model, *options).status == 0
    for path in sorted(Path("cpu").glob("*.mrc")):
        expected, image = (read_mrc(Path(device) / path.name).astype(np.float32) for device in ("cpu", "cuda"))
        assert image.shape == expected.shape
        tolerance = 0.05 * expected.std() + (2e-2 if "float16" in words else 0)  # that of its last bit at a value of 20
        assert np.abs(image - expected).max() < tolerance
    assert len(list(Path("cuda").rglob("*.png"))) == (4 if "png" in words else 0)


def test_all_loaders_give_a_gpu_the_same_batches(folder: Path) -> None:
    pairs = find_pairs("odd", "even")[0]
    plan = EpochPlan.draw([pair.used_shape for pair in pairs], 64, 4, 1, 0)
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


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_training_of_a_gpu_goes_on_anywhere(folder: Path, device: str) -> None:
    """Weights, average and optimiser come back from the checkpoint; the rest differs by the order of sums."""
    config = replace(CONFIG, epochs=2, precision="float32", compile="no")
    train(replace(config, output="whole", device="cuda"))
    questions = iter([False] * 30 + [True])
    with pytest.raises(TrainingStoppedError):
        run_training(replace(config, device="cuda"), lambda: next(questions))
    train(replace(config, device=device, resume=True))
    whole, stopped = (json.loads(Path(name, "log.jsonl").read_text().splitlines()[-1]) for name in ("whole", "out"))
    assert stopped["step"] == whole["step"]
    for key in ("loss", "validation_loss", "r2"):
        assert stopped[key] == pytest.approx(whole[key], abs=0.02)


def test_motion_and_sums_are_those_of_the_cpu() -> None:
    frames = list(moving_frames(drift(), 4.0, model=BENT))
    shifts = [(float(x), float(y)) for x, y in drift()]
    motion = Motion(shifts, [BENT.fields(frame + 1) for frame in range(N_FRAMES)])
    weighting = DoseWeighting(4.0 * np.arange(1, N_FRAMES + 1), 2.0)
    found, sums = [], []
    for arrays in (Arrays(), TorchArrays("cuda")):
        there = [arrays.device(frame) for frame in frames]
        found.append(estimate_motion(there, N_FRAMES, frames[0].shape, 2.0, 4, arrays))
        in_order = partial(map, there.__getitem__)
        bands = aligned_half_bands(in_order, frames[0].shape, motion, weighting, arrays)
        sums.append(np.concatenate([np.stack(band) for band in bands], axis=1))
    assert np.abs(found[1].shifts - found[0].shifts).max() < 0.02
    np.testing.assert_allclose(sums[1], sums[0], atol=2e-3)  # of sums of about 24


def test_gpu_splits_movies_as_the_cpu_does(cryoden: Callable[..., Result]) -> None:
    write_raw_mrc(Path("m.mrcs"), np.stack(list(moving_frames(drift(), 4.0, model=BENT))).astype(np.uint8), 0)
    for device in ("cpu", "cuda"):
        words = ("halves", "m.mrcs", "--sampling-rate", 2.0, "--align", "--align-patches", 4, "--output", device)
        assert cryoden(*words, "--device", device).status == 0
    for kind in ("full", "odd", "even"):
        one, other = (read_mrc(Path(device, kind, "m.mrc")) for device in ("cpu", "cuda"))
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9999
