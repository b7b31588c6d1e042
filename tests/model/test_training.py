from __future__ import annotations

import getpass
import json
import logging
import math
import os
import resource
import shutil
import signal
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import pytest
import torch

from cryoden.config import TrainConfig
from cryoden.data.loaders import Shard
from cryoden.data.normalize import STANDARD, Normalization, p95_normalization
from cryoden.data.pair_reader import load_pair
from cryoden.data.pairs import find_pairs, hold_out
from cryoden.errors import CryodenError, ExistingResultsError, FileError, ModelError, Remedy, TrainingError
from cryoden.formats.model_file import read_card, read_model
from cryoden.model import checkpoints, devices, training_data
from cryoden.model.denoiser import Denoiser
from cryoden.model.training import TrainingStoppedError, run_training, train
from cryoden.model.training_data import TrainingData, settle_working_rate
from cryoden.model.training_setup import TrainingSetup, set_up
from tests.helpers import RATE, python, read_mrc, write_halves, write_mrc

QUICK = TrainConfig(
    odd="odd",
    even="even",
    output="out",
    network="cnn3",
    crop=32,
    batch_size=4,
    min_batches=1,
    epochs=3,
    max_batches=5,
    device="cpu",
    validation=0.3,
)


TIMES = ("seconds", "training_seconds", "crops_per_second")
"""What the clock writes into the log; all else must not depend on it."""


@pytest.fixture
def halves(tmp_path: Path) -> Dict[str, np.ndarray]:
    return write_halves(tmp_path, 4, noise=1.0)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with halves, and with a training that was never stopped, in `out`."""
    folder = tmp_path_factory.mktemp("trained")
    write_halves(folder, 4, noise=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(devices, "CPU_INFO", Path("no-such-file"))  # as in conftest
        train(QUICK)
    return folder


@pytest.fixture
def reference(trained_once: Path, tmp_path: Path) -> None:
    """Copy halves and training into the test's folder."""
    for name in ("odd", "even", "out"):
        shutil.copytree(str(trained_once / name), str(tmp_path / name))


def weights_of(folder: str) -> Dict[str, np.ndarray]:
    return read_model(Path(folder) / "model.safetensors")[1]


def checkpoint_of(folder: str) -> Dict[str, Any]:
    import torch

    return torch.load(str(Path(folder) / "checkpoint.pt"), weights_only=True)


def log_of(folder: str) -> List[Dict[str, Any]]:
    """Return the log without what depends on the clock."""
    records = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in TIMES} for r in records]


def assert_same_training(first: str, second: str) -> None:
    a, b = checkpoint_of(first), checkpoint_of(second)
    for part in ("network", "averaged"):
        assert all(bool((a[part][key] == b[part][key]).all()) for key in a[part])
    for name, array in weights_of(first).items():
        np.testing.assert_array_equal(array, weights_of(second)[name])
    assert log_of(first) == log_of(second)


@pytest.mark.parametrize(("network", "channels"), [("cnn3", (4, 8)), ("unet", (4, 8)), ("resunet", (4, 8))])
def test_training_learns(tmp_path: Path, network: str, channels: tuple) -> None:
    write_halves(tmp_path, 4, (128, 128), noise=1.0)
    config = replace(QUICK, network=network, channels=channels, epochs=4, min_batches=20, max_batches=20, lr=1e-2)
    assert train(config).r2 > 0.8


def test_model_is_that_of_the_best_epoch(halves: Dict[str, np.ndarray]) -> None:
    result = train(QUICK)
    r2 = [record["r2"] for record in log_of("out")]
    assert result.r2 == max(r2)
    assert read_card(result.model).training["epoch"] == result.best_epoch == r2.index(max(r2)) + 1


def test_model_tells_at_which_sampling_rate_it_works(halves: Dict[str, np.ndarray]) -> None:
    assert read_card(train(QUICK).model).sampling_rate == pytest.approx(RATE)


def test_coarser_sampling_rate_is_trained_and_kept(tmp_path: Path) -> None:
    write_halves(tmp_path, 3, (160, 160), rate=RATE / 2)
    assert read_card(train(replace(QUICK, sampling_rate=RATE)).model).sampling_rate == pytest.approx(RATE)


