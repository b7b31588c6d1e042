"""The command `evaluate` on simulated halves whose truth is known, with a denoiser whose effect is known exactly."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest
import starfile

from cryoden.config import EvaluateConfig
from cryoden.data.normalize import STANDARD
from cryoden.data.pairs import find_pairs
from cryoden.evaluation.evaluate import evaluate
from cryoden.evaluation.halves import Halves
from cryoden.formats.model_file import ModelCard, read_model, write_model
from cryoden.metrics.measurement import hallucination
from cryoden.metrics.ring_covariance import RingCovariance, ring_frequencies
from cryoden.model.filters import GaussianFilter, WienerFilter
from cryoden.report.evaluation_table import EvaluationTable
from cryoden.report.measurement_file import load_measurement
from cryoden.report.tables import summary_lines
from tests.helpers import (
    RATE,
    Result,
    blurred_three_times,
    clean_signal,
    leftovers,
    read_mrc,
    two_halves,
    write_halves,
    write_mrc,
)

Run = Callable[..., Result]
SHAPE = (128, 128)
BAND = (300.0, 12.0)
MAIN = "300-12"


def run(model: Any = (), **options: Any) -> Dict[str, Any]:
    """Evaluate the halves of the working folder and return the table."""
    models = tuple(map(str, model if isinstance(model, (tuple, list)) else (model,)))
    options = {"band": BAND, "topaz": "no", "bootstrap": 200, "output": "out", **options}
    return evaluate(EvaluateConfig(odd="odd", even="even", model=models, **options))[0].to_dict()


def row_of(table: Dict[str, Any], key: str) -> Dict[str, Any]:
    return next(row for row in table["rows"] if row["key"] == key)


def band_passed(image: np.ndarray) -> np.ndarray:
    """Return the image in the rings of the score band; rings are as wide as one coefficient."""
    n_rings = min(image.shape) // 2
    ring = np.clip(np.rint(ring_frequencies(image.shape) * 2 * n_rings), 1, None) / (2 * n_rings) / RATE
    spectrum = np.fft.rfft2(image - image.mean()) * ((ring >= 1 / BAND[0]) & (ring <= 1 / BAND[1]))
    return np.fft.irfft2(spectrum, s=image.shape)


def true_values(clean: Dict[str, np.ndarray]) -> Dict[str, float]:
    """Return what the estimates must be, from the truth, in float64; halves are scaled to deviation 1 as inputs are."""
    sums = {"error": 0.0, "signal": 0.0, "bias2": 0.0, "variance": 0.0, "noise": 0.0, "predicted": 0.0}
    for name, image in clean.items():
        halves = [read_mrc(Path(half) / f"{name}.mrc").astype(np.float64) for half in ("odd", "even")]
        errors, predictions = [], []
        for half in halves:
            scale = half.std()
            predictions.append(band_passed(blurred_three_times((half - half.mean()) / scale)))
            errors.append(predictions[-1] - band_passed(image / scale))
            sums["error"] += np.mean(errors[-1] ** 2) / 2
            sums["signal"] += np.mean(band_passed(image / scale) ** 2) / 2
            sums["predicted"] += np.mean(predictions[-1] ** 2) / 2
            noise = blurred_three_times((half - image - np.mean(half - image)) / scale)
            sums["noise"] += np.mean(band_passed(noise) ** 2) / 2
        sums["bias2"] += np.mean(errors[0] * errors[1])
        sums["variance"] += np.mean((errors[0] - errors[1]) ** 2) / 2
    n = len(clean)
    return {
        "r2": 1 - sums["error"] / sums["signal"],
        "mse_clean": sums["error"] / n,
        "bias2": sums["bias2"] / n,
        "variance": sums["variance"] / n,
        "signal_variance": sums["signal"] / n,
        "hallucination": sums["noise"] / sums["predicted"],
    }


QUANTITIES = ("r2", "mse_clean", "bias2", "variance", "signal_variance", "hallucination")


def test_estimates_lie_within_their_errors_of_the_truth_for_ten_seeds(blur_model: Path) -> None:
    """Each quantity, ten simulated sets: none beyond 4 standard errors, most within 1.5; nothing is biased."""
    deviations: Dict[str, List[float]] = {name: [] for name in QUANTITIES}
    for seed in range(10):
        clean = write_halves(Path(), n=6, shape=SHAPE, noise=2.0, seed=seed + 1)
        numbers = row_of(run(blur_model, output=f"out{seed}"), "model1")["bands"][MAIN]
        expected = true_values(clean)
        assert 0.2 < expected["r2"] < 0.9  # neither nothing nor perfection
        for name in QUANTITIES:
            deviations[name].append((numbers[name]["value"] - expected[name]) / numbers[name]["error"])
    for name, values in deviations.items():
        assert np.max(np.abs(values)) < 4, (name, values)
        assert np.sum(np.abs(values) < 1.5) >= 7, (name, values)
        assert abs(np.mean(values)) < 1.0, (name, values)


def test_one_micrograph_has_an_error_from_its_noise_for_ten_seeds(blur_model: Path) -> None:
    deviations = []
    for seed in range(10):
        clean = write_halves(Path(), n=1, shape=(160, 160), noise=2.0, seed=seed + 1)
        table = run(blur_model, output=f"out{seed}")
        r2 = row_of(table, "model1")["bands"][MAIN]["r2"]
        deviations.append((r2["value"] - true_values(clean)["r2"]) / r2["error"])
    assert "One micrograph is scored" in "".join(table["warnings"])
    assert np.max(np.abs(deviations)) < 3.5
    assert 0.2 < np.std(deviations) < 2.0


def test_fidelity_per_ring_is_the_correlation_with_the_truth(blur_model: Path) -> None:
    write_truths(write_halves(Path(), n=8, shape=SHAPE, noise=1.0))
    row = row_of(run(blur_model, truth="truth"), "model1")
    estimate, error = (np.array(row["curves"][key], float) for key in ("frc_clean", "frc_clean_error"))
    true = np.array(row["truth"]["correlation"], float)
    frequency = np.linspace(0, 0.5 / RATE, len(true))
    inside = (frequency > 1 / 100) & (frequency < 1 / 30)  # beyond, the blobs hold no signal
    assert inside.sum() > 10
    assert np.mean(np.abs(estimate - true)[inside] < 2 * error[inside] + 0.02) > 0.85


def write_truths(clean: Dict[str, np.ndarray], scale: float = 1.0, rate: float = RATE) -> None:
    for name, image in clean.items():
        write_mrc(Path("truth") / f"{name}.mrc", 7.0 + scale * image, rate)


def test_truth_of_any_scale_gives_the_true_numbers(blur_model: Path) -> None:
    clean = write_halves(Path(), n=4, shape=SHAPE, noise=1.5)
    write_truths(clean, scale=0.01)
    truth = row_of(run(blur_model, truth="truth"), "model1")["truth"]
    assert truth["r2"]["value"] == pytest.approx(
        true_values(clean)["r2"], abs=0.03
    )  # the scale is fitted to noisy halves
    assert 0 < truth["r2"]["error"] < 0.1
    assert 0 < truth["ssim"] <= 1
    assert set(truth["micrographs"]) == set(clean)


def test_baselines_stand_in_the_table(blur_model: Path) -> None:
    """Raw is worst, the Wiener filter best of the filters; a linear filter's numbers need no second run."""
    write_halves(Path(), n=5, shape=SHAPE, noise=2.0)
    table = run(blur_model)
    r2 = {row["key"]: row["bands"][MAIN]["r2"]["value"] for row in table["rows"] if row["bands"]}
    assert list(r2) == ["raw", "gaussian", "wiener", "model1"]
    assert r2["raw"] < r2["model1"] < r2["wiener"]
    assert (
        row_of(table, "gaussian")["bands"][MAIN]["r2_corr"]["value"]
        > row_of(table, "raw")["bands"][MAIN]["r2_corr"]["value"]
    )
    absent = {row["key"]: row["note"] for row in table["rows"] if not row["bands"]}
    assert absent == {"topaz": "It was left out. Give --topaz auto."}
    reasons = {row["key"]: row["problem"] for row in table["rows"] if not row["bands"]}
    assert {key: reason["remedy"]["option"] for key, reason in reasons.items()} == {"topaz": "topaz"}


