"""RELION reads what we write: it picks particles on a denoised set, from our STAR file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile

from cryoden.__main__ import main
from cryoden.formats.images import EerRendering, open_movie_stack
from cryoden.formats.model_file import ModelCard, write_model
from cryoden.formats.mrc import write_image
from cryoden.formats.star import ImageTable, new_table, write_table
from cryoden.model.networks import CNN3
from tests.eer import random_events, write_eer

EER_SHAPE = (4096, 4096)
SAMPLING_RATE, DIAMETER_A, SIDE, N_PARTICLES = 4.0, 160.0, 512, 12


def particles(rng: np.random.Generator) -> np.ndarray:
    """Return centres (y, x) of particles that do not overlap."""
    places: list = []
    while len(places) < N_PARTICLES:
        place = rng.uniform(60, SIDE - 60, 2)
        if all(np.hypot(*(place - other)) > 70 for other in places):
            places.append(place)
    return np.array(places)


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_autopick") is None, reason="RELION (relion_autopick) is not installed")
def test_autopick_finds_the_particles_of_a_denoised_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:SIDE, :SIDE]
    centres = {}
    for kind in ("full", "odd", "even"):
        (tmp_path / kind).mkdir()
    for number in range(3):
        name = f"mic_{number}.mrc"
        centres[f"mic_{number}"] = particles(rng)
        clean = np.full((SIDE, SIDE), 20.0)
        for cy, cx in centres[f"mic_{number}"]:
            clean -= 4.0 / (1 + np.exp((np.hypot(y - cy, x - cx) - DIAMETER_A / 2 / SAMPLING_RATE) / 2))
        odd, even = (rng.poisson(clean).astype(np.float32) for _ in range(2))
        for kind, image in (("odd", odd), ("even", even), ("full", odd + even)):
            write_image(tmp_path / kind / name, image, SAMPLING_RATE)
    names = [f"full/{name}.mrc" for name in centres]
    write_table("full.star", new_table(names, SAMPLING_RATE, 300.0, 2.7, 0.1))
    train = ["train", "--odd", "odd", "--even", "even", "--output", "model", "--channels", "8", "16", "--crop", "128"]
    assert main([*train, "--epochs", "3", "--min-batches", "40", "--lr", "5e-3", "--device", "cpu"]) == 0
    assert main(["denoise", "full.star", "--model", "model/model.safetensors", "--output", "out"]) == 0

    command = ["relion_autopick", "--i", "out/micrographs.star", "--odir", "picks/", "--LoG", "--shrink", "0"]
    command += ["--LoG_diam_min", "150", "--LoG_diam_max", "200", "--lowpass", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, places in centres.items():
        picks = starfile.read(tmp_path / "picks" / "out" / f"{name}_autopick.star")
        found = picks[["rlnCoordinateY", "rlnCoordinateX"]].to_numpy()
        distances = np.hypot(*(places[:, None] - found[None]).transpose(2, 0, 1))
        assert np.mean(distances.min(axis=1) < 10) >= 0.9


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_convert_to_tiff") is None, reason="RELION (relion_convert_to_tiff) is missing")
@pytest.mark.parametrize("upsampling", [1, 2])
def test_eer_is_rendered_as_relion_renders_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upsampling: int) -> None:
    """The same counts at the same places, from the same file; RELION writes TIFF from the bottom.

    Only runs of 7 bits (compression 65001, what Falcon 4 writes): of runs of 8 bits RELION 3.1.3 and imagecodecs
    disagree, and no file of a microscope was at hand to decide.
    """
    pytest.importorskip("imagecodecs", "2025.11.11")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    write_eer(tmp_path / "m.eer", EER_SHAPE, [random_events(rng, EER_SHAPE, 20000) for _ in range(4)])
    command = ["relion_convert_to_tiff", "--i", "m.eer", "--o", "tif/", "--eer_grouping", "2", "--short"]
    command += ["--eer_upsampling", str(upsampling), "--compression", "lzw"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = open_movie_stack(next(tmp_path.glob("tif/**/*.tif")), is_tiff_flipped=True)
    ours = open_movie_stack(tmp_path / "m.eer", EerRendering(2, is_super_resolution=upsampling == 2))
    assert (ours.n_frames, ours.shape) == (theirs.n_frames, theirs.shape)
    for frame in range(2):
        counts = ours.read_rows(frame, 0, ours.shape[0])
        assert counts.sum() == 40000
        np.testing.assert_array_equal(counts, theirs.read_rows(frame, 0, ours.shape[0]))


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_preprocess") is None, reason="RELION (relion_preprocess) is not installed")
@pytest.mark.parametrize("is_absolute", [False, True])
def test_relion_extracts_with_our_optics_groups_and_ctfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_absolute: bool
) -> None:
    """Two optics groups in two sub-folders, CTF columns, relative or absolute paths: every particle keeps its own."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    names = [f"session{group}/mic_{number}.mrc" for group in (1, 2) for number in (1, 2)]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, rng.poisson(40, (256, 256)).astype(np.float32), SAMPLING_RATE)
    listed = [str(tmp_path / name) if is_absolute else name for name in names]
    optics = pd.concat([new_table(["-"], SAMPLING_RATE, voltage, 2.7, 0.1).optics for voltage in (300.0, 200.0)])
    optics["rlnOpticsGroup"], optics["rlnOpticsGroupName"] = [1, 2], ["krios", "glacios"]
    images = pd.DataFrame({"rlnMicrographName": listed, "rlnOpticsGroup": [1, 1, 2, 2]})
    images["rlnDefocusU"] = [11000.0, 12000.0, 21000.0, 22000.0]
    images["rlnDefocusV"], images["rlnDefocusAngle"] = images["rlnDefocusU"] - 400, 25.0
    write_table("in.star", ImageTable(optics, images, "rlnMicrographName"))
    weights = {name: tensor.numpy() for name, tensor in CNN3().state_dict().items()}
    write_model("model.safetensors", weights, ModelCard("cnn3", (), SAMPLING_RATE, {"kind": "standard"}))
    assert main(["denoise", "in.star", "--model", "model.safetensors", "--output", "out", "--device", "cpu"]) == 0

    written = starfile.read("out/micrographs.star")["micrographs"]
    for name in written["rlnMicrographName"]:
        picks = Path("picks") / Path(name).with_name(Path(name).stem + "_picks.star")
        picks.parent.mkdir(parents=True, exist_ok=True)
        starfile.write(pd.DataFrame({"rlnCoordinateX": [80.0, 170.0], "rlnCoordinateY": [90.0, 150.0]}), picks)
    command = [
        "relion_preprocess",
        "--i",
        "out/micrographs.star",
        "--coord_dir",
        "picks/",
        "--coord_suffix",
        "_picks.star",
    ]
    command += ["--part_star", "particles.star", "--part_dir", "particles/", "--extract", "--extract_size", "32"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = starfile.read("particles.star")
    particles, groups = result["particles"], result["optics"].set_index("rlnOpticsGroup")
    assert len(particles) == 2 * len(names)
    for _, particle in particles.iterrows():
        session = 1 if "session1" in particle["rlnMicrographName"] else 2
        assert groups.loc[particle["rlnOpticsGroup"], "rlnVoltage"] == {1: 300.0, 2: 200.0}[session]
        number = int(Path(particle["rlnMicrographName"]).stem[-1])
        assert particle["rlnDefocusU"] == 10000.0 * session + 1000 * number
        assert particle["rlnDefocusV"] == particle["rlnDefocusU"] - 400
