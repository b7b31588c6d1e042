"""The command line: one sub-command for each configuration class, made from it by tyro."""

from __future__ import annotations

import importlib
import logging
import sys
import tempfile
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Type, Union

from cryoden import __doc__ as about
from cryoden import __version__
from cryoden.completion import completion_script
from cryoden.config import (
    ChooseConfig,
    DenoiseConfig,
    EvaluateConfig,
    HalvesConfig,
    Options,
    RunConfig,
    ShowConfig,
    TrainConfig,
)
from cryoden.config.exchange import (
    ImportWeightsConfig,
    PatchesExportConfig,
    PatchesVerifyConfig,
    StepBenchmarkConfig,
    VerifyCompareConfig,
    VerifyExportConfig,
)
from cryoden.config.fetch import FetchConfig
from cryoden.config.relion import RelionCoordinatesConfig
from cryoden.config.shared import n_processes
from cryoden.config.simulate import SimulateMoviesConfig, SimulatePairsConfig
from cryoden.errors import UNEXPECTED, CryodenError, DeviceError, OptionError, Problem, Remedy, one_line, option_problem
from cryoden.formats import outcome, outputs
from cryoden.formats.file_errors import writing_errors
from cryoden.formats.files import read_json, write_json
from cryoden.formats.outcome import Ending, write_ending
from cryoden.system.memory import lacks_host_memory
from cryoden.system.packages import needing_torch
from cryoden.system.ranks import n_ranks, rank
from cryoden.system.signals import STOPPED_LINE, Stopped
from cryoden.system.spawning import run_in_processes
from cryoden.wording import counted_of

ALL_DONE, SOME_FAILED, NOTHING_DONE = 0, 1, 2
"""Exit status: everything was done; some inputs failed and are named; nothing could be done."""

STATUS = {outcome.DONE: ALL_DONE, outcome.SOME_FAILED: SOME_FAILED, outcome.FAILED: NOTHING_DONE}

STOPPED_WITHOUT_RESUME = "Stopped; the same command with --resume goes on from here."

Failures = Optional[Mapping[str, Problem]]
"""Input -> why it was left out; None in a process of several whose part another one reports."""

ABOUT = f"""{about}

Ask for more:
  cryoden COMMAND --help                all options of a command
  cryoden --version                     which version this is
  cryoden --print-completion SHELL      how bash or zsh completes all of it (docs/command-line.md)

Exit status: 0 all done, 1 some inputs failed, 2 nothing could be done,
130 or 143 stopped by a signal.
"""
"""What `cryoden --help` says first."""


def run_halves(config: HalvesConfig) -> Failures:
    """Split movies and say what came out; returns the failures."""
    from cryoden.movies.split import split_movies

    done = split_movies(config)
    if not done.is_reported:
        return None
    output = Path(config.output)
    kind = "image" if config.are_images else "movie"
    print(f"{counted_of(done.n_done, done.n_inputs, kind)} split: {output / outputs.MICROGRAPHS_STAR}")
    for line in done.warnings:
        print(f"cryoden: warning: {line}", file=sys.stderr)
    try:
        _draw_fixed_pattern(output)
    except (CryodenError, OSError) as error:  # the halves are there, with or without the picture
        print(f"cryoden: warning: The fixed pattern could not be drawn: {error}", file=sys.stderr)
    if config.align:
        _report_motion(output)
    return done.failures


def _report_motion(output: Path) -> None:
    """Say how well movies were aligned, and write the report about it."""
    from cryoden.report.alignment_table import headline, read_alignments
    from cryoden.report.motion_report import write_motion_report

    try:
        report = write_motion_report(output)
        if report is not None:
            print(f"{headline(read_alignments(output))} {report}")
    except (CryodenError, OSError) as error:  # the halves are there, with or without it
        print(f"cryoden: warning: The report about the motion could not be written: {error}", file=sys.stderr)


def _draw_fixed_pattern(output: Path) -> None:
    """Draw what the halves should not have in common, if there is anything."""
    from cryoden.movies.fixed_pattern import FixedPattern

    picture = output / outputs.PATTERN_PICTURE
    if picture.exists():
        picture.unlink()  # of an earlier command, with fewer movies
    if FixedPattern.load(output / outputs.PATTERN).found().is_fixed_pattern:
        from cryoden.report.figures import draw_fixed_pattern

        draw_fixed_pattern(output / outputs.PATTERN, picture)
        print(f"The pattern: {picture}")