def test_filters_are_fitted_on_other_micrographs() -> None:
    """One strange micrograph does not choose its own filter."""
    write_halves(Path(), n=4, shape=SHAPE, noise=1.0)
    same = row_of(run(output="same"), "wiener")
    _, odd, even = two_halves(SHAPE, 9, noise=30.0)
    write_mrc(Path("odd/mic3.mrc"), odd + 30 * clean_signal(SHAPE, 5, 8.0))
    write_mrc(Path("even/mic3.mrc"), even + 30 * clean_signal(SHAPE, 5, 8.0))
    strange = row_of(run(output="strange"), "wiener")
    assert same["micrographs"]["mic0"]["r2"] != pytest.approx(strange["micrographs"]["mic0"]["r2"], abs=1e-6)
    assert "other micrographs" in strange["note"]


def with_training(path: Path, target: str, **training: Any) -> Path:
    """Write a copy of a model that says on what it was trained."""
    card, weights = read_model(path)
    write_model(target, weights, ModelCard(card.network, card.channels, card.sampling_rate, asdict(STANDARD), training))
    return Path(target)


def test_micrographs_that_were_trained_on_do_not_count(blur_model: Path) -> None:
    write_halves(Path(), n=4, shape=SHAPE)
    model = with_training(blur_model, "m.safetensors", trained_on=["mic0", "mic1"], held_out={"mic2": [0.0, 1.0]})
    table = run(model)
    assert (table["seen"], table["scored"]) == (["mic0", "mic1"], ["mic2", "mic3"])
    assert "the training micrographs" in row_of(table, "gaussian")["note"]
    everything = run(model, scored="all", output="all")
    assert len(everything["scored"]) == 4
    assert "2 of the 4 scored micrographs were trained on" in "".join(everything["warnings"])
    silent = run(blur_model, output="silent")
    assert "does not say which micrographs it was trained on" in silent["warnings"][0]