def test_pixel_size_is_chosen_once_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Written into card and checkpoint; a training that goes on does not choose again, whatever the halves are now."""
    write_halves(tmp_path, 3, (160, 160), rate=RATE / 2, noise=4.0)
    caplog.set_level(logging.INFO)
    card = read_card(train(replace(QUICK, epochs=1)).model)
    assert card.sampling_rate == pytest.approx(4.0, rel=0.01)
    assert card.training["options"]["sampling_rate"] == 4.0
    assert checkpoint_of("out")["options"]["sampling_rate"] == 4.0
    assert "Working pixel size: 4 Å/px, from the FRC of the halves" in caplog.text
    caplog.clear()
    write_halves(tmp_path, 3, (160, 160), rate=RATE, noise=4.0)
    assert settle_working_rate(QUICK).sampling_rate == "full"
    train(replace(QUICK, epochs=1, resume=True))
    with pytest.raises(ExistingResultsError) as caught:
        train(replace(QUICK, epochs=1, resume=True, sampling_rate="full"))
    assert caught.value.problem.differences == {"sampling_rate": (4.0, "full")}


def test_training_of_0_1_goes_on_at_the_pixel_size_that_nothing_meant(tmp_path: Path) -> None:
    write_halves(tmp_path, 3, (160, 160), rate=RATE / 2, noise=4.0)
    train(replace(QUICK, epochs=1, sampling_rate="full"))
    state = checkpoint_of("out")
    state["options"]["sampling_rate"] = None
    torch.save(state, "out/checkpoint.pt")
    for _ in range(2):  # the second time from what this version wrote
        train(replace(QUICK, epochs=1, resume=True))
    with pytest.raises(ExistingResultsError):
        train(replace(QUICK, epochs=1, resume=True, sampling_rate=4.0))


def test_first_process_chooses_the_pixel_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one does not even look at the halves."""
    monkeypatch.setattr(training_data, "broadcast", lambda value, shard: 3.6)
    assert settle_working_rate(QUICK, Shard(1, 2)).sampling_rate == 3.6
    monkeypatch.setattr(training_data, "broadcast", lambda value, shard: value)
    assert settle_working_rate(QUICK, Shard(1, 2)).sampling_rate == "full"
    write_halves(tmp_path, 3, (160, 160), rate=RATE / 2, noise=4.0)
    assert settle_working_rate(QUICK, Shard(0, 2)).sampling_rate == 4.0


def test_pixel_size_is_that_of_the_model_to_start_from(tmp_path: Path, make_model: Any) -> None:
    write_halves(tmp_path, 3, (160, 160), rate=RATE / 2, noise=4.0)
    config = replace(QUICK, from_model=str(make_model(rate=3.0)))
    assert settle_working_rate(config).sampling_rate == 3.0
    assert settle_working_rate(replace(config, sampling_rate=2.7)).sampling_rate == 2.7
    assert settle_working_rate(replace(QUICK, odd=None, even=None, patches="p")).sampling_rate == "full"


def test_same_options_give_the_same_training(reference: None) -> None:
    train(replace(QUICK, output="again"))
    assert_same_training("out", "again")


def test_streaming_and_managed_give_the_same_training(reference: None) -> None:
    train(replace(QUICK, output="stream", stream=True, force=True))
    assert_same_training("out", "stream")


def test_one_micrograph_suffices(tmp_path: Path) -> None:
    write_halves(tmp_path, 1, (160, 160))
    assert math.isfinite(train(QUICK).r2)


def setup_of(**options: Any) -> TrainingSetup:
    """Return all that a training with other options works with."""
    config = replace(QUICK, **options)
    return set_up(config, TrainingData.find(config), torch.device("cpu"))


def test_network_is_the_one_that_is_asked_for(halves: Dict[str, np.ndarray]) -> None:
    train(replace(QUICK, network="unet", channels=(4, 8), epochs=1))
    card, weights = read_model("out/model.safetensors")
    assert (card.network, card.channels) == ("unet", (4, 8))
    assert weights["down.1.0.weight"].shape == (8, 4, 3, 3)


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
def test_learning_rate_is_the_size_of_the_first_step(halves: Dict[str, np.ndarray], lr: float) -> None:
    """Adam's first step has the size of the learning rate, in its warm-up a thousandth of the highest."""
    train(replace(QUICK, lr=lr, epochs=1, max_batches=1))
    biases = checkpoint_of("out")["network"]["layers.0.bias"]  # zero before
    assert float(biases.abs().median()) == pytest.approx(1e-3 * lr, rel=0.01)


