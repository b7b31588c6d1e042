"""The programs of RELION's External jobs: each runs one command, and says in RELION's way how it went.

A process of its own runs the command, so that this one can still tell RELION when the system kills it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Sequence, Tuple, Type

from cryoden import __version__
from cryoden.config import DenoiseConfig, HalvesConfig, Options, RunConfig, TrainConfig, shared
from cryoden.data.half_sources import split_halves_of
from cryoden.errors import CryodenError, FileError, LockedError, Problem, one_line, option_name
from cryoden.exchange.relion_job_folder import LOG, MICROGRAPHS, JobFolder
from cryoden.exchange.relion_job_log import Page, pages_of, write_log
from cryoden.exchange.relion_job_words import JobWords, options_of, read_words
from cryoden.formats import outputs
from cryoden.formats.files import make_folder, write_json
from cryoden.formats.outcome import DONE, FAILED, SOME_FAILED, STOPPED, Ending, read_ending
from cryoden.formats.star import read_table, write_names
from cryoden.system.locks import FolderLock
from cryoden.system.signals import Stopped, deferring_stop, stop_on_signals
from cryoden.system.streams import forgiving_streams

POLL_SECONDS = 0.2
"""How often it is asked whether the job is to stop."""

STOPPING_SECONDS = 60.0
"""For a command that is told to stop: it writes a checkpoint."""

LOCK_FOLDER = ".relion_job"
"""In the job's folder, while the job runs: the folder itself is the command's own."""

STATUS = {DONE: 0, SOME_FAILED: 1, FAILED: 2, STOPPED: 128 + signal.SIGTERM}


@dataclass(frozen=True)
class Job:
    """A kind of External job.

    Attributes
    ----------
    command
        Of `cryoden`, that does the work.
    config
        Its options.
    given
        Returns the options that are known without labels.
    has_micrographs
        Whether it leaves micrographs for other jobs.
    """

    command: str
    config: Type[Options]
    given: Callable[[JobWords], Dict[str, Any]]
    has_micrographs: bool = True

    @property
    def program(self) -> str:
        """Name of the executable."""
        return f"relion_cryoden_{self.command}"


def run_halves() -> int:
    """Split movies, as an External job of RELION."""
    return run_job(HALVES, sys.argv[1:])


def run_train() -> int:
    """Train a denoiser, as an External job of RELION."""
    return run_job(TRAIN, sys.argv[1:])


def run_denoise() -> int:
    """Denoise micrographs, as an External job of RELION."""
    return run_job(DENOISE, sys.argv[1:])


def run_all() -> int:
    """Do everything that is missing, as an External job of RELION."""
    return run_job(RUN, sys.argv[1:])


def run_job(job: Job, argv: Sequence[str]) -> int:
    """Run a job and return its exit status, as that of a command."""
    with forgiving_streams():
        try:
            with stop_on_signals(), deferring_stop(STOPPING_SECONDS + 2) as should_stop:
                words = read_words(argv)
                make_folder(words.folder)
                with FolderLock(Path(words.folder) / LOCK_FOLDER, job.program):
                    return _run(job, words, should_stop)
        except Stopped as stopped:
            return stopped.status
        except LockedError as error:  # the job that runs says how it ends
            _say(f"{error.problem.message} Wait until it has ended.")
        except CryodenError as error:
            _say(str(error))
        return STATUS[FAILED]


def _run(job: Job, words: JobWords, should_stop: Callable[[], bool]) -> int:
    folder = JobFolder(words.folder)
    folder.begin()
    try:
        config = _config(job, words)
        ending = _performed(job, config, words, lambda: should_stop() or folder.is_to_abort)
    except CryodenError as error:
        ending = Ending.of_error(error)
        _say(str(error))

    status = FAILED if _is_mostly_failed(job, words, ending) else ending.status
    lines = [problem.text() for problem in ending.problems]
    lines += [f"{name}: {problem.text()}" for name, problem in ending.items.items()]
    if status != STOPPED:
        _write_pictures(job, words, status, lines)
    if status in (DONE, SOME_FAILED):
        _offer(job, words, folder)
    folder.end(status, lines)
    return STATUS[status]


# ---------------------------------------------------------------------- what is asked
def _config(job: Job, words: JobWords) -> Options:
    """Return the options of the command; raises CryodenError if they cannot be."""
    values = {"output": os.path.normpath(words.folder), **job.given(words)}
    values = options_of(job.config, words, values)
    for name in ("model", "from_model"):  # the folder of the job that trained it
        if values.get(name) != shared.GENERAL and os.path.isdir(values.get(name) or ""):
            values[name] = os.path.join(values[name], outputs.MODEL)
    return job.config.from_dict(values)


def _input(words: JobWords, is_movies_welcome: bool = True) -> str:
    """Return the STAR file that is given.

    Raises
    ------
    CryodenError
        If none is.
    """
    given = (words.movies if is_movies_welcome else None) or words.micrographs
    if given is None:
        fields = "Input movies or Input micrographs" if is_movies_welcome else "Input micrographs"
        raise CryodenError(f"The job has no input: choose {fields} in RELION's window.")
    return given


def _given_to_halves(words: JobWords) -> Dict[str, Any]:
    return {"movies": [_input(words)], "jobs": words.n_threads}


def _given_to_train(words: JobWords) -> Dict[str, Any]:
    odd, even = _halves_of(_input(words, is_movies_welcome=False), words)
    return {"odd": odd, "even": even, "resume": True}


def _given_to_denoise(words: JobWords) -> Dict[str, Any]:
    return {"micrographs": [_input(words, is_movies_welcome=False)], "full_size": True, "folders": "relion"}


def _given_to_run(words: JobWords) -> Dict[str, Any]:
    return {"inputs": [_input(words)], "jobs": words.n_threads, "full_size": True, "folders": "relion"}


def _halves_of(star: str, words: JobWords) -> Tuple[str, str]:
    """Return where the halves of micrographs are: beside those of a job of ours, also where a few were selected."""
    split = split_halves_of(star)
    if split is not None:
        return split
    paths = [Path(path) for path in read_table(star).paths]
    lists = tuple(words.path(name) for name in (outputs.TRAINING_ODD, outputs.TRAINING_EVEN))
    if not all(path.parent.name == outputs.FULL for path in paths):
        return star, star
    for half, written in zip((outputs.ODD, outputs.EVEN), lists):
        write_names(written, {path.stem: str(path.parent.parent / half / path.name) for path in paths})
    return lists[0], lists[1]


# ---------------------------------------------------------------------- the command
def _performed(job: Job, config: Options, words: JobWords, is_to_stop: Callable[[], bool]) -> Ending:
    """Run the command; return how it ended."""
    if is_to_stop():
        return Ending(STOPPED)
    options = words.path(outputs.RELION_OPTIONS)
    write_json(options, config.to_dict())
    with tempfile.TemporaryDirectory() as place:
        outcome = os.path.join(place, outputs.OUTCOME)
        line = [sys.executable, "-m", "cryoden", job.command, option_name("config"), options]
        command = subprocess.Popen(
            [*line, option_name("outcome"), outcome],
            stderr=subprocess.PIPE,
            env=_environment(words),
            text=True,
            errors="replace",
        )
        with command as process:
            relay = threading.Thread(target=_relay, args=(process.stderr or (),))
            relay.start()
            try:
                is_stopped = _wait(process, is_to_stop)
            finally:
                process.kill()  # of one that has ended nothing is left to kill
                relay.join()
        ending = read_ending(outcome)
    if ending is not None:
        return ending
    if is_stopped:
        return Ending(STOPPED)
    message = f"The command was ended by signal {-process.returncode}; did the memory suffice?"
    if process.returncode >= 0:
        message = f"The command ended with status {process.returncode} and did not say why."
    _say(message)
    return Ending(FAILED, (Problem(CryodenError.kind, message, words.folder),))


def _wait(process: subprocess.Popen[str], is_to_stop: Callable[[], bool]) -> bool:
    """Wait for a process, and stop it when it is to stop; return whether it was."""
    while True:
        try:
            process.wait(POLL_SECONDS)
            return False
        except subprocess.TimeoutExpired:
            if not is_to_stop():
                continue
        process.terminate()
        try:
            process.wait(STOPPING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        return True


def _environment(words: JobWords) -> Dict[str, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if words.n_threads > 1:
        environment["OMP_NUM_THREADS"] = str(words.n_threads)
    return environment


def _relay(errors: Iterable[str]) -> None:
    """Write what a command says to where RELION shows it: progress in one window, problems in the other."""
    for line in errors:
        print(line, end="", file=sys.stderr if line.startswith("cryoden: ") else sys.stdout, flush=True)


# ---------------------------------------------------------------------- what it leaves
def _is_mostly_failed(job: Job, words: JobWords, ending: Ending) -> bool:
    """Return whether more was left out than done: no other job should go on from there unasked."""
    if ending.status != SOME_FAILED or not job.has_micrographs:
        return False
    try:
        return len(ending.items) > len(read_table(_micrographs(words)).paths)
    except FileError:
        return True


def _micrographs(words: JobWords) -> str:
    """Return the STAR file of the micrographs that the job made: a run may have a folder for them."""
    in_folder = words.path(os.path.join(outputs.DENOISED_FOLDER, outputs.MICROGRAPHS_STAR))
    return in_folder if os.path.isfile(in_folder) else words.path(outputs.MICROGRAPHS_STAR)


def _write_pictures(job: Job, words: JobWords, status: str, lines: Sequence[str]) -> None:
    """Write the log; the results are there with or without it."""
    asked = " ".join(f"{name} {' '.join(said)};" for name, said in words.labels.items())
    told = [f"cryoden {__version__}: {job.command}, {status.replace('_', ' ')}", f"Options: {asked or 'none.'}", ""]
    pages: List[Page] = []
    path = Path(words.path(outputs.RELION_LOG))
    try:
        if status != FAILED:
            pages = pages_of(job.command, Path(words.folder), words.micrographs)
        write_log(path, [*told, *(lines or ["Nothing was left out."])], pages)
    except Exception as error:
        _say(f"warning: {path} could not be drawn: {one_line(str(error))}")


def _offer(job: Job, words: JobWords, folder: JobFolder) -> None:
    nodes: Dict[str, str] = {}
    if job.has_micrographs:
        nodes[_micrographs(words)] = MICROGRAPHS
    log = words.path(outputs.RELION_LOG)
    if os.path.isfile(log):
        nodes[log] = LOG
    folder.offer(nodes)


def _say(line: str) -> None:
    print(f"cryoden: {one_line(line)}", file=sys.stderr, flush=True)


HALVES = Job("halves", HalvesConfig, _given_to_halves)
TRAIN = Job("train", TrainConfig, _given_to_train, has_micrographs=False)
DENOISE = Job("denoise", DenoiseConfig, _given_to_denoise)
RUN = Job("run", RunConfig, _given_to_run)
