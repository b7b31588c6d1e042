"""The main job on a real micrograph, end to end in a Scipion project: movies -> halves -> train -> denoise -> evaluate.

Run with `make demo`; `TOPAZ=/path/to/topaz make demo` puts Topaz-Denoise into the table, `FROM=none make demo` trains
from random weights, in a project of its own. Finished steps of an earlier call are used again.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, Optional

import thinned_frames
from matplotlib.figure import Figure
from pwem.protocols import ProtImportMovies
from pyworkflow.project import Manager
from pyworkflow.protocol import Protocol

from cryoden.data.rescale import fourier_crop
from cryoden.formats import outputs
from cryoden.formats.images import read_micrograph
from cryoden.formats.training_folder import read_status
from cryoden.report.figures import draw_files, save_figure, show_image
from cryoden.report.tables import summary_lines
from cryoden_scipion.protocols import CryodenProtDenoise, CryodenProtEvaluate, CryodenProtSplitHalves, CryodenProtTrain
from cryoden_scipion.protocols.halves_input import LINKED_SET
from cryoden_scipion.protocols.protocol_split_halves import MOTIONS, STILL
from cryoden_scipion.protocols.protocol_train import MINUTES, STARTS

DEMO = Path(__file__).resolve().parent
MICROGRAPH = DEMO / "data" / "fei-extended.mrc"
SUMMARY = DEMO / "summary.json"

CHANNELS = {"auto": "", "none": "16 32 64 128"}
"""What the training may start from -> channels of the network: the general model's, whose own training did not have
this exposure, or as many as two CPU cores can train from random weights in the time."""

START = os.environ.get("FROM", "auto")
if START not in CHANNELS:
    raise SystemExit(f"FROM is {START!r}; it must be {' or '.join(CHANNELS)}.")

PROJECT_NAME = "cryoden_demo" if START == "auto" else f"cryoden_demo_from_{START}"
TRAINING_MINUTES = 4.0
PROGRESS_SECONDS = 20.0
"""Between two lines that say how far the training is."""


class Workflow:
    """A Scipion project whose finished protocols are found again by their label."""

    def __init__(self) -> None:
        manager = Manager()
        if manager.hasProject(PROJECT_NAME):
            self.project = manager.loadProject(PROJECT_NAME)
        else:
            self.project = manager.createProject(PROJECT_NAME)
        # Steps that are used again keep the times of the call that ran them.
        self.seconds = json.loads(SUMMARY.read_text())["seconds_per_step"] if SUMMARY.exists() else {}
        os.chdir(self.project.path)  # paths in Scipion's sets are relative to the project

    def run(self, kind: type, label: str, **options: object) -> Protocol:
        """Return the finished protocol of this label, launched as a subprocess by Scipion if it is not there yet."""
        for old in self.project.getRuns():
            if old.getObjLabel() == label:
                if old.isFinished():
                    print(f"  {label}: used again")
                    return old
                self.project.deleteProtocol(old)
        started = time.monotonic()
        protocol = self.project.newProtocol(kind, **options)
        protocol.setObjLabel(label)
        with saying_progress(protocol):
            self.project.launchProtocol(protocol, wait=True)
        if not protocol.isFinished():
            raise SystemExit(f"{label} failed: {protocol.getErrorMessage()}; its log is {protocol.getStderrLog()}")
        self.seconds[label] = round(time.monotonic() - started, 1)
        print(f"  {label}: {self.seconds[label]:.0f} s")
        return protocol


@contextmanager
def saying_progress(protocol: Protocol) -> Iterator[None]:
    """Print now and then how far a training is, while it is waited for; other protocols are quick here."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(PROGRESS_SECONDS):
            status = read_status(protocol._getExtraPath()) if protocol.workingDir.hasValue() else None
            if status is not None:
                print(f"    {status.sentence()}", flush=True)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def draw_before_after(raw: str, denoised: Path, picture: Path) -> None:
    """Write the README's picture: a micrograph before and after, and what was taken away."""
    (before, _), (after, sampling_rate) = read_micrograph(raw), read_micrograph(denoised)
    before = fourier_crop(before, after.shape)
    images = {"one micrograph": before, "denoised": after, "what was taken away": before - after}

    def plot(figure: Figure) -> None:
        for axes, (title, image) in zip(figure.subplots(1, 3), images.items()):
            show_image(axes, image, title, image.shape[1] * sampling_rate / 10)

    save_figure(plot, (12, 4.4), picture)


