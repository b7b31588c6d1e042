"""Protocols that work while their input grows: one command for all that is there, results registered as they come."""

import glob
import os
import time
from concurrent.futures import ThreadPoolExecutor, wait

from pwem.objects import SetOfMicrographs
from pyworkflow.object import Set

from cryoden.errors import FullDiskError, NothingDoneError
from cryoden.formats.outcome import read_ending
from cryoden_scipion.protocols.protocol_base import CommandError

REGISTER_SECONDS = 3
"""How often finished results are looked for while the denoiser's command runs."""

WAIT_SECONDS = 3
"""How often an open set without new items is looked at."""


class StreamingRun:
    """Part of a protocol that runs one command again and again on all inputs of the moment, until no more will come.

    The command skips what it finished before, so that starting it is all that a round costs. What a protocol adds:
    `_loadInput`, `_writeInput`, `_register`.
    """

    def _stepsCheck(self):
        """Add no steps: that this method is here tells Scipion that open sets may be given (`worksInStreaming`)."""

    # --------------------------- what a protocol adds -------------------------
    def _loadInput(self):
        """Return the items (clones) that can be worked on now, and whether no more will come."""
        raise NotImplementedError

    def _writeInput(self, items):
        """Write what the command reads."""
        raise NotImplementedError

    def _register(self, items):
        """Append every item whose results are there to the outputs; called while the command runs, and after it."""
        raise NotImplementedError

    # --------------------------- STEPS functions ------------------------------
    def _runInRounds(self, command, makeConfig, leastNew=1, isShared=False):
        """Run a command on the items that are there, then on those that came meanwhile, until there will be no more.

        Parameters
        ----------
        command : str
            Of the denoiser's command line.
        makeConfig : callable
            Returns its options; called after `_writeInput`.
        leastNew : int
            New items that are waited for before a round starts, while more may come.
        isShared : bool
            Whether several GPUs share the work.

        Raises
        ------
        Exception
            If the command could do nothing, unless more may come; if the disk is full.
        """
        launched = None
        self._removeUnfinishedFiles()
        self._openOutputsAgain()
        while True:
            items, isComplete = self._loadInput()
            names = [item.getFileName() for item in items]
            nNew = len(set(names).difference(launched or ()))
            if items and names != launched and (isComplete or nNew >= leastNew):
                launched = names
                self._writeInput(items)
                self._runRound(items, isComplete, lambda: self._runCryoden(command, makeConfig(), isShared))
            elif isComplete:
                return
            else:
                self.info(f"Waiting for more input: {len(items)} so far.")
                time.sleep(WAIT_SECONDS)

    def _runRound(self, items, isComplete, run):
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(run)
            while not job.done():
                wait([job], timeout=REGISTER_SECONDS)
                self._register(items)
        self._register(items)  # what was finished between the last look and the end
        try:
            job.result()
        except CommandError as error:
            ending = error.ending
            isOnlyBadInput = ending is not None and ending.has(NothingDoneError.kind)
            if isComplete or not isOnlyBadInput or ending.has(FullDiskError.kind):
                raise
            self.warning(str(error))  # every input so far is bad; others may follow
            return
        nWithoutRoom = len(self._withoutRoom())
        if nWithoutRoom:
            raise Exception(
                f"The disk is full: {nWithoutRoom} of {len(items)} are still to be done, what is finished is "
                "kept. Free some space and Continue."
            )

    def _closeOutputs(self):
        """Say that nothing more will come.

        Raises
        ------
        Exception
            With the denoiser's own line, if there is no output at all.
        """
        if not any(True for _ in self.iterOutputAttributes()):
            ending = read_ending(self._outcomeFile())
            problems = ending.problems if ending else ()
            raise Exception(self._said(problems) or "The input is empty; there was nothing to do.")
        self._closeOutputSet()

    # --------------------------- output sets ----------------------------------
    def _appendToOutput(self, name, suffix, items, newItem, prepare):
        """Append items to an output set that it does not hold yet; make and define the set where there is none.

        Parameters
        ----------
        name, suffix : str
            Of the output, and of its file.
        items : list
            Input items whose results are there.
        newItem : callable
            Returns the output item of an input item.
        prepare : callable
            Called with the new, empty set and the first input item, to say what it is.

        Returns
        -------
        int
            How many were new.
        """
        if not items:
            return 0
        if self.hasAttribute(name):
            micrographs, known = self._openOutput(name)
        else:
            micrographs, known = self._createSetOfMicrographs(suffix=suffix), set()
            prepare(micrographs, items[0])
        new = [item for item in items if item.getObjId() not in known]
        for item in new:
            micrographs.append(newItem(item))
        if new:
            self._updateOutputSet(name, micrographs, Set.STREAM_OPEN)
        micrographs.close()
        return len(new)

    def _openOutput(self, name):
        """Return an output set, ready for more, and the ids that it holds; after a kill, its file is what counts."""
        micrographs = SetOfMicrographs(filename=getattr(self, name).getFileName())
        micrographs.loadAllProperties()
        known = micrographs.getIdSet()
        micrographs.enableAppend()
        return micrographs, known

    def _openOutputsAgain(self):
        """Open the outputs of a run that is continued: Scipion closed them, and who reads them must wait for more."""
        for name, _ in list(self.iterOutputAttributes()):
            self._updateOutputSet(name, self._openOutput(name)[0], Set.STREAM_OPEN)

    def _removeUnfinishedFiles(self):
        """Remove what a killed command left under temporary names."""
        for path in glob.glob(os.path.join(glob.escape(self._getExtraPath()), "**", ".*.part"), recursive=True):
            os.remove(path)
