"""Does denoising help a real picker? RELION's LoG picks on raw and denoised micrographs of simulated movies.

Opens the workflow template that the plugin ships (movies, RELION's motion correction, halves, training, denoising, LoG
picking, extraction) in a Scipion project, once for each dose, and picks on the raw micrographs and on those that the
general model denoised too, with the same settings. With `--models general` nothing is trained. RELION and
scipion-em-relion must be installed. Run with Scipion:

    python -m scipion python benchmarks/downstream.py [--folder DIR] [--doses 0.3 1 3] [--models own general]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

from pyworkflow.project import Manager
from relion.protocols import ProtRelionAutopickLoG

from cryoden.config.shared import GENERAL
from cryoden.formats.general_model import model_path
from cryoden_scipion.protocols import CryodenProtDenoise, CryodenProtImportModel
from cryoden_scipion.tests import downstream

PROJECT_NAME = "cryoden_downstream"
OWN = "own"
SAMPLING_RATE_A, WORKING_RATE_A, N_FRAMES = 2.0, 5.0, 12
THRESHOLDS = (0.0, 0.5, 1.0)
"""Of the picker, in deviations; what it finds best depends on them, so the best F1 is compared too."""

PICKER = {"minDiameter": 150, "maxDiameter": 190, "boxSize": 48, "numberOfMpi": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="downstream", help="for the simulated movies")
    parser.add_argument("--doses", nargs="+", type=float, default=[0.15, 0.5, 2.0], help="e/A^2 and frame")
    parser.add_argument("--movies", type=int, default=4)
    parser.add_argument("--size", type=int, default=1536, help="px")
    parser.add_argument("--steps", type=int, default=600, help="of training, in six epochs")
    parser.add_argument("--models", nargs="+", choices=(OWN, GENERAL), default=[OWN, GENERAL], help="to denoise with")
    options = parser.parse_args()
    manager = Manager()
    if manager.hasProject(PROJECT_NAME):
        manager.deleteProject(PROJECT_NAME)
    folder = Path(options.folder).resolve()
    project = manager.createProject(PROJECT_NAME)
    os.chdir(project.path)  # paths in Scipion's sets are relative to the project
    rows = [row for dose in options.doses for row in measure(project, folder / f"dose_{dose:g}", dose, options)]
    print(f"\n{'dose e/A^2':>10} {'picked on':<10} {'threshold':>9} {'recall':>7} {'precision':>9} {'F1':>6}")
    for row in rows:
        print(
            f"{row['dose']:10.1f} {row['picked_on']:<10} {row['threshold']:9.1f} {row['recall']:7.3f} "
            f"{row['precision']:9.3f} {row['f1']:6.3f}"
        )
    print(json.dumps({"rows": rows}))


def measure(project: Any, folder: Path, dose: float, options: argparse.Namespace) -> List[Dict[str, Any]]:
    """Run the workflow at one dose per frame and return the scores of the picks."""
    command = [sys.executable, "-m", "cryoden", "simulate", "movies", "--output", str(folder), "--seed", "3"]
    command += ["--movies", str(options.movies), "--size", str(options.size), str(options.size), "--particles", "100"]
    command += ["--frames", str(N_FRAMES), "--sampling-rate", str(SAMPLING_RATE_A), "--dose-per-frame", str(dose)]
    subprocess.run(command, check=True)
    values = {
        "movies": str(folder / "movies"), "gain": str(folder / "gain.mrc"), "rate": str(SAMPLING_RATE_A),
        "dose": str(dose), "workingrate": str(WORKING_RATE_A), "mindiameter": str(PICKER["minDiameter"]),
        "maxdiameter": str(PICKER["maxDiameter"]), "pickbox": str(PICKER["boxSize"]), "box": "128",
    }  # fmt: skip
    training = {
        "epochs": 6, "min_batches": options.steps // 6, "max_batches": options.steps // 6, "batch_size": 4, "crop": 192,
        "channels": "16 32 64", "useGpu": False,
    }  # fmt: skip
    changes = {"train": training, "denoise": {"useGpu": False}}
    template = downstream.openTemplate(project, values, changes)
    wanted = downstream.STEPS if OWN in options.models else ("import", "motion", "split")
    steps = downstream.runSteps(project, {name: template[name] for name in wanted})
    truth = downstream.readTruth(str(folder))
    sets = {"raw": steps["split"].outputMicrographs}

    if OWN in options.models:
        places = downstream.placesOf(steps["pick"].outputCoordinates)
        originals = steps["motion"].outputMicrographsDoseWeighted
        n, largest = downstream.checkParticles(steps["extract"].outputParticles, originals, places)
        print(f"R2 of the denoiser: {steps['train'].outputModel.getR2():.3f}")
        print(f"{n} particles are cut from the original micrographs, at most {largest:.1f} A from their picks.")
        sets["denoised"] = steps["denoise"].outputMicrographs
    if GENERAL in options.models:
        sets[GENERAL] = denoised_by_general_model(project, sets["raw"])

    rows = []
    for name, micrographs in sets.items():
        for threshold in THRESHOLDS:
            picker = project.newProtocol(
                ProtRelionAutopickLoG, inputMicrographs=micrographs, threshold=threshold, **PICKER
            )
            picker.setObjLabel(f"{name}, {dose:g} e/A2, threshold {threshold:g}")
            found = downstream.runSteps(project, {name: picker})[name].outputCoordinates
            recall, precision, f1 = downstream.recallAndPrecision(truth, downstream.placesOf(found))
            rows.append(
                {"dose": dose * N_FRAMES, "picked_on": name, "threshold": threshold, "recall": round(recall, 4),
                 "precision": round(precision, 4), "f1": round(f1, 4)}
            )  # fmt: skip
    return rows


def denoised_by_general_model(project: Any, micrographs: Any) -> Any:
    """Return the set of micrographs that the general model makes of one."""
    model = project.newProtocol(CryodenProtImportModel, modelFile=str(model_path(GENERAL)))
    model.setObjLabel("general model")
    imported = downstream.runSteps(project, {GENERAL: model})[GENERAL].outputModel
    denoising = project.newProtocol(
        CryodenProtDenoise, inputMicrographs=micrographs, inputModel=imported, useGpu=False
    )  # fmt: skip
    denoising.setObjLabel("denoised by the general model")
    return downstream.runSteps(project, {GENERAL: denoising})[GENERAL].outputMicrographs


if __name__ == "__main__":
    main()
