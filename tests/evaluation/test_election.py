"""The command `choose`: candidates compared on halves that none of them has seen, and one of them written."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest

import cryoden as cryoden_library
from cryoden.config import ChooseConfig
from cryoden.data.half_sources import list_halves
from cryoden.data.normalize import STANDARD
from cryoden.data.pairs import find_pairs
from cryoden.errors import PairError
from cryoden.evaluation import election as election_module
from cryoden.evaluation import nominees
from cryoden.evaluation.division import divide, ignorant_models
from cryoden.evaluation.election import choose
from cryoden.evaluation.evaluate import Evaluation
from cryoden.evaluation.nominees import own_labels
from cryoden.formats import outputs
from cryoden.formats.model_file import ModelCard, read_card, read_model, write_model
from cryoden.report.election_result import Election, read_election
from cryoden.report.evaluation_table import read_table
from cryoden.report.html_report import write_report
from tests.helpers import RATE, Result, blurring_cnn3, read_mrc, write_halves, write_mrc

Run = Callable[..., Result]

SHAPE = (128, 128)
BAND = (300.0, 12.0)
WORDS: List[Any] = [
    "choose", "--odd", "odd", "--even", "even", "--output", "out", "--band", 300, 12, "--topaz", "no",
    "--bootstrap", 20, "--seconds", 0,
]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no pictures: they take longer than everything else."""
    monkeypatch.setattr("cryoden.report.html_report.write_report", lambda folder: Path(folder) / outputs.REPORT)


def run(**options: Any) -> Election:
    """Elect from the halves of the working folder."""
    given = {"band": BAND, "topaz": "no", "bootstrap": 20, "output": "out", "seconds": 0.0, "device": "cpu", **options}
    return choose(ChooseConfig(odd="odd", even="even", **given))


def values(election: Election) -> Dict[str, Any]:
    return {candidate.key: candidate.value for candidate in election.candidates}


def own_model(path: str, card: Dict[str, Any], weights: Any = None, rate: float = RATE) -> str:
    """Write a network that blurs, with what its card says of its training."""
    write_model(path, weights or blurring_cnn3(), ModelCard("cnn3", (), rate, asdict(STANDARD), card))
    return path


def listed(name: str) -> List[str]:
    return sorted(list_halves(f"out/{name}"))


def test_the_best_one_is_written_as_a_model_and_applied_like_any(cryoden: Run, general_model: Path) -> None:
    """What is elected is what was measured: on the held-out halves it has the R2 that the table says."""
    write_halves(Path(), n=5, shape=SHAPE, noise=2.0)
    result = cryoden(*WORDS)
    assert result.status == 0, result.err
    election = read_election("out")
    r2 = values(election)
    assert set(r2) >= {"gaussian", "wiener", "general"}
    assert election.best == max((key for key in r2 if r2[key] is not None), key=lambda key: r2[key])
    assert result.out.splitlines()[-3].startswith(f"{election.winner.label} elected: R2 0.")
    assert Path("out/election.txt").read_text().startswith(election.headline())

    card = read_card("out/model.safetensors")
    assert card.r2 == pytest.approx(election.winner.value)
    assert cryoden("denoise", "odd", "--model", "out/model.safetensors", "--output", "den").status == 0
    again = ["--odd", "out/held_out_odd.star", "--even", "out/held_out_even.star", "--topaz", "no", "--output", "again"]
    assert cryoden("evaluate", *again, "--model", "out/model.safetensors", "--band", 300, 12).status == 0
    table = read_table("again/metrics.json")
    assert table.scored == listed(outputs.HELD_OUT_ODD) == list(election.held_out)
    assert table.leading_row.bands["300-12"].r2.value == pytest.approx(election.winner.value, abs=2e-3)


