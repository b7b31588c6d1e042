"""Names of all files that a command leaves and something else reads: another command, the plugin, a viewer, a person.

Both packages take them from here, and build no path from a name of their own.
"""

from __future__ import annotations

# ---------------------------------------------------------------------- every command that fills a folder
OUTCOME = "outcome.json"
"""How the last command ended; see `cryoden.formats.outcome`."""

FAILURES = "failures.json"
"""Inputs that were left out, and why."""

TRACEBACK = "traceback.txt"
"""Of an error that nobody foresaw."""

LOG = "log.jsonl"
"""One JSON line for each finished item, or epoch."""

LOGS = "log*.jsonl"
"""Pattern of the logs of all processes; see `log_of`."""

MICROGRAPHS_STAR = "micrographs.star"
"""The results as RELION reads them; also the true micrographs of a simulation."""

EXPOSURES_CS, EXPOSURES_CSV = "exposures.cs", "exposures.csv"
"""The results as CryoSPARC reads them, where the inputs came from it."""

# ---------------------------------------------------------------------- halves
HALVES_RECORD = "halves.json"
FULL, ODD, EVEN = "full", "odd", "even"
SUMS = (FULL, ODD, EVEN)
"""Folders of the sums; odd + even = full."""

MOTION = "motion"
"""Folder with a STAR file about the motion of each movie, in RELION's form, and pictures of some."""

MOTION_REPORT, MOTION_PICTURE = "motion.html", "motion.png"
"""How well the movies were aligned, all of them."""

SANITY = "sanity.json"
PATTERN, PATTERN_PICTURE = "fixed_pattern.npz", "fixed_pattern.png"
PART_PATTERNS = ".fixed_pattern_*.npz"
"""Pattern of what the processes of a job found in their parts of a list, while the job runs; see `part_pattern`."""

# ---------------------------------------------------------------------- training
MODEL = "model.safetensors"
CHECKPOINT, SAMPLES, CURVES = "checkpoint.pt", "samples.npz", "curves.png"
TRAINING_STATUS = "training_status.json"
"""How far a training is that runs, or was stopped; see `cryoden.formats.training_folder`."""

EPOCHS = "epochs"
"""Folder with the model of every epoch, where all are kept; see `model_of_epoch`."""

# ---------------------------------------------------------------------- denoising
DENOISE_RECORD = "denoise.json"
THUMBNAILS = "thumbnails"

# ---------------------------------------------------------------------- evaluation, look at the data
EVALUATE_RECORD = "evaluate.json"
MEASUREMENTS = "measurements"
"""Folder with one file for each micrograph."""

METRICS, METRICS_CSV, METRICS_STAR = "metrics.json", "metrics.csv", "metrics.star"
REPORT = "report.html"

SHOW_RECORD = "show.json"

# ---------------------------------------------------------------------- election
CHOOSE_RECORD = "choose.json"
ELECTION, ELECTION_TEXT = "election.json", "election.txt"
"""Every candidate and why one was elected, for programs and for people; the elected one is `MODEL`."""

CANDIDATES = "candidates"
"""Folder with the models that were made to be candidates."""

FITTING_ODD, FITTING_EVEN = "fitting_odd.star", "fitting_even.star"
HELD_OUT_ODD, HELD_OUT_EVEN = "held_out_odd.star", "held_out_even.star"
"""The halves that candidates may learn from, and those that they are measured on, listed when the election began."""

# ---------------------------------------------------------------------- simulation
SIMULATION_RECORD, PAIRS_RECORD = "simulation.json", "pairs.json"
MOVIES, TRUTH = "movies", "truth"
CLEAN = "clean"
GAIN, DEFECTS = "gain.mrc", "defects.txt"
MOVIES_STAR, COORDINATES_STAR = "movies.star", "coordinates.star"

# ---------------------------------------------------------------------- the whole way
RUN_RECORD = "run.json"
HALVES_FOLDER, MODEL_FOLDER, DENOISED_FOLDER, EVALUATION_FOLDER = "halves", "model", "denoised", "evaluation"
TRAINING_ODD, TRAINING_EVEN = "training_odd.star", "training_even.star"
"""The halves from which the model is trained, listed when training began: others may have come since."""

# ---------------------------------------------------------------------- jobs of RELION
COORDINATES_RECORD = "coordinates.json"
RELION_OPTIONS, RELION_LOG = "cryoden_options.json", "logfile.pdf"

# ---------------------------------------------------------------------- exchange and fetching
MANIFEST = "manifest.json"
BUNDLE_INDEX = "index.json"
ENTRY_RECORD = "entry.json"

RECORDS = (
    HALVES_RECORD, CHECKPOINT, DENOISE_RECORD, EVALUATE_RECORD, SHOW_RECORD, SIMULATION_RECORD, PAIRS_RECORD, MANIFEST,
    BUNDLE_INDEX, COORDINATES_RECORD, CHOOSE_RECORD,
)  # fmt: skip
"""By which a folder is known to be filled by a command."""


def log_of(rank: int) -> str:
    """Return the log of one of several processes."""
    return f"log_{rank}.jsonl" if rank else LOG


def part_pattern(rank: int) -> str:
    """Return what one of several processes found in its part of a list."""
    return f".fixed_pattern_{rank}.npz"


def model_of_epoch(epoch: int) -> str:
    """Return the model of an epoch, in the folder `EPOCHS`."""
    return f"epoch_{epoch:04d}.safetensors"


INSIDE = "inside_*"
"""Pattern of what was saved and drawn of the inside of evaluated networks; see `inspection_of`."""


def inspection_of(key: str) -> str:
    """Return what was saved of the inside of an evaluated network."""
    return f"inside_{key}.npz"


CONTACT_SHEETS = "contact_sheet_*.png"
"""Pattern of all contact sheets; see `contact_sheet`."""


def contact_sheet(number: int) -> str:
    """Return a contact sheet, counted from 1."""
    return f"contact_sheet_{number}.png"
