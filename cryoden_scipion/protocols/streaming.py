"""Protocols that work while their input grows: one command for all that is there, results registered as they finish."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Callable, List, Optional, Set, Tuple, Union

from pwem.objects import Micrograph, SetOfMicrographs, SetOfMovies
from pyworkflow.object import Set as ScipionSet

from cryoden.config import Options
from cryoden.errors import FullDiskError, NothingDoneError
from cryoden.formats.outcome import read_ending
from cryoden_scipion.protocols.protocol_base import CommandError, CryodenProtBase

REGISTER_SECONDS = 3
"""How often finished results are looked for while the denoiser's command runs."""

WAIT_SECONDS = 3
"""How often an open set without new items is looked at."""


class StreamingRun(CryodenProtBase):
    """A protocol that runs one command again and again on all inputs of the moment, until no more will come.

    The command skips what it finished before, so that starting it is all that a round costs. What a protocol adds:
    `_loadInput`, `_writeInput`, `_register`.
    """

    def _stepsCheck(self) -> None:
        """Add no steps: that this method is here tells Scipion that open sets may be given (`worksInStreaming`)."""

    # --------------------------- what a protocol adds -------------------------
    def _loadInput(self) -> Tuple[List[Any], bool]:
        """Return the items (clones) that can be worked on now, and whether no more will come."""
        raise NotImplementedError

    def _writeInput(self, items: List[Any]) -> None:
        """Write what the command reads."""
        raise NotImplementedError

    def _register(self, items: List[Any]) -> None:
        """Append every item whose results are there to the outputs; called while the command runs, and after it."""
        raise NotImplementedError

    # --------------------------- STEPS functions ------------------------------
    def _runInRounds(
        self, command: str, makeConfig: Callable[[], Options], minNew: int = 1, isShared: bool = False
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
        self._openOutputsAgain()

        while True:
            items, isComplete = self._loadInput()
            names = [item.getFileName() for item in items]
            nNew = len(set(names).difference(launched or ()))
            if items and names != launched and (isComplete or nNew >= minNew):
                launched = names
                self._writeInput(items)
                self._runRound(items, isComplete, lambda: self._runCryoden(command, makeConfig(), isShared))
            elif isComplete:
                return
            else:
                self.info(f"Waiting for more input: {len(items)} so far.")
                time.sleep(WAIT_SECONDS)

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
