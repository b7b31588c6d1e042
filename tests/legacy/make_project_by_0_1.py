"""Make the Scipion project of `made_by_0_1/`: a finished workflow, and runs that were stopped; see make_by_0_1.py."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import psutil
from pwem.objects import SetOfMovies
from pwem.protocols import ProtImportMovies
from pyworkflow.object import Set
from pyworkflow.project import Manager
from pyworkflow.protocol import getProtocolFromDb, params

from cryoden_scipion import protocols

IMPORT = {
    "filesPath": "Uploads", "gainFile": "Uploads/gain.mrc", "copyFiles": True, "samplingRate": 4.0, "voltage": 300.0,
    "sphericalAberration": 2.7, "amplitudeContrast": 0.1, "dosePerFrame": 2.5,
}  # fmt: skip
N_EPOCHS_STOPPED = 6
"""Epochs of the training that is killed in the first ones."""

CPU32 = {"useGpu": False, "precision": 2}
TRAINING = {
    "network": 1, "crop": 32, "batch_size": 4, "min_batches": 40, "sampling_rate": 5.0, "lr": 0.003, **CPU32,
}  # fmt: skip


def field_facts(param: params.Param) -> Dict[str, Any]:
    """Return what a stored run depends on: kind and default of a field, order of its choices."""
    facts = {"class": type(param).__name__, "default": param.default.get()}
    return {**facts, "choices": list(param.choices)} if isinstance(param, params.EnumParam) else facts


def write_protocols(project: Any) -> None:
    """Write names, fields and outputs of all protocols."""
    facts = {}
    for name in [name for name in vars(protocols) if name.startswith("CryodenProt")]:
        protocol = project.newProtocol(getattr(protocols, name))
        own = [section for section in protocol.getDefinition().iterSections() if section.getLabel() != "General"]
        names = [name for section in own for name in section_fields(section)]
        outputs = protocol.getPossibleOutputs() or {}
        facts[name] = {
            "fields": {name: field_facts(protocol.getParam(name)) for name in names},
            "outputs": {getattr(output, "name", output): type_of(outputs, output) for output in outputs},
        }
    Path("../protocols.json").write_text(json.dumps(facts, indent=1) + "\n")


def section_fields(group: Any) -> Iterator[str]:
    """Yield the names of the fields of a section, those in its groups and lines too."""
    for name, param in group.iterParams():
        if isinstance(param, params.ElementGroup):
            yield from section_fields(param)
        elif not isinstance(param, params.LabelParam):
            yield name


def type_of(outputs: Any, output: Any) -> str:
    """Return the class of a possible output."""
    return (output.value if hasattr(output, "value") else outputs[output]).__name__


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, condition
        time.sleep(0.1)


class Runs:
    """The runs of the project, by label."""

    def __init__(self, project: Any) -> None:
        self.project = project

    def start(self, kind: type, label: str, **fields: Any) -> Any:
        """Launch a run and return at once."""
        protocol = self.project.newProtocol(kind, **fields)
        protocol.setObjLabel(label)
        self.project.launchProtocol(protocol, wait=False)
        return protocol

    def finish(self, kind: type, label: str, **fields: Any) -> Any:
        """Launch a run and return it, finished."""
        protocol = self.start(kind, label, **fields)
        wait_until(lambda: not self.stored(protocol).isActive())
        self.project._updateProtocol(protocol)
        assert protocol.isFinished(), (label, protocol.getErrorMessage())
        return protocol

    def stored(self, protocol: Any) -> Any:
        """Return a run as its own database has it."""
        stored = getProtocolFromDb(self.project.path, protocol.getDbPath(), protocol.getObjId())
        stored.getMapper().close()
        return stored

    def output(self, protocol: Any, name: str, size: int) -> Any:
        """Return an output of a run as soon as it has so many items."""
        wait_until(lambda: self.stored(protocol).hasAttribute(name))
        wait_until(lambda: getattr(self.stored(protocol), name).getSize() >= size)
        self.project._updateProtocol(protocol)
        return getattr(protocol, name)


def make_project(folder: Path) -> None:
    """Make the project: a workflow that is finished, and one that was stopped while movies were acquired."""
    manager = Manager()
    os.makedirs(manager.PROJECTS, exist_ok=True)
    project = manager.createProject(folder.name, location=str(folder.parent.resolve()))
    os.chdir(project.path)
    write_protocols(project)
    uploads = Path("Uploads")
    for path in [*Path("../simulation/movies").iterdir(), Path("../simulation/gain.mrc")]:
        shutil.copy(str(path), str(uploads))
    runs = Runs(project)
    make_finished(runs)
    make_stopped(runs)
    for path in uploads.glob("*.mrcs"):
        path.unlink()


def make_finished(runs: Runs) -> None:
    """Run every protocol once."""
    imported = runs.finish(ProtImportMovies, "import", filesPattern="movie_*.mrcs", **IMPORT)
    runs.finish(
        protocols.CryodenProtSimulateMovies, "simulate", movies=2, rows=64, columns=80, frames=2, sampling_rate=4.0,
        dose_per_frame=2.5, shape=1, particles=3, drift=2.0,
    )  # fmt: skip
    split = runs.finish(
        protocols.CryodenProtSplitHalves, "split", inputMovies=imported.outputMovies, hot_pixels=8.0, jobs=2
    )
    halves = {"inputMicrographsOdd": split.outputMicrographsOdd, "inputMicrographsEven": split.outputMicrographsEven}
    train = runs.finish(protocols.CryodenProtTrain, "train", epochs=4, **halves, **TRAINING)
    exported = "Uploads/denoiser.safetensors"
    runs.finish(protocols.CryodenProtExportModel, "export", inputModel=train.outputModel, targetFile=exported)
    runs.finish(protocols.CryodenProtImportModel, "import model", modelFile=exported)
    denoise = runs.finish(
        protocols.CryodenProtDenoise, "denoise", inputMicrographs=split.outputMicrographs,
        inputModel=train.outputModel, thumbnails=1, **CPU32,
    )  # fmt: skip
    runs.finish(
        protocols.CryodenProtEvaluate, "evaluate", halvesFrom=1, inputMicrographs=split.outputMicrographs,
        inputModels=[train.outputModel], micrographsToScore=denoise.outputMicrographs, topaz="no", bootstrap=50,
        **CPU32,
    )  # fmt: skip
    make_stopped_training(runs, halves)


def make_stopped_training(runs: Runs, halves: Dict[str, Any]) -> None:
    """Kill the denoiser's process under a training."""
    options = {**TRAINING, "min_batches": 100, "epochs": N_EPOCHS_STOPPED}
    training = runs.start(protocols.CryodenProtTrain, "train stopped", **halves, **options)
    wait_until(lambda: os.path.exists(training._getExtraPath("checkpoint.pt")))
    words = training._getExtraPath("options.json")
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if words in (process.info["cmdline"] or []) and process.info["cwd"] == runs.project.path:
            process.kill()
    wait_until(lambda: not runs.stored(training).isActive())
    runs.project._updateProtocol(training)
    assert training.isFailed()
    with open(training.getLogFile()) as log:
        assert len(log.readlines()) < N_EPOCHS_STOPPED