@pytest.mark.parametrize("ema", [0.0, 0.99])
def test_average_lags_behind_the_weights_by_its_decay(halves: Dict[str, np.ndarray], ema: float) -> None:
    train(replace(QUICK, ema=ema, epochs=1))
    state = checkpoint_of("out")
    current = state["network"]["layers.0.weight"]
    averaged = state["averaged"]["module.layers.0.weight"]
    assert bool((current == averaged).all()) == (ema == 0.0)
    np.testing.assert_array_equal(weights_of("out")["layers.0.weight"], averaged.numpy())


def test_crops_have_the_side_that_is_asked_for(halves: Dict[str, np.ndarray]) -> None:
    for side in (32, 48):
        setup = setup_of(crop=side)
        assert next(setup.loader.batches(setup.plan(0)))[0].shape == (4, 1, side, side)
    train(replace(QUICK, crop=48, epochs=1))
    assert read_card("out/model.safetensors").training["crop"] == 48


def test_batches_have_the_size_that_is_asked_for(halves: Dict[str, np.ndarray]) -> None:
    """Three micrographs have 25 places each on the half-overlapping grid."""
    for size in (2, 4):
        batches = setup_of(batch_size=size, max_batches=None).plan(0).batches
        assert {len(batch) for batch in batches} == {size}
        assert len(batches) == -(-75 // size)


def test_seed_draws_weights_crops_and_held_out_micrographs(halves: Dict[str, np.ndarray]) -> None:
    first, again, other = setup_of(), setup_of(), setup_of(seed=3)
    assert first.plan(0) == again.plan(0) != other.plan(0)
    assert first.plan(0) != first.plan(1)
    held_out = [[pair.name for pair in setup.data.held_out] for setup in (first, again, other)]
    assert held_out[0] == held_out[1] != held_out[2]
    weights = [setup.state.network.layers[0].weight for setup in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_fraction_held_out(halves: Dict[str, np.ndarray]) -> None:
    for fraction, n in ((0.01, 1), (0.3, 1), (0.6, 2), (0.99, 3)):
        data = setup_of(validation=fraction).data
        assert (len(data.held_out), len(data.training)) == (n, 4 - n)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"epochs": 2}, [5, 10]),
        ({"max_batches": 2, "epochs": 2}, [2, 4]),
        ({"max_batches": None, "epochs": 1}, [19]),
        ({"max_batches": None, "min_batches": 21, "epochs": 1}, [38]),
    ],
)
def test_number_of_epochs_and_batches(halves: Dict[str, np.ndarray], options: dict, steps: List[int]) -> None:
    """75 places make 19 batches of 4; where that is too few, every place is given a whole number of times."""
    train(replace(QUICK, **options))
    assert [record["step"] for record in log_of("out")] == steps
    assert log_of("out")[-1]["learning_rate"] < 0.2 * QUICK.peak_lr  # towards zero at the end, whatever its length


def test_coarser_pixels_are_trained_on(halves: Dict[str, np.ndarray]) -> None:
    setup = setup_of(sampling_rate=1.5 * RATE)
    assert setup.data.shapes == [(64, 64)] * 3
    assert setup.data.sampling_rate == pytest.approx(1.5 * RATE)


def test_arithmetic_is_the_one_that_is_asked_for(halves: Dict[str, np.ndarray]) -> None:
    """Predictions in bfloat16 differ by its rounding; weights are learned in float32."""
    losses = []
    for precision in ("float32", "bfloat16"):
        train(replace(QUICK, output=precision, precision=precision, epochs=1, max_batches=1))
        losses.append(log_of(precision)[0]["loss"])
        assert weights_of(precision)["layers.0.weight"].dtype == np.float32
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_channels_change_the_unet(halves: Dict[str, np.ndarray]) -> None:
    for channels in ((2,), (2, 4)):
        train(replace(QUICK, network="unet", channels=channels, output=str(len(channels)), epochs=1))
    assert len(weights_of("1")) < len(weights_of("2"))


def test_normalization_changes_the_weights_and_travels_with_the_model(tmp_path: Path) -> None:
    write_halves(tmp_path, 4, mean=30.0)  # p95 needs counts
    train(QUICK)
    train(replace(QUICK, output="p95", normalization="p95"))
    assert any(not np.array_equal(array, weights_of("p95")[name]) for name, array in weights_of("out").items())
    first = hold_out(find_pairs("odd", "even")[0], QUICK.validation, np.random.default_rng(QUICK.seed))[0][0]
    expected = p95_normalization(read_mrc(Path(first.odd)))
    found = [Normalization(**read_card(f"{folder}/model.safetensors").normalization) for folder in ("out", "p95")]
    assert found[0] == STANDARD
    assert found[1].kind == "p95"
    assert (found[1].mean, found[1].deviation) == pytest.approx((expected.mean, expected.deviation), rel=1e-5)


