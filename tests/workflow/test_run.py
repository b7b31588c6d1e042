"""All in one command: what is missing is done, once, as the single commands do it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Tuple, Type

import numpy as np
import pytest

from cryoden.command_line import perform
from cryoden.config import ChooseConfig, DenoiseConfig, EvaluateConfig, HalvesConfig, Options, RunConfig, TrainConfig
from cryoden.errors import FileError, Problem
from cryoden.formats import general_model as general_model_file
from cryoden.formats import outputs
from cryoden.formats.outcome import read_ending
from cryoden.formats.star import read_table
from cryoden.model import training
from cryoden.report.election_result import read_election
from cryoden.workflow.inputs import HALVES, MICROGRAPHS, MOVIES, Found, find_inputs
from cryoden.workflow.run import run
from tests.helpers import RATE, Result, clean_signal, leftovers, python, write_halves, write_mrc

Run = Callable[..., Result]

QUICK = ("--network", "cnn3", "--crop", 32, "--epochs", 1, "--max-batches", 2, "--device", "cpu", "--topaz", "no")
QUICK_OPTIONS = {"network": "cnn3", "crop": 32, "epochs": 1, "max_batches": 2, "device": "cpu", "topaz": "no"}
FOLDERS = (outputs.HALVES_FOLDER, outputs.MODEL_FOLDER, outputs.DENOISED_FOLDER, outputs.EVALUATION_FOLDER)


def write_movie(path: Path, seed: int = 1) -> Path:
    """Write a movie of four noisy frames of one specimen."""
    frames = clean_signal((96, 96), seed) + np.random.default_rng(seed).standard_normal((4, 96, 96))
    return write_mrc(path, (10 + frames).astype(np.float32))


def write_movies(folder: Path, n: int = 3) -> None:
    for number in range(n):
        write_movie(folder / f"mic{number}.mrcs", number)


def times(folder: str) -> Dict[str, int]:
    """Return when each image, model and measurement was written."""
    patterns = ("*.mrc", "*.safetensors", f"{outputs.MEASUREMENTS}/*")
    files = [path for pattern in patterns for path in Path(folder).rglob(pattern)]
    return {str(path): path.stat().st_mtime_ns for path in files}


class Recorder:
    """Stands in for the commands: notes what they are to do, and does it for some of them.

    Parameters
    ----------
    performed
        Options of those that are really run.
    """

    def __init__(self, *performed: Type[Options]) -> None:
        self._performed = performed
        self.done: List[Options] = []

    def __call__(self, config: Options) -> Mapping[str, Problem]:
        self.done.append(config)
        if isinstance(config, self._performed):
            return perform(config)
        if isinstance(config, TrainConfig):
            Path(config.output).mkdir(parents=True, exist_ok=True)
            (Path(config.output) / outputs.CHECKPOINT).touch()
        return {}

    @property
    def kinds(self) -> List[str]:
        return [type(config).__name__ for config in self.done]


def test_movies_become_a_report_and_the_same_command_again_makes_nothing_new(tmp_path: Path, cryoden: Run) -> None:
    write_movies(tmp_path / "movies")
    first = cryoden("run", "movies", "--output", "all", *QUICK)
    assert first.status == 0, first.err
    assert all((Path("all") / name / outputs.OUTCOME).is_file() for name in FOLDERS)
    assert first.out.splitlines()[-1].endswith("all/evaluation/report.html")
    assert len(read_table("all/denoised/micrographs.star").paths) == 3
    before = times("all")

    again = cryoden("run", "movies", "--output", "all", *QUICK)
    assert again.status == 0, again.err
    assert times("all") == before
    assert again.out.splitlines()[-1] == first.out.splitlines()[-1]
    assert leftovers(Path("all")) == []

    # Each folder is as its own command leaves it: that one finds everything done.
    assert cryoden("halves", *sorted(Path("movies").iterdir()), "--align", "--output", "all/halves").status == 0
    model = ("--model", "all/model/model.safetensors", "--device", "cpu")
    assert cryoden("denoise", "all/halves/micrographs.star", *model, "--output", "all/denoised").status == 0
    assert times("all") == before

    write_movie(tmp_path / "movies" / "later.mrcs", 7)  # the model stays; what came since is denoised with it
    run(
        RunConfig(inputs=("movies",), output="all", **QUICK_OPTIONS), Recorder(HalvesConfig, TrainConfig, DenoiseConfig)
    )
    assert len(read_table("all/denoised/micrographs.star").paths) == 4
    assert {name: time for name, time in times("all").items() if name in before} == before


def test_a_training_that_was_stopped_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_halves(tmp_path)
    config = RunConfig(inputs=(".",), output="all", **QUICK_OPTIONS)

    def stopped_in_training(step: Options) -> Mapping[str, Problem]:
        if isinstance(step, TrainConfig):
            asked = iter([False, True])
            training.run_training(step, lambda: next(asked))
        return perform(step)

    with pytest.raises(training.TrainingStoppedError):
        run(config, stopped_in_training)
    assert not Path("all/denoised").exists()

    write_halves(tmp_path, n=4)  # a micrograph that came since belongs to no training that has begun
    caplog.set_level("INFO")
    assert run(config, Recorder(TrainConfig, DenoiseConfig)) == {}
    assert "Resumed after epoch 0, batch 1." in caplog.messages
    assert len(read_table("all/denoised/micrographs.star").paths) == 4


def test_one_bad_movie_ends_nothing_and_is_named(tmp_path: Path, blur_model: Path) -> None:
    write_movies(tmp_path / "movies")
    Path("movies/mic1.mrcs").write_bytes(b"no movie")
    config = RunConfig(inputs=("movies",), output="all", model=str(blur_model), device="cpu")
    failures = run(config, Recorder(HalvesConfig, DenoiseConfig))
    assert list(failures) == ["movies/mic1.mrcs"]
    ending = read_ending("all/outcome.json")
    assert ending is not None
    assert list(ending.items) == ["movies/mic1.mrcs"]
    assert len(read_table("all/denoised/micrographs.star").paths) == 2


# ---------------------------------------------------------------------- what is given, and what is done with it
def test_what_inputs_are(tmp_path: Path) -> None:
    write_movies(tmp_path / "movies", 2)
    write_mrc(tmp_path / "movies" / "gain.mrc", np.ones((96, 96)))
    write_halves(tmp_path / "split", 2)
    for kind in ("ODD", "EVN"):
        write_mrc(tmp_path / "beside" / f"a_{kind}.mrc", clean_signal((96, 96), len(kind)))
    write_mrc(tmp_path / "plain" / "a.mrc", clean_signal((96, 96), 1))
    stars = {
        "movies.star": "_rlnMicrographMovieName\nmovies/mic0.mrcs",
        "corrected.star": "_rlnMicrographName\n_rlnMicrographMetadata\nplain/a.mrc plain/a.star",
        "halves.star": "_rlnMicrographName\n_rlnMicrographNameOdd\n_rlnMicrographNameEven\na.mrc o.mrc e.mrc",
        "plain.star": "_rlnMicrographName\nplain/a.mrc",
        "MotionCorr/job002/corrected_micrographs.star": "_rlnMicrographName\n_rlnMicrographMetadata\na.mrc a.star",
    }
    for name, content in stars.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(f"data_images\n\nloop_\n{content}\n")

    movies = ("movies/mic0.mrcs", "movies/mic1.mrcs")
    assert find_inputs(["movies"], ["movies/gain.mrc"]) == Found(MOVIES, movies)
    assert find_inputs(["movies/*.mrcs"]) == Found(MOVIES, movies)
    odd = ("split/odd/mic0.mrc", "split/odd/mic1.mrc")
    assert find_inputs(["split"]) == Found(HALVES, odd, "split", "split", has_sums=False)
    assert find_inputs(["beside"]) == Found(HALVES, ("beside/a_ODD.mrc",), "beside", "beside", has_sums=False)
    write_mrc(tmp_path / "beside" / "a.mrc", clean_signal((96, 96), 1))
    assert find_inputs(["beside"]) == Found(HALVES, ("beside/a.mrc",), "beside", "beside")
    assert find_inputs(["plain"]) == Found(MICROGRAPHS, ("plain/a.mrc",))
    assert find_inputs(["movies.star"]) == Found(MOVIES, ("movies.star",))
    assert find_inputs(["corrected.star"]) == Found(MOVIES, ("corrected.star",), has_motion=True)
    assert find_inputs(["MotionCorr/job002/"]).sources == ("MotionCorr/job002/corrected_micrographs.star",)
    assert find_inputs(["halves.star"]) == Found(HALVES, ("halves.star",), "halves.star", "halves.star")
    assert find_inputs(["plain.star"]) == Found(MICROGRAPHS, ("plain.star",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match=r"There is no image empty; cryoden reads \.mrc"):
        find_inputs(["empty"])


def test_options_reach_their_steps(tmp_path: Path) -> None:
    write_movies(tmp_path / "movies", 1)
    for half in (outputs.ODD, outputs.EVEN):
        write_mrc(tmp_path / "all" / "halves" / half / "mic0.mrc", clean_signal((96, 96), 1))
        Path(f"all/halves/{half}/micrographs.star").write_text(
            f"data_\n\nloop_\n_rlnMicrographName\nall/halves/{half}/mic0.mrc\n"
        )
    recorder = Recorder()
    config = RunConfig(
        inputs=("movies",), output="all", pixel_size=1.5, sampling_rate=4.0, frames="1-2", epochs=3,
        quality="best", full_size=True, seed=5, topaz="no", from_model="first.safetensors",
    )  # fmt: skip
    run(config, recorder)
    halves, train, denoise, evaluate = recorder.done
    assert isinstance(halves, HalvesConfig)
    assert (halves.sampling_rate, halves.frames, halves.output) == (1.5, "1-2", "all/halves")
    assert isinstance(train, TrainConfig)
    assert (train.sampling_rate, train.epochs, train.seed, train.resume) == (4.0, 3, 5, True)
    assert train.from_model == "first.safetensors"
    assert read_table(train.odd or "").paths == ["all/halves/odd/mic0.mrc"]
    assert isinstance(denoise, DenoiseConfig)
    assert (denoise.sampling_rate, denoise.full_size, denoise.model) == (1.5, True, "all/model/model.safetensors")
    assert denoise.micrographs == ("all/halves/micrographs.star",)
    assert isinstance(evaluate, EvaluateConfig)
    assert (evaluate.sampling_rate, evaluate.quality, evaluate.seed) == (None, "best", 5)


def test_exposures_of_cryosparc(tmp_path: Path, blur_model: Path) -> None:
    dataset = pytest.importorskip("cryosparc.dataset").Dataset
    write_movies(tmp_path / "S1", 2)
    movies = dataset.allocate(2, [("movie_blob/path", "O"), ("movie_blob/psize_A", "<f4")])
    movies["movie_blob/path"], movies["movie_blob/psize_A"] = ["S1/mic0.mrcs", "S1/mic1.mrcs"], [RATE, RATE]
    movies.save("exposures.cs")
    assert find_inputs(["exposures.cs"]) == Found(MOVIES, ("exposures.cs",))
    config = RunConfig(inputs=("exposures.cs",), output="all", model=str(blur_model), device="cpu")
    recorder = Recorder(HalvesConfig, DenoiseConfig)
    run(config, recorder)
    assert sorted(dataset.load("all/denoised/exposures.cs")["uid"]) == sorted(movies["uid"])
    (evaluate,) = [step for step in recorder.done if isinstance(step, EvaluateConfig)]
    assert (evaluate.odd, evaluate.even) == ("all/halves/exposures.cs",) * 2
    assert find_inputs(["all/halves/exposures.cs"]).kind == HALVES
    assert find_inputs(["all/denoised/exposures.cs"]).kind in (MICROGRAPHS, HALVES)


def test_picks_on_the_results_of_a_relion_job_are_found(tmp_path: Path, blur_model: Path) -> None:
    """No folder of ours stands before the names of micrographs, unless these are ours in the same job."""
    write_movies(tmp_path / "movies", 1)
    options = {"output": "External/job003", "model": str(blur_model), "device": "cpu", "folders": "relion"}
    run(RunConfig(inputs=("movies",), **options), Recorder(HalvesConfig, DenoiseConfig))
    assert Path("External/job003/denoised/mic0.mrc").is_file()

    write_mrc(tmp_path / "MotionCorr" / "job002" / "movies" / "a.mrc", clean_signal((96, 96), 1))
    options["output"] = "External/job004"
    run(RunConfig(inputs=("MotionCorr/job002/movies",), **options), Recorder(DenoiseConfig))
    assert Path("External/job004/movies/a.mrc").is_file()


def test_a_denoiser_is_chosen_instead_of_trained(tmp_path: Path, general_model: Path) -> None:
    """In the folder of the model, once: what comes later is denoised with the same one."""
    write_halves(tmp_path, n=4, shape=(128, 128))
    words = {**QUICK_OPTIONS, "inputs": (".",), "output": "all", "choose": True, "seconds": 0.0}
    recorder = Recorder(ChooseConfig, DenoiseConfig)
    run(RunConfig(**words), recorder)
    assert recorder.kinds == ["ChooseConfig", "DenoiseConfig", "EvaluateConfig"]
    held_out = read_election("all/model").held_out
    assert len(held_out) == 2
    assert len(read_table("all/denoised/micrographs.star").paths) == 4
    written = times("all")
    run(RunConfig(**words), Recorder(ChooseConfig, DenoiseConfig))
    assert times("all") == written


def test_halves_without_their_sums_and_a_model(tmp_path: Path, blur_model: Path) -> None:
    write_halves(tmp_path / "split", 2)
    recorder = Recorder(DenoiseConfig)
    run(RunConfig(inputs=("split",), output="all", model=str(blur_model), device="cpu"), recorder)
    assert recorder.kinds == ["DenoiseConfig", "EvaluateConfig"]
    assert not Path("all/model").exists()
    assert sorted(path.name for path in Path("all/denoised").glob("*.mrc")) == ["mic0.mrc", "mic1.mrc"]
    assert json.loads(Path("all/denoised/denoise.results.jsonl").read_text().splitlines()[0])["inputs"][1]["path"] == (
        "split/even/mic0.mrc"
    )


def test_micrographs_alone_are_denoised_by_the_general_model(tmp_path: Path, general_model: Path, cryoden: Run) -> None:
    write_mrc(tmp_path / "plain" / "a.mrc", clean_signal((96, 96), 1))
    for _ in range(2):
        result = cryoden("run", "plain", "--output", "all", "--device", "cpu")
        assert result.status == 0
    assert Path("all/denoised/a.mrc").is_file()
    assert not Path("all/model").exists()
    assert not Path("all/evaluation").exists()

    result = cryoden("run", "plain", "--output", "trained", "--from", "old.safetensors")
    assert result.status == 2
    assert "from such, no denoiser can be trained" in result.err


def test_micrographs_alone_need_a_model(
    tmp_path: Path, blur_model: Path, cryoden: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(general_model_file, "GENERAL_FILE", tmp_path / "missing.safetensors")
    write_mrc(tmp_path / "plain" / "a.mrc", clean_signal((96, 96), 1))
    result = cryoden("run", "plain", "--output", "all")
    assert result.status == 2
    assert result.err.splitlines() == [
        "cryoden: plain/a.mrc is a micrograph without halves: from such, no denoiser can be trained. Give the movies, "
        "or the halves, or a trained model. Give --model."
    ]
    assert not Path("all").exists()

    chosen = cryoden("run", "plain", "--output", "all", "--choose")
    assert chosen.last_error.endswith("no denoiser can be chosen. Give the movies, or the halves. Leave out --choose.")

    result = cryoden("run", "plain", "--model", blur_model, "--output", "all", "--device", "cpu")
    assert result.status == 0
    assert Path("all/denoised/a.mrc").is_file()
    assert not Path("all/evaluation").exists()


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["none.mrc"], "cryoden: The only movie could not be split: none.mrc does not exist"),
        (["."], "cryoden: There is no image .; cryoden reads .mrc"),
        (["a.star"], "cryoden: a.star does not exist"),
        (["a.mrc", "--crop", "8"], "cryoden: Option --crop is 8; it must be at least 32."),
        (["a.mrc", "--gain-flip", "up-down"], "cryoden: Option --gain-flip has no meaning without a gain"),
        (
            ["a.mrc", "--model", "m", "--choose"],
            "cryoden: Option --choose and a model to denoise with exclude each other",
        ),
        (["a.mrc", "--model", "m", "--from", "n"], "cryoden: Option --model and a model to start from exclude each"),
    ],
)
def test_what_cannot_be_run_is_one_line(cryoden: Run, words: List[str], line: str) -> None:
    result = cryoden("run", *words, "--output", "all")
    assert result.status == 2
    assert result.err.count("cryoden: ") == 1
    assert result.last_error.startswith(line)


def test_a_pixel_size_that_lacks_is_asked_for_by_its_name(tmp_path: Path, cryoden: Run) -> None:
    write_mrc(tmp_path / "m.mrcs", np.random.default_rng(1).standard_normal((4, 96, 96)).astype(np.float32), 0.0)
    result = cryoden("run", "m.mrcs", "--output", "all")
    assert result.status == 2
    assert result.last_error.endswith("m.mrcs does not say its pixel size. Give --pixel-size.")


def test_a_run_is_one_process(cryoden: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = cryoden("run", "movies", "--output", "all")
    assert result.status == 2
    assert result.last_error.startswith("cryoden: 2 processes were started for cryoden run, which one does")
    assert not Path("all").exists()


def test_a_folder_of_another_command_is_not_filled(tmp_path: Path, cryoden: Run) -> None:
    write_movies(tmp_path / "movies")
    cryoden("halves", *sorted(Path("movies").iterdir()), "--output", "split")
    result = cryoden("run", "movies", "--output", "split")
    assert result.status == 2
    assert result.last_error == (
        "cryoden: split/halves.json is there, and was not made by this command. Choose another --output folder."
    )


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    write_movies(tmp_path / "movies", 1)
    hold = "import sys; from cryoden.system.locks import FolderLock\nwith FolderLock('all', 'cryoden run'):\n"
    hold += "    print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        second = python(["-m", "cryoden", "run", "movies", "--output", "all"], tmp_path)
        holder.communicate("")
    assert second.returncode == 2
    assert len(second.stderr.splitlines()) == 1
    assert f"process {holder.pid}" in second.stderr
    assert not Path("all/halves").exists()


# ---------------------------------------------------------------------- a running microscope
class Microscope:
    """A clock that stands still unless one waits; at given times something happens."""

    def __init__(self, events: Dict[float, Callable[[], object]]) -> None:
        self.now, self._events = 0.0, dict(events)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for time in sorted(time for time in self._events if time <= self.now):
            self._events.pop(time)()


def watch(microscope: Microscope, recorder: Callable[[Options], Mapping[str, Problem]], **options: object) -> None:
    config = RunConfig(inputs=("movies",), output="all", watch=1.0, poll_seconds=10.0, **options)  # type: ignore[arg-type]
    run(config, recorder, microscope.clock, microscope.sleep)


def test_a_running_microscope(tmp_path: Path, blur_model: Path) -> None:
    """Files are used once they no longer change; it ends when nothing has come for a minute."""
    (tmp_path / "movies").mkdir()
    whole = write_movie(tmp_path / "elsewhere" / "b.mrcs").read_bytes()
    part = tmp_path / "movies" / "b.mrcs"
    events: Dict[float, Callable[[], object]] = {
        10: lambda: write_movie(tmp_path / "movies" / "a.mrcs"),
        20: lambda: part.write_bytes(whole[:2000]),
        30: lambda: part.write_bytes(whole[:9000]),
        80: lambda: part.write_bytes(whole),
        160: lambda: write_movie(tmp_path / "movies" / "too_late.mrcs"),
    }
    recorder, microscope = Recorder(), Microscope(events)
    watch(microscope, recorder, model=str(blur_model))
    split = [config.movies for config in recorder.done if isinstance(config, HalvesConfig)]
    a, b = "movies/a.mrcs", "movies/b.mrcs"
    assert split == [(a,), (a, b), (a, b), (a, b)]  # b twice: it grew after it had stood still for a while
    assert microscope.now == 150
    assert recorder.kinds[-3:] == ["HalvesConfig", "DenoiseConfig", "EvaluateConfig"]


def test_training_waits_for_enough_micrographs(tmp_path: Path) -> None:
    (tmp_path / "movies").mkdir()
    names = [f"m{number}.mrcs" for number in range(4)]
    events = {10.0 + 20 * n: lambda n=n: write_movie(tmp_path / "movies" / names[n], n) for n in range(4)}
    recorder = Recorder(HalvesConfig)
    watch(Microscope(events), recorder, train_after=3)
    kinds = [kind[:3] for kind in recorder.kinds]
    assert kinds == ["Hal", "Hal", "Hal", "Tra", "Den", "Hal", "Den", "Hal", "Tra", "Den", "Eva"]
    (train,) = {config.odd for config in recorder.done if isinstance(config, TrainConfig)}
    assert [Path(path).name for path in read_table(train or "").paths] == ["m0.mrc", "m1.mrc", "m2.mrc"]


def test_nothing_came(tmp_path: Path) -> None:
    (tmp_path / "movies").mkdir()
    with pytest.raises(FileError, match="There is no image movies"):
        watch(Microscope({}), Recorder())


def test_the_first_movie_is_a_bad_one(tmp_path: Path, blur_model: Path) -> None:
    (tmp_path / "movies").mkdir()
    (tmp_path / "movies" / "bad.mrcs").write_bytes(b"no movie")
    events = {20.0: lambda: write_movie(tmp_path / "movies" / "good.mrcs")}
    config = RunConfig(inputs=("movies",), output="all", watch=1.0, model=str(blur_model), device="cpu", topaz="no")
    microscope = Microscope(events)
    failures = run(config, Recorder(HalvesConfig, DenoiseConfig), microscope.clock, microscope.sleep)
    assert list(failures) == ["movies/bad.mrcs"]
    assert Path("all/denoised/good.mrc").is_file()


@pytest.mark.parametrize(
    ("words", "is_aligned"), [((), True), (("--unaligned",), False), (("--shifts", "elsewhere"), False)]
)
def test_raw_movies_are_aligned_unless_it_is_said_how_they_moved(
    words: Tuple[str, ...], is_aligned: bool, cryoden: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_movies(Path("movies"), 1)
    asked: List[HalvesConfig] = []

    def ask(self: object, config: Options) -> None:
        asked.extend([config] if isinstance(config, HalvesConfig) else [])
        raise FileError("Enough is known.")

    monkeypatch.setattr("cryoden.workflow.run.Steps._do", ask)
    cryoden("run", "movies", "--output", "all", *words, *QUICK)
    assert [config.align for config in asked] == [is_aligned]
