"""A project of RELION from movies to particles, with our jobs in between, run by RELION's own pipeline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable, Dict

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile

from cryoden.exchange.relion_job_folder import ABORT
from cryoden.formats import outputs
from cryoden.formats.relion_names import name_in_job
from tests.helpers import Result
from tests.relion import Project, needs_relion

Run = Callable[..., Result]

HALF_A_PARTICLE = 30.0
"""Pixels of 2 A: the built-in barrel is 150 A long."""

LOG_PICKING = {"do_log": "Yes", "log_diam_min": 120, "log_diam_max": 200, "log_adjust_thr": 0}


def found_share(particles: Path, truth: Path) -> float:
    """Return which share of the true particles has a pick that lies on it."""
    picks, true = (starfile.read(path)["particles"] for path in (particles, truth))
    distances = []
    for name, centres in true.groupby("rlnMicrographName"):
        of_micrograph = picks[[Path(pick).stem == Path(name).stem for pick in picks["rlnMicrographName"]]]
        there, wanted = (
            table[["rlnCoordinateX", "rlnCoordinateY"]].to_numpy(float) for table in (of_micrograph, centres)
        )
        distances += list(np.hypot(*(wanted[:, None] - there[None]).transpose(2, 0, 1)).min(axis=1))
    return float(np.mean(np.array(distances) < HALF_A_PARTICLE))


def abort(project: Project, job: str, is_due: Callable[[], bool]) -> None:
    """Run a job and abort it as the window does."""
    process = project.start(job)
    while not is_due():
        assert process.poll() is None
        time.sleep(0.1)
    project.file(job + ABORT).touch()
    process.communicate(timeout=120)
    assert project.file(job + "RELION_JOB_EXIT_ABORTED").exists()
    assert not project.file(job + ABORT).exists()


def edges(project: Project) -> Dict[str, str]:
    """Return file -> job that it is used in, as RELION has it."""
    table = starfile.read(project.file("default_pipeline.star"), always_dict=True)["pipeline_input_edges"]
    return dict(zip(table["rlnPipeLineEdgeProcess"], table["rlnPipeLineEdgeFromNode"]))


@pytest.mark.long
@pytest.mark.relion
@needs_relion
def test_from_movies_to_particles(tmp_path: Path, cryoden: Run) -> None:
    project = Project(tmp_path)
    words = ("--movies", 3, "--size", 768, 768, "--frames", 12, "--sampling-rate", 2.0, "--particles", 30)
    assert cryoden("simulate", "movies", "--output", "sim", *words, "--drift", 5).status == 0
    Path("sim/movies").rename("Movies")
    truth = tmp_path / "sim" / outputs.COORDINATES_STAR

    imported = project.add(
        "Import", do_raw="Yes", fn_in_raw="Movies/*.mrcs", is_multiframe="Yes", angpix=2.0, kV=300, Cs=2.7, Q0=0.1
    )
    project.run(imported)
    corrected = project.add(
        "MotionCorr", input_star_mics=f"{imported}movies.star", do_own_motioncor="Yes", fn_gain_ref="sim/gain.mrc",
        patch_x=1, patch_y=1, do_dose_weighting="No", nr_threads=1, nr_mpi=1,
    )  # fmt: skip
    project.run(corrected)
    originals = f"{corrected}corrected_micrographs.star"

    halves = project.add_external("relion_cryoden_halves", {"in_mic": originals})
    project.run(halves)
    micrographs = f"{halves}{outputs.MICROGRAPHS_STAR}"

    labels = {"network": "cnn3", "epochs": 4, "max_batches": 20, "crop": 128, "sampling_rate": 4, "device": "cpu"}
    train = project.add_external("relion_cryoden_train", {"in_mic": micrographs}, **labels)
    log = project.file(train + outputs.LOG)
    abort(project, train, lambda: log.exists() and bool(log.read_text()))
    assert not project.file(train + "RELION_OUTPUT_NODES.star").exists()
    project.run(train)  # continued
    assert "Resumed after epoch" in project.file(train + "run.out").read_text()
    assert project.file(train + "RELION_JOB_EXIT_SUCCESS").exists()
    assert len(log.read_text().splitlines()) == 4

    denoise = project.add_external("relion_cryoden_denoise", {"in_mic": micrographs}, model=train, dtype="float16")
    project.run(denoise)
    denoised = f"{denoise}{outputs.MICROGRAPHS_STAR}"
    for name in starfile.read(project.file(denoised))["micrographs"]["rlnMicrographName"]:
        with mrcfile.open(str(project.file(name)), header_only=True) as mrc:
            assert (int(mrc.header.nx), int(mrc.header.mode)) == (768, 12)

    # Float16 is not for RELION 3.1's picker: the same in float32, in the same folder.
    denoise = project.add_external("relion_cryoden_denoise", {"in_mic": micrographs}, model=train)
    project.run(denoise)
    denoised = f"{denoise}{outputs.MICROGRAPHS_STAR}"
    picking = project.add("AutoPick", fn_input_autopick=denoised, **LOG_PICKING)
    project.run(picking)
    extraction = project.add(
        "Extract", star_mics=originals, coords_suffix=f"{picking}coords_suffix_autopick.star", extract_size=64
    )
    project.run(extraction)
    assert found_share(project.file(f"{extraction}particles.star"), truth) > 0.8
    used = edges(project)
    assert (used[halves], used[train], used[denoise], used[picking]) == (originals, micrographs, micrographs, denoised)

    # Coarser micrographs of the command line: picks are rescaled before the extraction.
    model = f"{train}{outputs.MODEL}"
    done = cryoden("denoise", micrographs, "--model", model, "--output", "coarse", "--device", "cpu")
    assert done.status == 0, done.err
    coarse = project.add("AutoPick", fn_input_autopick="coarse/micrographs.star", **LOG_PICKING)
    project.run(coarse)
    words = ("--picked", "coarse/micrographs.star", "--micrographs", originals, "--output", "picks")
    assert cryoden("relion", "coordinates", coarse, *words).status == 0
    suffix = next(Path("picks").glob("coords_suffix_*.star"))
    extraction = project.add("Extract", star_mics=originals, coords_suffix=suffix, extract_size=64)
    project.run(extraction)
    assert found_share(project.file(f"{extraction}particles.star"), truth) > 0.8


@pytest.mark.long
@pytest.mark.relion
@needs_relion
@pytest.mark.parametrize("is_corrected", [False, True])
def test_all_in_one_job(tmp_path: Path, cryoden: Run, is_corrected: bool) -> None:
    project = Project(tmp_path)
    words = ("--movies", 2, "--size", 512, 512, "--frames", 12, "--sampling-rate", 2.0, "--particles", 12)
    assert cryoden("simulate", "movies", "--output", "sim", *words).status == 0
    imported = project.add(
        "Import", do_raw="Yes", fn_in_raw="sim/movies/*.mrcs", is_multiframe="Yes", angpix=2.0, kV=300, Cs=2.7, Q0=0.1
    )
    project.run(imported)
    inputs, labels = {"in_mov": f"{imported}movies.star"}, {"gain": "sim/gain.mrc"}
    corrected = project.add(
        "MotionCorr", input_star_mics=f"{imported}movies.star", do_own_motioncor="Yes", fn_gain_ref="sim/gain.mrc",
        patch_x=1, patch_y=1, do_dose_weighting="No", nr_threads=1, nr_mpi=1,
    )  # fmt: skip
    if is_corrected:
        project.run(corrected)
        inputs, labels = {"in_mic": f"{corrected}corrected_micrographs.star"}, {}

    quick = {"network": "cnn3", "epochs": 1, "max_batches": 5, "crop": 64, "topaz": "no", "device": "cpu"}
    job = project.add_external("relion_cryoden_run", inputs, **labels, **quick)
    project.run(job)
    assert project.file(job + "RELION_JOB_EXIT_SUCCESS").exists(), project.file(job + "run.err").read_text()
    nodes = starfile.read(project.file(job + "RELION_OUTPUT_NODES.star"))
    assert isinstance(nodes, pd.DataFrame)
    star = f"{job}micrographs.star" if is_corrected else f"{job}denoised/micrographs.star"
    assert nodes["rlnPipeLineNodeName"].tolist() == [star, f"{job}logfile.pdf"]
    assert project.file(f"{job}{outputs.EVALUATION_FOLDER}/{outputs.REPORT}").is_file()

    written = list(starfile.read(project.file(star))["micrographs"]["rlnMicrographName"])
    assert all(project.file(name).is_file() for name in written)
    if is_corrected:  # RELION finds picks on them for the originals
        originals = starfile.read(project.file(inputs["in_mic"]))["micrographs"]["rlnMicrographName"]
        assert list(map(name_in_job, written)) == list(map(name_in_job, originals))