def test_bad_first_micrograph_does_not_end_a_training_with_p95(tmp_path: Path) -> None:
    """The fixed standardiser is measured on one training micrograph; if that one is bad, on another."""
    write_halves(tmp_path, 4, mean=30.0)
    first = hold_out(find_pairs("odd", "even")[0], QUICK.validation, np.random.default_rng(QUICK.seed))[0][0]
    path = Path(first.odd)
    path.write_bytes(path.read_bytes()[:2000])
    assert list(train(replace(QUICK, normalization="p95")).failures) == [first.name]


def test_grid_crops_lie_on_the_half_overlapping_grid(halves: Dict[str, np.ndarray]) -> None:
    config = replace(QUICK, crops="grid", max_batches=None)
    plan = set_up(config, TrainingData.find(config), torch.device("cpu")).plan(0)
    places = [(crop.pair, crop.y, crop.x) for batch in plan.batches for crop in batch]
    grid = {(pair, y, x) for pair in range(3) for y in (0, 16, 32, 48, 64) for x in (0, 16, 32, 48, 64)}
    assert set(places) == grid
    assert len(places) - len(grid) < QUICK.batch_size


def test_keep_all_writes_the_model_of_every_epoch(halves: Dict[str, np.ndarray]) -> None:
    best = train(replace(QUICK, keep="all")).best_epoch
    names = [path.name for path in sorted(Path("out/epochs").iterdir())]
    assert names == [f"epoch_{number:04d}.safetensors" for number in (1, 2, 3)]
    models = [read_model(Path("out/epochs") / name) for name in names]
    assert [card.training["epoch"] for card, _ in models] == [1, 2, 3]
    for name, array in weights_of("out").items():
        np.testing.assert_array_equal(models[best - 1][1][name], array)
    assert any(not np.array_equal(models[0][1][name], models[1][1][name]) for name in models[0][1])


def test_keep_best_writes_one_model(reference: None) -> None:
    assert [path.name for path in Path("out").rglob("*.safetensors")] == ["model.safetensors"]


