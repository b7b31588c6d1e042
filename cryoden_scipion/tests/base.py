"""What tests of protocols share: inputs that are made without a run, and protocols that work while theirs grows."""

import os
import signal
import time

import psutil
from pwem.objects import SetOfMicrographs
from pyworkflow.object import Set
from pyworkflow.protocol import MODE_RESUME, STATUS_FINISHED, getProtocolFromDb
from pyworkflow.tests import BaseTest, setupTestProject

from cryoden.formats.outcome import read_ending
from cryoden_scipion.convert import readSetFile


class ProjectTest(BaseTest):
    """Base: a project, in which inputs of the tested protocols are made in this process: every run takes seconds."""

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)

    @classmethod
    def finishHere(cls, protocol, makeOutputs):
        """Return a protocol as if it had run.

        Parameters
        ----------
        protocol : pyworkflow.protocol.Protocol
            New.
        makeOutputs : callable
            Defines its outputs; called with the protocol when its folders are there.
        """
        cls.proj.saveProtocol(protocol)
        protocol.makePathsAndClean()
        makeOutputs(protocol)
        protocol.setStatus(STATUS_FINISHED)
        cls.proj._storeProtocol(protocol)
        return protocol


class StreamingTest(ProjectTest):
    """Base: open sets that grow, and protocols that are killed and continued."""

    def waitUntil(self, condition, seconds=180):
        """Wait until a condition holds; fail after so many seconds."""
        for _ in range(int(seconds / 0.2)):
            if condition():
                return
            time.sleep(0.2)
        self.fail(f"Not within {seconds} s: {condition.__doc__ or condition.__name__}")

    @staticmethod
    def openAgain(imageSet):
        """Say that a set may still grow."""
        imageSet.setStreamState(Set.STREAM_OPEN)
        imageSet.write()
        return imageSet

    @staticmethod
    def append(imageSet, items, state):
        """Append items to a set's file and say whether more may come, as a protocol in streaming does."""
        grown = type(imageSet)(filename=imageSet.getFileName())
        grown.loadAllProperties()
        grown.enableAppend()
        for item in items:
            grown.append(item)
        grown.setStreamState(state)
        grown.write()
        grown.close()

    @staticmethod
    def content(path):
        """Return the micrographs (id, file) of a set's file and whether it is open; nothing where there is no file."""
        if not os.path.exists(path):
            return [], True

        def read(micrographs):
            return [(mic.getObjId(), mic.getFileName()) for mic in micrographs], micrographs.isStreamOpen()

        return readSetFile(path, SetOfMicrographs, read, ([], True))

    def stored(self, protocol):
        """Return a protocol as its run's own database has it."""
        stored = getProtocolFromDb(self.proj.path, protocol.getDbPath(), protocol.getObjId())
        stored.getMapper().close()  # an open reader would keep the running protocol from writing
        return stored

    @staticmethod
    def logOf(protocol):
        """Return what a run has printed so far."""
        path = protocol.getStdoutLog()
        if not os.path.exists(path):
            return ""
        with open(path, errors="replace") as log:
            return log.read()

    def processesOf(self, protocol):
        """Return the processes of a run, the denoiser's too."""
        folders = (self.proj.path, os.getcwd())
        processes = [process for process in psutil.process_iter(["cmdline", "cwd"]) if process.info["cwd"] in folders]
        return [process for process in processes if protocol._getPath() in " ".join(process.info["cmdline"] or [])]

    def roundOf(self, protocol):
        """Return the last round that a run's command has finished, when it has: which one, and by which process."""
        rounds = []

        def isDone():
            ending = read_ending(protocol._outcomeFile())
            rounds.extend([ending.round] if ending and ending.round else [])
            return rounds

        self.waitUntil(isDone)
        return rounds[-1]

    def killEverything(self, protocol, but=None):
        """Kill -9 the protocol's processes, except one, and see them gone."""
        processes = [process for process in self.processesOf(protocol) if process.pid != but]
        for process in processes:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(processes, timeout=20)

    def continueRun(self, protocol):
        """Continue a run to its end and return it."""
        protocol = self.proj.getProtocol(protocol.getObjId())
        self.proj._updateProtocol(protocol)  # as the window does all the time
        protocol.runMode.set(MODE_RESUME)
        self.launchProtocol(protocol)
        return protocol