def run_train(config: TrainConfig) -> Failures:
    """Train, draw the curves and say how good the model is; returns the failures."""
    from cryoden.model.training import train
    from cryoden.report.training_figures import draw_training

    training = train(config)
    if not training.is_reported:
        return None
    output = Path(config.output)
    draw_training(output, output / outputs.CURVES)
    where = f"in epoch {training.best_epoch}" if training.best_epoch else "of the model it started from"
    print(f"Best held-out R2 {training.r2:.4f} {where}: {training.model}")
    for warning in training.warnings:
        _say(f"warning: {warning}")
    return training.failures


def run_denoise(config: DenoiseConfig) -> Failures:
    """Denoise and say what came out; returns the failures."""
    from cryoden.model.denoising import denoise_micrographs

    outcome = denoise_micrographs(config)
    if not outcome.is_reported:
        return None
    star = Path(config.output) / outputs.MICROGRAPHS_STAR
    print(f"{counted_of(outcome.n_done, outcome.n_inputs, 'micrograph')} denoised: {star}")
    return outcome.failures


def run_evaluate(config: EvaluateConfig) -> Failures:
    """Evaluate, write the report and say the headline; returns the failures."""
    from cryoden.evaluation.evaluate import evaluate
    from cryoden.report.html_report import write_report
    from cryoden.report.tables import summary_lines

    table, outcome = evaluate(config)
    report = write_report(config.output)
    print("\n".join(summary_lines(table)))
    for warning in table.warnings:
        print(f"cryoden: warning: {warning}", file=sys.stderr)
    print(f"{counted_of(outcome.n_done, outcome.n_inputs, 'micrograph')} evaluated: {report}")
    return outcome.failures


def run_choose(config: ChooseConfig) -> Failures:
    """Elect a denoiser, write the report and say who it is; returns the failures."""
    from cryoden.evaluation.election import choose
    from cryoden.report.html_report import write_report

    election = choose(config)
    output = Path(config.output)
    report = write_report(output / outputs.EVALUATION_FOLDER)
    print("\n".join([*election.lines(), election.basis()]))
    for warning in election.warnings:
        _say(f"warning: {warning}")
    print("\n".join([election.headline(), *election.reasons()]))
    print(f"Side by side: {report}")
    print(f"The elected denoiser: {output / outputs.MODEL}")
    return election.failures


def run_show(config: ShowConfig) -> Failures:
    """Draw contact sheets and say where they are; returns the failures."""
    from cryoden.report.contact_sheet import write_contact_sheets

    sheets, outcome = write_contact_sheets(config)
    print(f"{counted_of(outcome.n_done, outcome.n_inputs, 'micrograph')} shown: {', '.join(map(str, sheets))}")
    for warning in outcome.warnings:
        _say(f"warning: {warning}")
    return outcome.failures


def run_all(config: RunConfig) -> Failures:
    """Do every step that is missing, as its own command does it; returns the failures."""
    from cryoden.workflow.run import run

    return run(config, lambda step: perform(step) or {})  # one process does and reports every step


def perform(config: Options) -> Failures:
    """Run the command that has these options."""
    return next(run for kind, run in COMMANDS.values() if isinstance(config, kind))(config)


def _later(room: str, name: str) -> Callable[[Any], Failures]:
    """Return a command of `cryoden.ROOM.commands` that imports its room when it runs, so that help stays fast."""

    def run(config: Any) -> Failures:
        return getattr(importlib.import_module(f"cryoden.{room}.commands"), name)(config)

    return run


GROUPS = {
    "patches": "Exchange training data with other trainers.",
    "verify": "Prove that another implementation computes the same; take over its weights.",
    "relion": "Go between sets of micrographs in RELION.",
    "simulate": "Make data whose truth is known.",
}
"""First words of commands that have two, and what the help says of them."""