def test_compiled_network_has_the_same_losses(halves: Dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("c++") is None:
        pytest.skip("torch.compile needs a C++ compiler on CPUs")
    from torch._inductor import config as inductor

    monkeypatch.setattr(inductor, "cpp_cache_precompile_headers", False)  # costs more than it saves here
    # torch's own place, not the user's cache: what was compiled there by an earlier run is found again
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}")
    tiny = replace(QUICK, network="unet", channels=(2,), epochs=2, max_batches=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        train(replace(tiny, output="compiled", compile="yes"))
    train(tiny)
    for key in ("loss", "validation_loss"):
        # another order of float32 sums
        expected = [record[key] for record in log_of("out")]
        assert [record[key] for record in log_of("compiled")] == pytest.approx(expected, abs=1e-5)


def test_samples_are_input_output_and_target_of_held_out_micrographs(reference: None) -> None:
    held_out = hold_out(find_pairs("odd", "even")[0], QUICK.validation, np.random.default_rng(QUICK.seed))[1]
    with np.load("out/samples.npz") as kept:
        assert sorted(kept) == [pair.name for pair in held_out]
        for pair in held_out:
            loaded = load_pair(pair).halves.numpy()
            np.testing.assert_array_equal(kept[pair.name][[0, 2]], loaded)
            assert 0 < kept[pair.name][1].std() < loaded[0].std()


def test_log_has_the_losses_and_the_rows_beside_psnr_and_ssim(reference: None) -> None:
    for record in log_of("out"):
        assert record["rmse"] == pytest.approx(math.sqrt(record["loss"]))
        assert record["validation_rmse"] == pytest.approx(math.sqrt(record["validation_loss"]))
        for measure in ("psnr", "ssim"):
            assert set(record[measure]) == {"denoised", "ceiling", "constant", "identity"}
        assert record["psnr"]["ceiling"] > record["psnr"]["denoised"] > record["psnr"]["identity"]


def test_small_window_changes_the_order_of_crops(tmp_path: Path) -> None:
    write_halves(tmp_path, 8, (64, 64))
    for window in (1.0, 1e-5):
        train(replace(QUICK, output=str(window), window=window))
    assert log_of("1.0") != log_of("1e-05")


class StopAt:
    """Stops a training at the n-th question whether to stop: before its n-th step, where an epoch ends at its last.

    Parameters
    ----------
    n
        Which question, from 1.
    error
        What is raised, as if the process died; None: the training is asked to stop.
    """

    def __init__(self, n: int, error: Optional[BaseException] = None) -> None:
        self.n, self.error, self.n_asked = n, error, 0

    def __call__(self) -> bool:
        self.n_asked += 1
        if self.n_asked == self.n and self.error is not None:
            raise self.error
        return self.n_asked >= self.n


QUESTIONS_OF_EPOCH = 6
"""Before each of its 5 steps, and before its validation."""


def test_patience_stops_early(halves: Dict[str, np.ndarray]) -> None:
    """Where nothing is learned, the first epoch stays the best."""
    result = train(replace(QUICK, epochs=6, patience=2, max_batches=1, lr=1e-30))
    assert (len(log_of("out")), result.best_epoch) == (3, 1)


class Clock:
    """Says a time that is one second later whenever it is asked."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1.0
        return self.seconds


def test_minutes_end_in_time(halves: Dict[str, np.ndarray]) -> None:
    clock = Clock()
    run_training(replace(QUICK, epochs=1000, minutes=2.0, max_batches=None), clock=clock)
    records = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    assert 120 <= records[-1]["seconds"] < 130
    assert records[-1]["learning_rate"] < 1e-3 * QUICK.peak_lr  # lowered to zero until then
    assert clock.seconds < 150


def test_time_before_a_stop_counts(halves: Dict[str, np.ndarray]) -> None:
    config = replace(QUICK, minutes=2.0, max_batches=None)
    run_training(config, clock=Clock())
    with pytest.raises(TrainingStoppedError):
        run_training(replace(config, output="stopped"), StopAt(40), Clock())
    assert checkpoint_of("stopped")["progress"]["seconds"] > 40
    run_training(replace(config, output="stopped", resume=True), clock=Clock())
    steps = [checkpoint_of(folder)["progress"]["step"] for folder in ("out", "stopped")]
    assert steps[1] == pytest.approx(steps[0], abs=3)


@pytest.mark.parametrize("after", [1, 2])
def test_training_stopped_between_epochs_ends_at_the_same_weights(reference: None, after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_training(replace(QUICK, output="stopped"), StopAt(after * QUESTIONS_OF_EPOCH + 1, KeyboardInterrupt()))
    assert checkpoint_of("stopped")["progress"]["epoch"] == after
    train(replace(QUICK, output="stopped", resume=True))
    assert_same_training("out", "stopped")


def test_training_stopped_before_its_checkpoint_ends_at_the_same_weights(reference: None) -> None:
    """The model and the log of an epoch are there, its checkpoint is not."""
    with pytest.raises(KeyboardInterrupt):
        run_training(replace(QUICK, output="stopped"), StopAt(QUESTIONS_OF_EPOCH + 1, KeyboardInterrupt()))
    before = Path("stopped/checkpoint.pt").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run_training(replace(QUICK, output="stopped", resume=True), StopAt(QUESTIONS_OF_EPOCH + 1, KeyboardInterrupt()))
    Path("stopped/checkpoint.pt").write_bytes(before)
    assert len(log_of("stopped")) == 2
    train(replace(QUICK, output="stopped", resume=True))
    assert_same_training("out", "stopped")


def test_training_killed_before_its_first_checkpoint_starts_again(reference: None) -> None:
    """It leaves a model and a log, which say by which options they were made."""
    with pytest.raises(KeyboardInterrupt):
        run_training(replace(QUICK, output="stopped"), StopAt(QUESTIONS_OF_EPOCH + 1, KeyboardInterrupt()))
    Path("stopped/checkpoint.pt").unlink()
    with pytest.raises(ExistingResultsError):
        train(replace(QUICK, output="stopped", resume=True, lr=2e-3))
    train(replace(QUICK, output="stopped", resume=True))
    assert_same_training("out", "stopped")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3, 6, 9])
def test_training_that_is_asked_to_stop_goes_on_to_the_same_weights(reference: None, n: int, stream: bool) -> None:
    """Before its first step, in its first epoch, before the validation, in its second epoch."""
    config = replace(QUICK, output="stopped", stream=stream, force=stream)
    stop = StopAt(n)
    with pytest.raises(TrainingStoppedError) as caught:
        run_training(config, stop)
    assert stop.n_asked == n
    assert caught.value.problem.remedy == Remedy("resume")
    progress = checkpoint_of("stopped")["progress"]
    assert (progress["epoch"], progress["batch"]) == {1: (0, 0), 3: (0, 2), 6: (0, 5), 9: (1, 2)}[n]
    train(replace(config, resume=True))
    assert_same_training("out", "stopped")


# Runs a training that is killed by SIGKILL, without any clean-up, in the middle of its second epoch.
KILL = """
import os, pathlib, signal, torch
torch.set_num_threads(1)
from cryoden.config import TrainConfig
from cryoden.model import devices
from cryoden.model.training import run_training
devices.CPU_INFO = pathlib.Path("no-such-file")  # as in conftest
n_asked = 0
def die():
    global n_asked
    n_asked += 1
    if n_asked == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return False
run_training({config!r}, die)
"""


def test_killed_process_resumes_within_the_epoch_to_the_same_weights(reference: None, tmp_path: Path) -> None:
    config = replace(QUICK, output="killed", checkpoint_minutes=1e-9)
    assert python(["-c", KILL.format(config=config)], tmp_path).returncode == -signal.SIGKILL
    progress = checkpoint_of("killed")["progress"]
    assert (progress["epoch"], progress["batch"], progress["step"]) == (1, 2, 7)
    train(replace(config, resume=True))
    assert_same_training("out", "killed")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_residual_unet_resumes_to_the_same_weights_and_loads_as_it_was_saved(
    halves: Dict[str, np.ndarray], precision: str
) -> None:
    config = replace(QUICK, network="resunet", channels=(4, 8, 8), epochs=2, max_batches=3, precision=precision)
    train(config)
    with pytest.raises(TrainingStoppedError):
        run_training(replace(config, output="stopped"), StopAt(6))
    train(replace(config, output="stopped", resume=True))
    assert_same_training("out", "stopped")
    card = read_card("out/model.safetensors")
    assert (card.network, card.channels) == ("resunet", (4, 8, 8))
    denoiser = Denoiser.load("out/model.safetensors", "cpu")
    state = denoiser.predictor.network.state_dict()
    assert all(np.array_equal(state[name].numpy(), array) for name, array in weights_of("out").items())


def test_streamed_training_resumes_by_streamed_steps(reference: None, caplog: Any) -> None:
    """Of three epochs, the first half is streamed, killed, and the second half streamed again."""
    caplog.set_level("INFO")
    config = replace(QUICK, output="killed", stream=True, force=True, checkpoint_minutes=1e-9)
    with pytest.raises(KeyboardInterrupt):
        run_training(config, StopAt(9, KeyboardInterrupt()))
    train(replace(config, resume=True))
    assert len([line for line in caplog.messages if line.startswith("Streaming")]) == 2
    assert_same_training("out", "killed")


@pytest.mark.parametrize(("minutes", "step"), [(5.0, 5), (1e-9, 7)])
def test_checkpoint_minutes_decide_what_a_stopped_epoch_leaves(
    halves: Dict[str, np.ndarray], minutes: float, step: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_training(replace(QUICK, checkpoint_minutes=minutes), StopAt(9, KeyboardInterrupt()))
    assert checkpoint_of("out")["progress"]["step"] == step


def test_finished_training_is_not_changed_by_resuming(reference: None) -> None:
    before = Path("out/model.safetensors").read_bytes()
    train(replace(QUICK, resume=True))
    assert Path("out/model.safetensors").read_bytes() == before


def test_other_options_cannot_resume(halves: Dict[str, np.ndarray]) -> None:
    """Which options differ, and both values of each, are data: a form names its fields."""
    train(replace(QUICK, epochs=1))
    with pytest.raises(ExistingResultsError) as caught:
        train(replace(QUICK, epochs=1, resume=True, lr=2e-3, batch_size=2))
    problem = caught.value.problem
    assert problem.differences == {"lr": (1e-3, 2e-3), "batch_size": (4, 2)}
    assert problem.remedy == Remedy("other_folder")
    assert problem.message == "The training in out was started with other options."


def test_other_micrographs_cannot_resume(halves: Dict[str, np.ndarray]) -> None:
    train(replace(QUICK, epochs=1))
    for half in ("odd", "even"):
        Path(half, "mic3.mrc").rename(Path(half, "mic4.mrc"))
    with pytest.raises(ExistingResultsError) as caught:
        train(replace(QUICK, epochs=1, resume=True))
    problem = caught.value.problem
    assert (problem.message, problem.differences) == ("The training in out was started with other micrographs.", {})


def test_option_that_a_checkpoint_lacks_has_the_value_of_the_version_that_wrote_it(
    halves: Dict[str, np.ndarray],
) -> None:
    """Taken out of the record, an option at its default resumes; at another value it is named."""
    train(replace(QUICK, epochs=1))
    state = checkpoint_of("out")
    for option in ("ema", "patience", "from_model"):
        del state["options"][option]
    torch.save(state, "out/checkpoint.pt")
    with pytest.raises(ExistingResultsError) as caught:
        train(replace(QUICK, epochs=1, resume=True, ema=0.5))
    assert caught.value.problem.differences == {"ema": (0.99, 0.5)}
    train(replace(QUICK, epochs=1, resume=True))


def test_streaming_may_resume_what_was_managed(reference: None) -> None:
    with pytest.raises(TrainingStoppedError):
        run_training(replace(QUICK, output="stopped"), StopAt(8))
    train(replace(QUICK, output="stopped", resume=True, stream=True, force=True))
    assert_same_training("out", "stopped")


def test_existing_training_is_not_overwritten(halves: Dict[str, np.ndarray]) -> None:
    train(replace(QUICK, epochs=1))
    with pytest.raises(ExistingResultsError) as caught:
        train(replace(QUICK, epochs=1))
    problem = caught.value.problem
    assert (problem.message, problem.remedy) == ("out holds a training already.", Remedy("resume"))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["model.safetensors", "samples.npz", "log.jsonl"])
def test_what_no_training_made_is_not_overwritten(halves: Dict[str, np.ndarray], name: str, resume: bool) -> None:
    Path("out").mkdir()
    Path("out", name).write_bytes(b"somebody's")
    with pytest.raises(ExistingResultsError) as caught:
        train(replace(QUICK, resume=resume))
    problem = caught.value.problem
    assert (problem.subject, problem.remedy) == (str(Path("out", name)), Remedy("other_folder"))
    assert [path.read_bytes() for path in Path("out").iterdir()] == [b"somebody's"]


def spoil(state: Dict[str, Any], how: str) -> Any:
    """Return a checkpoint's content, spoilt."""
    if how in state:
        return {name: part for name, part in state.items() if name != how}
    if how == "newer progress":
        state["progress"]["speed"] = 1.0
    if how == "progress without step":
        del state["progress"]["step"]
    if how == "progress of texts":
        state["progress"]["epoch"] = "one"
    if how == "missing weight":
        del state["network"]["layers.0.weight"]
    if how == "other shape":
        state["averaged"]["module.layers.0.weight"] = torch.zeros(2, 2)
    if how == "optimizer of another network":
        state["optimizer"]["param_groups"][0]["params"] = [0]
    return [state] if how == "list" else state


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("network", "lacks network"),
        ("averaged", "lacks averaged"),
        ("optimizer", "lacks optimizer"),
        ("progress", "lacks progress"),
        ("options", "lacks options"),
        ("newer progress", "does not fit this training"),
        ("progress without step", "does not fit this training"),
        ("progress of texts", "does not fit this training"),
        ("missing weight", "does not fit this training"),
        ("other shape", "does not fit this training"),
        ("optimizer of another network", "does not fit this training"),
        ("list", "is no checkpoint of a training"),
    ],
)
def test_checkpoint_of_another_making(reference: None, how: str, reason: str) -> None:
    state = checkpoint_of("out")
    torch.save(spoil(state, how), "out/checkpoint.pt")
    assert_unusable(reason)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk", "half"])