def make_stopped(runs: Runs) -> None:
    """Stop a split and a denoising that wait for the third movie, then let it arrive."""
    live = runs.finish(ProtImportMovies, "import live", filesPattern="movie_000[12].mrcs", **IMPORT)
    movies = live.outputMovies
    movies.setStreamState(Set.STREAM_OPEN)
    movies.write()
    movies.close()
    model = next(run for run in runs.project.getRuns() if run.getObjLabel() == "train").outputModel
    split = runs.start(protocols.CryodenProtSplitHalves, "split stopped", inputMovies=movies, hot_pixels=8.0)
    micrographs = runs.output(split, "outputMicrographs", 2)
    runs.output(split, "outputMicrographsEven", 2)
    denoise = runs.start(
        protocols.CryodenProtDenoise, "denoise stopped", inputMicrographs=micrographs, inputModel=model, **CPU32
    )
    runs.output(denoise, "outputMicrographs", 2)
    time.sleep(4)  # until both do nothing but wait
    for protocol in (denoise, split):
        runs.project.stopProtocol(protocol)
    grown = SetOfMovies(filename=movies.getFileName())
    grown.loadAllProperties()
    grown.enableAppend()
    movie = grown.getFirstItem().clone()
    for attribute, value in (("_filename", live._getExtraPath("movie_0003.mrcs")), ("_micName", "movie_0003.mrcs")):
        getattr(movie, attribute).set(value)
    movie.setObjId(3)
    grown.append(movie)
    grown.setStreamState(Set.STREAM_CLOSED)
    grown.write()
    grown.close()
    imported = next(run for run in runs.project.getRuns() if run.getObjLabel() == "import")
    for number in (1, 2, 3):  # as links, as an import usually makes them
        link = Path(live._getExtraPath(f"movie_000{number}.mrcs"))
        if link.exists():
            link.unlink()
        link.symlink_to(os.path.relpath(imported._getExtraPath(link.name), str(link.parent)))
