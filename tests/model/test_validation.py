from __future__ import annotations

from pathlib import Path
from typing import List

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from cryoden.data.pair_reader import LoadedPair, load_pair
from cryoden.data.pairs import find_pairs
from cryoden.metrics.linear_filters import wiener_transfer
from cryoden.metrics.ring_covariance import pool, score
from cryoden.model.networks import CNN3
from cryoden.model.predictor import Predictor
from cryoden.model.validation import (
    MAX_SAMPLES,
    SAMPLE_SIDE,
    Comparison,
    compare,
    measure_covariance,
    samples,
    summarize,
)
from tests.helpers import RATE, blurring_cnn3, write_halves

CPU = torch.device("cpu")


@pytest.fixture
def predictor() -> Predictor:
    """A network whose effect is known."""
    network = CNN3()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in blurring_cnn3().items()})
    return Predictor(network, CPU, precision="float32")


@pytest.fixture
def loaded(tmp_path: Path) -> List[LoadedPair]:
    write_halves(tmp_path, 3, (96, 128), noise=1.0)
    return [load_pair(pair) for pair in find_pairs("odd", "even")[0]]


def test_losses_are_those_of_both_directions(loaded: List[LoadedPair], predictor: Predictor) -> None:
    """Each half predicts the other one; computed again in float64 by NumPy."""
    record = summarize([compare(item, predictor) for item in loaded])
    losses = []
    for item in loaded:
        odd, even = item.halves.double().numpy()
        f_odd, f_even = (predictor(half).double().numpy() for half in item.halves.float())
        losses.append((np.mean((f_odd - even) ** 2) + np.mean((f_even - odd) ** 2)) / 2)
    assert record["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert record["validation_rmse"] == pytest.approx(np.mean(losses) ** 0.5, rel=1e-5)


def test_wiener_filter_is_fitted_on_other_micrographs(loaded: List[LoadedPair], predictor: Predictor) -> None:
    """On those that it is scored on it would do better; of one alone nothing else is possible."""

    def fitted_on_itself(compared: List[Comparison]) -> float:
        pooled = pool([item.covariance for item in compared])
        return score(pooled.filtered(wiener_transfer(pooled, pooled.frequency)).in_band()).r2

    compared = [compare(item, predictor) for item in loaded]
    assert 0.3 < summarize(compared)["wiener_r2"] < fitted_on_itself(compared)
    assert summarize(compared[:1])["wiener_r2"] == pytest.approx(fitted_on_itself(compared[:1]))


def test_error_of_r2_is_that_of_repeated_noise(tmp_path: Path, predictor: Predictor) -> None:
    """Of one micrograph from a formula, of several from the bootstrap: within a factor of two of the spread."""
    for number in range(8):
        write_halves(tmp_path / f"{number}", 4, (96, 96), noise=1.0, seed=number + 1)
    sets = [
        [compare(load_pair(pair), predictor) for pair in find_pairs(f"{number}/odd", f"{number}/even")[0]]
        for number in range(8)
    ]
    records = [summarize(compared) for compared in sets]
    spread = float(np.std([record["r2"] for record in records], ddof=1))
    assert spread / 2 < np.mean([record["r2_error"] for record in records]) < 2 * spread


def test_r2_is_the_share_of_the_known_signal_that_is_explained(tmp_path: Path, predictor: Predictor) -> None:
    """Against the truth, which only a test has: within what noise and the band leave."""
    clean = write_halves(tmp_path, 4, (256, 256), noise=0.7)
    pairs = find_pairs("odd", "even")[0]
    comparisons = [compare(load_pair(pair), predictor) for pair in pairs]
    record = summarize(comparisons)
    errors, signals = [], []
    for pair in pairs:
        item = load_pair(pair)
        truth = (clean[pair.name] - clean[pair.name].mean()).astype(np.float64)
        odd = item.halves[0].double().numpy()
        truth *= np.sum(odd * truth) / np.sum(truth**2)  # in the grey scale of the network
        errors.append(np.mean((predictor(item.halves[0].float()).double().numpy() - truth) ** 2))
        signals.append(np.mean(truth**2))
    assert record["r2"] == pytest.approx(1 - np.mean(errors) / np.mean(signals), abs=0.05)
    assert set(record["r2_per_micrograph"]) == {pair.name for pair in pairs}
    assert np.mean(list(record["r2_per_micrograph"].values())) == pytest.approx(record["r2"], abs=0.05)


def test_ssim_is_that_of_scikit_image(loaded: List[LoadedPair], predictor: Predictor) -> None:
    item = loaded[0]
    odd, even = item.halves.float().numpy()
    found = compare(item, predictor).ssim
    denoised = predictor(item.halves[0].float()).numpy()
    for row, image in (("denoised", denoised), ("identity", odd)):
        expected = structural_similarity(image.astype(np.float64), even.astype(np.float64), data_range=item.data_range)
        assert found[row] == pytest.approx(expected, abs=1e-5)


def test_order_of_the_micrographs_changes_nothing(loaded: List[LoadedPair], predictor: Predictor) -> None:
    """Several processes hand over their comparisons in an order of their own."""
    comparisons = [compare(item, predictor) for item in loaded]
    assert summarize(comparisons) == summarize(comparisons[::-1])
    assert list(samples(comparisons)) == list(samples(comparisons[::-1])) == ["mic0", "mic1", "mic2"]


def test_samples_are_central_cut_outs_of_input_output_and_target(tmp_path: Path, predictor: Predictor) -> None:
    write_halves(tmp_path, 1, (SAMPLE_SIDE + 30, SAMPLE_SIDE - 50))
    item = load_pair(find_pairs("odd", "even")[0][0])
    sample = compare(item, predictor).sample
    assert sample.shape == (3, SAMPLE_SIDE, SAMPLE_SIDE - 50)
    assert sample.dtype == np.float16
    np.testing.assert_array_equal(sample[0], item.halves[0, 15:-15].numpy())
    np.testing.assert_array_equal(sample[2], item.halves[1, 15:-15].numpy())
    denoised = predictor(item.halves[0].float())[15:-15].half().numpy()
    np.testing.assert_array_equal(sample[1], denoised)


def test_only_few_samples_are_kept(loaded: List[LoadedPair], predictor: Predictor) -> None:
    comparison = compare(loaded[0], predictor)
    many = [type(comparison)(**{**vars(comparison), "name": f"m{number}"}) for number in range(MAX_SAMPLES + 3)]
    assert list(samples(many)) == [f"m{number}" for number in range(MAX_SAMPLES)]


def test_no_data_range_means_no_psnr(loaded: List[LoadedPair], predictor: Predictor) -> None:
    """Micrographs whose background was subtracted may have no positive values to speak of."""
    comparison = compare(loaded[0], predictor)
    record = summarize([type(comparison)(**{**vars(comparison), "data_range": 0.0})])
    assert record["psnr"] is None


def test_covariances_of_torch_are_those_of_numpy(
    loaded: List[LoadedPair], predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of a GPU, on a CPU that calls itself one."""
    halves = loaded[0].halves.float()
    predictions = torch.stack([predictor(half) for half in halves])
    expected = measure_covariance(halves, predictions, RATE)
    found = measure_covariance(OnGpu(halves), predictions, RATE)  # type: ignore[arg-type]
    tolerance = 1e-6 * np.abs(expected.matrices).max()
    np.testing.assert_allclose(found.matrices, expected.matrices, rtol=1e-4, atol=tolerance)


class OnGpu:
    """A tensor of the CPU that says that it is on a GPU."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.device = torch.device("cuda")

    def __iter__(self) -> object:
        return iter(self.tensor)
