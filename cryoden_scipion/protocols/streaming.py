"""Protocols that work while their input grows: one command for all that is there, results registered as they finish."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Callable, List, Optional, Set, Tuple, Union

from pwem.objects import Micrograph, SetOfMicrographs, SetOfMovies
from pyworkflow.object import Set as ScipionSet
from pyworkflow.utils.process import buildRunCommand

from cryoden.config import WatchingConfig
from cryoden.errors import FullDiskError, NothingDoneError
from cryoden.formats.outcome import STOPPED, read_ending
from cryoden_scipion import Plugin
from cryoden_scipion.protocols.protocol_base import CommandError, CryodenProtBase
from cryoden_scipion.protocols.warm import LOOK_SECONDS, WarmCommand

REGISTER_SECONDS = 3
"""How often finished results are looked for while the denoiser's command runs."""

WAIT_SECONDS = 3
"""How often an open set without new items is looked at."""

IDLE_MINUTES = 5.0
"""A process that waits for more for so long ends, and gives a GPU back; starting the next one takes seconds."""


class StreamingRun(CryodenProtBase):
    """A protocol that runs one command again and again on all inputs of the moment, until no more will come.

    One process does all rounds (`WarmCommand`). Where the command is sent to a queue, or several GPUs share the work,
    it is started for each round: it skips what it finished before, so that its start is all that a round costs. What a
    protocol adds: `_inputFile`, `_loadInput`, `_writeInput`, `_register`.
    """

    def _stepsCheck(self) -> None:
        """Add no steps: that this method is here tells Scipion that open sets may be given (`worksInStreaming`)."""

    # --------------------------- what a protocol adds -------------------------
    def _inputFile(self) -> str:
        """Return the list of inputs that the command is given."""
        raise NotImplementedError

    def _loadInput(self) -> Tuple[List[Any], bool]:
        """Return the items (clones) that can be worked on now, and whether no more will come."""
        raise NotImplementedError

    def _writeInput(self, items: List[Any]) -> None:
        """Write what the command reads, `_inputFile` last: a command that waits for it begins then."""
        raise NotImplementedError

    def _register(self, items: List[Any]) -> None:
        """Append every item whose results are there to the outputs; called while the command runs, and after it."""
        raise NotImplementedError

    # --------------------------- STEPS functions ------------------------------
    def _runInRounds(
        self, command: str, makeConfig: Callable[[], WatchingConfig], minNew: int = 1, isShared: bool = False
    ) -> None:
        """Run a command on the items that are there, then on those that came meanwhile, until there will be no more.

        Parameters
        ----------
        command
            Of the denoiser's command line.
        makeConfig
            Returns its options; called after `_writeInput`.
        minNew
            New items that are waited for before a round starts, while more may come.
        isShared
            Whether several GPUs share the work.

        Raises
        ------
        CommandError
            If the command could do nothing, unless more may come; if the disk is full.
        """
        launched: Optional[List[str]] = None
        canBeWarm = not self.useQueueForSteps() and not (isShared and self._countProcesses() > 1)
        self._openOutputsAgain()

        with WarmCommand() as warm:

            def run() -> None:
                if canBeWarm and (warm.isRunning or not isComplete):
                    self._runWarm(warm, command, makeConfig())
                else:
                    self._runCryoden(command, makeConfig(), isShared)

            while True:
                items, isComplete = self._loadInput()
                names = [item.getFileName() for item in items]
                nNew = len(set(names).difference(launched or ()))
                if items and names != launched and (isComplete or nNew >= minNew):
                    launched = names
                    self._writeInput(items)
                    self._runRound(items, isComplete, run)
                elif isComplete:
                    return
                else:
                    self.info(f"Waiting for more input: {len(items)} so far.")
                    time.sleep(WAIT_SECONDS)

    def _runWarm(self, warm: WarmCommand, command: str, config: WatchingConfig) -> None:
        """Have the process do a round that did those before; start it where there is none, or it has ended since.

        Parameters
        ----------
        warm
            The process.
        command, config
            As for `_runCryoden`, which raises the same.
        """
        config = dataclasses.replace(config, watch=IDLE_MINUTES, poll_seconds=LOOK_SECONDS, end_with_stdin=True)
        options, outcome = config.to_dict(), self._outcomeFile()
        ending = warm.doRound(self._inputFile(), outcome) if warm.hasOptions(options) else None
        if ending is None or ending.status == STOPPED:  # the first round, or it gave the GPU back, or was killed
            warm.stop()
            launch = self._prepareLaunch(command, config)
            line = buildRunCommand(Plugin.getProgram(), launch.arguments, 1, None, launch.environ)
            self.info(f"** Running command, which waits for more: **\n{line}")
            warm.start(line, launch, options)
            ending = warm.doRound(self._inputFile(), outcome)

        failure = self._commandError(warm.launch, ending, warm.status)
        if failure is not None:
            raise failure

    def _runRound(self, items: List[Any], isComplete: bool, run: Callable[[], None]) -> None:
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(run)
            while not job.done():
                wait([job], timeout=REGISTER_SECONDS)
                self._register(items)
        self._register(items)  # what was finished between the last look and the end

        try:
            job.result()
        except CommandError as error:
            if isComplete or not _isOnlyBadInput(error):
                raise
            self.warning(str(error))  # every input so far is bad; others may follow
            return

        nWithoutRoom = len(self._failedForFullDisk())
        if nWithoutRoom:
            raise CommandError(
                f"The disk is full: {nWithoutRoom} of {len(items)} still to be done; what is finished is "
                "kept. Free some space and Continue."
            )

    def _closeOutputs(self) -> None:
        """Say that nothing more will come.

        Raises
        ------
        CommandError
            With the denoiser's own line, if there is no output at all.
        """
        if not any(True for _ in self.iterOutputAttributes()):
            ending = read_ending(self._outcomeFile())
            problems = ending.problems if ending else ()
            text = self._problemsText(problems) or "The input is empty; there was nothing to do."
            raise CommandError(text, ending)
        self._closeOutputSet()

    # --------------------------- output sets ----------------------------------
    def _appendToOutput(
        self,
        name: str,
        suffix: str,
        items: List[Any],
        newItem: Callable[[Any], Micrograph],
        prepare: Callable[[Any, Any], None],
        areMovies: bool = False,
    ) -> int:
        """Append items to an output set that it does not hold yet; make and define the set where there is none.

        Parameters
        ----------
        name, suffix
            Of the output, and of its file.
        items
            Input items whose results are there.
        newItem
            Returns the output item of an input item.
        prepare
            Called with the new, empty set and the first input item, to say what it is.
        areMovies
            Whether the output's items are movies, not micrographs.

        Returns
        -------
        n_new
            How many were new.
        """
        if not items:
            return 0
        known: Set[int] = set()
        if self.hasAttribute(name):
            images, known = self._openOutput(name)
        else:
            create = self._createSetOfMovies if areMovies else self._createSetOfMicrographs
            images = create(suffix=suffix)
            prepare(images, items[0])

        new = [item for item in items if item.getObjId() not in known]
        for item in new:
            images.append(newItem(item))
        if new:
            self._updateOutputSet(name, images, ScipionSet.STREAM_OPEN)
        images.close()
        return len(new)

    def _openOutput(self, name: str) -> Tuple[Union[SetOfMicrographs, SetOfMovies], Set[int]]:
        """Return an output set, ready for more, and the ids that it holds; after a kill, its file is what counts."""
        output = getattr(self, name)
        images = type(output)(filename=output.getFileName())
        images.loadAllProperties()
        known = images.getIdSet()
        images.enableAppend()
        return images, known

    def _openOutputsAgain(self) -> None:
        """Open the outputs of a run that is continued: Scipion closed them, and who reads them must wait for more."""
        for name, _ in list(self.iterOutputAttributes()):
            self._updateOutputSet(name, self._openOutput(name)[0], ScipionSet.STREAM_OPEN)


def _isOnlyBadInput(error: CommandError) -> bool:
    """Return whether a command ended because none of its inputs can be used, and for no other reason."""
    ending = error.ending
    return ending is not None and ending.has(NothingDoneError.kind) and not ending.has(FullDiskError.kind)
