"""cryoden as an External job of RELION: what it is told, how it ends, and what it leaves for other jobs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pandas as pd
import pytest
import starfile

from cryoden.config import DenoiseConfig, HalvesConfig, TrainConfig
from cryoden.errors import CryodenError, OptionError
from cryoden.exchange import relion_job_main as main
from cryoden.exchange.relion_job_folder import ABORT, NODES, JobFolder
from cryoden.exchange.relion_job_words import options_of, read_words
from cryoden.formats import outputs
from cryoden.formats.relion_names import name_in_job
from cryoden.formats.star import ImageTable, new_table, read_table, write_table
from tests.helpers import RATE, ROOT, Result, clean_signal, python, write_mrc
from tests.relion import Project, needs_relion

Run = Callable[..., Result]

JOB = "External/job003/"
SUCCESS, FAILURE, ABORTED = (f"RELION_JOB_EXIT_{word}" for word in ("SUCCESS", "FAILURE", "ABORTED"))

JOB_STARS = {
    "3.1": "\n# version 30001\n\ndata_job\n\n_rlnJobType                            99\n",
    "4": "\n# version 30001\n\ndata_job\n\n_rlnJobTypeLabel             relion.external\n",
    "5": "\n# version 50001\n\ndata_job\n\n_rlnJobTypeLabel             relion.external\n",
}


@pytest.fixture
def job() -> Path:
    """Return the folder of a job of RELION 3.1, as RELION makes it."""
    folder = Path(JOB)
    folder.mkdir(parents=True)
    (folder / "job.star").write_text(JOB_STARS["3.1"])
    return folder


def write_movies(n: int, n_bad: int = 0, side: int = 64) -> str:
    """Write movies and the STAR file that an import job makes of them."""
    names = [f"Movies/m{number:03d}.mrcs" for number in range(n)]
    for number, name in enumerate(names):
        frames = clean_signal((side, side), number) + np.random.default_rng(number).standard_normal((4, side, side))
        write_mrc(Path(name), (10 + frames).astype(np.float32))
        if number >= n - n_bad:
            Path(name).write_bytes(b"no movie")
    star = Path("Import/job001/movies.star")
    star.parent.mkdir(parents=True)
    optics = new_table(["-"], RATE, 300.0, 2.7, 0.1).optics
    table = pd.DataFrame({"rlnMicrographMovieName": names, "rlnOpticsGroup": 1})
    write_table(star, ImageTable(optics, table, "rlnMicrographMovieName"))
    return str(star)


def split(*words: object) -> int:
    """Run the job that splits movies, with these words."""
    return main.run_job(main.HALVES, ["--o", JOB, *map(str, words), "--j", "1", "--pipeline_control", JOB])


def exits() -> List[str]:
    return sorted(path.name for path in Path(JOB).glob("RELION_JOB_*"))


def environment() -> Dict[str, str]:
    return dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")


# ---------------------------------------------------------------------- what RELION says
def test_words_of_relion() -> None:
    line = "--o External/job004/ --in_mics a.star --max_batches 5 --sampling-rate 4.5 --channels 8 16 --stream yes "
    line += "--from m.safetensors --network cnn3 --j 4 --resume --pipeline_control External/job004/"
    words = read_words(line.split())
    assert (words.folder, words.micrographs, words.movies, words.n_threads) == ("External/job004/", "a.star", None, 4)
    assert options_of(TrainConfig, words, {"odd": "o", "max_batches": 7}) == {
        "odd": "o", "max_batches": 5, "sampling_rate": 4.5, "channels": [8, 16], "stream": True,
        "from_model": "m.safetensors", "network": "cnn3", "resume": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("--full_size perhaps", "Option --full-size is 'perhaps'; it must be yes or no."),
        ("--model", "Option --model has no value; RELION's window has a field for it beside the label."),
        ("--model my model", "Option --model is 'my model': RELION passes on a value with blanks in several words."),
        ("--tile 64 128", "Option --tile is '64 128': RELION passes on a value with blanks in several words."),
        ("--in_parts p.star", "Option --in-parts gives particles; this job takes micrographs or movies."),
    ],
)
def test_values_that_cannot_be(label: str, problem: str) -> None:
    with pytest.raises(OptionError) as caught:
        options_of(DenoiseConfig, read_words(["--o", JOB, *label.split()]), {})
    assert str(caught.value).startswith(problem)


def test_a_file_whose_name_has_a_blank_is_found() -> None:
    Path("my gain.mrc").touch()
    words = read_words(["--o", JOB, "--gain", "my", "gain.mrc"])
    assert options_of(HalvesConfig, words, {}) == {"gain": "my gain.mrc"}


@pytest.mark.parametrize("line", ["", "a.star --o x/", "--in_mics a.star"])
def test_what_relion_never_says(line: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(CryodenError, match="start this program as an External job"):
        read_words(line.split())
    assert main.run_job(main.DENOISE, line.split()) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# ---------------------------------------------------------------------- how it ends
def test_a_job_without_inputs(job: Path, capsys: pytest.CaptureFixture) -> None:
    assert split() == 2
    line = "The job has no input: choose Input movies or Input micrographs in RELION's window."
    assert capsys.readouterr().err == f"cryoden: {line}\n"
    assert exits() == [FAILURE]
    assert (job / FAILURE).read_text() == f"{line}\n"
    assert not (job / NODES).exists()


def test_an_option_that_is_unknown(job: Path, capsys: pytest.CaptureFixture) -> None:
    assert split("--in_movies", write_movies(1), "--colour", "red") == 2
    assert capsys.readouterr().err.startswith("cryoden: Option --colour is unknown; known are ")
    assert exits() == [FAILURE]


def test_some_movies_fail_and_the_exit_file_says_which(job: Path, capfd: pytest.CaptureFixture) -> None:
    assert split("--in_movies", write_movies(3, n_bad=1)) == 1
    assert exits() == [SUCCESS]
    assert (job / SUCCESS).read_text().startswith("Movies/m002.mrcs: Movies/m002.mrcs ")
    said = capfd.readouterr()
    assert said.out == f"2 of 3 movies are split: {JOB}micrographs.star\n"
    assert said.err.count("cryoden: failed: Movies/m002.mrcs") == 1
    assert starfile.read(job / NODES)["rlnPipeLineNodeName"].tolist() == [
        f"{JOB}micrographs.star", f"{JOB}logfile.pdf",
    ]  # fmt: skip
    assert (job / outputs.RELION_LOG).read_bytes().startswith(b"%PDF")


def test_most_movies_fail(job: Path) -> None:
    (job / NODES).write_text("of an earlier run")
    assert split("--in_movies", write_movies(3, n_bad=2)) == 2
    assert exits() == [FAILURE]
    assert len((job / FAILURE).read_text().splitlines()) == 2
    assert not (job / NODES).exists()


def test_an_abort_in_the_first_second(job: Path) -> None:
    star = write_movies(1)
    (job / ABORT).touch()
    assert split("--in_movies", star) == 143
    assert exits() == [ABORTED]
    assert sorted(path.name for path in job.iterdir()) == [ABORTED, "job.star"]


def test_an_abort_in_between_and_continue(job: Path) -> None:
    star = write_movies(60, side=256)
    log = job / outputs.LOG

    def abort() -> None:
        while not (log.exists() and log.stat().st_size):
            time.sleep(0.01)
        (job / ABORT).touch()

    threading.Thread(target=abort, daemon=True).start()
    assert split("--in_movies", star) == 143
    assert exits() == [ABORTED]
    n_done = len(list((job / outputs.FULL).glob("*.mrc")))
    assert 0 < n_done < 60
    times = {path: path.stat().st_mtime_ns for path in (job / outputs.FULL).glob("*.mrc")}

    assert split("--in_movies", star) == 0
    assert exits() == [SUCCESS]
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(read_table(job / outputs.MICROGRAPHS_STAR).paths) == 60


def test_a_signal_of_the_queue_is_an_abort(job: Path) -> None:
    star = write_movies(40, side=256)
    code = "import sys; from cryoden.exchange import relion_job_main as main; sys.exit(main.run_halves())"
    words = [sys.executable, "-c", code, "--o", JOB, "--in_movies", star]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    log = job / outputs.LOG
    while not (log.exists() and log.stat().st_size) and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert exits() == [ABORTED]
    assert not (job / outputs.MICROGRAPHS_STAR).exists()
    assert not (job / main.LOCK_FOLDER).exists()


def test_progress_and_problems_are_said_in_two_windows(capsys: pytest.CaptureFixture) -> None:
    main._relay(["Splitting: 2 of 3 movies, 10 s left\n", "cryoden: failed: a.mrc: It is no movie.\n", "Epoch 1\n"])
    said = capsys.readouterr()
    assert said.out == "Splitting: 2 of 3 movies, 10 s left\nEpoch 1\n"
    assert said.err == "cryoden: failed: a.mrc: It is no movie.\n"


def test_a_command_that_the_system_kills(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -9 $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    assert split("--in_movies", write_movies(1)) == 2
    assert capsys.readouterr().err == "cryoden: The command was ended by signal 9; did the memory suffice?\n"
    assert exits() == [FAILURE]


def test_two_jobs_in_one_folder(job: Path, tmp_path: Path) -> None:
    """The second one leaves alone what the first one says."""
    star = write_movies(1)
    (job / ABORTED).touch()
    hold = "import sys; from cryoden.system.locks import FolderLock\n"
    hold += f"with FolderLock('{JOB}{main.LOCK_FOLDER}', 'relion_cryoden_halves'):\n"
    hold += "    print('held', flush=True); sys.stdin.read()"
    code = f"import sys; from cryoden.exchange import relion_job_main as main; sys.argv[1:] = ['--o', '{JOB}', "
    code += f"'--in_movies', '{star}']; sys.exit(main.run_halves())"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        second = python(["-c", code], tmp_path)
        holder.communicate("")
    assert second.returncode == 2
    assert second.stderr.startswith("cryoden: ")
    assert f"process {holder.pid}" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert exits() == [ABORTED]
    assert not (job / outputs.FULL).exists()


# ---------------------------------------------------------------------- what it leaves
@pytest.mark.parametrize(
    ("version", "columns"),
    [
        ("3.1", {"rlnPipeLineNodeType": [1, 13]}),
        ("4", {"rlnPipeLineNodeTypeLabel": ["MicrographsData.star.relion", "LogFile.pdf.relion"]}),
        ("5", {"rlnPipeLineNodeTypeLabel": ["MicrographGroupMetadata.star.relion", "LogFile.pdf.relion"]}),
        (
            "",
            {
                "rlnPipeLineNodeTypeLabel": ["MicrographsData.star.relion", "LogFile.pdf.relion"],
                "rlnPipeLineNodeType": [1, 13],
            },
        ),
    ],
)
def test_nodes_of_every_version(job: Path, version: str, columns: Dict[str, List[Any]]) -> None:
    (job / "job.star").write_text(JOB_STARS.get(version, ""))
    JobFolder(JOB).offer({f"{JOB}micrographs.star": "micrographs", f"{JOB}logfile.pdf": "log"})
    nodes = starfile.read(job / NODES)
    names = [f"{JOB}micrographs.star", f"{JOB}logfile.pdf"]
    assert nodes.to_dict("list") == {"rlnPipeLineNodeName": names, **columns}


@pytest.mark.parametrize(
    ("name", "within"),
    [
        ("MotionCorr/job002/movies/day1/a.mrc", "movies/day1/a"),
        ("MotionCorr/job1002/movies/a.mrc", "movies/a"),
        ("Micrographs/a.mrc", "Micrographs/a"),
        ("/data/x/a.b.mrc", "data/x/a.b"),
        ("/data/project/MotionCorr/job002/movies/a.mrc", "movies/a"),
        ("../other/a.mrc", "other/a"),
        ("Movies/job12/a.mrc", "Movies/job12/a"),
    ],
)
def test_names_within_a_job(name: str, within: str) -> None:
    assert name_in_job(name) == within


def write_micrographs(metadata: bool) -> str:
    """Write micrographs of two sub-folders and two optics groups, as a motion correction leaves them."""
    names = [f"MotionCorr/job002/day{day}/a.mrc" for day in (1, 2)]
    for number, name in enumerate(names):
        write_mrc(Path(name), clean_signal((96, 96), number))
    optics = pd.concat([new_table(["-"], RATE, voltage, 2.7, 0.1).optics for voltage in (300.0, 200.0)])
    optics["rlnOpticsGroup"], optics["rlnOpticsGroupName"] = [1, 2], ["krios", "glacios"]
    table = pd.DataFrame({"rlnMicrographName": names, "rlnOpticsGroup": [1, 2]})
    if metadata:
        table["rlnMicrographMetadata"] = [f"MotionCorr/job009/session/m{number}.star" for number in (1, 2)]
    write_table("in.star", ImageTable(optics, table, "rlnMicrographName"))
    return "in.star"


@pytest.mark.parametrize(
    ("metadata", "places"), [(False, ["day1/a.mrc", "day2/a.mrc"]), (True, ["session/m1.mrc", "session/m2.mrc"])]
)
def test_results_lie_where_relion_looks_for_their_picks(
    blur_model: Path, cryoden: Run, metadata: bool, places: List[str]
) -> None:
    star = write_micrographs(metadata)
    result = cryoden("denoise", star, "--model", blur_model, "--output", JOB, "--folders", "relion", "--device", "cpu")
    assert result.status == 0, result.err
    written = starfile.read(f"{JOB}micrographs.star")
    assert written["micrographs"]["rlnMicrographName"].tolist() == [f"{JOB}{place}" for place in places]
    assert written["micrographs"]["rlnOpticsGroup"].tolist() == [1, 2]
    assert written["optics"]["rlnVoltage"].tolist() == [300.0, 200.0]


def options_given(job: main.Job, *words: str) -> Dict[str, Any]:
    return main._config(job, read_words(["--o", JOB, *words])).to_dict()


def test_options_without_labels(job: Path) -> None:
    Path("External/job001").mkdir()
    denoise = options_given(main.DENOISE, "--in_mics", "a.star", "--model", "External/job001/")
    assert (denoise["model"], denoise["full_size"], denoise["folders"], denoise["output"]) == (
        "External/job001/model.safetensors", True, "relion", "External/job003",
    )  # fmt: skip
    coarse = options_given(
        main.DENOISE, "--in_mics", "a.star", "--model", "m", "--full_size", "no", "--dtype", "float16"
    )
    assert (coarse["full_size"], coarse["dtype"]) == (False, "float16")
    Path("general").mkdir()  # a folder of that name is not what is meant
    general = [options_given(main.DENOISE, "--in_mics", "a.star", *words) for words in ((), ("--model", "general"))]
    assert [options["model"] for options in general] == ["general", "general"]
    run = options_given(main.RUN, "--in_mics", "MotionCorr/job002/corrected_micrographs.star", "--j", "3")
    assert (run["inputs"], run["full_size"], run["jobs"]) == (["MotionCorr/job002/corrected_micrographs.star"], True, 3)


def test_training_finds_the_halves_of_a_job(job: Path) -> None:
    halves = Path("External/job001")
    for place in ("", "odd", "even"):
        (halves / place).mkdir(parents=True, exist_ok=True)
        (halves / place / "micrographs.star").touch()
    train = options_given(main.TRAIN, "--in_mics", "External/job001/micrographs.star")
    assert (train["odd"], train["even"], train["resume"]) == (
        "External/job001/odd/micrographs.star", "External/job001/even/micrographs.star", True,
    )  # fmt: skip

    # Some of them were selected.
    write_table("selected.star", new_table(["External/job001/full/b.mrc"], RATE, 300.0, 2.7, 0.1))
    train = options_given(main.TRAIN, "--in_mics", "selected.star")
    assert [read_table(train[half]).paths for half in ("odd", "even")] == [
        ["External/job001/odd/b.mrc"], ["External/job001/even/b.mrc"],
    ]  # fmt: skip

    # Or RELION 5 wrote halves itself.
    write_table("other.star", new_table(["MotionCorr/job002/b.mrc"], RATE, 300.0, 2.7, 0.1))
    train = options_given(main.TRAIN, "--in_mics", "other.star")
    assert (train["odd"], train["even"]) == ("other.star", "other.star")


# ---------------------------------------------------------------------- RELION's own pipeline
def registered(project: Project, job: str) -> Tuple[int, List[str]]:
    """Return the status that RELION gives to a job, and its nodes."""
    blocks = starfile.read(project.file("default_pipeline.star"), always_dict=True)
    processes = blocks["pipeline_processes"].set_index("rlnPipeLineProcessName")
    nodes = blocks.get("pipeline_output_edges", pd.DataFrame({"rlnPipeLineEdgeProcess": []}))
    of_job = nodes[nodes["rlnPipeLineEdgeProcess"] == job]
    return int(processes.loc[job, "rlnPipeLineProcessStatus"]), list(of_job.get("rlnPipeLineEdgeToNode", []))


@pytest.mark.relion
@needs_relion
def test_relion_runs_halves_and_knows_how_they_ended(tmp_path: Path) -> None:
    star = write_movies(3, n_bad=1)
    project = Project(tmp_path)
    halves = project.add_external("relion_cryoden_halves", {"in_mov": star})
    project.run(halves)
    status, nodes = registered(project, halves)
    assert status == 2
    assert nodes == [f"{halves}micrographs.star", f"{halves}logfile.pdf"]
    assert "2 of 3 movies are split" in project.file(f"{halves}run.out").read_text()

    train = project.add_external("relion_cryoden_train", {}, epochs=1)
    project.run(train)
    status, nodes = registered(project, train)
    assert (status, nodes) == (3, [])
    assert project.file(f"{train}run.err").read_text() == (
        "cryoden: The job has no input: choose Input micrographs in RELION's window.\n"
    )