def test_what_is_held_out_is_nothing_that_was_fitted_or_trained_on(general_model: Path) -> None:
    """The fine-tuned general model is a candidate; its training knows the fitting part alone."""
    write_halves(Path(), n=5, shape=SHAPE, noise=2.0)
    election = run(seconds=1.0)
    tuned = read_card(Path("out/candidates/fine_tuned") / outputs.MODEL).training
    fitted = read_card("out/candidates/wiener.safetensors").training
    held_out = set(election.held_out)
    assert held_out == set(listed(outputs.HELD_OUT_EVEN))
    assert len(held_out) == 2
    assert set(tuned["trained_on"]) | set(tuned["held_out"]) == {f"mic{i}" for i in range(5)} - held_out
    assert set(fitted["trained_on"]) == {f"mic{i}" for i in range(5)} - held_out
    assert values(election)["fine_tuned"] > values(election)["gaussian"] - 0.1
    assert election.candidate("fine_tuned").behind is not None
    assert [c.place for c in election.candidates if c.problem is None] == [1, 2, 3, 4]


def test_a_single_micrograph_is_cut_in_two(general_model: Path) -> None:
    write_halves(Path(), n=1, shape=(256, 128), noise=1.5)
    election = run(seconds=1.0)
    assert election.held_out == election.fitted_on == ("mic0",)
    assert "the last rows of 'mic0'" in election.basis()
    for name in ("gaussian.safetensors", f"fine_tuned/{outputs.MODEL}"):
        training = read_card(f"out/candidates/{name}").training
        assert training["held_out"] == {"mic0": [0.75, 1.0]}, name
    assert read_table("out/evaluation/metrics.json").scored == ["mic0"]
    path = Path("out/evaluation/measurements/mic0.npz")
    with np.load(path) as arrays:
        assert arrays["shape"].tolist() == [64, 128]


def test_own_models_are_measured_on_what_they_do_not_know(general_model: Path) -> None:
    write_halves(Path(), n=5, shape=SHAPE, noise=2.0)
    own = own_model("one.safetensors", {"trained_on": ["mic0", "mic1", "mic2", "mic4"], "held_out": {"mic3": [0, 1]}})
    election = run(model=(own,))
    assert election.held_out == ("mic3",)
    assert election.candidate("own1").label == "own model one"
    assert values(election)["own1"] == pytest.approx(values(election)["general"], abs=2e-3)


def test_candidates_that_fail_are_left_out_and_said(cryoden: Run, general_model: Path) -> None:
    """One knows all micrographs, one is damaged, one is coarser than none can be, one makes no numbers."""
    write_halves(Path(), n=3, shape=SHAPE, noise=2.0)
    knowing = own_model("knowing.safetensors", {"trained_on": ["mic0", "mic1", "mic2"]})
    Path("damaged.safetensors").write_bytes(b"words")
    huge = {name: array * np.float32(1e30) for name, array in blurring_cnn3().items()}
    own_model("huge.safetensors", {"trained_on": []}, huge)
    own_model("fine.safetensors", {"trained_on": []}, rate=1.0)
    models = [knowing, "damaged.safetensors", "huge.safetensors", "fine.safetensors", "missing.safetensors"]
    result = cryoden(*WORDS, "--model", *models)
    assert result.status == 1, result.err
    for path in models:
        assert f"failed: {path}: " in result.err, path
    assert "knowing.safetensors was trained on all of these 3 micrographs" in result.err
    election = read_election("out")
    assert {c.key for c in election.candidates if c.problem is None} == {"gaussian", "wiener", "general"}
    assert sum("took no part" in line for line in result.out.splitlines()) == 7  # fine-tuning, Topaz


def test_pixels_that_the_general_model_does_not_know(cryoden: Run, general_model: Path) -> None:
    write_halves(Path(), n=3, shape=SHAPE, noise=1.0, rate=8.0)
    result = cryoden(*WORDS[:7], "--topaz", "no", "--bootstrap", 20, "--band", 300, 20, "--seconds", 5)
    assert result.status == 0, result.err
    election = read_election("out")
    assert election.elected in ("gaussian", "wiener")
    assert election.sampling_rate == 8.0
    assert "8 Å/px" in str(election.candidate("general").problem)
    assert "no general model to begin with" in str(election.candidate("fine_tuned").problem)


