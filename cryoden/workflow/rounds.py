"""One command again and again, in one process: a round for what is new, and at its end an outcome."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Callable, List, Mapping, Tuple, Union

from cryoden.config import DenoiseConfig, HalvesConfig, WatchingConfig
from cryoden.errors import CryodenError, NothingDoneError, PairError, Problem
from cryoden.formats.images import ENDINGS
from cryoden.formats.outcome import Ending, Round
from cryoden.formats.output_folder import own_folder
from cryoden.system.lifeline import Lifeline
from cryoden.system.ranks import n_ranks
from cryoden.workflow.inputs import is_list, listed_files, no_image
from cryoden.workflow.watch import SECONDS_PER_MINUTE, rounds

log = logging.getLogger(__name__)

COMMANDS = {HalvesConfig: "halves", DenoiseConfig: "denoise"}
"""Options -> the command, as another one is told that wants its folder."""

Failures = Mapping[str, Problem]


def run_in_rounds(
    config: WatchingConfig,
    perform: Callable[[WatchingConfig], Failures],
    report: Callable[[Ending], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Failures:
    """Run a command on what is there, then on that and what came meanwhile, until nothing came for long enough.

    The folder belongs to this process all the while. Inputs that failed are tried again in every round.

    Parameters
    ----------
    config
        The options, with `watch`.
    perform
        Runs the command once; returns which inputs were left out.
    report
        Is called with how each round ended.
    clock, sleep
        Say the time in seconds and wait, where new files are looked for.

    Returns
    -------
    failures
        Of the last round.

    Raises
    ------
    CryodenError
        If a round fails for another reason than its inputs: no such model, results of other options. If none of the
        inputs can be used when no more come, or nothing ever came.
    """
    if n_ranks() > 1:
        raise CryodenError(f"{n_ranks()} processes were started to look for new files, which one does; start one.")
    once = dataclasses.replace(config, watch=None, end_with_stdin=False)
    lifeline = Lifeline() if config.end_with_stdin else None
    last: Union[Failures, CryodenError] = {} if lifeline else no_image(_inputs_of(config))

    patience = SECONDS_PER_MINUTE * (config.watch or 0)
    is_over = lifeline.is_cut if lifeline else lambda: False
    looks = rounds(
        lambda: _watched_files(config), config.poll_seconds, patience, clock, lifeline.sleep if lifeline else sleep,
        is_over,
    )  # fmt: skip
    with own_folder(Path(config.output), COMMANDS[type(config)]):
        number = 0
        for settled in looks:
            files = tuple(path for path in _input_files(config) if path in settled)
            if not files:  # halves alone, of micrographs that are still to come
                continue
            number += 1
            this = Round(number, os.getpid(), settled)
            try:
                with lifeline.working() if lifeline else nullcontext():
                    last = perform(once if _is_list(config) else _with_inputs(once, files))
            except (NothingDoneError, PairError) as error:  # the first files may be bad ones
                last = error.with_traceback(None)  # it would keep what is in the memory of a GPU
                log.warning("%s", error)
                report(dataclasses.replace(Ending.of_error(error), round=this))
            else:
                report(Ending.of(last, this))

    if isinstance(last, CryodenError):
        raise last
    return last


def _inputs_of(config: WatchingConfig) -> Tuple[str, ...]:
    return config.movies if isinstance(config, HalvesConfig) else config.micrographs


def _with_inputs(config: WatchingConfig, files: Tuple[str, ...]) -> WatchingConfig:
    if isinstance(config, HalvesConfig):
        return dataclasses.replace(config, movies=files)
    return dataclasses.replace(config, micrographs=files)


def _is_list(config: WatchingConfig) -> bool:
    """Return whether one file lists the inputs: it is then read anew in every round."""
    first, *others = _inputs_of(config)
    return not others and is_list(first)


def _input_files(config: WatchingConfig) -> List[str]:
    """Return the movies or micrographs that are there, or the file that lists them."""
    if isinstance(config, HalvesConfig):
        return listed_files(config.movies, (config.gain, config.dark))
    return listed_files(config.micrographs, endings=ENDINGS)


def _watched_files(config: WatchingConfig) -> List[str]:
    """Return the files whose change makes a round: the inputs, and the halves that belong to them."""
    others = [config.difference] if isinstance(config, HalvesConfig) else [config.odd, config.even]
    return [*_input_files(config), *listed_files([path for path in others if path])]
