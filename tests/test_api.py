"""The Python API: its documented examples, what it takes and returns, and that it loads nothing before it is needed."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest

import cryoden
from cryoden import api
from cryoden.config import DenoiseConfig
from cryoden.errors import OptionError
from cryoden.model.denoiser import Denoiser
from tests.helpers import Result, clean_signal, python, read_mrc, write_halves, write_mrc


def test_the_documented_examples_are_true() -> None:
    """On three made-up movies of 12 frames."""
    for number in range(3):
        clean = clean_signal((96, 96), number, 3.0)
        rng = np.random.default_rng(number)
        frames = rng.poisson(5 + clean, (12, 96, 96)).astype(np.float32)
        write_mrc(Path("movies") / f"movie_{number}.mrcs", frames, 4.0)
    names: Dict[str, Any] = {**vars(api), "np": np}
    tests = doctest.DocTestFinder().find(api, "cryoden.api", globs=names)
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    said: list = []
    for test in tests:
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).attempted > 12
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_importing_cryoden_loads_neither_numpy_nor_torch(tmp_path: Path) -> None:
    words = (
        "import sys, cryoden; print(sorted({'numpy', 'torch', 'cryoden.api'} & set(sys.modules)), cryoden.__version__)"
    )
    done = python(["-c", words], tmp_path)
    assert done.stdout.split() == ["[]", cryoden.__version__], done.stderr
    words = "import sys, cryoden; cryoden.split_movies; print('torch' in sys.modules)"
    assert python(["-c", words], tmp_path).stdout.strip() == "False"


def test_what_it_offers_is_listed_and_nothing_else_is_there() -> None:
    assert set(cryoden.__all__) <= set(dir(cryoden))
    assert cryoden.Denoiser is Denoiser
    assert cryoden.train is api.train
    with pytest.raises(AttributeError, match="module 'cryoden' has no attribute 'dream'"):
        cryoden.dream  # noqa: B018
    assert "dream" not in sys.modules


def test_a_function_does_what_its_command_does(
    cryoden: Callable[..., Result], make_model: Callable, tmp_path: Path
) -> None:
    write_mrc(tmp_path / "raw/a.mrc", np.random.default_rng(1).normal(20, 3, (60, 70)))
    model = make_model()
    assert cryoden("denoise", "raw/a.mrc", "--model", model, "--output", "by_command", "--quality", "best").status == 0
    outcome = api.denoise(micrographs=Path("raw/a.mrc"), model=model, output=Path("by_function"), quality="best")
    assert (outcome.n_inputs, outcome.n_done, dict(outcome.failures)) == (1, 1, {})
    np.testing.assert_array_equal(read_mrc(Path("by_function/a.mrc")), read_mrc(Path("by_command/a.mrc")))


def test_failures_come_back_as_data(make_model: Callable, tmp_path: Path) -> None:
    write_mrc(tmp_path / "raw/a.mrc", np.random.default_rng(1).normal(20, 3, (60, 70)))
    write_mrc(tmp_path / "raw/b.mrc", np.ones((60, 70)))
    outcome = api.denoise(micrographs=["raw"], model=make_model(), output="out")
    assert (outcome.n_inputs, outcome.n_done) == (2, 1)
    assert outcome.failures["raw/b.mrc"].kind == "pixel"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"colour": "blue"}, "colour"),
        ({"tile": 3}, "is 3; it must be at least 64"),
        ({"micrographs": 7}, "--micrographs is 7; it must be a list, each text"),
        ({"model": None}, "--model"),
    ],
)
def test_wrong_options_are_named(options: Dict[str, Any], reason: str) -> None:
    with pytest.raises(OptionError) as caught:
        api.denoise(**{"micrographs": ["a.mrc"], "model": "m", "output": "o", **options})
    assert reason in str(caught.value)


def test_one_path_is_a_list_of_one() -> None:
    for given in ("a.mrc", Path("a.mrc"), [Path("a.mrc")], ("a.mrc",)):
        config = api._config(DenoiseConfig, {"micrographs": given, "model": Path("m"), "output": "o"})
        assert config == DenoiseConfig(micrographs=("a.mrc",), model="m", output="o")


def test_an_evaluation_returns_its_table(blur_model: Path) -> None:
    write_halves(Path(), n=2, shape=(96, 96), noise=1.0)
    table, outcome = api.evaluate(odd="odd", even="even", model=blur_model, output="out", topaz="no", bootstrap=20)
    assert outcome.n_done == 2
    assert table.leading_row.label == "CNN3"
    assert Path("out/report.html").is_file()