def test_damaged_checkpoint(reference: None, content: Any) -> None:
    path = Path("out/checkpoint.pt")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    assert_unusable("is damaged, or holds more than numbers")


def test_pickles_in_a_checkpoint_are_not_run(reference: None) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, ("evil",)

    torch.save({"config": Evil()}, "out/checkpoint.pt")
    assert_unusable("is damaged, or holds more than numbers")
    assert not Path("evil").exists()


def assert_unusable(reason: str) -> None:
    """Resume, and look for one clear line, without torch's advice to trust the file."""
    with pytest.raises(FileError) as caught:
        train(replace(QUICK, resume=True))
    line = str(caught.value)
    assert line.startswith(f"out/checkpoint.pt {reason}")
    assert line.endswith("Remove it to train from the start.")
    assert "weights_only" not in line
    assert "\n" not in line
    assert len(line) < 400


def test_training_starts_from_a_model(halves: Dict[str, np.ndarray]) -> None:
    first = train(QUICK)
    tiny = replace(QUICK, output="second", from_model=str(first.model), lr=1e-12, epochs=1, seed=7)
    train(tiny)
    before, after = weights_of("out"), weights_of("second")
    for name in before:
        np.testing.assert_allclose(after[name], before[name], atol=1e-9)


def test_training_cannot_start_from_another_network(halves: Dict[str, np.ndarray]) -> None:
    first = train(QUICK)
    with pytest.raises(ModelError, match=r"is a cnn3 with channels \(\), not the unet (that is )?asked for"):
        train(replace(QUICK, output="second", network="unet", from_model=str(first.model)))