def main() -> None:
    print("Thinned frames of one real exposure (Krios, K2, 47.6 e/A2), cut into quadrants:")
    movies = thinned_frames.write_movies(MICROGRAPH, DEMO / "data" / "movies")
    workflow = Workflow()
    imported = workflow.run(
        ProtImportMovies, "import movies", filesPath=str(movies[0].parent), filesPattern="quadrant_?.mrcs",
        samplingRate=thinned_frames.SAMPLING_RATE, voltage=thinned_frames.VOLTAGE_KV,
        sphericalAberration=thinned_frames.SPHERICAL_ABERRATION_MM,
        amplitudeContrast=thinned_frames.AMPLITUDE_CONTRAST,
        dosePerFrame=thinned_frames.DOSE_PER_A2 / thinned_frames.N_FRAMES,
    )  # fmt: skip
    split = workflow.run(
        CryodenProtSplitHalves, "split into halves", inputMovies=imported.outputMovies,
        motion=MOTIONS.index(STILL),  # thinned frames of one exposure do not move
    )  # fmt: skip
    train = workflow.run(
        CryodenProtTrain, "train denoiser", inputMicrographsOdd=split.outputMicrographsOdd,
        inputMicrographsEven=split.outputMicrographsEven, budget=MINUTES,
        minutes=TRAINING_MINUTES, crop=128, batch_size=4,
        startFrom=list(STARTS).index(START), channels=CHANNELS[START],
    )  # fmt: skip
    denoise = workflow.run(
        CryodenProtDenoise, "denoise", inputMicrographs=split.outputMicrographs, inputModel=train.outputModel
    )
    evaluate = workflow.run(
        CryodenProtEvaluate, "evaluate", halvesFrom=LINKED_SET, inputMicrographs=split.outputMicrographs,
        inputModels=[train.outputModel], topaz=os.environ.get("TOPAZ", "auto"),
    )  # fmt: skip
    table = evaluate.table()
    band, held_out = table.bands[0], table.order[0]
    values = {row.label: row.bands[band].r2_corr.value for row in table.rows}
    summary: Dict[str, Optional[float]] = {label: value and round(value, 4) for label, value in values.items()}
    summary.update({absent.label: None for absent in table.absent})
    seconds = round(sum(workflow.seconds.values()), 1)
    SUMMARY.write_text(
        json.dumps({"r2_corr": summary, "seconds_per_step": workflow.seconds, "seconds": seconds}, indent=2) + "\n"
    )
    denoised = Path(denoise._getExtraPath(f"{held_out}.mrc"))
    names = ("raw", "denoised")
    raw = split._getExtraPath("full", f"{held_out}.mrc")
    draw_before_after(raw, denoised, DEMO / "before_after.png")
    picture = DEMO / "side_by_side.png"
    draw_files(raw, denoised, names, picture, f"{held_out} (held out)")
    print(f"\nOn the held-out {held_out}, in three bands (1 = the unknown clean image):")
    print("\n".join(summary_lines(table)))
    print(f"\nReport:  {Path(workflow.project.path) / evaluate._getExtraPath(outputs.REPORT)}")
    print(f"\nAll steps: {seconds:.0f} s. Picture: {picture}")
    print(f"Project: {workflow.project.path} (open it with: make gui)")
    print(f"RELION:  {Path(workflow.project.path) / denoise._getExtraPath(outputs.MICROGRAPHS_STAR)}")


if __name__ == "__main__":
    main()