def test_only_the_held_out_rows_of_a_lone_micrograph_count(blur_model: Path) -> None:
    write_halves(Path(), n=1, shape=(160, 96))
    model = with_training(blur_model, "m.safetensors", trained_on=[], held_out={"mic0": [0.75, 1.0]})
    part, whole = run(model), run(blur_model, output="whole")
    for name in ("odd", "even"):
        write_mrc(Path(f"rows/{name}/mic0.mrc"), read_mrc(Path(f"{name}/mic0.mrc"))[120:])
    rows = [table["rows"][3]["bands"][MAIN]["signal_variance"]["value"] for table in (part, whole)]
    assert rows[0] != pytest.approx(rows[1], rel=1e-3)


def test_models_of_two_sampling_rates_are_compared_at_the_coarser(
    blur_model: Path, make_model: Callable[..., Path]
) -> None:
    write_halves(Path(), n=3, shape=SHAPE, noise=1.0)
    coarse = make_model("coarse.safetensors", rate=5.0)
    table = run((blur_model, coarse), band=(300.0, 10.0))
    assert table["sampling_rate"] == pytest.approx(5.0, rel=0.02)
    labels = [row["label"] for row in table["rows"] if row["kind"] == "network" and row["bands"]]
    assert len(set(labels)) == 2
    fine = row_of(run(blur_model, band=(300.0, 10.0), output="fine"), "model1")
    assert row_of(table, "model1")["bands"]["300-10"]["r2"]["value"] == pytest.approx(
        fine["bands"]["300-10"]["r2"]["value"], abs=0.05
    )