def test_training_does_not_start_from_a_model_of_another_sampling_rate_in_silence(
    halves: Dict[str, np.ndarray], make_model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(rate=1.0)
    try:
        train(replace(QUICK, from_model=str(model)))
    except ModelError as error:
        assert "Å/px" in str(error)  # noqa: PT017
    else:
        assert "Å/px" in caplog.text


def test_loss_that_is_no_number(halves: Dict[str, np.ndarray]) -> None:
    with pytest.raises(TrainingError, match=r"The loss became (nan|inf) in epoch \d; .*Choose another --lr"):
        train(replace(QUICK, network="unet", channels=(4, 8), lr=1e30, max_batches=20))


def test_micrographs_smaller_than_the_step_of_the_network(tmp_path: Path) -> None:
    write_halves(tmp_path, 2, (40, 40))
    with pytest.raises(TrainingError) as caught:
        train(replace(QUICK, network="unet", channels=(2,) * 7, crop=128))
    assert str(caught.value) == (
        "The smallest micrograph is 40 px wide, less than the network's step of 64 px; train at a finer pixel size. "
        "Choose another --sampling-rate."
    )


@pytest.mark.parametrize(
    ("n_pairs", "shape", "said"),
    [
        (2, (1, 500), "'mic0' is 500 x 1 px"),
        (1, (40, 40), "'mic0''s part that is held out is 40 x 10 px"),
    ],
)
def test_micrographs_too_small_to_measure(tmp_path: Path, n_pairs: int, shape: Tuple[int, int], said: str) -> None:
    write_halves(tmp_path, n_pairs, shape)
    with pytest.raises(TrainingError) as caught:
        train(QUICK)
    assert str(caught.value) == (
        f"{said}; nothing can be measured on fewer than 16 px a side. Give larger micrographs."
    )


def test_a_micrograph_too_small_to_measure_is_left_out(halves: Dict[str, np.ndarray]) -> None:
    for half in ("odd", "even"):
        write_mrc(Path(half) / "strip.mrc", np.random.default_rng(0).normal(size=(8, 100)))
    failures = train(QUICK).failures
    assert list(failures) == ["strip"]
    assert "'strip' is 100 x 8 px" in failures["strip"].message


def test_crop_smaller_than_the_step_of_the_network_is_not_blamed_on_micrographs(
    halves: Dict[str, np.ndarray],
) -> None:
    with pytest.raises(CryodenError, match="--crop"):
        train(replace(QUICK, network="unet", channels=(2,) * 7, crop=32))


def test_too_many_bad_micrographs_end_the_training(halves: Dict[str, np.ndarray]) -> None:
    for number in (0, 1, 2):
        path = Path(f"odd/mic{number}.mrc")
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(TrainingError, match="3 of 4 micrographs cannot be used, too many to go on; the first reason"):
        train(QUICK)
    assert not Path("out").exists()


def test_only_held_out_micrograph_is_bad(halves: Dict[str, np.ndarray]) -> None:
    """Known before the first step where all is in memory: no epoch may be spent on it."""
    config = replace(QUICK, validation=0.01)
    held_out = hold_out(find_pairs("odd", "even")[0], 0.01, np.random.default_rng(config.seed))[1]
    path = Path(held_out[0].odd)
    image = np.random.default_rng(1).normal(size=(96, 96)).astype(np.float32)
    path.write_bytes(path.read_bytes()[:1024] + image.tobytes())
    stop = StopAt(1)
    with pytest.raises(TrainingError, match="No held-out micrograph could be used"):
        run_training(config, stop)
    assert stop.n_asked == 0


def test_full_disk_leaves_the_last_checkpoint(halves: Dict[str, np.ndarray]) -> None:
    """No file may grow beyond a few bytes, which is how a full disk looks to a process."""
    train(replace(QUICK, epochs=1))
    before = Path("out/checkpoint.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(FileError, match="cannot be written"):
            checkpoints.save_state(Path("out"), {"weights": torch.zeros(10000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Path("out/checkpoint.pt").read_bytes() == before
    assert not list(Path("out").glob(".*.part"))
