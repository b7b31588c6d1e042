"""The table of an evaluation as types, as the file that other programs read, and as version 0.1 wrote it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest

from cryoden.config import EvaluateConfig
from cryoden.errors import FileError, Problem, Remedy
from cryoden.evaluation.evaluate import evaluate
from cryoden.report.evaluation_result import denoised_cut, read_evaluation
from cryoden.report.evaluation_table import EvaluationTable, Number, finite, read_table
from cryoden.report.html_report import write_report
from cryoden.report.tables import micrograph_rows, overall_rows, summary_lines
from tests.helpers import ROOT, write_halves, write_mrc

MADE_BY_0_1 = ROOT / "tests/legacy/made_by_0_1/evaluation"


@pytest.fixture
def table(blur_model: Path) -> EvaluationTable:
    """Evaluate counts with their truth."""
    for name, image in write_halves(Path(), n=3, shape=(96, 96), noise=1.0, mean=20.0).items():
        write_mrc(Path("truth") / f"{name}.mrc", image)
    config = EvaluateConfig(
        odd="odd", even="even", output="out", truth="truth", model=(str(blur_model),), topaz="no", bootstrap=20,
        band=(300.0, 12.0),
    )  # fmt: skip
    return evaluate(config)[0]


def same(one: Any, other: Any) -> bool:
    """Return whether two JSON contents are equal, numbers to their last bit but one."""
    if isinstance(one, dict):
        return set(one) == set(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return math.isclose(one, other, rel_tol=1e-15) if isinstance(one, float) else one == other


def test_a_table_is_read_as_it_was_written(table: EvaluationTable) -> None:
    problem = Problem("pixel", "It is constant.", "mic9")
    table = replace(table, failures={"mic9": problem})
    content = json.loads(json.dumps(table.to_dict()))
    again = EvaluationTable.from_dict(content)
    assert same(again.to_dict(), content)
    assert again.absent == table.absent
    assert again.failures["mic9"].text() == problem.text()
    assert summary_lines(again) == summary_lines(table)
    assert overall_rows(again) == overall_rows(table)
    assert micrograph_rows(again) == micrograph_rows(table)
    for row, other in zip(table.rows, again.rows):
        np.testing.assert_array_equal(row.curves.frc_clean, other.curves.frc_clean)  # NaN is NaN again
        assert (row.bands, row.micrographs, row.number) == (other.bands, other.micrographs, other.number)
    assert again.leading_row.truth.micrographs == table.leading_row.truth.micrographs  # type: ignore[union-attr]


def test_the_file_has_the_layout_of_0_1(table: EvaluationTable) -> None:
    """Whoever reads it finds every name of 0.1, with the same types."""

    def holds(now: Any, then: Any, place: str) -> None:
        if isinstance(then, dict) and place not in ("/rows/micrographs", "/rows/truth/micrographs", "/failures"):
            names = set(then) if not place.endswith("/bands") else set()
            assert names <= set(now), place
            for name in names:
                holds(now[name], then[name], f"{place}/{name}")
        elif isinstance(then, dict):
            for part in now.values():
                holds(part, next(iter(then.values()), part), f"{place}/one")
        elif isinstance(then, list) and then:
            assert isinstance(now, list), place
            if now:
                holds(now[0], then[0], place)
        elif then is not None and now is not None:
            assert isinstance(now, type(then)) or {type(now), type(then)} == {int, float}, place

    then = json.loads((MADE_BY_0_1 / "metrics.json").read_text())
    now = json.loads(Path("out/metrics.json").read_text())
    holds(now, then, "")
    rows: Dict[str, Dict[str, Any]] = {row["key"]: row for row in now["rows"]}
    for row in then["rows"]:
        if row["key"] in rows:
            holds(rows[row["key"]], row, "/rows")
    assert rows["topaz"]["bands"] is None
    assert rows["topaz"]["micrographs"] == {}
    assert rows["topaz"]["note"] == "It was left out. Give --topaz auto."


def test_an_evaluation_of_0_1_is_opened_drawn_and_reported_again() -> None:
    shutil.copytree(str(MADE_BY_0_1), "old")
    (Path("old") / "report.html").unlink(missing_ok=True)
    evaluated = read_evaluation("old")
    content = json.loads((MADE_BY_0_1 / "metrics.json").read_text())
    assert evaluated.leader().key == content["leader"]
    assert [row.key for row in evaluated.rows()] == [row["key"] for row in content["rows"] if row["bands"]]
    absent = {row["key"]: row["note"] for row in content["rows"] if not row["bands"]}
    assert {absent.key: str(absent.reason) for absent in evaluated.table.absent} == absent
    main = content["bands"][0]
    for row in content["rows"]:
        if row["bands"]:
            number = evaluated.table.row(row["key"]).bands[main].r2
            assert (number.value, number.error) == (
                row["bands"][main]["r2"]["value"],
                row["bands"][main]["r2"]["error"],
            )
    measurement = evaluated.measurement(content["order"][0])
    cuts = {row.key: denoised_cut(row, measurement) for row in evaluated.rows()}
    assert cuts["raw"].std() > cuts["wiener"].std() > 0
    assert cuts[evaluated.leader().key].shape == cuts["raw"].shape
    assert measurement.truth_cut().shape == cuts["raw"].shape
    html = write_report("old").read_text()
    assert evaluated.leader().label in html
    assert "Against the truth" in html


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content.pop("rows"), "it has no rows"),
        (lambda content: content.pop("leader"), "leader is missing"),
        (lambda content: content["rows"][0].pop("curves"), "rows.0.curves is missing"),
        (lambda content: content["rows"][1].update(number="two"), "rows.1.number is 'two'"),
        (lambda content: content["rows"][0]["bands"].update({"300-12": 3}), "rows.0.bands.300-12 is '3'"),
        (lambda content: content["curves"].update(frequency=None), "curves.frequency is 'None'"),
        (lambda content: content.update(n_micrographs=True), "n_micrographs is 'True'"),
        (lambda content: content["rows"].append({"bands": None}), "'key'"),
    ],
)
def test_a_damaged_table_is_refused_by_name(table: EvaluationTable, change: Callable, reason: str) -> None:
    content = table.to_dict()
    change(content)
    Path("metrics.json").write_text(json.dumps(content))
    with pytest.raises(FileError) as caught:
        read_table("metrics.json")
    assert "metrics.json is no table of an evaluation" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "null", '"rows"', '{"rows": 3}'])
def test_another_json_file_is_no_table(content: str) -> None:
    Path("metrics.json").write_text(content)
    with pytest.raises(FileError, match=r"metrics\.json is no table of an evaluation \(it has no rows\)"):
        read_table("metrics.json")


def test_what_is_no_number_is_none() -> None:
    assert Number.of(math.nan, math.inf) == Number(None, None)
    assert Number.of(np.float64(2), None) == Number(2.0, None)
    assert [finite(value) for value in (None, -math.inf, 3.0)] == [None, None, 3.0]


def test_why_a_denoiser_is_absent_is_data(table: EvaluationTable) -> None:
    reasons = {absent.key: absent.reason for absent in read_table("out/metrics.json").absent}
    assert reasons == {"topaz": Problem("absent", "It was left out.", "topaz", Remedy("set_to", "topaz", "auto"))}
    assert summary_lines(table)[-1] == "Topaz-Denoise unet: It was left out. Give --topaz auto."