def test_the_general_model_is_compared_and_tuned_at_the_pixels_that_it_knows(general_model: Path) -> None:
    """Of micrographs coarser than its own pixels, at theirs: nothing is resampled."""
    write_halves(Path(), n=3, shape=SHAPE, noise=1.0, rate=5.0)
    election = run(seconds=1.0, margin=0.0)
    assert election.sampling_rate == 5.0
    assert {c.key for c in election.candidates if c.problem is None} == {"gaussian", "wiener", "general", "fine_tuned"}
    assert read_card(Path("out/candidates/fine_tuned") / outputs.MODEL).sampling_rate == 5.0


def test_without_the_general_model_the_filters_are_candidates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cryoden.formats.general_model.GENERAL_FILE", tmp_path / "none")
    write_halves(Path(), n=3, shape=SHAPE, noise=1.0)
    election = run(seconds=5.0)
    assert election.elected in ("gaussian", "wiener")
    assert "lacks the general model" in str(election.candidate("general").problem)


@pytest.mark.parametrize(
    ("shape", "n", "said"),
    [
        ((40, 64), 1, "is 64 x 10 px; nothing can be measured on fewer than 16 px a side."),
        ((12, 64), 3, "is 64 x 12 px; nothing can be measured on fewer than 16 px a side."),
    ],
)
def test_halves_too_small_to_elect_by_are_one_line(
    cryoden: Run, general_model: Path, shape: tuple, n: int, said: str
) -> None:
    write_halves(Path(), n=n, shape=shape)
    result = cryoden(*WORDS)
    assert result.status == 2
    assert said in result.last_error
    assert not Path("out/model.safetensors").exists()


def test_equal_halves_are_one_line(cryoden: Run, general_model: Path) -> None:
    write_halves(Path(), n=2, shape=SHAPE)
    for name in ("mic0", "mic1"):
        write_mrc(Path("even") / f"{name}.mrc", read_mrc(Path("odd") / f"{name}.mrc"))
    result = cryoden(*WORDS)
    assert result.status == 2
    assert "Both halves of 'mic0' are the same image" in result.last_error


def test_a_bad_micrograph_is_named_and_the_rest_elects(cryoden: Run, general_model: Path) -> None:
    """Of two, the good one is cut in two: nothing else would be left."""
    write_halves(Path(), n=2, shape=(256, 128))
    write_mrc(Path("odd/mic0.mrc"), np.full((256, 128), 7.0))
    result = cryoden(*WORDS)
    assert result.status == 1
    assert "failed: mic0: " in result.err
    assert read_election("out").held_out == ("mic1",)


