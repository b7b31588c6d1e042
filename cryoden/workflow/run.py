"""The order of the steps: halves, training, denoising, evaluation. Each is the command that one could give alone."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import Callable, Dict, Iterable, Mapping, Optional, Sequence, Tuple

from cryoden import __version__
from cryoden.config import ChooseConfig, DenoiseConfig, EvaluateConfig, HalvesConfig, Options, RunConfig, TrainConfig
from cryoden.config.run import in_words_of_run
from cryoden.config.shared import AUTO, GENERAL, NOTHING
from cryoden.data.half_sources import list_halves
from cryoden.errors import CryodenError, ModelError, NothingDoneError, PairError, Problem, Remedy
from cryoden.formats import outputs
from cryoden.formats.cryosparc import is_exposures
from cryoden.formats.files import write_json
from cryoden.formats.general_model import has_general_model
from cryoden.formats.outcome import read_failures
from cryoden.formats.output_folder import fills_folder, require_own_folder
from cryoden.formats.star import METADATA, read_table, write_names
from cryoden.formats.training_folder import is_finished_training
from cryoden.workflow.inputs import HALVES, MICROGRAPHS, MOVIES, Found, find_inputs, is_list, listed_files
from cryoden.workflow.watch import SECONDS_PER_MINUTE, rounds

log = logging.getLogger(__name__)

Failures = Mapping[str, Problem]

Perform = Callable[[Options], Failures]
"""Runs one command; returns what it left out."""


def run(
    config: RunConfig,
    perform: Perform,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Failures:
    """Do what is missing, and return what was left out on the way.

    Parameters
    ----------
    config
        The options.
    perform
        Runs the command of a step.
    clock, sleep
        Say the time in seconds and wait, where new files are looked for.

    Raises
    ------
    CryodenError
        If a step can do nothing, or from micrographs without halves a denoiser is to be trained.
    """

    @fills_folder("run", lambda failures: failures)
    def fill(config: RunConfig) -> Failures:
        require_own_folder(config.output, outputs.RUN_RECORD, (outputs.TRAINING_ODD, outputs.TRAINING_EVEN))
        steps = Steps(config, perform)
        found = steps.watch(clock, sleep) if config.watch is not None else None
        return steps.finish(found or steps.find())

    return fill(config)


class Steps:
    """The commands of one run, and what they left out.

    Parameters
    ----------
    config, perform
        As for `run`.
    """

    def __init__(self, config: RunConfig, perform: Perform) -> None:
        self._config, self._perform = config, perform
        self._output = Path(config.output)
        self._failures: Dict[str, Failures] = {}
        self._has_trained = False
        self._given_model = config.model

    @property
    def references(self) -> Tuple[Optional[str], ...]:
        """Files that may lie among the movies and are none."""
        return self._config.gain, self._config.dark

    # ------------------------------------------------------------------ the order
    def find(self) -> Found:
        """Return what is given, and note that the folder is that of this run. Raises as `run`."""
        found = find_inputs(self._config.inputs, self.references)
        self._begin(found)
        return found

    def finish(self, found: Found) -> Failures:
        """Do every step that is missing; return what was left out. Raises as `run`."""
        halves = self.halves(found)
        if self._given_model is None:
            self.train(halves)
        self.denoise(halves)
        if halves.odd:
            self.evaluate(halves)
        elif self._given_model != GENERAL:  # of that, the denoising says it
            log.info("Without halves it cannot be measured how good the result is.")
        return {name: problem for failures in self._failures.values() for name, problem in failures.items()}

    def watch(self, clock: Callable[[], float], sleep: Callable[[float], None]) -> Optional[Found]:
        """Do with what is there what can be done, again and again, until no more comes; return all that came."""
        found: Optional[Found] = None
        patience = SECONDS_PER_MINUTE * (self._config.watch or 0)
        for files in rounds(self._watched_files, self._config.poll_seconds, patience, clock, sleep):
            found = self._found(files)
            self._begin(found)
            try:
                halves = self.halves(found)
                if self._is_time_to_train(halves):
                    self.train(halves)
                if self._given_model is not None or self._has_trained:
                    self.denoise(halves)
            except (NothingDoneError, PairError) as error:  # the first files may be bad ones
                log.warning("%s", error)
        log.info("No new file for %g minutes.", self._config.watch)
        return found

    # ------------------------------------------------------------------ the steps
    def halves(self, found: Found) -> Found:
        """Split movies; return where the halves are, or what is given where nothing is to be split."""
        if found.kind != MOVIES:
            return found
        folder = self._output / outputs.HALVES_FOLDER
        is_aligned = not (self._config.unaligned or self._config.shifts or found.has_motion)
        self._do(self._config.step(HalvesConfig, movies=found.sources, output=str(folder), align=is_aligned))
        exposures = str(folder / outputs.EXPOSURES_CS)
        if is_exposures(found.sources[0]):
            return Found(HALVES, (exposures,), exposures, exposures)
        star = str(folder / outputs.MICROGRAPHS_STAR)
        odd, even = (str(folder / kind / outputs.MICROGRAPHS_STAR) for kind in (outputs.ODD, outputs.EVEN))
        return Found(HALVES, (star,), odd, even)

    def train(self, halves: Found) -> None:
        """Train, or elect, or go on with it, by the halves that were there when that began."""
        folder = self._output / outputs.MODEL_FOLDER
        odd, even = self._training_halves(halves)
        if self._config.choose:
            self._do(self._config.step(ChooseConfig, odd=odd, even=even, output=str(folder), model=(), overwrite=False))
            self._has_trained = True
            return
        config = self._config.step(TrainConfig, odd=odd, even=even, output=str(folder), resume=True)
        if is_finished_training(config):
            self._failures[str(folder)] = read_failures(folder)
            log.info("The training in %s is finished.", folder)
        else:
            self._do(config)
        self._has_trained = True

    def denoise(self, halves: Found) -> None:
        """Denoise the micrographs; of halves without their sums, the mean of both halves."""
        folder = self._denoised_folder(halves)
        is_own = folder != self._output
        odd, even = (None, None) if halves.has_sums else (halves.odd, halves.even)
        config = self._config.step(
            DenoiseConfig,
            micrographs=halves.sources,
            model=self.model,
            output=str(folder),
            odd=odd,
            even=even,
            folders="kept" if is_own and self._config.folders == "relion" else self._config.folders,
        )
        self._do(config)

    def evaluate(self, halves: Found) -> None:
        """Measure the model, beside the baselines, and write the report."""
        folder = self._output / outputs.EVALUATION_FOLDER
        config = self._config.step(
            EvaluateConfig, odd=halves.odd, even=halves.even, model=(self.model,), output=str(folder)
        )
        self._do(config)

    def _do(self, step: Options) -> None:
        """Run a step; say what is wrong in the words of the whole."""
        command = type(step)
        try:
            failures = self._perform(step)
        except CryodenError as error:
            error.problems = [in_words_of_run(command, problem) for problem in error.problems]
            error.problem = error.problems[0]
            raise
        self._failures[step.filled_folder or ""] = {
            name: in_words_of_run(command, problem) for name, problem in failures.items()
        }

    # ------------------------------------------------------------------ what is there
    @property
    def model(self) -> str:
        """The model file to denoise with."""
        return self._given_model or str(self._output / outputs.MODEL_FOLDER / outputs.MODEL)

    def _begin(self, found: Found) -> None:
        """Write the options; take the general model for micrographs that nothing can be learned from.

        Raises
        ------
        ModelError, PairError
            If a training or an election is asked for all the same, or there is no such model.
        """
        if found.kind == MICROGRAPHS and self._config.choose:
            raise PairError(
                f"{found.sources[0]} is a micrograph without halves: by such, no denoiser can be chosen. Give the "
                "movies, or the halves.",
                subject=found.sources[0],
                remedy=Remedy("leave_out", "choose"),
            )
        can_take_general = self._config.from_model in (AUTO, NOTHING, GENERAL) and has_general_model()
        if found.kind == MICROGRAPHS and self._given_model is None and can_take_general:
            self._given_model = GENERAL
        if found.kind == MICROGRAPHS and self._given_model is None:
            raise ModelError(
                f"{found.sources[0]} is a micrograph without halves: from such, no denoiser can be trained. Give the "
                "movies, or the halves, or a trained model.",
                subject=found.sources[0],
                remedy=Remedy("set", "model"),
            )
        write_json(self._output / outputs.RUN_RECORD, {"version": __version__, "options": self._config.to_dict()})

    def _denoised_folder(self, halves: Found) -> Path:
        """Return where denoised micrographs go.

        Where RELION is to find their picks by name, no folder of ours may stand before the names: unless they would
        then be those of the micrographs that are denoised, which are in this folder too.
        """
        own = self._output / outputs.DENOISED_FOLDER
        if self._config.folders != "relion":
            return own
        is_own_split = halves.sources == (str(self._output / outputs.HALVES_FOLDER / outputs.MICROGRAPHS_STAR),)
        return own if is_own_split and METADATA not in read_table(halves.sources[0]).images else self._output

    def _is_time_to_train(self, halves: Found) -> bool:
        """Return whether training can begin while files still come; one that has begun before goes on."""
        if self._given_model is not None or self._has_trained:
            return False
        return self._training_has_begun or len(_common_halves(halves)) >= self._config.train_after

    @property
    def _training_has_begun(self) -> bool:
        folder = self._output / outputs.MODEL_FOLDER
        return any((folder / name).exists() for name in (outputs.CHECKPOINT, outputs.CHOOSE_RECORD, outputs.MODEL))

    def _training_halves(self, halves: Found) -> Tuple[str, str]:
        """Return the lists of the halves from which the model is trained, made when training begins."""
        lists = self._output / outputs.TRAINING_ODD, self._output / outputs.TRAINING_EVEN
        if not (self._training_has_begun and all(path.exists() for path in lists)):
            pairs = _common_halves(halves)
            if not pairs:
                raise PairError(f"{halves.odd} and {halves.even} have no micrograph in common.", subject=halves.odd)
            for path, number in zip(lists, (0, 1)):
                write_names(path, {name: files[number] for name, files in pairs.items()})
        return str(lists[0]), str(lists[1])

    def _found(self, files: Iterable[str]) -> Found:
        """Return what the inputs are, of files that are whole."""
        found = find_inputs(self._config.inputs, self.references)
        if found.kind == HALVES or is_list(found.sources[0]):
            return found
        return dataclasses.replace(found, sources=tuple(files))

    def _watched_files(self) -> Sequence[str]:
        """Return the files that are there, whole or not."""
        found = find_inputs(self._config.inputs, self.references, is_watched=True)
        return listed_files([*found.sources, found.odd, found.even] if found.kind == HALVES else found.sources)


def _common_halves(halves: Found) -> Dict[str, Tuple[str, str]]:
    """Return micrograph name -> files of its odd and even half, of those that have both."""
    odd, even = list_halves(halves.odd, outputs.ODD), list_halves(halves.even, outputs.EVEN)
    return {name: (odd[name], even[name]) for name in sorted(set(odd) & set(even))}