COMMANDS: Dict[str, Tuple[Type[Options], Callable[[Any], Failures]]] = {
    "run": (RunConfig, run_all),
    "halves": (HalvesConfig, run_halves),
    "train": (TrainConfig, run_train),
    "denoise": (DenoiseConfig, run_denoise),
    "evaluate": (EvaluateConfig, run_evaluate),
    "choose": (ChooseConfig, run_choose),
    "show": (ShowConfig, run_show),
    "patches export": (PatchesExportConfig, _later("exchange", "run_patches_export")),
    "patches verify": (PatchesVerifyConfig, _later("exchange", "run_patches_verify")),
    "verify export": (VerifyExportConfig, _later("exchange", "run_verify_export")),
    "verify compare": (VerifyCompareConfig, _later("exchange", "run_verify_compare")),
    "verify import-weights": (ImportWeightsConfig, _later("exchange", "run_import_weights")),
    "verify benchmark": (StepBenchmarkConfig, _later("exchange", "run_step_benchmark")),
    "relion coordinates": (RelionCoordinatesConfig, _later("exchange", "run_relion_coordinates")),
    "simulate pairs": (SimulatePairsConfig, _later("simulate", "run_simulate_pairs")),
    "simulate movies": (SimulateMoviesConfig, _later("simulate", "run_simulate_movies")),
    "fetch": (FetchConfig, _later("fetch", "run_fetch")),
}
"""What is typed after `cryoden`: its options and what it runs."""


def _kinds() -> Dict[str, Type[Options]]:
    return {command: kind for command, (kind, _) in COMMANDS.items()}


def parse(argv: List[str]) -> Options:
    """Return the options that a command line asks for.

    Raises
    ------
    CryodenError
        If an option breaks its rule or a file of options cannot be read.
    SystemExit
        For unknown words (2) and for help (0).
    """
    from cryoden.parser import parse as parsed  # what needs no parser starts without tyro

    argv, file = _take_option(argv, "config")
    kinds = _kinds()
    kind = kinds.get(" ".join(argv[: 2 if argv and argv[0] in GROUPS else 1]))
    start = kind.from_dict(read_json(file)) if file and kind else None
    return parsed(argv, kinds, GROUPS, ABOUT, start)


class Command:
    """A command on its way: what of its words is known already, however it ends.

    Parameters
    ----------
    words
        After `cryoden`.

    Attributes
    ----------
    outcome_file
        Where to say how it ended.
    folder
        That it fills.
    needs_resume
        Whether it goes on with an option only.
    """

    def __init__(self, words: List[str]) -> None:
        self._words = words
        self.outcome_file: Optional[str] = None
        self.folder: Optional[str] = None
        self.needs_resume = False
        self._status_of_children: Optional[int] = None
        self._has_children = False
        self._last_round: Optional[Ending] = None

    def run(self) -> Failures:
        """Run the command; return which inputs were left out."""
        logging.basicConfig(format="%(message)s", stream=sys.stderr)
        logging.getLogger("cryoden").setLevel(logging.INFO)  # of libraries only what they warn of
        if self._words == ["--version"]:
            print(__version__)
            return {}
        if self._words[:1] == ["--print-completion"]:
            print(completion_script(" ".join(self._words[1:]), _kinds(), GROUPS), end="")
            return {}
        words, self.outcome_file = _take_option(self._words, "outcome")
        if self.outcome_file and rank() == 0:
            with writing_errors(self.outcome_file), suppress(FileNotFoundError):
                Path(self.outcome_file).unlink()
        words, save_to = _take_option(words, "save_config")
        with needing_torch():
            config = parse(words)
            self.folder = config.filled_folder
            self.needs_resume = isinstance(config, TrainConfig) and not config.resume
            if save_to:
                write_json(save_to, config.to_dict())
                return {}
            if isinstance(config, (HalvesConfig, DenoiseConfig)) and config.watch is not None:
                return self._watch(config)
            shared = (HalvesConfig, TrainConfig, DenoiseConfig)
            if isinstance(config, shared) and n_ranks() == 1 < n_processes(config.gpus):
                return self._spawn(config, n_processes(config.gpus))
            return perform(config)

    def _spawn(self, config: Options, n: int) -> Failures:
        """Run the command by several processes of its own, which say everything."""
        is_training = isinstance(config, TrainConfig)
        self._has_children = True
        remedy = Remedy("resume" if is_training else "continue")
        self._status_of_children = run_in_processes(self._words, n, is_training, remedy)
        return None

    def _watch(self, config: Union[HalvesConfig, DenoiseConfig]) -> Failures:
        """Run the command for what is new, again and again, and say of each round how it ended."""
        from cryoden.workflow.rounds import run_in_rounds

        def report(ending: Ending) -> None:
            self._last_round = ending
            _say_failures(ending)
            if self.outcome_file:
                write_ending(self.outcome_file, ending)

        return run_in_rounds(config, lambda once: perform(once) or {}, report)

    def end(self, failures: Failures, error: Union[Stopped, Exception, None] = None) -> int:
        """Say how it ended, on stderr and in the file that is asked for; return the exit status.

        Parameters
        ----------
        failures
            What `run` returned.
        error
            What it raised.
        """
        status: Optional[int] = None
        if error is None and failures is None:
            return self._status_of_children or ALL_DONE
        if isinstance(error, Stopped) and self._has_children:
            return error.status
        if error is None:
            ending = Ending.of(failures or {})
        elif isinstance(error, Stopped):
            ending, status = Ending(outcome.STOPPED), error.status
            if rank() == 0:  # every process of a job is sent the signal
                _say(STOPPED_WITHOUT_RESUME if self.needs_resume else STOPPED_LINE)
        elif isinstance(error, CryodenError):
            ending = Ending.of_error(error)
            _say(str(error))
        else:  # a fault of this program's: one line, and where the rest is
            problem = _unexpected(error, self.folder)
            ending = Ending(outcome.FAILED, (problem,))
            _say(problem.text())

        if self._last_round is not None and ending == replace(self._last_round, round=None):
            return STATUS[ending.status]  # the round has said and written it
        _say_failures(ending)
        if self.outcome_file:
            try:
                write_ending(self.outcome_file, ending, is_first_wins=self._last_round is None)
            except CryodenError as unwritten:  # how the command ended is what its status says
                _say(f"warning: {unwritten}")
        return STATUS[ending.status] if status is None else status