def test_topaz_is_named_where_it_is_better_but_not_elected(
    general_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made to know the truth."""
    clean = write_halves(Path(), n=4, shape=SHAPE, noise=3.0)

    def denoise(self: Any, image: np.ndarray, sampling_rate: float, scale: Any = None) -> np.ndarray:
        if image.shape != SHAPE:
            return image
        return max(clean.values(), key=lambda truth: float((truth * image).mean())).astype(np.float32)

    monkeypatch.setattr("cryoden.model.topaz.TopazDenoiser.denoise", denoise)
    monkeypatch.setattr("cryoden.model.topaz.TopazDenoiser.denoise_ahead", lambda self, images: None)
    election = run(topaz="topaz")
    assert election.outsider == "topaz"
    assert election.elected in ("gaussian", "wiener", "general")
    assert election.candidate("topaz").place is None
    assert any("Topaz-Denoise unet is better on these micrographs" in line for line in election.reasons())
    assert read_card("out/model.safetensors").network in ("gaussian", "wiener", "cnn3")


def test_the_simplest_of_equally_good_ones_is_elected_and_that_is_said(general_model: Path) -> None:
    write_halves(Path(), n=3, shape=SHAPE)
    election = run(margin=1.0)
    assert election.elected == "gaussian"
    assert election.best != "gaussian"
    assert "of equally good ones the simplest is taken" in " ".join(election.reasons())
    assert read_card("out/model.safetensors").network == "gaussian"


def test_an_elected_general_model_stays_itself_and_was_measured(
    cryoden: Run, general_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_halves(Path(), n=3, shape=SHAPE)
    monkeypatch.setattr(election_module, "elect", lambda r2, order, margin: ("general", "wiener"))
    election = run()
    card = read_card("out/model.safetensors")
    assert card.is_general
    assert card.rates == (3.0, 6.5)
    assert card.r2 == pytest.approx(election.candidate("general").value)
    assert Path("out/model.safetensors").stat().st_size < general_model.stat().st_size + 2000  # half precision
    for name, array in read_model("out/model.safetensors")[1].items():
        assert np.array_equal(array, read_model(general_model)[1][name])
    with caplog.at_level("INFO"):
        assert cryoden("denoise", "odd", "--model", "out/model.safetensors", "--output", "den").status == 0
    assert "not measured" not in caplog.text


# ---------------------------------------------------------------------- going on
def test_what_was_stopped_goes_on_with_the_same_division(
    cryoden: Run, general_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More micrographs have come meanwhile: the election is held by those with which it began."""
    write_halves(Path(), n=4, shape=SHAPE)
    write_mrc(Path("odd/mic0.mrc"), np.full(SHAPE, 7.0))
    with monkeypatch.context() as patched:
        patched.setattr(Evaluation, "run", lambda self: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            cryoden(*WORDS)
    begun = listed(outputs.FITTING_ODD), listed(outputs.HELD_OUT_ODD)
    assert not Path("out/election.json").exists()
    for half in ("odd", "even"):
        write_mrc(Path(half) / "later.mrc", read_mrc(Path(half) / "mic1.mrc"))

    result = cryoden(*WORDS)
    assert result.status == 1
    assert "failed: mic0: " in result.err  # known from before
    assert (listed(outputs.FITTING_ODD), listed(outputs.HELD_OUT_ODD)) == begun
    assert list(read_election("out").held_out) == begun[1]


def test_an_election_that_was_held_is_not_held_again(
    cryoden: Run, general_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_halves(Path(), n=3, shape=SHAPE)
    first = cryoden(*WORDS)
    written = Path("out/model.safetensors").stat().st_mtime_ns
    with monkeypatch.context() as patched:
        patched.setattr(nominees, "Denoiser", None)
        again = cryoden(*WORDS)
    assert (again.status, again.out) == (0, first.out)
    other = cryoden(*WORDS, "--held-out", 0.6)
    assert other.status == 2
    assert "--held-out (was 0.3, is now 0.6)" in other.last_error
    assert Path("out/model.safetensors").stat().st_mtime_ns == written
    assert cryoden(*WORDS, "--held-out", 0.6, "--overwrite").status == 0
    assert len(read_election("out").held_out) == 2


def test_a_candidate_that_was_added_is_another_option(cryoden: Run, general_model: Path) -> None:
    write_halves(Path(), n=3, shape=SHAPE)
    assert cryoden(*WORDS).status == 0
    own = own_model("own.safetensors", {"trained_on": []})
    result = cryoden(*WORDS, "--model", own)
    assert result.status == 2
    assert "--model" in result.last_error


# ---------------------------------------------------------------------- which micrographs
def cards(*known: Any) -> List[ModelCard]:
    return [ModelCard("cnn3", (), RATE, {}, {"trained_on": list(names)}) for names in known]


def test_division_has_no_common_micrograph_and_its_size(tmp_path: Path) -> None:
    write_halves(tmp_path, n=10, shape=(32, 32))
    pairs, _ = find_pairs("odd", "even")
    for fraction, at_most, expected in ((0.3, 20, 3), (0.3, 2, 2), (0.01, 20, 2), (0.01, 1, 1), (0.99, 20, 9)):
        division = divide(pairs, [], fraction, at_most, np.random.default_rng(1))
        names = [{pair.name for pair in part} for part in (division.fitting, division.held_out)]
        assert len(names[1]) == expected
        assert names[0].isdisjoint(names[1])
        assert len(names[0] | names[1]) == 10
    seen = {pair.name for seed in range(9) for pair in divide(pairs, [], 0.3, 9, np.random.default_rng(seed)).held_out}
    assert len(seen) > 6


def test_models_that_leave_nothing_take_no_part(tmp_path: Path) -> None:
    write_halves(tmp_path, n=4, shape=(32, 32))
    pairs, _ = find_pairs("odd", "even")
    one, two, every = cards(["mic0", "mic1"], ["mic2", "mic3"], [f"mic{i}" for i in range(4)])
    assert ignorant_models(pairs, [one, two]) == [True, False]
    assert ignorant_models(pairs, [every, two, one]) == [False, True, False]
    held_out = {pair.name for pair in divide(pairs, [one], 0.9, 20, np.random.default_rng(1)).held_out}
    assert held_out == {"mic2", "mic3"}
    with pytest.raises(PairError, match="nothing is left to measure them on"):
        divide(pairs, [one, two], 0.5, 20, np.random.default_rng(1))


def test_rows_that_a_model_does_not_know_are_held_out(tmp_path: Path) -> None:
    write_halves(tmp_path, n=1, shape=(200, 64))
    pairs, _ = find_pairs("odd", "even")
    card = ModelCard("cnn3", (), RATE, {}, {"trained_on": ["mic0"], "held_out": {"mic0": [0.8, 1.0]}})
    division = divide(pairs, [card], 0.3, 20, np.random.default_rng(1))
    assert division.fitting[0].rows == (0, 150)
    assert division.held_out[0].rows == (160, 200)
    assert ignorant_models(pairs, [card]) == [True]


def test_the_report_shows_the_elected_one_first_and_says_why(
    general_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_halves(Path(), n=2, shape=SHAPE)
    monkeypatch.setattr("cryoden.report.html_report.list_pictures", lambda evaluated: [])
    election = run(margin=1.0)
    html = write_report("out/evaluation").read_text()
    assert "<h1>best Gaussian recovers" in html
    assert html.count('<p class="election">') == 2
    assert election.headline().replace("R2", "R²").replace("'", "&#39;") in html


def test_names_of_own_models_are_distinct() -> None:
    assert own_labels(["a/model.safetensors", "b/c.safetensors"]) == {
        "a/model.safetensors": "own model a",
        "b/c.safetensors": "own model c",
    }
    run = "Runs/000208_CryodenProtTrain/extra/model.safetensors"
    assert own_labels([run]) == {run: "own model 000208_CryodenProtTrain"}
    labels = own_labels(["a/x/model.safetensors", "b/x/model.safetensors"])
    assert len(set(labels.values())) == 2


def test_it_is_a_function_of_the_library(general_model: Path) -> None:
    write_halves(Path(), n=3, shape=SHAPE)
    election = cryoden_library.choose(
        odd=Path("odd"), even="even", output=Path("out"), seconds=0.0, topaz="no", bootstrap=20, model="own.safetensors"
    )
    assert election.failures["own.safetensors"].kind == "file"
    assert election == read_election("out")


def test_the_elections_json_is_read_as_it_was_written(general_model: Path) -> None:
    write_halves(Path(), n=3, shape=SHAPE)
    held = run(model=("missing.safetensors",))
    read = read_election("out")
    assert read == held
    assert json.loads(Path("out/election.json").read_text())["elected"] == held.elected
