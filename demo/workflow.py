"""The main job on a real micrograph, end to end in a Scipion project: movies -> halves -> train -> denoise -> STAR.

Run with `make demo`. Finished steps of an earlier call are used again.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Optional

import thinned_frames
import torch
from pwem.protocols import ProtImportMovies
from pyworkflow.project import Manager
from pyworkflow.protocol import Protocol

from cryoden.config import SCORE_BAND_A, DenoiseConfig
from cryoden.data.loading import load_pair
from cryoden.data.pairs import HalfPair, find_pairs
from cryoden.model.predictor import Predictor, load_predictor
from cryoden.model.validation import measure_covariance
from cryoden.quality.baselines import best_gaussian_width, gaussian_transfer
from cryoden.quality.figures import draw_files, read_log
from cryoden.quality.metrics import RingCovariance, pool, score
from cryoden_scipion.protocols import CryodenProtDenoise, CryodenProtSplitHalves, CryodenProtTrain
from cryoden_scipion.protocols.protocol_train import MINUTES

DEMO = Path(__file__).resolve().parent
MICROGRAPH = DEMO / "data" / "fei-extended.mrc"
SUMMARY = DEMO / "summary.json"
PROJECT_NAME = "cryoden_demo"
SAMPLING_RATE_A = 3.4
TRAINING_MINUTES = 4.0
CHANNELS = "16 32 64 128"
"""Half the default width: what two CPU cores can train in the time."""


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
        self.project.launchProtocol(protocol, wait=True)
        if not protocol.isFinished():
            raise SystemExit(f"{label} failed: {protocol.getErrorMessage()}; its log is {protocol.getStderrLog()}")
        self.seconds[label] = round(time.monotonic() - started, 1)
        print(f"  {label}: {self.seconds[label]:.0f} s")
        return protocol


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
    split = workflow.run(CryodenProtSplitHalves, "split into halves", inputMovies=imported.outputMovies)
    train = workflow.run(
        CryodenProtTrain, "train denoiser", inputMicrographsOdd=split.outputMicrographsOdd,
        inputMicrographsEven=split.outputMicrographsEven, sampling_rate=SAMPLING_RATE_A, budget=MINUTES,
        minutes=TRAINING_MINUTES, crop=128, batch_size=4, channels=CHANNELS,
    )  # fmt: skip
    denoise = workflow.run(
        CryodenProtDenoise, "denoise", inputMicrographs=split.outputMicrographs, inputModel=train.outputModel
    )
    held_out = next(iter(read_log(train.getLogFile())[-1]["r2_per_micrograph"]))
    table = score_table(split, train, held_out)
    table["seconds_per_step"] = workflow.seconds
    table["seconds"] = round(sum(workflow.seconds.values()), 1)
    SUMMARY.write_text(json.dumps(table, indent=2) + "\n")
    denoised = Path(denoise._getExtraPath(f"{held_out}.mrc"))
    names = ("raw", "denoised")
    picture = DEMO / "side_by_side.png"
    draw_files(split._getExtraPath("full", f"{held_out}.mrc"), denoised, names, picture, f"{held_out} (held out)")
    low, high = SCORE_BAND_A
    print(f"\nR2_corr on the held-out {held_out}, {low:g}-{high:g} A (1 = the unknown clean image):")
    for name in ("raw", "gaussian", "cryoden"):
        print(f"  {name:<10}{table[name]:.3f}")
    print(f"\nAll steps: {table['seconds']:.0f} s. Picture: {picture}")
    print(f"Project: {workflow.project.path} (open it with: make gui)")
    print(f"RELION:  {Path(workflow.project.path) / denoise._getExtraPath('micrographs.star')}")


def score_table(split: Protocol, train: Protocol, held_out: str) -> dict:
    """Return R2_corr of raw, best Gaussian (width from the training quadrants) and ours on the held-out quadrant."""
    pairs, _ = find_pairs(split._getExtraPath("odd"), split._getExtraPath("even"), SAMPLING_RATE_A)
    model = train.outputModel.getFileName()
    _, predictor = load_predictor(model, DenoiseConfig(micrographs=("-",), model=model, output="-"))
    training = pool([compare(pair, None) for pair in pairs if pair.name != held_out])
    validation = compare(next(pair for pair in pairs if pair.name == held_out), predictor)
    blur = gaussian_transfer(validation.frequency, best_gaussian_width(training))
    raw = validation.filtered(blur**0)
    rows = {"raw": raw, "gaussian": validation.filtered(blur), "cryoden": validation}
    return {name: round(score(row.in_band()).r2_corr, 4) for name, row in rows.items()}


def compare(pair: HalfPair, predictor: Optional[Predictor]) -> RingCovariance:
    """Measure the covariances of a pair and its predictions (without a predictor: of the pair alone)."""
    halves = load_pair(pair).halves.float()
    predicted = halves if predictor is None else torch.stack([predictor(half).cpu() for half in halves])
    return measure_covariance(halves, predicted, pair.sampling_rate)


if __name__ == "__main__":
    main()
