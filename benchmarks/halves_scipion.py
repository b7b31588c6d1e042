"""How much slower many small movies are split by the Scipion protocol than by the plain command.

Makes a project with small movies, splits them with `cryoden halves` and with the protocol, in turns, and compares the
command's time with that of the protocol's steps (from its own record) and with that from launching to its end. The
last line is one JSON object.

Usage: python -m scipion python benchmarks/halves_scipion.py [N_MOVIES [SIDE_PX [N_FRAMES [REPEATS]]]]
"""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pyworkflow as pw

pw.Config.SCIPION_DOMAIN = "pwem"
from pwem.protocols import ProtImportMovies  # noqa: E402 - the domain must be set before
from pyworkflow.project import Manager  # noqa: E402

from cryoden.formats.mrc import MrcWriter  # noqa: E402

PROJECT = "cryoden_benchmark_halves"


def main():
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    n_movies, side, n_frames, repeats = (*numbers, *(100, 1024, 20, 3)[len(numbers) :])

    manager = Manager()
    if manager.hasProject(PROJECT):
        manager.deleteProject(PROJECT)
    project = manager.createProject(PROJECT)
    os.chdir(project.path)
    os.makedirs("movies")

    try:
        write_movies(n_movies, side, n_frames)
        measure(project, n_movies, repeats)
    finally:
        os.chdir(os.path.dirname(project.path))
        manager.deleteProject(PROJECT)


def write_movies(n_movies, side, n_frames):
    rng = np.random.default_rng(1)
    large = rng.poisson(1.0, (side + n_frames + n_movies, side)).astype(np.int8)
    for number in range(n_movies):
        with MrcWriter(f"movies/m{number:03d}.mrcs", (side, side), 1.5, "int8", n_frames) as writer:
            for frame in range(n_frames):
                writer.write_rows(large[number + frame : number + frame + side])


def measure(project, n_movies, repeats):
    from cryoden_scipion.protocols import CryodenProtSplitHalves

    movies = project.newProtocol(
        ProtImportMovies, filesPath=os.path.abspath("movies"), filesPattern="*.mrcs", samplingRate=1.5, voltage=300
    )
    project.launchProtocol(movies, wait=True)

    times = {"command_s": [], "steps_s": [], "launch_s": []}
    files = sorted(os.path.join("movies", name) for name in os.listdir("movies"))
    for number in range(repeats):
        begun = time.monotonic()
        command = [sys.executable, "-m", "cryoden", "halves", *files, "--output", f"plain{number}"]
        subprocess.run(command, check=True, capture_output=True)
        times["command_s"].append(time.monotonic() - begun)

        split = project.newProtocol(CryodenProtSplitHalves, inputMovies=movies.outputMovies)
        begun = time.monotonic()
        project.launchProtocol(split, wait=True)
        times["launch_s"].append(time.monotonic() - begun)
        steps = split.loadSteps()
        times["steps_s"].append(sum(step.getElapsedTime().total_seconds() for step in steps))

        size = split.outputMicrographs.getSize()
        if size != n_movies:
            raise SystemExit(f"{size} of {n_movies} movies were registered")
        shutil.rmtree(f"plain{number}")

    medians = {key: float(np.median(values)) for key, values in times.items()}
    ratios = {f"{key} / command_s": medians[key] / medians["command_s"] for key in ("steps_s", "launch_s")}
    print(f"{n_movies} movies: " + ", ".join(f"{key} {value:.2f}" for key, value in {**medians, **ratios}.items()))
    print(json.dumps({"movies": n_movies, **times, **ratios}))


if __name__ == "__main__":
    main()
