from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import pytest
import torch

from cryoden.config import TrainConfig
from cryoden.data import loader_choice as memory
from cryoden.data.crops import EpochPlan
from cryoden.data.normalize import STANDARD, Normalization, p95_normalization
from cryoden.data.pair_reader import load_pair
from cryoden.data.pairs import find_pairs, hold_out
from cryoden.errors import CryodenError, FileError, ModelError, TrainingError
from cryoden.formats.model_file import read_card, read_model
from cryoden.model import checkpoints, training
from cryoden.model.schedule import TrainingProgress, has_lost_patience, learning_rate_factor
from cryoden.model.training import Trainer, train
from tests.helpers import RATE, python, read_mrc, write_halves

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


@pytest.mark.parametrize(("network", "channels"), [("cnn3", (4, 8)), ("unet", (4, 8))])
def test_training_learns(tmp_path: Path, network: str, channels: tuple) -> None:
    write_halves(tmp_path, 4, (128, 128), noise=1.0)
    config = replace(QUICK, network=network, channels=channels, epochs=8, max_batches=None, lr=5e-3)
    assert train(config).r2 > 0.2


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


def test_same_options_give_the_same_training(halves: Dict[str, np.ndarray]) -> None:
    train(QUICK)
    train(replace(QUICK, output="again"))
    assert_same_training("out", "again")


def test_streaming_and_managed_give_the_same_training(halves: Dict[str, np.ndarray]) -> None:
    train(QUICK)
    train(replace(QUICK, output="stream", stream=True, force=True))
    assert_same_training("out", "stream")


def test_one_micrograph_suffices(tmp_path: Path) -> None:
    write_halves(tmp_path, 1, (160, 160))
    assert math.isfinite(train(QUICK).r2)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("network", "unet"), ("lr", 1e-2), ("ema", 0.0), ("crop", 48), ("batch_size", 2), ("seed", 2),
        ("validation", 0.6), ("max_batches", 2), ("epochs", 2), ("sampling_rate", 6.0), ("crops", "grid"),
        ("precision", "bfloat16"),
    ],
)  # fmt: skip
def test_option_changes_the_weights(halves: Dict[str, np.ndarray], option: str, value: Any) -> None:
    first = replace(QUICK, channels=(4, 8))
    train(first)
    train(replace(first, output="other", **{option: value}))
    a, b = weights_of("out"), weights_of("other")
    assert set(a) != set(b) or any(not np.array_equal(a[name], b[name]) for name in a)


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


