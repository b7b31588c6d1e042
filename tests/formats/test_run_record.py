"""What counts as finished: made by these options, from this input, whatever happened in between."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional, Sequence

import pytest

from cryoden.errors import ExistingResultsError, FileError, Remedy
from cryoden.formats.run_record import (
    InputIdentity,
    Result,
    RunRecord,
    lines_path,
    recorded_options,
    require_distinct,
    require_no_input,
)

OPTIONS = {"quality": "fast", "band": [300, 8], "tile": None}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(f"{name}.mrcs").write_text(name)
    Path("out").mkdir()
    return Path("out")


def result(name: str, *inputs: str) -> Result:
    return Result(name, (Path("out") / f"{name}.mrc",), inputs or (f"{name}.mrcs",))


def record(options: Any = OPTIONS, is_overwritten: Optional[bool] = False, **arguments: Any) -> RunRecord:
    return RunRecord("out/denoise.json", options, is_overwritten=is_overwritten, **arguments)


def make(results: Sequence[Result], **arguments: Any) -> None:
    """Do what a command does: leave finished ones, make the rest."""
    run = record(**arguments)
    finished = run.finished(results)
    run.begin()
    for item in results:
        if item.name not in finished:
            with run.making(item):
                item.files[0].write_text("image")


def test_what_was_made_is_finished(folder: Path) -> None:
    make([result("a")])
    assert record().finished([result("a"), result("b")]) == {"a"}
    assert recorded_options("out/denoise.json") == OPTIONS


def test_a_result_that_was_removed_is_made_again(folder: Path) -> None:
    make([result("a"), result("b")])
    (folder / "a.mrc").unlink()
    assert record().finished([result("a"), result("b")]) == {"b"}


def test_a_result_of_which_a_file_is_missing_is_made_again(folder: Path) -> None:
    both = Result("a", (folder / "a.mrc", folder / "a.png"), ("a.mrcs",))
    make([both])
    assert record().finished([both]) == set()


def test_one_that_was_killed_after_its_file_had_its_name(folder: Path) -> None:
    run = record()
    run.finished([result("a")])
    run.begin()
    with suppress(KeyboardInterrupt), run.making(result("a")):
        (folder / "a.mrc").write_text("image")
        raise KeyboardInterrupt
    assert record().finished([result("a")]) == set()


def test_other_options_are_refused_and_named_as_data(folder: Path) -> None:
    make([result("a")])
    with pytest.raises(ExistingResultsError) as caught:
        record({**OPTIONS, "quality": "best"}).finished([result("a")])
    assert caught.value.problem.differences == {"quality": ("fast", "best")}
    assert str(caught.value) == (
        "out/a.mrc was made with other options. These options differ: --quality (was fast, is now best). "
        "Choose another --output folder, or give --overwrite."
    )


def test_a_command_that_overwrites_nothing_does_not_offer_it(folder: Path) -> None:
    make([result("a")])
    with pytest.raises(ExistingResultsError) as caught:
        record({"quality": "best"}, is_overwritten=None).finished([result("a")])
    assert caught.value.problem.remedy == Remedy("other_folder")


def test_other_options_for_other_results_are_welcome(folder: Path) -> None:
    make([result("a")])
    make([result("b")], options={**OPTIONS, "quality": "best"})
    with pytest.raises(ExistingResultsError, match=r"out/b\.mrc was made with other options"):
        record().finished([result("a"), result("b")])
    with pytest.raises(ExistingResultsError, match=r"out/a\.mrc was made with other options"):
        record({**OPTIONS, "quality": "best"}).finished([result("a"), result("b")])


def test_the_content_of_a_model_counts_not_its_place(folder: Path) -> None:
    Path("m1").write_text("weights")
    Path("m2").write_text("other weights")
    make([result("a")], options={"model": "m1"}, files={"model": "m1"})
    os.rename("m1", "moved")
    moved = record({"model": "moved"}, files={"model": "moved"})
    assert moved.finished([result("a")]) == {"a"}
    with pytest.raises(ExistingResultsError) as caught:
        record({"model": "m2"}, files={"model": "m2"}).finished([result("a")])
    assert list(caught.value.problem.differences) == ["model"]


def test_an_input_that_was_replaced_is_used_again(folder: Path) -> None:
    make([result("a")])
    Path("a.mrcs").write_text("copied again")
    assert record().finished([result("a")]) == set()


def test_an_input_of_the_same_size_at_another_time_is_another_one(folder: Path) -> None:
    make([result("a")])
    status = os.stat("a.mrcs")
    os.utime("a.mrcs", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert record().finished([result("a")]) == set()


def test_another_input_of_the_same_name_is_refused(folder: Path) -> None:
    make([result("a")])
    Path("other").mkdir()
    Path("other/a.mrcs").write_text("another")
    with pytest.raises(ExistingResultsError, match=r"out/a\.mrc was made from a\.mrcs, not from other/a\.mrcs"):
        record().finished([result("a", "other/a.mrcs")])


def test_an_input_that_was_moved_with_its_time_is_the_same(folder: Path) -> None:
    make([result("a")])
    Path("moved").mkdir()
    os.rename("a.mrcs", "moved/a.mrcs")
    assert record().finished([result("a", "moved/a.mrcs")]) == {"a"}


def test_an_input_that_was_removed_since_leaves_its_result_finished(folder: Path) -> None:
    make([result("a")])
    Path("a.mrcs").unlink()
    assert record().finished([result("a")]) == {"a"}
    with pytest.raises(ExistingResultsError, match=r"out/a\.mrc was made from a\.mrcs, not from other/a\.mrcs"):
        record().finished([result("a", "other/a.mrcs")])


def test_copies_that_keep_whole_seconds_are_the_same() -> None:
    known = InputIdentity("a", 3, 5_000_000_123, "x/a")
    assert known.is_same(InputIdentity("a", 3, 5_000_000_000, "y/a"))
    assert not known.is_same(InputIdentity("a", 3, 6_000_000_000, "y/a"))
    assert not known.is_same(InputIdentity("a", 3, 5_000_000_124, "y/a"))
    assert not known.is_same(None)


def test_what_nobody_recorded_is_never_overwritten(folder: Path) -> None:
    (folder / "a.mrc").write_text("a raw sum")
    with pytest.raises(ExistingResultsError, match=r"out/a\.mrc is there, and was not made by this command"):
        record().finished([result("a")])
    make([result("b")])
    with pytest.raises(ExistingResultsError, match=r"out/a\.mrc is there, and was not made by this command"):
        record().finished([result("a")])
    assert record(is_overwritten=True).finished([result("a")]) == set()


def test_an_overwriting_that_was_killed_goes_on_without_the_option(folder: Path) -> None:
    make([result("a"), result("b")])
    best = {**OPTIONS, "quality": "best"}
    run = record(best, is_overwritten=True)
    run.finished([result("a"), result("b")])
    run.begin()
    with run.making(result("a")):
        (folder / "a.mrc").write_text("better")
    assert record(best).finished([result("a"), result("b")]) == {"a"}
    with pytest.raises(ExistingResultsError, match=r"out/a\.mrc was made with other options"):
        record().finished([result("a"), result("b")])


def test_records_of_0_1_hold_the_options_alone(folder: Path) -> None:
    Path("out/denoise.json").write_text(json.dumps(OPTIONS))
    (folder / "a.mrc").write_text("image")
    new = {**OPTIONS, "new_option": 3}
    assert record(new, in_words_of_today=lambda options: {"new_option": 3, **options}).finished(
        [result("a"), result("b")]
    ) == {"a"}
    assert recorded_options("out/denoise.json") == OPTIONS
    with pytest.raises(ExistingResultsError) as caught:
        record(new, in_words_of_today=lambda options: {"new_option": 2, **options}).finished([result("a")])
    assert caught.value.problem.differences == {"new_option": (2, 3)}
    make([result("a"), result("b")])
    assert record().finished([result("a"), result("b")]) == {"a", "b"}


def test_facts_of_a_result_are_kept(folder: Path) -> None:
    run = record()
    run.finished([result("a")])
    run.begin()
    with run.making(result("a")) as facts:
        facts["sampling_rate"] = 3.5
    assert record().facts("a") == {"sampling_rate": 3.5}
    assert record().facts("b") == {}


def test_a_line_that_a_kill_cut_off_is_passed_over(folder: Path) -> None:
    make([result("a"), result("b")])
    path = lines_path(folder / "denoise.json")
    path.write_text(path.read_text()[:-30])
    assert record().finished([result("a"), result("b")]) == {"a"}


def test_a_line_that_was_cut_off_spoils_no_later_one(folder: Path) -> None:
    make([result("a")])
    path = lines_path(folder / "denoise.json")
    path.write_text(path.read_text()[:-30])
    run = record()
    run.finished([result("b")])
    with run.making(result("b")):
        pass
    states = [json.loads(line)["state"] for line in path.read_text().splitlines() if line.endswith("}")]
    assert states == ["begun", "begun", "done"]


def test_a_clock_that_was_set_back_makes_nothing_newer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make([result("a")])
    monkeypatch.setattr("time.time_ns", lambda: 1)
    make([result("a")], options={**OPTIONS, "quality": "best"}, is_overwritten=True)
    with pytest.raises(ExistingResultsError, match=r"out/a\.mrc was made with other options"):
        record().finished([result("a")])


def test_each_process_has_lines_of_its_own(folder: Path) -> None:
    make([result("a")], rank=0)
    make([result("b")], rank=1)
    assert sorted(path.name for path in folder.glob("*.jsonl")) == ["denoise.results.jsonl", "denoise.results_1.jsonl"]
    assert record().finished([result("a"), result("b")]) == {"a", "b"}


def test_another_process_than_the_first_refuses_nothing_that_the_first_has_begun(folder: Path) -> None:
    """It may have read the record a moment before: what is there is looked at when all have ended."""
    second = record(rank=1)
    make([result("a")], rank=0)
    assert second.finished([result("a")]) == set()
    assert second.finished_since([result("a"), result("b")]) == {"a"}


@pytest.mark.parametrize(
    "content", ["[]", '{"runs": 3}', '{"runs": {"x": {"options": {}}}, "current": "x"}', '{"runs": {}, "current": "x"}']
)
def test_a_damaged_record_is_said_to_be(folder: Path, content: str) -> None:
    Path("out/denoise.json").write_text(content)
    with pytest.raises(FileError, match=r"out/denoise\.json is damaged"):
        record()


def test_lines_are_appended_not_written_anew(folder: Path) -> None:
    make([result("a")])
    before = lines_path(folder / "denoise.json").read_text()
    make([result("a"), result("b")])
    assert lines_path(folder / "denoise.json").read_text().startswith(before)


def test_two_inputs_of_one_name() -> None:
    require_distinct([("x/a.mrcs", "a.mrc"), ("x/b.mrcs", "b.mrc")])
    with pytest.raises(FileError, match=r"x/a\.mrcs and y/a\.tif would both be written as a\.mrc; rename one of them"):
        require_distinct([("x/a.mrcs", "a.mrc"), ("y/a.tif", "a.mrc")])


def test_an_input_is_never_a_result(folder: Path) -> None:
    require_no_input(["out/a.mrc"], ["a.mrcs"])
    os.symlink(os.path.abspath("a.mrcs"), "link.star")
    with pytest.raises(FileError, match=r"link\.star would be overwritten by a result"):
        require_no_input(["./a.mrcs"], ["b.mrcs", "link.star"])