def _say_failures(ending: Ending) -> None:
    """Say which inputs were left out, of a command or a round that did the others."""
    for line in _failure_lines(ending.items) if ending.status == outcome.SOME_FAILED else ():
        _say(line)


def _failure_lines(failures: Mapping[str, Problem]) -> List[str]:
    """Return a line for every reason: a full disk, or a process that was killed, is one for many inputs."""
    names: Dict[str, List[str]] = {}
    for name, problem in failures.items():
        names.setdefault(problem.text(), []).append(name)
    return [
        f"failed: {same[0]}{f' and {len(same) - 1} more' if len(same) > 1 else ''}: {text}"
        for text, same in names.items()
    ]


def _say(line: str) -> None:
    print(f"cryoden: {one_line(line)}", file=sys.stderr)


def _unexpected(error: Exception, folder: Optional[str]) -> Problem:
    """Return what is said of an error that nobody foresaw; the traceback goes into a file."""
    place = Path(folder) if folder and Path(folder).is_dir() else Path(tempfile.gettempdir())
    path = place / outputs.TRACEBACK
    where = f"see {path}"
    try:
        path.write_text("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    except OSError:
        where = f"its traceback could not be written to {path}"
    if lacks_host_memory(error):
        message = f"The memory that is free does not suffice; free some, or compute where there is more; {where}."
        return Problem(DeviceError.kind, message, str(path))
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return Problem(UNEXPECTED, f"This should not have happened ({said}); {where}.", str(path))


def _take_option(argv: List[str], field: str) -> Tuple[List[str], Optional[str]]:
    """Remove an option that every command has from the words, and return what is left and its value.

    Raises
    ------
    OptionError
        If nothing comes after it.
    """
    option = "--" + field.replace("_", "-")
    argv = [part for word in argv for part in (word.split("=", 1) if word.startswith(option + "=") else [word])]
    if option not in argv:
        return argv, None
    place = argv.index(option)
    if place + 1 == len(argv):
        raise OptionError([option_problem(field, "needs the name of a JSON file after it.")])
    return argv[:place] + argv[place + 2 :], argv[place + 1]