def test_grid_crops_lie_on_the_half_overlapping_grid(
    halves: Dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: List[EpochPlan] = []
    monkeypatch.setattr(training, "EpochPlan", lambda *a: made.append(EpochPlan(*a)) or made[-1])
    train(replace(QUICK, crops="grid", max_batches=None, epochs=1))
    places = [(crop.pair, crop.y, crop.x) for plan in made for batch in plan.batches for crop in batch]
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


def test_keep_best_writes_one_model(halves: Dict[str, np.ndarray]) -> None:
    train(QUICK)
    assert [path.name for path in Path("out").rglob("*.safetensors")] == ["model.safetensors"]


def test_compiled_network_has_the_same_losses(halves: Dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("c++") is None:
        pytest.skip("torch.compile needs a C++ compiler on CPUs")
    from torch._inductor import config as inductor

    monkeypatch.setattr(inductor, "cpp_cache_precompile_headers", False)  # costs more than it saves here
    tiny = replace(QUICK, network="unet", channels=(2,), epochs=2, max_batches=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        train(replace(tiny, output="compiled", compile="yes"))
    train(tiny)
    for key in ("loss", "validation_loss"):
        # another order of float32 sums
        expected = [record[key] for record in log_of("out")]
        assert [record[key] for record in log_of("compiled")] == pytest.approx(expected, abs=1e-5)


def test_samples_are_input_output_and_target_of_held_out_micrographs(halves: Dict[str, np.ndarray]) -> None:
    train(QUICK)
    held_out = hold_out(find_pairs("odd", "even")[0], QUICK.validation, np.random.default_rng(QUICK.seed))[1]
    with np.load("out/samples.npz") as kept:
        assert sorted(kept) == [pair.name for pair in held_out]
        for pair in held_out:
            loaded = load_pair(pair).halves.numpy()
            np.testing.assert_array_equal(kept[pair.name][[0, 2]], loaded)
            assert 0 < kept[pair.name][1].std() < loaded[0].std()


def test_log_has_the_losses_and_the_rows_beside_psnr_and_ssim(halves: Dict[str, np.ndarray]) -> None:
    train(QUICK)
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


def test_patience_stops_early(halves: Dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    validate = Trainer._validate
    values = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.1])
    monkeypatch.setattr(Trainer, "_validate", lambda self, compared: {**validate(self, compared), "r2": next(values)})
    result = train(replace(QUICK, epochs=6, patience=2, max_batches=1))
    assert (len(log_of("out")), result.best_epoch) == (4, 2)


def test_minutes_end_in_time(halves: Dict[str, np.ndarray]) -> None:
    started = time.monotonic()
    train(replace(QUICK, minutes=0.03, max_batches=None))
    assert 1.0 < time.monotonic() - started < 6.0  # 1.8 s and what validation and slow machines add


def test_memory_too_small_for_all_halves_streams(
    halves: Dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    streaming = memory.StreamingLoader
    monkeypatch.setattr(memory, "StreamingLoader", lambda *a, **k: made.append(1) or streaming(*a, **k))
    train(replace(QUICK, memory=1e-6, epochs=1))
    assert made


@pytest.mark.parametrize("after", [1, 2])
def test_training_stopped_between_epochs_ends_at_the_same_weights(
    halves: Dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    train(QUICK)
    keep = Trainer._keep

    def keep_and_stop(trainer: Trainer, record: Dict[str, Any], compared: List[Any]) -> None:
        keep(trainer, record, compared)
        if trainer.progress.epoch == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_keep", keep_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(replace(QUICK, output="stopped"))
    train(replace(QUICK, output="stopped", resume=True))
    assert_same_training("out", "stopped")


def test_training_stopped_before_its_checkpoint_ends_at_the_same_weights(
    halves: Dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model and the log of an epoch are there, its checkpoint is not."""
    train(QUICK)
    whole_file = checkpoints.whole_file
    n_written = 0

    def fail_once(path: Path) -> Any:
        nonlocal n_written
        n_written += Path(path).name == "checkpoint.pt"
        if n_written == 2:
            raise KeyboardInterrupt
        return whole_file(path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "whole_file", fail_once)
        with pytest.raises(KeyboardInterrupt):
            train(replace(QUICK, output="stopped"))
    train(replace(QUICK, output="stopped", resume=True))
    assert_same_training("out", "stopped")


# Runs a training that is killed by SIGKILL, without any clean-up, in the middle of its second epoch.
KILL = """
import os, pathlib, signal, torch
torch.set_num_threads(2)
from cryoden.config import TrainConfig
from cryoden.model import devices
devices.CPU_INFO = pathlib.Path("no-such-file")  # as in conftest
from cryoden.model.training import Trainer, train
step = Trainer._step
def step_and_die(trainer, *batch):
    loss = step(trainer, *batch)
    if trainer.progress.step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss
Trainer._step = step_and_die
train({config!r})
"""


def test_killed_process_resumes_within_the_epoch_to_the_same_weights(
    halves: Dict[str, np.ndarray], tmp_path: Path
) -> None:
    train(QUICK)
    config = replace(QUICK, output="killed", checkpoint_minutes=1e-9)
    assert python(["-c", KILL.format(config=config)], tmp_path).returncode == -signal.SIGKILL
    progress = checkpoint_of("killed")["progress"]
    assert (progress["epoch"], progress["batch"], progress["step"]) == (1, 2, 7)
    train(replace(config, resume=True))
    assert_same_training("out", "killed")


@pytest.mark.parametrize(("minutes", "step"), [(5.0, 5), (1e-9, 7)])
def test_checkpoint_minutes_decide_what_a_stopped_epoch_leaves(
    halves: Dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, minutes: float, step: int
) -> None:
    take_step = Trainer._step

    def step_and_stop(trainer: Trainer, *batch: Any) -> Any:
        loss = take_step(trainer, *batch)
        if trainer.progress.step == 8:
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(Trainer, "_step", step_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(replace(QUICK, checkpoint_minutes=minutes))
    assert checkpoint_of("out")["progress"]["step"] == step


def test_finished_training_is_not_changed_by_resuming(halves: Dict[str, np.ndarray]) -> None:
    train(QUICK)
    before = Path("out/model.safetensors").read_bytes()
    train(replace(QUICK, resume=True))
    assert Path("out/model.safetensors").read_bytes() == before


def test_other_options_cannot_resume(halves: Dict[str, np.ndarray]) -> None:
    train(QUICK)
    with pytest.raises(TrainingError) as caught:
        train(replace(QUICK, resume=True, lr=2e-3, batch_size=2))
    assert str(caught.value) == (
        "The training in out was started with other values of batch_size, lr; resume with the same options, or choose "
        "another --output folder."
    )


def test_streaming_may_resume_what_was_managed(halves: Dict[str, np.ndarray]) -> None:
    train(QUICK)
    train(replace(QUICK, resume=True, stream=True, force=True))


def test_existing_training_is_not_overwritten(halves: Dict[str, np.ndarray]) -> None:
    train(QUICK)
    with pytest.raises(TrainingError) as caught:
        train(QUICK)
    assert str(caught.value) == (
        "out holds a training already; go on with --resume, or choose another --output folder."
    )


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk"])
def test_damaged_checkpoint(halves: Dict[str, np.ndarray], content: bytes) -> None:
    Path("out").mkdir()
    Path("out/checkpoint.pt").write_bytes(content)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt cannot be read \([\s\S]*\); remove it to train from"):
        train(replace(QUICK, resume=True))


def test_checkpoint_without_its_parts_is_no_traceback(halves: Dict[str, np.ndarray]) -> None:
    import torch

    train(QUICK)
    state = checkpoint_of("out")
    del state["optimizer"]
    torch.save(state, "out/checkpoint.pt")
    with pytest.raises(CryodenError, match=r"checkpoint\.pt"):
        train(replace(QUICK, resume=True))


def test_pickles_in_a_checkpoint_are_not_run(halves: Dict[str, np.ndarray], tmp_path: Path) -> None:
    import torch

    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, ("evil",)

    Path("out").mkdir()
    torch.save({"config": Evil()}, "out/checkpoint.pt")
    with pytest.raises(TrainingError, match="cannot be read"):
        train(replace(QUICK, resume=True))
    assert not Path("evil").exists()


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
        assert "A/px" in str(error)  # noqa: PT017
    else:
        assert "A/px" in caplog.text


def test_loss_that_is_no_number(halves: Dict[str, np.ndarray]) -> None:
    with pytest.raises(TrainingError, match=r"The loss became (nan|inf) in epoch \d; .*Train with a lower --lr"):
        train(replace(QUICK, network="unet", channels=(4, 8), lr=1e30, max_batches=20))


def test_micrographs_smaller_than_the_step_of_the_network(tmp_path: Path) -> None:
    write_halves(tmp_path, 2, (40, 40))
    with pytest.raises(TrainingError) as caught:
        train(replace(QUICK, network="unet", channels=(2,) * 7, crop=128))
    assert str(caught.value) == (
        "The smallest micrograph is 40 px wide, less than the network's step of 64 px; train at a finer sampling rate."
    )


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
    assert list(Path("out").iterdir()) == []


def test_only_held_out_micrograph_is_bad(halves: Dict[str, np.ndarray]) -> None:
    """Known before the first step where all is in memory: no epoch may be spent on it."""
    config = replace(QUICK, validation=0.01)
    held_out = hold_out(find_pairs("odd", "even")[0], 0.01, np.random.default_rng(config.seed))[1]
    path = Path(held_out[0].odd)
    image = np.random.default_rng(1).normal(size=(96, 96)).astype(np.float32)
    path.write_bytes(path.read_bytes()[:1024] + image.tobytes())
    steps: List[int] = []
    step = Trainer._step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", lambda self, *a: steps.append(1) or step(self, *a))
        with pytest.raises(TrainingError, match="No held-out micrograph could be used"):
            train(config)
    assert steps == []


def test_learning_rate_warms_up_then_falls_along_a_cosine_to_zero() -> None:
    shares = np.linspace(0, 1, 201)
    factors = np.array([learning_rate_factor(share) for share in shares])
    peak = int(np.argmax(factors))
    assert shares[peak] == pytest.approx(0.05)
    assert factors[peak] == pytest.approx(1)
    assert np.all(np.diff(factors[: peak + 1]) > 0)
    assert np.all(np.diff(factors[peak:]) < 0)
    assert factors[0] > 0
    assert learning_rate_factor(1.0) == pytest.approx(0)
    assert learning_rate_factor(0.525) == pytest.approx(0.5)  # half-way through the cosine
    assert learning_rate_factor(1.5) == pytest.approx(0)


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


@pytest.mark.parametrize(
    ("patience", "epoch", "best_epoch", "is_over"),
    [
        (None, 12, 3, False),
        (None, 13, 3, True),
        (None, 40, 21, False),
        (None, 42, 21, True),
        (0, 90, 1, False),
        (4, 7, 3, True),
    ],
)
def test_patience_grows_with_the_best_epoch(
    patience: Optional[int], epoch: int, best_epoch: int, is_over: bool
) -> None:
    """Without a number, a training may go on for as long as it took to reach the best, at least 10 epochs."""
    progress = TrainingProgress(epoch=epoch, best_epoch=best_epoch)
    assert has_lost_patience(replace(QUICK, patience=patience), progress) == is_over