@pytest.mark.parametrize(
    "change", [{"band": (200.0, 15.0)}, {"sampling_rate": 5.0}, {"quality": "best"}, {"precision": "bfloat16"}]
)
def test_options_change_the_numbers(make_model: Callable[..., Path], change: Dict[str, Any]) -> None:
    write_halves(Path(), n=3, shape=SHAPE)
    model = make_model(network="unet", channels=(4, 8))
    plain, changed = run(model), run(model, output="changed", **change)
    numbers = [table["rows"][3]["bands"][table["bands"][0]]["r2"] for table in (plain, changed)]
    assert numbers[0] != numbers[1]


def test_tile_and_device_reach_the_network(blur_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryoden.model import denoiser

    seen: List[Tuple[Any, Any]] = []
    original = denoiser.Predictor

    def spy(network: Any, device: Any, tile: Any, *others: Any) -> Any:
        seen.append((tile, str(device)))
        return original(network, device, tile, *others)

    monkeypatch.setattr(denoiser, "Predictor", spy)
    write_halves(Path(), n=2, shape=SHAPE)
    run(blur_model, tile=96, device="cpu")
    assert seen == [(96, "cpu")]


def test_the_processor_is_named_once(blur_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_halves(Path(), n=2, shape=SHAPE)
    Path("other.safetensors").write_bytes(blur_model.read_bytes())
    with caplog.at_level("INFO"):
        run((str(blur_model), "other.safetensors"), device="cpu")
    assert caplog.messages.count("Computing on the CPU.") == 1


def test_seed_and_number_of_resamplings_change_the_errors_only(blur_model: Path) -> None:
    write_halves(Path(), n=4, shape=SHAPE)
    tables = [
        run(blur_model),
        run(blur_model, seed=2),
        run(blur_model, bootstrap=50),
    ]  # the measurements are used again
    numbers = [row_of(table, "model1")["bands"][MAIN]["r2"] for table in tables]
    assert len({number["error"] for number in numbers}) == 3
    assert len({number["value"] for number in numbers}) == 1


def test_finished_micrographs_are_not_measured_again(blur_model: Path, cryoden: Run) -> None:
    write_halves(Path(), n=3, shape=SHAPE)
    first = run(blur_model)
    path = Path("out/measurements/mic1.npz")
    path.unlink()
    kept = Path("out/measurements/mic0.npz").stat().st_mtime_ns
    assert run(blur_model) == first
    assert path.is_file()
    assert Path("out/measurements/mic0.npz").stat().st_mtime_ns == kept
    other = cryoden("evaluate", "--odd", "odd", "--even", "even", "--output", "out", "--topaz", "no")
    assert other.status == 2
    assert other.last_error == (
        "cryoden: out/measurements/mic0.npz was made with other options. These options differ: --model. "
        "Choose another --output folder, or give --overwrite."
    )
    run(blur_model, overwrite=True)
    assert Path("out/measurements/mic0.npz").stat().st_mtime_ns != kept
    path.write_bytes(path.read_bytes()[:1000])
    words = ["evaluate", "--odd", "odd", "--even", "even", "--output", "out", "--topaz", "no"]
    damaged = cryoden(*words, "--model", blur_model, "--band", 300, 12)
    assert damaged.status == 2
    assert "mic1.npz cannot be read" in damaged.last_error
    assert "remove it and evaluate again" in damaged.last_error
    path.unlink()
    assert cryoden(*words, "--model", blur_model, "--band", 300, 12).status == 0


def test_numbers_are_written_for_other_programs(blur_model: Path, cryoden: Run) -> None:
    write_halves(Path(), n=3, shape=SHAPE, mean=30.0)
    words = ["evaluate", "--odd", "odd", "--even", "even", "--output", "out", "--topaz", "no", "--band", 300, 12]
    result = cryoden(*words, "--model", blur_model)
    assert result.status == 0, result.err
    assert "ring-wise Wiener" in result.out
    assert "3 of 3 micrographs are evaluated" in result.out
    table = json.loads(Path("out/metrics.json").read_text())
    written = summary_lines(
        EvaluationTable.from_dict(table)
    )  # a written table has its keys sorted; bands must stay in their columns
    assert written == result.out.splitlines()[: len(written)]
    numbers = written[2].replace(" ± ", "±").split()[-6:]  # three bands, R2 and R2_corr of each, none run together
    assert all(re.fullmatch(r"-?[\d.]+(±[\d.]+)?", number) for number in numbers), written[2]
    assert written[0].split() == ["300-12", "Å", "300-20", "Å", "20-12", "Å"]
    with open("out/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 3
    blocks = starfile.read("out/metrics.star")
    assert set(blocks) == {"overall", "micrographs"}
    r2 = row_of(table, "model1")["bands"][MAIN]["r2"]["value"]
    overall = blocks["overall"]
    mine = overall[(overall["cryodenDenoiser"] == "CNN3") & (overall["cryodenBandA"] == MAIN)]
    assert float(mine["cryodenR2"].iloc[0]) == pytest.approx(r2, rel=1e-4)
    assert len(table["verdicts"]) == 5
    assert all(line["ceiling"] >= line["value"] - 0.05 for line in table["verdicts"])
    assert leftovers(Path()) == []


def test_perfect_halves_of_counts_reach_the_poisson_ceiling(blur_model: Path) -> None:
    """A flat exposure of 46 electrons per pixel: 18.5 dB (METRICS), whatever the denoiser."""
    rng = np.random.default_rng(1)
    blobs = 1 + 0.02 * clean_signal((256, 256), 3)
    for half in ("odd", "even"):
        write_mrc(Path(half) / "mic0.mrc", rng.poisson(46 * blobs).astype(np.float32))
    table = run(blur_model)
    assert table["reference"]["psnr"]["ceiling"] == pytest.approx(18.5, abs=0.25)  # counts are whole numbers
    reached = {line["wanted"]: line["is_possible"] for line in table["verdicts"] if line["quantity"] == "PSNR"}
    assert reached == {"> 18 dB": True, "20-21 dB": False, "> 21 dB": False}
    assert "no denoiser can" in next(line["text"] for line in table["verdicts"] if line["wanted"] == "> 21 dB")


def test_a_model_says_on_which_micrographs_it_was_trained(cryoden: Run) -> None:
    """Trained and evaluated on the same set, only the held-out micrograph counts."""
    write_halves(Path(), n=4, shape=SHAPE, noise=1.0)
    words = ["--network", "cnn3", "--epochs", 1, "--crop", 32, "--min-batches", 1, "--max-batches", 2]
    assert cryoden("train", "--odd", "odd", "--even", "even", "--output", "model", *words).status == 0
    table = run("model/model.safetensors")
    log = json.loads(Path("model/log.jsonl").read_text().splitlines()[-1])
    assert table["scored"] == list(log["r2_per_micrograph"])
    assert len(table["seen"]) == 3


# ------------------------------------------------------------------ every denoiser is one
def test_each_pair_is_read_once_whatever_takes_part(blur_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Topaz is asked for many images at once, and a filter works beside a network."""
    from cryoden.evaluation import evaluate as module
    from tests.evaluation.test_bad_evaluations import fake_topaz

    read: List[str] = []
    original = module.read_micrograph

    def spy(path: Any) -> Any:
        read.append(str(path))
        return original(path)

    write_halves(Path(), n=3, shape=SHAPE)
    WienerFilter.fit(find_pairs("odd", "even")[0]).save("w.safetensors")
    monkeypatch.setattr(module, "read_micrograph", spy)
    run((blur_model, "w.safetensors"), topaz=fake_topaz())
    assert sorted(read) == sorted(f"{half}/mic{number}.mrc" for half in ("odd", "even") for number in range(3))


@pytest.mark.parametrize("kind", [GaussianFilter, WienerFilter])
def test_a_filter_as_a_model_scores_as_the_same_filter_as_a_baseline(kind: Any) -> None:
    """Applied to the pixels, or only to their covariances: one filter, the same numbers."""
    write_halves(Path("train"), n=3, shape=SHAPE, noise=2.0, seed=5)
    fitted = kind.fit(find_pairs("train/odd", "train/even")[0], BAND)
    fitted.save("f.safetensors")
    write_halves(Path(), n=3, shape=SHAPE, noise=2.0)
    table = run("f.safetensors")
    row = row_of(table, "model1")
    assert (table["leader"], row["kind"], row["label"]) == ("model1", "filter", fitted.label)

    measurements = [load_measurement(Path("out/measurements") / f"mic{number}.npz") for number in range(3)]
    for measurement in measurements:
        by_pixels = measurement.of_denoiser(0)
        by_rings = measurement.of_filter(fitted.gain_at(measurement.rings.frequency))
        np.testing.assert_allclose(by_pixels.rings.in_band(BAND), by_rings.rings.in_band(BAND), atol=1e-2)
        invented = [hallucination(response.noise_rings.in_band(BAND)) for response in (by_pixels, by_rings)]
        assert invented[0] == pytest.approx(invented[1], rel=0.1)  # that of one half, and the mean of both
        np.testing.assert_allclose(by_pixels.denoised_cuts(), by_rings.denoised_cuts(), atol=5e-3)  # kept as float16
    assert not Path("out/inside_model1.npz").exists()  # there is nothing inside a filter


def test_halves_of_unequal_dose_are_brought_to_one_scale_before_their_difference_is_taken() -> None:
    """(a - b) / sqrt(2) of one half with 3 frames and one with 5 has no signal on one scale, and half of it on two."""
    clean = clean_signal((256, 256), 1)
    rng = np.random.default_rng(1)
    for half, frames in (("odd", 3), ("even", 5)):
        noise = np.sqrt(frames) * rng.standard_normal(clean.shape)
        write_mrc(Path(half) / "mic0.mrc", 20 * frames + frames * clean + noise)
    (pair,) = find_pairs("odd", "even")[0]
    images = (read_mrc(Path("odd/mic0.mrc")), read_mrc(Path("even/mic0.mrc")))
    sized = Halves(pair, images, None, None).compared()
    noise = (sized.noise - sized.noise.mean()) / sized.scales[0].deviation
    share = np.corrcoef(noise.ravel(), clean.ravel())[0, 1]
    raw = (images[0] - images[1]).ravel()
    assert abs(share) < 0.2 < abs(np.corrcoef(raw, clean.ravel())[0, 1])
    assert abs(sized.noise.mean() / images[0].mean() - 1) < 0.05


def test_halves_are_brought_to_each_size_once() -> None:
    write_halves(Path(), n=1, shape=SHAPE)
    (pair,) = find_pairs("odd", "even", 5.0)[0]
    images = (read_mrc(Path("odd/mic0.mrc")), read_mrc(Path("even/mic0.mrc")))
    halves = Halves(pair, images, None, None)
    fine, coarse = (WienerFilter.fit_covariance(*flat_covariance(), rate) for rate in (4.0, 5.0))
    assert halves.given_to(coarse) is halves.compared()
    assert halves.given_to(fine) is halves.given_to(fine) is not halves.compared()
    assert halves.given_to(fine).images[0].shape == SHAPE
    assert halves.compared().images[0].shape == pair.shape


def flat_covariance() -> Tuple[RingCovariance]:
    frequency = np.array([0.01, 0.1])
    return (RingCovariance(frequency, np.array([[[2.0, 1.0], [1.0, 2.0]]] * 2)),)
