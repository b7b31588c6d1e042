"""Does an election find the best denoiser? Ten simulated sets, judged by the truth of micrographs that it never saw.

Each set (another specimen, dose, ice, defocus, pixel size) has micrographs to elect by and others to judge by. `cryoden
choose` sees the halves of the first; every candidate is then applied to the others, whose clean images are known.
What the elected one loses is its true R2 below that of the best candidate. Several sets run at a time; they share one
GPU, so that fine-tuning gets less of it than it would alone. Prints a line for each set, and a JSON object as the last.

Usage: python benchmarks/election.py [--seconds 60] [--jobs 5] [--device cuda] [--sets 0 1 ...] [--size 1024]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Dict, List

from cryoden.config import ChooseConfig, EvaluateConfig, Options
from cryoden.data.half_sources import list_halves
from cryoden.formats.star import write_names
from cryoden.report.election_result import read_election
from cryoden.report.evaluation_table import read_table

FRAMES = 4
"""Of each movie: only their sums count here."""

LARGEST_LOSS = 0.01
"""True R2 that an elected denoiser may lose to the best."""


@dataclass(frozen=True)
class Set:
    """What is simulated: particle, e/A^2 of a movie, A/px, particles, ice in A and its gradient, underfocus in um."""

    shape: str
    dose: float
    sampling_rate: float
    particles: int
    ice: float
    gradient: float
    defocus: float
    carbon: float = 0.0

    @property
    def name(self) -> str:
        """What it is, in few words."""
        return f"{self.shape}, {self.dose:g} e/A2, {self.sampling_rate:g} A/px"


SETS = (
    Set("barrel", 40, 1.5, 120, 300, 0.3, 1.5),
    Set("barrel", 10, 2.5, 200, 300, 0.3, 2.5),
    Set("barrel", 2, 2.0, 150, 300, 0.0, 2.0),
    Set("globule", 50, 1.2, 150, 250, 0.2, 1.0),
    Set("globule", 20, 2.0, 300, 600, 0.6, 2.0),
    Set("globule", 5, 3.0, 400, 400, 0.3, 3.0),
    Set("rod", 60, 1.5, 200, 200, 0.1, 0.8),
    Set("rod", 25, 2.5, 60, 900, 1.0, 1.8),
    Set("rod", 8, 3.5, 300, 300, 0.3, 2.8),
    Set("barrel", 30, 4.5, 400, 500, 0.4, 2.0, carbon=0.4),
)


def cryoden(*words: Any) -> None:
    """Run a command; its words go to stderr where it fails."""
    done = subprocess.run([sys.executable, "-m", "cryoden", *map(str, words)], capture_output=True, text=True)
    if done.returncode == 2:
        raise RuntimeError(f"cryoden {words[0]}: {done.stderr[-2000:]}")


FUNCTIONS = {
    ChooseConfig: "from cryoden.evaluation.election import choose as run, ChooseConfig as Of",
    EvaluateConfig: "from cryoden.evaluation.evaluate import Evaluation, write_evaluation, EvaluateConfig as Of; "
    "run = lambda config: write_evaluation(Evaluation(config))",
}
"""Commands that are called without their reports and what is inside the networks, which take long."""


def call(config: Options) -> None:
    """Do what a command does before it draws its report, in a process of its own."""
    code = f"import json, sys; {FUNCTIONS[type(config)]}; run(Of.from_dict(json.load(sys.stdin)))"
    given = json.dumps(config.to_dict())
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def measure(number: int, folder: Path, options: argparse.Namespace) -> Dict[str, Any]:
    """Simulate a set, elect, and return what is measured and what is true of every candidate."""
    made, place = SETS[number], folder / f"set_{number}"
    n_all = options.movies + options.judges
    cryoden(
        "simulate", "movies", "--output", place / "movies", "--movies", n_all, "--size", options.size, options.size,
        "--frames", FRAMES, "--dose-per-frame", made.dose / FRAMES, "--sampling-rate", made.sampling_rate,
        "--shape", made.shape, "--particles", made.particles, "--ice-thickness", made.ice, "--ice-gradient",
        made.gradient, "--defocus", made.defocus, "--carbon", made.carbon, "--drift", 1, "--seed", 100 + number,
        "--threads", 2,
    )  # fmt: skip
    movies = place / "movies"
    cryoden("halves", movies / "movies.star", "--gain", movies / "gain.mrc", "--output", place / "halves", "--jobs", 2)
    halves = {half: list_halves(str(place / "halves" / half)) for half in ("odd", "even")}
    names = sorted(halves["odd"])
    lists = {}
    for part, chosen in (("elect", names[: options.movies]), ("judge", names[options.movies :])):
        for half, files in halves.items():
            lists[part, half] = str(place / f"{part}_{half}.star")
            write_names(lists[part, half], {name: files[name] for name in chosen})

    started = time.monotonic()
    call(
        ChooseConfig(
            odd=lists["elect", "odd"], even=lists["elect", "even"], output=str(place / "election"),
            seconds=options.seconds, topaz="no", device=options.device,
        )
    )  # fmt: skip
    seconds = time.monotonic() - started

    election = read_election(place / "election")
    made_here = {path.stem: path for path in (place / "election/candidates").glob("*.safetensors")}
    made_here["fine_tuned"] = place / "election/candidates/fine_tuned/model.safetensors"
    keys = [candidate.key for candidate in election.candidates if candidate.problem is None]
    call(
        EvaluateConfig(
            odd=lists["judge", "odd"], even=lists["judge", "even"], output=str(place / "judged"), topaz="no",
            model=tuple(str(made_here.get(key, key)) for key in keys),  # the general model by its word
            truth=str(movies / "truth"), sampling_rate=election.sampling_rate, device=options.device,
        )
    )  # fmt: skip
    rows = [row for row in read_table(place / "judged/metrics.json").rows if row.is_model]
    true = {key: row.truth.r2.value for key, row in zip(keys, rows) if row.truth and row.truth.r2.value is not None}
    return {
        "set": made.name,
        "elected": election.elected,
        "best": max(true, key=lambda key: true[key]),
        "loss": round(max(true.values()) - true[election.elected], 4),
        "measured": {key: _number(election.candidate(key).value) for key in keys},
        "true": {key: _number(value) for key, value in true.items()},
        "left_out": {c.key: str(c.problem) for c in election.candidates if c.problem is not None},
        "seconds": round(seconds, 1),
    }


def _number(value: Any) -> Any:
    return None if value is None else round(value, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of fine-tuning; 0: none")
    parser.add_argument("--jobs", type=int, default=5, help="sets at a time")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sets", type=int, nargs="+", default=list(range(len(SETS))), help="their numbers, from 0")
    parser.add_argument("--size", type=int, default=1024, help="px")
    parser.add_argument("--movies", type=int, default=5, help="to elect by")
    parser.add_argument("--judges", type=int, default=3, help="micrographs to judge by")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // options.jobs)))
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.jobs) as pool:
        rows: List[Dict[str, Any]] = []
        for row in pool.map(partial(measure, folder=Path(name), options=options), options.sets):
            rows.append(row)
            numbers = "  ".join(f"{key} {row['measured'][key]} ({value})" for key, value in row["true"].items())
            print(f"{row['set']:28} elected {row['elected']:11} loses {row['loss']:.4f}   {numbers}", flush=True)
    n_good = sum(row["loss"] <= LARGEST_LOSS for row in rows)
    print(f"After each candidate its measured R2, then (true). {n_good} of {len(rows)} lose at most {LARGEST_LOSS}.")
    print(json.dumps({"within": n_good, "of": len(rows), "options": vars(options), "rows": rows}))


if __name__ == "__main__":
    main()
