"""Training from patch files: same batches in both memory modes, a model that denoises micrographs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
import torch

from cryoden.config import TrainConfig
from cryoden.data.crops import EpochPlan
from cryoden.data.loaders import ManagedLoader, StreamingLoader
from cryoden.data.patch_pairs import MAX_HELD_OUT, find_patch_pairs
from cryoden.errors import CryodenError
from cryoden.formats.model_file import read_card
from cryoden.model.training import run_training
from tests.helpers import write_halves, write_mrc

CPU = torch.device("cpu")
EXPORT = ["patches", "export", "--odd", "odd", "--even", "even", "--output", "p", "--patch", 64, "--stride", 32]
TRAIN = ["train", "--patches", "p", "--output", "out", "--network", "cnn3", "--crop", 32, "--epochs", 2]
QUICK = ["--min-batches", 4, "--max-batches", 4]


class Damage:
    """Damages the patch files when a training asks for the n-th time whether to stop.

    Parameters
    ----------
    n
        When.
    how
        `deleted` or `truncated`.
    """

    def __init__(self, n: int, how: str) -> None:
        self.n, self.how, self.n_asked = n, how, 0

    def __call__(self) -> bool:
        self.n_asked += 1
        if self.n_asked == self.n:
            path = Path("p/train_target.bin")
            if self.how == "deleted":
                path.unlink()
            else:
                os.truncate(str(path), 64 * 64 * 4 * 3)
        return False


@pytest.fixture
def exported(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 4, (96, 128), mean=20.0)
    assert cryoden(*EXPORT).status == 0


def log_of(folder: str = "out") -> List[dict]:
    return [json.loads(line) for line in Path(folder, "log.jsonl").read_text().splitlines()]


def test_batches_are_the_patches_and_the_same_in_both_memory_modes(exported: None) -> None:
    training, held_out = find_patch_pairs("p", None, None, 0.1)
    assert (len(training), len(held_out)) == (18, 6)
    scale = training[0].scale
    inputs, targets = (np.fromfile(f"p/train_{role}.bin", "<f4").reshape(-1, 64, 64) for role in ("input", "target"))
    assert scale.mean == pytest.approx(np.mean([inputs, targets]), rel=1e-5)
    assert scale.deviation == pytest.approx(np.std([inputs, targets]), rel=1e-4)
    plan = EpochPlan.draw([pair.used_shape for pair in training], 64, 4, 1, 0)
    loaders = (
        ManagedLoader(training, held_out, 64, CPU),
        StreamingLoader(training, held_out, 64, CPU, budget_bytes=6 * training[0].n_bytes),
    )
    epochs = [[tuple(part.clone() for part in batch) for batch in loader.batches(plan)] for loader in loaders]
    assert len(epochs[0]) == len(epochs[1]) == 5
    for crops, kept, streamed in zip(plan.batches, *epochs):
        assert torch.equal(kept[0], streamed[0])
        assert torch.equal(kept[1], streamed[1])
        for crop, given, wanted in zip(crops, *kept):
            image, other = (targets, inputs) if crop.swap else (inputs, targets)
            for found, files in ((given, image), (wanted, other)):
                turned = files[crop.pair].T if crop.view >= 4 else files[crop.pair]
                expected = (np.rot90(turned, crop.view % 4) - scale.mean) / scale.deviation
                np.testing.assert_allclose(found[0].numpy(), expected, atol=3e-3)


@pytest.mark.parametrize("normalization", ["p95", "standard"])
def test_a_model_from_patches_streamed_or_kept(
    exported: None, tmp_path: Path, cryoden: Any, normalization: str
) -> None:
    cryoden(*EXPORT, "--output", "q", "--normalization", normalization)
    words = [*TRAIN, *QUICK, "--patches", "q"]
    assert cryoden(*words).status == 0
    assert cryoden(*words, "--output", "streamed", "--stream", "--force").status == 0
    losses = [[record["loss"] for record in log_of(folder)] for folder in ("out", "streamed")]
    assert losses[0] == losses[1]
    card = read_card("out/model.safetensors")
    assert card.sampling_rate == pytest.approx(4.0)
    assert card.normalization["kind"] == normalization
    manifest = json.loads(Path("q/manifest.json").read_text())
    parts = {
        part: sorted(r["name"] for r in manifest["micrographs"] if r["part"] == part) for part in ("train", "test")
    }
    assert card.training["trained_on"] == parts["train"]
    assert card.training["held_out"] == {parts["test"][0]: [0.0, 1.0]}
    write_mrc(tmp_path / "a.mrc", 20 + np.random.default_rng(1).standard_normal((96, 96)))
    assert cryoden("denoise", "a.mrc", "--model", "out/model.safetensors", "--output", "d").status == 0


def test_patches_train_as_well_as_their_micrographs(tmp_path: Path, cryoden: Any) -> None:
    """The held-out R2 is above 0, and the better the longer: the files hold what they must."""
    write_halves(tmp_path, 4, (128, 128), mean=20.0)
    cryoden(*EXPORT, "--normalization", "standard")
    cryoden(*TRAIN, "--epochs", 3, "--min-batches", 12, "--lr", 5e-3)
    r2 = [record["r2"] for record in log_of()]
    assert r2[-1] > 0.2
    assert r2[-1] > r2[0]


def test_one_micrograph_cut_in_two_says_which_rows_are_held_out(tmp_path: Path, cryoden: Any) -> None:
    write_halves(tmp_path, 1, (256, 64), mean=20.0)
    cryoden(*EXPORT)
    cryoden(*TRAIN, *QUICK)
    training = read_card("out/model.safetensors").training
    assert training["trained_on"] == ["mic0"]
    assert training["held_out"] == {"mic0": [0.75, 1.0]}


def test_files_of_another_trainer(exported: None, cryoden: Any) -> None:
    """`noisy_train.bin` and `clean_train.bin` without manifest and test files: the last part is held out."""
    Path("other").mkdir()
    for name, role in (("noisy", "input"), ("clean", "target")):
        Path(f"p/train_{role}.bin").rename(f"other/{name}_train.bin")
    words = [*TRAIN, *QUICK, "--patches", "other", "--patch", 64]
    assert cryoden(*words).last_error == (
        "cryoden: Nothing says the pixel size of the patches in other. Give --sampling-rate."
    )
    assert cryoden(*words, "--sampling-rate", 4).status == 0
    assert read_card("out/model.safetensors").normalization["kind"] == "p95"
    training, held_out = find_patch_pairs("other", 64, 4.0, 0.2)
    assert [pair.number for pair in (*training, *held_out)] == list(range(18))
    assert len(held_out) == 4


def test_not_more_than_so_many_are_held_out() -> None:
    Path("p").mkdir()
    signal = np.random.default_rng(1).random((200, 16, 16), np.float32)
    for part, n in (("train", 10), ("test", 200)):
        for role in ("input", "target"):
            noise = np.random.default_rng([n, len(role)]).random((n, 16, 16), np.float32)
            (signal[:n] + noise).tofile(f"p/{part}_{role}.bin")
    held_out = find_patch_pairs("p", 16, 2.0, 0.1)[1]
    assert len(held_out) == 50 <= MAX_HELD_OUT
    assert held_out[-1].number == 196


def spoil(kind: str) -> str:
    """Damage the exported patches; return what must be said."""
    path = Path("p/train_target.bin")
    values = np.fromfile(path, "<f4")
    if kind == "cut off":
        values[:-5].tofile(path)
        return "p/train_target.bin has 294892 bytes, which is no multiple of a patch of 64 x 64 float32 = 16384 bytes."
    if kind == "not finite":
        values[:] = np.nan
        values.tofile(path)
        return "p has values that are NaN or infinite; export the patches again."
    if kind == "the same":
        np.fromfile("p/train_input.bin", "<f4").tofile(path)
        return "Both halves of 'p' are the same image; the noise of odd and even must differ."
    if kind == "strangers":
        np.random.default_rng(1).permutation(values).tofile(path)
        return "The halves of 'p' do not correlate ("
    for role in ("input", "target"):
        np.full_like(values, 0.5).tofile(f"p/train_{role}.bin")
    return "The patches in p are constant: every value is 0.5; export them again."


@pytest.mark.parametrize("kind", ["cut off", "not finite", "the same", "strangers", "constant"])
def test_patches_that_cannot_be_trained_on(exported: None, cryoden: Any, kind: str) -> None:
    reason = spoil(kind)
    result = cryoden(*TRAIN, *QUICK)
    assert result.status == 2
    assert result.last_error.startswith(f"cryoden: {reason}")


def test_another_pixel_size_is_refused(exported: None) -> None:
    with pytest.raises(CryodenError, match=r"have 4 Å/px and cannot be brought to 6 Å/px. Leave out --sampling-rate"):
        find_patch_pairs("p", None, 6.0, 0.1)


def test_a_single_patch_is_not_enough() -> None:
    Path("p").mkdir()
    signal = np.random.default_rng(1).random((16, 16), np.float32)
    for seed, role in enumerate(("input", "target")):
        (signal + np.random.default_rng(seed).random((16, 16), np.float32)).tofile(f"p/train_{role}.bin")
    with pytest.raises(CryodenError, match="p holds one patch and no test files; training needs one more to test on"):
        find_patch_pairs("p", 16, 2.0, 0.1)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--patches", "p", "--odd", "o"], "Option --patches and halves exclude each other. Leave out --odd."),
        (["--odd", "o"], "Option --even is missing: training needs both halves, or patch files."),
        (
            ["--odd", "o", "--even", "e", "--patch", "64"],
            "Option --patch has no meaning without patch files. Give --patches.",
        ),
    ],
)
def test_options_that_contradict(cryoden: Any, words: List[str], reason: str) -> None:
    result = cryoden("train", "--output", "out", *words)
    assert result.status == 2
    assert result.last_error == f"cryoden: {reason}"


@pytest.mark.parametrize("how", ["deleted", "truncated"])
def test_patch_files_that_go_while_training_streams_end_it_in_one_line(exported: None, how: str) -> None:
    """Patches that cannot be read are left out; when too many are, the training says why."""
    config = TrainConfig(
        patches="p", output="out", network="cnn3", crop=32, epochs=3, min_batches=4, max_batches=4, stream=True,
        force=True, window=1e-3, device="cpu", batch_size=4,
    )  # fmt: skip
    damage = Damage(6, how)
    with pytest.raises(CryodenError) as caught:
        run_training(config, damage)
    assert damage.n_asked > 6
    line = str(caught.value)
    assert "\n" not in line
    assert "p/train_target.bin" in line
    assert ("became shorter" if how == "truncated" else "cannot be read") in line
    assert Path("out/model.safetensors").exists()  # of the first epoch
